"""Recognises a program that opens the files of a directory in their order, and fetches those that come next.

Over a line with latency, opening one small file after the other takes some round trips for each. Fetched together,
many take as long as one.
"""

from collections.abc import Callable, Iterable

from riafs.storage.protocol import FilesAhead

_SKIPPED = 8
"""Entries that such a program may leave out between two files (directories, files in git)."""
_FIRST_WINDOW, _NEXT_WINDOW, _LAST_WINDOW = 8, 64, 256
"""Files: of the first directory, at the beginning of the next ones, and at most."""
_MAX_BYTES = 8 << 20
SMALL = 256 << 10
"""Bytes of a file that is fetched as a whole."""

NextFiles = Callable[[int, int], Iterable[tuple[bytes, int]]]
"""(from position, to position) → path in the store and size of each annexed file there."""


class DirectoryWalk:
    """One for each dataset, as programs mostly go through one directory at a time; another one starts it anew."""

    def __init__(self, ahead: FilesAhead) -> None:
        self._ahead = ahead
        self._directory: object = None
        self._last = -1
        """Position of the file that was opened last, -1 before the first one."""
        self._until = 0
        """Files before this position were fetched."""
        self._window = 0
        """Files to fetch ahead; 0 until the order is recognised."""

    def listed(self, directory: object, following: NextFiles) -> None:
        """A program has begun to list a directory. Who went through the files of one goes through those of the next,
        unless it only lists them.
        """
        if self._window and directory != self._directory:
            self._window = 0 if self._last < 0 else max(self._window, _NEXT_WINDOW)
            self._directory, self._last, self._until = directory, -1, 0
            self._fetch(following)

    def opened(self, directory: object, position: int, following: NextFiles) -> None:
        """A program has opened the file at `position` of a directory."""
        if directory != self._directory:
            self._directory, self._until = directory, 0
        elif 0 < position - self._last <= _SKIPPED:
            self._window = self._window or _FIRST_WINDOW
        elif position != self._last:
            self._window, self._until = 0, 0
        self._last = position
        self._fetch(following)

    def _fetch(self, following: NextFiles) -> None:
        if self._window and self._until - self._last <= self._window // 2:
            self._window = min(2 * self._window, _LAST_WINDOW)
            start, self._until = max(self._until, self._last + 1), self._last + 1 + self._window
            self._ahead.fetch_ahead(_first_small(following(start, self._until)))


def _first_small(files: Iterable[tuple[bytes, int]]) -> list[bytes]:
    found, left = [], _MAX_BYTES
    for path, size in files:
        left -= size if size <= SMALL else 0
        if left < 0:
            break
        if size <= SMALL:
            found.append(path)
    return found
