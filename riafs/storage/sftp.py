"""A store on another machine, through the sftp program of its ssh server.

Links are followed by the server. So each path that is opened is first resolved by the server, and refused where it
leads out of the store. A server that lies about that shows its own files under other names, which
it could do in any case.
"""

import hashlib
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from riafs.counters import Counters
from riafs.errors import (
    BadAnswer,
    NotAFile,
    NotInStore,
    OutsideStore,
    RiafsError,
    ShortRead,
    SourceNotFound,
    StoreDenied,
    StoreError,
    TooLarge,
)
from riafs.formats.names import below, is_in
from riafs.formats.sftp import (
    Attributes,
    Data,
    Failed,
    Handle,
    Names,
    Reply,
    Request,
    Status,
    open_packet,
    path_packet,
    read_packet,
)
from riafs.formats.sources import RiaUrl, redact
from riafs.storage.bytesource import Buffer, StoredFile, Version
from riafs.storage.protocol import FileStatus, Item, ItemKind
from riafs.storage.sftp_connection import Connection, ConnectionEnded, MakePacket
from riafs.storage.sftp_session import SftpSession
from riafs.storage.ssh import SshHost, SshOptions, name_of
from riafs.tasks import Background, run_all

_MAX_NAMES = 500_000
"""In one directory; no listing ends a server that never says it is complete."""
_AT_ONCE = 2_000
"""Requests that are sent together."""
_LISTINGS = 4
"""Requests for more names of a directory that are on their way."""
_DIRECTORIES = 64
"""Directories that are listed at the same time."""
_SPARE_HANDLES = 16
_TICK_SECONDS = 2.0
"""Times have whole seconds in this protocol."""
_RECENT_SECONDS = 10.0
"""The same, and what the clocks of two machines mostly differ."""


@dataclass(frozen=True, slots=True)
class SftpVersion(Version):
    """What the protocol says of a file. A change within a second that keeps the size is not seen."""

    place: bytes
    """Digest of the store's address and the file's path."""
    size: int
    mtime: int

    @property
    def token(self) -> bytes:
        return b"sftp %s %d %d" % (self.place, self.size, self.mtime)

    @property
    def modification(self) -> object:
        return self.size, self.mtime

    def fresh_seconds(self) -> float:
        """Compared with the clock of this machine: a clock of the server that is behind makes changes look older."""
        age = time.time() - self.mtime
        return _TICK_SECONDS - age if -_TICK_SECONDS < age < _TICK_SECONDS else 0.0


class SftpFile(StoredFile):
    """An open file of the store. It is opened again when the connection was lost, or too many others were used."""

    __slots__ = ("_connection", "_handle", "_path", "_size", "_storage", "in_use", "name", "version")

    def __init__(
        self, storage: "SftpStorage", path: bytes, connection: Connection, handle: bytes, version: SftpVersion
    ) -> None:
        self.name = f"{storage.name}/{os.fsdecode(path)}"
        self.version: SftpVersion = version
        self._storage = storage
        self._path = path
        self.in_use = 0
        """Reads that need the handle now."""
        self._connection: Connection | None = connection
        self._handle = handle
        self._size = version.size

    @property
    def size(self) -> int:
        return self._size

    async def read(self, offset: int, length: int) -> Buffer:
        length = min(length, self._size - offset)
        if length <= 0:
            return b""
        for last in (False, True):
            try:
                return await self._read(offset, length)
            except ConnectionEnded:
                if last:
                    raise
        raise AssertionError("the second round returns or raises")

    async def _read(self, offset: int, length: int) -> Buffer:
        connection = await self._opened()
        self.in_use += 1
        try:
            return await self._read_over(connection, offset, length)
        finally:
            self.in_use -= 1

    async def _read_over(self, connection: Connection, offset: int, length: int) -> Buffer:
        requests = -(-length // connection.limits.read_size)
        step = -(-length // requests)
        parts = [(start, min(step, offset + length - start)) for start in range(offset, offset + length, step)]
        questions = [
            await connection.send_for_data(partial(read_packet, self._handle, start, size), size)
            for start, size in parts
        ]
        status = connection.send(partial(path_packet, Request.FSTAT, self._handle))
        pieces: list[Buffer] = []
        for (start, size), question in zip(parts, questions, strict=True):
            piece = self._data(await connection.answer(question, self._storage.seconds), size)
            pieces.append(piece)
            if len(piece) < size:
                pieces += await self._rest(connection, start + len(piece), start + size)
        self._note(await connection.answer(status, self._storage.seconds))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _rest(self, connection: Connection, start: int, end: int) -> list[Buffer]:
        """The bytes from `start` to `end` of which the server has sent fewer than it was asked for."""
        pieces: list[Buffer] = []
        while start < end:
            question = await connection.send_for_data(
                partial(read_packet, self._handle, start, end - start), end - start
            )
            pieces.append(self._data(await connection.answer(question, self._storage.seconds), end - start))
            start += len(pieces[-1])
        return pieces

    def _data(self, reply: Reply, size: int) -> memoryview:
        if isinstance(reply, Data) and 0 < len(reply.data) <= size:
            self._storage.session.counters.bytes_fetched += len(reply.data)
            return reply.data
        if isinstance(reply, Failed) and reply.code != Status.EOF:
            raise failed(reply, self.name)
        if isinstance(reply, Failed):
            raise ShortRead(f"{self.name} has fewer bytes than the {self._size} that the server says")
        raise BadAnswer(f"{self.name}: the server answered a request for {size} bytes with something else")

    def _note(self, reply: Reply) -> None:
        version = self._storage.version(self._path, attributes_of(reply, self.name))
        if version != self.version:
            self.version = version

    async def look(self) -> None:
        connection = await self._opened()
        question = connection.send(partial(path_packet, Request.FSTAT, self._handle))
        self._note(await connection.answer(question, self._storage.seconds))

    async def _opened(self) -> Connection:
        """The connection over which the file is open."""
        connection = await self._storage.session.connection()
        if self._connection is connection:
            self._storage.used(self, connection)
            return connection
        self._handle, version = await self._storage.open_over(connection, self._path)
        self._connection = connection
        self._storage.used(self, connection)
        if version != self.version:
            self.version = version
        return connection

    def close_handle(self) -> None:
        """Close it on the server; the next read opens it again."""
        if self._connection is not None:
            self._storage.session.tell(self._connection, partial(path_packet, Request.CLOSE, self._handle))
            self._connection = None

    def close(self) -> None:
        self._storage.forget(self)
        self.close_handle()


class SftpStorage:
    """The store below the directory `root` of a server. Reading only."""

    def __init__(self, name: str, root: bytes, session: SftpSession) -> None:
        self._name = name
        self._root = root
        self._real_root = root
        self.session = session
        self._looks = 0
        self._files: OrderedDict[SftpFile, None] = OrderedDict()
        """Open files, the one that was used last at the end."""

    @classmethod
    async def connect(
        cls, source: RiaUrl, options: SshOptions, seconds: float, counters: Counters, background: Background
    ) -> "SftpStorage":
        """The store that `source` names. Raises SourceNotFound, BadSource, StoreUnreachable, StoreDenied, …"""
        host = SshHost.of(source)
        session = SftpSession(host.subsystem(options, "sftp"), host, seconds, counters, background)
        storage = cls(redact(name_of(source)), source.path, session)
        try:
            await storage.find_root()
        except BaseException:
            session.close()
            raise
        return storage

    async def find_root(self) -> None:
        """Resolve the root. Raises SourceNotFound, and as `SftpSession.ask`."""
        real, status = await self.session.ask(
            partial(path_packet, Request.REALPATH, self._root), partial(path_packet, Request.STAT, self._root)
        )
        if isinstance(status, Failed) and status.code == Status.NO_SUCH_FILE:
            raise SourceNotFound(f"{self._name} does not exist")
        if not stat.S_ISDIR(attributes_of(status, self._name).mode or 0):
            raise SourceNotFound(f"{self._name} is not a directory, so it cannot be a store")
        self._real_root = _path_of(real, self._name)

    @property
    def name(self) -> str:
        return self._name

    @property
    def listing(self) -> "SftpStorage":
        return self

    @property
    def links(self) -> "SftpStorage":
        return self

    @property
    def modes(self) -> "SftpStorage":
        return self

    @property
    def local(self) -> None:
        return None

    @property
    def ahead(self) -> None:
        return None

    @property
    def seconds(self) -> float:
        """Deadline of a request."""
        return self.session.seconds

    def close(self) -> None:
        self.session.close()

    # -- status -------------------------------------------------------------------------------------------------------

    async def stat(self, path: bytes) -> FileStatus:
        real, status = await self.session.ask(self._resolve(path), self._path(Request.STAT, path))
        return _status(attributes_of(status, self._named(path)), self._inside(real, path))

    async def stat_objects(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[FileStatus | None]:
        below_it = [directory + b"/" + path if directory else path for path in paths]
        real, *replies = await self._ask_each(
            [self._resolve(directory), *(self._path(Request.LSTAT, path) for path in below_it)]
        )
        if isinstance(real, Failed) and real.code == Status.NO_SUCH_FILE:
            return [None] * len(paths)
        self._inside(real, directory)
        return [
            self._recent(_status(reply, path)) if isinstance(reply, Attributes) else None
            for path, reply in zip(below_it, replies, strict=True)
        ]

    def _recent(self, status: FileStatus) -> FileStatus:
        """`status`, unequal to every other one as long as another change might leave the same time, in whole seconds.

        So who compares two of them sees a change too many rather than one too few.
        """
        if status.mtime_ns < (time.time() - _RECENT_SECONDS) * 1e9:
            return status
        self._looks += 1
        return replace(status, path_identity=(self._looks, status.path_identity[1]))

    async def executable_each(self, directory: bytes, paths: Sequence[bytes]) -> Sequence[bool]:
        found = await self.stat_objects(directory, paths)
        return [each is not None and each.kind is ItemKind.FILE and each.executable for each in found]

    async def _ask_each(self, requests: Sequence[MakePacket]) -> list[Reply]:
        found: list[Reply] = []
        for start in range(0, len(requests), _AT_ONCE):
            found += await self.session.ask(*requests[start : start + _AT_ONCE])
        return found

    # -- directories --------------------------------------------------------------------------------------------------

    async def list(self, path: bytes) -> Sequence[Item]:
        for last in (False, True):
            try:
                return await self._list(path)
            except ConnectionEnded:
                if last:
                    raise
        raise AssertionError("the second round returns or raises")

    async def _list(self, path: bytes) -> Sequence[Item]:
        connection = await self.session.connection()
        real, opened = await self.session.ask_over(connection, [self._resolve(path), self._path(Request.OPENDIR, path)])
        if not isinstance(opened, Handle):
            raise failed(opened, self._named(path))
        found: list[Item] = []
        try:
            self._inside(real, path)
            more = partial(path_packet, Request.READDIR, opened.handle)
            while True:
                for reply in await self.session.ask_over(connection, [more] * _LISTINGS):
                    if isinstance(reply, Failed) and reply.code == Status.EOF:
                        return found
                    if not isinstance(reply, Names) or len(found) > _MAX_NAMES:
                        raise failed(reply, self._named(path))
                    found += self._items(reply, path)
        finally:
            self.session.tell(connection, partial(path_packet, Request.CLOSE, opened.handle))

    def _items(self, reply: Names, path: bytes) -> "Sequence[Item]":
        for name, _ in reply.names:
            if not name or b"/" in name or b"\0" in name:
                raise BadAnswer(f"{self._named(path)}: the server lists a name that no file can have")
        return [Item(name, _kind(attributes.mode)) for name, attributes in reply.names if name not in (b".", b"..")]

    async def list_each(self, paths: Sequence[bytes]) -> Sequence[Sequence[Item]]:
        found: dict[bytes, Sequence[Item]] = {}

        async def list_one(path: bytes) -> None:
            try:
                found[path] = await self.list(path)
            except (NotInStore, OutsideStore, StoreDenied):
                found[path] = ()

        for start in range(0, len(paths), _DIRECTORIES):
            await run_all(*(partial(list_one, path) for path in paths[start : start + _DIRECTORIES]))
        return [found[path] for path in paths]

    # -- links --------------------------------------------------------------------------------------------------------

    async def read_link(self, path: bytes) -> bytes:
        [reply] = await self.session.ask(self._path(Request.READLINK, path))
        return _path_of(reply, self._named(path))

    async def resolve_each(self, paths: Sequence[bytes]) -> Sequence[bytes | RiafsError]:
        replies = await self._ask_each(
            [request for path in paths for request in (self._resolve(path), self._path(Request.STAT, path))]
        )
        found: list[bytes | RiafsError] = []
        for path, real, status in zip(paths, replies[::2], replies[1::2], strict=True):
            try:
                attributes_of(status, self._named(path))
                found.append(self._inside(real, path))
            except RiafsError as problem:
                found.append(problem)
        return found

    # -- files --------------------------------------------------------------------------------------------------------

    async def read_file(self, path: bytes, limit: int) -> bytes:
        file = await self._open(path, NotAFile)
        try:
            if file.size > limit:
                raise TooLarge(f"{self._named(path)} is larger than {limit} bytes")
            return bytes(await file.read(0, file.size))
        finally:
            file.close()

    async def open(self, path: bytes) -> SftpFile:
        return await self._open(path, NotInStore)

    async def _open(self, path: bytes, other: type[NotInStore]) -> SftpFile:
        for last in (False, True):
            connection = await self.session.connection()
            try:
                handle, version = await self.open_over(connection, path, other)
            except ConnectionEnded:
                if last:
                    raise
                continue
            file = SftpFile(self, path, connection, handle, version)
            self.used(file, connection)
            return file
        raise AssertionError("the second round returns or raises")

    async def open_over(
        self, connection: Connection, path: bytes, other: type[NotInStore] = NotInStore
    ) -> tuple[bytes, SftpVersion]:
        """A handle of the file, and its version. Raises `other` for what is no regular file."""
        real, status = await self.session.ask_over(connection, [self._resolve(path), self._path(Request.STAT, path)])
        attributes = attributes_of(status, self._named(path))
        self._inside(real, path)
        if not attributes.is_regular:  # a server that opens a fifo waits, and with it all other requests
            raise other(f"{self._named(path)} is not a regular file")
        [opened] = await self.session.ask_over(connection, [partial(open_packet, self._absolute(path))])
        if not isinstance(opened, Handle):
            raise failed(opened, self._named(path))
        return opened.handle, self.version(path, attributes)

    def version(self, path: bytes, attributes: Attributes) -> SftpVersion:
        """The version of the file at `path` that has these attributes. Raises BadAnswer."""
        if attributes.size is None or attributes.mtime is None:
            raise BadAnswer(f"{self._named(path)}: the server does not say its size or time")
        place = hashlib.sha256(os.fsencode(self._name) + b"\0" + self._real_root + b"\0" + path).hexdigest()
        return SftpVersion(place.encode(), attributes.size, attributes.mtime)

    def used(self, file: SftpFile, connection: Connection) -> None:
        """Note that a file is used; of too many, those that were not used for the longest time are closed."""
        self._files[file] = None
        self._files.move_to_end(file)
        excess = len(self._files) - max(1, connection.limits.handles - _SPARE_HANDLES)
        if excess > 0:
            for oldest in list(islice((each for each in self._files if not each.in_use), excess)):
                del self._files[oldest]
                oldest.close_handle()

    def forget(self, file: SftpFile) -> None:
        """Note that a file is closed."""
        self._files.pop(file, None)

    # -- paths --------------------------------------------------------------------------------------------------------

    def _absolute(self, path: bytes) -> bytes:
        return self._root + b"/" + path if path else self._root

    def _path(self, kind: Request, path: bytes) -> MakePacket:
        return partial(path_packet, kind, self._absolute(path))

    def _resolve(self, path: bytes) -> MakePacket:
        return self._path(Request.REALPATH, path)

    def _inside(self, reply: Reply, path: bytes) -> bytes:
        """The path in the store that the server has resolved `path` to. Raises OutsideStore, NotInStore, …"""
        real = _path_of(reply, self._named(path))
        if not is_in(real, self._real_root):
            raise OutsideStore(f"{self._named(path)} leads out of the store; links out of a store are not followed")
        return below(real, self._real_root)

    def _named(self, path: bytes) -> str:
        return f"{self._name}/{os.fsdecode(path)}" if path else self._name


def failed(reply: Reply, name: str) -> RiafsError:
    """The failure for an answer that is not the one asked for; `name` is that of the file."""
    if not isinstance(reply, Failed):
        return BadAnswer(f"{name}: the server answered something else than it was asked")
    if reply.code == Status.NO_SUCH_FILE:
        return NotInStore(f"{name} does not exist")
    if reply.code == Status.PERMISSION_DENIED:
        return StoreDenied(f"{name} may not be read by this user; ask the store's manager for read permission")
    return StoreError(f"{name} cannot be read: the server failed (status {reply.code})")


def attributes_of(reply: Reply, name: str) -> Attributes:
    """The attributes in an answer. Raises what `failed` gives."""
    if not isinstance(reply, Attributes):
        raise failed(reply, name)
    return reply


def _path_of(reply: Reply, name: str) -> bytes:
    if not isinstance(reply, Names):
        raise failed(reply, name)
    if len(reply.names) != 1:
        raise BadAnswer(f"{name}: the server answered with {len(reply.names)} paths instead of one")
    return reply.names[0][0]


def _kind(mode: int | None) -> ItemKind:
    kind = stat.S_IFMT(mode or 0)
    if kind == stat.S_IFREG:
        return ItemKind.FILE
    if kind == stat.S_IFDIR:
        return ItemKind.DIRECTORY
    return ItemKind.LINK if kind == stat.S_IFLNK else ItemKind.OTHER


def _status(attributes: Attributes, path: bytes) -> FileStatus:
    identity = int.from_bytes(hashlib.sha256(path).digest()[:8], "big")
    return FileStatus(
        kind=_kind(attributes.mode),
        size=attributes.size or 0,
        mtime_ns=(attributes.mtime or 0) * 1_000_000_000,
        executable=bool((attributes.mode or 0) & stat.S_IXUSR),
        path_identity=(0, identity),
    )
