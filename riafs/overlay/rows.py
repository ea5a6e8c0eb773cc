"""The overlay's rows: reading and changing nodes, extents and areas. All calls are short and synchronous.

Row is a named tuple and not a dataclass, as SQLite returns tuples and each look-up makes one. Changes are made within a
step of the journal.

Rows of new files are kept in memory (`add`) until the next commit, which inserts all of them with one statement and
with the sizes that they have by then. Queries of more than one row, and steps that can be rolled back, insert them
first. The names in new directories are kept in memory as well, so that creating many files does not look each of them
up in the database.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from riafs.overlay.changes import Base
from riafs.overlay.database import Statements

FILE, LINK, DIRECTORY, WHITEOUT, FIFO, SOCKET, CHARACTER, BLOCK = range(1, 9)
SPECIAL = frozenset((FIFO, SOCKET, CHARACTER, BLOCK))
"""Kinds that git cannot store."""


class Row(NamedTuple):
    """A node; the columns are described in `database`."""

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
    """The columns that a list of changes needs: reading all columns would take twice as long."""

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
    """A dataset with changes, and their base commit. `entrance`: path from the root to the dataset; `top`: its node."""

    id: int
    base: Base
    entrance: bytes
    top: int


_KEPT = 10_000
NUMBERS = 1 << 40
"""More numbers than are used between two openings, so that opening need not search for the largest one; of 2 ** 63."""
_BY_ID = "SELECT * FROM node WHERE id = ?"
_CHILD = "SELECT * FROM node WHERE parent = ? AND name = ?"
_OUTLINES = f"SELECT {', '.join(Outline._fields)} FROM node WHERE parent = ? ORDER BY name"  # noqa: S608  # ours
_INSERT = "INSERT OR REPLACE INTO node VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_AREA = 'SELECT id, dataset, store, ref, "commit", entrance, top FROM area'


MOST = 100_000
"""Directories and names; about 10 MB."""


class KnownNames:
    """The names in directories that this process has made, by the directory's number.

    Of such a directory all names of rows are known, and maybe removed ones. When there are more than `most` directories
    and names, all are forgotten.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._names: dict[int, set[bytes]] = {}
        self._count = 0

    def excludes(self, directory: int, name: bytes) -> bool:
        """Whether the name certainly is not in the directory."""
        names = self._names.get(directory)
        return names is not None and name not in names

    def made(self, directory: int) -> None:
        """Note a new, empty directory."""
        self._names[directory] = set()
        self._counted()

    def removed(self, directory: int) -> None:
        """Forget a removed directory."""
        self._names.pop(directory, None)

    def add(self, directory: int | None, name: bytes | None) -> None:
        """Note a name. None: a row without a directory."""
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
    """The tables of nodes, extents and areas. New numbers are larger than all in them, so that none is used twice while
    a kernel may know it.
    """

    def __init__(self, journal: Statements, *, only_read: bool = False) -> None:
        self._journal = journal
        self._one = journal.one
        self._run = journal.run
        self._last_id: int = 0 if only_read else journal.one("SELECT max(id) FROM node")[0] or 0
        self._last_data = self._last_version = last = 0 if only_read else self._last_number()
        self.numbers = last + NUMBERS
        """No data file and no version gets a larger number before the overlay is opened again."""
        self.turn = 0
        """Grows whenever a directory's entries change."""
        self.updates = 0
        """Grows whenever a row gets other columns."""
        self.touched: dict[int, int] = {}
        """Directory whose entries have changed since the last commit → time. So a directory with many new names is
        updated once.
        """
        self.orphans: set[int] = set()
        """Rows that were removed while they were open."""
        self.superseded: set[int] = set()
        """Those of them that were pushed: the name now leads to the commit's entry."""
        self._directories: dict[int, Row] = {}
        self._new: dict[int, Row] = {}
        self._new_names: dict[tuple[int, bytes], int] = {}
        self._absent: tuple[int, int, bytes] | None = None
        """(turn, directory, name) of the last look-up without a result: creating a file looks its name up first."""
        self._names = KnownNames()
        self._subdirectories: dict[int, int] = {}
        """Directory → number of directories in it, for its link count, which is read after each new file."""

    def on_connection(self, statements: Statements) -> "Rows":
        """The same tables on another connection, to change them in another thread; `adopt` ends that."""
        found = Rows(statements, only_read=True)
        found.count_from(self._last_id, self._last_version)
        found.orphans, found.superseded = set(self.orphans), set(self.superseded)
        return found

    def adopt(self, changed: "Rows") -> None:
        """Use the changes that were made and committed through `changed`."""
        self.count_from(changed.last_id, changed.last_version)
        self.orphans |= changed.orphans
        self.superseded |= changed.superseded
        self._names = KnownNames()
        self.forget()

    def _last_number(self) -> int:
        """A number not less than that of any data file and version. Searching for the largest ones takes long in large
        overlays, so it is only done if an earlier riafs, which does not update `numbers`, has made changes.
        """
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
        """The node with the content, attributes and inode number of the name `row`: itself or its record."""
        found = row if row.record is None else self.get(row.record)
        assert found is not None
        return found

    def whole(self, row: Row) -> Row:
        """A name completed from its record: content, attributes, and the larger version."""
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
        """As `children`, one by one. Nothing may be changed meanwhile."""
        self.store_new()
        return map(Row._make, self._run("SELECT * FROM node WHERE parent = ? ORDER BY name", (parent,)))

    def outlines(self, parent: int) -> Iterator[Outline]:
        """As `each_child`, with the columns of a list of changes."""
        self.store_new()
        return map(Outline._make, self._run(_OUTLINES, (parent,)))

    def covering(self, parent: int) -> dict[bytes, Row]:
        """The rows of a directory that cover entries of the tree below, by name."""
        rows = self._run("SELECT * FROM node WHERE parent = ? AND covered IS NOT NULL", (parent,))
        return {row[2]: Row._make(row) for row in rows}

    def added(self, parent: int, after: int, count: int) -> list[Row]:
        """The rows of a directory that cover no entry, `count` at most, by id, after the id `after`."""
        self.store_new()
        sql = "SELECT * FROM node WHERE parent = ? AND covered IS NULL AND id > ? ORDER BY id LIMIT ?"
        return [Row._make(row) for row in self._run(sql, (parent, after, count))]

    def is_occupied(self, parent: int) -> bool:
        """Whether a directory has rows that are not whiteouts."""
        self.store_new()
        return self._one("SELECT 1 FROM node WHERE parent = ? AND kind <> 4 LIMIT 1", (parent,)) is not None

    def directories(self, parent: int) -> int:
        """The number of directories among the rows of a directory."""
        known = self._subdirectories.get(parent)
        if known is None:
            known = int(self._one("SELECT count(*) FROM node WHERE parent = ? AND kind = 3", (parent,))[0])
            if len(self._subdirectories) >= _KEPT:
                self._subdirectories.clear()
            self._subdirectories[parent] = known
        return known

    def _count_directory(self, parent: int | None, more: int) -> None:
        """Update the number of directories in `parent`. Counting again after each new one would be quadratic."""
        if parent in self._subdirectories:
            self._subdirectories[parent] += more

    def by_base(self, area: int, base: bytes) -> Row | None:
        """The row that was copied up from this path; of several names, the one that had it."""
        if not base:
            found = self._one("SELECT node.* FROM node JOIN area ON top = node.id WHERE area.id = ?", (area,))
        else:
            found = self._one("SELECT * FROM node WHERE area = ? AND base = ? AND parent IS NOT NULL", (area, base))
        return None if found is None else Row._make(found)

    def based_in(self, area: int, base: bytes) -> list[Row]:
        """The rows that were copied up from this path, or from a path below it."""
        sql = "SELECT * FROM node WHERE area = ? AND (base = ? OR (base > ? AND base < ?)) AND parent IS NOT NULL"
        return [Row._make(row) for row in self._run(sql, (area, base, base + b"/", base + b"0"))]

    def all(self) -> Iterator[Row]:
        """Every node."""
        self.store_new()
        return map(Row._make, self._run("SELECT * FROM node").fetchall())

    def written(self, data: int) -> int | None:
        """The length of a data file by its row, None if no row has it. Reads all rows."""
        self.store_new()
        found = self._one("SELECT written FROM node WHERE data = ?", (data,))
        return None if found is None else int(found[0])

    def removed(self) -> list[Row]:
        """All rows that were removed while they were open."""
        sql = "SELECT * FROM node WHERE parent IS NULL AND links = 0 AND id NOT IN (SELECT top FROM area)"
        return [Row._make(row) for row in self._run(sql)]

    def orphaned(self, area: int) -> list[Row]:
        """The rows of an area that were removed while they were open."""
        return [row for row in map(self.get, self.orphans) if row is not None and row.area == area]

    # -- changing -----------------------------------------------------------------------------------------------------

    @property
    def last_version(self) -> int:
        """The largest version so far."""
        return self._last_version

    @property
    def last_data(self) -> int:
        """No data file has a larger number."""
        return self._last_data

    @property
    def last_id(self) -> int:
        """The largest number of a node so far."""
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
        """Use only larger numbers from now on: these are used outside of the tables."""
        self._last_id, self._last_version = max(self._last_id, row), max(self._last_version, version)

    def next_version(self) -> int:
        """A version larger than all others."""
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
        """Add a file that covers no entry, in a step that cannot be rolled back. It is inserted with the next
        commit.
        """
        assert row.parent is not None
        assert row.name is not None
        self.turn += 1
        self._new[row.id] = row
        self._new_names[row.parent, row.name] = row.id
        self._names.add(row.parent, row.name)

    def is_new(self, node: int) -> bool:
        """Whether a node is only in memory, so that a change of it needs no savepoint."""
        return node in self._new

    @property
    def has_pending(self) -> bool:
        """Whether `store` would write anything."""
        return bool(self._new or self.touched)

    def store(self) -> None:
        """Write the rows of new files and the times of directories, which are in memory, within a group."""
        self.store_new()
        for node, now in self.touched.items():
            self.update(node, mtime=now, ctime=now)
        self.touched.clear()

    def store_new(self) -> None:
        """Write the rows of new files."""
        if self._new:
            self._journal.begin()
            self._journal.run_each(_INSERT, self._new.values())
            self._new.clear()
            self._new_names.clear()

    def update(self, node: int, **columns: Any) -> None:  # noqa: ANN401  # as SQLite takes them
        """Set columns of a node. Their names are constants of the callers, never input."""
        self.updates += 1
        known = self._new.get(node)
        if known is not None:
            self._new[node] = known._replace(**columns)
            return
        self._directories.pop(node, None)
        names = ", ".join(f"{name} = ?" for name in columns)
        self._run(f"UPDATE node SET {names} WHERE id = ?", (*columns.values(), node))  # noqa: S608

    def touch(self, node: int, now: int) -> None:
        """Note that the entries of a directory have changed."""
        self.touched[node] = now

    def move(self, node: int, parent: int | None, name: bytes | None, covered: bytes | None, now: int) -> None:
        """Give a node another directory and name, or none."""
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
        """Remove the name of a node that is open."""
        self.move(node, None, None, None, now)
        self.orphans.add(node)

    def share(self, row: Row) -> Row:
        """Move everything but the name of `row` to a new record with one name, which is returned. Within a step."""
        record = row._replace(id=self.next_id(), parent=None, name=None, covered=None, links=1)
        self.insert(record)
        self._run("UPDATE extent SET node = ? WHERE node = ?", (record.id, row.id))
        self.update(row.id, record=record.id, size=0, target=None, based=0, data=0, written=0)
        return record

    def remove_name(self, row: Row, now: int) -> Row | None:
        """Remove a name. Returns the node without names, which the caller has to remove; None if it has others."""
        if row.record is None:
            return row
        record = self.content(row)
        self.delete(row)
        self.update(record.id, links=record.links - 1, ctime=max(record.ctime, now))
        return record if record.links == 1 else None

    def has_base_name(self, record: int) -> bool:
        """Whether one of the names of a record was copied up from the commit."""
        return self._one("SELECT 1 FROM node WHERE record = ? AND base IS NOT NULL LIMIT 1", (record,)) is not None

    def forget(self) -> None:
        """Drop cached rows, after changes were rolled back."""
        self._directories.clear()
        self._subdirectories.clear()
        self.turn += 1

    def delete(self, row: Row) -> None:
        """Remove a node with its extents, or its whiteouts."""
        self.turn += 1
        if row.kind == DIRECTORY:
            known = self.get(row.id)  # `row` may be outdated, and have another parent
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
        """Hide the entry `covered` of the tree below."""
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
        """Add a range, which replaces those in it."""
        self._run("DELETE FROM extent WHERE node = ? AND start >= ? AND start <= ?", (node, start, end))
        self._run("INSERT INTO extent VALUES (?, ?, ?)", (node, start, end))

    def clip_extents(self, node: int, end: int) -> None:
        """Remove everything from `end` on."""
        self._run("DELETE FROM extent WHERE node = ? AND start >= ?", (node, end))
        self._run('UPDATE extent SET "end" = ?1 WHERE node = ?2 AND "end" > ?1', (end, node))

    def clear_extents(self, node: int) -> None:
        """Remove all ranges of a file."""
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
        """Add an area."""
        sql = 'INSERT INTO area (dataset, store, ref, "commit", entrance, top) VALUES (?, ?, ?, ?, ?, ?)'
        added = self._run(sql, (base.dataset, base.store, base.ref, base.commit, entrance, top)).lastrowid
        assert added is not None
        return Area(added, base, entrance, top)

    def is_pristine(self, area: Area) -> bool:
        """Whether all rows of an area are as copied up, since the changes that they were made for failed."""
        self.store_new()
        sql = "kind = 4 OR base IS NULL OR data <> 0 OR atime <> mtime OR mtime <> ctime"  # as copied up, all are equal
        return self._one(f"SELECT 1 FROM node WHERE area = ? AND ({sql}) LIMIT 1", (area.id,)) is None  # noqa: S608

    def drop_area(self, area: Area) -> None:
        """Remove an area and all its rows."""
        self._run("DELETE FROM node WHERE area = ?", (area.id,))
        self.forget()
        self.delete_area(area)

    def move_area(self, area: Area, commit: bytes) -> None:
        """Set the base commit of an area."""
        self._run('UPDATE area SET "commit" = ? WHERE id = ?', (commit, area.id))

    def move_entrance(self, area: Area, entrance: bytes) -> None:
        """Set the path from the root to an area's dataset."""
        self._run("UPDATE area SET entrance = ? WHERE id = ?", (entrance, area.id))

    def delete_area(self, area: Area) -> None:
        """Remove an area, whose nodes were removed before."""
        self._run("DELETE FROM area WHERE id = ?", (area.id,))


def _area(row: tuple[int, bytes, str, bytes | None, bytes, bytes, int]) -> Area:
    return Area(row[0], Base(row[1], row[2], row[3], row[4]), row[5], row[6])
