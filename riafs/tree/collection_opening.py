"""Collections from their manifests, and ``by_id``: collections by uuid or portable data hash.

A manifest that is refused is shown as a broken directory with the reason. In ``by_id`` any collection can be looked up;
those that were are listed. It only grows, at its end: no position, and no inode number with it, ever comes to stand for
something else.
"""

import logging
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar, TypeVarTuple

import trio

from riafs import memory
from riafs.content.keep_blocks import KeepBlocks
from riafs.content.keep_files import CollectionReader
from riafs.counters import Counters
from riafs.errors import (
    MalformedManifest,
    NoSuchName,
    NotInStore,
    NotThereYet,
    RiafsError,
    SourceNotFound,
)
from riafs.formats.locators import is_identifier
from riafs.formats.manifests.manifest import Manifest
from riafs.formats.manifests.reader import ManifestReader
from riafs.storage.temporary import SpilledText, SpillFile
from riafs.tree.collection import Collection, CollectionDirectory, FolderCache
from riafs.tree.directories import BrokenDirectory, PlainDirectory, directory_entry
from riafs.tree.protocol import Directory, Entry, Found, Versions

log = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
ManifestText = bytes | SpilledText | AsyncIterable[bytes]
"""A manifest at once, or in pieces."""
FetchText = Callable[[], Awaitable[ManifestText]]
_IN_A_THREAD = 1 << 18
"""Bytes of a manifest from which on other readers would notice how long it takes."""
_PIECE = 1 << 20
_PER_PIECE = 16 << 20
"""Bytes of memory that are needed to read a piece; what is kept of it in memory are its folders."""
BY_ID = b"by_id"
Resolve = Callable[[bytes], Awaitable[Directory]]
"""The directory of a uuid or portable data hash, the same for the same one. Raises NotInStore."""


@dataclass(frozen=True, slots=True)
class CollectionTools:
    """What all collections of a mount share."""

    blocks: KeepBlocks
    counters: Counters
    lenient: bool
    """Whether manifests that break the rules are shown where it is clear what they mean."""
    folders: FolderCache
    spill: bytes
    """Directory for temporary files: what is too large to be kept in memory."""
    replication: int | None = None
    """How many copies of its blocks a collection gets that asks for no number."""


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What is known of a collection besides its manifest."""

    name: str
    """How the log calls it."""
    mtime_ns: int
    attributes: Mapping[str, bytes] = field(default_factory=dict)
    records: Mapping[bytes, bytes] = field(default_factory=dict)
    """Hidden files of its top directory: name → content."""
    replication: int | None = None
    """How many copies of each block are wanted; None for the default."""


async def collection_directory(
    tools: CollectionTools, text: ManifestText, info: CollectionInfo, fetch: FetchText | None = None
) -> CollectionDirectory | BrokenDirectory:
    """The top directory of the collection whose manifest is `text`, at once or in pieces.

    `fetch`: gets the same manifest with new permissions to read its blocks; None where none are needed. Raises
    OutOfMemory, and what reading the text raises.
    """
    try:
        manifest = await read_manifest(tools, text)
    except MalformedManifest as error:
        return broken_directory(info, error)

    async def renewed() -> Manifest:
        assert fetch is not None
        return await read_manifest(tools, await fetch())

    reader = CollectionReader(tools.blocks, manifest, None if fetch is None else renewed)
    copies = tools.replication if info.replication is None else info.replication
    collection = Collection(manifest, reader, info.mtime_ns, info.attributes, info.records, copies, tools.folders)
    return CollectionDirectory(collection, b"")


def broken_directory(info: CollectionInfo, error: RiafsError) -> BrokenDirectory:
    """What is shown instead of a collection; the log has the reason once."""
    log.warning("collection %s cannot be shown: %s", info.name, error)
    return BrokenDirectory(type(error)(f"collection {info.name}: {error}"), info.mtime_ns, **info.attributes)


async def read_manifest(tools: CollectionTools, text: ManifestText) -> Manifest:
    """The manifest that `text` is. Raises MalformedManifest, OutOfMemory, and what reading the text raises."""
    if not isinstance(text, SpilledText):
        return await _read(tools, text)
    async with aclosing(text.pieces()) as pieces:
        return await _read(tools, pieces)


async def _read(tools: CollectionTools, text: bytes | AsyncIterable[bytes]) -> Manifest:
    tools.counters.manifests_parsed += 1
    reader = ManifestReader(lenient=tools.lenient, pages=partial(SpillFile, tools.spill, "a collection's manifest"))
    size = len(text) if isinstance(text, bytes) else 0
    if isinstance(text, bytes):
        for start in range(0, size, _PIECE):
            await _in_a_thread_if_large(size, _feed, reader, text[start : start + _PIECE])
    else:
        async for piece in text:
            size += len(piece)
            await _in_a_thread_if_large(size, _feed, reader, piece)
    return await _in_a_thread_if_large(size, reader.finish)


def _feed(reader: ManifestReader, piece: bytes) -> None:
    if len(piece) >= _IN_A_THREAD:
        memory.ensure(_PER_PIECE, "a collection's manifest")
    reader.feed(piece)


async def _in_a_thread_if_large(size: int, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
    if size < _IN_A_THREAD:
        return function(*arguments)
    return await trio.to_thread.run_sync(function, *arguments)


def same_content(directory: Directory, info: CollectionInfo) -> CollectionDirectory | None:
    """The collection of `directory` with other times and records; None where it cannot be shown."""
    if not isinstance(directory, CollectionDirectory):
        return None
    newer = replace(directory.collection, mtime_ns=info.mtime_ns, attributes=info.attributes, records=info.records)
    return CollectionDirectory(newer, b"")


class ByIdDirectory(PlainDirectory):
    """The collections and projects that `resolve` finds, as far as they were looked up."""

    def __init__(self, resolve: Resolve, mtime_ns: int) -> None:
        self._resolve = resolve
        self._seen: dict[bytes, Directory] = {}
        self._positions: dict[bytes, int] = {}
        self.mtime_ns = mtime_ns

    async def entries(self, start: int) -> Sequence[Entry]:
        return [self._entry(name) for name in list(self._seen)[start:]]

    def _entry(self, name: bytes) -> Entry:
        return directory_entry(name, self._seen[name].mtime_ns, name)

    async def find(self, name: bytes) -> Found:
        if name not in self._positions:
            await self._look_up(name)
        return Found(self._positions[name], self._entry(name))

    async def _look_up(self, name: bytes) -> None:
        if not is_identifier(name):
            raise NoSuchName(f"{os.fsdecode(name)} is neither a uuid nor a portable data hash")
        try:
            directory = await self._resolve(name)
        except NotInStore as error:
            raise NotThereYet(str(error)) from error
        self._seen[name] = directory
        self._positions.setdefault(name, len(self._positions))  # another task may have been as quick

    async def versions(self) -> Versions:
        return Versions({name: name for name in self._seen}, self._seen.keys())

    async def directory(self, entry: Entry) -> Directory:
        return await self._resolve(entry.name)

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        return await self._seen[entry.name].own_attributes()


async def open_named(resolve: Resolve, name: bytes) -> Directory:
    """The directory that a source names. Raises SourceNotFound where there is no such thing, and as `resolve`."""
    try:
        return await resolve(name)
    except NotInStore as error:
        raise SourceNotFound(str(error)) from error
