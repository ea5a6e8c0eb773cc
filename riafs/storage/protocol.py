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

from riafs.errors import ReadOnly, RiafsError, StoreError
from riafs.storage.bytesource import Buffer, StoredFile
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
    """A store's files. All calls raise NotInStore, OutsideStore, StoreDenied, StoreTimeout or StoreError.

    Whatever only some transports can do is a capability: a property that is None where the storage lacks it.
    """

    @property
    def name(self) -> str:
        """The store's name in messages."""

    @property
    def listing(self) -> "Listing | None":
        """Listing of directories; a static HTTP server has none."""

    @property
    def links(self) -> "Links | None":
        """Symbolic links; a server that follows them by itself has none."""

    @property
    def modes(self) -> "Modes | None":
        """Permissions of files."""

    @property
    def local(self) -> "LocalStore | None":
        """The store as a directory of this machine, if it is one."""

    async def stat(self, path: bytes) -> FileStatus:
        """Status of `path`, links followed."""

    async def stat_objects(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[FileStatus | None]:
        """Status of each of `paths` below `directory`, None where there is none; for hints, in one go."""

    async def read_file(self, path: bytes, limit: int) -> bytes:
        """A whole small file. Raises TooLarge beyond `limit` bytes, NotAFile for anything but a regular file."""

    async def open(self, path: bytes) -> StoredFile:
        """A regular file, with its version."""

    def close(self) -> None:
        """Give back descriptors and connections; files that are open stay readable."""


class Listing(Protocol):
    """The names in a store's directories."""

    async def list(self, path: bytes) -> Sequence[Item]:
        """The items of a directory, in no particular order, without ``.`` and ``..``."""

    async def list_each(self, paths: Sequence[bytes]) -> Sequence[Sequence[Item]]:
        """The items of each of many directories, in one go; none for those that cannot be listed."""


class Links(Protocol):
    """The symbolic links of a store."""

    async def read_link(self, path: bytes) -> bytes:
        """The text of a symbolic link."""

    async def resolve_each(self, paths: Sequence[bytes]) -> Sequence[bytes | RiafsError]:
        """The store's path, free of links but for those out of the store that may be followed, of each of many
        directories, or why there is none.
        """


class Modes(Protocol):
    """The permissions of a store's files."""

    async def executable_each(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[bool]:
        """Whether each of `paths` below `directory` is a regular file with an executable bit, in one go."""


class LocalStore(Storage, Listing, Links, Modes, Protocol):
    """A store in a directory of this machine, for programs that work on the directory itself: git, and writers."""

    async def local_path(self, path: bytes) -> bytes:
        """The absolute path, free of links, of a directory of the store."""

    def path_of(self, absolute: bytes) -> bytes | None:
        """The path for a file that this machine calls `absolute`: below the root by any of its names, or `absolute`
        itself in a directory that links may lead into; None for anything else. Nothing is looked at.
        """

    async def reading(self, function: Callable[[Opener], T]) -> T | None:
        """``function(opener)`` in one of a few threads that are kept for reading many small files; None where none of
        these is free. `opener` raises RiafsError and OSError.
        """


def listing_of(storage: Storage) -> Listing:
    """The store's listing, for tasks that cannot do without. Raises StoreError where there is none."""
    if storage.listing is None:
        raise StoreError(f"{storage.name} cannot list its directories: only files that are asked for by name are found")
    return storage.listing


def local_store(storage: Storage) -> LocalStore:
    """The store as a directory of this machine. Raises ReadOnly where it is none."""
    if storage.local is None:
        raise ReadOnly(f"{storage.name} is not a directory of this machine: it can be read, but not written to")
    return storage.local


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
