"""Refs of a repository of a store, moved all together or not at all, by ``git update-ref`` with git's own locks.

A ref moves only from the value that is expected, so that whoever comes second notices. git works in a private
repository whose ``refs`` and ``packed-refs`` are links to the store's: the store's configuration and hooks have no say
in it, and everybody else's git meets the same lock files.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from riafs.errors import Busy, GitError, OutsideStore, StoreTimeout
from riafs.formats.refs import valid_ref_name
from riafs.git.writing import GitWriter
from riafs.storage.protocol import ItemKind, Storage

STALE_SECONDS = 600.0
"""git holds the lock of a ref for milliseconds."""
_LOCK = re.compile(rb"/(refs/[^'\n]*\.lock)': File exists")
_LINKED = (b"refs", b"packed-refs", b"logs", b"info")


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """One ref: what it is to be, and what it must be before (None: it must not exist). Object names in hex."""

    name: bytes
    new: bytes
    old: bytes | None


class RefsMoved(Exception):
    """A ref was not what it should have been before; nothing was changed."""


@dataclass(frozen=True, slots=True)
class RefWriter:
    """Moves refs of the repository at the store's path `repository`; `git` writes its objects."""

    storage: Storage
    repository: bytes
    git: GitWriter

    async def move(self, updates: Sequence[RefUpdate]) -> None:
        """Move all or none. Raises RefsMoved, OutsideStore, Busy (locks that stay), GitError, StoreTimeout."""
        for update in updates:
            await self._check_place(update.name)
        directory = tempfile.mkdtemp(prefix=b"refs-", dir=self.git.gits.scratch)
        try:
            await self._prepare(directory)
            commands = _commands(updates, self.git.digits)
            await self._git(directory, commands, "update-ref", "--no-deref", "-z", "--stdin")
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    async def check_locks(self, names: Sequence[bytes]) -> None:
        """Raises Busy where git's lock of one of these refs was left behind: nobody can move that ref."""
        for name in names:
            lock = name + b".lock"
            age = await self._age(lock)
            if age is not None and age >= STALE_SECONDS:
                raise await self._locked(lock)

    async def _age(self, path: bytes) -> float | None:
        """Seconds since a file was written, None where there is none."""
        [status] = await self.storage.stat_objects(self.repository, [path])
        return None if status is None else time.time() - status.mtime_ns / 1e9

    async def _locked(self, lock: bytes) -> Busy:
        """What to say of a lock. Nobody can know whether a git still needs it, so it is never removed here."""
        path = os.fsdecode(await self.storage.local_path(self.repository) + b"/" + lock)
        age = await self._age(lock)
        if age is None or age < STALE_SECONDS:
            return Busy(f"another git is moving refs of {self.git.name} ({path} is its lock); try again")
        return Busy(
            f"{path} has been there for {age / 60:.0f} minutes: the lock of a git that has died, which keeps everybody "
            f"from pushing to {self.git.name}; make sure that no git is at work there, and remove that file"
        )

    async def _check_place(self, name: bytes) -> None:
        """git would follow links: there must be none in a ref's path."""
        if not valid_ref_name(name):
            raise GitError(f"{name!r} is no name of a ref")
        directory = self.repository
        for part in name.split(b"/"):
            kinds = {item.name: item.kind for item in await self.storage.list(directory)}
            directory += b"/" + part
            kind = kinds.get(part)
            if kind is None:
                return
            if kind not in (ItemKind.FILE, ItemKind.DIRECTORY):
                raise OutsideStore(
                    f"{os.fsdecode(directory)} of {self.storage.name} is a link; refs there stay as they are"
                )

    async def _prepare(self, directory: bytes) -> None:
        repository = await self.storage.local_path(self.repository)
        private = self.git.gits.environment(self.git.objects, self.git.object_format)["GIT_DIR"]
        for name in ("HEAD", "config"):
            shutil.copyfile(os.path.join(os.fsencode(private), name.encode()), os.path.join(directory, name.encode()))
        for part in _LINKED:
            os.symlink(repository + b"/" + part, directory + b"/" + part)

    async def lists_wanted(self) -> bool:
        """Whether the repository keeps lists of refs and packs, which git reads over plain HTTP: if there is one, or a
        hook that makes them after each push.
        """
        listed, hook = await self.storage.stat_objects(self.repository, [b"info/refs", b"hooks/post-update"])
        return listed is not None or (hook is not None and hook.executable)

    async def renew_lists(self) -> None:
        """Write those lists, into an ``info`` that must exist. Raises OutsideStore, GitError, StoreTimeout."""
        kinds = {item.name: item.kind for item in await self.storage.list(self.repository)}
        if kinds.get(b"info") is not ItemKind.DIRECTORY:
            raise OutsideStore(f"info of {self.git.name} is a link; what is served over HTTP stays as it is")
        directory = tempfile.mkdtemp(prefix=b"refs-", dir=self.git.gits.scratch)
        try:
            await self._prepare(directory)
            await self._git(directory, b"", "update-server-info")
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    async def _git(self, directory: bytes, given: bytes, *arguments: str) -> None:
        environment = dict(self.git.gits.environment(self.git.objects, self.git.object_format))
        environment["GIT_DIR"] = os.fsdecode(directory)
        command = self.git.command("-c", "core.hooksPath=/dev/null", "-c", "core.filesRefLockTimeout=1000", *arguments)
        with trio.move_on_after(self.git.seconds):
            done = await trio.run_process(
                command, stdin=given, capture_stdout=True, capture_stderr=True, check=False, env=environment
            )
            if done.returncode:
                repository = await self.storage.local_path(self.repository)
                raise await self._failure(done.stderr.replace(directory, repository))
            return
        raise StoreTimeout(f"git did not change refs of {self.git.name} within {self.git.seconds:g} s")

    async def _failure(self, output: bytes) -> Exception:
        """What git's words mean: somebody was faster, somebody else's lock is in the way, or something is wrong."""
        said = output.decode(errors="replace")
        if "but expected" in said or "reference already exists" in said or "unable to resolve reference" in said:
            return RefsMoved(said.strip())
        if lock := _LOCK.search(output):
            return await self._locked(lock[1])
        return GitError(f"git cannot move refs of {self.git.name}: {said.strip().rpartition(chr(10))[2]}")


def _commands(updates: Sequence[RefUpdate], digits: int) -> bytes:
    lines = [
        b"update %b\0%b\0%b\0" % (update.name, update.new, b"0" * digits if update.old is None else update.old)
        for update in updates
    ]
    return b"".join([b"start\0", *lines, b"prepare\0", b"commit\0"])
