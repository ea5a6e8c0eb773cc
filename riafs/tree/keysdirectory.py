"""``.keys``: the keys that are stored for a dataset without a commit to show, as files with the keys' file names.

A storage without git (``create-sibling-ria --storage-sibling only``) holds content whose names are elsewhere. It only
grows, at its end, when it is listed and when a key is looked up that came later: no position, and no inode number with
it, ever comes to stand for something else.
"""

import os
from collections.abc import Mapping, Sequence

from riafs import memory
from riafs.content.annex import AnnexContents
from riafs.errors import MalformedKey, NoSuchName, NotADirectoryHere, NotThereYet
from riafs.formats.keys import Key, parse_file_name
from riafs.formats.names import valid_name
from riafs.storage.bytesource import RangedBytes
from riafs.tree.protocol import UNKNOWN_SIZE, Directory, Entry, Found, Kind, Versions

KEYS = b".keys"
_AT_ONCE = 4096
_PER_KEY = 900
"""Bytes of memory that a key takes here and in its listing."""


class KeysDirectory:
    """The keys in `contents` of the dataset `identifier`: see the Directory protocol."""

    renewable = False

    def __init__(self, contents: AnnexContents, identifier: bytes, mtime_ns: int) -> None:
        self._contents = contents
        self._identifier = identifier
        self._entries: list[Entry] = []
        self._positions: dict[bytes, int] = {}
        self.mtime_ns = mtime_ns

    async def entries(self, start: int) -> Sequence[Entry]:
        """See Directory. From the start on, what the storage has now is looked for. Raises OutOfMemory."""
        if start == 0:
            async for key in self._contents.stored_keys():
                if len(self._entries) % _AT_ONCE == 0:
                    memory.ensure(_AT_ONCE * _PER_KEY, f"the list of more than {len(self._entries)} keys")
                if valid_name(key.file_name) and key.file_name not in self._positions:
                    self._add(key, await self._size(key))
        return self._entries[start:]

    async def _size(self, key: Key) -> int | None:
        return await self._contents.size(key) if key.size is None else key.size

    def _add(self, key: Key, size: int | None) -> None:
        name = key.file_name
        if name not in self._positions:  # another task may have been as quick
            mtime_ns = self.mtime_ns if key.mtime is None else key.mtime * 1_000_000_000
            self._positions[name] = len(self._entries)
            known = UNKNOWN_SIZE if size is None else size
            self._entries.append(Entry(name, Kind.FILE, known, executable=False, mtime_ns=mtime_ns, version=name))

    async def prepare(self, start: int) -> None:
        """See Directory."""

    async def find(self, name: bytes) -> Found:
        """See Directory. Keys that were stored since the last listing are found."""
        if name not in self._positions:
            key = _key(name)
            size = await self._contents.size(key)
            if size is None:
                raise NotThereYet(f"{os.fsdecode(self._identifier)} stores no key {os.fsdecode(name)}")
            self._add(key, size if key.size is None else key.size)
        position = self._positions[name]
        return Found(position, self._entries[position])

    async def versions(self) -> Versions:
        """See Directory."""
        return Versions({name: name for name in self._positions}, set())

    async def directory(self, entry: Entry) -> Directory:
        """See Directory."""
        raise NotADirectoryHere(f"{os.fsdecode(entry.name)} is a key")

    async def open(self, entry: Entry) -> RangedBytes:
        """See Directory."""
        shown = f"{os.fsdecode(entry.name)!r} in {os.fsdecode(KEYS)} of dataset {os.fsdecode(self._identifier)}"
        return await self._contents.find(parse_file_name(entry.name), lambda: shown)

    async def target(self, entry: Entry) -> bytes:
        """See Directory."""
        raise NoSuchName(f"{os.fsdecode(entry.name)} is no link")

    async def attributes(self, entry: Entry, name: str | None = None) -> Mapping[str, bytes]:
        """See Directory."""
        key = parse_file_name(entry.name)
        known = {**await self.own_attributes(), "kind": b"annex", "key": key.serialised}
        return known if name in known else {**known, **await self._contents.attributes(key, name)}

    async def own_attributes(self) -> Mapping[str, bytes]:
        """See Directory."""
        return {"dataset": self._identifier}

    async def renewed(self, turn: int) -> Directory | None:
        """See Directory."""
        return None


def _key(name: bytes) -> Key:
    """The key whose file name is `name`. Raises NoSuchName for what is none, and for a part of one."""
    try:
        key = parse_file_name(name)
    except MalformedKey:
        key = None
    if key is None or key.file_name != name or key.unchunked() != key:
        raise NoSuchName(f"{os.fsdecode(name)} is no key's file name")
    return key
