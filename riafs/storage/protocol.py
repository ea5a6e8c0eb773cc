"""The storage protocol: the files of a store, whatever the transport, and writing to them.

Paths are bytes relative to the store's root, ``/`` between parts, no leading slash; the empty path is the root itself.
Nothing outside the root, and of the directories that the administrator lets links lead into, is ever opened, whatever
links the store holds, and nothing is ever written through a link that leads out. Every call has a deadline.

Files are written in a workspace with their final mode, and published by rename. What is not made durable with `sync`
may be lost in a power failure.
"""

import enum
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from riafs.errors import RiafsError
from riafs.storage.bytesource import Buffer
from riafs.storage.local_file import FileBytes
from riafs.storage.permissions import Sharing

T = TypeVar("T")

Opener = Callable[[bytes, int], int]
"""A new descriptor for a path below the store's root, with flags of open(2)."""


class ItemKind(enum.Enum):
    """What a directory item or path is, symbolic links not followed for items, followed for paths."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Item:
    """One name in a directory of the store."""

    name: bytes
    kind: ItemKind


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What stat tells about a path."""

    kind: ItemKind
    size: int
    mtime_ns: int
    executable: bool
    path_identity: tuple[int, int]
    """(device, inode): equal for two paths that lead to the same place."""


class Storage(Protocol):
    """A store's files. All calls raise NotInStore, OutsideStore, StoreDenied, StoreTimeout or StoreError."""

    @property
    def name(self) -> str:
        """How messages call this store."""

    async def stat(self, path: bytes) -> FileStatus:
        """Status of `path`, links followed."""

    async def stat_objects(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[FileStatus | None]:
        """Status of each of `paths` below `directory`, None where there is none; for hints, in one go."""

    async def executable_each(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[bool]:
        """Whether each of `paths` below `directory` is a regular file with an executable bit, in one go."""

    async def list(self, path: bytes) -> Sequence[Item]:
        """The items of a directory, in no particular order, without ``.`` and ``..``."""

    async def list_each(self, paths: Sequence[bytes]) -> Sequence[Sequence[Item]]:
        """The items of each of many directories, in one go; none for those that cannot be listed."""

    async def read_file(self, path: bytes, limit: int) -> bytes:
        """A whole small file. Raises TooLarge beyond `limit` bytes, NotAFile where something else is there."""

    async def reading(self, function: Callable[[Opener], T]) -> T | None:
        """``function(opener)`` in one of a few threads that are kept for what reads many small files; None where none
        of these is free. `opener` raises RiafsError and OSError.
        """

    async def read_link(self, path: bytes) -> bytes:
        """The text of a symbolic link."""

    async def open(self, path: bytes) -> FileBytes:
        """A regular file as ranged bytes with an identity."""

    async def local_path(self, path: bytes) -> bytes:
        """The absolute path, free of links, that programs on this machine can use for a directory of the store."""

    async def resolve_each(self, paths: Sequence[bytes]) -> Sequence[bytes | RiafsError]:
        """The store's path, free of links but for those out of the store that may be followed, of each of many
        directories, or why there is none.
        """

    def path_of(self, absolute: bytes) -> bytes | None:
        """The path for what this machine calls `absolute`: below the root by any of its names, or `absolute` itself
        where that is in a directory that links may lead into; None for anything else. Nothing is looked at.
        """


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
