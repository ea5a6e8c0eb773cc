"""The blocks of a collection as parts that can be checked."""

from collections.abc import Sequence
from dataclasses import dataclass

from riafs.content.parts import Copy, CopyState
from riafs.content.segments import CollectionReader
from riafs.formats.locators import EMPTY_BLOCK
from riafs.formats.manifests.blocks import NO_BLOCK


@dataclass(frozen=True, slots=True)
class BlockPart:
    """A block of a collection's manifest: see Part. `replication`: how many copies the collection asks for, if it does.

    NO_BLOCK stands for bytes that a manifest claims and has no block for: they are in no place.
    """

    reader: CollectionReader
    block: int
    replication: int | None
    kind: str = "block"

    @property
    def name(self) -> bytes:
        """See Part. Raises MalformedLocator, only where the manifest was read leniently."""
        if self.block == NO_BLOCK:
            return b"none, in the manifest " + self.reader.manifest.portable_data_hash
        return self.reader.manifest.locator(self.block).unsigned

    @property
    def identity(self) -> bytes:
        """See Part: blocks of one digest are the same, whatever collection they are in."""
        return self.name

    @property
    def size(self) -> int | None:
        """See Part."""
        return 0 if self.block == NO_BLOCK else self.reader.manifest.locator(self.block).size

    def wanted(self, copies: int | None) -> int | None:
        """See Part. The block of no bytes is stored nowhere."""
        return None if self.name == EMPTY_BLOCK.unsigned else self.replication if copies is None else copies

    async def copies(self, *, every: bool) -> Sequence[Copy]:
        """See Part."""
        if self.name == EMPTY_BLOCK.unsigned:
            return (Copy("every client", CopyState.GOOD),)
        return await self.reader.copies(self.block, every=every)
