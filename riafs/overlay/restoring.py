"""Restoring paths: their local changes are dropped, so that the commit's entries show again.

A rename is one change with two ends: whichever path is restored, the entry is back at its old path.
"""

from collections.abc import Callable, Sequence

from riafs.errors import NoSuchName
from riafs.overlay.database import Statements
from riafs.overlay.overlay import Overlay
from riafs.overlay.rows import DIRECTORY, WHITEOUT, Area, Row, Rows


class Restoring:
    """Restores paths of `area`. Belongs into one step; nothing of it may be open. `doom` hears the numbers of the data
    files that are not needed any more.
    """

    def __init__(self, rows: Rows, doom: Callable[[int], None], area: Area) -> None:
        self._rows = rows
        self._doom = doom
        self._area = area

    def restore(self, path: bytes) -> None:
        """Drop the changes of `path` and of everything in it; ``""`` is everything. Raises NoSuchName where nothing is
        changed.
        """
        row = self._at(path)
        if row is None:
            raise NoSuchName(f"nothing is changed at {path!r}")
        if row.parent is None:
            self._drop(self._rows.children(row.id))
            self._rows.delete(row)
            self._rows.delete_area(self._area)
        else:
            self._drop([row])

    def _at(self, path: bytes) -> Row | None:
        row = self._rows.get(self._area.top)
        for name in path.split(b"/") if path else ():
            row = None if row is None else self._rows.child(row.id, name)
        return row

    def _drop(self, rows: Sequence[Row]) -> None:
        """Remove rows and those in them, which go first; what was moved away from here comes back, what was moved here
        goes back."""
        waiting = [(row, False) for row in reversed(rows)]
        while waiting:
            row, is_empty = waiting.pop()
            if self._rows.get(row.id) is None:
                continue  # the other end of a rename that was dropped meanwhile
            if row.kind == DIRECTORY and not is_empty:
                waiting.append((row, True))
                waiting += [(child, False) for child in reversed(self._rows.children(row.id))]
                continue
            hidden = self._hidden(row)
            nameless = self._rows.unname(row, row.ctime)
            if nameless is not None:
                self._rows.delete(nameless)
                self._doom(nameless.data)
            if row.base is not None and row.base != hidden:
                self._uncover(row.base)
            if hidden is not None:
                waiting += [(other, False) for other in reversed(self._rows.based_in(self._area.id, hidden))]

    def _hidden(self, row: Row) -> bytes | None:
        """The path in the base commit of what the tree below has in this row's place."""
        parent = None if row.parent is None or row.covered is None else self._rows.get(row.parent)
        if parent is None or parent.base is None or row.name is None:
            return None
        return parent.base + b"/" + row.name if parent.base else row.name

    def _uncover(self, base: bytes) -> None:
        """Remove the whiteout where `base` was moved away from; something new that was made there stays."""
        directory, _, name = base.rpartition(b"/")
        parent = self._rows.by_base(self._area.id, directory)
        whiteout = None if parent is None else self._rows.child(parent.id, name)
        if whiteout is not None and whiteout.kind == WHITEOUT:
            self._rows.delete(whiteout)


def restore(overlay: Overlay, dataset: bytes, path: bytes) -> None:
    """Drop the changes of a path and of what is in it; ``""`` is the whole dataset. Nothing of it may be open. For a
    process that has no event loop. Raises NoSuchName where nothing is changed, OverlayFailed.
    """
    area = overlay.area(dataset)
    with overlay.journal.freeing:
        Restoring(overlay.rows, overlay.files.doom, area).restore(path)


async def restore_all(overlay: Overlay, dataset: bytes, paths: Sequence[bytes]) -> None:
    """The same of several paths while the mount is in use: nothing can be changed meanwhile. Raises as `restore`; what
    came before the path that is not changed is restored then.
    """
    area = overlay.area(dataset)

    def restore(rows: Rows, _: Statements, doom: Callable[[int], None]) -> NoSuchName | None:
        try:
            for path in paths:
                Restoring(rows, doom, area).restore(path)
        except NoSuchName as error:
            return error
        return None

    problem = await overlay.change_in_thread(restore)
    if problem is not None:
        raise problem
