"""Writing objects and moving refs of a repository in a store, without running git there.

git is not run in a directory with links, fifos and configuration of other users. A few objects are written as loose
files, many as a pack with an index, as in a push to a server. Each is complete and durable before it gets its name, and
changes nothing until a ref leads to it. Temporary files have names like git's, so that ``git gc`` removes those of a
killed push.

Refs move in one transaction from their expected values, so that the second of two concurrent pushes notices the first.
A separate process takes git's locks for that (`ref_mover`). The lists that git reads over plain HTTP are written as
well.
"""

import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from riafs.children import ATTEMPTS, ended_by_others, killed
from riafs.errors import Busy, GitError, NotInStore, OutsideStore, RiafsError, StoreTimeout
from riafs.formats.gitobjects import SHA1_DIGITS, NewObject, loose_object, make_pack, object_header, object_name
from riafs.formats.gitrepository import valid_ref_name
from riafs.git.ref_mover import Order
from riafs.git.repository import Repository
from riafs.storage.bytesource import RangedBytes
from riafs.storage.permissions import FILE_MODE, Sharing, object_mode
from riafs.storage.protocol import ItemKind, LocalStore, NewFile, Upload, WritableStorage

_LOOSE = 100
"""git's own limit for a push (receive.unpackLimit): fewer objects become files, so that small packs do not pile up."""
_PIECE = 1 << 20
_FASTEST = 1
_MODE = object_mode(executable=False)


@dataclass(frozen=True, slots=True)
class GitWriter:
    """Writes objects to the object directory at the store's path `objects`. `object_format`: ``sha1`` or ``sha256``."""

    writing: WritableStorage
    objects: bytes
    object_format: bytes
    sharing: Sharing

    @property
    def digits(self) -> int:
        """Hex digits of an object's name."""
        return SHA1_DIGITS if self.object_format == b"sha1" else 64

    async def store(self, objects: Sequence[NewObject]) -> None:
        """Write the objects, durably. Raises OutsideStore, StoreDenied, ReadOnly, StoreError, StoreTimeout."""
        if objects:
            make = self._loose if len(objects) < _LOOSE else self._packed
            await self.writing.place_files(await trio.to_thread.run_sync(make, objects), self.sharing)
            await self.writing.sync_changes()

    def _loose(self, objects: Sequence[NewObject]) -> Sequence[NewFile]:
        named = {object_name(each.kind, each.data, self.digits): each for each in objects}
        return [NewFile(self._path(name), loose_object(each), _MODE) for name, each in named.items()]

    def _packed(self, objects: Sequence[NewObject]) -> Sequence[NewFile]:
        # The index comes last: git recognises a pack by it.
        pack = make_pack(list(dict.fromkeys(objects)), self.digits)
        stem = self.objects + b"/pack/pack-" + pack.name
        return [NewFile(stem + b".pack", pack.data, _MODE), NewFile(stem + b".idx", pack.index, _MODE)]

    def _path(self, name: bytes) -> bytes:
        return b"/".join((self.objects, name[:2], name[2:]))

    async def store_blob(self, content: RangedBytes) -> bytes:
        """Write a large blob durably, without keeping it in memory. Returns its name in hex. Raises as `store`, and
        what reading it raises.
        """
        temporary = self.objects + b"/tmp_obj_" + secrets.token_hex(8).encode()
        upload = await self.writing.create(temporary, _MODE, self.sharing)
        try:
            try:
                path = self._path(name := await self._write_blob(content, upload))
            finally:
                upload.close()
            await self.writing.sync([temporary])
            await self.writing.make_directories([path.rpartition(b"/")[0]], self.sharing)
            await self.writing.rename_each([(temporary, path)])
        except BaseException:
            with trio.CancelScope(shield=True), suppress(RiafsError):
                await self.writing.remove_each([temporary])
            raise
        await self.writing.sync_changes()
        return name

    async def _write_blob(self, content: RangedBytes, upload: Upload) -> bytes:
        digest = hashlib.sha1() if self.digits == SHA1_DIGITS else hashlib.sha256()
        compressor = zlib.compressobj(_FASTEST)

        def taken(data: bytes) -> bytes:
            digest.update(data)
            return compressor.compress(data)

        await upload.write(taken(object_header(b"blob", content.size)))
        for offset in range(0, content.size, _PIECE):
            data = bytes(await content.read(offset, _PIECE))
            await upload.write(await trio.to_thread.run_sync(taken, data))
        await upload.write(compressor.flush())
        return digest.hexdigest().encode()


# -- refs -------------------------------------------------------------------------------------------------------------

STALE_SECONDS = 600.0
"""git holds the lock of a ref for milliseconds."""
_START = "import sys; sys.path.insert(0, sys.argv[1]); from riafs.git.ref_mover import main; main()"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_LISTS = (b"info/refs", b"objects/info/packs")


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """The update of one ref: its new value, and its expected old one (None: it must not exist). Object names in hex.

    `ident`: user and time for its reflog (`Stamp`).
    """

    name: bytes
    new: bytes
    old: bytes | None
    ident: bytes


class RefsMoved(Exception):
    """A ref did not have its expected value; nothing was changed."""


@dataclass(frozen=True, slots=True)
class RefWriter:
    """Moves refs of the repository at the store's path `path`. `seconds`: the deadline of each step."""

    storage: LocalStore
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
            # After the deadline, the process continues: if it were killed, it would leave locks.
            done = await trio.to_thread.run_sync(_run, order, abandon_on_cancel=True)
            return await self._heed(done)
        raise StoreTimeout(f"refs of {self.repository.name} were not moved within {self.seconds:g} s")

    async def _heed(self, done: subprocess.CompletedProcess[bytes]) -> None:
        """Raise the failure that the process has reported, if any."""
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

    # -- checking -----------------------------------------------------------------------------------------------------

    async def check(self, names: Sequence[bytes]) -> None:
        """Look for obstacles to moving these refs. Raises Busy if a lock was left, OutsideStore if a file or directory
        is a link or of the wrong kind.
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
        """Seconds since a file was written, None if there is none."""
        [status] = await self.storage.stat_objects(self.path, [path])
        return None if status is None else time.time() - status.mtime_ns / 1e9

    async def _locked(self, lock: bytes) -> Busy:
        """The failure for a lock. It is not removed here, as it is unknown whether a git still needs it."""
        path = os.fsdecode(await self.storage.local_path(self.path) + b"/" + lock)
        age = await self._age(lock)
        if age is None or age < STALE_SECONDS:
            return Busy(f"another git is moving refs of {self.repository.name} ({path} is its lock); try again")
        return Busy(
            f"{path} has been there for {age / 60:.0f} minutes: a lock that a killed git has left, which stops all "
            f"pushes to {self.repository.name}; make sure that no git is running there, and remove that file"
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
            raise OutsideStore(f"{place} is {what}; {self.repository.name} is not pushed to, and nothing was changed")

    # -- lists --------------------------------------------------------------------------------------------------------

    async def lists_wanted(self) -> bool:
        """Whether the repository has the lists of refs and packs that git reads over plain HTTP, or a hook that makes
        them after each push.
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
        await self.writing.sync_changes()

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
    """Run the process; if it is killed, another one continues its work. Raises ProgramKilled."""
    command = [sys.executable, "-I", "-S", "-c", _START, _ROOT]
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            command, input=order.encode(), capture_output=True, check=False, env={}, cwd="/", start_new_session=True
        )
        if not ended_by_others(done.returncode):
            return done
        order = order.again(done.stdout)
    raise killed("the process that moves refs", done.returncode)
