"""Datasets named by their ids, where a path could stand as well: ``ID``, or ``STORE#ID``."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from riafs.formats.sources import RiaUrl

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class NamedDataset:
    """A dataset; `store`: as a source, None for whichever store."""

    identifier: str
    store: str | None

    def entrances(self, datasets: Iterable[Mapping[str, Any]]) -> list[str]:
        """Paths from the root to it, among datasets with changes as `daemon.listing` describes them."""
        return [
            each["path"]
            for each in datasets
            if each["dataset"] == self.identifier and self.store in (None, each.get("store"))
        ]


def named_dataset(text: str) -> NamedDataset | None:
    """What `text` names, None where it is a path. Raises BadSource."""
    store, mark, identifier = text.rpartition("#")
    if not _ID.fullmatch(identifier) or os.path.lexists(text):
        return None
    if not mark:
        return NamedDataset(identifier, None)
    from riafs.cli.mount import absolute_source  # with all that a mount needs

    source = absolute_source(store, ())
    return NamedDataset(identifier, str(source)) if isinstance(source, RiaUrl) else None
