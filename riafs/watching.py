"""Progress of long operations.

A Watcher is told before anything that changes a store happens, so that a test can stop the work at any such point.
"""

import enum
from collections.abc import Callable
from typing import Protocol

Doing = Callable[[str], None]
"""Called at each step of something that takes long, with a sentence that could follow "while"."""


def untold(_: str) -> None:
    """For work without a requester."""


class Step(enum.Enum):
    """A part of some work; each kind of work has its own. The value is shown to users."""

    @property
    def in_bytes(self) -> bool:
        """Whether the step advances by bytes, not by objects."""
        return True


class Reading(Step):
    """The steps of a command that reads much and changes nothing."""

    COUNTING = "counting"
    READING = "reading"


class PushStep(Step):
    """The steps of pushing one dataset, in this order."""

    LOOKING = "looking at the changes"
    OBJECTS = "sending content"
    HISTORY = "writing history"
    """git objects."""
    REFS = "moving refs"
    """Then the push is done."""

    @property
    def in_bytes(self) -> bool:
        """Content is counted in bytes, anything else in objects."""
        return self is PushStep.OBJECTS


class PackingStep(Step):
    """The steps of writing or unpacking an archive, in this order."""

    LOOKING = "looking at the store"
    PACKING = "packing"
    CHECKING = "checking"
    REPLACING = "replacing the archive"
    UNPACKING = "unpacking"
    REMOVING = "removing"

    @property
    def in_bytes(self) -> bool:
        """Content is counted in bytes, anything else in objects."""
        return self in (PackingStep.PACKING, PackingStep.CHECKING, PackingStep.UNPACKING)


class Watcher(Protocol):
    """Called with the progress of work; must not take time. An exception from it ends the work like an interrupt."""

    def begin(self, step: Step, total: int) -> None:
        """A step begins that will advance by `total` in all; 0 where that is not known."""

    def advance(self, amount: int) -> None:
        """The step advances by `amount`."""

    def files(self, done: int, total: int) -> None:
        """So many files, keys or objects of so many (0: not known) are done in this step."""

    def at(self, name: str) -> None:
        """What follows concerns the dataset called `name`."""


class NoWatcher:
    """A Watcher that ignores everything."""

    def begin(self, step: Step, total: int) -> None:
        """Ignored."""

    def advance(self, amount: int) -> None:
        """Ignored."""

    def files(self, done: int, total: int) -> None:
        """Ignored."""

    def at(self, name: str) -> None:
        """Ignored."""
