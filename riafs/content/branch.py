"""The git-annex branch of a dataset: special remotes, chunks of keys, keys of a VURL key, URLs.

The logs are hints, as only the store itself knows what it has; they are read only for keys that need them. A log that
is not on the branch is empty; one that cannot be read is an error, since digests depend on it.
"""

from riafs.errors import NoSuchVersion
from riafs.formats.annexlogs import (
    CHUNK_LOG,
    DIFFERENCE_LOG,
    EQUIVALENT_KEYS_LOG,
    WEB_LOG,
    ChunkedCopy,
    Tuning,
    equivalent_keys,
    live_infos,
    parse_chunk_log,
    parse_difference_log,
)
from riafs.formats.keys import Key
from riafs.formats.specialremotes import SpecialRemote, parse_remote_log
from riafs.git.repository import Repository

_MAX_LOG = 4 << 20
_BRANCH = b"refs/heads/git-annex"


class AnnexBranch:
    """The branch of one repository. Its tip is looked up at each use; logs for all keys are parsed once a tip."""

    def __init__(self, repository: Repository | None) -> None:
        self._repository = repository
        self._remotes: tuple[bytes, tuple[SpecialRemote, ...]] | None = None
        self._tuning: tuple[bytes, Tuning] | None = None

    async def _tip(self) -> bytes | None:
        if self._repository is None:
            return None
        try:
            return await self._repository.peeled((await self._repository.find(_BRANCH)).oid)
        except NoSuchVersion:
            return None

    async def _log(self, tip: bytes | None, path: bytes) -> bytes:
        if tip is None or self._repository is None:
            return b""
        return await self._repository.blob_at(tip, path, _MAX_LOG) or b""

    async def _key_log(self, key: Key, suffix: bytes) -> bytes:
        """The log with `suffix` of a key, empty where there is none."""
        tip = await self._tip()
        if tip is None:
            return b""
        if self._tuning is None or self._tuning[0] != tip:
            self._tuning = (tip, parse_difference_log(await self._log(tip, DIFFERENCE_LOG)))
        return await self._log(tip, self._tuning[1].log_path(key, suffix))

    async def special_remotes(self) -> tuple[SpecialRemote, ...]:
        """All special remotes on record. Raises GitError, TooLarge, StoreError, StoreTimeout."""
        tip = await self._tip()
        if tip is None:
            return ()
        if self._remotes is None or self._remotes[0] != tip:
            self._remotes = (tip, parse_remote_log(await self._log(tip, b"remote.log")))
        return self._remotes[1]

    async def chunked_copies(self, key: Key) -> tuple[ChunkedCopy, ...]:
        """How the key is cut into chunks, by remote. Raises GitError, TooLarge, StoreError, StoreTimeout."""
        return parse_chunk_log(await self._key_log(key, CHUNK_LOG))

    async def equivalents(self, key: Key) -> tuple[Key, ...]:
        """Keys with a checksum that stand for the same content as the VURL key `key`.

        Raises GitError, TooLarge, StoreError, StoreTimeout.
        """
        return equivalent_keys(await self._key_log(key, EQUIVALENT_KEYS_LOG))

    async def urls(self, key: Key) -> tuple[bytes, ...]:
        """The URLs of a key. Raises as `equivalents`."""
        return live_infos(await self._key_log(key, WEB_LOG))
