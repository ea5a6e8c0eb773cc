"""Watching the refs of a store's datasets by stat, all of them in one go.

Asked every few seconds for thousands of datasets, one thread hop per dataset would keep a processor busy; so each round
looks at once at all refs that it is asked for in each round, and at others when it is asked for them. git replaces ref
files by rename, so every write gives another inode or time.
"""

from collections.abc import Sequence

from riafs.storage.protocol import FileStatus, Storage

Signature = Sequence[FileStatus | None]
"""Status of ``HEAD``, ``packed-refs``, ``refs/heads`` and the watched refs."""

_Watched = tuple[bytes, tuple[bytes, ...]]


class RefWatch:
    """The watched refs of one store: (dataset's path, refs beside HEAD)."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._turn = 0
        self._seen: dict[_Watched, Signature] = {}
        """What was looked at in this round."""
        self._asked: set[_Watched] = set()
        """Whose signatures were asked for in this round,"""
        self._asked_before: set[_Watched] = set()
        """and in the one before."""

    async def look(self, path: bytes, refs: tuple[bytes, ...]) -> Signature:
        """The signature now; it will be asked for in the next rounds."""
        self._asked.add((path, refs))
        self._asked_before.add((path, refs))
        return await self._look(path, refs)

    async def _look(self, path: bytes, refs: tuple[bytes, ...]) -> Signature:
        return await self._storage.stat_objects(b"", _paths(path, refs))

    async def seen(self, path: bytes, refs: tuple[bytes, ...], turn: int) -> Signature:
        """The signature as of round `turn`: see Directory.renewed."""
        if turn < 0:
            return await self._look(path, refs)
        if turn != self._turn:
            self._turn = turn
            await self._look_at_regular()
        self._asked.add((path, refs))
        known = self._seen.get((path, refs))
        return await self._look(path, refs) if known is None else known

    async def _look_at_regular(self) -> None:
        """Look at once at what was asked for in both of the last rounds, and will probably be in this one."""
        watched = list(self._asked & self._asked_before)
        self._asked, self._asked_before = set(), self._asked
        self._seen.clear()
        paths = [_paths(path, refs) for path, refs in watched]
        found = await self._storage.stat_objects(b"", [path for group in paths for path in group])
        start = 0
        for name, group in zip(watched, paths, strict=True):
            self._seen[name] = found[start : start + len(group)]
            start += len(group)


def _paths(path: bytes, refs: tuple[bytes, ...]) -> list[bytes]:
    # refs/heads changes when branches come and go: HEAD may name one that does not exist yet
    names = [b"HEAD", b"packed-refs", b"refs/heads", *refs]
    return [path + b"/" + name for name in names]
