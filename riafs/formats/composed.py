"""Files of composed trees: one tree whose parts come from several collections.

A line is ``TARGET SOURCE``: a path of the tree, and the file or folder at this path, as ``COLLECTION`` or
``COLLECTION/PATH`` (a name, uuid or portable data hash of a collection). Names are written as in manifests, a blank as
``\\040``. Empty lines and lines that begin with ``#`` mean nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from riafs.errors import MalformedComposition
from riafs.formats.manifests.text import PATH, possible, unescaped
from riafs.formats.names import MAX_NAME
from riafs.formats.text import shown


class CollectionPath(NamedTuple):
    """The content of a path of the tree: a path of a collection, ``b""`` for all of it."""

    collection: bytes
    path: bytes


@dataclass(frozen=True, slots=True)
class ComposedFolder:
    """A folder of the tree itself."""

    entries: Mapping[bytes, "ComposedFolder | CollectionPath"]


def parse_composition(text: bytes) -> ComposedFolder:
    """The tree that `text` describes, names in the order of their bytes. Raises MalformedComposition."""
    tree: _Tree = {}
    for number, line in enumerate(text.split(b"\n"), 1):
        if line.strip() and not line.startswith(b"#"):
            try:
                _add(tree, line)
            except MalformedComposition as error:
                raise MalformedComposition(f"line {number}: {error}") from None
    return _sorted(tree)


_Tree = dict[bytes, "CollectionPath | _Tree"]


def _add(tree: _Tree, line: bytes) -> None:
    """Add one line."""
    target, blank, source = line.partition(b" ")
    if not blank:
        raise MalformedComposition(f"{shown(line)} is not a path, a blank and a source")
    *folders, name = _parts(target)
    for folder in folders:
        below = tree.setdefault(folder, {})
        if isinstance(below, CollectionPath):
            raise MalformedComposition(f"{shown(target)} is below a place that another line fills")
        tree = below
    if name in tree:
        raise MalformedComposition(f"{shown(target)} is filled by another line already")
    collection, *path = _parts(source)
    tree[name] = CollectionPath(collection, b"/".join(path))


def _parts(path: bytes) -> list[bytes]:
    """The names in a written path."""
    parts = unescaped(path).split(b"/")
    if PATH.fullmatch(path) is None or not possible(parts):
        raise MalformedComposition(f"{shown(path)} is no relative path, written as in manifests")
    if max(map(len, parts)) > MAX_NAME or b"\0" in b"".join(parts):
        raise MalformedComposition(f"{shown(path)} has a name in it that no file can have")
    return parts


def _sorted(tree: _Tree) -> ComposedFolder:
    trees = [tree]
    for each in trees:  # grows meanwhile
        trees += [below for below in each.values() if not isinstance(below, CollectionPath)]
    folders: dict[int, ComposedFolder] = {}
    for each in reversed(trees):  # what is in a folder comes before it
        found = (
            (name, below if isinstance(below, CollectionPath) else folders[id(below)]) for name, below in each.items()
        )
        folders[id(each)] = ComposedFolder(dict(sorted(found, key=itemgetter(0))))
    return folders[id(tree)]
