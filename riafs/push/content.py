"""The content of changed files: reading it, and writing it to the annex or to git.

A changed file has local bytes, and those of its base commit elsewhere. Its key, or the name of git's blob, is known
after its content was written; then its tree entry is made.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from riafs.errors import MalformedText, PushRefused, StoreError
from riafs.formats.annex import MAX_POINTER, locked_target, parse_pointer, pointer_text
from riafs.formats.conversions import Ends
from riafs.formats.digests import KeyMaker
from riafs.formats.gitobjects import EXECUTABLE, FILE, LINK, TreeEntry, object_name, tree_entry
from riafs.formats.keys import Key
from riafs.formats.largefiles import LOOKED_AT
from riafs.formats.names import parents_of
from riafs.git.config import ATTRIBUTES_FILE, AttributeFiles, AttributeValues
from riafs.overlay.changes import BaseEntry, Change, LocalContent
from riafs.overlay.data_files import is_ours
from riafs.push.destination import Destination
from riafs.push.objects import PIECE, ObjectWriter, Wanted
from riafs.push.rules import ATTRIBUTES, Rules, Verdict, annexed_key
from riafs.push.trees import TreeEditor
from riafs.slices import Pauses, Sliced, in_slices
from riafs.storage.bytesource import Buffer, MemoryBytes, RangedBytes
from riafs.storage.local_file import FileBytes

_BLOB_IN_MEMORY = 1 << 20
_MAX_ATTRIBUTES = 1 << 20
_SHOWN = 10
_LINK_MODE = b"%o" % LINK


def open_local(content: LocalContent) -> FileBytes:
    """The local file, which may be shorter than the content. Raises StoreError."""
    name = os.fsdecode(content.data)
    try:
        descriptor = os.open(content.data, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise StoreError(f"{name} of the overlay cannot be read: {error.strerror}") from error
    status = os.fstat(descriptor)
    if not is_ours(status):
        os.close(descriptor)
        raise StoreError(f"{name} of the overlay cannot be read: it is no regular file of this user")
    return FileBytes(descriptor, status.st_size, name)


class PatchedBytes:
    """RangedBytes: `local` in the ranges `extents`, `base` elsewhere, and zeros beyond their ends. Owns both."""

    def __init__(
        self, local: RangedBytes, base: RangedBytes | None, extents: Sequence[tuple[int, int]], size: int
    ) -> None:
        self._local = local
        self._base = base
        self._extents = extents
        self._starts = [start for start, _ in extents]
        self._size = size

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    async def read(self, offset: int, length: int) -> Buffer:
        end = min(offset + length, self._size)
        parts: list[Buffer] = []
        while offset < end:
            source, until = self._at(offset)
            stop = min(until, end)
            data = b"" if source is None else await source.read(offset, stop - offset)
            parts += [data, bytes(stop - offset - len(data))]
            offset = stop
        return b"".join(parts)

    def _at(self, offset: int) -> tuple[RangedBytes | None, int]:
        """The source of the byte at `offset`, and the end of the range with the same source."""
        index = bisect_right(self._starts, offset) - 1
        if index >= 0 and offset < self._extents[index][1]:
            return self._local, self._extents[index][1]
        following = self._starts[index + 1] if index + 1 < len(self._starts) else self._size
        return self._base, following

    def close(self) -> None:
        """Close both."""
        self._local.close()
        if self._base is not None:
            self._base.close()


@dataclass(frozen=True, slots=True)
class Placed:
    """The result for one file. `key` is None for content in git."""

    entry: TreeEntry
    key: Key | None


class ContentSource:
    """Opens the content of changes: local bytes over those of the base commit."""

    def __init__(self, destination: Destination) -> None:
        self._dataset = destination.dataset

    async def open(self, change: Change) -> RangedBytes:
        """The whole new content. Raises StoreError, MissingContent, …"""
        content = change.content
        assert content is not None
        if content.size == 0:
            return MemoryBytes(b"")
        local: RangedBytes = open_local(content) if content.data else MemoryBytes(b"")
        if content.is_whole and local.size == content.size:
            return local
        base = None if content.is_whole else await self._base(change)
        return PatchedBytes(local, base, content.extents, content.size)

    async def _base(self, change: Change) -> RangedBytes | None:
        base = change.base
        if base is None:
            return None
        key = annexed_key(base)
        if key is not None:
            return await self._dataset.contents.open(key, lambda: f"{base.path!r} of {self._dataset.name}")
        return await self.blob(base)

    async def blob(self, base: BaseEntry) -> RangedBytes:
        """The content of a file in git in the base commit. Raises StoreError, …"""
        oid = base.origin.version
        [known] = await self._dataset.repository.objects([b"info " + oid])
        if known is None:
            raise StoreError(f"git object {oid.decode()} of {self._dataset.name} cannot be read")
        return await self._dataset.repository.open_blob(oid, known.size)


class Placer:
    """Writes content to the annex or to git, as `rules` decide; new blobs are added to `trees`."""

    def __init__(self, destination: Destination, rules: Rules, trees: TreeEditor) -> None:
        self._to = destination
        self._rules = rules
        self._trees = trees
        self._source = ContentSource(destination)
        self.converted: set[bytes] = set()
        """Paths of files that git stores with other bytes."""
        self.pointers: dict[bytes, Key] = {}
        """Paths of files in git with the content of a pointer of git-annex → its key, whose content is shown there."""

    async def verdict(self, change: Change) -> Verdict:
        """Whether the file goes to the annex, and with which backend. Raises PushRefused, MissingProgram."""
        content = change.content
        assert content is not None
        head = b""
        if self._rules.reads_content(change):
            opened = await self._source.open(change)
            try:
                head = bytes(await opened.read(0, LOOKED_AT))
            finally:
                opened.close()
        verdict = self._rules.decide(change, content.size, head)
        if verdict.backend is not None and self._to.obstacle:
            raise PushRefused(self._to.obstacle)
        return verdict

    async def check(self, changes: Sequence[Change], *, unfiltered: bool) -> None:
        """Raise PushRefused for files that git cannot convert, and unless `unfiltered` for those with a filter, which
        may be a program that encrypts them.
        """
        filtered: list[str] = []
        pauses = Pauses()
        for change in changes:
            await pauses.pause()
            conversion = self._rules.conversion(change.path)
            if conversion.filter is None and conversion.encoding is None:
                continue
            if (await self.verdict(change)).backend is not None:
                continue
            if conversion.filter is not None:
                filtered.append(f"{os.fsdecode(change.path)} (filter={conversion.filter.decode(errors='replace')})")
            if conversion.encoding is not None:
                await self.foresee(change)
        if filtered and not unfiltered:
            more = f" and {len(filtered) - _SHOWN} more" if len(filtered) > _SHOWN else ""
            raise PushRefused(
                f"{self._to.dataset.name}: .gitattributes demands filters, which riafs does not run, for "
                f"{', '.join(filtered[:_SHOWN])}{more}; commit them in a clone that has the filters, or push the bytes "
                "as they are with --unfiltered"
            )

    async def place(self, change: Change, objects: ObjectWriter) -> Placed:
        """Write the content to git, or to the store by `objects`, where it is complete after `ObjectWriter.finish`."""
        content = change.content
        assert content is not None
        verdict = await self.verdict(change)
        if verdict.backend is None:
            return Placed(tree_entry(_mode(content), await self._store_blob(change, content)), None)
        wanted = Wanted(change.path, lambda: self._source.open(change), verdict.backend, content.executable)
        key = await objects.put(wanted)
        return Placed(self._annexed(change, content, key, unlocked=verdict.unlocked), key)

    async def foresee(self, change: Change) -> TreeEntry:
        """The tree entry that `place` will make, without writing anything."""
        content = change.content
        assert content is not None
        verdict = await self.verdict(change)
        opened = await self._source.open(change)
        try:
            if verdict.backend is None:
                data = await self._converted(change, bytes(await opened.read(0, opened.size)))
                return tree_entry(_mode(content), object_name(b"blob", data, self._to.git.digits))
            maker = KeyMaker(verdict.backend)
            for offset in range(0, opened.size, PIECE):
                maker.update(await opened.read(offset, PIECE))
        finally:
            opened.close()
        key = maker.key(change.path, self._rules.extensions)
        return self._annexed(change, content, key, unlocked=verdict.unlocked)

    async def _store_blob(self, change: Change, content: LocalContent) -> bytes:
        opened = await self._source.open(change)
        try:
            if self._rules.conversion(change.path).changes_nothing and content.size > _BLOB_IN_MEMORY:
                return await self._to.git.store_blob(opened)
            data = await self._converted(change, bytes(await opened.read(0, opened.size)))
        finally:
            opened.close()
        if len(data) > _BLOB_IN_MEMORY:
            return await self._to.git.store_blob(MemoryBytes(data))
        self._note_pointer(change, data)
        return self._trees.add(b"blob", data)

    async def look_for_pointer(self, change: Change) -> None:
        """Note in `pointers` whether a file in git has the content of a pointer."""
        if change.content is not None and change.content.size <= MAX_POINTER:
            opened = await self._source.open(change)
            try:
                self._note_pointer(change, bytes(await opened.read(0, opened.size)))
            finally:
                opened.close()

    def _note_pointer(self, change: Change, data: bytes) -> None:
        key = parse_pointer(data)
        if key is not None:
            self.pointers[change.path] = key

    async def _converted(self, change: Change, data: bytes) -> bytes:
        """The bytes that ``git add`` would store for a file, so that a checkout has its content. Raises PushRefused."""
        conversion = self._rules.conversion(change.path)
        if conversion.changes_nothing:
            return data
        before = b""
        base = change.base
        is_blob = base is not None and not base.origin.content and base.origin.mode in (FILE, EXECUTABLE)
        if conversion.ends is Ends.GUESSED and b"\r\n" in data and base is not None and is_blob:
            opened = await self._source.blob(base)
            try:
                before = bytes(await opened.read(0, opened.size))
            finally:
                opened.close()
        try:
            convert = partial(conversion.stored, data, before)
            stored = convert() if len(data) < _BLOB_IN_MEMORY else await trio.to_thread.run_sync(convert)
        except MalformedText as problem:
            raise PushRefused(f"{os.fsdecode(change.path)} cannot be pushed: {problem}") from problem
        if stored != data:
            self.converted.add(change.path)
        return stored

    def _annexed(self, change: Change, content: LocalContent, key: Key, *, unlocked: bool) -> TreeEntry:
        if not unlocked:
            return tree_entry(LINK, self._trees.add(b"blob", locked_target(key, change.path)))
        return tree_entry(_mode(content), self._trees.add(b"blob", pointer_text(key)))


def _mode(content: LocalContent) -> int:
    return EXECUTABLE if content.executable else FILE


# -- rules of a dataset -----------------------------------------------------------------------------------------------


async def load_rules(
    destination: Destination, trees: TreeEditor, root: bytes, contents: Sequence[Change], search_path: str
) -> Rules:
    """The rules for files of `contents` in the tree `root` (hex), which has all other files."""
    paths = [change.path for change in contents]
    attributes: list[AttributeValues] = []
    if paths:
        files = await _attribute_files(destination, trees, root, contents)
        attributes = await files.of(paths, ATTRIBUTES, destination.gits)
    return Rules(
        dict(zip(paths, attributes, strict=bool(attributes))),
        {} if destination.annex is None else destination.annex.configured,
        has_annex=destination.annex is not None,
        search_path=search_path,
    )


def _directories(contents: Sequence[Change]) -> Sliced[set[bytes]]:
    found = {b""}
    for change in contents:
        found.update(parent + b"/" for parent in parents_of(change.path))
        yield
    return found


async def _attribute_files(
    destination: Destination, trees: TreeEditor, root: bytes, contents: Sequence[Change]
) -> AttributeFiles:
    directories = await in_slices(_directories(contents))
    found = await trees.look_up(root, [directory + ATTRIBUTES_FILE for directory in directories])
    # git reads no attributes through links
    known = {
        path: entry.oid.hex().encode()
        for path, entry in found.items()
        if entry is not None and entry.mode != _LINK_MODE
    }
    blobs = await destination.dataset.repository.objects(
        [b"contents " + oid for oid in known.values()], _MAX_ATTRIBUTES
    )
    files = {path: blob.data for path, blob in zip(known, blobs, strict=True) if blob is not None}
    pauses = Pauses()
    for change in contents:
        await pauses.pause()
        if change.path.rpartition(b"/")[2] == ATTRIBUTES_FILE:
            opened = await ContentSource(destination).open(change)
            files[change.path] = bytes(await opened.read(0, _MAX_ATTRIBUTES))
            opened.close()
    return AttributeFiles(files)
