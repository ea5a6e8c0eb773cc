"""What whoever watches a push is told of: a progress bar, nobody, or a test that ends the process at some step."""

from riafs import watching
from riafs.watching import Nobody, Watcher

__all__ = ["Nobody", "Step", "Watcher"]


class Step(watching.Step):
    """What a push does with each dataset, in this order."""

    LOOKING = "looking at the changes"
    OBJECTS = "sending content"
    HISTORY = "writing history"
    """git objects."""
    REFS = "moving refs"
    """Then the push is done."""

    @property
    def in_bytes(self) -> bool:
        """See Step."""
        return self is Step.OBJECTS
