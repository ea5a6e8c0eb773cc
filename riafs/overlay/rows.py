"""The overlay's rows: reading and changing nodes, extents and areas. All calls are short and synchronous.

Row is a named tuple, not a dataclass: SQLite makes tuples, and a look-up makes one each time. Changing calls belong
into a step of the journal.

New files are kept in memory until the next commit (`add`), where they are one statement together, with what was written
to them meanwhile; whatever looks at more than one row, and every step that may be undone, has them written first. The
names in new directories are remembered, so that making many files does not look each of them up.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from riafs.overlay.changes import Base
from riafs.overlay.journal import Statements

FILE, LINK, DIRECTORY, WHITEOUT, FIFO, SOCKET, CHARACTER, BLOCK = range(1, 9)
SPECIAL = frozenset((FIFO, SOCKET, CHARACTER, BLOCK))
"""What git has none of."""


class Row(NamedTuple):
    """A node; columns as in journal."""

    id: int
    parent: int | None
    name: bytes | None
    kind: int
    covered: bytes | None
    mode: int
    uid: int
    gid: int
    atime: int
    mtime: int
    ctime: int
    size: int
    target: bytes | None
    area: int
    base: bytes | None
    entry: bytes | None
    based: int
    data: int
    written: int
    version: int
    record: int | None = None
    links: int = 0
    device: int = 0


class Outline(NamedTuple):
    """What the list of changes needs of a node: reading all of it would take twice as long."""

    id: int
    name: bytes
    kind: int
    covered: bytes | None
    mode: int
    size: int
    target: bytes | None
    base: bytes | None
    entry: bytes | None
    based: int
    data: int
    written: int
    version: int
    record: int | None


@dataclass(frozen=True, slots=True)
class Area:
    """A dataset with changes, and the commit that they lie over."""

    id: int
    base: Base
    entrance: bytes
    top: int


_KEPT = 10_000
NUMBERS = 1 << 40
"""More than are used between two openings, so that nothing is to be looked for: there are 2 ** 63."""
_BY_ID = "SELECT * FROM node WHERE id = ?"
_CHILD = "SELECT * FROM node WHERE parent = ? AND name = ?"
_OUTLINES = f"SELECT {', '.join(Outline._fields)} FROM node WHERE parent = ? ORDER BY name"  # noqa: S608  # ours
_INSERT = "INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_AREA = 'SELECT id, dataset, store, ref, "commit", entrance, top FROM area'


MOST = 100_000
"""About 10 MB."""


class KnownNames:
    """Which names can be in a directory, by the directory's number.

    Known are directories that got their rows from this process. Of such a directory all rows' names are remembered, and
    maybe some that were there. There is room for `most` of both; then nothing is known of any directory again.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._names: dict[int, set[bytes]] = {}
        self._count = 0

    def excludes(self, directory: int, name: bytes) -> bool:
        """Whether there certainly is no such name."""
        names = self._names.get(directory)
        return names is not None and name not in names

    def made(self, directory: int) -> None:
        """A directory without names."""
        self._names[directory] = set()
        self._counted()

    def removed(self, directory: int) -> None:
        """A directory that is not asked about any more."""
        self._names.pop(directory, None)

    def add(self, directory: int | None, name: bytes | None) -> None:
        """There may be such a name from now on. None: it is in no directory."""
        names = None if directory is None else self._names.get(directory)
        if names is not None and name is not None:
            names.add(name)
            self._counted()

    def _counted(self) -> None:
        self._count += 1
        if self._count > self._most:
            self._names.clear()
            self._count = 0


class Rows:
    """The tables. Numbers count up from what is in them, so that none is used twice while a kernel may know it."""

    def __init__(self, journal: Statements, *, only_read: bool = False) -> None:
        self._journal = journal
        self._one = journal.one
        self._run = journal.run
        self._last_id: int = 0 if only_read else journal.one("SELECT max(id) FROM node")[0] or 0
        self._last_data = self._last_version = last = 0 if only_read else self._last_number()
        self.numbers = last + NUMBERS
        """No data file and no version gets a larger number before the overlay is opened anew."""
        self.turn = 0
        """Grows whenever a directory's entries change."""
        self.updates = 0
        """Grows whenever a row gets other columns."""
        self.touched: dict[int, int] = {}
        """Directories whose entries have changed since the last commit → when: a directory with many new names is
        written once."""
        self.orphans: set[int] = set()
        """What was removed while it was open."""
        self.superseded: set[int] = set()
        """Those of them that are in the commit now, so that whoever opens the name gets that."""
        self._directories: dict[int, Row] = {}
        self._new: dict[int, Row] = {}
        self._new_names: dict[tuple[int, bytes], int] = {}
        self._absent: tuple[int, int, bytes] | None = None
        """In which turn which name was found not to be there: who makes something has looked it up just before."""
        self._names = KnownNames()
        self._subdirectories: dict[int, int] = {}
        """Directory → how many directories are in it: asked for with the attributes, after each new file."""

    def beside(self, statements: Statements) -> "Rows":
        """The same tables on another connection, to change them in another thread: see `adopt`."""
        found = Rows(statements, only_read=True)
        found.count_from(self._last_id, self._last_version)
        found.orphans, found.superseded = set(self.orphans), set(self.superseded)
        return found

    def adopt(self, changed: "Rows") -> None:
        """What was changed by way of `changed` is committed."""
        self.count_from(changed.last_id, changed.last_version)
        self.orphans |= changed.orphans
        self.superseded |= changed.superseded
        self._names = KnownNames()
        self.forget()

    def _last_number(self) -> int:
        """Not less than that of any data file and version: looking for the last ones takes long in large overlays."""
        settings = dict(self._run("SELECT name, value FROM setting").fetchall())
        known = int(settings.get("numbers", 0))
        if known and settings["seen"] == settings["commits"]:
            return known
        data, version = self._one("SELECT max(data), max(version) FROM node")
        return max(known, data or 0, version or 0)

    # -- reading ------------------------------------------------------------------------------------------------------

    def get(self, node: int) -> Row | None:
        """The node with that id."""
        known = self._directories.get(node) or self._new.get(node)
        if known is not None:
            return known
        found = self._one(_BY_ID, (node,))
        if found is None:
            return None
        row = Row._make(found)
        if row.kind == DIRECTORY:
            if len(self._directories) >= _KEPT:
                self._directories.clear()
            self._directories[node] = row
        return row

    def content(self, row: Row) -> Row:
        """The node that has the content, the attributes and the inode number of what has the name `row`."""
        found = row if row.record is None else self.get(row.record)
        assert found is not None
        return found

    def whole(self, row: Row) -> Row:
        """A name with what its record has: content, attributes, and the version of whichever changed last."""
        if row.record is None:
            return row
        return self.content(row)._replace(
            id=row.id, parent=row.parent, name=row.name, covered=row.covered, base=row.base, entry=row.entry,
            version=max(row.version, self.content(row).version), record=row.record,
        )  # fmt: skip

    def child(self, parent: int, name: bytes) -> Row | None:
        """The row of that name in a directory, which may be a whiteout."""
        if self._names.excludes(parent, name):
            return None
        known = self._new_names.get((parent, name))
        if known is not None:
            return self._new[known]
        asked = self.turn, parent, name
        if asked == self._absent:
            return None
        found = self._one(_CHILD, (parent, name))
        if found is None:
            self._absent = asked
            return None
        return Row._make(found)

    def children(self, parent: int) -> list[Row]:
        """All rows of a directory, by name."""
        return list(self.each_child(parent))

    def each_child(self, parent: int) -> Iterator[Row]:
        """The same, one by one. Nothing may be changed meanwhile."""
        self.store_new()
        return map(Row._make, self._run("SELECT * FROM node WHERE parent = ? ORDER BY name", (parent,)))

    def outlines(self, parent: int) -> Iterator[Outline]:
        """The same, of each only what the list of changes needs."""
        self.store_new()
        return map(Outline._make, self._run(_OUTLINES, (parent,)))

    def covering(self, parent: int) -> dict[bytes, Row]:
        """The rows of a directory that stand in the place of entries below."""
        rows = self._run("SELECT * FROM node WHERE parent = ? AND covered IS NOT NULL", (parent,))
        return {row[2]: Row._make(row) for row in rows}

    def added(self, parent: int, after: int, count: int) -> list[Row]:
        """The rows of a directory without an entry below, by id, from the one after `after` on."""
        self.store_new()
        sql = "SELECT * FROM node WHERE parent = ? AND covered IS NULL AND id > ? ORDER BY id LIMIT ?"
        return [Row._make(row) for row in self._run(sql, (parent, after, count))]

    def is_occupied(self, parent: int) -> bool:
        """Whether a directory has rows that are not whiteouts."""
        self.store_new()
        return self._one("SELECT 1 FROM node WHERE parent = ? AND kind <> 4 LIMIT 1", (parent,)) is not None

    def directories(self, parent: int) -> int:
        """How many rows of a directory are directories."""
        known = self._subdirectories.get(parent)
        if known is None:
            known = int(self._one("SELECT count(*) FROM node WHERE parent = ? AND kind = 3", (parent,))[0])
            if len(self._subdirectories) >= _KEPT:
                self._subdirectories.clear()
            self._subdirectories[parent] = known
        return known

    def _count_directory(self, parent: int | None, more: int) -> None:
        """There are so many directories more in `parent`. Counting anew each time makes many of them quadratic."""
        if parent in self._subdirectories:
            self._subdirectories[parent] += more

    def by_base(self, area: int, base: bytes) -> Row | None:
        """The row that was copied up from that path; of several names the one that stood there."""
        if not base:
            found = self._one("SELECT node.* FROM node JOIN area ON top = node.id WHERE area.id = ?", (area,))
        else:
            found = self._one("SELECT * FROM node WHERE area = ? AND base = ? AND parent IS NOT NULL", (area, base))
        return None if found is None else Row._make(found)

    def based_in(self, area: int, base: bytes) -> list[Row]:
        """The rows that were copied up from that path, or from below it."""
        sql = "SELECT * FROM node WHERE area = ? AND (base = ? OR (base > ? AND base < ?)) AND parent IS NOT NULL"
        return [Row._make(row) for row in self._run(sql, (area, base, base + b"/", base + b"0"))]

    def all(self) -> Iterator[Row]:
        """Every node."""
        self.store_new()
        return map(Row._make, self._run("SELECT * FROM node").fetchall())

    def written(self, data: int) -> int | None:
        """How many bytes a data file has, None where no row names it. Reads all rows."""
        self.store_new()
        found = self._one("SELECT written FROM node WHERE data = ?", (data,))
        return None if found is None else int(found[0])

    def removed(self) -> list[Row]:
        """What was removed while it was open."""
        sql = "SELECT * FROM node WHERE parent IS NULL AND links = 0 AND id NOT IN (SELECT top FROM area)"
        return [Row._make(row) for row in self._run(sql)]

    def orphaned(self, area: int) -> list[Row]:
        """What was removed from an area while it was open."""
        return [row for row in map(self.get, self.orphans) if row is not None and row.area == area]

    # -- changing -----------------------------------------------------------------------------------------------------

    @property
    def last_version(self) -> int:
        """The version that was given last."""
        return self._last_version

    @property
    def last_data(self) -> int:
        """No data file has a larger number."""
        return self._last_data

    @property
    def last_id(self) -> int:
        """The node's number that was given last."""
        return self._last_id

    def next_id(self) -> int:
        """A number for a new node."""
        self._last_id += 1
        return self._last_id

    def next_data(self) -> int:
        """A number for a new data file."""
        self._last_data += 1
        return self._last_data

    def count_from(self, row: int, version: int) -> None:
        """Numbers up to these are remembered elsewhere too, and not to be used again."""
        self._last_id, self._last_version = max(self._last_id, row), max(self._last_version, version)

    def next_version(self) -> int:
        """A version later than all before."""
        self._last_version += 1
        return self._last_version

    def insert(self, row: Row) -> None:
        """Add a node."""
        self.turn += 1
        self._run(_INSERT, row)
        self._names.add(row.parent, row.name)
        if row.kind == DIRECTORY:
            self._count_directory(row.parent, 1)
            self._names.made(row.id)

    def add(self, row: Row) -> None:
        """Add a file that covers nothing, in a step that cannot be undone: it is written with the next commit."""
        assert row.parent is not None
        assert row.name is not None
        self.turn += 1
        self._new[row.id] = row
        self._new_names[row.parent, row.name] = row.id
        self._names.add(row.parent, row.name)

    def is_new(self, node: int) -> bool:
        """Whether a node is in memory only, so that no change of it can be half done."""
        return node in self._new

    @property
    def is_behind(self) -> bool:
        """Whether there is something that `store` would write."""
        return bool(self._new or self.touched)

    def store(self) -> None:
        """Write what is kept in memory: new files, and the times of directories. Belongs into a group."""
        self.store_new()
        for node, now in self.touched.items():
            self.update(node, mtime=now, ctime=now)
        self.touched.clear()

    def store_new(self) -> None:
        """Write new files."""
        if self._new:
            self._journal.begin()
            self._journal.run_each(_INSERT, self._new.values())
            self._new.clear()
            self._new_names.clear()

    def update(self, node: int, **columns: Any) -> None:  # noqa: ANN401  # as SQLite takes them
        """Set columns of a node. The names are ours, never a caller's from outside."""
        self.updates += 1
        known = self._new.get(node)
        if known is not None:
            self._new[node] = known._replace(**columns)
            return
        self._directories.pop(node, None)
        names = ", ".join(f"{name} = ?" for name in columns)
        self._run(f"UPDATE node SET {names} WHERE id = ?", (*columns.values(), node))  # noqa: S608

    def touch(self, node: int, now: int) -> None:
        """The entries of a directory have changed."""
        self.touched[node] = now

    def move(self, node: int, parent: int | None, name: bytes | None, covered: bytes | None, now: int) -> None:
        """Give a node another place, or none."""
        self.turn += 1
        moved = self.get(node)
        if moved is not None and moved.kind == DIRECTORY:
            self._count_directory(moved.parent, -1)
            self._count_directory(parent, 1)
        self._directories.pop(node, None)
        self._names.add(parent, name)
        sql = "UPDATE node SET parent = ?, name = ?, covered = ?, ctime = ?, version = ? WHERE id = ?"
        self._run(sql, (parent, name, covered, now, self.next_version(), node))

    def orphan(self, node: int, now: int) -> None:
        """Take away the name of what is open."""
        self.move(node, None, None, None, now)
        self.orphans.add(node)

    def share(self, row: Row) -> Row:
        """Put all but the name of `row` into a record, which is returned: it has one name then. Belongs into a step."""
        record = row._replace(id=self.next_id(), parent=None, name=None, covered=None, links=1)
        self.insert(record)
        self._run("UPDATE extent SET node = ? WHERE node = ?", (record.id, row.id))
        self.update(row.id, record=record.id, size=0, target=None, based=0, data=0, written=0)
        return record

    def unname(self, row: Row, now: int) -> Row | None:
        """Take a name away. Returns what has none then, and is still to be removed; None where others are left."""
        if row.record is None:
            return row
        record = self.content(row)
        self.delete(row)
        self.update(record.id, links=record.links - 1, ctime=max(record.ctime, now))
        return record if record.links == 1 else None

    def has_stood(self, record: int) -> bool:
        """Whether one of the names of a record is that of an entry of the commit."""
        return self._one("SELECT 1 FROM node WHERE record = ? AND base IS NOT NULL LIMIT 1", (record,)) is not None

    def forget(self) -> None:
        """Drop what is kept of rows, after changes were undone."""
        self._directories.clear()
        self._subdirectories.clear()
        self.turn += 1

    def delete(self, row: Row) -> None:
        """Remove a node and what only it has: its extents, its whiteouts."""
        self.turn += 1
        if row.kind == DIRECTORY:
            known = self.get(row.id)  # where it is now, whatever `row` says
            self._count_directory(None if known is None else known.parent, -1)
            self._subdirectories.pop(row.id, None)
        self._directories.pop(row.id, None)
        self._run("DELETE FROM node WHERE id = ?", (row.id,))
        if row.kind == DIRECTORY:
            self._names.removed(row.id)
            self._run("DELETE FROM node WHERE parent = ? AND kind = 4", (row.id,))
        elif row.based:
            self.clear_extents(row.id)

    def whiteout(self, parent: Row, name: bytes, covered: bytes, now: int) -> None:
        """Hide the entry below."""
        version = self.next_version()
        self.insert(
            Row(self.next_id(), parent.id, name, WHITEOUT, covered, 0, 0, 0, now, now, now, 0, None,
                parent.area, None, None, 0, 0, 0, version)
        )  # fmt: skip

    # -- extents ------------------------------------------------------------------------------------------------------

    def extents(self, node: int) -> list[tuple[int, int]]:
        """The local ranges of a file, in order."""
        return self._run('SELECT start, "end" FROM extent WHERE node = ? ORDER BY start', (node,)).fetchall()

    def add_extent(self, node: int, start: int, end: int) -> None:
        """Add a range that takes the place of those in it."""
        self._run("DELETE FROM extent WHERE node = ? AND start >= ? AND start <= ?", (node, start, end))
        self._run("INSERT INTO extent VALUES (?, ?, ?)", (node, start, end))

    def clip_extents(self, node: int, end: int) -> None:
        """Take out everything from `end` on."""
        self._run("DELETE FROM extent WHERE node = ? AND start >= ?", (node, end))
        self._run('UPDATE extent SET "end" = ?1 WHERE node = ?2 AND "end" > ?1', (end, node))

    def clear_extents(self, node: int) -> None:
        """Take out all."""
        self._run("DELETE FROM extent WHERE node = ?", (node,))

    # -- areas --------------------------------------------------------------------------------------------------------

    def areas(self) -> list[Area]:
        """The datasets with rows."""
        return [_area(row) for row in self._run(_AREA)]

    def area(self, dataset: bytes) -> Area | None:
        """The area of a dataset."""
        found = self._one(f"{_AREA} WHERE dataset = ?", (dataset,))
        return None if found is None else _area(found)

    def add_area(self, base: Base, entrance: bytes, top: int) -> Area:
        """A new area."""
        sql = 'INSERT INTO area (dataset, store, ref, "commit", entrance, top) VALUES (?, ?, ?, ?, ?, ?)'
        added = self._run(sql, (base.dataset, base.store, base.ref, base.commit, entrance, top)).lastrowid
        assert added is not None
        return Area(added, base, entrance, top)

    def is_pristine(self, area: Area) -> bool:
        """Whether nothing of an area was changed: its rows were made for changes that failed."""
        self.store_new()
        sql = "kind = 4 OR base IS NULL OR data <> 0 OR atime <> mtime OR mtime <> ctime"  # as copied up, all are equal
        return self._one(f"SELECT 1 FROM node WHERE area = ? AND ({sql}) LIMIT 1", (area.id,)) is None  # noqa: S608

    def drop_area(self, area: Area) -> None:
        """Remove an area and all its rows."""
        self._run("DELETE FROM node WHERE area = ?", (area.id,))
        self.forget()
        self.delete_area(area)

    def move_area(self, area: Area, commit: bytes) -> None:
        """Put an area over another commit."""
        self._run('UPDATE area SET "commit" = ? WHERE id = ?', (commit, area.id))

    def move_entrance(self, area: Area, entrance: bytes) -> None:
        """An area is shown elsewhere."""
        self._run("UPDATE area SET entrance = ? WHERE id = ?", (entrance, area.id))

    def delete_area(self, area: Area) -> None:
        """Remove an area; its nodes are gone."""
        self._run("DELETE FROM area WHERE id = ?", (area.id,))


def _area(row: tuple[int, bytes, str, bytes | None, bytes, bytes, int]) -> Area:
    return Area(row[0], Base(row[1], row[2], row[3], row[4]), row[5], row[6])
