"""Where decoding of LZMA2 folders can begin, remembered across mounts beside an archive's index."""

from array import array

from riafs.archive.saved import IndexDirectory
from riafs.errors import DamagedIndex
from riafs.formats.lzma2 import Resets

_ELEMENTS = {"starts": "Q", "packed": "Q", "walked": "Q"}


class SavedWalks:
    """The walks through the folders of the archive called `name`; without a directory nothing is remembered."""

    def __init__(self, directory: IndexDirectory | None, name: bytes) -> None:
        self._directory = directory
        self._name = name

    def load(self, folder: int, resets: Resets) -> None:
        """Take over into `resets` what was found out about a folder, if anything. In any thread."""
        if self._directory is None:
            return
        columns = self._directory.load(self._name, _kind(folder), _ELEMENTS)
        try:
            if columns is not None and len(columns["walked"]) == 2:
                starts, packed, walked = (array("Q", columns[name]) for name in _ELEMENTS)
                resets.restore(starts, packed, walked[0], walked[1])
        except DamagedIndex:
            self._directory.remove(self._name, _kind(folder))

    def save(self, folder: int, resets: Resets) -> None:
        """Remember what is known of a folder. In any thread."""
        if self._directory is not None:
            starts, packed = resets.columns()
            walked = array("Q", [resets.walked, resets.walked_packed])
            self._directory.save(
                self._name, _kind(folder), {"starts": ("Q", starts), "packed": ("Q", packed), "walked": ("Q", walked)}
            )


def _kind(folder: int) -> bytes:
    return b"walk%d" % folder
