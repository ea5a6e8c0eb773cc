"""What whoever watches an archive being written or unpacked is told of."""

from riafs import watching
from riafs.watching import Nobody, Watcher

__all__ = ["Nobody", "Step", "Watcher"]


class Step(watching.Step):
    """The parts of the work, in their order."""

    LOOKING = "looking at the store"
    PACKING = "packing"
    CHECKING = "checking"
    REPLACING = "replacing the archive"
    UNPACKING = "unpacking"
    REMOVING = "removing"

    @property
    def in_bytes(self) -> bool:
        """See Step."""
        return self in (Step.PACKING, Step.CHECKING, Step.UNPACKING)
