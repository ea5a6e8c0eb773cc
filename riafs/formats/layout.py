"""The two ``ria-layout-version`` files: one of the store, one of each dataset.

Each is one line, ``VERSION`` or ``VERSION|FLAGS``, around which white space does not count (DataLad's ORA). A file that
is missing or says something unknown never fails here: it gives a value with `known` false, a reason to log, and the
layout that ORA would read with, for a store shown read-only is better than none.
"""

import enum
from dataclasses import dataclass

from riafs.formats.text import shown


class Layout(enum.Enum):
    """How a dataset's objects are spread over directories; the value is the version that stands in the file."""

    LOWER = "1"
    MIXED = "2"


@dataclass(frozen=True, slots=True)
class StoreVersion:
    """The store's version file: how datasets lie in the store."""

    version: bytes
    flags: bytes
    known: bool
    reason: str
    """Why `known` is false; empty otherwise."""


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """A dataset's version file: how objects lie in the dataset."""

    layout: Layout
    flags: bytes
    known: bool
    reason: str
    """Why `known` is false; empty otherwise."""


_LAYOUTS = {layout.value.encode(): layout for layout in Layout}


def parse_store_version(text: bytes | None) -> StoreVersion:
    """The store's version from the file's bytes; None stands for a missing file. Only version 1 is known."""
    if text is None:
        return StoreVersion(b"1", b"", known=False, reason="the store has no ria-layout-version, read as version 1")
    version, flags = _split(text)
    if version == b"1":
        return StoreVersion(version, flags, known=True, reason="")
    return StoreVersion(version, flags, known=False, reason=f"unknown store version {shown(text)}, read as version 1")


def parse_dataset_version(text: bytes | None) -> DatasetVersion:
    """A dataset's layout from the file's bytes; None stands for a missing file. Anything unknown reads as 2."""
    if text is None:
        reason = "the dataset has no ria-layout-version, read as version 2"
        return DatasetVersion(Layout.MIXED, b"", known=False, reason=reason)
    version, flags = _split(text)
    layout = _LAYOUTS.get(version)
    if layout is not None:
        return DatasetVersion(layout, flags, known=True, reason="")
    reason = f"unknown dataset version {shown(text)}, read as version 2"
    return DatasetVersion(Layout.MIXED, flags, known=False, reason=reason)


def _split(text: bytes) -> tuple[bytes, bytes]:
    """Version and flags; with more than one ``|`` there is no version, as in ORA."""
    parts = text.strip().split(b"|", 2)
    if len(parts) > 2:
        return b"", b""
    return parts[0], parts[1] if len(parts) == 2 else b""
