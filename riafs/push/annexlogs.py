"""The git-annex branch after a push: one line more for each key that the storage has now.

Lines are added to the logs as they are at the branch's tip. When the tip moves meanwhile they are added again to what
is there then, which is the same as a union merge, for a log is a set of lines; nobody's lines are ever lost.
"""

from collections.abc import Mapping, Sequence

from riafs.errors import GitError
from riafs.formats.annexlogs import CHUNK_LOG, LOCATION_LOG, Tuning, with_chunks, with_presence
from riafs.formats.gitobjects import FILE, TreeEntry, tree_entry
from riafs.formats.keys import Key
from riafs.formats.specialremotes import SpecialRemote
from riafs.git.repository import Repository
from riafs.push.trees import TreeEditor

_MAX_LOG = 4 << 20


class AnnexLogs:
    """Writes logs for keys that `storage` holds; `chunked`: those stored in chunks → how many."""

    def __init__(
        self,
        repository: Repository,
        tuning: Tuning,
        storage: SpecialRemote,
        keys: Sequence[Key],
        chunked: Mapping[Key, int],
    ) -> None:
        self._repository = repository
        self._tuning = tuning
        self._storage = storage
        self._keys = keys
        self._chunked = chunked

    async def tree(self, trees: TreeEditor, root: bytes, now: int) -> bytes:
        """The branch's tree `root` (hex) with the lines added; `now` in seconds since the epoch."""
        wanted = [self._tuning.log_path(key, LOCATION_LOG) for key in self._keys]
        wanted += [self._tuning.log_path(key, CHUNK_LOG) for key in self._chunked]
        old = await self._texts(await trees.look_up(root, wanted))
        new: dict[bytes, TreeEntry | None] = {}
        for path, text in self._changed(old, now):
            new[path] = tree_entry(FILE, trees.add(b"blob", text))
        return await trees.edit(root, new) if new else root

    async def _texts(self, found: Mapping[bytes, TreeEntry | None]) -> dict[bytes, bytes]:
        known = {path: entry.oid.hex().encode() for path, entry in found.items() if entry is not None}
        blobs = (
            await self._repository.objects([b"contents " + oid for oid in known.values()], _MAX_LOG) if known else []
        )
        texts: dict[bytes, bytes] = {}
        for path, blob in zip(known, blobs, strict=True):
            if blob is None or blob.kind != b"blob":
                raise GitError(f"the log {path.decode(errors='replace')} of {self._repository.name} cannot be read")
            texts[path] = blob.data
        return texts

    def _changed(self, old: Mapping[bytes, bytes], now: int) -> list[tuple[bytes, bytes]]:
        uuid = self._storage.log_uuid
        changed: list[tuple[bytes, bytes]] = []
        for key in self._keys:
            path = self._tuning.log_path(key, LOCATION_LOG)
            text = with_presence(old.get(path, b""), uuid, now)
            if text is not None:
                changed.append((path, text))
        for key, count in self._chunked.items():
            path, size = self._tuning.log_path(key, CHUNK_LOG), self._storage.chunk_size
            text = with_chunks(old.get(path, b""), uuid, size, count, now) if size else None
            if text is not None:
                changed.append((path, text))
        return changed
