"""Git objects of commits kept on this machine, so that the base of local changes stays readable if a store prunes it.

The directory has one object directory for each of git's object formats, which git reads as an alternate. Only readers
use it: an object that is here still counts as missing in the store. Kept are a commit's trees and its blobs of up to
1 MiB (links and pointers of annexed files, and most other files in git), but not its history.
"""

import os
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress

import trio

from riafs.errors import OverlayFailed
from riafs.formats.gitobjects import SUBMODULE, NewObject, make_pack, read_tree_entries
from riafs.git.repository import Repository
from riafs.storage.temporary import prompt_opener

LARGEST = 1 << 20
"""Bytes of a blob that is kept."""
_MOST = 256 << 20
"""Bytes of all blobs of a commit that are kept."""
_AT_ONCE = 16 << 20
_SUBMODULE = b"%o" % SUBMODULE
_WHOLE = b".whole"


class KeptObjects:
    """The objects in the directory `path`, of this user alone. Each commit has a `name`, by which it can be removed."""

    def __init__(self, path: bytes) -> None:
        self.path = path

    def directory(self, object_format: bytes) -> bytes:
        """The object directory of a format, made if missing."""
        path = self.path + b"/" + object_format
        for directory in (self.path, path, path + b"/pack"):
            with suppress(FileExistsError):
                os.mkdir(directory, 0o700)
        return path

    def names(self) -> set[bytes]:
        """The names of the commits that are completely kept."""
        with suppress(FileNotFoundError):
            return {name.removesuffix(_WHOLE) for name in os.listdir(self.path) if name.endswith(_WHOLE)}
        return set()

    async def keep(self, name: bytes, repository: Repository, commit: bytes) -> None:
        """Keep the objects of a commit (hex). Raises MissingObject, GitError, StoreTimeout, OverlayFailed."""
        collected = _Collected(self.directory(await repository.references.check_format()), name, len(commit))
        found = await repository.commit(commit)
        [whole] = await repository.objects([b"contents " + commit])
        assert whole is not None
        await collected.add([NewObject(whole.kind, whole.data)])
        blobs = await _keep_trees(repository, found.tree, collected)
        for start in range(0, len(blobs), 400):
            infos = await repository.objects([b"info " + oid for oid in blobs[start : start + 400]])
            small = [each.oid for each in infos if each is not None and each.size <= LARGEST]
            if small and collected.size <= _MOST:
                contents = await repository.objects([b"contents " + oid for oid in small], LARGEST)
                await collected.add(NewObject(each.kind, each.data) for each in contents if each is not None)
        await collected.finish()
        await _in_thread(_write, self.path + b"/" + name + _WHOLE, b"")

    def forget_all_but(self, names: Collection[bytes]) -> None:
        """Remove the objects of all other commits."""
        for name in self.names() - set(names):
            with suppress(FileNotFoundError):
                os.unlink(self.path + b"/" + name + _WHOLE)
            for object_format in (b"sha1", b"sha256"):
                _remove_packs(self.path + b"/" + object_format + b"/pack", name)


async def _keep_trees(repository: Repository, root: bytes, collected: "_Collected") -> list[bytes]:
    """Keep all trees below a root. Returns the blobs in them (hex)."""
    blobs: dict[bytes, None] = {}
    level, seen = [root], {root}
    while level:
        contents = await repository.objects([b"contents " + oid for oid in level])
        below: dict[bytes, None] = {}
        await collected.add(NewObject(each.kind, each.data) for each in contents if each is not None)
        for each in contents:
            for entry in read_tree_entries(each.data, len(root) // 2).values() if each is not None else ():
                if entry.mode != _SUBMODULE:
                    (below if entry.is_tree else blobs)[entry.oid.hex().encode()] = None
        level = [oid for oid in below if oid not in seen]
        seen.update(level)
    return list(blobs)


class _Collected:
    """Collects objects and writes them in packs."""

    def __init__(self, directory: bytes, name: bytes, digits: int) -> None:
        self._directory = directory
        self._name = name
        self._digits = digits
        self._waiting: list[NewObject] = []
        self._waiting_bytes = 0
        self.size = 0

    async def add(self, objects: Iterable[NewObject]) -> None:
        for each in objects:
            self._waiting.append(each)
            self._waiting_bytes += len(each.data)
            self.size += len(each.data)
        if self._waiting_bytes > _AT_ONCE:
            await self.finish()

    async def finish(self) -> None:
        waiting, self._waiting, self._waiting_bytes = list(dict.fromkeys(self._waiting)), [], 0
        if waiting:
            await _in_thread(self._pack, waiting)

    def _pack(self, objects: list[NewObject]) -> None:
        pack = make_pack(objects, self._digits)
        stem = b"%b/pack/pack-%b-%b" % (self._directory, self._name, pack.name)
        _write(stem + b".pack", pack.data)
        _write(stem + b".idx", pack.index)


async def _in_thread(function: Callable[..., None], *arguments: object) -> None:
    try:
        await trio.to_thread.run_sync(function, *arguments)
    except OSError as error:
        raise OverlayFailed(f"the objects of the base commit cannot be kept: {error}") from error


def _write(path: bytes, data: bytes) -> None:
    """Write a file durably, and rename it when it is complete."""
    with open(path + b".new", "wb", opener=prompt_opener) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + b".new", path)


def _remove_packs(directory: bytes, name: bytes) -> None:
    with suppress(FileNotFoundError):
        for found in os.listdir(directory):
            if found.startswith(b"pack-" + name + b"-"):
                os.unlink(directory + b"/" + found)
