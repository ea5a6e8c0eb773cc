"""Moving a dataset's changes to another commit, after a push or because its branch moved.

How it works: in the new commit, an entry that a row was copied up from may have another path (the push has renamed it),
and a new file may be an entry now. So each row gets the path that its content has in the new commit (`base`). A row
that is the same as the commit's entry at its path is deleted; other rows stay, over that entry. A name that was pushed
and removed since is hidden by a whiteout. Rows are compared by the paths that they had when the list of changes was
made, as they may have been renamed since.

First all entries are looked up, while requests are served (`Rebasing.prepare`); then all rows are changed in one step,
in a thread. If a file was changed meanwhile, its entries are looked up again. If an entry has changes both here, not
pushed, and by others in the new commit, nothing is moved: over the new version the local change would not be recognised
as a conflict, and a file of which only a part is local would be a mixture of two versions.
"""

from collections.abc import Awaitable, Callable, Mapping, Set
from dataclasses import dataclass, field

import trio

from riafs.errors import Busy, PushConflict
from riafs.formats.names import below, is_in, joined, parents_of
from riafs.overlay.changes import Carried, ChangeKind, RowPosition
from riafs.overlay.database import Statements
from riafs.overlay.lower import packed, unpacked
from riafs.overlay.overlay import Overlay
from riafs.overlay.pushes import Pushed, keep
from riafs.overlay.rows import DIRECTORY, FILE, SPECIAL, WHITEOUT, Area, Row, Rows
from riafs.slices import Pauses
from riafs.tree.protocol import Entry, Kind

Find = Callable[[bytes], Awaitable[Entry | None]]
"""The entry at a path of a commit, None if there is none."""
Written = Callable[[], Set[int | None]]
"""The rows whose files are open for writing: these stay though they were pushed."""
_ATTEMPTS = 20


async def drop_pushed(
    overlay: Overlay, dataset: bytes, commit: bytes, carried: Carried, find: Find, written: Written = frozenset
) -> None:
    """Move a dataset's changes to `commit`, which has the changes that a push published: drop these, durably, and keep
    those that were made since. `find`: the entry at a path in `commit`.

    Raises NoSuchName, Busy if the dataset is changed all the time, and what `find` raises.
    """
    await Rebasing(overlay, overlay.area(dataset), commit, carried, find, written).run()


class _Pushed:
    """The changes that a push published, by path and by row."""

    def __init__(self, carried: Carried) -> None:
        self._rows = carried.rows
        self._versions: dict[bytes, int] = {}
        for change in carried.changes:
            self._versions[change.path] = max(change.version, self._versions.get(change.path, 0))
        left_out = (ChangeKind.REMOVED, ChangeKind.SPECIAL)
        self.made = {change.path for change in carried.changes if change.kind not in left_out}
        self.renamed = {change.source: change.path for change in carried.changes if change.source is not None}
        """Old path → new path."""
        removed = {change.path for change in carried.changes if change.kind is ChangeKind.REMOVED}
        self.gone = removed | self.renamed.keys()
        """Paths whose entries of the old commit were removed or renamed."""
        self._taken = {old.path for old in carried.rows.values()}
        self._above = {above for path in self.made | self.gone for above in parents_of(path)}
        self.added = self._added()

    def _added(self) -> Mapping[bytes, list[bytes]]:
        """Directory → names in it that are new in the commit."""
        known = {old.path for old in self._rows.values() if old.is_added}
        found: dict[bytes, dict[bytes, None]] = {}
        for made in self.made:
            path = made
            while path:
                directory, name = _split(path)
                if path in known:
                    found.setdefault(directory, {})[name] = None
                path = directory
        return {directory: list(names) for directory, names in found.items()}

    def at(self, row: int) -> RowPosition | None:
        """The path of a row when the list of changes was made."""
        return self._rows.get(row)

    def is_taken(self, path: bytes) -> bool:
        """Whether a row had this path."""
        return path in self._taken

    def was_pushed(self, row: Row) -> bool:
        """Whether a row was pushed and has not changed since."""
        old = self._rows.get(row.id)
        return old is not None and row.version <= self._versions.get(old.path, 0)

    def is_ours(self, path: bytes) -> bool:
        """Whether the push changed the entry at a path, one above it, or one in it."""
        if path in self._above:
            return True
        while path:
            if path in self.made or path in self.gone:
                return True
            path = _split(path)[0]
        return False

    def path_of(self, base: bytes) -> bytes:
        """The new path of the old commit's entry at `base`, after the renames of the push."""
        above = base
        while above:
            if above in self.renamed:
                return self.renamed[above] + base[len(above) :]
            above = _split(above)[0]
        return base


@dataclass(slots=True)
class _Plan:
    gone: list[Row] = field(default_factory=list)
    kept: list[tuple[Row, dict[str, object]]] = field(default_factory=list)
    records: dict[int, dict[str, object]] = field(default_factory=dict)
    """Number of a record → its new columns."""
    hidden: dict[int, list[tuple[bytes, bytes]]] = field(default_factory=dict)
    """Directory → names that were removed there after they were pushed, with the commit's entry."""
    bases: set[bytes] = field(default_factory=set)
    times: dict[bytes, Pushed] = field(default_factory=dict)
    """Path → the mtime of a file whose row is deleted; the new commit has another time."""
    overtaken: set[bytes] = field(default_factory=set)
    """Paths with changes both here and by others in the new commit."""


@dataclass(slots=True)
class _Visited:
    """A directory in the plan. `base`: its path in the new commit; `stays`: whether a row in it is known to stay."""

    row: Row
    base: bytes | None
    above: "_Visited | None"
    columns: dict[str, object]
    stays: bool = False


class Rebasing:
    """One move of a dataset's changes to another commit."""

    def __init__(
        self, overlay: Overlay, area: Area, commit: bytes, carried: Carried, find: Find, written: Written
    ) -> None:
        self.area = area
        self._overlay = overlay
        self._rows = overlay.rows
        self._commit = commit
        self._find = find
        self._written = written
        self._in_use: Set[int | None] = frozenset()
        self._carried = carried
        self._pushed: _Pushed
        self._plan = _Plan()
        self._planned_state: object = None
        """The state of the overlay that the plan was made for; None without a plan."""

    async def prepare(self) -> None:
        """Make the plan while requests are served; `run` makes it again if they have changed anything."""
        self._pushed = await trio.to_thread.run_sync(_Pushed, self._carried)
        await self._make_plan()

    async def run(self) -> None:
        """Make the plan, unless `prepare` did, apply it, and make that durable."""
        if self._planned_state is None:
            await self.prepare()
        for _ in range(_ATTEMPTS):
            if self._planned_state == self._state():
                self._refuse_overtaken()
                await self._overlay.change_in_thread(self._apply)
                await self._overlay.durable()
                self._overlay.withdraw(self.area.base.dataset)
                return
            await self._make_plan()
        raise Busy(f"dataset {self.area.base.dataset.decode()} is being changed all the time; try again")

    def _state(self) -> object:
        """Equal as long as no row is changed and no other file is open for writing."""
        self._overlay.journal.before_commit()
        return self._rows.last_version, self._rows.turn, self._rows.updates, self._written()

    def _refuse_overtaken(self) -> None:
        paths = tuple(sorted(self._plan.overtaken))
        if paths:
            base, where = self.area.base, ", ".join(ascii(path.decode(errors="replace")) for path in paths[:3])
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            raise PushConflict(
                f"dataset {base.dataset.decode()}: {where}{more} changed in the store as well; the local changes stay "
                f"over commit {base.commit.decode()[:10]}: push them, or restore them",
                paths,
            )

    # -- planning -----------------------------------------------------------------------------------------------------

    async def _make_plan(self) -> None:
        self._planned_state, state = None, self._state()
        self._in_use = self._written()
        self._plan = _Plan()
        top = self._rows.get(self.area.top)
        assert top is not None
        directories = [_Visited(top, b"", None, {})]
        waiting = await self._enter(directories[0])
        pauses = Pauses()
        while waiting:
            await pauses.pause()
            row, place, above = waiting.pop()
            if row.kind == DIRECTORY:
                visited = await self._subdirectory(row, place, above)
                directories.append(visited)
                waiting += await self._enter(visited)
            else:
                self._conclude(row, await self._leaf(row, place), above)
        for each in reversed(directories):  # subdirectories before their parents
            if not each.stays and each.base:
                self._keep_time(each.row, each.base, each.columns.get("entry"))
            self._conclude(each.row, each.columns if each.stays else None, each.above)
        self._planned_state = state

    async def _enter(self, visited: "_Visited") -> list[tuple[Row, bytes | None, "_Visited"]]:
        """The rows in a directory in reverse order, each with its path in the new commit."""
        children, base = self._rows.children(visited.row.id), visited.base
        if base is not None and await self._hide(visited.row, base, {child.name for child in children}):
            visited.stays = True
        waiting = []
        for child in reversed(children):
            assert child.name is not None
            waiting.append((child, None if base is None else joined(base, child.name), visited))
        return waiting

    def _conclude(self, row: Row, columns: dict[str, object] | None, above: "_Visited | None") -> None:
        """Note the new columns of a row, or that it is deleted (None)."""
        if columns is None:
            self._plan.gone.append(row)
        elif above is not None:
            self._plan.kept.append((row, columns))
            above.stays = True

    async def _hide(self, row: Row, base: bytes, there: set[bytes | None]) -> bool:
        """Hide names that were pushed into a directory and removed since. Returns whether there are any."""
        for name in self._pushed.added.get(base, ()):
            entry = None if name in there else await self._find(joined(base, name))
            if entry is not None:
                self._plan.hidden.setdefault(row.id, []).append((name, packed(entry)))
        return row.id in self._plan.hidden

    async def _leaf(self, row: Row, place: bytes | None) -> dict[str, object] | None:
        """The new columns of a row that is no directory, None if it is the same as the commit's entry at `place`."""
        row = self._rows.whole(row)
        entry = None if place is None else await self._find(place)
        covered = None if entry is None else packed(entry)
        old = self._pushed.at(row.id)
        is_pushed = row.kind not in SPECIAL and self._pushed.was_pushed(row) and old is not None and old.path == place
        if row.kind == WHITEOUT and (covered is None or is_pushed):
            return None
        in_use = (row.record or row.id) in self._in_use
        if row.kind != WHITEOUT and (is_pushed or self._is_as_before(row, place)) and not in_use:
            if is_pushed or not row.atime == row.mtime == row.ctime:  # as copied up, all are equal
                self._keep_time(row, place, covered)
            return None
        if place is not None and _version(row.covered) != _version(covered) and not self._pushed.is_ours(place):
            self._plan.overtaken.add(place)
        if row.kind == WHITEOUT:
            return {"covered": covered}
        if row.record is not None:
            await self._record_base(self._rows.content(row), old)
        return {"covered": covered} | await self._file_base(row)

    def _is_as_before(self, row: Row, place: bytes | None) -> bool:
        if row.links > 1:  # its content is still that of another name
            return False
        if row.base is None or row.entry is None or row.data or self._pushed.path_of(row.base) != place:
            return False
        was = unpacked(row.entry)
        return row.kind != FILE or (row.size == was.size and bool(row.mode & 0o100) == was.executable)

    async def _file_base(self, row: Row) -> dict[str, object]:
        if row.base is None:
            return {}
        old = self._pushed.at(row.id)
        path = old.path if old is not None and old.path in self._pushed.made else self._pushed.path_of(row.base)
        entry = await self._find(path)
        ours = path in self._pushed.made or (entry is None and self._pushed.is_ours(path))
        if row.data and not ours and _content(row.entry) != _content(None if entry is None else packed(entry)):
            self._plan.overtaken.add(path)
        if entry is None or entry.kind is Kind.DIRECTORY or not self._take(path):
            return {} if row.based and row.record is None else {"base": None, "entry": None}
        if row.record is not None:
            return {"base": path, "entry": packed(entry)}
        return {"base": path, "entry": packed(entry), "based": min(row.based, max(entry.size, 0))}

    async def _record_base(self, record: Row, old: RowPosition | None) -> None:
        """Find the path, in the new commit, of the content of a record. `old`: the former position of one of its
        names.
        """
        carried = old is not None and old.path in self._pushed.made
        if record.base is None or (record.id in self._plan.records and not carried):
            return
        path = old.path if old is not None and carried else self._pushed.path_of(record.base)
        entry = await self._find(path)
        ours = path in self._pushed.made or (entry is None and self._pushed.is_ours(path))
        if not ours and _content(record.entry) != _content(None if entry is None else packed(entry)):
            self._plan.overtaken.add(path)
        if entry is not None and entry.kind is not Kind.DIRECTORY:
            self._plan.records[record.id] = {
                "base": path, "entry": packed(entry), "based": min(record.based, max(entry.size, 0))
            }  # fmt: skip
        elif not record.based:
            self._plan.records[record.id] = {"base": None, "entry": None}

    async def _subdirectory(self, row: Row, place: bytes | None, above: "_Visited") -> "_Visited":
        """The new columns of a directory. Whether it stays is known after the rows in it."""
        entry = None if place is None else await self._find(place)
        covered = None if entry is None else packed(entry)
        base = self._directory_base(row, place)
        found = entry if base == place else None if base is None else await self._find(base)
        if found is None or found.kind is not Kind.DIRECTORY or base is None or not self._take(base):
            # also for an empty directory, which git does not store
            return _Visited(row, None, above, {"covered": covered, "base": None, "entry": None}, stays=True)
        columns: dict[str, object] = {"covered": covered, "base": base, "entry": packed(found)}
        return _Visited(row, base, above, columns, stays=base != place)

    def _keep_time(self, row: Row, place: bytes | None, entry: object) -> None:
        """Keep the mtime of a row that is deleted, as the commit has the same content there (`entry`, packed)."""
        content = _content(entry) if isinstance(entry, bytes) else None
        if place is not None and content is not None:
            self._plan.times[place] = Pushed(place, content, row.mtime)

    def _directory_base(self, row: Row, place: bytes | None) -> bytes | None:
        """The path that a directory may have in the new commit."""
        if row.base is not None:
            return self._pushed.path_of(row.base)
        old = self._pushed.at(row.id)
        if old is not None and (old.is_added or old.path in self._pushed.gone):
            return old.path
        is_new = old is None and row.covered is None and place is not None
        return place if is_new and not self._pushed.is_taken(place or b"") else None

    def _take(self, base: bytes) -> bool:
        """Reserve a base, which only one row can have; False if another row has it."""
        if base in self._plan.bases:
            return False
        self._plan.bases.add(base)
        return True

    # -- applying -----------------------------------------------------------------------------------------------------

    def _apply(self, rows: Rows, statements: Statements, discard: Callable[[int], None]) -> None:
        """Change the rows, in a thread, in one step."""
        plan = self._plan
        for row in plan.gone:
            self._drop(rows, row, discard)
        for row, _ in plan.kept:  # first remove all, as bases are unique and two rows may exchange theirs
            rows.update(row.id, base=None)
        for row in rows.orphaned(self.area.id):  # its open file has opened the base content
            rows.update(row.id, base=None)
        for row, columns in plan.kept:
            rows.update(row.id, **({"base": row.base} | columns))
        for record, columns in plan.records.items():
            if rows.get(record) is not None:
                rows.update(record, **columns)
        for directory, names in plan.hidden.items():
            parent = rows.get(directory)
            for name, covered in names if parent is not None else ():
                assert parent is not None
                rows.whiteout(parent, name, covered, parent.mtime)
        if self._pushed.made or self._pushed.gone or plan.times:
            base = self.area.base
            keep(statements, base.dataset, base.commit, self._pushed.renamed, plan.times.values())
        rows.move_area(self.area, self._commit)
        self._move_entrances(rows)
        if any(row.id == self.area.top for row in plan.gone):
            rows.delete_area(self.area)

    def _move_entrances(self, rows: Rows) -> None:
        """Update the paths of datasets in directories that the push has renamed."""
        for area in rows.areas():
            if area.id != self.area.id and is_in(area.entrance, self.area.entrance):
                inside = below(area.entrance, self.area.entrance)
                place = joined(self.area.entrance, self._pushed.path_of(inside))
                if place != area.entrance:
                    rows.move_entrance(area, place)

    def _drop(self, rows: Rows, row: Row, discard: Callable[[int], None]) -> None:
        """Remove a row; an open file keeps its content."""
        nameless = rows.remove_name(row, row.ctime)
        if nameless is None:
            return
        if row.kind == FILE and self._overlay.is_open(nameless.id):
            rows.orphan(nameless.id, row.ctime)
            rows.superseded.add(nameless.id)
        else:
            rows.delete(nameless)
            discard(nameless.data)


def _version(entry: bytes | None) -> tuple[int, bytes] | None:
    """Equal for entries with the same mode and content."""
    return None if entry is None else (unpacked(entry).origin.mode, unpacked(entry).content)


def _content(entry: bytes | None) -> bytes | None:
    return None if entry is None else unpacked(entry).content


def _split(path: bytes) -> tuple[bytes, bytes]:
    directory, _, name = path.rpartition(b"/")
    return directory, name
