"""Recovery of a damaged overlay: files keep their names where rows can be read, other data gets a number as its name.

Rows are read from the database, as far as that is possible and it belongs to this overlay, or from its copy of the last
closing, whichever has more commits; they are written to a new database. A changed file whose data is lost is as in the
commit again; a new one is gone. Data without a row and the old database are moved to another directory, so that nothing
is deleted.
"""

import contextlib
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from riafs.counters import Counters
from riafs.errors import OverlayDamaged, OverlayFailed, UsageError
from riafs.formats.names import joined
from riafs.overlay.completeness import (
    COPY,
    DATA,
    DATABASE,
    DIRECTORIES,
    StateFile,
    all_files,
    is_replaced,
    read_state,
)
from riafs.overlay.data_files import DataFiles
from riafs.overlay.journal import Journal
from riafs.overlay.lower import unpacked
from riafs.overlay.overlay import holding
from riafs.overlay.rows import FILE
from riafs.storage.deadline import Deadline

_OLD = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", COPY, "state")
_TABLES = {"setting": "name", "area": "id", "node": "id", "extent": "node"}
_SECONDS = 300.0
Record = dict[str, Any]


@dataclass(slots=True)
class Recovered:
    """The result of a recovery. Paths are those from the root of the source."""

    directory: str
    """The directory with everything that could not be kept."""
    named: list[bytes] = field(default_factory=list)
    """Files whose local data has kept its name."""
    numbered: list[str] = field(default_factory=list)
    """Files in `directory` with data whose name is lost."""
    lost: list[bytes] = field(default_factory=list)
    """Files whose local data is lost, at least in part."""


@dataclass(slots=True)
class _Tables:
    """The rows that could be read from a database: table → rows, each column → value. `whole`: these are all."""

    records: dict[str, list[Record]]
    whole: bool

    @property
    def settings(self) -> Mapping[str, Any]:
        return {each["name"]: each["value"] for each in self.records["setting"]}


def recover(path: str, target: str) -> Recovered:
    """Make the overlay in the directory `path` usable; everything that cannot be kept is moved to `target`, a new
    directory.

    Raises Busy while it is in use, UsageError, OverlayFailed, OverlayFull.
    """
    if os.path.lexists(target):
        raise UsageError(f"{target} exists already; name another directory for data without a name")
    with holding(path):
        tables = _best(path)
        try:
            os.makedirs(target, mode=0o700)
            for name in _OLD:
                if os.path.lexists(f"{path}/{name}"):
                    shutil.move(f"{path}/{name}", f"{target}/{name}")
            for name in DIRECTORIES:
                if is_replaced(path, name):
                    os.rename(f"{path}/{name}", f"{target}/{name.replace('/', '-')}")
            if not tables.whole:
                _move_announcements(path, target)
            os.makedirs(f"{path}/{DATA}", mode=0o700, exist_ok=True)
            return _rebuilt(path, target, tables)
        except OSError as error:
            raise OverlayFailed(f"{path} cannot be recovered: {error}") from error


def _move_announcements(path: str, target: str) -> None:
    for name in os.listdir(path):
        if name.startswith("announced-"):
            shutil.move(f"{path}/{name}", f"{target}/{name}")


# -- reading ----------------------------------------------------------------------------------------------------------


def _best(path: str) -> _Tables:
    """The tables of the database with the most commits of this overlay."""
    try:
        state = read_state(path)
    except OverlayDamaged:
        state = None
    known = None if state is None or not state.commits else state.identity
    found = [tables for name in (DATABASE, COPY) if (tables := _read(f"{path}/{name}")) is not None]
    own = [each for each in found if known is None or each.settings.get("identity") in (known, None)]
    if known is not None:  # a truncated database may have lost its identity
        own = [each for each in own if each.settings.get("identity") == known or not each.whole]
    nothing = _Tables({table: [] for table in (*_TABLES, "checksum")}, whole=False)
    return max(own, key=lambda each: (each.whole, each.settings.get("commits", 0)), default=nothing)


def _read(file: str) -> _Tables | None:
    """The readable rows of a database, None if it is no overlay's."""
    if not os.path.isfile(file) or not all_files(file):
        return None
    tables = _Tables({}, whole=True)
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_opened(file)) as database:
        for table, key in _TABLES.items():
            tables.records[table], whole = _read_table(database, table, key)
            tables.whole = tables.whole and whole
        tables.records["checksum"], _ = _read_table(database, "checksum", "data")  # riafs before had none
        return tables if tables.records["setting"] or tables.records["node"] else None
    return None


def _opened(file: str) -> sqlite3.Connection:
    database = sqlite3.connect(f"file:{quote(file)}?mode=ro", uri=True)
    database.row_factory = sqlite3.Row
    return database


def _read_table(database: sqlite3.Connection, table: str, key: str) -> tuple[list[Record], bool]:
    """The rows of a table, read from both ends up to the damage; and whether these are all."""
    found: dict[tuple[Any, ...], Record] = {}
    for order in ("ASC", "DESC"):
        try:
            for row in database.execute(f"SELECT * FROM {table} ORDER BY {key} {order}"):  # noqa: S608  # ours
                found[tuple(row)] = dict(row)
        except sqlite3.Error:
            continue
        return list(found.values()), order == "ASC"
    return list(found.values()), False


# -- writing ----------------------------------------------------------------------------------------------------------


def _rebuilt(path: str, target: str, tables: _Tables) -> Recovered:
    files = DataFiles(f"{path}/data")
    state = StateFile(path, None)
    try:
        journal = Journal(f"{path}/{DATABASE}", Deadline(f"the overlay {path}", _SECONDS, Counters(), 1))
        journal.committed, journal.synced = state.committed, state.synced
        recovered = Recovered(target)
        nodes = _kept(tables, files, recovered)
        settings = {name: value for name, value in tables.settings.items() if name in ("source", "boot")}
        settings["identity"] = state.identity
        with journal.step:
            _insert(journal, "setting", [{"name": name, "value": value} for name, value in settings.items()])
            _insert(journal, "area", tables.records["area"])
            _insert(journal, "node", nodes)
            kept = {node["id"] for node in nodes if node["based"]}
            _insert(journal, "checksum", tables.records["checksum"])
            _insert(journal, "extent", [each for each in tables.records["extent"] if each["node"] in kept])
        _clip(journal, nodes)
        journal.close()
        _move_unnamed(target, tables, files, nodes, recovered)
        state.closed()
    finally:
        state.close()
        files.close()
    return recovered


def _insert(journal: Journal, table: str, records: Sequence[Record]) -> None:
    """Insert rows, without columns that this riafs does not have."""
    known = [row[1] for row in journal.run(f"PRAGMA table_info({table})").fetchall()]
    for record in records:
        columns = [name for name in known if name in record]
        marks = ", ".join("?" * len(columns))
        names = ", ".join(f'"{name}"' for name in columns)
        values = tuple(record[name] for name in columns)
        journal.run(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", values)  # noqa: S608  # ours


def _clip(journal: Journal, nodes: Sequence[Record]) -> None:
    """Cut extents at the end of the data files."""
    with journal.step:
        for node in nodes:
            if node["based"]:
                end = node["written"]
                journal.run("DELETE FROM extent WHERE node = ? AND start >= ?", (node["id"], end))
                journal.run('UPDATE extent SET "end" = ?1 WHERE node = ?2 AND "end" > ?1', (end, node["id"]))


def _kept(tables: _Tables, files: DataFiles, recovered: Recovered) -> list[Record]:
    """The nodes that are still in a dataset, adapted to the data that is left."""
    known = {number: files.status(number) for number in files.numbers()}
    sizes, kept = {number: status.st_size for number, status in known.items() if status is not None}, []
    for node, path in _placed(tables):
        data, length = node["data"], sizes.get(node["data"], 0)
        if data and length < node["written"]:
            recovered.lost.append(path)
            if not length and node["base"] is None:
                continue
            _cut(node, length)
        elif data:
            recovered.named.append(path)
        kept.append(node)
    return _with_records(kept)


def _with_records(nodes: Sequence[Record]) -> list[Record]:
    """The nodes without names whose record is lost; records get the number of their names."""
    names = Counter(node["record"] for node in nodes if node.get("record") is not None)
    records = {node["id"] for node in nodes if node["id"] in names}
    for node in nodes:
        if node["id"] in names:
            node["links"] = names[node["id"]]
    return [node for node in nodes if node.get("record") is None or node["record"] in records]


def _cut(node: Record, length: int) -> None:
    """Shorten a file to its data, as after a loss of power; without data it is as in the commit again."""
    if not length and node["entry"] is not None:
        size = max(unpacked(node["entry"]).size, 0)
        node.update(size=size, based=size, data=0, written=0)
        return
    size = node["size"] if node["written"] <= node["based"] else min(node["size"], max(length, node["based"]))
    node.update(written=length, size=size, data=node["data"] if length else 0)


def _placed(tables: _Tables) -> Iterator[tuple[Record, bytes]]:
    """The nodes that can be reached from the top of their datasets, and their paths from the root of the source."""
    below: dict[int | None, list[Record]] = {}
    by_id = {node["id"]: node for node in tables.records["node"]}
    seen = set[int]()
    for node in by_id.values():
        below.setdefault(node["parent"], []).append(node)
    waiting = [(by_id[area["top"]], area["entrance"]) for area in tables.records["area"] if area["top"] in by_id]
    while waiting:
        node, path = waiting.pop()
        yield node, path
        record = by_id.get(node.get("record"))
        if record is not None and record["id"] not in seen:
            seen.add(record["id"])
            yield record, path
        waiting += [(child, joined(path, child["name"])) for child in below.get(node["id"], ())]


def _move_unnamed(
    target: str, tables: _Tables, files: DataFiles, nodes: Sequence[Record], recovered: Recovered
) -> None:
    """Move data files without a node to `target`; the name of a node that cannot be reached is added to the number."""
    named = {node["data"] for node in nodes}
    names = {node["data"]: node["name"] for node in tables.records["node"] if node["kind"] == FILE and node["name"]}
    for number in sorted(files.numbers() - named):
        place = f"{target}/{number}" + (f"-{os.fsdecode(names[number])}" if number in names else "")
        shutil.move(os.fsdecode(files.name(number)), place)
        recovered.numbered.append(place)
