"""New objects for a repository of a store, written by git itself.

Objects come as one pack to ``git unpack-objects``, or to ``git index-pack`` where they are many, as in a push to a
server: git writes, makes durable and renames, with the repository's shared modes. As for reading (see environment), git
sees the object directory and nothing else of the store. What is written changes nothing until a ref leads to it.
"""

import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from riafs.errors import GitError, StoreTimeout
from riafs.formats.gitwriting import GitBytes, pack_stream
from riafs.git.environment import PrivateGitDirs
from riafs.storage.ranged import RangedBytes
from riafs.storage.together import together

_LOOSE = 100
"""git's own limit for a push (receive.unpackLimit): fewer objects become files, so that small packs do not pile up."""
_PIECE = 1 << 20
_SLOWEST = 1 << 20  # bytes a second, on top of the deadline
_OBJECTS_A_SECOND = 200
_DURABLE = ("-c", "core.fsync=all", "-c", "core.fsyncMethod=batch", "-c", "core.bigFileThreshold=8m")


@dataclass(frozen=True, slots=True)
class GitWriter:
    """Writes objects to the object directory `objects` (absolute path) of the dataset called `name`.

    `shared`: the repository's ``core.sharedRepository``; `seconds`: patience with one object.
    """

    gits: PrivateGitDirs
    objects: bytes
    object_format: bytes
    shared: bytes
    name: str
    seconds: float

    @property
    def digits(self) -> int:
        """Hex digits of an object's name."""
        return 40 if self.object_format == b"sha1" else 64

    def command(self, *arguments: str) -> list[str]:
        """git with what the store's configuration has a say in."""
        return [self.gits.program, *_DURABLE, "-c", f"core.sharedRepository={os.fsdecode(self.shared)}", *arguments]

    async def store(self, objects: Sequence[GitBytes]) -> None:
        """Write the objects. Raises GitError, StoreTimeout."""
        if not objects:
            return
        how = ("unpack-objects", "-q") if len(objects) < _LOOSE else ("index-pack", "--stdin")
        size = sum(len(each.data) for each in objects)
        seconds = self.seconds + len(objects) / _OBJECTS_A_SECOND + size / _SLOWEST
        await self._run(self.command(*how), _joined(pack_stream(objects, self.digits)), seconds)

    async def store_blob(self, content: RangedBytes) -> bytes:
        """Write a large blob, which is never whole in memory; its name in hex. Raises GitError, StoreTimeout, …"""
        command = self.command("hash-object", "-w", "--no-filters", "--stdin")
        return await self._run(command, content, self.seconds + content.size / _SLOWEST)

    async def _run(self, command: Sequence[str], given: Iterable[bytes] | RangedBytes, seconds: float) -> bytes:
        environment = dict(self.gits.environment(self.objects, self.object_format))
        process = await trio.lowlevel.open_process(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        ended = False
        try:
            with trio.move_on_after(seconds):
                said = await _talk(process, given)
                ended = True
                if process.returncode:
                    raise GitError(f"git cannot write objects to {self.name}: {_last_line(said.error)}")
                return said.output.strip()
        finally:
            if not ended:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
        raise StoreTimeout(f"git did not write objects to {self.name} within {seconds:g} s")


@dataclass(slots=True)
class _Said:
    output: bytes = b""
    error: bytes = b""


async def _talk(process: trio.Process, given: Iterable[bytes] | RangedBytes) -> _Said:
    said = _Said()
    await together(
        partial(_feed, process, given), partial(_read_output, process, said), partial(_read_error, process, said)
    )
    await process.wait()
    return said


async def _feed(process: trio.Process, given: Iterable[bytes] | RangedBytes) -> None:
    assert process.stdin is not None
    async with process.stdin:
        try:
            if isinstance(given, RangedBytes):
                for offset in range(0, given.size, _PIECE):
                    await process.stdin.send_all(await given.read(offset, _PIECE))
            else:
                for piece in given:
                    await process.stdin.send_all(piece)
        except trio.BrokenResourceError:
            pass  # git says why


async def _read_output(process: trio.Process, said: _Said) -> None:
    assert process.stdout is not None
    async for piece in process.stdout:
        said.output += piece


async def _read_error(process: trio.Process, said: _Said) -> None:
    assert process.stderr is not None
    async for piece in process.stderr:
        said.error = (said.error + piece)[-_PIECE:]


def _joined(pieces: Iterable[bytes]) -> Iterable[bytes]:
    """The same bytes in fewer pieces."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


def _last_line(text: bytes) -> str:
    return text.decode(errors="replace").strip().rpartition("\n")[2]
