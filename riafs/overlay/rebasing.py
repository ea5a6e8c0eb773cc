"""Moving a dataset's changes to another commit, after a push or because its branch moved; and dropping changes.

What a row was copied up from is somewhere else in the new commit where the push has renamed it, and what was new may
be there now: so each row gets the path that the commit has its content at (`base`). A row that shows nothing else than
the commit has at its path is deleted; the others stay, over what is there now; a name that the push made and that is
not there any more is hidden. What matters is where rows were when the list of changes was made, not where they are now.

First everything is looked up, while others go on (`Rebasing.prepare`); then all rows change in one step, in a thread;
if something was changed in between, it is looked up again. Where others have changed in that commit what is changed
here and was not pushed, nothing moves: over their version the change would no longer be seen as a conflict, and a file
that is local in parts would be a mixture.

A rename is one change with two ends: whichever is restored, the entry is back where it was.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import trio

from riafs.errors import Busy, NoSuchName, PushConflict
from riafs.formats.names import below, is_in, joined, parents_of
from riafs.overlay.changes import Carried, ChangeKind, Stood
from riafs.overlay.journal import Statements
from riafs.overlay.lower import packed, unpacked
from riafs.overlay.overlay import Overlay
from riafs.overlay.pushes import Pushed, keep
from riafs.overlay.rows import DIRECTORY, FILE, SPECIAL, WHITEOUT, Area, Row, Rows
from riafs.slices import Pauses
from riafs.tree.protocol import Entry, Kind


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


Find = Callable[[bytes], Awaitable[Entry | None]]
"""The entry at a path of a commit, None where nothing is."""
Written = Callable[[], Set[int | None]]
"""The rows that somebody has open to write, which must stay though they were pushed."""
_ATTEMPTS = 20


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

    problem = await overlay.apart(restore)
    if problem is not None:
        raise problem


async def drop_pushed(
    overlay: Overlay, dataset: bytes, commit: bytes, carried: Carried, find: Find, written: Written = frozenset
) -> None:
    """What a push carried is in `commit` now, which lies below from here on: drop it, durably. What was changed
    meanwhile stays. `find`: the entry at a path in `commit`.

    Raises NoSuchName, Busy where changes never pause, and what `find` raises.
    """
    await Rebasing(overlay, overlay.area(dataset), commit, carried, find, written).run()


class _Pushed:
    """What a push carried, by path and by row."""

    def __init__(self, carried: Carried) -> None:
        self._rows = carried.rows
        self._versions: dict[bytes, int] = {}
        for change in carried.changes:
            self._versions[change.path] = max(change.version, self._versions.get(change.path, 0))
        left_out = (ChangeKind.REMOVED, ChangeKind.SPECIAL)
        self.made = {change.path for change in carried.changes if change.kind not in left_out}
        self.renamed = {change.source: change.path for change in carried.changes if change.source is not None}
        """Path before → path now."""
        removed = {change.path for change in carried.changes if change.kind is ChangeKind.REMOVED}
        self.gone = removed | self.renamed.keys()
        """Paths at which the old commit has something else than the new one, or than what stands there now."""
        self._taken = {stood.path for stood in carried.rows.values()}
        self._above = {above for path in self.made | self.gone for above in parents_of(path)}
        self.added = self._added()

    def _added(self) -> Mapping[bytes, list[bytes]]:
        """Directory → names in it that there were not before."""
        known = {stood.path for stood in self._rows.values() if stood.is_added}
        found: dict[bytes, dict[bytes, None]] = {}
        for made in self.made:
            path = made
            while path:
                directory, name = _split(path)
                if path in known:
                    found.setdefault(directory, {})[name] = None
                path = directory
        return {directory: list(names) for directory, names in found.items()}

    def at(self, row: int) -> Stood | None:
        """Where a row was."""
        return self._rows.get(row)

    def is_taken(self, path: bytes) -> bool:
        """Whether something of ours was there."""
        return path in self._taken

    def is_settled(self, row: Row) -> bool:
        """Whether a row was pushed as it is."""
        stood = self._rows.get(row.id)
        return stood is not None and row.version <= self._versions.get(stood.path, 0)

    def is_ours(self, path: bytes) -> bool:
        """Whether the push decided what the new commit has at a path, be it only inside of it."""
        if path in self._above:
            return True
        while path:
            if path in self.made or path in self.gone:
                return True
            path = _split(path)[0]
        return False

    def path_of(self, base: bytes) -> bytes:
        """Where the new commit has what the old one has at `base`, as far as the push moved it."""
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
    """Record → its new columns."""
    hidden: dict[int, list[tuple[bytes, bytes]]] = field(default_factory=dict)
    """Directory → names that were removed there after they were pushed, and what the commit has there."""
    bases: set[bytes] = field(default_factory=set)
    times: dict[bytes, Pushed] = field(default_factory=dict)
    """Path → what has a time of its own that the new commit does not tell."""
    overtaken: set[bytes] = field(default_factory=set)
    """Paths that are changed here, and by others in the new commit."""


@dataclass(slots=True)
class _Visited:
    """A directory that is planned. `base`: its path in the new commit; `stays`: whether anything in it does, as far as
    is known."""

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
        self._seen: object = None
        """What the plan was made of; None where there is none."""

    async def prepare(self) -> None:
        """Plan, while others go on: what they change then is looked at again by `run`."""
        self._pushed = await trio.to_thread.run_sync(_Pushed, self._carried)
        await self._look()

    async def run(self) -> None:
        """Plan, unless that was done, and apply, and make that durable."""
        if self._seen is None:
            await self.prepare()
        for _ in range(_ATTEMPTS):
            if self._seen == self._state():
                self._refuse_overtaken()
                await self._overlay.apart(self._apply)
                await self._overlay.durable()
                self._overlay.withdraw(self.area.base.dataset)
                return
            await self._look()
        raise Busy(f"dataset {self.area.base.dataset.decode()} is being changed all the time; try again")

    def _state(self) -> object:
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

    async def _look(self) -> None:
        self._seen, seen = None, self._state()
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
        for each in reversed(directories):  # what is in a directory before the directory
            if not each.stays and each.base:
                self._keep_time(each.row, each.base, each.columns.get("entry"))
            self._conclude(each.row, each.columns if each.stays else None, each.above)
        self._seen = seen

    async def _enter(self, visited: "_Visited") -> list[tuple[Row, bytes | None, "_Visited"]]:
        """What is in a directory, backwards: each with its path in the new commit."""
        children, base = self._rows.children(visited.row.id), visited.base
        if base is not None and await self._hide(visited.row, base, {child.name for child in children}):
            visited.stays = True
        waiting = []
        for child in reversed(children):
            assert child.name is not None
            waiting.append((child, None if base is None else joined(base, child.name), visited))
        return waiting

    def _conclude(self, row: Row, columns: dict[str, object] | None, above: "_Visited | None") -> None:
        """A row gets new columns, or goes (None)."""
        if columns is None:
            self._plan.gone.append(row)
        elif above is not None:
            self._plan.kept.append((row, columns))
            above.stays = True

    async def _hide(self, row: Row, base: bytes, there: set[bytes | None]) -> bool:
        """What was pushed into a directory and is not there any more must be hidden."""
        for name in self._pushed.added.get(base, ()):
            entry = None if name in there else await self._find(joined(base, name))
            if entry is not None:
                self._plan.hidden.setdefault(row.id, []).append((name, packed(entry)))
        return row.id in self._plan.hidden

    async def _leaf(self, row: Row, place: bytes | None) -> dict[str, object] | None:
        """The new columns of a row that is no directory, None where it shows what the commit has. `place`: the path
        there."""
        row = self._rows.whole(row)
        entry = None if place is None else await self._find(place)
        covered = None if entry is None else packed(entry)
        stood = self._pushed.at(row.id)
        settled = row.kind not in SPECIAL and self._pushed.is_settled(row) and stood is not None and stood.path == place
        if row.kind == WHITEOUT and (covered is None or settled):
            return None
        in_use = (row.record or row.id) in self._in_use
        if row.kind != WHITEOUT and (settled or self._is_as_before(row, place)) and not in_use:
            if settled or not row.atime == row.mtime == row.ctime:  # as copied up, all are equal
                self._keep_time(row, place, covered)
            return None
        if place is not None and _version(row.covered) != _version(covered) and not self._pushed.is_ours(place):
            self._plan.overtaken.add(place)
        if row.kind == WHITEOUT:
            return {"covered": covered}
        if row.record is not None:
            await self._record_base(self._rows.content(row), stood)
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
        stood = self._pushed.at(row.id)
        path = stood.path if stood is not None and stood.path in self._pushed.made else self._pushed.path_of(row.base)
        entry = await self._find(path)
        ours = path in self._pushed.made or (entry is None and self._pushed.is_ours(path))
        if row.data and not ours and _content(row.entry) != _content(None if entry is None else packed(entry)):
            self._plan.overtaken.add(path)
        if entry is None or entry.kind is Kind.DIRECTORY or not self._take(path):
            return {} if row.based and row.record is None else {"base": None, "entry": None}
        if row.record is not None:
            return {"base": path, "entry": packed(entry)}
        return {"base": path, "entry": packed(entry), "based": min(row.based, max(entry.size, 0))}

    async def _record_base(self, record: Row, stood: Stood | None) -> None:
        """Where the new commit has what the content of several names is from. `stood`: where one of them was."""
        carried = stood is not None and stood.path in self._pushed.made
        if record.base is None or (record.id in self._plan.records and not carried):
            return
        path = stood.path if stood is not None and carried else self._pushed.path_of(record.base)
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
        """Where a directory comes from in the new commit. Whether it stays is known once all in it is looked at."""
        entry = None if place is None else await self._find(place)
        covered = None if entry is None else packed(entry)
        base = self._directory_base(row, place)
        found = entry if base == place else None if base is None else await self._find(base)
        if found is None or found.kind is not Kind.DIRECTORY or base is None or not self._take(base):
            # also an empty one, which git does not hold
            return _Visited(row, None, above, {"covered": covered, "base": None, "entry": None}, stays=True)
        columns: dict[str, object] = {"covered": covered, "base": base, "entry": packed(found)}
        return _Visited(row, base, above, columns, stays=base != place)

    def _keep_time(self, row: Row, place: bytes | None, entry: object) -> None:
        """A row goes, and what it shows stays there: `entry`, packed."""
        content = _content(entry) if isinstance(entry, bytes) else None
        if place is not None and content is not None:
            self._plan.times[place] = Pushed(place, content, row.mtime)

    def _directory_base(self, row: Row, place: bytes | None) -> bytes | None:
        """Where the commit may have a directory."""
        if row.base is not None:
            return self._pushed.path_of(row.base)
        stood = self._pushed.at(row.id)
        if stood is not None and (stood.is_added or stood.path in self._pushed.gone):
            return stood.path
        is_new = stood is None and row.covered is None and place is not None
        return place if is_new and not self._pushed.is_taken(place or b"") else None

    def _take(self, base: bytes) -> bool:
        """No two rows have one base."""
        if base in self._plan.bases:
            return False
        self._plan.bases.add(base)
        return True

    # -- applying -----------------------------------------------------------------------------------------------------

    def _apply(self, rows: Rows, statements: Statements, doom: Callable[[int], None]) -> None:
        """Change the rows, in a thread, in one step."""
        plan = self._plan
        for row in plan.gone:
            self._drop(rows, row, doom)
        for row, _ in plan.kept:  # paths that two of them exchange are never there twice
            rows.update(row.id, base=None)
        for row in rows.orphaned(self.area.id):  # who has it open has its base content open
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
        """Datasets in directories that the push has renamed are where the commit has them now."""
        for area in rows.areas():
            if area.id != self.area.id and is_in(area.entrance, self.area.entrance):
                inside = below(area.entrance, self.area.entrance)
                place = joined(self.area.entrance, self._pushed.path_of(inside))
                if place != area.entrance:
                    rows.move_entrance(area, place)

    def _drop(self, rows: Rows, row: Row, doom: Callable[[int], None]) -> None:
        """Remove a row; who has it open goes on reading it."""
        nameless = rows.unname(row, row.ctime)
        if nameless is None:
            return
        if row.kind == FILE and self._overlay.is_open(nameless.id):
            rows.orphan(nameless.id, row.ctime)
            rows.superseded.add(nameless.id)
        else:
            rows.delete(nameless)
            doom(nameless.data)


def _version(entry: bytes | None) -> tuple[int, bytes] | None:
    """What tells two versions of an entry apart."""
    return None if entry is None else (unpacked(entry).origin.mode, unpacked(entry).content)


def _content(entry: bytes | None) -> bytes | None:
    return None if entry is None else unpacked(entry).content


def _split(path: bytes) -> tuple[bytes, bytes]:
    directory, _, name = path.rpartition(b"/")
    return directory, name
