"""Per-key logs of the git-annex branch that say where something is: location, URL, equivalent-key and chunk logs.

Lines are ``<clock> <status> <info>``; of several lines about one info the newest counts. Logs are hints: what they say
is tried, never trusted. A line that does not parse is skipped, as in git-annex; nothing here fails, and memory is
proportional to the text, which the reader bounds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from riafs.errors import MalformedKey
from riafs.formats.keys import Key, parse_key

MAX_CHUNK_SIZE = 2**62
MAX_CHUNKS = 2**31 - 1

# Whole seconds and an "s" today; older logs have a fraction, and git-annex reads clocks without the "s" too.
CLOCK = rb"(-?\d{1,20}(?:\.\d{1,20})?)s?"
_PRESENCE_LINE = re.compile(rb"^" + CLOCK + rb" ([01X]) ([^\n]*?)\r?$", re.MULTILINE)
_CHUNK_LINE = re.compile(rb"^" + CLOCK + rb" ([^ :\n]+):(\d{1,19}) (\d{1,19})\r?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ChunkedCopy:
    """A special remote holds the key in chunks."""

    uuid: bytes
    """Of the remote, as location logs name it."""
    chunk_size: int
    """Bytes, at least 1."""
    count: int
    """At least 1. It is what the log claims: compare it with the key's size before using it."""


def parse_presence(text: bytes) -> Mapping[bytes, bool]:
    """Info → whether the newest line says it is there (status 1), in the order in which infos first appear.

    Where two lines have the same clock the earlier one counts (seen with git-annex 10).
    """
    newest: dict[bytes, tuple[Decimal, bool]] = {}
    for match in _PRESENCE_LINE.finditer(text):
        clock, info = Decimal(match[1].decode()), match[3]
        known = newest.get(info)
        if known is None or clock > known[0]:
            newest[info] = (clock, match[2] == b"1")
    return {info: present for info, (_, present) in newest.items()}


def live_infos(text: bytes) -> tuple[bytes, ...]:
    """The infos (repository UUIDs, URLs or keys) that are present."""
    return tuple(info for info, present in parse_presence(text).items() if present)


def parse_chunk_log(text: bytes) -> tuple[ChunkedCopy, ...]:
    """The chunked copies that a ``.log.cnk`` claims, ``<clock> <uuid>:<chunk size> <count>`` each.

    Removed ones (count 0) are left out. Of two lines with the same clock the later counts, as in ``remote.log``;
    which one git-annex takes here is not documented.
    """
    newest: dict[tuple[bytes, int], tuple[Decimal, int]] = {}
    for match in _CHUNK_LINE.finditer(text):
        clock, place, count = Decimal(match[1].decode()), (match[2], int(match[3])), int(match[4])
        known = newest.get(place)
        if known is None or clock >= known[0]:
            newest[place] = (clock, count)
    return tuple(
        ChunkedCopy(uuid, chunk_size, count)
        for (uuid, chunk_size), (_, count) in newest.items()
        if 0 < chunk_size <= MAX_CHUNK_SIZE and 0 < count <= MAX_CHUNKS
    )


def equivalent_keys(text: bytes) -> tuple[Key, ...]:
    """The keys of which any may verify a VURL key's content (``.log.ek``); VURL keys among them say nothing."""
    return tuple(key for info in live_infos(text) if (key := _key(info)) is not None and key.backend != b"VURL")


def _key(info: bytes) -> Key | None:
    try:
        return parse_key(info)
    except MalformedKey:
        return None
