"""Moving a dataset's changes to another commit: after a push, or because its branch moved.

Every row is looked at with the entry that the new commit has at its path. A row that the commit has in full goes; what
was changed since stays, over what is there now. First everything is looked up, then all rows change in one step; if
somebody changed something in between, it is done again.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from riafs.errors import Busy
from riafs.overlay.changes import Change, ChangeKind
from riafs.overlay.lower import packed, unpacked
from riafs.overlay.rows import DIRECTORY, FILE, WHITEOUT, Area, Row
from riafs.tree.protocol import Entry, Kind

if TYPE_CHECKING:
    from riafs.overlay.store import Overlay

Find = Callable[[bytes], Awaitable[Entry | None]]
InUse = Callable[[int], bool]
"""Whether the row of that number may still be written to."""
_ATTEMPTS = 20


def nobody(_: int) -> bool:
    """Nothing is in use."""
    return False


@dataclass(slots=True)
class _Plan:
    gone: list[Row] = field(default_factory=list)
    kept: list[tuple[Row, dict[str, object]]] = field(default_factory=list)
    hidden: dict[int, list[tuple[bytes, bytes]]] = field(default_factory=dict)
    """Directory → names that were removed there after they were pushed, and what the commit has there."""


class Rebasing:
    """See Overlay.pushed."""

    def __init__(
        self, overlay: "Overlay", area: Area, commit: bytes, pushed: Sequence[Change], find: Find, in_use: InUse
    ) -> None:
        self._overlay = overlay
        self._rows = overlay.rows
        self._area = area
        self._commit = commit
        self._find = find
        self._in_use = in_use
        self._versions: dict[bytes, int] = {}
        for change in pushed:
            self._versions[change.path] = max(change.version, self._versions.get(change.path, 0))
        self._made = [change.path for change in pushed if change.kind is not ChangeKind.REMOVED]
        self._plan = _Plan()

    async def run(self) -> None:
        """Plan and apply, and make that durable."""
        for _ in range(_ATTEMPTS):
            self._overlay.journal.before_commit()
            seen = self._rows.last_version, self._rows.turn
            await self._look()
            self._overlay.journal.before_commit()
            if seen == (self._rows.last_version, self._rows.turn):
                self._apply()
                await self._overlay.durable()
                return
        raise Busy(f"dataset {self._area.base.dataset.decode()} is being changed all the time; try again")

    # -- planning -----------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        self._plan = _Plan()
        top = self._rows.get(self._area.top)
        assert top is not None
        for path in self._made:
            await self._look_for_removed(top, path)
        if not await self._directory(top, b""):
            self._plan.gone.append(top)

    async def _look_for_removed(self, row: Row, path: bytes) -> None:
        """Where something was pushed and is not there any more, the commit's entry must be hidden."""
        walked = b""
        for name in path.split(b"/"):
            walked = _join(walked, name)
            child = self._rows.child(row.id, name)
            if child is None:
                entry = await self._find(walked)
                hidden = self._plan.hidden.setdefault(row.id, [])
                if entry is not None and all(name != known for known, _ in hidden):
                    hidden.append((name, packed(entry)))
            if child is None or child.kind != DIRECTORY:
                return
            row = child

    async def _directory(self, row: Row, path: bytes) -> bool:
        """Plan what is in a directory; whether any of it stays."""
        stays = bool(self._plan.hidden.get(row.id))
        for child in self._rows.children(row.id):
            assert child.name is not None
            below = _join(path, child.name)
            columns = await self._child(child, below)
            if columns is None:
                self._plan.gone.append(child)
            else:
                self._plan.kept.append((child, columns))
                stays = True
        return stays

    async def _child(self, row: Row, path: bytes) -> dict[str, object] | None:
        """The new columns of a row, None where the commit has it."""
        entry = await self._find(path)
        covered = None if entry is None else packed(entry)
        settled = row.version <= self._versions.get(path, 0)
        if row.kind == WHITEOUT:
            return None if covered is None or settled else {"covered": covered}
        if row.kind == DIRECTORY:
            return await self._subdirectory(row, path, entry, settled=settled)
        if (settled or self._is_as_before(row, path)) and not self._in_use(row.id):
            return None
        return {"covered": covered} | await self._file_base(row, path, entry)

    def _is_as_before(self, row: Row, path: bytes) -> bool:
        if row.base != path or row.entry is None or row.data:
            return False
        was = unpacked(row.entry)
        return row.kind != FILE or (row.size == was.size and bool(row.mode & 0o100) == was.executable)

    async def _file_base(self, row: Row, path: bytes, entry: Entry | None) -> dict[str, object]:
        if row.base is None:
            return {}
        if path not in self._versions and row.base != path:
            path, entry = row.base, await self._find(row.base)
        if entry is None or entry.kind is Kind.DIRECTORY:
            return {} if row.based else {"base": None, "entry": None}
        return {"base": path, "entry": packed(entry), "based": min(row.based, max(entry.size, 0))}

    async def _subdirectory(
        self, row: Row, path: bytes, entry: Entry | None, *, settled: bool
    ) -> dict[str, object] | None:
        stays = await self._directory(row, path)
        covered = None if entry is None else packed(entry)
        moved = row.base not in (None, path) and not settled
        replaced = row.base is None and row.covered is not None and not settled
        if moved or replaced:  # and nobody was told of it yet
            return {"covered": covered}
        if entry is None or entry.kind is not Kind.DIRECTORY:
            return {"covered": covered, "base": None, "entry": None}  # an empty one, which git does not hold
        return {"covered": covered, "base": path, "entry": covered} if stays else None

    # -- applying -----------------------------------------------------------------------------------------------------

    def _apply(self) -> None:
        rows, plan = self._rows, self._plan
        with self._overlay.journal.freeing:
            for row in plan.gone:
                self._drop(row)
            for row, _ in plan.kept:  # paths that two of them exchange are never there twice
                rows.update(row.id, base=None)
            for row, columns in plan.kept:
                rows.update(row.id, **({"base": row.base} | columns))
            for directory, names in plan.hidden.items():
                parent = rows.get(directory)
                for name, covered in names if parent is not None else ():
                    assert parent is not None
                    rows.whiteout(parent, name, covered, parent.mtime)
            rows.move_area(self._area, self._commit)
            if any(row.id == self._area.top for row in plan.gone):
                rows.delete_area(self._area)
        rows.forget()

    def _drop(self, row: Row) -> None:
        """Remove a row; who has it open goes on reading it."""
        if row.kind == FILE and self._overlay.is_open(row.id):
            self._rows.orphan(row.id, row.ctime)
            self._rows.superseded.add(row.id)
            self._rows.update(row.id, base=None)
        else:
            self._rows.delete(row)
            self._overlay.files.doom(row.data)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
