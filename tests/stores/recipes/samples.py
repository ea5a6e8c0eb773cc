"""Content for the files of the test stores: the same bytes in every run."""

import random

from tests.stores.work import Work


def noise(seed: str, size: int) -> bytes:
    """Bytes that no compressor shortens."""
    return random.Random(seed).randbytes(size)


def text(seed: str, size: int) -> bytes:
    """Lines that every compressor shortens."""
    dice = random.Random(seed)
    lines = b"".join(b"sample %d value %.6f\n" % (number, dice.random()) for number in range(size // 24 + 1))
    return lines[:size]


def calls(seed: str, size: int) -> bytes:
    """What looks like x86 code: calls of a few absolute places, as branch filters want them."""
    dice = random.Random(seed)
    places = [dice.randrange(size) for _ in range(8)]
    code = bytearray()
    while len(code) < size:
        code += b"\x55\x48\x89\xe5" + b"\xe8" + ((dice.choice(places) - len(code)) & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(code[:size])


def ramp(size: int) -> bytes:
    """32-bit numbers that grow evenly, as delta filters want them."""
    return b"".join((number * 1000).to_bytes(4, "little") for number in range(size // 4))


def various(work: Work) -> None:
    """Files of several kinds and sizes, of which one is empty."""
    work.write("text.txt", text(work.name, 200_000))
    work.write("noise.bin", noise(work.name, 100_003))
    work.write("empty.dat", b"")
    work.write("sub/small.txt", b"small file of " + work.name.encode() + b"\n")
    work.write("sub/deeper/ramp.dat", ramp(60_000))
    work.write("program.bin", calls(work.name, 80_000))
    work.write("code/run.sh", b"#!/bin/sh\necho " + work.name.encode() + b"\n", executable=True)
