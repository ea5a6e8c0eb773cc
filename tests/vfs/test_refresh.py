"""A branch that moves: what changes for readers, and what stays."""

from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.counters import Counters
from riafs.errors import NoSuchName, NotThereYet, StaleHandle
from riafs.tree.directories import FixedDirectory
from riafs.tree.protocol import Directory, Entry, Found, Kind
from riafs.vfs.filesystem import Attributes, FileSystem
from tests.behaviour.drivers import ObjectDriver, opened
from tests.small import Link, Locked, Registered, SmallDataset, SmallStore, key_of

OLD: dict[bytes, bytes] = {
    b"same": b"same",
    b"changed": b"old",
    b"removed": b"removed",
    b"directory/same": b"same",
    b"directory/changed": b"old",
    b"untouched/file": b"untouched",
    b"becomes-directory": b"file",
    b"becomes-file/x": b"x",
}
NEW: dict[bytes, bytes] = {
    b"added": b"added",
    b"same": b"same",
    b"changed": b"new content",
    b"directory/added": b"added",
    b"directory/same": b"same",
    b"directory/changed": b"new",
    b"untouched/file": b"untouched",
    b"becomes-directory/x": b"x",
    b"becomes-file": b"file",
}


@pytest.fixture
def dataset(tmp_path: Path) -> SmallDataset:
    store = SmallStore.make(tmp_path / "store")
    store.dataset("neighbour", {b"file": b"neighbour"})
    return store.dataset("one", OLD)


@pytest.fixture
def store(dataset: SmallDataset, tmp_path: Path) -> Path:
    return tmp_path / "store"


async def enter(shown: ObjectDriver, *paths: bytes) -> dict[bytes, int]:
    """List directories, so that they are known to the filesystem; answer the inodes."""
    for path in paths:
        await shown.ls(path)
    return {path: await shown.inode(path) for path in paths}


async def test_new_commit_is_shown_after_a_refresh_and_not_before(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        await enter(shown, b"one", b"one/directory")
        dataset.commit(NEW)
        assert await shown.read(b"one/changed") == b"old"
        await shown.refresh()
        for path, content in NEW.items():
            assert await shown.read(b"one/" + path) == content
        assert await shown.ls(b"one") == sorted({path.split(b"/")[0] for path in NEW})
        assert shown.counters.refs_moved == 1


async def test_removed_names_are_gone(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        await enter(shown, b"one")
        dataset.commit(NEW)
        await shown.refresh()
        with pytest.raises(NoSuchName):
            await shown.stat(b"one/removed")


async def test_unchanged_entries_keep_their_inodes(store: Path, dataset: SmallDataset) -> None:
    kept = [b"one", b"one/same", b"one/directory", b"one/directory/same", b"one/untouched", b"one/untouched/file"]
    async with opened(store) as shown:
        before = [await shown.inode(path) for path in kept]
        dataset.commit(NEW)
        await shown.refresh()
        assert [await shown.inode(path) for path in kept] == before


async def test_changed_files_get_new_inodes_never_used_before(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        used = {await shown.inode(b"one/" + name) for name in await shown.ls(b"one")}
        for number in range(4):
            dataset.commit({**NEW, b"changed": b"%d" % number})
            await shown.refresh()
            inode = await shown.inode(b"one/changed")
            assert inode not in used
            used |= {await shown.inode(b"one/" + name) for name in await shown.ls(b"one")}


async def test_file_and_directory_that_swap_kinds_get_new_inodes(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        names = (b"one/becomes-directory", b"one/becomes-file")
        before = await enter(shown, b"one/becomes-file") | {names[0]: await shown.inode(names[0])}
        dataset.commit(NEW)
        await shown.refresh()
        assert [(await shown.stat(name)).kind for name in names] == [Kind.DIRECTORY, Kind.FILE]
        assert not set(before.values()) & {await shown.inode(name) for name in names}


async def test_open_file_keeps_its_content(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        files = [await shown.filesystem.open(await shown.inode(b"one/" + name)) for name in (b"changed", b"removed")]
        dataset.commit(NEW)
        await shown.refresh()
        assert [await shown.read_handle(file.handle) for file in files] == [b"old", b"removed"]
        for file in files:
            shown.filesystem.release(file.handle)


async def test_old_inode_still_opens_the_old_content(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        inode = await shown.inode(b"one/changed")
        for number in range(3):
            dataset.commit({**NEW, b"changed": b"%d" % number})
            await shown.refresh()
        file = await shown.filesystem.open(inode)
        assert await shown.read_handle(file.handle) == b"old"
        assert (await shown.filesystem.getattr(inode)).size == 3


async def test_open_directory_keeps_its_listing(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        handle = await shown.filesystem.opendir(await shown.inode(b"one"))
        dataset.commit(NEW)
        await shown.refresh()
        page = await shown.filesystem.readdir(handle, 0)
        assert [entry.name for entry in page.entries] == sorted({path.split(b"/")[0] for path in OLD})
        shown.filesystem.releasedir(handle)


async def test_inode_of_a_changed_directory_shows_the_new_version(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        inode = (await enter(shown, b"one/directory"))[b"one/directory"]
        dataset.commit(NEW)
        await shown.refresh()
        assert (await shown.filesystem.lookup(inode, b"added")).kind is Kind.FILE


async def test_inode_of_a_removed_directory_shows_what_it_was(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        inode = (await enter(shown, b"one/directory"))[b"one/directory"]
        dataset.commit({b"other": b""})
        await shown.refresh()
        assert (await shown.filesystem.lookup(inode, b"same")).kind is Kind.FILE


async def test_directory_of_that_name_that_comes_back_is_the_new_one(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        await enter(shown, b"one/directory")
        dataset.commit({b"other": b""})
        await shown.refresh()
        dataset.commit(NEW)
        await shown.refresh()
        assert await shown.ls(b"one/directory") == [b"added", b"changed", b"same"]


async def test_kernel_is_told_exactly_what_changed(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        inodes = await enter(shown, b"one", b"one/directory", b"one/untouched")
        dataset.commit(NEW)
        await shown.refresh()
        told = {change.inode: change for change in shown.changes}
        assert told.keys() == {inodes[b"one"], inodes[b"one/directory"]}
        top = told[inodes[b"one"]]
        assert top.names == {b"added", b"changed", b"removed", b"becomes-directory", b"becomes-file"}
        assert top.directories == (inodes[b"one/directory"],)
        assert told[inodes[b"one/directory"]].names == {b"added", b"changed"}


async def test_nothing_is_told_when_nothing_changed(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        await enter(shown, b"", b"by-id", b"one", b"neighbour")
        for _ in range(3):
            await shown.refresh()
        assert shown.changes == []


async def test_ref_that_is_written_again_with_the_same_commit_changes_nothing(
    store: Path, dataset: SmallDataset
) -> None:
    async with opened(store) as shown:
        await enter(shown, b"one")
        dataset.git("pack-refs", "--all")
        await shown.refresh()
        assert shown.changes == []
        dataset.commit(NEW)
        await shown.refresh()
        assert await shown.read(b"one/added") == b"added"


async def test_pinned_commit_never_changes(store: Path, dataset: SmallDataset) -> None:
    pinned = dataset.git("rev-parse", "main")
    async with opened(store) as shown:
        path = b"one@" + pinned.encode()
        before = await enter(shown, path)
        dataset.commit(NEW)
        await shown.refresh()
        assert await shown.read(path + b"/changed") == b"old"
        assert await shown.inode(path) == before[path]
    async with opened(store, f"#~one@{pinned}") as shown:
        dataset.commit(OLD)
        await shown.refresh()
        assert await shown.read(b"changed") == b"old"


async def test_dataset_at_a_branch_follows_it(store: Path, dataset: SmallDataset) -> None:
    dataset.commit(OLD, ref="refs/heads/other")
    async with opened(store) as shown:
        await enter(shown, b"one", b"one@other")
        dataset.commit(NEW, ref="refs/heads/other")
        await shown.refresh()
        assert await shown.read(b"one@other/added") == b"added"
        assert await shown.read(b"one/changed") == b"old"


async def test_dataset_as_source_follows_its_branch(store: Path, dataset: SmallDataset) -> None:
    async with opened(store, "#~one") as shown:
        dataset.commit(NEW)
        await shown.refresh()
        assert await shown.read(b"added") == b"added"


async def test_head_that_names_another_branch_is_followed(store: Path, dataset: SmallDataset) -> None:
    dataset.commit(NEW, ref="refs/heads/other")
    async with opened(store) as shown:
        await enter(shown, b"one")
        dataset.git("symbolic-ref", "HEAD", "refs/heads/other")
        await shown.refresh()
        assert await shown.read(b"one/added") == b"added"


async def test_first_commit_of_an_unborn_dataset_is_shown(store: Path, tmp_path: Path) -> None:
    unborn = SmallStore(store).dataset("unborn")
    async with opened(store) as shown:
        inode = (await enter(shown, b"unborn"))[b"unborn"]
        unborn.commit({b"first": b"first"})
        await shown.refresh()
        assert await shown.read(b"unborn/first") == b"first"
        assert await shown.inode(b"unborn") == inode


async def test_new_and_removed_aliases_are_seen(store: Path) -> None:
    async with opened(store) as shown:
        before = await enter(shown, b"", b"one", b"neighbour", b"by-id")
        SmallStore(store).dataset("aaa", {b"file": b"new dataset"})
        (store / "alias" / "neighbour").unlink()
        await shown.refresh()
        assert await shown.ls(b"") == [b"aaa", b"one", b"by-id"]
        assert len(await shown.ls(b"by-id")) == 3
        assert await shown.read(b"aaa/file") == b"new dataset"
        assert await shown.inode(b"one") == before[b"one"]


async def test_alias_that_leads_to_another_dataset_is_followed(store: Path) -> None:
    other = SmallStore(store).dataset("other", {b"file": b"other"})
    async with opened(store) as shown:
        await enter(shown, b"", b"neighbour")
        (store / "alias" / "neighbour").unlink()
        (store / "alias" / "neighbour").symlink_to(f"../{other.id[:3]}/{other.id[3:]}")
        await shown.refresh()
        assert await shown.read(b"neighbour/file") == b"other"


async def test_subdataset_moves_with_its_superdataset(tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "another")
    sub = store.dataset("sub")
    commits = [sub.commit({b"file": text}) for text in (b"first", b"second")]
    modules = f'[submodule "s"]\n\tpath = s\n\turl = ./s\n\tdatalad-id = {sub.id}\n'.encode()
    top = store.dataset("top", {b"s": Registered(commits[0]), b".gitmodules": modules})
    async with opened(store.path) as shown:
        inode = (await enter(shown, b"top", b"top/s"))[b"top/s"]
        assert await shown.read(b"top/s/file") == b"first"
        top.commit({b"s": Registered(commits[1]), b".gitmodules": modules})
        await shown.refresh()
        assert await shown.read(b"top/s/file") == b"second"
        assert await shown.inode(b"top/s") == inode


async def test_subdataset_that_arrives_later_is_shown(tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "another")
    sub = store.dataset("sub")
    commit = sub.commit({b"file": b"arrived"})
    (store.path / "alias" / "sub").unlink()
    hidden = sub.path.rename(tmp_path / "not yet")
    modules = f'[submodule "s"]\n\tpath = s\n\turl = ./s\n\tdatalad-id = {sub.id}\n'.encode()
    store.dataset("top", {b"s": Registered(commit), b".gitmodules": modules})
    async with opened(store.path) as shown:
        inode = (await enter(shown, b"top", b"top/s"))[b"top/s"]
        assert await shown.ls(b"top/s") == []
        hidden.rename(sub.path)
        for _ in range(6):
            await shown.refresh()
        assert await shown.read(b"top/s/file") == b"arrived"
        assert await shown.inode(b"top/s") == inode


async def test_a_trouble_that_stays_is_logged_once(
    store: Path, dataset: SmallDataset, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "riafs.vfs")
    dataset.git("branch", "side", "main")
    async with opened(store) as shown:
        await enter(shown, b"one@side")
        dataset.git("update-ref", "-d", "refs/heads/side")
        for _ in range(3):
            await shown.refresh()
    assert len([each for each in caplog.messages if "newer version" in each]) == 1


async def test_changed_link_has_the_new_text(store: Path, dataset: SmallDataset) -> None:
    dataset.commit({b"link": Link(b"here")})
    async with opened(store) as shown:
        assert await shown.readlink(b"one/link") == b"here"
        dataset.commit({b"link": Link(b"there")})
        await shown.refresh()
        assert await shown.readlink(b"one/link") == b"there"


async def test_key_replaced_by_another_of_the_same_size_is_read_anew(store: Path, dataset: SmallDataset) -> None:
    contents = (b"AAAA", b"BBBB")
    for content in contents:
        dataset.put(key_of(content), content)
    dataset.commit({b"file": Locked(key_of(contents[0]))})
    async with opened(store) as shown:
        assert await shown.read(b"one/file") == contents[0]
        dataset.commit({b"file": Locked(key_of(contents[1]))})
        await shown.refresh()
        assert await shown.read(b"one/file") == contents[1]


async def test_move_to_a_commit_that_cannot_be_read_shows_the_old_one(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        await enter(shown, b"one", b"neighbour")
        (dataset.path / "refs" / "heads" / "main").write_text("12" * 20 + "\n")
        await shown.refresh()
        assert await shown.read(b"one/changed") == b"old"
        assert await shown.read(b"neighbour/file") == b"neighbour"


async def test_repository_that_was_removed_shows_what_was_open(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        await enter(shown, b"one")
        (dataset.path / "HEAD").unlink()
        await shown.refresh()
        assert await shown.read(b"neighbour/file") == b"neighbour"
        assert await shown.ls(b"one") == sorted({path.split(b"/")[0] for path in OLD})


async def test_numbers_that_were_never_given_out_are_stale(store: Path) -> None:
    async with opened(store) as shown:
        for inode in (0, 2, 3 << 24, (1 << 24) + 500, 1 << 60, (1 << 64) - 1):
            with pytest.raises(StaleHandle):
                await shown.filesystem.getattr(inode)
        with pytest.raises(StaleHandle):
            await shown.filesystem.read(99, 0, 1)


class _Slow(FixedDirectory):
    """Directories whose child, or whose answers to look-ups, take a while to come, and that have a successor."""

    def __init__(
        self,
        names: list[bytes],
        child: Directory | None,
        arrived: trio.Event | None = None,
        finding: trio.Event | None = None,
    ) -> None:
        entries = [Entry(name, Kind.DIRECTORY, 0, executable=True, mtime_ns=0, version=b"") for name in names]
        super().__init__(entries, 0, {})
        self._child = child
        self._arrived = arrived
        self._finding = finding
        self.successor: Directory | None = None

    renewable = True

    async def find(self, name: bytes) -> Found:
        if self._finding is not None:
            await self._finding.wait()
        return await super().find(name)

    async def directory(self, entry: Entry) -> Directory:
        if self._arrived is not None:
            await self._arrived.wait()
        assert self._child is not None
        return self._child

    async def renewed(self, turn: int) -> Directory | None:
        successor, self.successor = self.successor, None
        return successor


async def test_directory_entered_during_a_refresh_is_the_new_one() -> None:
    arrived = trio.Event()
    old = _Slow([b"sub"], _Slow([b"old"], None), arrived)
    old.successor = _Slow([b"sub"], _Slow([b"new"], None))
    filesystem = FileSystem(old, Counters())
    found = await filesystem.lookup(1, b"sub")
    listed: list[bytes] = []

    async def enter() -> None:
        handle = await filesystem.opendir(found.inode)
        listed.extend(entry.name for entry in (await filesystem.readdir(handle, 0)).entries)

    async def tell(changes: object) -> None:
        """Nobody has to hear of it."""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enter)
        await trio.testing.wait_all_tasks_blocked()
        await filesystem.refresh(tell)
        arrived.set()
    assert listed == [b"new"]


async def test_a_name_looked_up_during_a_refresh_is_looked_up_in_the_new_version() -> None:
    """The kernel is told of new names while the answer to a look-up is being made: that answer must not deny them."""
    arrived = trio.Event()
    old = _Slow([b"a"], None, finding=arrived)
    old.successor = _Slow([b"a", b"new"], None)
    filesystem = FileSystem(old, Counters())
    found: list[Attributes] = []

    async def look_up() -> None:
        found.append(await filesystem.lookup(1, b"new"))

    async def tell(changes: object) -> None:
        """Nobody has to hear of it."""

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_up)
        await trio.testing.wait_all_tasks_blocked()
        await filesystem.refresh(tell)
        arrived.set()
    assert [each.kind for each in found] == [Kind.DIRECTORY]


async def test_names_that_are_never_listed_may_not_be_remembered(store: Path, dataset: SmallDataset) -> None:
    async with opened(store) as shown:
        assert (await shown.attributes(b"one")).listed
        assert not (await shown.attributes(b"one@main")).listed
        for name in (b"one@none", b"none@main"):
            with pytest.raises(NotThereYet):
                await shown.attributes(name)


async def test_listing_of_a_replaced_version_says_so() -> None:
    old = _Slow([b"a", b"b"], None)
    old.successor = _Slow([b"b", b"c"], None)
    filesystem = FileSystem(old, Counters())
    handle = await filesystem.opendir(1)
    assert (await filesystem.readdir(handle, 0)).current

    async def tell(changes: object) -> None:
        """Nobody has to hear of it."""

    await filesystem.refresh(tell)
    page = await filesystem.readdir(handle, 1)
    assert [entry.name for entry in page.entries] == [b"b"]
    assert not page.current
