"""Writing to a store: the protocol that a push needs of a transport, whatever it is.

Paths are as in the Storage protocol. Nothing is ever written through a link that leads out of the store. New files get
their final modes (see sharing) while they are still unknown to everybody; they are known when they are renamed. What is
not made durable with `sync` may be lost with the power, what was only written has no place yet.
"""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from riafs.storage.ranged import Buffer
from riafs.storage.sharing import Sharing


@dataclass(frozen=True, slots=True)
class NewFile:
    """A small file that is written whole. `mode` is what it is made with, before umask and sharing."""

    path: bytes
    data: Buffer
    mode: int


class Upload(Protocol):
    """A new file that grows."""

    async def write(self, data: Buffer) -> None:
        """Add bytes at the end. Raises StoreError, StoreTimeout."""

    def close(self) -> None:
        """No more bytes will come. Calling it twice is harmless."""


class WritableStorage(Protocol):
    """A store that can be written to. All calls raise ReadOnly, StoreDenied, OutsideStore, StoreTimeout, StoreError."""

    async def check_writable(self, directories: Sequence[bytes]) -> None:
        """Raise ReadOnly or StoreDenied where this user cannot write to one of them, or to what is above if missing."""

    def workspace(self, above: bytes) -> AbstractAsyncContextManager[bytes]:
        """The path of a new directory of this process alone, somewhere below the directory `above`; it is removed at
        the end with everything in it. Traces of processes that were killed are removed first.
        """

    async def make_directories(self, paths: Sequence[bytes], sharing: Sharing) -> None:
        """Make directories and what is missing above them."""

    async def write_files(self, files: Sequence[NewFile], sharing: Sharing) -> None:
        """Write small new files, in one go."""

    async def place_files(self, files: Sequence[NewFile], sharing: Sharing) -> None:
        """Write small files, make them durable, and only then give them their names, in this order, over what is there.
        Directories that are missing are made.
        """

    async def create(self, path: bytes, mode: int, sharing: Sharing) -> Upload:
        """A new file, made with `mode`, before umask and sharing."""

    async def set_executable(self, path: bytes, *, executable: bool) -> bool:
        """Change a file's executable bits and no others; False where this user may not."""

    async def rename_each(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Rename files (from, to), over what is there."""

    async def remove_each(self, paths: Sequence[bytes]) -> None:
        """Remove files."""

    async def sync(self, paths: Sequence[bytes]) -> None:
        """Make files, and the names in directories, durable: all these and maybe more."""

    async def settle(self, files: Sequence[bytes] = (), *, everything: bool = False) -> None:
        """Make durable what names and modes were made since the last time; and `files`, with their names, or whatever
        else there is.
        """
