"""New objects for a repository of a store, written in git's formats below its object directory.

No git runs where somebody else's links, fifos and configuration are: objects become loose files, or a pack with its
index where they are many, as in a push to a server; each is whole and durable before it gets its name. What is written
changes nothing until a ref leads to it. Files without a name yet are called as git's own, so that ``git gc`` removes
what a killed push leaves.
"""

import hashlib
import secrets
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from riafs.errors import RiafsError
from riafs.formats.gitobjects import SHA1_DIGITS, NewObject, loose_object, make_pack, object_header, object_name
from riafs.storage.bytesource import RangedBytes
from riafs.storage.permissions import Sharing, object_mode
from riafs.storage.protocol import NewFile, Upload, WritableStorage

_LOOSE = 100
"""git's own limit for a push (receive.unpackLimit): fewer objects become files, so that small packs do not pile up."""
_PIECE = 1 << 20
_FASTEST = 1


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
            await self.writing.settle()

    def _loose(self, objects: Sequence[NewObject]) -> Sequence[NewFile]:
        named = {object_name(each.kind, each.data, self.digits): each for each in objects}
        return [NewFile(self._path(name), loose_object(each), _MODE) for name, each in named.items()]

    def _packed(self, objects: Sequence[NewObject]) -> Sequence[NewFile]:
        """The index comes last: git looks for nothing else."""
        pack = make_pack(list(dict.fromkeys(objects)), self.digits)
        stem = self.objects + b"/pack/pack-" + pack.name
        return [NewFile(stem + b".pack", pack.data, _MODE), NewFile(stem + b".idx", pack.index, _MODE)]

    def _path(self, name: bytes) -> bytes:
        return b"/".join((self.objects, name[:2], name[2:]))

    async def store_blob(self, content: RangedBytes) -> bytes:
        """Write a large blob, which is never whole in memory, durably; its name in hex. Raises as `store`, and what
        reading it raises.
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
        await self.writing.settle()
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


_MODE = object_mode(executable=False)
