"""The ``git cat-file`` children of a mount, which read git objects in batches.

git maps packs into memory, so that a truncated one raises SIGBUS: that kills a child, never the mount. Invariants of
the ``--batch-command`` child of an object directory: one batch at a time uses the child (`_lock`); its commands fit
into the empty pipe, so that writing never blocks on a child that itself waits until its output is read; and a batch
that does not complete, for whatever reason, ends the child, so that the next one starts with empty pipes.

Large objects are written to files by other children (`FileWriters`).
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import trio
from cachetools import LRUCache

from riafs.children import ATTEMPTS, cause, ended_by_others, killed
from riafs.counters import Counters
from riafs.errors import GitError, ProgramKilled, RiafsError, StoreTimeout
from riafs.formats.gitobjects import SHA1_DIGITS, object_name
from riafs.git.environment import PrivateGitDirs
from riafs.storage.deadline import within
from riafs.tasks import start_detached

if TYPE_CHECKING:
    from riafs.git.object_files import ReadObject

log = logging.getLogger(__name__)

# A pipe holds 64 KiB; a command is at most 9 + 64 + 1 bytes.
MAX_BATCH = 800
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = 1031
_DEATHS_IN_A_ROW = 24
_RESTART_SECONDS = 0.1
_MAX_RESTART_SECONDS = 5.0
MAX_CHILDREN = 12
_MOST_AHEAD, _EACH = 2 << 20, 300
"""Bytes of objects that were read before they were asked for, and of each one beside its content."""
MOST_WRITERS = 8


class GitObject(NamedTuple):
    """An object's full name in hex, type (``blob``, ``tree``, …), size in bytes, and its content if that was
    requested.
    """

    oid: bytes
    kind: bytes
    size: int
    data: bytes


def blob_name(file: BinaryIO, size: int, digits: int) -> bytes:
    """The name (`digits` hex digits) of the blob of `size` bytes in a file, which is read from its beginning."""
    digest = hashlib.sha1(b"blob %d\0" % size) if digits == SHA1_DIGITS else hashlib.sha256(b"blob %d\0" % size)
    file.seek(0)
    while data := file.read(_PIPE_BYTES):
        digest.update(data)
    return digest.hexdigest().encode()


class CatFile:
    """The child of one object directory. It starts with the first batch, and again, with growing pauses, if it died."""

    def __init__(
        self, program: str, environment: Mapping[str, str], name: str, seconds: float, counters: Counters
    ) -> None:
        self._program = program
        self._environment = dict(environment)
        self._name = name
        self._seconds = seconds
        self._counters = counters
        self._lock = trio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = bytearray()
        self._deaths = 0
        self._not_before = 0.0
        self._retired = False

    @property
    def busy(self) -> bool:
        """Whether a batch is running or waiting."""
        return self._lock.locked()

    async def batch(self, requests: Sequence[bytes], limit: int) -> list[GitObject | None]:
        """An answer for each of at most MAX_BATCH requests, None for objects that git does not have.

        A request is ``contents NAME`` or ``info NAME``; a name is hex digits or any revision without a newline.
        Raises GitError if the child dies, cannot be started, or returns an object of more than `limit` bytes,
        StoreTimeout if it does not answer in time, ProgramKilled if it is killed again and again.
        """
        with within(self._seconds):  # including the wait for other batches, so that deadlines do not add up
            async with self._lock:
                for _ in range(ATTEMPTS - 1):
                    with contextlib.suppress(ProgramKilled):
                        return await self._owned_batch(requests, limit)
                return await self._owned_batch(requests, limit)
        raise StoreTimeout(f"git did not read objects of {self._name} within {self._seconds:g} s")

    async def _owned_batch(self, requests: Sequence[bytes], limit: int) -> list[GitObject | None]:
        finished = False
        try:
            objects = await self._exchange(requests, limit)
            finished = True
        finally:
            if self._retired or not finished:
                self.close()
        self._deaths = 0
        self._counters.git_objects_read += len(objects)
        return objects

    @property
    def hopeless(self) -> bool:
        """Whether the child has died so often in a row that more than single objects must be damaged."""
        return self._deaths > _DEATHS_IN_A_ROW

    async def _exchange(self, requests: Sequence[bytes], limit: int) -> list[GitObject | None]:
        process = self._process or await self._start()
        assert process.stdin is not None
        try:
            os.write(process.stdin.fileno(), b"\n".join([*requests, b"flush\n"]))
        except BrokenPipeError:
            raise await self._died() from None
        answers: list[GitObject | None] = []
        while len(answers) < len(requests):
            if self._take_answers(requests, limit, answers) < len(requests):
                await self._receive()
        return answers

    def _take_answers(self, requests: Sequence[bytes], limit: int, answers: list[GitObject | None]) -> int:
        """Move complete answers from the buffer to `answers`. Returns their number."""
        position = 0
        while len(answers) < len(requests):
            taken = self._answer_at(position, requests[len(answers)], limit)
            if taken is None:
                break
            answer, position = taken
            answers.append(answer)
        del self._buffer[:position]
        return len(answers)

    def _answer_at(self, position: int, request: bytes, limit: int) -> tuple[GitObject | None, int] | None:
        """The answer at `position` of the buffer, and the position of the next one; None if it is incomplete."""
        buffer = self._buffer
        end = buffer.find(b"\n", position)
        if end < 0:
            return None
        words = bytes(buffer[position:end]).rsplit(b" ", 2)
        if len(words) != 3 or not words[2].isdigit():  # "NAME missing", "NAME ambiguous"
            return None, end + 1
        oid, kind, size = words[0], words[1], int(words[2])
        if request.startswith(b"info"):
            return GitObject(oid, kind, size, b""), end + 1
        self._check_size(oid, size, limit)
        stop = end + 1 + size
        if len(buffer) <= stop:
            return None
        with memoryview(buffer) as view:  # a tree of a million entries is not copied twice
            data = bytes(view[end + 1 : stop])
        return self._genuine(GitObject(oid, kind, size, data)), stop + 1

    def _genuine(self, found: GitObject) -> GitObject | None:
        """`found`, or None if its bytes do not have its name. git does not check that (git 2.39.5 returns a loose
        object that was copied over another one).
        """
        if object_name(found.kind, found.data, len(found.oid)) == found.oid:
            return found
        log.error("git object %s of %s is damaged: its bytes have another name", found.oid.decode(), self._name)
        return None

    def _check_size(self, oid: bytes, size: int, limit: int) -> None:
        if size > limit:
            raise GitError(f"git object {oid.decode()} of {self._name} has {size} bytes, more than the {limit} allowed")

    async def _receive(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        while True:
            try:
                data = os.read(descriptor, _PIPE_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(descriptor)
                continue
            if not data:
                raise await self._died()
            self._buffer += data
            return

    async def _start(self) -> subprocess.Popen[bytes]:
        await trio.sleep_until(self._not_before)
        self._buffer.clear()
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  # starting takes 1 ms; trio's would wait for it unbounded at the end
                [self._program, "cat-file", "--batch-command", "--buffer"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                cwd="/",
                bufsize=0,
                start_new_session=True,  # Ctrl-C in a terminal must not reach it: the mount ends its children itself
            )
        except OSError as error:
            raise GitError(f"git cannot be started: {error.strerror}") from error
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        _enlarge(process.stdout.fileno())
        self._process = process
        return process

    async def _died(self) -> RiafsError:
        self._counters.git_restarts += 1
        status = await self._return_code()
        if status is not None and ended_by_others(status):
            return killed(f"git, reading objects of {self._name},", status)
        self._deaths += 1
        if self.hopeless:
            pause = min(_RESTART_SECONDS * 2 ** min(self._deaths - _DEATHS_IN_A_ROW, 10), _MAX_RESTART_SECONDS)
            self._not_before = trio.current_time() + pause
        why = "it closed its output" if status is None else cause(status)
        return GitError(f"git ended while reading objects of {self._name} ({why}); the repository may be damaged")

    async def _return_code(self) -> int | None:
        """The return code of a child that has closed its output, None if it does not end."""
        process = self._process
        assert process is not None
        with trio.move_on_after(1):
            return await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
        return None

    def retire(self) -> None:
        """End the child, and from now on after each batch that still uses it."""
        self._retired = True
        self.close()

    def close(self) -> None:
        """End the child."""
        process, self._process = self._process, None
        self._buffer.clear()
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        if process.poll() is None:
            # A child that hangs in a dead file system cannot be waited for here.
            threading.Thread(target=process.wait, name="riafs-reaper", daemon=True).start()


def _enlarge(descriptor: int) -> None:
    try:
        fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:  # the user's limit of memory for pipes is reached; a small pipe is only slower
        return


class GitPool:
    """The children of a mount by object directory, and its private GIT_DIRs."""

    def __init__(self, gits: PrivateGitDirs, seconds: float, counters: Counters, limit: int = MAX_CHILDREN) -> None:
        self.gits = gits
        self.alternate: Callable[[bytes], bytes] | None = None
        """Object format → local object directory that children read as well."""
        self.writers = FileWriters()
        self.ahead: LRUCache[tuple[bytes, bytes], ReadObject] = LRUCache(_MOST_AHEAD, lambda each: _EACH + each.size)
        """A repository's path and an object's name → what was read before it was asked for."""
        self._seconds = seconds
        self._counters = counters
        self._limit = limit
        self._children: OrderedDict[tuple[bytes, bool], CatFile] = OrderedDict()

    def environment(self, objects: bytes, object_format: bytes, *, alone: bool = False) -> Mapping[str, str]:
        """The environment for a git that reads `objects` and, unless `alone`, the local alternate."""
        environment = self.gits.environment(objects, object_format)
        if self.alternate is None or alone:
            return environment
        # Colons separate these directories, quotes are C's (git(1)).
        path = self.alternate(object_format)
        escaped = path.replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
        return {**environment, "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.fsdecode(b'"' + escaped + b'"')}

    def child(self, objects: bytes, object_format: bytes, name: str, *, alone: bool = False) -> CatFile:
        """The child of an object directory; `name` is the dataset's for messages. `alone` as in `environment`."""
        asked = objects, alone and self.alternate is not None
        child = self._children.get(asked)
        if child is None:
            environment = self.environment(objects, object_format, alone=alone)
            child = CatFile(self.gits.program, environment, name, self._seconds, self._counters)
            self._children[asked] = child
            self._end_idle()
        self._children.move_to_end(asked)
        return child

    def has_child(self, objects: bytes) -> bool:
        """Whether an object directory has a child."""
        return (objects, False) in self._children

    def count_read(self, objects: int) -> None:
        """Count objects that were read without a child."""
        self._counters.git_objects_read += objects

    def read_also(self, alternate: Callable[[bytes], bytes]) -> None:
        """From now on, read objects that a store does not have from the local object directory that `alternate` returns
        for an object format.
        """
        self.alternate = alternate
        self._end_all()

    def _end_all(self) -> None:
        for child in self._children.values():
            child.retire()
        self._children.clear()

    def _end_idle(self) -> None:
        idle = [path for path, child in self._children.items() if not child.busy]
        for path in idle[: max(0, len(self._children) - self._limit)]:
            self._children.pop(path).retire()

    def close(self) -> None:
        """End all children and remove the private directories."""
        self._end_all()
        self.gits.close()


class FileWriters:
    """Children that write one large object each into a file, at most MOST_WRITERS at a time; one of these per mount.

    A child that reads from a dead disk cannot be killed: its caller gives up at the deadline, and the child counts
    until the kernel lets it end, so that a dead store cannot fill the machine with such children.
    """

    def __init__(self) -> None:
        self._room = trio.Semaphore(MOST_WRITERS)

    async def run(self, command: Sequence[str], environment: Mapping[str, str], output: int) -> int:
        """Wait for room, then for a child that writes to the descriptor `output`; its return code.

        Cancelled, it kills the child.
        """
        await self._room.acquire()
        try:
            child = await trio.lowlevel.open_process(
                list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL, env=dict(environment)
            )
        except BaseException:
            self._room.release()
            raise
        try:
            return await child.wait()
        finally:
            if child.returncode is None:
                child.kill()
            start_detached(self._count_until_gone, child)

    async def _count_until_gone(self, child: trio.Process) -> None:
        try:
            await child.wait()
        finally:
            self._room.release()
