"""Which keys a dataset's object directories and archives hold, whether any file uses them or not.

Names in a store are whoever's: what is no key in the place of a key is passed over. Chunks stand for the key they are
part of. Names that hide the key they stand for (encrypted storage) are passed over too.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice

from riafs.content.shelf import PLACES, ArchiveShelf
from riafs.errors import MalformedKey, NotInStore
from riafs.formats.keys import Key, parse_file_name
from riafs.storage.protocol import ItemKind, Storage, listing_of

_HIDDEN = b"GPGHMAC"
_SOME = 1024


class StoredKeys:
    """Keys below the store's path `objects` and in the archives of `shelf`, in any order; a key may come several times.

    Iterating, and `some`, raise what listing raises, ArchiveError and its kinds. It may be left off anywhere.
    """

    def __init__(self, storage: Storage, objects: bytes, shelf: ArchiveShelf) -> None:
        self._storage = storage
        self._objects = objects
        self._shelf = shelf
        self._directories: Iterator[bytes] | None = None
        """The outer hash directories that were not listed yet, once these are known,"""
        self._archives = iter(PLACES)
        """and the archives."""
        self._names: Iterator[bytes] = iter(())
        self._ready: Iterator[Key] = iter(())

    def __aiter__(self) -> "StoredKeys":
        return self

    async def __anext__(self) -> Key:
        key = next(self._ready, None)
        if key is None:
            self._ready = iter(await self.some())
            key = next(self._ready, None)
        if key is None:
            raise StopAsyncIteration
        return key

    async def some(self) -> Sequence[Key]:
        """The next keys, as many as need no slices; none at the end."""
        while True:
            found = list(islice(_keys(self._names), _SOME))
            if found:
                return found
            names = await self._more_names()
            if names is None:
                return found
            self._names = names

    async def _more_names(self) -> Iterator[bytes] | None:
        """Names in the place of keys; None when all were given."""
        if self._directories is None:
            self._directories = iter(await _directories(self._storage, self._objects))
        for directory in self._directories:
            return chain.from_iterable(await _listed(self._storage, await _directories(self._storage, directory)))
        for place in self._archives:
            return (name.rpartition(b"/")[2] for name in await self._shelf.names(place))
        return None


async def _directories(storage: Storage, path: bytes) -> list[bytes]:
    try:
        items = await listing_of(storage).list(path)
    except NotInStore:
        return []
    return sorted(path + b"/" + item.name for item in items if item.kind is ItemKind.DIRECTORY)


async def _listed(storage: Storage, paths: list[bytes]) -> list[list[bytes]]:
    """The names of the directories in each of `paths`."""
    return [
        sorted(item.name for item in items if item.kind is ItemKind.DIRECTORY)
        for items in await listing_of(storage).list_each(paths)
    ]


def _keys(names: Iterable[bytes]) -> Iterator[Key]:
    for name in names:
        try:
            key = parse_file_name(name)
        except MalformedKey:
            continue
        if not key.backend.startswith(_HIDDEN):
            yield key.unchunked()
