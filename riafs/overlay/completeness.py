"""Whether an overlay is complete, or a part of it was lost, truncated, replaced or not copied.

How it works: the file `state` beside the database has the identity of the overlay, the number of commits of its
database, how many of them survive a loss of power, and whether the overlay was closed. The database has the identity
and counts its commits as well. One with fewer commits has lost some (its log or its end is missing, or it is an older
copy); one with another identity is another overlay's. `state` is written after each commit, so that a kill at any
moment is not mistaken for a loss.

A kill may leave data files without a row, closing does not: after that they are a sign of damage, too.
"""

import contextlib
import os
import shutil
import sqlite3
import stat
import struct
import uuid
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from riafs.errors import OverlayDamaged
from riafs.storage.temporary import prompt_opener

DATABASE = "overlay.sqlite"
COPY = "copy.sqlite"
"""The database as it was when the overlay was closed last."""
_STATE = "state"
DATA = "data"
DIRECTORIES = (DATA, "base", *(f"base/{name}" for name in ("sha1", "sha256", "sha1/pack", "sha256/pack")))
"""Directories of this user alone, made when they are needed; a link instead of one would lead elsewhere."""
_PIECE = 1 << 20
_MAGIC = b"riafsov1"
_RECORD = struct.Struct("<8s16s16sQQB")


@dataclass(frozen=True, slots=True)
class State:
    """The content of `state`. `boot`: the machine's boot id when it was written; `closed`: the overlay was closed."""

    identity: bytes
    boot: bytes
    commits: int = 0
    durable: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """Identity and number of commits of a database. `identity`: None for one of an early riafs without `state`."""

    identity: bytes | None
    commits: int


def this_boot() -> bytes:
    """The machine's boot id."""
    return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes


class StateFile:
    """`state` in the directory `path`, of an overlay that this process has locked."""

    def __init__(self, path: str, before: State | None) -> None:
        self.before = before
        """The state at the opening; None for a new overlay, and for one of an early riafs without `state`."""
        identity = uuid.uuid4().bytes if before is None else before.identity
        self._now = State(identity, this_boot())
        self._file = os.open(f"{path}/{_STATE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if before is None:
            try:
                self._put(self._now)
            except OSError:  # no room: a database must not get rows without `state`
                os.close(self._file)
                raise

    @property
    def identity(self) -> bytes:
        """16 bytes that identify the overlay."""
        return self._now.identity

    def committed(self, commits: int) -> None:
        """Record the number of commits of the database."""
        self._write(replace(self._now, commits=commits))

    def synced(self, commits: int) -> None:
        """Record the number of commits that survive a loss of power."""
        self._write(replace(self._now, durable=commits))

    def closed(self) -> None:
        """Record that all commits survive a loss of power, and that all data files have rows."""
        self._write(replace(self._now, durable=self._now.commits, closed=True))

    def _write(self, state: State) -> None:
        self._now = state
        with contextlib.suppress(OSError):  # the previous state promises less, so it is still true
            self._put(state)

    def _put(self, state: State) -> None:
        packed = _RECORD.pack(_MAGIC, state.identity, state.boot, state.commits, state.durable, state.closed)
        os.pwrite(self._file, packed + zlib.crc32(packed).to_bytes(4, "little"), 0)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._file)


def read_state(path: str) -> State | None:
    """The state in the directory `path`, None if there is none yet. Raises OverlayDamaged."""
    try:
        with open(f"{path}/{_STATE}", "rb", opener=prompt_opener) as file:
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise damaged(path, f"its {_STATE} cannot be read: {error.strerror}") from error
    if not text:  # made on a full disk; with rows, `examine` reports a missing one
        return None
    packed, check = text[: _RECORD.size], text[_RECORD.size :]
    if len(text) != _RECORD.size + 4 or check != zlib.crc32(packed).to_bytes(4, "little"):
        raise damaged(path, f"its {_STATE} is damaged")
    magic, identity, boot, commits, durable, closed = _RECORD.unpack(packed)
    if magic != _MAGIC:
        raise damaged(path, f"its {_STATE} is of another kind")
    return State(identity, boot, commits, durable, bool(closed))


def read_database(path: str, name: str = DATABASE) -> Found | None:
    """Identity and number of commits of the database in `path`, None if it is empty or missing. Changes nothing.

    Raises OverlayDamaged if it cannot be read or is no overlay's.
    """
    file = f"{path}/{name}"
    if not os.path.lexists(file) or (os.path.isfile(file) and os.path.getsize(file) == 0 and not _has_log(path)):
        return None
    if not all_files(file):
        raise damaged(path, f"its {name}, or {name}-wal, is no file")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(file)}?mode=ro", uri=True)) as database:
            tables = {table for (table,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            if not tables:
                return None
            if not {"setting", "area", "node", "extent"} <= tables:
                raise damaged(path, f"its {name} is not an overlay's database")
            known = dict(database.execute("SELECT name, value FROM setting"))
    except sqlite3.Error as error:
        raise damaged(path, f"its {name} cannot be read: {error}") from error
    return Found(known.get("identity"), int(known.get("commits", 0)))


@dataclass(frozen=True, slots=True)
class Examined:
    """An overlay with a complete database. `state`: None for a new overlay, and for one of an early riafs without
    `state`; `closed`: whether each data file must have a row.
    """

    state: State | None
    closed: bool


def examine(path: str) -> Examined:
    """Compare the database and `state` of the overlay in the directory `path`, which may be empty. Changes nothing.

    Raises OverlayDamaged if a part is missing.
    """
    for name in DIRECTORIES:
        if is_replaced(path, name):
            raise damaged(path, f"its {name} is no directory of this user")
    state, found = read_state(path), read_database(path)
    if found is None:
        _check_new(path, state)
    elif state is None:
        if found.identity is not None:
            raise damaged(path, f"its {_STATE} is missing, so it may have been copied in part")
        return Examined(None, closed=not _has_log(path))
    elif state.commits or found.identity is not None:
        _check_same(path, state, found)
    return Examined(state, closed=state is not None and state.closed)


def is_replaced(path: str, name: str) -> bool:
    """Whether one of DIRECTORIES was replaced by something that is no directory of this user. Raises OSError."""
    try:
        status = os.lstat(f"{path}/{name}")
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid()


def _check_new(path: str, state: State | None) -> None:
    """Raise OverlayDamaged if an overlay without a database has signs of earlier rows."""
    missing = "missing" if not os.path.lexists(f"{path}/{DATABASE}") else "empty"
    had_rows = state is not None and state.commits > 0
    if had_rows or _data_files(path) or os.path.lexists(f"{path}/{COPY}") or _announced(path):
        raise damaged(path, f"its database {DATABASE} is {missing}")


def _check_same(path: str, state: State, found: Found) -> None:
    if found.identity != state.identity:
        raise damaged(path, f"its {DATABASE} is another overlay's, or older than the rest")
    least = state.commits if state.boot == this_boot() else state.durable
    if found.commits < least:
        why = "" if _has_log(path) else f", as {DATABASE}-wal is missing"
        raise damaged(path, f"its {DATABASE} lacks what was changed last{why}")


def has_evidence(path: str) -> bool:
    """Whether the directory `path` has any part of an overlay, complete or not."""
    names = (DATABASE, COPY, _STATE)
    return any(os.path.lexists(f"{path}/{name}") for name in names) or bool(_data_files(path)) or _announced(path)


def keep_copy(path: str) -> None:
    """Copy the database of an overlay that was closed, for `riafs overlay recover`."""
    if _has_log(path):  # another process reads the database, so that changes may still be in the log
        return
    unfinished = f"{path}/{COPY}.new"
    try:
        with (
            open(f"{path}/{DATABASE}", "rb", opener=prompt_opener) as source,
            open(unfinished, "wb", opener=prompt_opener) as target,
        ):
            shutil.copyfileobj(source, target, _PIECE)
        os.rename(unfinished, f"{path}/{COPY}")
    except OSError:  # no room, perhaps; the copy is not necessary
        with contextlib.suppress(OSError):
            os.unlink(unfinished)


def damaged(path: str, what: str) -> OverlayDamaged:
    """The failure for an overlay of which a part is missing, with the remaining data files and the way out."""
    files = _data_files(path)
    size = sum(each.stat(follow_symlinks=False).st_size for each in files)
    there = f"it has {len(files)} data files with {size} bytes" if files else "it has no data files"
    return OverlayDamaged(
        f"the overlay {path} is not complete: {what}; {there}; nothing was changed. "
        f"riafs overlay recover {path} makes it usable again and keeps all data"
    )


def all_files(database: str) -> bool:
    """Whether the existing files of a database are regular ones: SQLite would wait for the other end of a fifo."""
    names = (database, f"{database}-wal", f"{database}-shm", f"{database}-journal")
    return all(os.path.isfile(name) or not os.path.exists(name) for name in names)


def _has_log(path: str) -> bool:
    try:
        return os.path.getsize(f"{path}/{DATABASE}-wal") > 0
    except OSError:
        return False


def _data_files(path: str) -> list[os.DirEntry[str]]:
    with contextlib.suppress(OSError):
        if not is_replaced(path, DATA):
            with os.scandir(f"{path}/{DATA}") as entries:
                return list(entries)
    return []


def _announced(path: str) -> bool:
    try:
        return any(name.startswith("announced-") for name in os.listdir(path))
    except OSError:
        return False
