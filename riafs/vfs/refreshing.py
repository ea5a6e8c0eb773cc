"""Moving a mount to newer versions of its directories.

All directories that have to change together (those below a dataset whose branch moved, as far as they were entered) are
looked up first; then they are replaced in one step without an await, so that no reader sees a mixture of two commits.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from riafs.tree.protocol import Directory
from riafs.tree.slots import own_slots
from riafs.vfs.nodes import Node, Renumbering, inode_of, renumbered


@dataclass(frozen=True, slots=True)
class Invalidation:
    """What the kernel has to forget of one directory."""

    inode: int
    names: frozenset[bytes]
    """Names that stand for another inode now, or for none."""
    directories: tuple[int, ...]
    """Inodes of directories in it that are still there and have changed."""
    contents: tuple[int, ...] = ()
    """Inodes of files in it that have other content now."""


@dataclass(frozen=True, slots=True)
class _Step:
    node: Node
    directory: Directory
    renumbering: Renumbering
    change: Invalidation


class Refresher:
    """One renewal. `nodes`: every directory entered, by its inode; `turn`: see Directory.renewed."""

    def __init__(self, nodes: Mapping[int, Node], turn: int) -> None:
        self._nodes = nodes
        self._turn = turn
        self._steps: list[_Step] = []

    async def renew(self, node: Node) -> list[Invalidation]:
        """Ask for a newer version of `node` and move to it. Returns what changed, nothing if there is none."""
        newer = await node.directory.renewed(self._turn)
        return [] if newer is None or node.held else await self.move(node, newer)

    async def move(self, node: Node, newer: Directory, *, elsewhere: bool = False) -> list[Invalidation]:
        """Move `node` to `newer`, and what was entered below it along with it. Returns what changed.

        `elsewhere`: `newer` has another path, so that directories in it are others although nothing in them changed.
        """
        held, entered = node.held, -1
        while entered != len(self._nodes):  # a directory that is entered while others are looked up has to come along
            entered = len(self._nodes)
            self._steps.clear()
            await self._prepare(node, newer, elsewhere=elsewhere)
        if any(step.node.held for step in self._steps if step.node is not node) or node.held != held:
            return []  # something was laid over it meanwhile; the next round looks again
        for step in self._steps:
            step.node.directory = step.directory
            step.node.renumbering = step.renumbering
        return [step.change for step in self._steps]

    async def _prepare(self, node: Node, newer: Directory, *, elsewhere: bool) -> None:
        """Plan the move of `node` and of the directories in it that were entered and have changed: those first."""
        waiting = [(node, newer)]
        while waiting:
            waiting += await self._prepare_one(*waiting.pop(), elsewhere=elsewhere)
        self._steps.reverse()

    async def _prepare_one(self, node: Node, newer: Directory, *, elsewhere: bool) -> list[tuple[Node, Directory]]:
        """Plan the move of one directory. Returns those in it that have to move as well, and where to."""
        below = []
        old, new = await node.directory.versions(), await newer.versions()
        wanted = await own_slots(newer)
        before = await node.slots()
        renumbering, names = renumbered(node, old, new, before, None if wanted is None else await wanted.reach())
        changed = []
        for position, (name, version) in enumerate(new.of.items()):
            if name not in new.directories or name in names or (old.of[name] == version and not elsewhere):
                continue
            inode = inode_of(node.number, renumbering.slots[position])
            if old.of[name] != version:
                changed.append(inode)
            child = self._nodes.get(inode)
            if child is not None and not child.held:
                entry = (await newer.find(name)).entry
                below.append((child, await newer.directory(entry)))
        self._steps.append(_Step(node, newer, renumbering, Invalidation(node.inode, names, tuple(changed))))
        return below
