"""A folder of a manifest with the names under which it is shown: not every name in Keep can be one of a file.

NUL is shown as ``_``, names of more than 255 bytes and those that are taken already are left out. Only such names take
memory here: a folder may have millions of others, which stay where they are.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from riafs import memory
from riafs.formats.manifests.folder import ManifestFolder
from riafs.formats.names import MAX_NAME

_AT_ONCE = 4096
_PER_ODD = 400
"""Bytes of memory for a name that is not shown as it is."""


class ShownName(NamedTuple):
    """A name as it is shown, and the index in the folder of what it stands for."""

    name: bytes
    source: int


class ShownFolder:
    """`folder` as it is shown; positions count what is. `odd`: the indices, in order, of names that are not shown as
    they are; `renamed`: what is shown of these, in order.
    """

    __slots__ = ("_before_odd", "_before_renamed", "_odd", "_places", "_renamed", "folder")

    def __init__(self, folder: ManifestFolder, odd: Sequence[int], renamed: Sequence[ShownName]) -> None:
        self.folder = folder
        self._odd = array("Q", odd)
        self._renamed = renamed
        self._before_odd = array("Q", (index - number for number, index in enumerate(odd)))
        """How many others are before each of `odd`,"""
        self._before_renamed = array("Q", (self._others_before(bisect_left(folder.names, name)) for name, _ in renamed))
        """and before each of `renamed`,"""
        self._places = array("Q", (before + number for number, before in enumerate(self._before_renamed)))
        """and the positions of these."""

    def __len__(self) -> int:
        return len(self.folder) - len(self._odd) + len(self._renamed)

    @property
    def odd_count(self) -> int:
        """How many names are not shown as they are."""
        return len(self._odd)

    def _others_before(self, index: int) -> int:
        return index - bisect_left(self._odd, index)

    def find(self, name: bytes) -> int | None:
        """The position of a shown name."""
        number = bisect_left(self._renamed, name, key=lambda each: each.name)
        if number < len(self._renamed) and self._renamed[number].name == name:
            return self._places[number]
        index = self.folder.find(name)
        if index is None:
            return None
        before = bisect_left(self._odd, index)
        if before < len(self._odd) and self._odd[before] == index:
            return None
        return index - before + bisect_right(self._before_renamed, index - before)

    def at(self, position: int) -> ShownName:
        """What is shown at a position."""
        number = bisect_left(self._places, position)
        if number < len(self._places) and self._places[number] == position:
            return self._renamed[number]
        index = self._index(position - number)
        return ShownName(self.folder.names[index], index)

    def _index(self, other: int) -> int:
        """Of the name that has so many before it that are shown as they are."""
        return other + bisect_right(self._before_odd, other)

    def left_out(self) -> bytes:
        """One of the names that are left out."""
        kept = {index for _, index in self._renamed}
        return next(self.folder.names[index] for index in self._odd if index not in kept)


def shown_folder(folder: ManifestFolder) -> ShownFolder:
    """How a folder is shown. Raises OutOfMemory."""
    odd = array("Q")
    for start in range(0, len(folder.names), _AT_ONCE):
        names = folder.names[start : start + _AT_ONCE]
        if max(map(len, names)) > MAX_NAME or b"\0" in b"/".join(names):
            memory.ensure(_PER_ODD * len(names), "the names of a large folder")
            odd.extend(start + at for at, name in enumerate(names) if len(name) > MAX_NAME or b"\0" in name)
    return ShownFolder(folder, odd, _renamed(folder, odd))


def _renamed(folder: ManifestFolder, odd: Iterable[int]) -> list[ShownName]:
    """Those that stay as they are keep their names; of others that come to one, the first does."""
    found: dict[bytes, int] = {}
    for index in odd:
        name = folder.names[index]
        if len(name) <= MAX_NAME:
            name = name.replace(b"\0", b"_")
            if name not in found and folder.find(name) is None:
                found[name] = index
    return [ShownName(name, found[name]) for name in sorted(found)]
