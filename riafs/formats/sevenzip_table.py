"""Columns: what a listing of many members is kept in, in memory as it was parsed or on disk as it was saved.

Owns the names and element types of all columns of a listing. An archive of a whole keystore has millions of members, so
nothing is an object per member, and a saved listing is used where it lies, without being read as a whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, overload


class Column(Protocol):
    """Unsigned numbers by position: an array, bytes, or a part of a file."""

    def __len__(self) -> int:
        """How many there are."""

    @overload
    def __getitem__(self, position: int, /) -> int: ...
    @overload
    def __getitem__(self, position: slice, /) -> Sequence[int]: ...
    def __iter__(self) -> Iterator[int]:
        """All of them in order."""


Table = Mapping[str, Column]

ELEMENTS: Mapping[str, str] = {
    "names": "B",
    "name_starts": "I",
    "name_order": "Q",
    "kinds": "B",
    "attributes": "I",
    "first_streams": "I",
    "pack_offsets": "Q",
    "descriptions": "B",
    "description_starts": "I",
    "description_of": "I",
    "first_packs": "I",
    "first_sizes": "I",
    "sizes": "Q",
    "main_sizes": "Q",
    "folder_crcs": "I",
    "folder_has_crc": "B",
    "stream_folders": "I",
    "stream_offsets": "Q",
    "stream_sizes": "Q",
    "stream_crcs": "I",
    "stream_has_crc": "B",
}
"""Name of each column → its element's type as in the module `array`: B one byte, I four, Q eight."""
