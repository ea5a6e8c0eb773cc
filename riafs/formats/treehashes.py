"""BLAKE2bp and BLAKE2sp: BLAKE2 over several leaves side by side (the BLAKE2 paper, section 2.10).

The input is dealt out to the leaves in blocks, one after the other; the root hashes the leaves' digests. Python's
hashlib has the node parameters but not the tree. BLAKE2sp with a 224-bit digest is not possible this way: its leaves
announce 28 bytes and give 32.
"""

import hashlib
from collections.abc import Callable
from typing import Protocol


class _Node(Protocol):
    def update(self, data: bytes | memoryview, /) -> object: ...

    def digest(self) -> bytes: ...

    def hexdigest(self) -> str: ...

    def copy(self) -> "_Node": ...


class _TreeHash:
    """A root over `leaves` leaves; `_pending` is always shorter than one round of blocks."""

    __slots__ = ("_block", "_leaves", "_new_node", "_pending", "_size")

    def __init__(self, algorithm: Callable[..., _Node], leaves: int, block: int, size: int) -> None:
        def new_node(offset: int, depth: int, *, last: bool) -> _Node:
            return algorithm(
                digest_size=size,
                fanout=leaves,
                depth=2,
                inner_size=size,
                node_offset=offset,
                node_depth=depth,
                last_node=last,
            )

        self._new_node = new_node
        self._leaves = [new_node(leaf, 0, last=leaf == leaves - 1) for leaf in range(leaves)]
        self._block = block
        self._pending = b""

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take in the next bytes."""
        ready = self._pending + data if self._pending else data
        round_length = self._block * len(self._leaves)
        whole = len(ready) - len(ready) % round_length
        self._deal(self._leaves, memoryview(ready)[:whole])
        self._pending = bytes(ready[whole:])

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""
        leaves = [leaf.copy() for leaf in self._leaves]
        self._deal(leaves, memoryview(self._pending))
        root = self._new_node(0, 1, last=True)
        for leaf in leaves:
            root.update(leaf.digest())
        return root.hexdigest()

    def _deal(self, leaves: list[_Node], data: memoryview) -> None:
        stride = self._block * len(leaves)
        for position, leaf in enumerate(leaves):
            starts = range(position * self._block, len(data), stride)
            leaf.update(b"".join([data[start : start + self._block] for start in starts]))


class Blake2bp(_TreeHash):
    """BLAKE2bp with a digest of 512 bits: four leaves of BLAKE2b."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(hashlib.blake2b, leaves=4, block=128, size=64)


class Blake2sp(_TreeHash):
    """BLAKE2sp with a digest of 256 bits: eight leaves of BLAKE2s."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(hashlib.blake2s, leaves=8, block=64, size=32)
