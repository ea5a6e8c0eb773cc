"""Watching the refs of a store's datasets by stat, all of them in one go.

Asked every few seconds for thousands of datasets, one thread hop per dataset would keep a processor busy; so each round
looks at all watched refs at once. git replaces ref files by rename, so every write gives another inode or time.
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
        self._watched: dict[_Watched, Signature] = {}
        self._turn = 0

    async def look(self, path: bytes, refs: tuple[bytes, ...]) -> Signature:
        """The signature now; from now on it is watched."""
        signature = await self._storage.stat_objects(b"", _paths(path, refs))
        self._watched[path, refs] = signature
        return signature

    async def seen(self, path: bytes, refs: tuple[bytes, ...], turn: int) -> Signature:
        """The signature as of round `turn`."""
        if turn != self._turn:
            self._turn = turn
            await self._look_at_all()
        known = self._watched.get((path, refs))
        return await self.look(path, refs) if known is None else known

    async def _look_at_all(self) -> None:
        watched = list(self._watched)
        paths = [_paths(path, refs) for path, refs in watched]
        found = await self._storage.stat_objects(b"", [path for group in paths for path in group])
        start = 0
        for name, group in zip(watched, paths, strict=True):
            self._watched[name] = found[start : start + len(group)]
            start += len(group)


def _paths(path: bytes, refs: tuple[bytes, ...]) -> list[bytes]:
    # refs/heads changes when branches come and go: HEAD may name one that does not exist yet
    names = [b"HEAD", b"packed-refs", b"refs/heads", *refs]
    return [path + b"/" + name for name in names]
