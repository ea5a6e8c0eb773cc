"""LZMA2 with a dictionary reset every mebibyte, made by several threads; and whether it is worth it.

Each mebibyte is compressed by itself and so begins with a reset: a reader can start at any of them, and several threads
can decode one block. (liblzma ends a raw LZMA2 stream with a zero byte; without it, streams can be put in a row.)
"""

import lzma
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

PIECE = 1 << 20
"""Bytes between two resets, and of the dictionary."""
DICTIONARY_CODE = 16
"""What LZMA2's property byte says for a dictionary of PIECE bytes."""
END = b"\0"
"""Ends a stream."""
_FILTER = {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": PIECE}

_SAMPLE = 16 << 10
_SAMPLES = 4
_WORTH = 0.9
"""What samples must shrink to, at most, for content to be compressed: reading it back costs time every time."""


class Compressor:
    """Threads that compress; used as a context."""

    def __init__(self) -> None:
        self._threads = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="riafs-compress")

    def __enter__(self) -> "Compressor":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def compress(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The LZMA2 stream of `pieces`, each at most PIECE bytes, without its end. Keeps few of them in memory."""
        waiting: deque[Future[bytes]] = deque()
        for piece in pieces:
            waiting.append(self._pool.submit(_compress, piece))
            if len(waiting) > 2 * self._threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _compress(piece: bytes) -> bytes:
    return lzma.compress(piece, lzma.FORMAT_RAW, filters=[_FILTER])[: -len(END)]


def shrinks_to(size: int, read: Callable[[int, int], bytes]) -> float:
    """About what share of `size` bytes is left after compression, from samples; ``read(offset, length)``."""
    if size <= _SAMPLE * _SAMPLES:
        samples = [read(0, size)]
    else:
        samples = [read((size - _SAMPLE) * number // (_SAMPLES - 1), _SAMPLE) for number in range(_SAMPLES)]
    total = sum(map(len, samples))
    return sum(len(zlib.compress(sample, 1)) for sample in samples) / total if total else 1.0


def worth_compressing(share: float) -> bool:
    """Whether content that shrinks to `share` of its size is kept compressed."""
    return share <= _WORTH
