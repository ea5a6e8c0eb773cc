"""Rows → changes: the differences between a dataset's rows and its base commit, as the list described in `changes`."""

import stat
from collections.abc import Iterable, Set
from operator import itemgetter

from riafs.formats.names import joined
from riafs.overlay.changes import BaseEntry, Change, ChangeKind, LocalContent, RowPosition
from riafs.overlay.data_files import DataFiles
from riafs.overlay.lower import Remembered, unpacked
from riafs.overlay.rows import DIRECTORY, FILE, LINK, SPECIAL, WHITEOUT, Area, Outline, Row, Rows
from riafs.slices import Sliced, sorting

_PATH = itemgetter(0)
_NO_CONTENT = LocalContent(b"", (), 0, None, executable=False)


def differences(rows: Rows, files: DataFiles, area: Area) -> Sliced[list[Change]]:
    """All changes of `area`, by path. Nothing in `rows` may be changed until it ends."""
    walk = _Walk(rows, files)
    yield from walk.run(area.top)
    found = walk.found
    if walk.moved:
        found = yield from _without_sources(found, walk.moved)
    # Stable: a directory that is removed stays before one that is made in its place.
    return (yield from sorting(found, key=_PATH))


def count(rows: Rows, files: DataFiles, area: Area) -> Sliced[int]:
    """The number of changes of `area`. Nothing in `rows` may be changed until it ends."""
    walk = _Count(rows, files)
    yield from walk.run(area.top)
    return walk.number - len(walk.removed & walk.moved)


def _without_sources(changes: Iterable[Change], moved: Set[bytes]) -> Sliced[list[Change]]:
    """All changes except removals of entries that were renamed."""
    found = []
    for each in changes:
        if each.kind is not ChangeKind.REMOVED or each.base is None or each.base.path not in moved:
            found.append(each)
        yield
    return found


class _Walk:
    def __init__(self, rows: Rows, files: DataFiles) -> None:
        self._rows = rows
        self._files = files
        self._waiting: list[tuple[int, bytes, bytes | None]] = []
        self.found: list[Change] = []
        self.moved: set[bytes] = set()
        """Old paths of renamed entries."""

    def run(self, top: int) -> Sliced[None]:
        """Add all changes in and below a directory, of any depth."""
        self._waiting.append((top, b"", b""))
        while self._waiting:
            yield from self._directory(*self._waiting.pop())

    def _add(
        self, row: Outline, path: bytes, kind: ChangeKind, base: BaseEntry | None, content: LocalContent | None = None,
        source: bytes | None = None,
    ) -> None:  # fmt: skip
        self.found.append(Change(path, kind, base, content, source, row.version))
        if source is not None:
            self.moved.add(source)

    def _directory(self, node: int, path: bytes, below: bytes | None) -> Sliced[None]:
        """Add the changes directly in the directory at `path`. `below`: its path in the base commit, None for a new
        one.
        """
        start = path + b"/" if path else b""
        for child in self._rows.outlines(node):
            base = None
            if child.covered is not None:
                assert below is not None
                base = BaseEntry(joined(below, child.name), unpacked(child.covered).origin)
            self._child(child, start + child.name, base)
            yield

    def _child(self, row: Outline, path: bytes, covered: BaseEntry | None) -> None:
        record = None if row.record is None else self._rows.get(row.record)
        if record is not None:
            row = _filled(row, record)
        if row.kind == WHITEOUT:
            self._add(row, path, ChangeKind.REMOVED, covered)
        elif row.kind in SPECIAL:
            if covered is not None:
                self._add(row, path, ChangeKind.REMOVED, covered)
            self._add(row, path, ChangeKind.SPECIAL, None)
        elif row.kind == DIRECTORY:
            self._subdirectory(row, path, covered)
        elif row.base is None and record is not None and record.base is not None and record.entry is not None:
            self._second_name(row, path, covered, BaseEntry(record.base, unpacked(record.entry).origin), record.entry)
        elif row.base is None or row.entry is None:
            kind = ChangeKind.ADDED if covered is None else ChangeKind.CHANGED
            self._add(row, path, kind, covered, self._content(row))
        else:
            self._copied_up(row, path, row.base, unpacked(row.entry), covered)

    def _subdirectory(self, row: Outline, path: bytes, covered: BaseEntry | None) -> None:
        in_place = covered is not None and row.base == covered.path
        if covered is not None and not in_place:
            self._add(row, path, ChangeKind.REMOVED, covered)
        if row.base is not None and row.entry is not None and not in_place:
            base = BaseEntry(row.base, unpacked(row.entry).origin)
            self._add(row, path, ChangeKind.RENAMED, base, source=row.base)
        if row.base is None and not self._rows.is_occupied(row.id):
            self._add(row, path, ChangeKind.ADDED, None)
        self._waiting.append((row.id, path, row.base))

    def _copied_up(self, row: Outline, path: bytes, source: bytes, was: Remembered, covered: BaseEntry | None) -> None:
        base = BaseEntry(source, was.origin)
        rewritten = row.kind == FILE and (row.data != 0 or row.size != was.size)
        remade = row.kind == FILE and _is_executable(row) != was.executable
        content = self._content(row) if rewritten or remade else None
        if covered is None or covered.path != source:
            self._add(row, path, ChangeKind.RENAMED, base, content, source)
        elif rewritten:
            self._add(row, path, ChangeKind.CHANGED, base, content)
        elif remade:
            self._add(row, path, ChangeKind.MODE, base, content)

    def _second_name(self, row: Outline, path: bytes, covered: BaseEntry | None, base: BaseEntry, entry: bytes) -> None:
        """Add a further name (hard link) of a file that the base commit has under another name."""
        was = unpacked(entry)
        rewritten = row.kind == FILE and (row.data != 0 or row.size != was.size)
        if rewritten and not row.based:
            kind = ChangeKind.ADDED if covered is None else ChangeKind.CHANGED
            self._add(row, path, kind, covered, self._content(row))
            return
        if covered is not None:
            self._add(row, path, ChangeKind.REMOVED, covered)
        changed = rewritten or (row.kind == FILE and _is_executable(row) != was.executable)
        self._add(row, path, ChangeKind.COPIED, base, self._content(row) if changed else None)

    def _content(self, row: Outline) -> LocalContent:
        if row.kind == LINK:
            return LocalContent(b"", (), row.size, row.target, executable=False)
        extents = self._extents(row) if row.based else ((0, row.size),) if row.size else ()
        data = self._files.name(row.data) if row.data else b""
        return LocalContent(data, extents, row.size, None, _is_executable(row), row.written)

    def _extents(self, row: Outline) -> tuple[tuple[int, int], ...]:
        local = [(start, min(end, row.size)) for start, end in self._rows.extents(row.id)]
        if row.size > row.based:  # bytes beyond `based` are the local file's, or zeros
            joined = local and local[-1][1] == row.based
            local[-1:] = [(local[-1][0], row.size)] if joined else [*local[-1:], (row.based, row.size)]
        return tuple(local)


class _Count(_Walk):
    """Counts changes, and keeps only the paths of removed entries."""

    number = 0

    def __init__(self, rows: Rows, files: DataFiles) -> None:
        super().__init__(rows, files)
        self.removed: set[bytes] = set()

    def _add(
        self, row: Outline, path: bytes, kind: ChangeKind, base: BaseEntry | None, content: LocalContent | None = None,
        source: bytes | None = None,
    ) -> None:  # fmt: skip
        self.number += 1
        if source is not None:
            self.moved.add(source)
        if kind is ChangeKind.REMOVED and base is not None:
            self.removed.add(base.path)

    def _content(self, row: Outline) -> LocalContent:
        return _NO_CONTENT


def _is_executable(row: Outline) -> bool:
    return bool(row.mode & stat.S_IXUSR)


def _filled(row: Outline, record: Row) -> Outline:
    """A name of a file with several, completed from its record."""
    return row._replace(
        id=record.id, mode=record.mode, size=record.size, target=record.target, based=record.based, data=record.data,
        written=record.written, version=max(row.version, record.version),
    )  # fmt: skip


def row_positions(rows: Rows, area: Area) -> Sliced[dict[int, RowPosition]]:
    """The positions of an area's rows. Nothing in `rows` may be changed until it ends."""
    found: dict[int, RowPosition] = {}
    waiting = [(area.top, b"")]
    while waiting:
        directory, path = waiting.pop()
        for row in rows.outlines(directory):
            below = joined(path, row.name)
            found[row.id] = RowPosition(below, row.covered is None)
            if row.kind == DIRECTORY:
                waiting.append((row.id, below))
            yield
    return found
