"""Logs of the git-annex branch: presence, chunks, configuration, trust; as they are read and as they are written.

Logs are hints, written by anyone who ever pushed: they are tried, never trusted. A line that does not parse is skipped,
as in git-annex; nothing here fails, and memory is proportional to the text, which the reader bounds.

The logs of a key (``.log``, ``.log.web``, ``.log.ek``, ``.log.cnk``) have lines ``<clock> <status> <info>``; of several
lines about one info the newest counts. git-annex writes one line for each info, sorted by info. A new line's clock is
always above the highest one that the log has for its info, so that no tie arises (git-annex's vector clocks).

Where the branch keeps these logs depends on how the repository was tuned, see `Tuning`. Of the URLs in a ``.log.web``
those of DataLad's archives remote are read here, see `archive_links`.
"""

import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar
from urllib.parse import unquote_to_bytes

from riafs.errors import MalformedKey
from riafs.formats.annex import hash_lower
from riafs.formats.keys import Key, parse_key

LOCATION_LOG = b".log"
WEB_LOG = b".log.web"
CHUNK_LOG = b".log.cnk"
EQUIVALENT_KEYS_LOG = b".log.ek"
DIFFERENCE_LOG = b"difference.log"

MAX_CHUNK_SIZE = 2**62
MAX_CHUNKS = 2**31 - 1

# Whole seconds and an "s" today; older logs have a fraction, and git-annex reads clocks without the "s" too.
CLOCK = rb"(-?\d{1,20}(?:\.\d{1,20})?)s?"
_PRESENCE_LINE = re.compile(rb"^" + CLOCK + rb" ([01X]) ([^\n]*?)\r?$", re.MULTILINE)
_CHUNK_LINE = re.compile(rb"^" + CLOCK + rb" ([^ :\n]+):(\d{1,19}) (\d{1,19})\r?$", re.MULTILINE)
_WRITTEN_CHUNK_LINE = re.compile(rb"^" + CLOCK + rb" ([^ \n]+:\d{1,19}) (\d{1,19})\r?$", re.MULTILINE)
_CONFIG_LINE = re.compile(rb"^" + CLOCK + rb" (\S+) ?([^\n]*)$", re.MULTILINE)
_TRUST_LINE = re.compile(rb"^(\S+) ([01?X])(?: timestamp=" + CLOCK + rb")?$", re.MULTILINE)
_DEAD = b"X"

_Subject = TypeVar("_Subject", bound=Hashable)
_Lines = Iterable[tuple[bytes, _Subject, bytes]]
"""Clock, subject and value of each line."""


@dataclass(frozen=True, slots=True)
class ChunkedCopy:
    """A special remote holds the key in chunks."""

    uuid: bytes
    """UUID of the remote in location logs."""
    chunk_size: int
    """Bytes, at least 1."""
    count: int
    """At least 1. It is what the log claims: compare it with the key's size before using it."""


def _newest(lines: _Lines[_Subject], *, later_wins: bool) -> dict[_Subject, tuple[Decimal, bytes]]:
    """Clock and value of the newest line for each subject, in the order in which subjects first appear.

    `later_wins`: whether of two lines with the same clock the later one counts, or the earlier one.
    """
    newest: dict[_Subject, tuple[Decimal, bytes]] = {}
    for clock_text, subject, value in lines:
        clock, known = Decimal(clock_text.decode()), newest.get(subject)
        if known is None or clock > known[0] or (later_wins and clock == known[0]):
            newest[subject] = (clock, value)
    return newest


# -- reading ----------------------------------------------------------------------------------------------------------


def parse_presence(text: bytes) -> Mapping[bytes, bool]:
    """Info → whether it is present (status 1) by the newest line, in the order in which infos first appear.

    Where two lines have the same clock the earlier one counts (seen with git-annex 10).
    """
    return {info: status == b"1" for info, (_, status) in _newest_statuses(text).items()}


def _newest_statuses(text: bytes) -> dict[bytes, tuple[Decimal, bytes]]:
    return _newest(((match[1], match[3], match[2]) for match in _PRESENCE_LINE.finditer(text)), later_wins=False)


def live_infos(text: bytes) -> tuple[bytes, ...]:
    """The infos (repository UUIDs, URLs or keys) that are present."""
    return tuple(info for info, present in parse_presence(text).items() if present)


def parse_chunk_log(text: bytes) -> tuple[ChunkedCopy, ...]:
    """The chunked copies that a ``.log.cnk`` claims, ``<clock> <uuid>:<chunk size> <count>`` each.

    Removed ones (count 0) are left out. Of two lines with the same clock the later counts, as in ``remote.log``;
    which one git-annex takes here is not documented.
    """
    lines = ((match[1], (match[2], int(match[3])), match[4]) for match in _CHUNK_LINE.finditer(text))
    copies = (
        ChunkedCopy(uuid, size, int(count)) for (uuid, size), (_, count) in _newest(lines, later_wins=True).items()
    )
    return tuple(copy for copy in copies if 0 < copy.chunk_size <= MAX_CHUNK_SIZE and 0 < copy.count <= MAX_CHUNKS)


def equivalent_keys(text: bytes) -> tuple[Key, ...]:
    """The keys of which any may verify a VURL key's content (``.log.ek``); VURL keys among them say nothing."""
    return tuple(key for info in live_infos(text) if (key := _key(info)) is not None and key.backend != b"VURL")


def _key(text: bytes) -> Key | None:
    try:
        return parse_key(text)
    except MalformedKey:
        return None


def parse_config_log(text: bytes) -> Mapping[bytes, bytes]:
    """Name → value of the settings that hold for all clones (``config.log``); an empty value unsets."""
    lines = ((match[1], match[2], match[3].strip()) for match in _CONFIG_LINE.finditer(text))
    return {name: value for name, (_, value) in _newest(lines, later_wins=True).items() if value}


def dead_repositories(text: bytes) -> frozenset[bytes]:
    """The UUIDs of a ``trust.log`` that are marked as dead."""
    lines = ((match[3] or b"0", match[1], match[2]) for match in _TRUST_LINE.finditer(text))
    return frozenset(uuid for uuid, (_, trust) in _newest(lines, later_wins=True).items() if trust == _DEAD)


# -- writing ----------------------------------------------------------------------------------------------------------


def with_presence(text: bytes, info: bytes, now: int) -> bytes | None:
    """A presence log (``.log``, ``.log.web``) with `info` added as present, or None if it is present already.

    `now` in seconds since the epoch.
    """
    lines = _newest_statuses(text)
    clock, status = lines.get(info, (None, b""))
    if status == b"1":
        return None
    lines[info] = (_later(clock, now), b"1")
    return b"".join(b"%b %b %b\n" % (_clock(clock), status, key) for key, (clock, status) in sorted(lines.items()))


def with_chunks(text: bytes, uuid: bytes, chunk_size: int, count: int, now: int) -> bytes | None:
    """A chunk log (``.log.cnk``) with the key in `count` chunks on the remote added, or None if it has that."""
    lines = _newest(((match[1], match[2], match[3]) for match in _WRITTEN_CHUNK_LINE.finditer(text)), later_wins=True)
    place = b"%b:%d" % (uuid, chunk_size)
    clock, known = lines.get(place, (None, b""))
    if known == b"%d" % count:
        return None
    lines[place] = (_later(clock, now), b"%d" % count)
    return b"".join(b"%b %b %b\n" % (_clock(clock), key, value) for key, (clock, value) in sorted(lines.items()))


def _later(clock: Decimal | None, now: int) -> Decimal:
    """`now`, or just after `clock` where that is later."""
    return Decimal(now) if clock is None else max(Decimal(now), Decimal(int(clock)) + 1)


def _clock(clock: Decimal) -> bytes:
    return f"{clock:f}s".encode()


# -- paths of logs ----------------------------------------------------------------------------------------------------


_ONE_LEVEL = b"OneLevelBranchHash"
_TUNING_LINE = re.compile(rb"^\S+ (?:fromList )?(.*?)(?: timestamp=\S*)?\r?$", re.MULTILINE)
_NAME = re.compile(rb"[^\s,\[\]]+")


@dataclass(frozen=True, slots=True)
class Tuning:
    """The ways in which a repository differs from others, by git-annex's names; none for most.

    ``difference.log`` has a line for each clone, ``<uuid> fromList [OneLevelBranchHash,…] timestamp=<clock>`` (seen
    with git-annex 10). Tunings are for good, made with ``git -c annex.tune.branchhash1=true annex init``.
    """

    names: frozenset[bytes] = frozenset()

    @property
    def of_objects(self) -> frozenset[bytes]:
        """Tunings of more than the branch: where a working tree's links lead, and unknown ones."""
        return self.names - {_ONE_LEVEL}

    def log_path(self, key: Key, suffix: bytes) -> bytes:
        """The path of the log with `suffix` (one of the above) of `key`, or of the key that `key` is a chunk of.

        Always under the lower-case hash of the unescaped key, whatever the dataset's layout.
        """
        whole = key.unchunked()
        directory = hash_lower(whole.serialised)
        return (directory[:3] if _ONE_LEVEL in self.names else directory) + b"/" + whole.file_name + suffix


def parse_difference_log(text: bytes) -> Tuning:
    """The tunings in any line of ``difference.log``: all clones of a repository are tuned in the same way."""
    return Tuning(frozenset(name for line in _TUNING_LINE.finditer(text) for name in _NAME.findall(line[1])))


# -- members of archives ----------------------------------------------------------------------------------------------

_SCHEME = b"dl+archive:"


@dataclass(frozen=True, slots=True)
class ArchiveLink:
    """A member of the archive that the key `archive` holds."""

    archive: Key
    path: bytes
    """As the archive has it, ``/`` between parts."""
    size: int | None
    """Bytes of the member, None if the URL does not have it."""


def archive_links(urls: Iterable[bytes]) -> tuple[ArchiveLink, ...]:
    """The archives' members among the URLs of a key (``.log.web``); URLs that do not parse are left out.

    ``dl+archive:KEY#path=dir/a+b%26c.txt&size=3000`` is what ``datalad add-archive-content`` registers (seen with
    DataLad 1.7.1; the fragment is a form, so that a blank is ``+``). Older ones have the path behind the key,
    percent-encoded: ``dl+archive:KEY/dir/c.txt#size=3``. A colon before it means that a special remote handles it.
    """
    links = (_link(url.removeprefix(b":")) for url in urls)
    return tuple(dict.fromkeys(link for link in links if link is not None))


def _link(url: bytes) -> ArchiveLink | None:
    if not url.startswith(_SCHEME):
        return None
    name, _, fragment = url.removeprefix(_SCHEME).partition(b"#")
    key, _, old_path = name.partition(b"/")
    form = dict(field.partition(b"=")[::2] for field in fragment.split(b"&"))
    path = unquote_to_bytes(form.get(b"path", b"").replace(b"+", b" ")) or unquote_to_bytes(old_path)
    size = form.get(b"size", b"")
    archive = _key(key)
    if archive is None or not path or b"\0" in path:
        return None
    return ArchiveLink(archive, path, int(size) if size.isdigit() and len(size) < 19 else None)
