"""The storage protocol: reading and writing the files of a store, whatever the transport.

Paths are bytes relative to the store's root, with ``/`` between parts and none in front; the empty path is the root.
Whatever links a store has, nothing is opened outside of its root and of the directories that the administrator allows
links to lead into, and nothing is written through a link that leads out. Every call has a deadline.

`Storage` is what every transport can do: status, small files, and bytes at an offset. Capabilities of some transports
(`Listing`, `Links`, `Modes`, `FilesAhead`, `LocalStore`) are properties that are None where the transport lacks them.

A writer creates files in a `WritableStorage.workspace` with their final mode and publishes them by rename, so that a
reader sees a whole file or none. Changes that are not made durable (`sync`, `sync_changes`) may be lost in a power
failure.
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
    """The kind of a file; symbolic links are not followed for items of a directory, and followed for paths."""

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
    """The status of a path."""

    kind: ItemKind
    size: int
    mtime_ns: int
    executable: bool
    path_identity: tuple[int, int]
    """(device, inode): equal for two paths of the same file."""


class Storage(Protocol):
    """A store's files. All calls raise NotInStore, OutsideStore, StoreDenied, StoreTimeout or StoreError."""

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

    @property
    def ahead(self) -> "FilesAhead | None":
        """Fetching files before they are opened; None where opening one takes no time."""

    async def stat(self, path: bytes) -> FileStatus:
        """Status of `path`, links followed."""

    async def stat_objects(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[FileStatus | None]:
        """Status of each of `paths` below `directory`, None where there is none, in one call. Only a hint: a file may
        be gone when it is opened.
        """

    async def read_file(self, path: bytes, limit: int) -> bytes:
        """A whole small file. Raises TooLarge beyond `limit` bytes, NotAFile for anything but a regular file."""

    async def open(self, path: bytes) -> StoredFile:
        """A regular file, with its version."""

    def close(self) -> None:
        """Close descriptors and connections; files that are open stay readable."""


class FilesAhead(Protocol):
    """Fetching of small files together, for a program that will open them one after the other."""

    def fetch_ahead(self, paths: Sequence[bytes]) -> None:
        """Begin to fetch annexed objects that will probably be opened soon. Failures are left to the reader."""

    def forget(self, path: bytes) -> bool:
        """Ask the store about this object when it is opened next; False if it would be asked in any case."""


class Listing(Protocol):
    """The names in a store's directories."""

    async def list(self, path: bytes) -> Sequence[Item]:
        """The items of a directory, in no particular order, without ``.`` and ``..``."""

    async def list_each(self, paths: Sequence[bytes]) -> Sequence[Sequence[Item]]:
        """The items of each of many directories, in one call; none for those that cannot be listed."""


class Links(Protocol):
    """The symbolic links of a store."""

    async def read_link(self, path: bytes) -> bytes:
        """The text of a symbolic link."""

    async def resolve_each(self, paths: Sequence[bytes]) -> Sequence[bytes | RiafsError]:
        """For each of many directories its path in the store, free of links but for allowed ones that lead out of the
        store; or the failure.
        """


class Modes(Protocol):
    """The permissions of a store's files."""

    async def executable_each(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[bool]:
        """Whether each of `paths` below `directory` is a regular file with an executable bit, in one call."""


class LocalStore(Storage, Listing, Links, Modes, Protocol):
    """A store in a directory of this machine, for programs that use the directory itself: git, and writers."""

    async def local_path(self, path: bytes) -> bytes:
        """The absolute path, free of links, of a directory of the store."""

    def path_of(self, absolute: bytes) -> bytes | None:
        """The store's path of the file whose path on this machine is `absolute`, by any name of the root; `absolute`
        itself in a directory that links may lead into; None for all others. Only names are compared.
        """

    async def reading(self, function: Callable[[Opener], T]) -> T | None:
        """``function(opener)`` in one of a few threads reserved for reading many small files; None if none of them is
        free. `opener` raises RiafsError and OSError.
        """


def listing_of(storage: Storage) -> Listing:
    """The store's listing, for tasks that need it. Raises StoreError where there is none."""
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
    """A small file that is written at once. It is created with `mode`, before umask and sharing."""

    path: bytes
    data: Buffer
    mode: int


class Upload(Protocol):
    """A new file that grows."""

    async def write(self, data: Buffer) -> None:
        """Append bytes. Raises StoreError, StoreTimeout."""

    def close(self) -> None:
        """No more bytes will come. Calling it twice is harmless."""


class WritableStorage(Protocol):
    """A store that can be written to. All calls raise ReadOnly, StoreDenied, OutsideStore, StoreTimeout, StoreError."""

    async def check_writable(self, directories: Sequence[bytes]) -> None:
        """Raise ReadOnly or StoreDenied if this user cannot write to one of them; for a missing one, to its parent."""

    def workspace(self, above: bytes) -> AbstractAsyncContextManager[bytes]:
        """The path of a new directory below `above` for this process alone; it is removed at the end with all files in
        it. Those of processes that were killed are removed first.
        """

    async def make_directories(self, paths: Sequence[bytes], sharing: Sharing) -> None:
        """Make directories, and missing parents."""

    async def write_files(self, files: Sequence[NewFile], sharing: Sharing) -> None:
        """Write small new files, in one call."""

    async def place_files(self, files: Sequence[NewFile], sharing: Sharing) -> None:
        """Write small files under temporary names, make them durable, and only then rename them in this order, over
        existing files. Missing directories are made.
        """

    async def create(self, path: bytes, mode: int, sharing: Sharing) -> Upload:
        """A new file, created with `mode`, before umask and sharing."""

    async def set_executable(self, path: bytes, *, executable: bool) -> bool:
        """Change a file's executable bits and no others; False if this user may not."""

    async def rename_each(self, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        """Rename files (from, to), over existing ones."""

    async def remove_each(self, paths: Sequence[bytes]) -> None:
        """Remove files."""

    async def sync(self, paths: Sequence[bytes]) -> None:
        """Make durable the content of files and the names in directories: all of `paths`, and maybe others."""

    async def sync_changes(self, files: Sequence[bytes] = (), *, everything: bool = False) -> None:
        """Make durable all names and modes since the last call, and `files` with their names; or `everything` on the
        store's file systems.
        """
