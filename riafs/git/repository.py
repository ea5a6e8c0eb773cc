"""One bare repository of a store: versions, commits, trees and blobs.

Objects come from `object_files` or a ``git cat-file`` child (`catfile`), refs from `references`. If a child dies in a
batch, the two halves of the batch are requested again, and so on, so that a damaged pack costs only the objects in its
damaged part.
"""

import os
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from riafs.children import ATTEMPTS, ended_by_others, killed
from riafs.errors import (
    CorruptContent,
    GitError,
    MalformedObject,
    MissingObject,
    NoSuchVersion,
    NotInStore,
    StoreError,
    StoreTimeout,
    TooLarge,
)
from riafs.formats.gitobjects import (
    DIRECTORY,
    SUBMODULE,
    Commit,
    Tree,
    parse_commit,
    parse_heading,
    parse_tag,
    parse_tree,
)
from riafs.formats.gitrepository import HISTORY_FORMAT, adjusted_branch, candidates, looks_like_commit
from riafs.git.catfile import MAX_BATCH, GitObject, GitPool, blob_name
from riafs.git.object_files import ReadObject, Wanted, read_beginning, read_objects
from riafs.git.object_source import RepositoryPlace, object_directory
from riafs.git.references import References, Resolved
from riafs.storage.bytesource import MemoryBytes, RangedBytes
from riafs.storage.deadline import within
from riafs.storage.local_file import FileBytes
from riafs.storage.protocol import Opener
from riafs.storage.temporary import temporary_file

T = TypeVar("T")

_SLOWEST = 1 << 20  # bytes a second, on top of the deadline
_HISTORY_SECONDS = 3600.0
_MAX_TAGS = 5
_FETCHES = 4
"""Rounds in which objects of another machine are fetched: of a commit, its small files, then others by name; one more,
as tasks that need objects at the same time share a round."""
_FULL_NAME = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
_READ_HERE = 256
"""Objects that are read without a child before one is started."""
_BY_NAME = re.compile(rb"(contents|info) ([0-9a-f]{40}|[0-9a-f]{64})")
MAX_OBJECT = 1 << 30
"""Bytes of the largest tree, commit or tag that is read; a tree of ten million entries has half of it."""
_SMALL_TREE = 256 << 10
IN_MEMORY = 4 << 20
"""Blobs up to this many bytes are read into memory, larger ones into an unlinked temporary file."""
_ADJUSTING = "git-annex adjusted branch"  # Annex/AdjustedBranch.hs
HIDDEN_BRANCHES = re.compile(rb"refs/heads/(git-annex$|synced/|adjusted/)")


class Repository:
    """The bare repository at `place`; `name` is the dataset's, for messages."""

    def __init__(self, place: RepositoryPlace, pool: GitPool, name: str, seconds: float) -> None:
        self._storage = place.storage
        self._path = place.path
        self._missing = place.missing
        self._pool = pool
        self._seconds = seconds
        self._objects: tuple[bytes, bytes] | None = None
        self._format: bytes | None = None
        self._read_so_far = 0
        self._last_peeled = b"", b""
        """The last commit that `peeled` has read, and its content, which is mostly requested next."""
        self.name = name
        self.references = References(*place.refs)

    # -- versions -----------------------------------------------------------------------------------------------------

    async def find(self, version: bytes | None) -> Resolved:
        """The commit of a user's version: None for HEAD, a branch, a tag, a full ref, or a commit id (7 digits or
        more).

        Raises NoSuchVersion, MalformedObject, MissingObject, GitError.
        """
        if version is None:
            head = await self.references.resolve(b"HEAD")
            return await self._newest_branch() if head is None else await self._not_adjusted(head)
        return await self._by_version(version)

    async def _by_version(self, version: bytes) -> Resolved:
        if _FULL_NAME.fullmatch(version):
            return Resolved(version, None)
        for name in candidates(version):
            found = await self.references.resolve(name)
            if found is not None:
                return found
        if looks_like_commit(version):
            [known] = await self.objects([b"info " + version])
            if known is not None:
                return Resolved(known.oid, None)
        raise NoSuchVersion(f"{self.name} has no branch, tag or commit called {version.decode(errors='replace')}")

    async def _not_adjusted(self, head: Resolved) -> Resolved:
        """The original branch if HEAD names an adjusted branch of git-annex, which is a view for one work tree and not
        updated in a store; but `head` itself if that has commits that the original branch lacks.
        """
        original = None if head.ref is None else adjusted_branch(head.ref)
        found = None if original is None else await self.references.resolve(original)
        if found is None or not await self.is_adjusting(head.oid):
            return head
        return Resolved(found.oid, found.ref, head.ref)

    async def is_adjusting(self, commit: bytes) -> bool:
        """Whether a commit (hex) is git-annex's commit that adjusts a branch, or is damaged."""
        try:
            return parse_heading((await self._get(commit, b"commit")).data).subject == _ADJUSTING
        except (MissingObject, MalformedObject):
            return True

    async def _newest_branch(self) -> Resolved:
        """DataLad's rule for a HEAD that names no existing branch: the branch with the newest commit.

        Raises NoSuchVersion, and GitError if any branch cannot be read, as that may be the newest.
        """
        best: tuple[int, bytes, bytes] | None = None
        for ref, oid in sorted((await self.references.branches()).items()):
            if HIDDEN_BRANCHES.match(ref):
                continue
            time = (await self.commit(await self.peeled(oid))).time
            if best is None or time > best[0]:
                best = (time, ref, oid)
        if best is None:
            raise NoSuchVersion(f"{self.name} has no commit yet")
        return Resolved(best[2], best[1])

    async def peeled(self, oid: bytes) -> bytes:
        """The commit of an object name that is a commit or a tag. Raises NoSuchVersion, MissingObject, GitError."""
        for _ in range(_MAX_TAGS):
            found = await self._get(oid)
            if found.kind == b"commit":
                self._last_peeled = oid, found.data
                return oid
            if found.kind != b"tag":
                raise NoSuchVersion(f"{oid.decode()} in {self.name} is a {found.kind.decode()}, not a commit")
            oid = parse_tag(found.data).object
        raise MalformedObject(f"tag of a tag of a tag … in {self.name}")

    # -- objects ------------------------------------------------------------------------------------------------------

    async def commit(self, oid: bytes) -> Commit:
        """The commit `oid` (hex). Raises MissingObject, MalformedObject, GitError."""
        peeled, data = self._last_peeled
        return parse_commit(data if peeled == oid else (await self._get(oid, b"commit")).data)

    async def tree(self, oid: bytes) -> Tree:
        """The tree `oid` (hex). Raises MissingObject, MalformedObject, GitError."""
        data = (await self._get(oid, b"tree")).data
        if len(data) <= _SMALL_TREE:
            return parse_tree(data, len(oid) // 2)
        return await trio.to_thread.run_sync(parse_tree, data, len(oid) // 2)  # seconds for millions of entries

    async def trees(self, oids: Sequence[bytes]) -> list[Tree | None]:
        """The trees `oids` (hex), None for those that cannot be read or are no trees."""
        found = await self.objects([b"contents " + oid for oid in oids], _SMALL_TREE) if oids else []
        return [None if each is None or each.kind != b"tree" else _parsed(each.data, each.oid) for each in found]

    async def _get(self, oid: bytes, kind: bytes | None = None) -> GitObject:
        found: GitObject | None = None
        if kind is None:  # may be a blob of any size
            found = await self._begin(oid) if _FULL_NAME.fullmatch(oid) else None
            [known] = [found] if found is not None else await self.objects([b"info " + oid])
            if known is not None and known.kind not in (b"commit", b"tag"):
                return known
        [found] = [found] if found is not None else await self.objects([b"contents " + oid])
        if found is None:
            raise MissingObject(f"git object {oid.decode()} is missing in {self.name}")
        if kind is not None and found.kind != kind:
            raise MalformedObject(
                f"git object {oid.decode()} of {self.name} is a {found.kind.decode()}, not a {kind.decode()}"
            )
        return found

    async def objects(self, requests: Sequence[bytes], limit: int = MAX_OBJECT) -> list[GitObject | None]:
        """The object of each request (as in `CatFile.batch`), None if git cannot read it or it has more than `limit`
        bytes.

        Raises GitError only if nothing at all can be read, StoreTimeout, and what finding the objects raises.
        """
        found = await self._objects_here(requests, limit)
        for _ in range(_FETCHES if self._missing is not None else 0):
            left = [position for position, answer in enumerate(found) if answer is None]
            wanted = [requests[position] for position in left]
            if not left or self._missing is None or not await self._missing.fetch(wanted):
                break
            for position, answer in zip(left, await self._objects_here(wanted, limit), strict=True):
                found[position] = answer
        return found

    async def _objects_here(self, requests: Sequence[bytes], limit: int) -> list[GitObject | None]:
        """The objects that are on this machine, None for others."""
        found = await self._read_here(requests, limit)
        left = [position for position, answer in enumerate(found) if answer is None]
        for start in range(0, len(left), MAX_BATCH):
            some = left[start : start + MAX_BATCH]
            answers = await self._batch([requests[position] for position in some], limit)
            for position, answer in zip(some, answers, strict=True):
                found[position] = answer
        return found

    async def _read_here(self, requests: Sequence[bytes], limit: int) -> list[GitObject | None]:
        """The objects that are cheaper to read without a child (`object_files`), None for the others."""
        wanted = [Wanted(match[2], match[1] == b"contents") for each in requests if (match := _BY_NAME.fullmatch(each))]
        if len(wanted) != len(requests):
            return [None] * len(requests)
        found = self._read_before(wanted, limit)
        left = [position for position, answer in enumerate(found) if answer is None]
        if left and self._reads_here(len(left)):
            missing = [wanted[position] for position in left]
            answers = await self._in_files(lambda opener, objects: read_objects(opener, objects, missing, limit))
            for position, answer in zip(left, answers or [None] * len(left), strict=True):
                found[position] = answer
        self._pool.count_read(len(found) - found.count(None))
        pairs = zip(wanted, found, strict=True)
        return [None if answer is None else GitObject(each.oid, *answer) for each, answer in pairs]

    async def _begin(self, oid: bytes) -> GitObject | None:
        """The object of a version, reading ahead those that are mostly requested next; None if a child has to read
        it.
        """
        if not self._reads_here(1):
            return None
        found = await self._in_files(lambda opener, objects: read_beginning(opener, objects, oid, MAX_OBJECT))
        if not found:
            return None
        first = found.pop(oid)
        self._read_so_far += len(found)
        self._pool.count_read(1)
        for name, each in found.items():
            self._pool.ahead[self._path, name] = each
        return GitObject(oid, *first)

    def _read_before(self, wanted: Sequence[Wanted], limit: int) -> list[ReadObject | None]:
        """The objects that were read ahead, None for the others. Each content is returned once and then dropped."""
        ahead = self._pool.ahead
        found: list[ReadObject | None] = [ahead.get((self._path, each.oid)) for each in wanted]
        for position, (each, answer) in enumerate(zip(wanted, found, strict=True)):
            if answer is not None and each.content:
                ahead.pop((self._path, each.oid), None)
                found[position] = answer if answer.size <= limit else None
            elif answer is not None:
                found[position] = answer._replace(data=b"")
        return found

    async def _in_files(self, read: Callable[[Opener, bytes], T]) -> T | None:
        """The result of `read`, given an opener and the object directory's path; None if no thread is free."""
        if self._format is None:
            self._format = await self.references.check_format()
        return await self._storage.reading(lambda opener: read(opener, self._path + b"/objects"))

    def _reads_here(self, count: int) -> bool:
        """Whether to read so many more objects without a child: few, and no child was started for more of them."""
        if self._objects is not None and self._pool.has_child(self._objects[0]):
            self._read_so_far = 0
            return False
        self._read_so_far += count
        return self._read_so_far <= _READ_HERE

    async def lacking(self, oids: Sequence[bytes]) -> set[bytes]:
        """The `oids` (hex) that the store itself does not have; objects kept on this machine do not count."""
        objects, object_format = await self._object_directory()
        found: set[bytes] = set()
        for start in range(0, len(oids), MAX_BATCH):
            some = oids[start : start + MAX_BATCH]
            child = self._pool.child(objects, object_format, self.name, alone=True)
            answers = await child.batch([b"info " + oid for oid in some], MAX_OBJECT)
            found.update(oid for oid, answer in zip(some, answers, strict=True) if answer is None)
        return found

    @property
    def reads_kept(self) -> bool:
        """Whether objects may come from this machine instead of the store."""
        return self._pool.alternate is not None

    async def _batch(self, requests: Sequence[bytes], limit: int) -> list[GitObject | None]:
        """The batch; if the child dies in it, its halves, and so on, until only damaged objects are missing."""
        objects, object_format = await self._object_directory()
        child = self._pool.child(objects, object_format, self.name)
        try:
            return await child.batch(requests, limit)
        except GitError:
            if len(requests) == 1 or child.hopeless:
                raise
        middle = len(requests) // 2
        return [
            *await self._half(requests[:middle], limit),
            *await self._half(requests[middle:], limit),
        ]

    async def _half(self, requests: Sequence[bytes], limit: int) -> list[GitObject | None]:
        if len(requests) > 1:
            return await self._batch(requests, limit)
        try:
            return await self._batch(requests, limit)
        except GitError:
            objects, object_format = await self._object_directory()
            if self._pool.child(objects, object_format, self.name).hopeless:
                raise
            return [None]

    async def _object_directory(self) -> tuple[bytes, bytes]:
        if self._objects is None:
            object_format = self._format = await self.references.check_format()
            try:
                path = await object_directory(self._storage, self._path + b"/objects", self._pool.gits)
            except NotInStore as error:
                if not self._last_peeled[0]:
                    raise
                raise MissingObject(f"the git repository of {self.name} is not there any more") from error
            self._objects = (path, object_format)
        return self._objects

    async def open_blob(self, oid: bytes, size: int) -> RangedBytes:
        """The content of the blob `oid` of `size` bytes. Raises MissingObject, GitError, StoreTimeout, …"""
        if size > IN_MEMORY:
            return await self._large_blob(oid, size)
        return MemoryBytes((await self._get(oid, b"blob")).data)

    async def _large_blob(self, oid: bytes, size: int) -> RangedBytes:
        """The blob in an unlinked file. Its bytes are compared with its name, as git does not check that."""
        try:
            made = temporary_file(self._pool.gits.scratch, size)
        except OSError as error:
            raise StoreError(f"no room for git object {oid.decode()} of {self.name}: {error.strerror}") from error
        with made as file:
            for _ in range(ATTEMPTS):
                status = await self._write_blob(oid, size, file.fileno())
                if not ended_by_others(status):
                    break
                file.seek(0)
                file.truncate()
            else:
                raise killed(f"git, reading blob {oid.decode()} of {self.name},", status)
            if os.fstat(file.fileno()).st_size != size:
                raise GitError(f"git object {oid.decode()} of {self.name} cannot be read whole; it may be damaged")
            if await trio.to_thread.run_sync(blob_name, file, size, len(oid)) != oid:
                raise CorruptContent(f"git object {oid.decode()} of {self.name} is damaged")
            return FileBytes(os.dup(file.fileno()), size, f"git blob {oid.decode()}")

    async def _write_blob(self, oid: bytes, size: int, output: int) -> int:
        """Let a child write a blob; its return code."""
        objects, object_format = await self._object_directory()
        with within(self._seconds, size / _SLOWEST):
            command = [self._pool.gits.program, "cat-file", "blob", oid.decode()]
            return await self._pool.writers.run(command, self._pool.environment(objects, object_format), output)
        raise StoreTimeout(f"git did not deliver blob {oid.decode()} of {self.name} in time")

    async def write_history(self, commit: bytes, without: Sequence[bytes], output: int) -> bool:
        """Let git write the paths that each commit changed, along first parents up to `commit` (hex), to the descriptor
        `output` (in the format of `formats/gitrepository`), without the commits `without` and those before them.

        Returns whether all could be read. Raises StoreTimeout, ProgramKilled, and what finding the objects raises.
        """
        objects, object_format = await self._object_directory()
        command = [
            self._pool.gits.program, "log", "-m", "--first-parent", "--reverse", "--name-status", "-z", "-r", "-t",
            "--no-renames", f"--format={HISTORY_FORMAT}", commit.decode(), *(f"^{each.decode()}" for each in without),
            "--",
        ]  # fmt: skip
        with within(_HISTORY_SECONDS):
            for _ in range(ATTEMPTS):
                os.ftruncate(output, 0)
                os.lseek(output, 0, os.SEEK_SET)
                status = await self._pool.writers.run(command, self._pool.environment(objects, object_format), output)
                if not ended_by_others(status):
                    return status == 0
            raise killed(f"git, going through the history of {self.name},", status)
        raise StoreTimeout(f"git did not go through the history of {self.name} within {_HISTORY_SECONDS:.0f} s")

    async def blob_at(self, commit: bytes, path: bytes, limit: int) -> bytes | None:
        """The file `path` in the tree of `commit` (hex), None if the commit has none.

        A file that cannot be read is never mistaken for a missing one, as decisions depend on its content. Raises
        MissingObject, MalformedObject, GitError, TooLarge for more than `limit` bytes, StoreTimeout.
        """
        by_path = b"\n" not in path and not self._reads_here(1)  # else three small objects are read without a child
        [known] = await self.objects([b"info " + commit + b":" + path]) if by_path else [None]
        if known is None:  # git's answer is the same for a missing path and for a missing object above it
            oid = await self._blob_in_trees(commit, path)
            if oid is None:
                return None
            [known] = await self.objects([b"info " + oid])
            if known is None:
                raise MissingObject(f"{os.fsdecode(path)} of {self.name} cannot be read: git object {oid.decode()}")
        if known.kind != b"blob":
            return None
        if known.size > limit:
            raise TooLarge(f"{os.fsdecode(path)} of {self.name} has {known.size} bytes, more than the {limit} allowed")
        return (await self._get(known.oid, b"blob")).data

    async def _blob_in_trees(self, commit: bytes, path: bytes) -> bytes | None:
        """The name (hex) of the file `path`, looked up tree by tree. Raises MissingObject, MalformedObject."""
        oid, mode = (await self.commit(commit)).tree, DIRECTORY
        for name in path.split(b"/"):
            if mode != DIRECTORY:
                return None
            tree = await self.tree(oid)
            if name not in tree.names:
                return None
            position = tree.names.index(name)
            oid, mode = tree.oids[position].hex().encode(), tree.modes[position]
        return None if mode in (DIRECTORY, SUBMODULE) else oid


def _parsed(data: bytes, oid: bytes) -> Tree | None:
    try:
        return parse_tree(data, len(oid) // 2)
    except MalformedObject:
        return None
