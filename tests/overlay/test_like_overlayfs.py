"""The engine beside the kernel's overlayfs over the same tree: the same calls, the same answers, the same tree."""

import contextlib
import ctypes
import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from riafs.counters import Counters
from riafs.errors import RiafsError
from riafs.overlay.filesystem import OverlayFileSystem
from riafs.overlay.namespace import EXCHANGE, NOREPLACE
from riafs.overlay.overlay import Overlay
from riafs.overlay.rebasing import drop_pushed
from riafs.overlay.stat import Ownership
from riafs.tree.protocol import Entry, Kind
from tests.overlay.disk import BASE, DiskLower
from tests.overlay.walking import Walker

if TYPE_CHECKING:
    from riafs.overlay.changes import Base, Carried

_AT_FDCWD = -100
_LIBC = ctypes.CDLL(None, use_errno=True)

COMPONENTS = (b"a", b"b", b"c", b"f", b"g")
PATHS = st.lists(st.sampled_from(COMPONENTS), min_size=1, max_size=3).map(b"/".join)
PLACES = st.one_of(PATHS, st.tuples(st.integers(0, 99), st.sampled_from((None, None, *COMPONENTS))))
"""A path; or the number of one that there is, and perhaps a name in (or beside) it."""
DATA = st.binary(min_size=1, max_size=40)
OFFSETS = st.integers(0, 100)
SPECIAL = {
    stat.S_IFIFO: Kind.FIFO, stat.S_IFSOCK: Kind.SOCKET, stat.S_IFCHR: Kind.CHARACTER, stat.S_IFBLK: Kind.BLOCK
}  # fmt: skip
Answer = tuple[str, Any]
Place = bytes | tuple[int, bytes | None]


def plant(root: Path) -> None:
    for directory in ("a/b", "a/c", "b/a", "c"):
        (root / directory).mkdir(parents=True)
    for number, path in enumerate(("a/f", "a/b/f", "a/c/g", "b/f", "b/a/f", "f", "c/g")):
        (root / path).write_bytes(bytes([65 + number]) * 30)
        (root / path).chmod(0o755 if number % 2 else 0o644)
    (root / "b/g").symlink_to("../f")


def asked(call: Callable[[], Any]) -> Answer:
    try:
        return "ok", call()
    except OSError as error:
        return "errno", errno.errorcode[error.errno or 0]


class Kernel:
    """The calls on a directory."""

    def __init__(self, root: bytes) -> None:
        self._root = root

    def path(self, path: bytes) -> bytes:
        return os.path.join(self._root, path)

    def write(self, path: bytes, data: bytes, offset: int, flags: int) -> None:
        file = os.open(self.path(path), flags | os.O_NOFOLLOW, 0o666)
        with contextlib.closing(os.fdopen(file, "wb", buffering=0)):
            os.pwrite(file, data, offset)

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        if _LIBC.renameat2(_AT_FDCWD, self.path(old), _AT_FDCWD, self.path(new), flags):
            raise OSError(ctypes.get_errno(), "")

    def truncate(self, path: bytes, size: int) -> None:
        file = os.open(self.path(path), os.O_WRONLY | os.O_NOFOLLOW)
        with contextlib.closing(os.fdopen(file, "wb", buffering=0)):
            os.ftruncate(file, size)

    def tree(self, path: bytes = b"") -> dict[bytes, tuple[str, int, bytes]]:
        found = {}
        for name in os.listdir(self.path(path)):
            below = os.path.join(path, name)
            status = os.lstat(self.path(below))
            kind, content = "directory", b""
            if stat.S_ISREG(status.st_mode):
                kind, content = "file", Path(os.fsdecode(self.path(below))).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                kind, content = "link", os.readlink(self.path(below))
            elif not stat.S_ISDIR(status.st_mode):
                kind = SPECIAL[stat.S_IFMT(status.st_mode)].value
            found[below] = (kind, status.st_mode & 0o7777, content)
            if kind == "directory":
                found |= self.tree(below)
        return found

    def linked(self) -> dict[bytes, tuple[bytes, ...]]:
        """See Walker.linked."""
        found: dict[int, list[bytes]] = {}
        for path, (kind, _, _) in self.tree().items():
            if kind != "directory":
                found.setdefault(os.lstat(self.path(path)).st_ino, []).append(path)
        return {path: tuple(sorted(paths)) for paths in found.values() for path in paths}

    def separate(self, path: bytes) -> None:
        """Make a file, or link, of its own from one with several names."""
        aside = self.path(b"aside")
        shutil.copy2(self.path(path), aside, follow_symlinks=False)
        os.rename(aside, self.path(path))


@contextlib.contextmanager
def kernel_overlay(base: Path) -> Iterator[Kernel]:
    """The kernel's overlay over base/lower."""
    for name in ("upper", "work", "merged"):
        (base / name).mkdir()
    options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work,redirect_dir=on,xino=off,index=off"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "riafs-test", f"{base}/merged"], check=True)
    try:
        yield Kernel(os.fsencode(base / "merged"))
    finally:
        subprocess.run(["umount", f"{base}/merged"], check=True)


def commit_tree(where: Path, tree: dict[bytes, tuple[str, int, bytes]]) -> None:
    """What git would keep of a tree: no empty directories, of modes the executable bit."""
    where.mkdir()
    for path, (kind, mode, content) in tree.items():
        place = where / os.fsdecode(path)
        if kind != "directory":
            place.parent.mkdir(parents=True, exist_ok=True)
        if kind == "file":
            place.write_bytes(content)
            place.chmod(0o755 if mode & 0o100 else 0o644)
        elif kind == "link":
            place.symlink_to(os.fsdecode(content))


def reduced(tree: dict[bytes, tuple[str, int, bytes]]) -> dict[bytes, tuple[str, bool, bytes]]:
    return {path: (kind, kind == "file" and bool(mode & 0o100), data) for path, (kind, mode, data) in tree.items()}


class Beside(RuleBasedStateMachine):
    """Each rule makes one call on both."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self._base = Path(tempfile.mkdtemp(prefix="riafs-beside-"))
        self._stack.callback(os.rmdir, self._base)
        # Also where /tmp is an overlay, on which none can be put.
        subprocess.run(["mount", "-t", "tmpfs", "riafs-test", self._base], check=True)
        self._stack.callback(subprocess.run, ["umount", self._base], check=True)
        (self._base / "lower").mkdir()
        plant(self._base / "lower")
        self._kernel = self._stack.enter_context(kernel_overlay(self._base))
        self._overlay: Overlay | None = None
        self._umask = os.umask(0o022)
        self._below = self._base / "lower"
        self._shown = BASE
        self._push: tuple[Base, Path, Carried] | None = None
        self._open()

    def _open(self) -> None:
        self._overlay = Overlay(f"{self._base}/overlay", Counters())
        lower = DiskLower(os.fsencode(self._below), self._shown)
        self._engine = OverlayFileSystem(self._overlay, lower, Ownership(0, 0))
        self._walker = Walker(self._engine)
        trio.run(self._engine.attach)

    def _close(self) -> None:
        if self._overlay is not None:
            self._engine.close()
            self._overlay.close()
            self._overlay = None

    def teardown(self) -> None:
        os.umask(self._umask)
        self._close()
        self._stack.close()

    def _both(self, kernel: Callable[[], object], engine: Callable[[], Awaitable[object]]) -> None:
        expected = asked(kernel)

        async def run() -> Answer:
            try:
                await engine()
            except RiafsError as error:
                return "errno", errno.errorcode[error.errno]
            return "ok", None

        found = trio.run(run)
        if found[0] == "errno" or expected[0] == "errno":
            assert found == expected

    @initialize()
    def begin(self) -> None:
        self.compare()

    @rule(place=PLACES, data=DATA, offset=OFFSETS, excl=st.booleans(), trunc=st.booleans())
    def create(self, place: Place, data: bytes, offset: int, excl: bool, trunc: bool) -> None:
        path = self._path(place)
        flags = os.O_CREAT | os.O_WRONLY | (os.O_EXCL if excl else 0) | (os.O_TRUNC if trunc else 0)
        if self._is_special(path):
            return
        if self._is_link(path if not excl else os.path.dirname(path) or b"-"):
            return  # following is the kernel's
        self._both(
            lambda: self._kernel.write(path, data, offset, flags), lambda: self._write(path, data, offset, flags)
        )

    @rule(place=PLACES, data=DATA, offset=OFFSETS)
    def write(self, place: Place, data: bytes, offset: int) -> None:
        path = self._path(place)
        if not self._is_link(path) and not self._is_special(path):
            flags = os.O_WRONLY
            self._both(
                lambda: self._kernel.write(path, data, offset, flags), lambda: self._write(path, data, offset, flags)
            )

    async def _write(self, path: bytes, data: bytes, offset: int, flags: int) -> None:
        await self._walker.write(path, data, offset, flags)

    def _path(self, place: Place) -> bytes:
        if isinstance(place, bytes):
            return place
        there = sorted(self._kernel.tree()) or [b"a"]
        path, name = there[place[0] % len(there)], place[1]
        if name is None:
            return path
        return os.path.join(path if os.path.isdir(self._kernel.path(path)) else os.path.dirname(path), name)

    def _is_special(self, path: bytes) -> bool:
        """Whether something is there that a kernel opens by itself."""
        with contextlib.suppress(OSError):
            return stat.S_IFMT(os.lstat(self._kernel.path(path)).st_mode) in SPECIAL
        return False

    def _is_link(self, path: bytes) -> bool:
        """Whether a link is on the way, which a kernel would follow before it asks."""
        parts = path.split(b"/")
        return any(
            os.path.islink(os.path.join(os.fsencode(self._base / "merged"), *parts[:count]))
            for count in range(1, len(parts) + 1)
        )

    @rule(place=PLACES)
    def mkdir(self, place: Place) -> None:
        path = self._path(place)
        if not self._is_link(os.path.dirname(path) or b"-"):
            self._both(lambda: os.mkdir(self._kernel.path(path)), lambda: self._walker.mkdir(path))

    @rule(place=PLACES)
    def rmdir(self, place: Place) -> None:
        path = self._path(place)
        if not self._is_link(path):
            self._both(lambda: os.rmdir(self._kernel.path(path)), lambda: self._walker.rmdir(path))

    @rule(place=PLACES)
    def unlink(self, place: Place) -> None:
        path = self._path(place)
        if not self._is_link(os.path.dirname(path) or b"-"):
            self._both(lambda: os.unlink(self._kernel.path(path)), lambda: self._walker.unlink(path))

    @rule(place=PLACES)
    def empty(self, place: Place) -> None:
        """rm -r, in the order of a listing: otherwise few directories ever get empty."""
        path = self._path(place)
        if not self._is_link(path) and os.path.isdir(self._kernel.path(path)):
            shutil.rmtree(self._kernel.path(path))
            trio.run(self._remove, path)
            self.compare()

    async def _remove(self, path: bytes) -> None:
        for below, (kind, _, _) in reversed((await self._walker.tree(path)).items()):
            await (self._walker.rmdir(below) if kind == "directory" else self._walker.unlink(below))
        await self._walker.rmdir(path)

    @rule(place=PLACES, text=st.sampled_from((b"f", b"../a", b"nowhere")))
    def symlink(self, place: Place, text: bytes) -> None:
        path = self._path(place)
        if not self._is_link(os.path.dirname(path) or b"-"):
            self._both(lambda: os.symlink(text, self._kernel.path(path)), lambda: self._walker.symlink(text, path))

    @rule(before=PLACES, after=PLACES, flags=st.sampled_from((0, 0, 0, NOREPLACE, EXCHANGE)))
    def rename(self, before: Place, after: Place, flags: int) -> None:
        old = self._path(before)
        new = self._path(after)
        if self._is_link(os.path.dirname(old) or b"-") or self._is_link(os.path.dirname(new) or b"-"):
            return
        if old == new:
            return  # the kernel answers that by itself
        self._both(lambda: self._kernel.rename(old, new, flags), lambda: self._walker.rename(old, new, flags))

    @rule(before=PLACES, after=PLACES)
    def link(self, before: Place, after: Place) -> None:
        old, new = self._path(before), self._path(after)
        if not self._is_link(os.path.dirname(old) or b"-") and not self._is_link(os.path.dirname(new) or b"-"):
            self._both(
                lambda: os.link(self._kernel.path(old), self._kernel.path(new), follow_symlinks=False),
                lambda: self._walker.link(old, new),
            )

    @rule(place=PLACES, type_=st.sampled_from(sorted(SPECIAL)))
    def mknod(self, place: Place, type_: int) -> None:
        path, device = self._path(place), os.makedev(1, 3)
        if not self._is_link(os.path.dirname(path) or b"-"):
            self._both(
                lambda: os.mknod(self._kernel.path(path), type_ | 0o666, device),
                lambda: self._walker.mknod(path, SPECIAL[type_], device),
            )

    @rule(place=PLACES, size=OFFSETS)
    def truncate(self, place: Place, size: int) -> None:
        path = self._path(place)
        if not self._is_link(path) and not self._is_special(path):
            self._both(lambda: self._kernel.truncate(path, size), lambda: self._truncate(path, size))

    async def _truncate(self, path: bytes, size: int) -> None:
        await self._engine.setattr((await self._walker.stat(path)).inode, size=size)

    @rule(place=PLACES, mode=st.sampled_from((0o600, 0o755, 0o4711)))
    def chmod(self, place: Place, mode: int) -> None:
        path = self._path(place)
        if not self._is_link(path):
            self._both(lambda: os.chmod(self._kernel.path(path), mode), lambda: self._chmod(path, mode))

    async def _chmod(self, path: bytes, mode: int) -> None:
        await self._engine.setattr((await self._walker.stat(path)).inode, mode=mode)

    @rule()
    def begin_push(self) -> None:
        """Make a commit of what there is."""
        assert self._overlay is not None
        if self._overlay.datasets():
            commit = f"{int(self._shown.commit, 16) + 1:040x}"
            carried = self._overlay.carried(b"study")
            self._push = replace(self._shown, commit=commit.encode()), self._base / commit, carried
            shutil.rmtree(self._base / commit, ignore_errors=True)
            commit_tree(self._base / commit, trio.run(self._walker.tree))

    @rule()
    def end_push(self) -> None:
        """It lies below from now on; what was done since stays."""
        if self._push is None or self._overlay is None:
            return
        (shown, below, carried), self._push = self._push, None
        if not self._overlay.datasets():  # what was tried had failed, so there was nothing to push
            return
        self._shown, self._below = shown, below
        self._engine.close()
        lower = DiskLower(os.fsencode(self._below), self._shown)

        async def find(path: bytes) -> Entry | None:
            found = lower.at(path)
            return None if found is None else found.entry

        trio.run(drop_pushed, self._overlay, b"study", self._shown.commit, carried, find)
        self._close()
        self._open()
        for path, names in trio.run(self._walker.linked).items():  # the commit has files of their own
            if self._kernel.linked()[path] != names:
                self._kernel.separate(path)
        self.compare()

    @rule()
    def open_again(self) -> None:
        self._close()
        self._open()

    @rule()
    def compare(self) -> None:
        found, expected = trio.run(self._walker.tree), self._kernel.tree()
        if self._shown != BASE:  # of modes, a commit has the executable bit only
            found, expected = reduced(found), reduced(expected)
        assert found == expected
        assert trio.run(self._walker.linked) == self._kernel.linked()

    @rule()
    def changes_are_told(self) -> None:
        assert self._overlay is not None
        for dataset in self._overlay.datasets():
            paths = [change.path for change in self._overlay.changes(dataset.dataset)]
            assert paths == sorted(paths)


@pytest.mark.skipif(os.getuid() != 0, reason="only root mounts the kernel's overlayfs")
def test_the_engine_does_what_overlayfs_does() -> None:
    run_state_machine_as_test(
        Beside,
        settings=settings(
            max_examples=int(os.environ.get("RIAFS_EXAMPLES", "30")),
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
