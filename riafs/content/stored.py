"""Which keys a dataset's object directories and archives hold, whether any file uses them or not.

Names in a store are whoever's: what is no key in the place of a key is passed over. Chunks stand for the key they are
part of. Names that hide the key they stand for (encrypted storage) are passed over too.
"""

from collections.abc import AsyncIterator, Iterable

from riafs.content.shelf import PLACES, ArchiveShelf
from riafs.errors import MalformedKey, NotInStore
from riafs.formats.keys import Key, parse_file_name
from riafs.storage.protocol import ItemKind, Storage, listing_of

_HIDDEN = b"GPGHMAC"


async def stored_keys(storage: Storage, objects: bytes, shelf: ArchiveShelf) -> AsyncIterator[Key]:
    """Keys below the store's path `objects` and in the archives of `shelf`; a key may come several times.

    Raises what listing raises, ArchiveError and its kinds.
    """
    for first in await _directories(storage, objects):
        for names in await _listed(storage, await _directories(storage, first)):
            for key in _keys(names):
                yield key
    for place in PLACES:
        for key in _keys(name.rpartition(b"/")[2] for name in await shelf.names(place)):
            yield key


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


def _keys(names: Iterable[bytes]) -> Iterable[Key]:
    for name in names:
        try:
            key = parse_file_name(name)
        except MalformedKey:
            continue
        if not key.backend.startswith(_HIDDEN):
            yield key.unchunked()
