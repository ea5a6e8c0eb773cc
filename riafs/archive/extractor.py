"""Members that have to be decoded: the 7-Zip program in a limited child, its output in an unlinked file.

Owns the child's life. Invariants: it reads nothing but the archive, never waits for a password, has bounded memory and
processor time and an empty environment; it is dead and reaped when `extract` returns, whatever happened; what is kept
is exactly as long as the archive says, with the CRC32 the archive says.
"""

import math
import os
import resource
import signal
import subprocess
import tempfile
import zlib
from collections.abc import Sequence

import trio

from riafs.errors import CorruptContent, DecodeFailed, MissingProgram, StoreError, StoreTimeout
from riafs.formats.sevenzip import Member
from riafs.storage.files import FileBytes

_PROGRAMS = (b"7zz", b"7z", b"7za")
_MEMORY = 2 << 30
_MESSAGE_BYTES = 2000
_CHUNK = 1 << 20

# A shell sets the limits before the program begins: in a process with threads nothing may run between fork and exec.
# Files (here: only its messages) are counted in blocks of 512 bytes.
_LIMITED = b'ulimit -c 0 && ulimit -f 16 && ulimit -v "$1" && ulimit -t "$2" && shift 2 && exec "$@"'

# -so: to standard output, -spd: names are no patterns, -p: a password, so that none is asked for, -t7z: no other
# format, -mmt: one thread, so that memory does not grow with processors, -bs*: only errors, on standard error.
_SWITCHES = (b"x", b"-so", b"-spd", b"-pnone", b"-t7z", b"-mmt=1", b"-bso0", b"-bsp0", b"-bse2", b"--")

# 7-Zip's exit status: 0 no error, 1 warning (something beside the member), above: failed.
_WARNING = 1


def find_program(search_path: Sequence[bytes]) -> bytes:
    """The path of the first of ``7zz``, ``7z`` and ``7za`` in the directories `search_path`. Raises MissingProgram."""
    for directory in search_path:
        for name in _PROGRAMS:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
    raise MissingProgram("compressed archive members need 7-Zip (7zz, 7z or 7za): install the package 7zip")


class Extractor:
    """Decodes members of local archives.

    Children are found in the directories `search_path`; at most `children` run at once, each call takes at most
    `deadline` seconds, waiting included. Decoded members are kept in unlinked files in `directory`.
    """

    __slots__ = ("_children", "_deadline", "_directory", "_search_path")

    def __init__(self, search_path: Sequence[bytes], directory: bytes, deadline: float, children: int = 2) -> None:
        self._search_path = tuple(search_path)
        self._directory = directory
        self._deadline = deadline
        self._children = trio.CapacityLimiter(children)

    async def extract(self, archive: bytes, member: Member) -> FileBytes:
        """The bytes of `member` of the archive at the path `archive`; the caller closes them.

        Raises DecodeFailed, CorruptContent (wrong CRC32), StoreTimeout, MissingProgram, StoreError (no room for it).
        """
        program = find_program(self._search_path)
        with trio.move_on_after(self._deadline):
            async with self._children:
                return await self._decode(program, archive, member)
        raise StoreTimeout(f"decoding {_shown(member)} took more than {self._deadline:g} s")

    async def _decode(self, program: bytes, archive: bytes, member: Member) -> FileBytes:
        try:
            # Both files have no name; the duplicated descriptor keeps the output alive.
            with (
                tempfile.TemporaryFile(dir=self._directory, buffering=0) as output,
                tempfile.TemporaryFile(dir=self._directory, buffering=0) as messages,
            ):
                command = self._command(program, archive, member)
                await _run(command, output.fileno(), messages.fileno(), member)
                return FileBytes(os.dup(output.fileno()), member.size, _shown(member))
        except OSError as error:
            directory = os.fsdecode(self._directory)
            raise StoreError(f"decoding {_shown(member)} in {directory}: {error.strerror}") from error

    def _command(self, program: bytes, archive: bytes, member: Member) -> list[bytes]:
        # Processor time ends a child that outlives this process.
        seconds = _allowed(resource.RLIMIT_CPU, math.ceil(self._deadline) + 1)
        limits = [b"%d" % (_allowed(resource.RLIMIT_AS, _MEMORY) // 1024), b"%d" % seconds]
        # A path that begins with a dash is safe after "--"; names go in as bytes, which 7-Zip turns into its own form.
        return [b"/bin/sh", b"-c", _LIMITED, b"sh", *limits, program, *_SWITCHES, archive, member.name]


def _allowed(limit: int, wanted: int) -> int:
    """`wanted`, or less where this process may not have that much: a shell refuses to raise a limit."""
    _, hard = resource.getrlimit(limit)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


async def _run(command: list[bytes], output: int, messages: int, member: Member) -> None:
    """Run the child and keep what it writes in the file `output`. Raises DecodeFailed, CorruptContent, OSError."""
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages, env={}, start_new_session=True
    )
    try:
        size, crc = await _keep(process, output, member)
        status = await process.wait()
    finally:
        await _reap(process)
    _check(member, size, crc, status, f"7z ended with status {status} {_text(messages)}".rstrip())


async def _keep(process: trio.Process, output: int, member: Member) -> tuple[int, int]:
    """Copy the child's output. Returns its size and CRC32. Raises DecodeFailed where it is longer than the member."""
    assert process.stdout is not None
    size = crc = 0
    while data := await process.stdout.receive_some(_CHUNK):
        size += len(data)
        if size > member.size:
            raise DecodeFailed(f"{_shown(member)} decodes to more than its {member.size} bytes")
        crc = zlib.crc32(data, crc)
        await trio.to_thread.run_sync(_write_all, output, data)
    return size, crc


def _write_all(output: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(output, view) :]


async def _reap(process: trio.Process) -> None:
    """End the child, if it has not ended, and give back what it held."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
    with trio.CancelScope(shield=True):
        await process.wait()
        if process.stdout is not None:
            await process.stdout.aclose()


def _text(messages: int) -> str:
    """The beginning of what the child said, on one line."""
    return " ".join(os.pread(messages, _MESSAGE_BYTES, 0).decode("utf-8", "replace").split())


def _check(member: Member, size: int, crc: int, status: int, outcome: str) -> None:
    """Raise what is wrong with the decoded bytes. A wrong CRC32 comes before 7-Zip's own complaint about it."""
    if size < member.size:
        raise DecodeFailed(f"{_shown(member)} decodes to {size} of {member.size} bytes: {outcome}")
    if member.crc is not None and crc != member.crc:
        raise CorruptContent(f"{_shown(member)} has the CRC32 {crc:08x}, its archive says {member.crc:08x}")
    if status not in (0, _WARNING):
        raise DecodeFailed(f"{_shown(member)} cannot be decoded: {outcome}")


def _shown(member: Member) -> str:
    return f"archive member {os.fsdecode(member.name)!r}"
