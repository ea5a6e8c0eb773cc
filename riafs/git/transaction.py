"""Refs of a repository of a store, moved all together or not at all, by a process of their own with git's own locks.

A ref moves only from the value that is expected, so that whoever comes second notices. No git is run in the store: its
configuration and hooks have no say, and what lies at a ref's place, or at that of its log, is looked at by descriptor
(see refmover). The lists that git reads over plain HTTP are written here too, for the same reason.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import trio

import riafs
from riafs.children import ATTEMPTS, ended_by_others, killed
from riafs.errors import Busy, GitError, NotInStore, OutsideStore, StoreTimeout
from riafs.formats.gitrepository import valid_ref_name
from riafs.git.refmover import Order
from riafs.git.repository import Repository
from riafs.storage.permissions import FILE_MODE, Sharing
from riafs.storage.protocol import ItemKind, NewFile, Storage, WritableStorage

STALE_SECONDS = 600.0
"""git holds the lock of a ref for milliseconds."""
_START = "import sys; sys.path.insert(0, sys.argv[1]); from riafs.git.refmover import main; main()"
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(riafs.__file__ or ".")))
_LISTS = (b"info/refs", b"objects/info/packs")


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """One ref: what it is to be, and what it must be before (None: it must not exist). Object names in hex.

    `ident` is for its reflog: who moves it, and when (see Stamp).
    """

    name: bytes
    new: bytes
    old: bytes | None
    ident: bytes


class RefsMoved(Exception):
    """A ref was not what it should have been before; nothing was changed."""


@dataclass(frozen=True, slots=True)
class RefWriter:
    """Moves refs of the repository at the store's path `path`. `seconds`: patience with one step."""

    storage: Storage
    writing: WritableStorage
    repository: Repository
    path: bytes
    sharing: Sharing
    seconds: float

    async def move(self, updates: Sequence[RefUpdate]) -> None:
        """Move all or none, durably. Raises RefsMoved, OutsideStore, Busy (locks that stay), GitError, …"""
        moves = [(update.name, update.new, update.old) for update in updates]
        order = Order(await self.storage.local_path(self.path), moves, updates[0].ident, self.sharing)
        with trio.move_on_after(self.seconds):
            # Given up, it goes on by itself: killed, it would leave locks.
            done = await trio.to_thread.run_sync(_run, order, abandon_on_cancel=True)
            return await self._heed(done)
        raise StoreTimeout(f"refs of {self.repository.name} were not moved within {self.seconds:g} s")

    async def _heed(self, done: subprocess.CompletedProcess[bytes]) -> None:
        """Turn what the process says into what is raised."""
        try:
            outcome, detail = json.loads(done.stdout.rstrip(b"\n").rpartition(b"\n")[2])
        except ValueError as error:
            said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            raise GitError(f"refs of {self.repository.name} cannot be moved: {said or 'no answer'}") from error
        match outcome:
            case "moved":
                return
            case "changed":
                raise RefsMoved(detail)
            case "locked":
                raise await self._locked(os.fsencode(detail))
            case "refused":
                raise OutsideStore(f"refs of {self.repository.name} are not moved: {detail}")
        raise GitError(f"refs of {self.repository.name} cannot be moved: {detail}")

    # -- before -------------------------------------------------------------------------------------------------------

    async def check(self, names: Sequence[bytes]) -> None:
        """Look for what would be in the way of moving these refs. Raises Busy where git's lock of one was left behind,
        OutsideStore where something there is a link, or no file.
        """
        for name in names:
            await self._check_place(name)
            lock = name + b".lock"
            age = await self._age(lock)
            if age is not None and age >= STALE_SECONDS:
                raise await self._locked(lock)
        await self._check_kind(b"packed-refs", ItemKind.FILE)
        if await self.lists_wanted():
            for path in _LISTS:
                await self._check_kind(os.path.dirname(path), ItemKind.DIRECTORY)
                await self._check_kind(path, ItemKind.FILE)

    async def _age(self, path: bytes) -> float | None:
        """Seconds since a file was written, None where there is none."""
        [status] = await self.storage.stat_objects(self.path, [path])
        return None if status is None else time.time() - status.mtime_ns / 1e9

    async def _locked(self, lock: bytes) -> Busy:
        """What to say of a lock. Nobody can know whether a git still needs it, so it is never removed here."""
        path = os.fsdecode(await self.storage.local_path(self.path) + b"/" + lock)
        age = await self._age(lock)
        if age is None or age < STALE_SECONDS:
            return Busy(f"another git is moving refs of {self.repository.name} ({path} is its lock); try again")
        return Busy(
            f"{path} has been there for {age / 60:.0f} minutes: the lock of a git that has died, which keeps everybody "
            f"from pushing to {self.repository.name}; make sure that no git is at work there, and remove that file"
        )

    async def _check_place(self, name: bytes) -> None:
        if not valid_ref_name(name):
            raise GitError(f"{os.fsdecode(name)} is no name of a ref")
        path = b""
        for part in name.split(b"/"):
            path = path + b"/" + part if path else part
            await self._check_kind(path, ItemKind.FILE, ItemKind.DIRECTORY)

    async def _kind(self, path: bytes) -> ItemKind | None:
        [status] = await self.storage.stat_objects(self.path, [path])
        return None if status is None else status.kind

    async def _check_kind(self, path: bytes, *kinds: ItemKind) -> None:
        kind = await self._kind(path)
        if kind is not None and kind not in kinds:
            what = "a link" if kind is ItemKind.LINK else "no " + " and no ".join(each.value for each in kinds)
            place = os.fsdecode(await self.storage.local_path(self.path) + b"/" + path)
            raise OutsideStore(f"{place} is {what}; {self.repository.name} is not pushed to, and it is left alone")

    # -- lists --------------------------------------------------------------------------------------------------------

    async def lists_wanted(self) -> bool:
        """Whether the repository keeps lists of refs and packs, which git reads over plain HTTP: if there is one, or a
        hook that makes them after each push.
        """
        listed, hook = await self.storage.stat_objects(self.path, [_LISTS[0], b"hooks/post-update"])
        return listed is not None or (hook is not None and hook.executable)

    async def renew_lists(self) -> None:
        """Write those lists, as ``git update-server-info`` does. Raises OutsideStore, StoreError, GitError, …"""
        contents = [await self._list_of_refs(), await self._list_of_packs()]
        files = [
            NewFile(self.path + b"/" + path, content, FILE_MODE) for path, content in zip(_LISTS, contents, strict=True)
        ]
        await self.writing.place_files(files, self.sharing)
        await self.writing.settle()

    async def _list_of_refs(self) -> bytes:
        refs = await self.repository.references.below(b"refs/")
        names = sorted(refs)
        asked = [b"info " + refs[name] + suffix for name in names for suffix in (b"", b"^{}")]
        found = await self.repository.objects(asked)
        lines = []
        for name, itself, peeled in zip(names, found[::2], found[1::2], strict=True):
            if itself is None:
                continue
            lines.append(b"%b\t%b\n" % (refs[name], name))
            if itself.kind == b"tag" and peeled is not None:
                lines.append(b"%b\t%b^{}\n" % (peeled.oid, name))
        return b"".join(lines)

    async def _list_of_packs(self) -> bytes:
        try:
            items = await self.storage.list(self.path + b"/objects/pack")
        except NotInStore:
            items = ()
        files = {item.name for item in items if item.kind is ItemKind.FILE}
        packs = sorted(name for name in files if name.endswith(b".pack") and name[:-4] + b"idx" in files)
        return b"".join(b"P %b\n" % name for name in packs) + b"\n"


def _run(order: Order) -> subprocess.CompletedProcess[bytes]:
    """Let the process do it; where others end it, the next one goes on with what it left. Raises ProgramKilled."""
    command = [sys.executable, "-I", "-S", "-c", _START, _ROOT]
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            command, input=order.encode(), capture_output=True, check=False, env={}, cwd="/", start_new_session=True
        )
        if not ended_by_others(done.returncode):
            return done
        order = order.again(done.stdout)
    raise killed("the process that moves refs", done.returncode)
