"""What the kernel knows stays right when pushes move a mount to other commits, whatever was renamed in between."""

import contextlib
import os
import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from riafs.daemon.pushing import Order, Outcome, push_changes
from riafs.errors import NoSuchName, PushConflict, RiafsError, StaleHandle
from riafs.formats.sources import parse_ria_source
from riafs.push.protocol import Prefer
from riafs.tree.protocol import Kind
from riafs.watching import NoWatcher
from tests.push.conftest import means, request, tree, with_annex
from tests.small import SmallDataset, SmallStore
from tests.writing.drivers import writable
from tests.writing.kernel import Kernel

LATER = 1_800_000_000
FILES = {
    b".gitattributes": b"* annex.largefiles=nothing\n",
    b"d/sub/deep/x": b"x",
    b"d/y": b"y",
    b"e/sub/z": b"z",
    b"top": b"1",
}


class Mount:
    """A kernel over a dataset's mount, and pushes."""

    def __init__(self, kernel: Kernel, dataset: SmallDataset) -> None:
        self.kernel = kernel
        self.dataset = dataset
        self._time = LATER

    async def push(self, prefer: Prefer = Prefer.OURS, places: tuple[bytes, ...] = ()) -> list[Outcome]:
        source = parse_ria_source(f"{self.dataset.path.parent.parent}#{self.dataset.id}")
        order = Order(request(prefer=prefer), places)
        return await push_changes(self.kernel.filesystem, source, means(), order, NoWatcher(), self.kernel.tell)

    def commit(self, files: dict[bytes, bytes]) -> None:
        """What others do in the store."""
        self._time += 1
        self.dataset.commit(dict(files), time=self._time)

    def files(self) -> dict[bytes, bytes]:
        """What is in the branch."""
        return {path: data for path, (_, data) in tree(self.dataset).items()}

    async def number(self, path: bytes) -> int:
        inode = (await self.kernel.name(path)).inode
        assert inode is not None
        return inode


@pytest.fixture
async def mount(tmp_path: Path) -> AsyncIterator[Mount]:
    dataset = with_annex(SmallStore.make(tmp_path / "store").dataset("one", FILES))
    async with writable(dataset.path.parent.parent, tmp_path / "over", f"#{dataset.id}") as driver:
        yield Mount(Kernel(driver.filesystem), dataset)


async def test_a_directory_that_is_changed_during_each_push_keeps_its_number(mount: Mount) -> None:
    kernel = mount.kernel
    await kernel.mkdir(b"A")
    await kernel.write(b"A/log", b"0")
    number = await mount.number(b"A")
    for turn in range(3):
        await mount.push()
        await kernel.write(b"A/log", b"%d" % turn)  # of the commit: what is above it is copied up
        await kernel.write(b"A/new%d" % turn, b"")
        assert await mount.number(b"A") == number
        await kernel.check()
    await mount.push()
    assert await kernel.read(b"A/log") == b"2"
    assert sorted(await kernel.ls(number)) == [b"log", b"new0", b"new1", b"new2"]
    await kernel.check()


async def test_what_is_changed_while_it_is_pushed_keeps_its_number(mount: Mount) -> None:
    kernel = mount.kernel
    await kernel.mkdir(b"A")
    await kernel.write(b"A/pushed", b"1")

    number = await mount.number(b"A")
    overlay = kernel.filesystem.overlay
    dataset = mount.dataset.id.encode()
    carried = overlay.carried(dataset)
    mount.commit(FILES | {b"A/pushed": b"1"})
    commit = mount.dataset.git("rev-parse", "main").encode()
    await kernel.write(b"A/since", b"2")
    await kernel.filesystem.pushed(dataset, commit, carried, kernel.tell)
    await kernel.check()
    await kernel.write(b"A/pushed", b"3")  # its directory has a row, and the commit has it, too
    await kernel.check()
    for _ in range(2):
        await mount.push()
        await kernel.check()
        assert await mount.number(b"A") == number
    assert await kernel.read(b"A/pushed") == b"3"


async def test_all_that_is_in_a_renamed_directory_keeps_its_numbers(mount: Mount) -> None:
    kernel = mount.kernel
    before = [await mount.number(path) for path in (b"d", b"d/sub", b"d/sub/deep", b"d/y")]
    await kernel.rename(b"d", b"moved")
    await mount.push()
    paths = (b"moved", b"moved/sub", b"moved/sub/deep", b"moved/y")
    assert [await mount.number(path) for path in paths] == before
    await kernel.check()
    await kernel.write(b"moved/sub/deep/new", b"n")
    await kernel.mkdir(b"d")
    await kernel.mkdir(b"d/sub")
    await mount.push()
    await kernel.check()
    await kernel.write(b"d/sub/f", b"f")
    await mount.push()
    await kernel.check()
    assert await kernel.read(b"moved/sub/deep/new") == b"n"
    assert [await mount.number(path) for path in paths] == before


async def test_directories_that_change_places_keep_their_numbers(mount: Mount) -> None:
    kernel = mount.kernel
    d, e = [await mount.number(path) for path in (b"d/sub", b"e/sub")]
    await kernel.rename(b"d", b"e", flags=2)
    await mount.push()
    assert [await mount.number(path) for path in (b"e/sub", b"d/sub")] == [d, e]
    assert await kernel.read(b"d/sub/z") == b"z"
    await kernel.check()
    await kernel.write(b"d/sub/z", b"changed")
    await kernel.rename(b"d/sub", b"e/sub", flags=2)
    await mount.push()
    assert [await mount.number(path) for path in (b"e/sub", b"d/sub")] == [e, d]
    assert await kernel.read(b"e/sub/z") == b"changed"
    await kernel.check()


async def test_a_directory_that_was_removed_is_not_the_one_made_in_its_place(mount: Mount) -> None:
    kernel = mount.kernel
    await kernel.mkdir(b"A")
    await kernel.write(b"A/f", b"1")
    await mount.push()
    removed = await mount.number(b"A")
    await kernel.unlink(b"A/f")
    await kernel.rmdir(b"A")
    await kernel.mkdir(b"A")
    await kernel.write(b"A/f", b"2")
    await mount.push()
    await kernel.check()
    assert await kernel.look_up(removed, b"f") is None
    with pytest.raises(RiafsError):
        await kernel.filesystem.mkdir(removed, b"x", kernel._maker)


async def test_a_file_whose_number_stands_for_nothing_any_more_is_stale_and_never_what_it_was(mount: Mount) -> None:
    kernel = mount.kernel
    number = await mount.number(b"top")
    await kernel.write(b"top", b"22")
    await mount.push()
    for call in (kernel.filesystem.open(number, os.O_RDONLY), kernel.filesystem.getattr(number)):
        with pytest.raises(StaleHandle):
            await call
    assert await kernel.read(b"top") == b"22"


async def test_who_writes_to_a_file_that_a_reader_has_open_over_a_push_writes_to_that_of_the_commit(
    mount: Mount,
) -> None:
    kernel = mount.kernel
    await kernel.write(b"new", b"1")
    number = await mount.number(b"new")
    opened = await kernel.filesystem.open(number, os.O_RDONLY)
    await mount.push()
    with pytest.raises(StaleHandle):
        await kernel.filesystem.open(number, os.O_WRONLY)
    assert (await kernel.filesystem.getattr(number)).size == 1
    await kernel.write(b"new", b"22")
    assert await kernel.filesystem.read(opened.handle, 0, 9) == b"1"
    await mount.push()
    kernel.filesystem.release(opened.handle)
    assert await kernel.read(b"new") == b"22"
    await kernel.check()


async def test_the_same_content_written_again_while_a_reader_has_it_open(mount: Mount) -> None:
    kernel = mount.kernel
    opened = await kernel.filesystem.open(await mount.number(b"top"), os.O_RDONLY)
    await kernel.write(b"top", b"1")
    await mount.push()
    await kernel.check()
    await kernel.write(b"top", b"22")
    assert await kernel.filesystem.read(opened.handle, 0, 9) == b"1"
    kernel.filesystem.release(opened.handle)
    assert await kernel.read(b"top") == b"22"
    await mount.push()
    await kernel.check()
    assert await kernel.read(b"top") == b"22"


async def test_what_others_put_into_a_directory_that_was_made_here_is_seen(mount: Mount) -> None:
    kernel = mount.kernel
    await kernel.mkdir(b"A")
    await kernel.write(b"A/ours", b"1")
    with pytest.raises(RiafsError):
        await kernel.read(b"A/theirs")
    mount.commit(FILES | {b"A/theirs": b"2", b"d/theirs": b"3"})
    with pytest.raises(RiafsError):
        await kernel.read(b"d/theirs")
    await mount.push()
    assert await kernel.read(b"A/theirs") == b"2"
    assert await kernel.read(b"d/theirs") == b"3"
    await kernel.check()


async def test_a_directory_that_others_removed_is_gone(mount: Mount) -> None:
    kernel = mount.kernel
    number = await mount.number(b"e/sub")
    await kernel.write(b"d/y", b"changed")
    mount.commit({path: data for path, data in FILES.items() if not path.startswith(b"e/")})
    await mount.push()
    await kernel.check()
    with pytest.raises(RiafsError) as caught:
        await kernel.filesystem.mkdir(number, b"x", kernel._maker)
    assert not isinstance(caught.value, StaleHandle)
    with pytest.raises(RiafsError):
        await kernel.name(b"e")


async def test_restored_directories_are_what_they_were(mount: Mount) -> None:
    kernel = mount.kernel
    numbers = [await mount.number(path) for path in (b"d", b"d/sub")]
    await kernel.mkdir(b"A")
    await kernel.write(b"d/sub/new", b"n")
    await kernel.rename(b"d", b"A/moved")
    dataset = mount.dataset.id.encode()
    await kernel.filesystem.restore(dataset, [b"A"], kernel.tell)
    await kernel.check()
    assert [await mount.number(path) for path in (b"d", b"d/sub")] == numbers
    await kernel.write(b"d/sub/other", b"o")
    await mount.push()
    await kernel.check()
    await kernel.filesystem.refresh(kernel.tell)
    assert sorted(await kernel.ls(numbers[1])) == [b"deep", b"other"]


@pytest.mark.parametrize("changes", [b"", b"during"])
async def test_a_listing_that_a_push_comes_into_goes_on(mount: Mount, changes: bytes) -> None:
    kernel = mount.kernel
    names = [b"%03d" % number for number in range(600)]
    await kernel.mkdir(b"A")
    for name in names:
        await kernel.write(b"A/" + name, b"")
    handle = await kernel.filesystem.opendir(await mount.number(b"A"))
    page, _ = await kernel.filesystem.readdir(handle, 0)
    listed = [each.name for each in page[:100]]
    await mount.push()
    if changes:
        await kernel.unlink(b"A/555")
        await kernel.write(b"A/556", b"changed")
        await mount.push()
    offset = page[99].offset
    while page := (await kernel.filesystem.readdir(handle, offset))[0]:
        listed += [each.name for each in page]
        offset = page[-1].offset
        for each in page:
            found = await kernel.look_up(await mount.number(b"A"), each.name)
            assert kernel.filesystem.stat_of(each) == found
    assert listed == [name for name in names if not changes or name != b"555"]
    again, _ = await kernel.filesystem.readdir(handle, 0)
    assert again[0].name == b"000"
    kernel.filesystem.releasedir(handle)


async def test_what_a_move_comes_into_is_done_after_it(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that waits for longer than a move waits for it, and then finds another commit."""
    kernel = mount.kernel
    await kernel.mkdir(b"A")
    await kernel.mkdir(b"A/B")
    await kernel.write(b"A/B/f", b"1")
    numbers = [await mount.number(path) for path in (b"A", b"A/B")]
    looked, go_on = trio.Event(), trio.Event()
    naming = engine = kernel.filesystem._merged
    slot, lookup = naming.slot, engine.lookup
    found: list[object] = []

    async def slow_slot(parent: int, name: bytes) -> object:
        if not looked.is_set():
            looked.set()
            await go_on.wait()
        return await slot(parent, name)

    async def slow_lookup(parent: int, name: bytes) -> object:
        if not go_on.is_set():
            await go_on.wait()
        return await lookup(parent, name)

    monkeypatch.setattr(naming, "slot", slow_slot)
    monkeypatch.setattr(engine, "lookup", slow_lookup)

    async def make() -> None:
        found.append((await kernel.filesystem.mkdir(numbers[1], b"made", kernel._maker)).kind)

    async def look() -> None:
        found.append(await kernel.look_up(numbers[1], b"f"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make)
        nursery.start_soon(look)
        await looked.wait()
        await mount.push()
        go_on.set()
    assert found.count(Kind.DIRECTORY) == 1
    assert None not in found
    await kernel.check()


class Doing:
    """Does something somewhere, in a mount and in a directory of the native file system, which have to agree."""

    def __init__(self, kernel: Kernel, native: Path, seed: int, *, links: bool = False) -> None:
        self.chance = random.Random(seed)
        self._links = links
        self._kernel = kernel
        self._native = os.fsencode(native)
        for path, data in FILES.items():
            os.makedirs(os.path.dirname(self._at(path)), exist_ok=True)
            self._write(path, data)

    def _at(self, path: bytes) -> bytes:
        return os.path.join(self._native, path)

    def _write(self, path: bytes, data: bytes) -> None:
        with open(self._at(path), "wb") as file:
            file.write(data)

    def _exchange(self, old: bytes, new: bytes) -> None:
        for path in (old, new):
            os.lstat(self._at(path))
        if (new + b"/").startswith(old + b"/") or (old + b"/").startswith(new + b"/"):
            raise OSError
        os.rename(self._at(old), self._at(b"swapped"))
        os.rename(self._at(new), self._at(old))
        os.rename(self._at(b"swapped"), self._at(new))

    def _path(self) -> bytes:
        return b"/".join(self.chance.choices([b"d", b"e", b"sub", b"n"], k=self.chance.choice([1, 2, 2, 3])))

    async def something(self) -> None:
        """One call."""
        kernel, at = self._kernel, self._at
        old, new, data = self._path(), self._path(), self.chance.choice([b"1", b"2"])
        native, call = self.chance.choice(
            [
                (lambda: os.mkdir(at(old)), lambda: kernel.mkdir(old)),
                (lambda: os.unlink(at(old)), lambda: kernel.unlink(old)),
                (lambda: os.rmdir(at(old)), lambda: kernel.rmdir(old)),
                (lambda: os.rename(at(old), at(new)), lambda: kernel.rename(old, new)),
                (lambda: os.rename(at(old), at(new)), lambda: kernel.rename(old, new)),
                (lambda: self._exchange(old, new), lambda: kernel.rename(old, new, flags=2)),
                (lambda: os.lstat(at(old)), lambda: kernel.name(old)),
                *[(lambda: os.link(at(old), at(new)), lambda: kernel.link(old, new))] * (3 if self._links else 0),
                *[(lambda: self._write(old, data), lambda: kernel.write(old, data))] * 3,
            ]
        )
        if call is None or old == new:
            return
        try:
            native()
        except OSError:
            with pytest.raises(RiafsError) as caught:
                await call()
            assert not isinstance(caught.value, StaleHandle)
        else:
            await call()

    def separate(self) -> None:
        """Make files of their own of hard links, as a push does."""
        for directory, _, files in os.walk(self._native):
            for path in (os.path.join(directory, name) for name in files):
                if os.lstat(path).st_nlink > 1:
                    shutil.copy2(path, path + b".aside")
                    os.rename(path + b".aside", path)

    def content(self) -> dict[bytes, bytes | None]:
        """Path → what is in a file, None for a directory."""
        found: dict[bytes, bytes | None] = {b"": None}
        for directory, directories, files in os.walk(self._native):
            for name in directories:
                found[os.path.relpath(os.path.join(directory, name), self._native)] = None
            for name in files:
                found[os.path.relpath(os.path.join(directory, name), self._native)] = Path(
                    os.fsdecode(os.path.join(directory, name))
                ).read_bytes()
        return found


async def _content(mount: Mount) -> dict[bytes, bytes | None]:
    """The same, for a kernel that knows nothing yet."""
    fresh = Kernel(mount.kernel.filesystem)
    found: dict[bytes, bytes | None] = {}
    paths = [b""]
    for path in paths:  # grows
        name = await fresh.name(path)
        if name.kind is Kind.DIRECTORY:
            assert name.inode is not None
            found[path] = None
            paths += [os.path.join(path, each) for each in await fresh.ls(name.inode)]
        else:
            found[path] = await fresh.read(path)
    return found


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_is_done_between_pushes_the_kernel_is_right(mount: Mount, seed: int, tmp_path: Path) -> None:
    doing = Doing(mount.kernel, tmp_path / "native", seed, links=True)
    for _ in range(4):
        for _ in range(doing.chance.randrange(14)):
            await doing.something()
        await mount.kernel.check()
        assert await _content(mount) == doing.content()
        await mount.push()
        doing.separate()
        assert await _content(mount) == doing.content()
        await mount.kernel.check()


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_is_done_during_pushes_the_kernel_is_right(mount: Mount, seed: int, tmp_path: Path) -> None:
    doing = Doing(mount.kernel, tmp_path / "native", seed)
    pushed = False

    async def push() -> None:
        nonlocal pushed
        for _ in range(3):
            await mount.push()
        pushed = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        while not pushed:
            await doing.something()
            await trio.lowlevel.checkpoint()
    await mount.kernel.check()
    assert await _content(mount) == doing.content()
    await mount.push()
    await mount.kernel.check()
    assert await _content(mount) == doing.content()


@pytest.mark.parametrize("seed", range(4))
async def test_with_what_others_commit_the_kernel_is_right(mount: Mount, seed: int, tmp_path: Path) -> None:
    doing = Doing(mount.kernel, tmp_path / "native", seed)
    kernel = mount.kernel
    for turn in range(4):
        for _ in range(6):
            with contextlib.suppress(RiafsError):
                await kernel.write(b"n%d" % doing.chance.randrange(3), b"%d" % turn)
                await kernel.mkdir(b"d/%d" % turn)
                await kernel.write(b"d/%d/ours" % turn, b"")
                await kernel.name(b"d/%d/theirs" % turn)
        await kernel.check()
        files = {path: data for path, data in mount.files().items() if doing.chance.random() < 0.8}
        mount.commit(files | {b"d/%d/theirs" % turn: b"", b"top": b"%d" % turn, b"e/%d" % turn: b""})
        await mount.push()
        await kernel.check()
        assert await kernel.read(b"d/%d/theirs" % turn) == b""


# -- what others changed as well --------------------------------------------------------------------------------------


async def _content_at(kernel: Kernel, path: bytes) -> bytes | None:
    try:
        return await kernel.read(path)
    except NoSuchName:
        return None


async def _write_middle(kernel: Kernel) -> None:
    await kernel.write_at(b"top", 1, b"here")


async def _remove(kernel: Kernel) -> None:
    await kernel.unlink(b"top")


async def _replace(kernel: Kernel) -> None:
    await kernel.write(b"top", b"ours")


@pytest.mark.parametrize("change", [_write_middle, _remove, _replace])
async def test_what_is_not_pushed_and_was_changed_by_others_keeps_the_mount_where_it_is(
    mount: Mount, change: Callable[[Kernel], Awaitable[None]]
) -> None:
    kernel = mount.kernel
    await kernel.write(b"d/y", b"pushed")
    await change(kernel)
    shown = await _content_at(kernel, b"top")
    mount.commit({**FILES, b"top": b"theirs, and longer", b"other": b"o"})
    (outcome,) = await mount.push(places=(b"d/y",), prefer=Prefer.NEITHER)
    assert (outcome.kept, outcome.overtaken) == (True, (b"top",))
    assert mount.files()[b"d/y"] == b"pushed"
    assert mount.files()[b"top"] == b"theirs, and longer"
    assert await _content_at(kernel, b"top") == shown
    await kernel.check()
    with pytest.raises(PushConflict) as caught:
        await mount.push(prefer=Prefer.NEITHER)
    assert caught.value.paths == (b"top",)
    await mount.push(prefer=Prefer.OURS)
    assert mount.files().get(b"top") == shown
    assert (mount.files()[b"d/y"], mount.files()[b"other"]) == (b"pushed", b"o")
    await kernel.check()


async def test_a_name_that_others_made_as_well_is_a_conflict_and_not_covered(mount: Mount) -> None:
    kernel = mount.kernel
    await kernel.write(b"d/y", b"pushed")
    await kernel.write(b"d/new", b"ours")
    mount.commit({**FILES, b"d/new": b"theirs"})
    (outcome,) = await mount.push(places=(b"d/y",), prefer=Prefer.NEITHER)
    assert outcome.overtaken == (b"d/new",)
    with pytest.raises(PushConflict):
        await mount.push(prefer=Prefer.NEITHER)
    await mount.push(prefer=Prefer.THEIRS)
    assert await kernel.read(b"d/new") == b"theirs"
    await kernel.check()
