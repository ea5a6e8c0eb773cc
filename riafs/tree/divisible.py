"""Directories whose content can be checked part by part (see content/parts): protocols beside Directory."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol, runtime_checkable

from riafs.content.parts import Part
from riafs.tree.protocol import Entry


@runtime_checkable
class Divisible(Protocol):
    """A directory that knows what its files are made of."""

    async def parts(self, entry: Entry) -> Sequence[Part]:
        """The parts of the file `entry`, in order, some perhaps several times. Reads no content."""


@runtime_checkable
class Holding(Protocol):
    """The top of something that may hold more than its files show: keys of other versions, blocks no file uses."""

    @property
    def holding(self) -> bool:
        """Whether it is such a top."""

    def held(self) -> AsyncGenerator[Part, None]:
        """All parts that are stored for it, used by a file or not. Raises what listing them raises."""
