"""What a push is about to publish, on disk: when it is killed after the refs have moved and before the rows have, the
next one finds out what is no change any more, also where work has gone on since.

One file a dataset, whole or not there. It counts as long as the dataset lies over the commit that the push was made
over. Rows and versions that came later must be told from those in it: numbers go on after the last ones there.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from riafs.errors import OverlayFailed
from riafs.overlay.changes import Carried, Change, ChangeKind, Stood
from riafs.overlay.datafiles import failure
from riafs.storage.temporary import prompt_opener

_PREFIX = "announced-"


@dataclass(frozen=True, slots=True)
class Announced:
    """A push of `carried`, made over the commit `base`, that was going to move a branch to `commit` (hex)."""

    dataset: bytes
    base: bytes
    commit: bytes
    carried: Carried
    last_row: int
    last_version: int


class Announcements:
    """Those in the directory `path`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _file(self, dataset: bytes) -> str:
        return f"{self._path}/{_PREFIX}{dataset.hex()}"

    def write(self, announced: Announced) -> None:
        """Keep one, durably, in the place of an earlier one. Raises OverlayFull, OverlayFailed."""
        path = self._file(announced.dataset)
        try:
            with open(f"{path}.new", "w", encoding="utf-8", opener=prompt_opener) as file:
                json.dump(_encoded(announced), file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(f"{path}.new", path)
            _sync(self._path)
        except OSError as error:
            raise failure(error, path) from error

    def all(self) -> Iterator[Announced]:
        """Raises OverlayFailed."""
        for name in sorted(os.listdir(self._path)):
            if name.startswith(_PREFIX) and not name.endswith(".new"):
                yield self._read(f"{self._path}/{name}")

    def read(self, dataset: bytes) -> Announced | None:
        """That of a dataset. Raises OverlayFailed."""
        path = self._file(dataset)
        return self._read(path) if os.path.exists(path) else None

    def _read(self, path: str) -> Announced:
        try:
            with open(path, encoding="utf-8", opener=prompt_opener) as file:
                return _decoded(json.load(file))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OverlayFailed(
                f"{path} is damaged; without it, what was pushed last may be shown as changed"
            ) from error

    def remove(self, dataset: bytes) -> None:
        """Forget one, if there is one."""
        for suffix in ("", ".new"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._file(dataset) + suffix)


def _sync(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _encoded(announced: Announced) -> dict[str, Any]:
    return {
        "dataset": os.fsdecode(announced.dataset),
        "base": announced.base.decode(),
        "commit": announced.commit.decode(),
        "last_row": announced.last_row,
        "last_version": announced.last_version,
        "changes": [
            [
                os.fsdecode(each.path),
                each.kind.value,
                each.version,
                None if each.source is None else os.fsdecode(each.source),
            ]
            for each in announced.carried.changes
        ],
        "rows": [[row, os.fsdecode(stood.path), stood.is_added] for row, stood in announced.carried.rows.items()],
    }


def _decoded(found: dict[str, Any]) -> Announced:
    changes = [
        Change(
            os.fsencode(path), ChangeKind(kind), None, None, None if source is None else os.fsencode(source), version
        )
        for path, kind, version, source in found["changes"]
    ]
    rows = {row: Stood(os.fsencode(path), is_added) for row, path, is_added in found["rows"]}
    return Announced(
        os.fsencode(found["dataset"]), found["base"].encode(), found["commit"].encode(), Carried(changes, rows),
        found["last_row"], found["last_version"],
    )  # fmt: skip
