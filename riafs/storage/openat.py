"""Opening files below a directory and never outside of it.

Uses openat2(2) with RESOLVE_BENEATH: the kernel itself refuses absolute links and ``..`` that lead out, without a race.
RESOLVE_CACHED answers from the kernel's caches or not at all, so that the event loop may call it.
Kernels before 5.6 and some sandboxes have no openat2; there every component is opened by itself without following
links.

`Roots` are the directories that links of a store may lead into: its root, and others that the administrator allows.
The kernel follows relative links below the root by itself. A link that it refuses is resolved here, component by
component: an absolute target, or one that climbs above a root, is compared with the names of the roots, and resolution
continues below the root that it names. Whatever a link says, nothing outside of the roots is accessed; and the file is
opened by the kernel below a root, so that a link which is replaced meanwhile cannot lead anywhere else.
"""

import ctypes
import errno
import os
import platform
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from riafs.errors import LinkLoop, OutsideStore

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
    """A new descriptor for an absolute path that was free of links when it was resolved. Raises as `open_plain`."""
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
    """A new descriptor for the regular file `path` below `directory`, which is no link. Nothing else is opened: opening
    a device may have an effect, and opening a fifo may block.

    Raises OSError: ELOOP for a link, EINVAL for another kind of file, otherwise as `open_beneath`.
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


_MAX_LINKS = 40  # as Linux
_MAX_NAMES = 64


@dataclass(frozen=True, slots=True)
class Root:
    """An open directory. The caller of `open` closes the descriptor."""

    descriptor: int
    path: bytes
    """Absolute, free of links, without a slash at its end (the root directory of the machine is empty)."""
    names: frozenset[bytes]
    """Absolute paths of it, by links as well, in the same form."""

    @classmethod
    def open(cls, path: bytes) -> "Root":
        """The directory at the absolute path `path`. Raises OSError."""
        descriptor = os.open(path, DIRECTORY_FLAGS)
        try:
            real = os.readlink(b"/proc/self/fd/%d" % descriptor)
            return cls(descriptor, real.rstrip(b"/"), _names(path, os.fstat(descriptor)) | {real.rstrip(b"/")})
        except OSError:
            os.close(descriptor)
            raise


def _names(path: bytes, status: os.stat_result) -> frozenset[bytes]:
    """All paths that result from `path`, to a directory with `status`, by replacing links in it by their targets."""
    found: dict[bytes, None] = {}
    candidates = [os.path.normpath(path)]
    while candidates and len(found) < _MAX_NAMES:
        name = candidates.pop()
        if name not in found and _is_same(name, status):
            found[name] = None
            candidates += _resolved_by_one_link(name)
    return frozenset(name.rstrip(b"/") for name in found)


def _is_same(name: bytes, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(name), status)
    except OSError:
        return False


def _resolved_by_one_link(name: bytes) -> list[bytes]:
    others = []
    above = name
    while above != b"/":
        if os.path.islink(above):
            target = os.path.join(os.path.dirname(above), os.readlink(above))
            others.append(os.path.normpath(target + name[len(above) :]))
        above = os.path.dirname(above)
    return others


class Roots:
    """The root of the store called `name`, and the directories in `allowed` that its links may lead into."""

    def __init__(self, name: bytes, store: Root, allowed: Sequence[Root] = ()) -> None:
        self.name = name
        self.store = store
        self._allowed = allowed
        named = dict.fromkeys(store.names, store)
        for root in allowed:
            # a directory that is the store itself, or an earlier one, counts as that
            same = next((other for other in (store, *allowed) if other.path == root.path), root)
            named |= {each: same for each in root.names if each not in named}
        self._named = sorted(named.items(), key=lambda pair: len(pair[0]), reverse=True)

    def close(self) -> None:
        """Close the descriptors."""
        for root in (self.store, *self._allowed):
            os.close(root.descriptor)

    def open(self, path: bytes, flags: int) -> int:
        """A new descriptor for `path`: below the store's root, or absolute like the target of a link.

        Raises OutsideStore, LinkLoop, and OSError as open(2).
        """
        if HAVE_OPENAT2:
            try:
                return open_beneath(self.store.descriptor, path or b".", flags)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.ELOOP):
                    raise
        way = self._way(path, follow_last=not flags & os.O_NOFOLLOW)
        return open_beneath(way.root.descriptor, b"/".join(way.parts) or b".", flags)

    def open_cached(self, path: bytes, flags: int) -> int | None:
        """Like `open` if the kernel can answer from its caches and no link has to be followed here, else None."""
        try:
            return open_beneath_cached(self.store.descriptor, path, flags)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.ELOOP):
                return None
            raise

    def store_path(self, path: bytes) -> bytes | None:
        """The store's path of the target of `path`, free of links but for those into an allowed directory.

        None if the target is in an allowed directory at a place that no link of the store leads to. Raises as `open`.
        """
        return self._way(path, follow_last=True).store_path(self.store)

    def path_of(self, absolute: bytes) -> bytes | None:
        """The path that `open` takes for an absolute one: the store's path below one of the root's names, the path
        itself in an allowed directory, None elsewhere.
        """
        root, rest = self._find(absolute)
        if root is None:
            return None
        return b"/".join(rest) if root is self.store else absolute

    def _find(self, absolute: bytes) -> tuple[Root | None, list[bytes]]:
        """The root that an absolute path is in, and the components below that."""
        parts = _parts(absolute)
        text = b"".join(b"/" + part for part in parts)
        for name, root in self._named:
            if text == name or text.startswith(name + b"/"):
                return root, parts[name.count(b"/") :]
        return None, []

    def _way(self, path: bytes, *, follow_last: bool) -> "_Way":
        """The way to `path` with every link on it resolved."""
        way = _Way(self.store, _parts(path), [])
        if path.startswith(b"/"):
            self._enter(way, b"", path)
        links = 0
        while way.left:
            part = way.left.pop(0)
            target = None if part == b".." else self._link(way, part, follow_last=follow_last)
            if part == b"..":
                self._climb(way, path)
            elif target is None:
                way.parts.append(part)
            else:
                links += 1
                if links > _MAX_LINKS:
                    raise LinkLoop(f"{self._shown(path)} leads through more than {_MAX_LINKS} links, or in a circle")
                way.begin_link(part, target, in_store=way.root is self.store)
                if target.startswith(b"/"):
                    self._enter(way, b"", path)
            way.arrive()
        return way

    def _link(self, way: "_Way", part: bytes, *, follow_last: bool) -> bytes | None:
        """The target of the link `part`, None if that is no link, or not to be followed. Raises OSError."""
        if not (way.left or follow_last):
            return None
        name = b"/".join([*way.parts, part])
        descriptor = open_beneath(way.root.descriptor, name, PATH_FLAGS | os.O_NOFOLLOW)
        try:
            return os.readlink(b"", dir_fd=descriptor) if stat.S_ISLNK(os.fstat(descriptor).st_mode) else None
        finally:
            os.close(descriptor)

    def _climb(self, way: "_Way", path: bytes) -> None:
        """Go to the parent directory; that of a root has to be in another root."""
        if way.parts:
            way.parts.pop()
        else:
            self._enter(way, os.path.dirname(way.root.path), path)

    def _enter(self, way: "_Way", above: bytes, path: bytes) -> None:
        """Continue below the root that the rest of the path, from the absolute path `above`, leads into."""
        while way.left and way.left[0] == b"..":
            way.left.pop(0)
            above = os.path.dirname(above)
        absolute = b"/".join([above, *way.left])
        root, left = self._find(absolute)
        if root is None:
            raise OutsideStore(
                f"{self._shown(path)} leads out of the store, to {os.fsdecode(absolute) or '/'}; links out of a store "
                "are followed only into directories that are named with --allow-links"
            )
        way.root, way.left, way.parts = root, left, []

    def _shown(self, path: bytes) -> str:
        return os.fsdecode(self.name + b"/" + path)


@dataclass(slots=True)
class _Way:
    """The state of resolving a path: `parts`, free of links, are resolved below `root`; `left` is still to be resolved.

    To find the store's path of a target in an allowed directory, the last link of the store is noted. `link` is its
    path in the store; it is resolved when only `after` components are left, and its target in the root is then `end`.
    """

    root: Root
    left: list[bytes]
    parts: list[bytes]
    link: bytes = b""
    after: int = 0
    end: list[bytes] | None = None

    def begin_link(self, part: bytes, target: bytes, *, in_store: bool) -> None:
        """Continue with `target`, that of the link `part`."""
        if in_store or self.end is not None:
            self.link = b"/".join([*self.parts, part]) if in_store else b"/".join([self.link, *self._beyond(), part])
            self.after = len(self.left)
            self.end = None
        self.left = _parts(target) + self.left

    def arrive(self) -> None:
        """Note the target of the link, if it is resolved now."""
        if self.end is None and len(self.left) == self.after:
            self.end = list(self.parts)

    def _beyond(self) -> list[bytes]:
        """The components below the link's target."""
        return self.parts[len(self.end or ()) :]

    def store_path(self, store: Root) -> bytes | None:
        """The result of `Roots.store_path`."""
        if self.root is store:
            return b"/".join(self.parts)
        if self.end is None or self.parts[: len(self.end)] != self.end:
            return None
        return b"/".join([self.link, *self._beyond()])


def _parts(path: bytes) -> list[bytes]:
    return [part for part in path.split(b"/") if part not in (b"", b".")]
