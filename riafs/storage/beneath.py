"""Opening files below a directory and never outside of it.

Uses openat2(2) with RESOLVE_BENEATH: the kernel itself refuses absolute links and ``..`` that lead out, without a race.
RESOLVE_CACHED answers from the kernel's caches or not at all, so that the event loop may call it.
Kernels before 5.6 and some sandboxes have no openat2; there every component is opened by itself without following
links.
"""

import ctypes
import errno
import os
import platform
import stat
from typing import Final

_SYS_OPENAT2: Final = 437  # the same number on every architecture that has the call
_RESOLVE_NO_MAGICLINKS: Final = 0x02
_RESOLVE_BENEATH: Final = 0x08
_RESOLVE_CACHED: Final = 0x20

READ_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""For regular files; O_NONBLOCK keeps a fifo that a store put in place of an object from blocking the opener."""
PATH_FLAGS: Final = os.O_PATH | os.O_CLOEXEC
DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_HOW_SIZE: Final = ctypes.c_size_t(ctypes.sizeof(_OpenHow))


def _openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    how = _OpenHow(flags, 0, resolve)
    fd: int = _syscall(_SYS_OPENAT2, directory, path, ctypes.byref(how), _HOW_SIZE)
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return fd


def _supported() -> bool:
    if platform.system() != "Linux":
        return False
    root = os.open("/", PATH_FLAGS)
    try:
        os.close(_openat2(root, b".", PATH_FLAGS, _RESOLVE_BENEATH))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


HAVE_OPENAT2: Final = _supported()


def open_plain(directory: int, path: bytes, flags: int) -> int:
    """A new descriptor for `path`, relative to the descriptor `directory`, with no link followed anywhere on the way.

    Raises OSError: ENOTDIR or ELOOP where there is a link, EXDEV for ``..``, otherwise what open(2) raises. With
    O_PATH a link at the end of the path is opened as itself.
    """
    current = directory
    steps = [step for step in path.split(b"/") if step not in (b"", b".")]
    try:
        for step in steps[:-1]:
            following = _open_step(current, step, PATH_FLAGS | os.O_DIRECTORY)
            if current != directory:
                os.close(current)
            current = following
        return _open_step(current, steps[-1] if steps else b".", flags)
    finally:
        if current != directory:
            os.close(current)


def open_resolved(path: bytes, flags: int) -> int:
    """A new descriptor for an absolute path that had no links in it when it was found out. Raises as `open_plain`."""
    root = os.open("/", PATH_FLAGS)
    try:
        return open_plain(root, path, flags)
    finally:
        os.close(root)


def _open_step(directory: int, step: bytes, flags: int) -> int:
    if step == b"..":
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), step)
    return os.open(step, flags | os.O_NOFOLLOW, dir_fd=directory)


def open_beneath(directory: int, path: bytes, flags: int) -> int:
    """A new descriptor for `path`, relative to the descriptor `directory`.

    Raises OSError: EXDEV or ELOOP where the path leads out of `directory`, otherwise what open(2) raises.
    """
    if not HAVE_OPENAT2:
        return open_plain(directory, path, flags)
    while True:
        try:
            return _openat2(directory, path, flags, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
        except OSError as error:
            # openat2(2): a rename or mount anywhere on the system during the walk; "trying again may help".
            if error.errno != errno.EAGAIN:
                raise


def open_regular(directory: int, path: bytes, flags: int) -> int:
    """A new descriptor for the regular file `path` below `directory`, which is no link. Nothing else is ever opened: a
    device may do something upon it, and a fifo may wait.

    Raises OSError: ELOOP for a link, EINVAL for what is no file, otherwise as `open_beneath`.
    """
    found = open_beneath(directory, path, PATH_FLAGS | os.O_NOFOLLOW)
    try:
        mode = os.fstat(found).st_mode
        if not stat.S_ISREG(mode):
            code = errno.ELOOP if stat.S_ISLNK(mode) else errno.EINVAL
            raise OSError(code, "it is a link" if stat.S_ISLNK(mode) else "it is no regular file", path)
        return os.open(b"/proc/self/fd/%d" % found, flags | os.O_CLOEXEC)
    finally:
        os.close(found)


def open_beneath_cached(directory: int, path: bytes, flags: int) -> int | None:
    """Like `open_beneath` if the kernel can answer without touching a disk or network, else None."""
    if not HAVE_OPENAT2:
        return None
    try:
        return _openat2(directory, path, flags, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS | _RESOLVE_CACHED)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EINVAL):  # EINVAL: kernels before 5.12 have no RESOLVE_CACHED
            return None
        raise
