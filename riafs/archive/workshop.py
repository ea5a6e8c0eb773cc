"""What all archives of a mount decode with."""

import trio

from riafs.archive.blocks import MemberBlocks
from riafs.archive.extractor import Extractor
from riafs.archive.passes import PassPool
from riafs.counters import Counters


class Workshop:
    """`spill`: bytes of disk for large members in the making, in the extractor's directory; `memory`: bytes of all
    decoders' dictionaries; `workers`: threads that decode at once, and as many that store and check."""

    def __init__(
        self, extractor: Extractor, blocks: MemberBlocks, counters: Counters, spill: int, memory: int, workers: int
    ) -> None:
        self.extractor = extractor
        self.blocks = blocks
        self.counters = counters
        self.spill = spill
        self.workers = trio.CapacityLimiter(workers)
        self.storing = trio.CapacityLimiter(workers)
        self.passes = PassPool(memory)
