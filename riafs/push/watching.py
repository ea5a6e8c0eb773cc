"""Who is told how a push goes on: a progress bar, nobody, or a test that ends the process at some step."""

import enum
from typing import Protocol


class Step(enum.Enum):
    """What a push does, in this order. What is counted stands behind each."""

    OBJECTS = "objects"
    """Bytes of new content."""
    HISTORY = "history"
    """git objects."""
    REFS = "refs"
    """Refs moved; then the push is done."""


class Watcher(Protocol):
    """Called from the event loop; must not take time."""

    def begin(self, step: Step, total: int) -> None:
        """A step begins; `total` is what it is expected to count, 0 if that is not known."""

    def advance(self, amount: int) -> None:
        """So much more of the current step is done."""


class Nobody:
    """Watches nothing."""

    def begin(self, step: Step, total: int) -> None:
        """See Watcher."""

    def advance(self, amount: int) -> None:
        """See Watcher."""
