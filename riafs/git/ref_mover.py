"""The process that moves refs of a repository, all of them or none, with git's own lock files.

It is a separate process since a lock file (``refs/heads/main.lock``) that a killed process leaves stops git for all
users. This process takes milliseconds, ignores signals from a terminal, and continues if its parent is killed.

Other users may write to the repository, so it opens files by descriptor and follows no link: a ref, a directory above
one, ``packed-refs`` or a reflog that is a link, a fifo or a device is not opened. The rest is as in git (files backend,
gitrepository-layout(5)): the lock file is made with O_EXCL, gets the new value, and is renamed over the ref; a ref
without a file has its value in ``packed-refs``, which ``git pack-refs`` writes before it removes the file under the
same lock. A reflog gets its line if the repository has a file for it; none is made.
"""

import errno
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from riafs.errors import MalformedObject
from riafs.formats.gitrepository import Oid, parse_packed_refs, parse_ref
from riafs.formats.names import parents_of
from riafs.storage.openat import DIRECTORY_FLAGS, PATH_FLAGS, open_plain, open_resolved
from riafs.storage.permissions import DIRECTORY_MODE, FILE_MODE, Sharing

LOCK_SECONDS = 1.0
_PAUSE = 0.01
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_HEAD = b"HEAD"
_PACKED = b"packed-refs"
_MAX_REF = 4096
_MAX_PACKED_REFS = 64 << 20
_MOST_EMPTY = 1000
"""Empty directories that are removed at the path of a new ref."""

File = tuple[int, int]
"""A file by its device and inode number."""


class Ended(Exception):
    """Nothing was moved. `outcome`: ``changed`` (a ref is not what it should be), ``locked`` (`detail` is the lock's
    path in the repository), ``refused``, or ``failed``.
    """

    def __init__(self, outcome: str, detail: str) -> None:
        super().__init__(detail)
        self.outcome = outcome
        self.detail = detail


@dataclass(slots=True)
class _Ref:
    """A ref to move; `directory`: descriptor of its file's directory."""

    name: bytes
    new: bytes
    old: bytes | None
    directory: int
    loose: bool = False
    """Whether it has a file."""
    renamed: bool = False

    @property
    def leaf(self) -> bytes:
        """The file's name."""
        return self.name.rpartition(b"/")[2]

    @property
    def lock(self) -> bytes:
        """The lock's name, in the same directory."""
        return self.leaf + b".lock"


@dataclass(frozen=True, slots=True)
class Killed:
    """The state after an earlier process was killed at the same work: it may have moved some refs and left locks."""

    locks: Set[File] = frozenset()
    """The lock files that it made, whatever their names are now."""


def move(
    repository: int,
    updates: Sequence[tuple[bytes, bytes, bytes | None]],
    ident: bytes,
    sharing: Sharing,
    before: Killed | None = None,
    tell: Callable[[File], None] = lambda _: None,
) -> None:
    """Move refs durably: (name, new, old) in hex, in this order; `old` is None for one that must not exist. `ident`:
    user and time for reflogs. `before`: continue the work of a killed process. `tell` is called with each lock file, if
    possible before it gets its name. Raises Ended, OSError.
    """
    with ExitStack() as stack:
        changed: list[int] = []
        refs = [_opened(repository, *update, sharing, changed, stack) for update in updates]
        unnamed = [_unnamed(ref, sharing, tell, stack) for ref in refs]
        for ref, content in zip(refs, unnamed, strict=True):
            if before is not None:
                _remove_left_lock(ref, before)
            _lock(ref, content, sharing, tell, stack)
        try:
            packed = parse_packed_refs(_read(repository, _PACKED, _PACKED, _MAX_PACKED_REFS) or b"")
        except MalformedObject as error:
            raise Ended("refused", str(error)) from error
        for ref in refs:
            _verify(ref, packed, moved_before=before is not None)
        logs: list[tuple[int, int]] = []
        try:
            _write_logs(repository, refs, ident, logs, stack)
            _rename(refs, sharing)
        except (OSError, Ended):
            for descriptor, size in logs:
                os.ftruncate(descriptor, size)
            raise
        for descriptor in [*changed, *(log for log, _ in logs)]:
            os.fsync(descriptor)


# -- reading ----------------------------------------------------------------------------------------------------------


def _opened(
    repository: int, name: bytes, new: bytes, old: bytes | None, sharing: Sharing, changed: list[int], stack: ExitStack
) -> _Ref:
    """Open the directory of a ref, which is made if missing. Directories with new entries are added to `changed`."""
    *above, _ = name.split(b"/")
    current, path = repository, b""
    for part in above:
        path = path + b"/" + part if path else part
        with suppress(FileExistsError):
            os.mkdir(part, DIRECTORY_MODE, dir_fd=current)
            changed.append(current)
            following = _directory(current, part, path)
            sharing.apply(following)
            os.close(following)
        current = _directory(current, part, path)
        stack.callback(os.close, current)
    changed.append(current)
    return _Ref(name, new, old, current)


def _directory(above: int, name: bytes, path: bytes) -> int:
    try:
        return open_plain(above, name, DIRECTORY_FLAGS)
    except FileNotFoundError as error:
        raise Ended("changed", f"{os.fsdecode(path)} was removed meanwhile") from error
    except OSError as error:
        mode = os.stat(name, dir_fd=above, follow_symlinks=False).st_mode
        if stat.S_ISREG(mode):
            raise Ended("refused", f"{os.fsdecode(path)} is a ref, so that there can be none below it") from error
        if stat.S_ISDIR(mode):
            raise
        raise Ended("refused", f"{os.fsdecode(path)} is a link or no directory; refs there stay as they are") from error


def _regular(directory: int, name: bytes, path: bytes, flags: int, limit: int = 0) -> int | None:
    """A descriptor of a regular file, None for a missing file or a directory. Nothing else is opened. `path`: in the
    repository, for messages.
    """
    try:
        found = open_plain(directory, name, PATH_FLAGS)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(found)
        if stat.S_ISDIR(status.st_mode):
            return None
        if not stat.S_ISREG(status.st_mode):
            raise Ended("refused", f"{os.fsdecode(path)} is a link or no file; it is left alone")
        if limit and status.st_size > limit:
            raise Ended("refused", f"{os.fsdecode(path)} has {status.st_size} bytes")
        return os.open(b"/proc/self/fd/%d" % found, flags | os.O_CLOEXEC)
    finally:
        os.close(found)


def _read(directory: int, name: bytes, path: bytes, limit: int) -> bytes | None:
    descriptor = _regular(directory, name, path, os.O_RDONLY, limit)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _verify(ref: _Ref, packed: Mapping[bytes, bytes], *, moved_before: bool) -> None:
    """Raise Ended unless the locked ref has its old value, and the name of a new ref is free. `moved_before`: it may
    also have its new value.
    """
    if (value := _value(ref)) is None:
        value = packed.get(ref.name)
    if moved_before and value == ref.new:
        ref.old = value
    if value != ref.old:
        is_now = "does not exist" if value is None else f"is at {value.decode()}"
        raise Ended("changed", f"{os.fsdecode(ref.name)} {is_now}")
    above = parents_of(ref.name)
    taken = [name for name in packed if name in above or name.startswith(ref.name + b"/")]
    if taken and ref.old is None:
        raise Ended("refused", f"there is {os.fsdecode(taken[0])}, so that there can be no {os.fsdecode(ref.name)}")
    if not ref.loose:
        _remove_empty(ref)


def _value(ref: _Ref) -> bytes | None:
    """The value in the ref's file, None without one."""
    text = _read(ref.directory, ref.leaf, ref.name, _MAX_REF)
    if text is None:
        return None
    ref.loose = True
    try:
        value = parse_ref(text)
    except MalformedObject as error:
        raise Ended("refused", f"{os.fsdecode(ref.name)} is damaged: {error}") from error
    if not isinstance(value, Oid):
        raise Ended(
            "refused", f"{os.fsdecode(ref.name)} is a symbolic ref to {os.fsdecode(value.target)}; it is left alone"
        )
    return value.hex


def _remove_empty(ref: _Ref) -> None:
    """Remove the empty directories that former refs left at the path of the ref's file, as git does."""
    found = [ref.leaf]
    try:
        for path in found:
            directory = open_plain(ref.directory, path, DIRECTORY_FLAGS)
            try:
                found += [path + b"/" + os.fsencode(name) for name in os.listdir(directory)[:_MOST_EMPTY]]
            finally:
                os.close(directory)
            if len(found) > _MOST_EMPTY:
                break
        for path in reversed(found):
            above, _, name = path.rpartition(b"/")
            place = open_plain(ref.directory, above or b".", DIRECTORY_FLAGS)
            try:
                os.rmdir(name, dir_fd=place)
            finally:
                os.close(place)
    except FileNotFoundError:
        return
    except OSError as error:
        raise Ended("refused", f"{os.fsdecode(ref.name)} is a directory of other refs") from error


# -- moving -----------------------------------------------------------------------------------------------------------


def _file(descriptor: int) -> File:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _remove_left_lock(ref: _Ref, before: Killed) -> None:
    """Remove the lock of a ref if the killed process has made it.

    The inode number alone is not enough, as that of a file without a name is used again for the next file.
    """
    with suppress(OSError, Ended):
        descriptor = _regular(ref.directory, ref.lock, ref.lock, os.O_RDONLY, _MAX_REF)
        if descriptor is None:
            return
        with os.fdopen(descriptor, "rb") as file:
            ours = _file(descriptor) in before.locks and file.read() == ref.new + b"\n"
        if ours:
            os.unlink(ref.lock, dir_fd=ref.directory)


def _unnamed(ref: _Ref, sharing: Sharing, tell: Callable[[File], None], stack: ExitStack) -> bytes | None:
    """The path of a durable file with the new value and without a name (O_TMPFILE), so that the lock is held for some
    microseconds only; None if the file system does not support that.
    """
    try:
        descriptor = os.open(b".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE, dir_fd=ref.directory)
    except OSError:
        return None
    stack.callback(os.close, descriptor)
    tell(_file(descriptor))
    _fill(descriptor, ref.new, sharing)
    return b"/proc/self/fd/%d" % descriptor


def _lock(ref: _Ref, content: bytes | None, sharing: Sharing, tell: Callable[[File], None], stack: ExitStack) -> None:
    """Take the lock, with the new value in it. `stack` removes it unless it was renamed."""
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            if content is not None:
                os.link(content, ref.lock, dst_dir_fd=ref.directory)
                stack.callback(_unlock, ref)
                return
            descriptor = os.open(ref.lock, _NEW, FILE_MODE, dir_fd=ref.directory)
            break
        except FileExistsError as error:
            if time.monotonic() > until:
                raise Ended("locked", os.fsdecode(ref.name + b".lock")) from error
            time.sleep(_PAUSE)
        except FileNotFoundError as error:  # git removes directories that are empty
            raise Ended("changed", f"the directory of {os.fsdecode(ref.name)} was removed meanwhile") from error
    stack.callback(_unlock, ref)
    stack.callback(os.close, descriptor)
    tell(_file(descriptor))
    _fill(descriptor, ref.new, sharing)


def _fill(descriptor: int, value: bytes, sharing: Sharing) -> None:
    sharing.apply(descriptor)
    if os.write(descriptor, value + b"\n") <= len(value):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)


def _unlock(ref: _Ref) -> None:
    if not ref.renamed:
        with suppress(FileNotFoundError):
            os.unlink(ref.lock, dir_fd=ref.directory)


def _rename(refs: Sequence[_Ref], sharing: Sharing) -> None:
    """Rename the locks. All steps that are likely to fail were done before; if a rename fails, the others are
    undone.
    """
    try:
        for ref in refs:
            os.rename(ref.lock, ref.leaf, src_dir_fd=ref.directory, dst_dir_fd=ref.directory)
            ref.renamed = True
    except OSError:
        for ref in refs:
            if ref.renamed:
                _put_back(ref, sharing)
        raise


def _put_back(ref: _Ref, sharing: Sharing) -> None:
    with suppress(OSError):
        descriptor = os.open(ref.lock, _NEW, FILE_MODE, dir_fd=ref.directory)
        try:
            _fill(descriptor, ref.old or b"", sharing)
        finally:
            os.close(descriptor)
        if _value(ref) == ref.new and ref.old is not None:
            os.rename(ref.lock, ref.leaf, src_dir_fd=ref.directory, dst_dir_fd=ref.directory)
            return
        if _value(ref) == ref.new:
            os.unlink(ref.leaf, dir_fd=ref.directory)
        os.unlink(ref.lock, dir_fd=ref.directory)


# -- reflogs ----------------------------------------------------------------------------------------------------------


def _write_logs(
    repository: int, refs: Sequence[_Ref], ident: bytes, logs: list[tuple[int, int]], stack: ExitStack
) -> None:
    """Add a line for each ref to its log, and to that of HEAD if HEAD points to the ref. `logs` gets the descriptors
    and previous sizes.
    """
    for path, ref in _logs(repository, [ref for ref in refs if ref.old != ref.new]):
        descriptor = _log(repository, path)
        if descriptor is None:
            continue
        stack.callback(os.close, descriptor)
        logs.append((descriptor, os.fstat(descriptor).st_size))
        before = b"0" * len(ref.new) if ref.old is None else ref.old
        line = b"%b %b %b\tpush\n" % (before, ref.new, ident)
        if os.write(descriptor, line) != len(line):
            raise Ended("failed", f"no room for the reflog {os.fsdecode(path)}")


def _logs(repository: int, refs: Sequence[_Ref]) -> Iterator[tuple[bytes, _Ref]]:
    head = None
    with suppress(OSError, MalformedObject, Ended):
        head = parse_ref(_read(repository, _HEAD, _HEAD, _MAX_REF) or b"")
    for ref in refs:
        yield b"logs/" + ref.name, ref
        if head is not None and not isinstance(head, Oid) and head.target == ref.name:
            yield b"logs/" + _HEAD, ref


def _log(repository: int, path: bytes) -> int | None:
    """A descriptor of a reflog to append to, if there is a plain file that this user may write and that has no other
    name."""
    try:
        descriptor = _regular(repository, path, path, os.O_WRONLY | os.O_APPEND)
    except (OSError, Ended):
        return None
    if descriptor is not None and os.fstat(descriptor).st_nlink != 1:
        os.close(descriptor)
        return None
    return descriptor


# -- the process ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """What the process is asked to do: `repository` is an absolute path without links; see `move` for the rest."""

    repository: bytes
    updates: Sequence[tuple[bytes, bytes, bytes | None]]
    ident: bytes
    sharing: Sharing
    before: Killed | None = None

    def encode(self) -> bytes:
        """As the process reads it."""
        updates = [[_text(name), _text(new), None if old is None else _text(old)] for name, new, old in self.updates]
        shared = [self.sharing.shared, self.sharing.exact]
        left = None if self.before is None else list(self.before.locks)
        return json.dumps([_text(self.repository), updates, _text(self.ident), shared, left]).encode()

    @classmethod
    def decode(cls, text: bytes) -> "Order":
        """Raises ValueError for a text that was cut off: its writer was killed."""
        repository, updates, ident, (shared, exact), left = json.loads(text)
        moved = [(os.fsencode(name), os.fsencode(new), old and os.fsencode(old)) for name, new, old in updates]
        before = None if left is None else Killed(frozenset((device, inode) for device, inode in left))
        return cls(os.fsencode(repository), moved, os.fsencode(ident), Sharing(shared, exact=exact), before)

    def again(self, told: bytes) -> "Order":
        """The order after a process was killed at this one; `told`: what that has printed."""
        locks = set() if self.before is None else set(self.before.locks)
        for line in told.splitlines():
            with suppress(ValueError):  # the last one may be cut off
                what, detail = json.loads(line)
                locks |= {tuple(detail)} if what == "lock" else set()
        return replace(self, before=Killed(frozenset(locks)))


def _text(value: bytes) -> str:
    return os.fsdecode(value)


def main() -> None:
    """Carry out the order from standard input, and print the result ``[outcome, detail]`` in the last line.

    Lines ``["lock", [device, inode]]`` before that are for the process that continues if this one is killed.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    order = Order.decode(sys.stdin.buffer.read())
    try:
        repository = open_resolved(order.repository, DIRECTORY_FLAGS)
        move(repository, order.updates, order.ident, order.sharing, order.before, _tell)
        answer = ["moved", ""]
    except Ended as ended:
        answer = [ended.outcome, ended.detail]
    except OSError as error:
        name = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        answer = ["failed", f"{name}{error.strerror}"]
    print(json.dumps(answer))


def _tell(file: File) -> None:
    print(json.dumps(["lock", file]), flush=True)
