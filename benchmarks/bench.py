"""What all measurements share: how thorough they are, and where their data lies."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bench:
    """The choices of one run. Stores below `data` are made once and used again by later runs."""

    data: Path
    quick: bool
    whole_get: bool
    """Let DataLad get all files instead of a tenth of them."""

    @property
    def rounds(self) -> int:
        """How often each side of a comparison has its turn."""
        return 3 if self.quick else 5

    def sized(self, full: int, quick: int) -> int:
        """The size of a data set."""
        return quick if self.quick else full
