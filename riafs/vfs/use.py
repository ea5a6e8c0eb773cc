"""Which directories that may be renewed are in use, and which of them a round of refreshing asks.

A mount that has been up for weeks has entered thousands of datasets, and to ask all of them every few seconds would
keep a file server busy for nobody. So what nobody has used for some rounds is asked in turn, a few in each round; what
was left out in the last round *rests*, and is asked before it is used again. Using a directory counts as using
everything above it, too.

The kernel answers much by itself. It is told to look directories' names up again after `PATIENT_ROUNDS`, so that
nothing is reached by a path without our being asked once it rests.
"""

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from riafs.vfs.nodes import Node

PATIENT_ROUNDS = 4
"""For so many rounds the kernel may go on with the name of a directory."""
_ROUNDS_IN_USE = PATIENT_ROUNDS + 2  # a round of manual refreshing may fall between


@dataclass(slots=True, eq=False)
class Use:
    """How the directory of `node` is used, with all that is below it. `above`: of the next one that may be renewed."""

    node: "Node"
    above: "Use | None"
    round: int = 0
    """In which it was used last."""
    handles: int = 0
    """How many are open."""
    asked: int = 0
    """The round in which it was asked last."""
    rests: bool = False
    """Whether it was left out in the last round."""

    def chain(self) -> "Iterator[Use]":
        """This one and those above it."""
        use: Use | None = self
        while use is not None:
            yield use
            use = use.above

    def opened(self, count: int) -> None:
        """So many handles more are open."""
        for use in self.chain():
            use.handles += count


class Uses:
    """Those of one mount, by the rounds of refreshing that it makes by itself."""

    def __init__(self) -> None:
        self._uses: list[Use] = []
        self._round = 0

    def of(self, node: "Node", above: Use | None) -> Use:
        """The use of a node that was entered or moved just now."""
        use = Use(node, above, self._round)
        self._uses.append(use)
        return use

    def mark(self, use: Use) -> bool:
        """It is used now. Whether it, or one above it, rests."""
        rests = False
        current: Use | None = use
        while current is not None:  # no generator: this is done for each request
            current.round = self._round
            rests = rests or current.rests
            current = current.above
        return rests

    def all(self) -> list[Use]:
        """Each of them, to be asked; none of them rests then."""
        self._drop_left()
        for use in self._uses:
            use.rests = False
        return list(self._uses)

    def due(self, unused: int) -> list[Use]:
        """Those that a new round asks: what is in use, the mount's root, and `unused` of the others."""
        self._round += 1
        self._drop_left()
        oldest = self._round - _ROUNDS_IN_USE
        asked: list[Use] = []
        others: list[Use] = []
        for use in self._uses:
            in_use = use.handles > 0 or use.round > oldest or use.above is None
            (asked if in_use else others).append(use)
            use.rests = not in_use
        for use in heapq.nsmallest(unused, others, key=lambda use: use.asked):
            use.rests = False
            asked.append(use)
        for use in asked:
            use.asked = self._round
        return asked

    def _drop_left(self) -> None:
        """Forget the uses of nodes that have another one now."""
        self._uses = [use for use in self._uses if use.node.use is use]
