"""Refs of a bare repository, read from ``HEAD``, ``refs/`` and ``packed-refs`` without git.

This costs one to three small files and no process, and the store's configuration cannot influence it.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from riafs.errors import MalformedObject, NotAFile, NotInStore, UnsupportedRepository
from riafs.formats.gitrepository import Oid, SymbolicRef, parse_packed_refs, parse_ref, valid_ref_name
from riafs.storage.protocol import FileStatus, Item, ItemKind, Storage

_MAX_REF = 4096
_MAX_CONFIG = 8 << 20
_EXTENSION = re.compile(rb'^\s*(objectformat|refstorage)\s*=\s*"?(\w+)', re.IGNORECASE | re.MULTILINE)
_MAX_PACKED_REFS = 64 << 20
_MAX_SYMBOLIC_DEPTH = 5  # as git
_MAX_REF_DIRECTORIES = 10_000


@dataclass(frozen=True, slots=True)
class Resolved:
    """A ref's object name in hex, and the ref at the end of symbolic refs (None for a detached HEAD)."""

    oid: bytes
    ref: bytes | None
    adjusted: bytes | None = None
    """The adjusted branch of git-annex that ``HEAD`` names, if `ref` is the branch that it was made from."""

    @property
    def refs(self) -> tuple[bytes, ...]:
        """All refs that were used."""
        return tuple(ref for ref in (self.ref, self.adjusted) if ref is not None)


class References:
    """The refs of the repository at the store's path `repository`. Nothing is cached: each call reads them again."""

    def __init__(self, storage: Storage, repository: bytes) -> None:
        self._storage = storage
        self._repository = repository

    async def resolve(self, name: bytes) -> Resolved | None:
        """The object that the ref `name` (``HEAD``, ``refs/heads/main``) points to, None if there is no such ref.

        Raises MalformedObject for a damaged ref or a loop, UnsupportedRepository for the reftable format.
        """
        current = name
        for _ in range(_MAX_SYMBOLIC_DEPTH):
            value = await self._read(current)
            if value is None:
                return None
            if isinstance(value, Oid):
                return Resolved(value.hex, None if current == b"HEAD" else current)
            current = value.target
        raise MalformedObject(f"ref {name.decode(errors='replace')} goes through too many symbolic refs")

    async def _read(self, name: bytes) -> Oid | SymbolicRef | None:
        if name != b"HEAD" and not valid_ref_name(name):
            raise MalformedObject(f"{name!r} is no name of a ref")
        try:
            return parse_ref(await self._storage.read_file(self._repository + b"/" + name, _MAX_REF))
        except NotInStore as error:
            if isinstance(error, NotAFile) and not await self._is_directory(name):
                raise MalformedObject(str(error)) from error
            packed = (await self._packed()).get(name)  # an empty directory of former refs may have its name
            return None if packed is None else Oid(packed)

    async def _is_directory(self, name: bytes) -> bool:
        with suppress(NotInStore):
            await self._list(name)
            return True
        return False

    async def _list(self, directory: bytes) -> Sequence[Item]:
        """The items of a directory of the repository. Raises NotInStore, also where the store cannot list any."""
        path = self._repository + b"/" + directory
        if self._storage.listing is None:
            raise NotInStore(f"{self._storage.name} cannot list its directories")
        return await self._storage.listing.list(path)

    async def _packed(self) -> dict[bytes, bytes]:
        try:
            text = await self._storage.read_file(self._repository + b"/packed-refs", _MAX_PACKED_REFS)
        except NotAFile as error:
            raise MalformedObject(str(error)) from error
        except NotInStore:
            return {}
        return dict(parse_packed_refs(text))

    async def branches(self) -> dict[bytes, bytes]:
        """Full ref name → object name of every branch, packed ones first."""
        return await self.below(b"refs/heads/")

    async def below(self, prefix: bytes) -> dict[bytes, bytes]:
        """Full ref name → object name of every ref whose name begins with `prefix` (``refs/tags/``), packed ones first.

        Damaged ones are left out. Raises MalformedObject where ``packed-refs`` is damaged.
        """
        found = {name: oid for name, oid in (await self._packed()).items() if name.startswith(prefix)}
        async for name in self._loose(prefix.rstrip(b"/")):
            try:
                resolved = await self.resolve(name)
            except MalformedObject:
                continue
            if resolved is not None:
                found[name] = resolved.oid
        return found

    async def signature(self, prefix: bytes) -> Sequence[FileStatus | None]:
        """A value that changes when any ref below `prefix` is moved, made or removed.

        git writes each ref by a rename, which changes the time of its directory.
        """
        directories = [prefix.rstrip(b"/")]
        for current in directories:  # grows meanwhile
            if len(directories) > _MAX_REF_DIRECTORIES:
                break
            with suppress(NotInStore):
                items = await self._list(current)
                directories += [current + b"/" + item.name for item in items if item.kind is ItemKind.DIRECTORY]
        return await self._storage.stat_objects(self._repository, [b"HEAD", b"packed-refs", *directories])

    async def _loose(self, directory: bytes) -> AsyncIterator[bytes]:
        waiting = [directory]
        for _ in range(_MAX_REF_DIRECTORIES):
            if not waiting:
                return
            current = waiting.pop()
            try:
                items = await self._list(current)
            except NotInStore:
                continue
            for item in items:
                path = current + b"/" + item.name
                if item.kind is ItemKind.DIRECTORY:
                    waiting.append(path)
                elif item.kind is ItemKind.FILE and valid_ref_name(path):
                    yield path

    async def check_format(self) -> bytes:
        """The repository's object format, ``sha1`` or ``sha256``. Raises UnsupportedRepository for reftable."""
        try:
            text = await self._storage.read_file(self._repository + b"/config", _MAX_CONFIG)
        except NotAFile as error:
            raise UnsupportedRepository(str(error)) from error
        except NotInStore:
            return b"sha1"
        # Two settings of one word each; a git process for them would cost 3 ms for each dataset.
        extensions: dict[bytes, bytes] = {name.lower(): value.lower() for name, value in _EXTENSION.findall(text)}
        if extensions.get(b"refstorage", b"files") != b"files":
            raise UnsupportedRepository(
                "refs in git's reftable format cannot be read; convert them with git refs migrate"
            )
        object_format = extensions.get(b"objectformat", b"sha1")
        if object_format not in (b"sha1", b"sha256"):
            raise UnsupportedRepository(f"object format {object_format.decode(errors='replace')} is not known")
        return object_format
