"""Which names can be in a directory, as far as memory tells: who makes many files need not look each of them up. Pure.

Known are directories that got their rows from this process. Of such a directory all rows' names are remembered, and
maybe some that were there. There is room for `most` of both; then it all begins anew, and nothing is known of those.
"""

MOST = 100_000
"""About 10 MB."""


class KnownNames:
    """The names in directories, by the directories' numbers."""

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
