"""How whoever started a long piece of work sees it go on.

A Watcher is told before anything that changes the store happens, so a test can stop the work at any such point.
"""

import enum
from typing import Protocol


class Step(enum.Enum):
    """The parts of the work, in their order. The value says what is going on."""

    LOOKING = "looking at the store"
    PACKING = "packing"
    CHECKING = "checking"
    REPLACING = "replacing the archive"
    UNPACKING = "unpacking"
    REMOVING = "removing"


class Watcher(Protocol):
    """Is told what is going on; an exception from it ends the work as an interrupt would."""

    def begin(self, step: Step, total: int) -> None:
        """A step begins that will advance by `total` in all: bytes, or objects where they are removed."""

    def advance(self, amount: int) -> None:
        """The step is about to go on by `amount`."""


class Nobody:
    """A Watcher that does not watch."""

    def begin(self, step: Step, total: int) -> None:
        """See Watcher."""

    def advance(self, amount: int) -> None:
        """See Watcher."""
