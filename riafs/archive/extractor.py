"""The limited child: decoders that are not the standard library's, in processes that can do nothing but decode.

Three engines: py7zr's decoders and our own by archive/child, libarchive by the same program, and 7-Zip, where one of
its programs is installed. A child never sees the store's archive: it gets an unlinked archive of our own making around
the packed bytes of the one folder, so that hostile names and headers do not reach it, the file cannot be replaced under
it, and archives that are not on this machine are read as well. Owns the child's life. Invariants: it reads nothing
else, never waits for a password, has bounded memory, processor time and file sizes and an empty environment; those of
archive/child cannot open anything at all, sockets included; it is dead when its decoder was closed.
"""

import contextlib
import enum
import fcntl
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

import trio

from riafs.archive import child
from riafs.children import cause, ended_by_others
from riafs.errors import (
    DecodeFailed,
    DecoderDied,
    MissingProgram,
    OutOfMemory,
    ProgramKilled,
    RiafsError,
    StoreError,
    UnsupportedArchive,
)
from riafs.formats.sevenzip.folder import Folder
from riafs.formats.sevenzip.writing import single_folder_ends
from riafs.storage.bytesource import RangedBytes
from riafs.storage.local_file import FileBytes
from riafs.storage.posix import write_all
from riafs.storage.temporary import temporary_file

_PROGRAMS = (b"7zz", b"7z", b"7za")
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_MEMORY = 2 << 30
_MESSAGE_BYTES = 2000
_CHUNK = 1 << 20
_KILLED_SECONDS = 1.0
_OF_LIMITS = (signal.SIGXCPU, signal.SIGXFSZ)
_DESCRIPTOR = b"\0descriptor"  # no argument that is given to a program has a zero
_NO_CODEC = ("Unsupported Method", "Unsupported method")  # 7-Zip and p7zip

# A shell sets the limits before the program begins: in a process with threads nothing may run between fork and exec.
# Files (here: only its messages) are counted in blocks of 512 bytes.
_LIMITED = b'ulimit -c 0 && ulimit -f 16 && ulimit -v "$1" && ulimit -t "$2" && shift 2 && exec "$@"'

# -so: to standard output, -p: a password, so that none is asked for, -t7z: no other format, -bs*: only errors, on
# standard error.
_SWITCHES = (b"x", b"-so", b"-pnone", b"-t7z", b"-bso0", b"-bsp0", b"-bse2")

# The interpreter takes nothing from its environment or the user's directories, writes nothing (its files would be cut
# by the limit), and can import what this one can.
_INTERPRETER = (b"-I", b"-S", b"-B", b"-c")
_PROGRAM = (
    b"import sys; sys.path[:] = sys.argv[1].split(chr(10)); from riafs.archive.child import main; main(sys.argv[2:])"
)

# 7-Zip's exit status: 0 no error, 1 warning, above: failed.
_WARNING = 1


def find_program(search_path: Sequence[bytes]) -> bytes:
    """The path of the first of ``7zz``, ``7z`` and ``7za`` in the directories `search_path`. Raises MissingProgram."""
    for directory in search_path:
        for name in _PROGRAMS:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and os.access(path, os.X_OK):
                return path
    raise MissingProgram("archive members of this method need 7-Zip (7zz, 7z or 7za): install the package 7zip")


class Engine(enum.Enum):
    """What a child decodes with."""

    LIBRARIES = "the decoders of py7zr"
    LIBARCHIVE = "libarchive"
    SEVENZIP = "7z"


class Extractor:
    """Starts the children of a mount.

    7-Zip is found in the directories `search_path`; a child may use at most `deadline` seconds of processor time.
    Temporary files are unlinked ones in `directory`.
    """

    __slots__ = ("_is_there", "_search_path", "deadline", "directory")

    def __init__(self, search_path: Sequence[bytes], directory: bytes, deadline: float) -> None:
        self._search_path = tuple(search_path)
        self._is_there = False
        self.directory = directory
        self.deadline = deadline

    @property
    def is_there(self) -> bool:
        """Whether 7-Zip is installed; looked for until it is, as this is asked for each member that is read."""
        if not self._is_there:
            with contextlib.suppress(MissingProgram):
                self._is_there = bool(find_program(self._search_path))
        return self._is_there

    async def start(
        self, engine: Engine, folder: Folder, packed: RangedBytes, shown: str, threads: int = 1
    ) -> "ChildDecoder":
        """A child that decodes `folder`, whose packed bytes are `packed`, in so many threads; each takes memory.

        Only 7-Zip has threads. Raises MissingProgram, StoreError (no room for the packed bytes), and what reading
        `packed` raises.
        """
        if engine is Engine.SEVENZIP:
            program = find_program(self._search_path)
            command = [program, *_SWITCHES, b"-mmt=%d" % threads, b"--", b"/proc/self/fd/" + _DESCRIPTOR]
        else:
            command = _python(b"member" if engine is Engine.LIBARCHIVE else b"folder")
        front, back = single_folder_ends(folder)
        return await self._start(command, (front, packed, back), folder.size, engine, shown)

    async def start_member(self, archive: RangedBytes, name: bytes, size: int, shown: str) -> "ChildDecoder":
        """A child in which libarchive reads the member `name`, of `size` bytes, of any archive that it knows.

        An archive that is a file of this machine is read where it is, as only its bytes matter; of others the child
        gets a copy. Raises StoreError (no room for it), and what reading `archive` raises; the decoder raises
        MissingProgram without libarchive, DecodeFailed where there is no such member.
        """
        command = _python(b"member", name)
        if not isinstance(archive, FileBytes):
            return await self._start(command, (b"", archive, b""), size, Engine.LIBARCHIVE, shown)
        try:
            with temporary_file(self.directory) as messages:
                started = await trio.to_thread.run_sync(self._open, command, archive.fileno(), messages.fileno())
                return _decoder(started, messages.fileno(), size, Engine.LIBARCHIVE, shown)
        except OSError as error:
            raise StoreError(f"decoding in {os.fsdecode(self.directory)}: {error.strerror}") from error

    async def _start(
        self, command: Sequence[bytes], parts: tuple[bytes, RangedBytes, bytes], size: int, engine: Engine, shown: str
    ) -> "ChildDecoder":
        """A child whose `command` names the descriptor of a file of these parts as `_DESCRIPTOR`."""
        front, packed, back = parts
        try:
            with (
                temporary_file(self.directory, len(front) + packed.size + len(back)) as archive,
                temporary_file(self.directory) as messages,
            ):
                write_all(archive.fileno(), front)
                for offset in range(0, packed.size, _CHUNK):
                    piece = await packed.read(offset, _CHUNK)
                    await trio.to_thread.run_sync(write_all, archive.fileno(), piece)
                write_all(archive.fileno(), back)
                started = await trio.to_thread.run_sync(self._open, command, archive.fileno(), messages.fileno())
                return _decoder(started, messages.fileno(), size, engine, shown)
        except OSError as error:
            raise StoreError(f"decoding in {os.fsdecode(self.directory)}: {error.strerror}") from error

    def _open(self, command: Sequence[bytes], archive: int, messages: int) -> "subprocess.Popen[bytes]":
        # Processor time ends a child that outlives this process.
        seconds = _allowed(resource.RLIMIT_CPU, math.ceil(self.deadline) + 1)
        limits = [b"%d" % (_allowed(resource.RLIMIT_AS, _MEMORY) // 1024), b"%d" % seconds]
        given = [part.replace(_DESCRIPTOR, b"%d" % archive) for part in command]
        started = subprocess.Popen(
            [b"/bin/sh", b"-c", _LIMITED, b"sh", *limits, *given],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages, env={}, cwd="/",
            pass_fds=[archive], start_new_session=True, bufsize=0,
        )  # fmt: skip
        assert started.stdout is not None
        with contextlib.suppress(OSError):  # a larger pipe saves switches between the two; there is a limit per user
            fcntl.fcntl(started.stdout, fcntl.F_SETPIPE_SZ, _CHUNK)
        return started


def _python(kind: bytes, *names: bytes) -> list[bytes]:
    """The command that runs archive/child."""
    paths = [path for path in sys.path if path] + [_ROOT]
    program = [os.fsencode(sys.executable), *_INTERPRETER, _PROGRAM, os.fsencode("\n".join(paths))]
    return [*program, kind, _DESCRIPTOR, *names]


def _decoder(
    started: "subprocess.Popen[bytes]", messages: int, size: int, engine: Engine, shown: str
) -> "ChildDecoder":
    """What owns a child; it does not outlive a failure to make one. Raises OSError."""
    try:
        return ChildDecoder(started, messages, size, engine, shown)
    except OSError:
        _end(started)
        raise


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Kill a child and what it has started, and wait for it: no time at all, unless the disk under it is dead."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        try:
            child.wait(_KILLED_SECONDS)
        except subprocess.TimeoutExpired:
            threading.Thread(target=child.wait, daemon=True).start()  # it leaves no zombie when it ends at last
    if child.stdout is not None:
        child.stdout.close()


def _allowed(limit: int, wanted: int) -> int:
    """`wanted`, or less where this process may not have that much: a shell refuses to raise a limit."""
    _, hard = resource.getrlimit(limit)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


class ChildDecoder:
    """What a child writes. Owns the child; takes descriptors of its own of its output and of `messages`, what it
    complains about."""

    def __init__(
        self, started: "subprocess.Popen[bytes]", messages: int, size: int, engine: Engine, shown: str
    ) -> None:
        assert started.stdout is not None
        self._child = started
        self._messages = os.dup(messages)
        try:
            self._output = trio.lowlevel.FdStream(os.dup(started.stdout.fileno()))
        except OSError:
            os.close(self._messages)
            raise
        started.stdout.close()
        self._left = size
        self._held = b""
        self._engine = engine
        self._shown = shown

    async def decode(self, most: int) -> bytes:
        """The last piece is given only once the child ended well."""
        try:
            if not self._held:
                self._held = bytes(await self._output.receive_some(min(most, _CHUNK)))
                self._left -= len(self._held)
            if not self._held or self._left <= 0:
                await self._conclude()
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise StoreError(f"{self._shown} is not decoded any more: the mount ends") from error
        data, self._held = self._held, b""
        return data

    async def _conclude(self) -> None:
        """Wait for the end of a child that has written everything. Raises DecodeFailed, …"""
        if await self._output.receive_some(1):
            raise DecodeFailed(f"{self._shown} decodes to more than it says")
        status = await trio.to_thread.run_sync(self._child.wait, abandon_on_cancel=True)
        if self._messages < 0:
            raise trio.ClosedResourceError
        warned = self._engine is Engine.SEVENZIP and status == _WARNING
        if self._left > 0 or not (status == 0 or warned):
            raise self._failure(status)

    def _failure(self, status: int) -> RiafsError:
        """What the end of a child means."""
        if status < 0 and -status not in _OF_LIMITS:
            kind = ProgramKilled if ended_by_others(status) else DecoderDied
            return kind(f"{self._shown} is not decoded: {self._engine.value} was ended by {cause(status)}")
        if self._engine is not Engine.SEVENZIP and status == child.UNABLE:
            return MissingProgram(f"{self._shown} cannot be decoded: {self._text()}")
        if self._engine is not Engine.SEVENZIP and status == child.LACKS_MEMORY:
            return OutOfMemory(f"{self._shown}: out of memory for decoding it")
        text = self._text()
        if (self._engine is not Engine.SEVENZIP and status == child.UNKNOWN) or any(each in text for each in _NO_CODEC):
            return UnsupportedArchive(f"{self._shown} has a method that {self._engine.value} does not know: {text}")
        missing = f" {self._left} bytes before its end" if self._left > 0 else ""
        outcome = f"{self._engine.value} ended{missing} with status {status} {text}".rstrip()
        return DecodeFailed(f"{self._shown} cannot be decoded: {outcome}")

    def _text(self) -> str:
        """The beginning of what the child said, on one line."""
        return " ".join(os.pread(self._messages, _MESSAGE_BYTES, 0).decode("utf-8", "replace").split())

    def close(self) -> None:
        """End the child and give back what it held."""
        if self._messages < 0:
            return
        os.close(self._messages)
        self._messages = -1
        _end(self._child)
        self._output.close()
