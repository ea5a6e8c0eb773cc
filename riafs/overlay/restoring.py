"""Restoring paths: their local changes are dropped, so that the commit's entries show again.

A rename is one change with two ends: whichever path is restored, the entry is back at its old path.
"""

from collections.abc import Callable, Sequence

from riafs.errors import NoSuchName
from riafs.overlay.database import Statements
from riafs.overlay.overlay import Overlay
from riafs.overlay.rows import DIRECTORY, WHITEOUT, Area, Row, Rows


class Restoring:
    """Restores paths of `area`, within one step, while none of its files is open. `discard` is called with the numbers
    of data files that are not needed any more.
    """

    def __init__(self, rows: Rows, discard: Callable[[int], None], area: Area) -> None:
        self._rows = rows
        self._doom = discard
        self._area = area

    def restore(self, path: bytes) -> None:
        """Drop the changes of `path` and of everything in it; ``""`` is the whole dataset. Raises NoSuchName if there
        are none.
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
        """Remove rows, and before each the rows in it. Both ends of each rename are undone."""
        stack = [(row, False) for row in reversed(rows)]
        while stack:
            row, is_empty = stack.pop()
            if self._rows.get(row.id) is None:
                continue  # the other end of a rename that was dropped meanwhile
            if row.kind == DIRECTORY and not is_empty:
                stack.append((row, True))
                stack += [(child, False) for child in reversed(self._rows.children(row.id))]
                continue
            hidden = self._hidden(row)
            nameless = self._rows.remove_name(row, row.ctime)
            if nameless is not None:
                self._rows.delete(nameless)
                self._doom(nameless.data)
            if row.base is not None and row.base != hidden:
                self._uncover(row.base)
            if hidden is not None:
                stack += [(other, False) for other in reversed(self._rows.based_in(self._area.id, hidden))]

    def _hidden(self, row: Row) -> bytes | None:
        """The path in the base commit of the entry that this row hides."""
        parent = None if row.parent is None or row.covered is None else self._rows.get(row.parent)
        if parent is None or parent.base is None or row.name is None:
            return None
        return parent.base + b"/" + row.name if parent.base else row.name

    def _uncover(self, base: bytes) -> None:
        """Remove the whiteout at the old path of a renamed entry; a new entry that was made there stays."""
        directory, _, name = base.rpartition(b"/")
        parent = self._rows.by_base(self._area.id, directory)
        whiteout = None if parent is None else self._rows.child(parent.id, name)
        if whiteout is not None and whiteout.kind == WHITEOUT:
            self._rows.delete(whiteout)


def restore(overlay: Overlay, dataset: bytes, path: bytes) -> None:
    """Drop the changes of a path and of everything in it; ``""`` is the whole dataset. None of its files may be open.
    For a process without an event loop. Raises NoSuchName if there are no changes, OverlayFailed.
    """
    area = overlay.area(dataset)
    with overlay.journal.freeing:
        Restoring(overlay.rows, overlay.files.discard, area).restore(path)


async def restore_all(overlay: Overlay, dataset: bytes, paths: Sequence[bytes]) -> None:
    """As `restore`, for several paths of a mount in use; its files cannot be changed meanwhile. If one of the paths has
    no changes, those before it are restored.
    """
    area = overlay.area(dataset)

    def restore(rows: Rows, _: Statements, discard: Callable[[int], None]) -> NoSuchName | None:
        try:
            for path in paths:
                Restoring(rows, discard, area).restore(path)
        except NoSuchName as error:
            return error
        return None

    problem = await overlay.change_in_thread(restore)
    if problem is not None:
        raise problem
