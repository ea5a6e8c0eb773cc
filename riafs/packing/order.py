"""In which order keys go into an archive: that of the files that use them.

Files that lie beside each other are alike and are read together, so their keys compress better and are decoded in one
go. Keys that the dataset's current version does not use come last, in the order of their names.
"""

from collections.abc import Sequence
from contextlib import suppress

from riafs.errors import RiafsError
from riafs.formats.gitobjects import DIRECTORY, EXECUTABLE, FILE, LINK, Tree
from riafs.formats.pointers import MAX_POINTER, parse_pointer
from riafs.git.repository import Repository
from riafs.packing.loose import LooseObject

_MAX_DEPTH = 200


async def in_tree_order(objects: Sequence[LooseObject], repository: Repository) -> list[LooseObject]:
    """`objects` in the order of the paths that use them at HEAD; as given where there is no usable repository."""
    positions = await key_positions(repository)
    last = len(positions)
    return sorted(objects, key=lambda each: (positions.get(each.key.unchunked().serialised, last), each.path))


async def key_positions(repository: Repository) -> dict[bytes, int]:
    """Serialised key → how many keys come before it in the tree of HEAD, depth first. Empty without a repository."""
    positions: dict[bytes, int] = {}
    with suppress(RiafsError):  # an order that is half known is as good as any
        head = await repository.find(None)
        commit = await repository.commit(await repository.peeled(head.oid))
        await _walk(repository, commit.tree, positions, 0)
    return positions


async def _walk(repository: Repository, oid: bytes, positions: dict[bytes, int], depth: int) -> None:
    tree = await repository.tree(oid)
    keys = await _keys(repository, tree)
    for number, mode in enumerate(tree.modes):
        if mode == DIRECTORY and depth < _MAX_DEPTH:
            await _walk(repository, tree.oids[number].hex().encode(), positions, depth + 1)
        elif number in keys:
            positions.setdefault(keys[number], len(positions))


async def _keys(repository: Repository, tree: Tree) -> dict[int, bytes]:
    """Number of the entry → serialised key, for the annexed files of one directory."""
    blobs = [number for number, mode in enumerate(tree.modes) if mode in (FILE, EXECUTABLE, LINK)]
    known = await repository.objects([b"info " + tree.oids[number].hex().encode() for number in blobs])
    small = [number for number, blob in zip(blobs, known, strict=True) if blob and blob.size <= MAX_POINTER]
    found = await repository.objects([b"contents " + tree.oids[number].hex().encode() for number in small])
    keys = {}
    for number, blob in zip(small, found, strict=True):
        key = None if blob is None else parse_pointer(blob.data)
        if key is not None:
            keys[number] = key.serialised
    return keys
