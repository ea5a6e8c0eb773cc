"""Mutations: what damage and malice make of good bytes."""

import random
from collections.abc import Callable, Sequence

from tests.archive.headers import number

_CLAIMS = (0, 1, 2, 0x7F, 0x80, 0xFFFF, 10_000_000, 1 << 31, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_MARKS = bytes(range(0x1A)) + b"\x21\x23\x7f\x80\xc0\xe0\xff"
_LONGEST = 1 << 17

Mutation = Callable[[bytearray, random.Random], None]


def _flip(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _mark(data: bytearray, chance: random.Random) -> None:
    data[chance.randrange(len(data))] = chance.choice(_MARKS)


def _claim(data: bytearray, chance: random.Random) -> None:
    """Put a number, small or absurd, in place of a byte."""
    at = chance.randrange(len(data))
    data[at : at + 1] = number(chance.choice(_CLAIMS))


def _step(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    data[at] = (data[at] + chance.choice((-1, 1))) % 256


def _remove(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    del data[at : at + chance.choice((1, 1, 2, 4, 8, 32))]


def _repeat(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    part = data[at : at + chance.choice((1, 2, 3, 5, 8, 32))]
    data[at:at] = part * chance.choice((1, 1, 2, 50))


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def _zero(data: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(data))
    end = min(len(data), at + chance.choice((1, 4, 8, 64)))
    data[at:end] = bytes(end - at)


_MUTATIONS: Sequence[Mutation] = (_flip, _flip, _mark, _mark, _claim, _claim, _step, _remove, _repeat, _cut, _zero)


def mutated(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    """One of `seeds`, sometimes with the end of another one, after one to eight mutations."""
    data = bytearray(chance.choice(seeds))
    if chance.random() < 0.1:
        other = chance.choice(seeds)
        data[chance.randrange(len(data) + 1) :] = other[chance.randrange(len(other) + 1) :]
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        if data:
            chance.choice(_MUTATIONS)(data, chance)
    return bytes(data[:_LONGEST])
