"""What is wrong with single objects: reported, never the end of the work."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Damage:
    """Content that is not the key's, or cannot be read. `place`: a path below the dataset."""

    key: bytes
    place: str
    reason: str
