"""Folders that only 7-Zip decodes: the program in a limited child, front to back.

The child never sees the store's archive: it gets an unlinked archive of our own making around the packed bytes of the
one folder, so that hostile names and headers do not reach it, the file cannot be replaced under it, and archives that
are not on this machine are read as well. Owns the child's life. Invariants: it reads nothing else, never waits for a
password, has bounded memory and processor time and an empty environment; it is dead when its producer was closed.
libarchive would need no copy, but has no BCJ2 and no ARM64 filter in the versions that are installed today.
"""

import contextlib
import fcntl
import math
import os
import resource
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence

import trio

from riafs.errors import DecodeFailed, MissingProgram, StoreError, UnsupportedArchive
from riafs.formats.sevenzip_folder import Folder
from riafs.formats.sevenzip_single import single_folder_ends
from riafs.storage.ranged import RangedBytes

_PROGRAMS = (b"7zz", b"7z", b"7za")
_MEMORY = 2 << 30
_MESSAGE_BYTES = 2000
_CHUNK = 1 << 20
_KILLED_SECONDS = 1.0
_NO_CODEC = ("Unsupported Method", "Unsupported method")  # 7-Zip and p7zip

# A shell sets the limits before the program begins: in a process with threads nothing may run between fork and exec.
# Files (here: only its messages) are counted in blocks of 512 bytes.
_LIMITED = b'ulimit -c 0 && ulimit -f 16 && ulimit -v "$1" && ulimit -t "$2" && shift 2 && exec "$@"'

# -so: to standard output, -p: a password, so that none is asked for, -t7z: no other format, -bs*: only errors, on
# standard error.
_SWITCHES = (b"x", b"-so", b"-pnone", b"-t7z", b"-bso0", b"-bsp0", b"-bse2")

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


class Extractor:
    """Starts the children of a mount.

    The program is found in the directories `search_path`; a child may use at most `deadline` seconds of processor
    time. Temporary files are unlinked ones in `directory`.
    """

    __slots__ = ("_is_there", "_search_path", "deadline", "directory")

    def __init__(self, search_path: Sequence[bytes], directory: bytes, deadline: float) -> None:
        self._search_path = tuple(search_path)
        self._is_there = False
        self.directory = directory
        self.deadline = deadline

    @property
    def is_there(self) -> bool:
        """Whether the program is installed; looked for until it is, as this is asked for each member that is read."""
        if not self._is_there:
            with contextlib.suppress(MissingProgram):
                self._is_there = bool(find_program(self._search_path))
        return self._is_there

    async def start(self, folder: Folder, packed: RangedBytes, shown: str, threads: int = 1) -> "ChildProducer":
        """A child that decodes `folder`, whose packed bytes are `packed`, in so many threads; each takes memory.

        Raises MissingProgram, StoreError (no room for the packed bytes), and what reading `packed` raises.
        """
        program = find_program(self._search_path)
        try:
            with (
                tempfile.TemporaryFile(dir=self.directory, buffering=0) as archive,
                tempfile.TemporaryFile(dir=self.directory, buffering=0) as messages,
            ):
                await _write_archive(archive.fileno(), folder, packed)
                child = await trio.to_thread.run_sync(self._open, program, archive.fileno(), messages.fileno(), threads)
                return _producer(child, messages.fileno(), folder.size, shown)
        except OSError as error:
            raise StoreError(f"decoding in {os.fsdecode(self.directory)}: {error.strerror}") from error

    def _open(self, program: bytes, archive: int, messages: int, threads: int) -> "subprocess.Popen[bytes]":
        # Processor time ends a child that outlives this process.
        seconds = _allowed(resource.RLIMIT_CPU, math.ceil(self.deadline) + 1)
        limits = [b"%d" % (_allowed(resource.RLIMIT_AS, _MEMORY) // 1024), b"%d" % seconds]
        switches = [*_SWITCHES, b"-mmt=%d" % threads, b"--"]
        command = [b"/bin/sh", b"-c", _LIMITED, b"sh", *limits, program, *switches, b"/proc/self/fd/%d" % archive]
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages, env={}, cwd="/",
            pass_fds=[archive], start_new_session=True, bufsize=0,
        )  # fmt: skip
        assert child.stdout is not None
        with contextlib.suppress(OSError):  # a larger pipe saves switches between the two; there is a limit per user
            fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, _CHUNK)
        return child


def _producer(child: "subprocess.Popen[bytes]", messages: int, size: int, shown: str) -> "ChildProducer":
    """What owns a child; it does not outlive a failure to make one. Raises OSError."""
    try:
        return ChildProducer(child, messages, size, shown)
    except OSError:
        _end(child)
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


async def _write_archive(output: int, folder: Folder, packed: RangedBytes) -> None:
    """Put the archive of one folder into the file `output`."""
    front, back = single_folder_ends(folder)
    _write_all(output, front)
    for offset in range(0, packed.size, _CHUNK):
        await trio.to_thread.run_sync(_write_all, output, await packed.read(offset, _CHUNK))
    _write_all(output, back)


def _write_all(output: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(output, view) :]


class ChildProducer:
    """What a child writes. Owns the child; takes descriptors of its own of its output and of `messages`, what it
    complains about."""

    def __init__(self, child: "subprocess.Popen[bytes]", messages: int, size: int, shown: str) -> None:
        assert child.stdout is not None
        self._child = child
        self._messages = os.dup(messages)
        try:
            self._output = trio.lowlevel.FdStream(os.dup(child.stdout.fileno()))
        except OSError:
            os.close(self._messages)
            raise
        child.stdout.close()
        self._left = size
        self._held = b""
        self._shown = shown

    async def produce(self, most: int) -> bytes:
        """See Producer. The last piece is given only once the child ended well."""
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
        """Wait for the end of a child that has written everything. Raises DecodeFailed."""
        if await self._output.receive_some(1):
            raise DecodeFailed(f"{self._shown} decodes to more than it says")
        status = await trio.to_thread.run_sync(self._child.wait, abandon_on_cancel=True)
        if self._messages < 0:
            raise trio.ClosedResourceError
        if self._left > 0 or status not in (0, _WARNING):
            text = self._text()
            if any(each in text for each in _NO_CODEC):
                raise UnsupportedArchive(f"{self._shown} has a method that this 7-Zip does not know: {text}")
            missing = f" {self._left} bytes before its end" if self._left > 0 else ""
            outcome = f"7z ended{missing} with status {status} {text}".rstrip()
            raise DecodeFailed(f"{self._shown} cannot be decoded: {outcome}")

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
