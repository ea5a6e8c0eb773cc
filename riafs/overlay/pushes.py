"""Records of pushes in an overlay: a push whose result is unknown, and the mtimes of pushed files.

A pending push is a file ``announced-…`` for each dataset, replaced by rename. If a push is killed after the refs have
moved and before its changes were dropped, the next push reads from it which changes were published, even if files were
changed since. It is valid as long as the dataset has the same base commit. Rows and versions that were made later must
not be mistaken for those in it, so numbers continue after the largest ones in it.

The mtime of a pushed file outlives its row. It is used as long as its path has the content that was pushed there, so
that an outdated one does no harm (`tree/times`).
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from riafs.errors import OverlayFailed
from riafs.overlay.changes import Carried, Change, ChangeKind, RowPosition
from riafs.overlay.data_files import failure
from riafs.overlay.database import Statements
from riafs.storage.temporary import prompt_opener
from riafs.tree.times import PushedTime

_PREFIX = "announced-"


@dataclass(frozen=True, slots=True)
class PendingPush:
    """A push of `carried` over the base commit `base`, which was about to move a branch to `commit` (hex)."""

    dataset: bytes
    base: bytes
    commit: bytes
    carried: Carried
    last_row: int
    last_version: int


class PendingPushes:
    """The pending pushes in the overlay's directory `path`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _file(self, dataset: bytes) -> str:
        return f"{self._path}/{_PREFIX}{dataset.hex()}"

    def write(self, announced: PendingPush) -> None:
        """Write one durably, replacing that of an earlier push. Raises OverlayFull, OverlayFailed."""
        path = self._file(announced.dataset)
        try:
            with open(f"{path}.new", "w", encoding="utf-8", opener=prompt_opener) as file:
                json.dump(_encoded(announced), file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(f"{path}.new", path)
            _sync(self._path)
        except OSError as error:
            raise failure(error, path) from error

    def all(self) -> Iterator[PendingPush]:
        """Those of all datasets. Raises OverlayFailed."""
        for name in sorted(os.listdir(self._path)):
            if name.startswith(_PREFIX) and not name.endswith(".new"):
                yield self._read(f"{self._path}/{name}")

    def read(self, dataset: bytes) -> PendingPush | None:
        """That of a dataset. Raises OverlayFailed."""
        path = self._file(dataset)
        return self._read(path) if os.path.exists(path) else None

    def _read(self, path: str) -> PendingPush:
        try:
            with open(path, encoding="utf-8", opener=prompt_opener) as file:
                return _decoded(json.load(file))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OverlayFailed(
                f"{path} is damaged; without it, what was pushed last may be shown as changed"
            ) from error

    def remove(self, dataset: bytes) -> None:
        """Remove that of a dataset, if there is one."""
        for suffix in ("", ".new"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._file(dataset) + suffix)


def _sync(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _encoded(announced: PendingPush) -> dict[str, Any]:
    return {
        "dataset": os.fsdecode(announced.dataset),
        "base": announced.base.decode(),
        "commit": announced.commit.decode(),
        "last_row": announced.last_row,
        "last_version": announced.last_version,
        "changes": [
            [
                os.fsdecode(each.path),
                each.kind.value,
                each.version,
                None if each.source is None else os.fsdecode(each.source),
            ]
            for each in announced.carried.changes
        ],
        "rows": [[row, os.fsdecode(old.path), old.is_added] for row, old in announced.carried.rows.items()],
    }


def _decoded(found: dict[str, Any]) -> PendingPush:
    changes = [
        Change(
            os.fsencode(path), ChangeKind(kind), None, None, None if source is None else os.fsencode(source), version
        )
        for path, kind, version, source in found["changes"]
    ]
    rows = {row: RowPosition(os.fsencode(path), is_added) for row, path, is_added in found["rows"]}
    return PendingPush(
        os.fsencode(found["dataset"]), found["base"].encode(), found["commit"].encode(), Carried(changes, rows),
        found["last_row"], found["last_version"],
    )  # fmt: skip


_MOST_DIRECTORIES = 256
_READ = "SELECT name, content, mtime FROM written WHERE dataset = ? AND directory = ?"
_MOVE = """
UPDATE OR REPLACE written SET directory = CAST(? || substr(directory, ?) AS BLOB)
WHERE dataset = ? AND (directory = ? OR directory > ? AND directory < ?)
"""
_REMOVE = "DELETE FROM written WHERE dataset = ? AND (directory = ? OR directory > ? AND directory < ?)"


class Pushed(NamedTuple):
    """The mtime of one path with pushed content."""

    path: bytes
    content: bytes
    mtime: int


class PushedTimes:
    """The mtimes of pushed files in the database of `statements`."""

    def __init__(self, statements: Statements) -> None:
        self._journal = statements
        self._known: dict[tuple[bytes, bytes], Mapping[bytes, PushedTime]] = {}
        self._since: dict[bytes, bytes] = {}
        self.read_again()

    def read_again(self) -> None:
        """Read the table again after a change by other statements."""
        self._known.clear()
        self._since = dict(self._journal.run('SELECT dataset, "commit" FROM since').fetchall())

    # -- reading ------------------------------------------------------------------------------------------------------

    def since(self, dataset: bytes) -> bytes | None:
        """The base commit of the first push from this overlay, None without one."""
        return self._since.get(dataset)

    def written(self, dataset: bytes, directory: bytes) -> Mapping[bytes, PushedTime]:
        """Name → content and mtime of pushed files in a directory of a dataset."""
        if dataset not in self._since:
            return {}
        known = self._known.get((dataset, directory))
        if known is None:
            found = self._journal.run(_READ, (dataset, directory)).fetchall()
            if len(self._known) >= _MOST_DIRECTORIES:
                self._known.clear()
            known = self._known[dataset, directory] = {name: PushedTime(content, at) for name, content, at in found}
        return known


def keep(
    statements: Statements, dataset: bytes, below: bytes, moved: Mapping[bytes, bytes], pushed: Iterable[Pushed]
) -> None:
    """Record the mtimes of files that were pushed over the base commit `below`. `moved`: old → new path of each renamed
    directory. Within a step, after which `PushedTimes.read_again` is called.
    """
    statements.run("INSERT OR IGNORE INTO since VALUES (?, ?)", (dataset, below))
    for source, path in moved.items():
        inside = (source, source + b"/", source + b"0")
        statements.run(_REMOVE, (dataset, path, path + b"/", path + b"0"))
        statements.run(_MOVE, (path, len(source) + 1, dataset, *inside))
    rows = ((dataset, *_split(each.path), each.content, each.mtime) for each in pushed)
    statements.run_each("INSERT OR REPLACE INTO written VALUES (?, ?, ?, ?, ?)", rows)


def _split(path: bytes) -> tuple[bytes, bytes]:
    directory, _, name = path.rpartition(b"/")
    return directory, name
