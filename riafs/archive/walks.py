"""Where decoding of LZMA2 folders can begin, remembered across mounts beside an archive's index."""

from array import array

from riafs.archive.saved import IndexDirectory
from riafs.errors import DamagedIndex, StoreTimeout
from riafs.formats.sevenzip.lzma2 import Resets

_ELEMENTS = {"starts": "Q", "packed": "Q", "walked": "Q"}


class SavedWalks:
    """The walks through the folders of the archive called `name`; without a directory nothing is remembered."""

    def __init__(self, directory: IndexDirectory | None, name: bytes) -> None:
        self._directory = directory
        self._name = name

    async def load(self, folder: int, resets: Resets) -> None:
        """Take over into `resets` what was found out about a folder, if anything."""
        if self._directory is None:
            return
        kind = _kind(folder)
        try:
            found = await self._directory.patience.run(_read, self._directory, self._name, kind)
            if found is not None:
                resets.restore(*found)
        except DamagedIndex:
            await self._directory.forget(self._name, kind)
        except StoreTimeout:
            return

    async def save(self, folder: int, resets: Resets) -> None:
        """Remember what is known of a folder."""
        if self._directory is None:
            return
        starts, packed = (array("Q", column) for column in resets.columns())  # the walk may go on meanwhile
        walked = array("Q", [resets.walked, resets.walked_packed])
        columns = {"starts": ("Q", starts), "packed": ("Q", packed), "walked": ("Q", walked)}
        await self._directory.keep(self._name, _kind(folder), columns)


_Walk = tuple["array[int]", "array[int]", int, int]


def _read(directory: IndexDirectory, name: bytes, kind: bytes) -> _Walk | None:
    """What `Resets.restore` takes. Raises DamagedIndex."""
    columns = directory.load(name, kind, _ELEMENTS)
    if columns is None or len(columns["walked"]) != 2:
        return None
    starts, packed, walked = (array("Q", columns[each]) for each in _ELEMENTS)
    return starts, packed, walked[0], walked[1]


def _kind(folder: int) -> bytes:
    return b"walk%d" % folder
