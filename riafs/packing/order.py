"""In which order keys go into an archive: that of the files that use them.

Files that lie beside each other are alike and are read together, so their keys compress better and are decoded in one
go. Keys that the dataset's current version does not use come last, in the order of their names.
"""

from collections.abc import Sequence
from contextlib import suppress

from riafs.errors import RiafsError
from riafs.formats.annex import MAX_POINTER, parse_pointer
from riafs.formats.gitobjects import DIRECTORY, EXECUTABLE, FILE, LINK, Tree
from riafs.git.repository import Repository
from riafs.packing.loose import LooseObject


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
        waiting: list[tuple[bytes, bytes]] = [(commit.tree, b"")]
        while waiting:
            oid, key = waiting.pop()
            if key:
                positions.setdefault(key, len(positions))
            else:
                waiting += reversed(await _inside(repository, oid))
    return positions


async def _inside(repository: Repository, oid: bytes) -> list[tuple[bytes, bytes]]:
    """What is in a tree, in order: its directories as (name of the tree, nothing), its keys as (nothing, key)."""
    tree = await repository.tree(oid)
    keys = await _keys(repository, tree)
    found = []
    for number, mode in enumerate(tree.modes):
        if mode == DIRECTORY:
            found.append((tree.oids[number].hex().encode(), b""))
        elif number in keys:
            found.append((b"", keys[number]))
    return found


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
