"""Logs of the git-annex branch as they are written: one line changed, everybody else's kept, versions united.

git-annex writes one line for each info, sorted by info, and lets the newest line win. A new line's clock is therefore
always above the highest one that the log has for its info, so that no tie arises (git-annex's vector clocks).
"""

import re
from collections.abc import Iterable
from decimal import Decimal

from riafs.formats.presence import CLOCK

_LINE = re.compile(rb"^" + CLOCK + rb" ([01X]) ([^\n]*?)\r?$", re.MULTILINE)
_CHUNK_LINE = re.compile(rb"^" + CLOCK + rb" ([^ \n]+:\d{1,19}) (\d{1,19})\r?$", re.MULTILINE)


def with_presence(text: bytes, info: bytes, now: int) -> bytes | None:
    """A presence log (``.log``, ``.log.web``) that says that `info` is there, or None where it says so already.

    `now` in seconds since the epoch.
    """
    lines: dict[bytes, tuple[Decimal, bytes]] = {}
    for match in _LINE.finditer(text):
        _keep(lines, match[3], Decimal(match[1].decode()), match[2], tie=False)
    clock, status = lines.get(info, (None, b""))
    if status == b"1":
        return None
    lines[info] = (_later(clock, now), b"1")
    return b"".join(b"%b %b %b\n" % (_clock(clock), status, key) for key, (clock, status) in sorted(lines.items()))


def with_chunks(text: bytes, uuid: bytes, chunk_size: int, count: int, now: int) -> bytes | None:
    """A chunk log (``.log.cnk``) that says that the remote has the key in `count` chunks, or None if it says so."""
    lines: dict[bytes, tuple[Decimal, bytes]] = {}
    for match in _CHUNK_LINE.finditer(text):
        _keep(lines, match[2], Decimal(match[1].decode()), match[3], tie=True)
    place = b"%b:%d" % (uuid, chunk_size)
    clock, known = lines.get(place, (None, b""))
    if known == b"%d" % count:
        return None
    lines[place] = (_later(clock, now), b"%d" % count)
    return b"".join(b"%b %b %b\n" % (_clock(clock), key, value) for key, (clock, value) in sorted(lines.items()))


def union_of(texts: Iterable[bytes]) -> bytes:
    """All lines of several versions of a log, sorted, each once: what git-annex's union merge leaves."""
    lines = {line for text in texts for line in text.split(b"\n") if line}
    return b"".join(line + b"\n" for line in sorted(lines))


def _keep(lines: dict[bytes, tuple[Decimal, bytes]], info: bytes, clock: Decimal, value: bytes, *, tie: bool) -> None:
    """Keep the newest line; of two with one clock the later one if `tie` (see formats/presence)."""
    known = lines.get(info)
    if known is None or clock > known[0] or (tie and clock == known[0]):
        lines[info] = (clock, value)


def _later(clock: Decimal | None, now: int) -> Decimal:
    return Decimal(now) if clock is None else max(Decimal(now), Decimal(int(clock)) + 1)


def _clock(clock: Decimal) -> bytes:
    return f"{clock:f}s".encode()
