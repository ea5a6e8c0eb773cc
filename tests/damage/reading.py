"""Reading all of what is shown, beside what it may be: right, or an error that says so."""

import os
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import trio

from riafs.errors import RiafsError
from riafs.formats.names import parents_of
from riafs.tree.protocol import Kind

Shown = bytes | frozenset[bytes]
"""The bytes of a file, the target of a link, the names in a directory."""

Expected = Mapping[bytes, Sequence[Shown]]
"""Path → what may be shown there. A directory that shows nothing has to say why."""


BUDGET = 10.0
"""Seconds to read for. A repository in which git dies of everything makes each reader wait some seconds, by design."""
SLOWEST = 30.0
"""Seconds that one answer may take, of which one request to the store takes no more than 10."""


class Driver(Protocol):
    """See tests/behaviour/drivers and tests/writing/drivers."""

    async def ls(self, path: bytes) -> Sequence[bytes]: ...
    async def read(self, path: bytes) -> bytes: ...
    async def readlink(self, path: bytes) -> bytes: ...
    async def getxattr(self, path: bytes, name: str) -> bytes: ...
    async def kind(self, path: bytes) -> Kind: ...


async def check(shown: Driver, top: bytes, expected: Expected, chance: random.Random) -> Counter[str]:
    """Read what is expected, in any order, as long as there is time; how many answers were right, how many were errors.

    Raises AssertionError where something else is shown, trio.TooSlowError where an answer takes too long.
    """
    paths, told, until = list(expected), Counter[str](), trio.current_time() + BUDGET
    chance.shuffle(paths)
    for path in paths:
        if trio.current_time() > until:
            break
        try:
            with trio.fail_after(SLOWEST):
                found = await _shown(shown, os.path.join(top, path) if path else top)
        except RiafsError as error:
            told["errors"] += 1
            told[type(error).__name__] += 1
            continue
        assert found in expected[path], f"{os.fsdecode(path)} is {_brief(found)}"
        told["right"] += 1
    return told


async def _shown(shown: Driver, path: bytes) -> Shown:
    kind = await shown.kind(path)
    if kind is Kind.DIRECTORY:
        names = await shown.ls(path)
        assert len(set(names)) == len(names), path
        if not names:
            assert await shown.getxattr(path, "user.riafs.error")
        return frozenset(names)
    return await (shown.readlink(path) if kind is Kind.LINK else shown.read(path))


def _brief(shown: Shown) -> str:
    if isinstance(shown, bytes):
        return f"{len(shown)} bytes: {shown[:60]!r}"
    return f"the names {sorted(shown)[:20]}"


def tree_of(files: Mapping[bytes, bytes]) -> dict[bytes, Shown]:
    """The files and links of a tree by path, and the directories that they are in."""
    found: dict[bytes, Shown] = dict(files)
    names: dict[bytes, set[bytes]] = {b"": set()}
    for path in files:
        for each in (path, *parents_of(path)):
            if each:
                names.setdefault(os.path.dirname(each), set()).add(os.path.basename(each))
    return found | {path: frozenset(each) for path, each in names.items()}
