"""What ``git log --name-status -z --format=HISTORY_FORMAT`` writes: commits, and the paths that each of them changed.

Seen with git 2.39 and 2.47: a commit's line ends with a zero byte; where paths follow, a line feed does first, then
status and path of each, both ended by zero bytes.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from riafs.errors import MalformedObject

HISTORY_FORMAT = "%H %ct %P"
_HEADER = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) (-?\d+) ?([0-9a-f ]*)")
_STATUS = re.compile(rb"\n?([A-Z])\d*")
_DELETED = b"D"
_MAX_TIME = 2**33


@dataclass(slots=True)
class ChangedCommit:
    """A commit and what it changed against its first parent."""

    oid: bytes
    """Hex digits."""
    parent: bytes | None
    """The first one, None for a first commit."""
    time: int
    """When it was committed, in seconds since the epoch; 0 where the commit gives no usable time."""
    paths: list[bytes] = field(default_factory=list)
    """What is there since; not what was deleted."""


def parse_history(pieces: Iterable[bytes]) -> Iterator[ChangedCommit]:
    """The commits in output that comes in `pieces`. Raises MalformedObject where it ends in the middle of something."""
    commit: ChangedCommit | None = None
    status: bytes | None = None
    for text in _fields(pieces):
        if status is not None:
            if commit is not None and status != _DELETED:
                commit.paths.append(text)
            status = None
        elif (found := _STATUS.fullmatch(text)) is not None:
            status = found[1]
        elif (header := _HEADER.fullmatch(text)) is not None:
            if commit is not None:
                yield commit
            parents, time = header[3].split(), int(header[2])
            commit = ChangedCommit(header[1], parents[0] if parents else None, time if 0 <= time <= _MAX_TIME else 0)
        else:
            raise MalformedObject(f"git wrote {text[:80]!r} among the changes of a history")
    if status is not None:
        raise MalformedObject("the changes of a history end within a commit")
    if commit is not None:
        yield commit


def _fields(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\0")
        yield from whole
    if rest:
        raise MalformedObject("the changes of a history are cut off")
