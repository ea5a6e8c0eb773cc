"""Rows → changes: how the rows of a dataset differ from its base commit, in the language of `changes`."""

import stat
from collections.abc import Iterator

from riafs.overlay.changes import BaseEntry, Change, ChangeKind, LocalContent
from riafs.overlay.datafiles import DataFiles
from riafs.overlay.lower import Remembered, unpacked
from riafs.overlay.rows import DIRECTORY, FILE, LINK, WHITEOUT, Area, Row, Rows


def differences(rows: Rows, files: DataFiles, area: Area) -> list[Change]:
    """All changes of `area`, by path."""
    top = rows.get(area.top)
    assert top is not None
    walk = _Walk(rows, files)
    found = list(walk.directory(top, b"", b""))
    moved = {change.source for change in found if change.kind is ChangeKind.RENAMED}
    kept = [each for each in found if not (_is_removal(each) and each.base is not None and each.base.path in moved)]
    # A directory that is removed goes before one that is made in its place.
    return sorted(kept, key=lambda change: (change.path, not _is_removal(change)))


def _is_removal(change: Change) -> bool:
    return change.kind is ChangeKind.REMOVED


class _Walk:
    def __init__(self, rows: Rows, files: DataFiles) -> None:
        self._rows = rows
        self._files = files

    def directory(self, row: Row, path: bytes, below: bytes | None) -> Iterator[Change]:
        """The changes in a directory at `path`. `below`: its path in the base commit, None if it is not there."""
        for child in self._rows.children(row.id):
            assert child.name is not None
            base = None
            if child.covered is not None:
                assert below is not None
                base = unpacked(child.covered).base_entry(_join(below, child.name))
            yield from self._child(child, _join(path, child.name), base)

    def _child(self, row: Row, path: bytes, covered: BaseEntry | None) -> Iterator[Change]:
        if row.kind == WHITEOUT:
            yield Change(path, ChangeKind.REMOVED, covered, None, None, row.version)
        elif row.kind == DIRECTORY:
            yield from self._subdirectory(row, path, covered)
        elif row.base is None or row.entry is None:
            kind = ChangeKind.ADDED if covered is None else ChangeKind.CHANGED
            yield Change(path, kind, covered, self._content(row), None, row.version)
        else:
            yield from self._copied_up(row, path, row.base, unpacked(row.entry), covered)

    def _subdirectory(self, row: Row, path: bytes, covered: BaseEntry | None) -> Iterator[Change]:
        in_place = covered is not None and row.base == covered.path
        if covered is not None and not in_place:
            yield Change(path, ChangeKind.REMOVED, covered, None, None, row.version)
        if row.base is not None and row.entry is not None and not in_place:
            base = unpacked(row.entry).base_entry(row.base)
            yield Change(path, ChangeKind.RENAMED, base, None, row.base, row.version)
        if row.base is None and not self._rows.is_occupied(row.id):
            yield Change(path, ChangeKind.ADDED, None, None, None, row.version)
        yield from self.directory(row, path, row.base)

    def _copied_up(
        self, row: Row, path: bytes, source: bytes, was: Remembered, covered: BaseEntry | None
    ) -> Iterator[Change]:
        base = was.base_entry(source)
        rewritten = row.kind == FILE and (row.data != 0 or row.size != was.size)
        remade = row.kind == FILE and _is_executable(row) != was.executable
        content = self._content(row) if rewritten or remade else None
        if covered is None or covered.path != source:
            yield Change(path, ChangeKind.RENAMED, base, content, source, row.version)
        elif rewritten:
            yield Change(path, ChangeKind.CHANGED, base, content, None, row.version)
        elif remade:
            yield Change(path, ChangeKind.MODE, base, content, None, row.version)

    def _content(self, row: Row) -> LocalContent:
        if row.kind == LINK:
            return LocalContent(b"", (), row.size, row.target, executable=False)
        local = [(start, min(end, row.size)) for start, end in self._rows.extents(row.id)] if row.based else []
        if row.size > row.based:  # what was never written there reads as zeros, from the local file
            joined = local and local[-1][1] == row.based
            local[-1:] = [(local[-1][0], row.size)] if joined else [*local[-1:], (row.based, row.size)]
        data = self._files.name(row.data) if row.data else b""
        return LocalContent(data, tuple(local), row.size, None, _is_executable(row))


def _is_executable(row: Row) -> bool:
    return bool(row.mode & stat.S_IXUSR)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
