"""Whether an overlay is all there: what tells it from one of which a part was lost, cut off, replaced or not copied.

Beside the database lies `state`, one record: which overlay this is, how many commits its database has, how many of them
survive a loss of power, and whether it was closed. The database counts its commits too, so one that has fewer has lost
what came later: with its log, with its end, or because it is an older copy, or another overlay's. The record is written
after what it tells of, so that a kill at any moment is never mistaken for a loss.

Data files that no row names are left by a kill, but not by closing: then they, too, are evidence.
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
"""Of this user alone, made when they are wanted; a link in the place of one would lead elsewhere."""
_PIECE = 1 << 20
_MAGIC = b"riafsov1"
_RECORD = struct.Struct("<8s16s16sQQB")


@dataclass(frozen=True, slots=True)
class State:
    """The record. `boot`: of the machine, when it was written; `closed`: nothing was open any more."""

    identity: bytes
    boot: bytes
    commits: int = 0
    durable: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What a database says of itself. `identity`: None in those of riafs before there was `state`."""

    identity: bytes | None
    commits: int


def this_boot() -> bytes:
    """What tells this run of the machine from others."""
    return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes


class StateFile:
    """`state` in the directory `path`, of an overlay that this process has locked."""

    def __init__(self, path: str, before: State | None) -> None:
        self.before = before
        """What was there; None for a new overlay, and for one of riafs before there was `state`."""
        identity = uuid.uuid4().bytes if before is None else before.identity
        self._now = State(identity, this_boot())
        self._file = os.open(f"{path}/{_STATE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if before is None:
            try:
                self._put(self._now)
            except OSError:  # no room: a database must not get rows without it
                os.close(self._file)
                raise

    @property
    def identity(self) -> bytes:
        """Of this overlay."""
        return self._now.identity

    def committed(self, commits: int) -> None:
        """The database has so many commits now."""
        self._write(replace(self._now, commits=commits))

    def synced(self, commits: int) -> None:
        """So many of them survive a loss of power."""
        self._write(replace(self._now, durable=commits))

    def closed(self) -> None:
        """All of them do, and there are no data files but those that rows name."""
        self._write(replace(self._now, durable=self._now.commits, closed=True))

    def _write(self, state: State) -> None:
        self._now = state
        with contextlib.suppress(OSError):  # an earlier record promises less, so it is as true
            self._put(state)

    def _put(self, state: State) -> None:
        packed = _RECORD.pack(_MAGIC, state.identity, state.boot, state.commits, state.durable, state.closed)
        os.pwrite(self._file, packed + zlib.crc32(packed).to_bytes(4, "little"), 0)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._file)


def read_state(path: str) -> State | None:
    """The record in the directory `path`, None where there is none yet. Raises OverlayDamaged."""
    try:
        with open(f"{path}/{_STATE}", "rb", opener=prompt_opener) as file:
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise damaged(path, f"its {_STATE} cannot be read: {error.strerror}") from error
    if not text:  # made on a full disk; where there are rows, one that is missing is told of
        return None
    packed, check = text[: _RECORD.size], text[_RECORD.size :]
    if len(text) != _RECORD.size + 4 or check != zlib.crc32(packed).to_bytes(4, "little"):
        raise damaged(path, f"its {_STATE} is damaged")
    magic, identity, boot, commits, durable, closed = _RECORD.unpack(packed)
    if magic != _MAGIC:
        raise damaged(path, f"its {_STATE} is of another kind")
    return State(identity, boot, commits, durable, bool(closed))


def read_database(path: str, name: str = DATABASE) -> Found | None:
    """What the database of the overlay in `path` says, None where there is nothing in it. Changes nothing.

    Raises OverlayDamaged where it cannot be read or is no overlay's.
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
    """An overlay that is all there as far as its database goes. `state`: None for a new one, and for one of riafs
    before there was `state`; `closed`: whether each of its data files must have a row.
    """

    state: State | None
    closed: bool


def examine(path: str) -> Examined:
    """What the overlay in the directory `path`, which may be empty, says of itself. Changes nothing.

    Raises OverlayDamaged where not all of it is there.
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
    """Whether something that is no directory of this user lies where one of DIRECTORIES should. Raises OSError."""
    try:
        status = os.lstat(f"{path}/{name}")
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid()


def _check_new(path: str, state: State | None) -> None:
    """That an overlay without rows never had any."""
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
    """Whether there is something of an overlay in the directory `path`, whatever state it is in."""
    names = (DATABASE, COPY, _STATE)
    return any(os.path.lexists(f"{path}/{name}") for name in names) or bool(_data_files(path)) or _announced(path)


def keep_copy(path: str) -> None:
    """Keep the database of an overlay that was closed, for the case that it is lost."""
    if _has_log(path):  # somebody else reads the database, so not all may be in it
        return
    unfinished = f"{path}/{COPY}.new"
    try:
        with (
            open(f"{path}/{DATABASE}", "rb", opener=prompt_opener) as source,
            open(unfinished, "wb", opener=prompt_opener) as target,
        ):
            shutil.copyfileobj(source, target, _PIECE)
        os.rename(unfinished, f"{path}/{COPY}")
    except OSError:  # no room, perhaps: there only is no copy then
        with contextlib.suppress(OSError):
            os.unlink(unfinished)


def damaged(path: str, what: str) -> OverlayDamaged:
    """The failure of an overlay of which a part is missing, with what is there and the way out."""
    files = _data_files(path)
    size = sum(each.stat(follow_symlinks=False).st_size for each in files)
    there = f"it has {len(files)} data files with {size} bytes" if files else "it has no data files"
    return OverlayDamaged(
        f"the overlay {path} is not complete: {what}; {there}; nothing was changed. "
        f"riafs overlay recover {path} makes it usable again and keeps all data"
    )


def all_files(database: str) -> bool:
    """Whether what there is of a database are files: SQLite would wait for the other end of a fifo."""
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
