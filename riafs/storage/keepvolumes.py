"""A keepstore's "Directory" volume on this machine: block files below a directory, ``abc/abc0123…``.

Only files named like a block are looked at: trashed blocks (``….trash.N``) and unfinished ones (``tmp…``) have other
names. Nothing is locked or written, and a block's time of modification, which protects it from the trash, stays.
keepstore gives block files mode 0600, so that reading takes its user or root.
"""

import hashlib

from riafs.errors import CorruptContent
from riafs.formats.locators import Locator
from riafs.storage.blockplaces import Attempt, FileBlock
from riafs.storage.files import FileBytes
from riafs.storage.local import LocalStorage
from riafs.storage.patience import Patience

_CHUNK = 4 << 20
_SLOWEST = 256 << 10  # bytes a second that a volume may take on top of the deadline


class KeepVolume:
    """The volume below `storage`'s root. `patience` has the deadline, and as many threads as may use it at once.

    `storage` has to have been opened with the same `patience`.
    """

    def __init__(self, storage: LocalStorage, patience: Patience) -> None:
        self._storage = storage
        self._patience = patience

    @property
    def name(self) -> str:
        """The directory."""
        return self._storage.name

    @property
    def in_place(self) -> bool:
        """See BlockPlace."""
        return True

    async def fetch(self, locator: Locator, attempt: Attempt) -> FileBlock:
        """See BlockPlace."""
        attempt.is_asked()
        file = await self._storage.open(locator.digest[:3] + b"/" + locator.digest)
        if file.size != locator.size:
            size = file.size
            file.close()
            raise CorruptContent(f"block {locator.unsigned.decode()} has {size} bytes in volume {self.name}")
        attempt.comes()
        return FileBlock(file, lambda: self._digest(file))

    async def check(self, locator: Locator, attempt: Attempt) -> None:
        """See BlockPlace."""
        block = await self.fetch(locator, attempt)
        if await block.digest() != locator.digest:
            raise CorruptContent(f"block {locator.unsigned.decode()} is damaged in volume {self.name}")

    async def _digest(self, file: FileBytes) -> bytes:
        return await self._patience.run_longer(file.size / _SLOWEST, _digest, file)


def _digest(file: FileBytes) -> bytes:
    """In large pieces, as the thread may wait for the interpreter after each; in one buffer, as new ones get zeroed."""
    checker = hashlib.md5(usedforsecurity=False)
    buffer = memoryview(bytearray(min(_CHUNK, file.size)))
    for offset in range(0, file.size, _CHUNK):
        part = buffer[: file.size - offset]
        file.read_into(offset, part)
        checker.update(part)
    return checker.hexdigest().encode()
