"""New content as objects of the store.

Content is hashed while it is written to a temporary file, as its key is only known afterwards. Temporary files are
renamed in batches: a batch is made durable first, by one syncfs(2) for many files, so that a key's name never has
anything but its complete content. A rename may replace a file, which has the same content or is damaged. A good object
that exists is not written again; it is read to verify it, as one of the right size may still be damaged.
"""

import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from riafs.content.copies import read_copy
from riafs.content.locations import ARCHIVE_PATHS, ArchivedObject, Location, LooseObject
from riafs.formats.annex import likely_path, object_directories
from riafs.formats.digests import KeyMaker
from riafs.formats.keys import ExtensionRules, Key
from riafs.push.destination import Destination
from riafs.storage.bytesource import Buffer, RangedBytes
from riafs.storage.local_file import FileBytes
from riafs.storage.permissions import object_mode
from riafs.storage.protocol import NewFile
from riafs.tasks import run_all
from riafs.watching import Watcher

PIECE = 4 << 20
"""Bytes of content that are read, hashed and written at once."""
SMALL = 1 << 20
"""Content of up to so many bytes is kept in memory before it is written."""
_WRITTEN_AT_ONCE = 16 << 20
_RENAMED_AT_ONCE = 1 << 30
_FILES_RENAMED_AT_ONCE = 5000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Content for the store. `path`: the file's, whose extension may become part of the key; `backend`: of the key."""

    path: bytes
    open: Callable[[], Awaitable[RangedBytes]]
    backend: bytes
    executable: bool


@dataclass(frozen=True, slots=True)
class _Small:
    key: Key
    data: Buffer
    executable: bool


@dataclass(frozen=True, slots=True)
class _Written:
    """A temporary file: its path, the path of its object (both the store's), and its size in bytes."""

    path: bytes
    target: bytes
    size: int


class ObjectWriter:
    """Writes the objects of one push. `workspace`: a directory for its temporary files."""

    def __init__(self, destination: Destination, workspace: bytes, rules: ExtensionRules, watcher: Watcher) -> None:
        self._to = destination
        self._objects = destination.dataset.path + b"/annex/objects"
        self._workspace = workspace
        self._rules = rules
        self._watcher = watcher
        self._small: list[_Small] = []
        self._small_bytes = 0
        self._temporary_files: list[_Written] = []
        self._temporary_bytes = 0
        self._relied_on: list[bytes] = []
        self._relied_on_others = False
        self._counter = 0
        self._archived: bool | None = None
        self._storage = None if destination.annex is None else destination.annex.storage
        self.chunk_size = None if self._storage is None else self._storage.chunk_size
        self.chunked: dict[Key, int] = {}
        """Keys that were written in chunks → number of chunks."""
        self.written = 0
        self.written_bytes = 0

    # -- content ------------------------------------------------------------------------------------------------------

    async def put(self, wanted: Wanted) -> Key:
        """The key of the content, which is in the store after `finish`. Raises what reading and writing raise."""
        content = await wanted.open()
        try:
            if content.size > SMALL or self.chunk_size is not None:
                return await self._put_large(wanted, content)
            data = await content.read(0, content.size)
        finally:
            content.close()
        maker = KeyMaker(wanted.backend)
        maker.update(data)
        key = maker.key(wanted.path, self._rules)
        self._small.append(_Small(key, data, wanted.executable))
        self._small_bytes += len(data)
        self._watcher.advance(len(data))
        if self._small_bytes > _WRITTEN_AT_ONCE:
            await self._write_small()
        return key

    async def _write_small(self) -> None:
        waiting, self._small, self._small_bytes = self._small, [], 0
        unique = {small.key: small for small in waiting}
        executable = {small.key for small in waiting if small.executable}
        targets = await self._targets(list(unique))
        files, written = [], []
        for key, target in targets.items():
            data = unique[key].data
            path = self._temporary()
            files.append(NewFile(path, data, object_mode(executable=key in executable)))
            written.append(_Written(path, target, len(data)))
        await self._to.writing.write_files(files, self._to.sharing)
        await self._remember(written)
        for key in executable - targets.keys():
            await self.set_executable(key, executable=True)

    async def _put_large(self, wanted: Wanted, content: RangedBytes) -> Key:
        """Write directly to the store, in chunks if the storage has chunks."""
        maker = KeyMaker(wanted.backend)
        mode = object_mode(executable=wanted.executable)
        chunk_size = self.chunk_size or max(content.size, 1)
        parts: list[tuple[bytes, int]] = []
        for start in range(0, max(content.size, 1), chunk_size):
            path = self._temporary()
            length = min(chunk_size, content.size - start)
            await self._write_part(path, mode, _Slice(content, start, length), maker)
            parts.append((path, length))
        key = maker.key(wanted.path, self._rules)
        target = (await self._targets([key])).get(key)
        if target is None:
            await self._to.writing.remove_each([path for path, _ in parts])
            if wanted.executable:
                await self.set_executable(key, executable=True)
        elif self.chunk_size is None:
            await self._remember([_Written(parts[0][0], target, parts[0][1])])
        else:
            await self._remember(self._chunks(key, parts, self.chunk_size))
        return key

    def _chunks(self, key: Key, parts: Sequence[tuple[bytes, int]], chunk_size: int) -> list[_Written]:
        """The chunks of a key, which are in the hash directories of the whole key, under their own names."""
        self.chunked[key] = len(parts)
        directory = object_directories(key, self._to.layout)[0]
        names = [key.chunk(chunk_size, number).file_name for number in range(1, len(parts) + 1)]
        return [
            _Written(path, b"/".join((self._objects, directory, name, name)), size)
            for name, (path, size) in zip(names, parts, strict=True)
        ]

    async def _write_part(self, path: bytes, mode: int, part: "_Slice", maker: KeyMaker) -> None:
        """Write and hash a piece while the next one is read."""
        upload = await self._to.writing.create(path, mode, self._to.sharing)
        try:
            piece = await part.read(0)
            for offset in range(0, part.length, PIECE):
                ahead: list[Buffer] = []
                await run_all(
                    partial(upload.write, piece),
                    partial(trio.to_thread.run_sync, maker.update, piece),
                    partial(part.read_into, offset + PIECE, ahead),
                )
                self._watcher.advance(len(piece))
                piece = ahead[0]
        finally:
            upload.close()

    def _temporary(self) -> bytes:
        self._counter += 1
        return b"%b/%d" % (self._workspace, self._counter)

    # -- existing objects ---------------------------------------------------------------------------------------------

    async def _targets(self, keys: Sequence[Key]) -> dict[Key, bytes]:
        """Keys that have to be written → path in the store."""
        candidates = [
            b"/".join((directory, key.file_name, key.file_name))
            for key in keys
            for directory in object_directories(key, self._to.layout)[:2]
        ]
        found = await self._to.dataset.storage.stat_objects(self._objects, candidates)
        targets: dict[Key, bytes] = {}
        for index, key in enumerate(keys):
            doubtful = any(found[2 * index : 2 * index + 2]) or self.chunk_size or await self._has_archive()
            target = await self._bad_place(key) if doubtful else likely_path(key.file_name, self._to.layout)
            if target is not None:
                targets[key] = self._objects + b"/" + target
        return targets

    async def _bad_place(self, key: Key) -> bytes | None:
        """The path (below ``annex/objects``) that `key` has to be written to, None if there is a good copy."""
        contents = self._to.dataset.contents
        claim = await contents.claim(key)
        for place in contents.stored_locations(key):
            copy = await read_copy(place, key.size, claim, contents.verifier)
            if copy is not None and copy.state.usable:
                self._rely_on(place)
                return None
            if copy is not None and isinstance(place, LooseObject):
                return place.path
        for place in [] if self._storage is None else await contents.storage_forms(key, self._storage):
            copy = await read_copy(place, key.size, claim, contents.verifier)
            if copy is not None and copy.state.usable:
                self._rely_on(place)
                return None
        return likely_path(key.file_name, self._to.layout)

    def _rely_on(self, place: Location) -> None:
        """Note a copy that another program wrote, maybe just now: it has to be durable before the commit is."""
        if isinstance(place, LooseObject):
            self._relied_on.append(self._objects + b"/" + place.path)
        elif isinstance(place, ArchivedObject):
            self._relied_on.append(self._to.dataset.path + b"/" + place.archive)
        else:
            self._relied_on_others = True

    async def _has_archive(self) -> bool:
        if self._archived is None:
            found = await self._to.dataset.storage.stat_objects(self._to.dataset.path, ARCHIVE_PATHS)
            self._archived = any(found)
        return self._archived

    async def set_executable(self, key: Key, *, executable: bool) -> bool:
        """Set the executable bit of a key's loose object, as git has none for a locked file; False if that fails."""
        path = self._objects + b"/" + likely_path(key.file_name, self._to.layout)
        [found] = await self._to.dataset.storage.stat_objects(b"", [path])
        if found is None:
            return False
        return found.executable == executable or await self._to.writing.set_executable(path, executable=executable)

    # -- names --------------------------------------------------------------------------------------------------------

    async def _remember(self, written: Sequence[_Written]) -> None:
        self._temporary_files += written
        self._temporary_bytes += sum(each.size for each in written)
        if len(self._temporary_files) > _FILES_RENAMED_AT_ONCE or self._temporary_bytes > _RENAMED_AT_ONCE:
            await self._name()

    async def _name(self) -> None:
        """Make written files durable and rename them to their objects' paths."""
        files, self._temporary_files, self._temporary_bytes = self._temporary_files, [], 0
        if not files:
            return
        await self._to.writing.sync([each.path for each in files])
        places = list(dict.fromkeys(os.path.dirname(each.target) for each in files))
        await self._to.writing.make_directories(places, self._to.sharing)
        self._watcher.advance(0)
        await self._to.writing.rename_each([(each.path, each.target) for each in files])
        self._watcher.advance(0)
        self.written += len(files)
        self.written_bytes += sum(each.size for each in files)

    async def finish(self) -> None:
        """Write and rename the remaining files, and make everything durable."""
        await self._write_small()
        await self._name()
        await self._to.writing.sync_changes(self._relied_on, everything=self._relied_on_others)


@dataclass(frozen=True, slots=True)
class _Slice:
    """`length` bytes of `content` from `start` on."""

    content: RangedBytes
    start: int
    length: int

    async def read(self, offset: int) -> Buffer:
        """A piece from `offset` of the slice on; that of a local file in a thread, as it may come from a disk."""
        length = min(PIECE, self.length - offset)
        if length <= 0:
            return b""
        if isinstance(self.content, FileBytes):
            return await trio.to_thread.run_sync(self.content.read_blocking, self.start + offset, length)
        return await self.content.read(self.start + offset, length)

    async def read_into(self, offset: int, pieces: list[Buffer]) -> None:
        """As `read`, for a nursery: the piece is appended to `pieces`."""
        pieces.append(await self.read(offset))
