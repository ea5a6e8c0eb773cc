"""Times of what was pushed from an overlay: see tree/times.

They outlive the rows that they are of, and count as long as a path has the content that was pushed there; so a row
that is wrong, or left over, shows nothing.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from riafs.overlay.journal import Statements
from riafs.tree.times import Written

_MOST_DIRECTORIES = 256
_READ = "SELECT name, content, mtime FROM written WHERE dataset = ? AND directory = ?"
_MOVE = """
UPDATE OR REPLACE written SET directory = CAST(? || substr(directory, ?) AS BLOB)
WHERE dataset = ? AND (directory = ? OR directory > ? AND directory < ?)
"""
_REMOVE = "DELETE FROM written WHERE dataset = ? AND (directory = ? OR directory > ? AND directory < ?)"


class Pushed(NamedTuple):
    """One path of a dataset that has what was written here."""

    path: bytes
    content: bytes
    mtime: int


class PushedTimes:
    """Those in the database of `statements`."""

    def __init__(self, statements: Statements) -> None:
        self._journal = statements
        self._known: dict[tuple[bytes, bytes], Mapping[bytes, Written]] = {}
        self._since: dict[bytes, bytes] = {}
        self.read_again()

    def read_again(self) -> None:
        """They were changed by way of other statements."""
        self._known.clear()
        self._since = dict(self._journal.run('SELECT dataset, "commit" FROM since').fetchall())

    # -- reading ------------------------------------------------------------------------------------------------------

    def since(self, dataset: bytes) -> bytes | None:
        """See KeptTimes."""
        return self._since.get(dataset)

    def written(self, dataset: bytes, directory: bytes) -> Mapping[bytes, Written]:
        """See KeptTimes."""
        if dataset not in self._since:
            return {}
        known = self._known.get((dataset, directory))
        if known is None:
            found = self._journal.run(_READ, (dataset, directory)).fetchall()
            if len(self._known) >= _MOST_DIRECTORIES:
                self._known.clear()
            known = self._known[dataset, directory] = {name: Written(content, at) for name, content, at in found}
        return known


def keep(
    statements: Statements, dataset: bytes, below: bytes, moved: Mapping[bytes, bytes], pushed: Iterable[Pushed]
) -> None:
    """Remember what was pushed over the commit `below`. `moved`: path of a renamed directory → where it is now. Belongs
    into a step; see PushedTimes.read_again.
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
