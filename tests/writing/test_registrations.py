"""gitlinks and ``.gitmodules`` change together, whatever is done in a mount. The object alone, no kernel."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from riafs.daemon.pushing import Order, Outcome, push_changes
from riafs.daemon.replies import describe_overlay
from riafs.errors import Busy, DirectoryNotEmpty, NoSuchName, PushConflict, PushRefused
from riafs.formats.sources import parse_ria_source
from riafs.overlay.overlay import Overlay
from riafs.push.protocol import Prefer
from riafs.watching import NoWatcher
from tests.push.conftest import means, request, sound, tree, with_annex
from tests.small import Registered, SmallStore
from tests.writing.drivers import WritableObject, writable

LATER = 1_800_000_000
PATHS = {"first": "in/first", "second": "in/deep/second", "third": "third"}


class Super:
    """A dataset with three subdatasets, of which the first two are in a directory."""

    def __init__(self, path: Path) -> None:
        store = SmallStore.make(path)
        self.store = path
        self.subs = {name: with_annex(store.dataset(name, {b"x": name.encode(), b"y": b"y"})) for name in PATHS}
        self.top = with_annex(store.dataset("top", {b"s": b"s", b"in/file": b"f", **self.registered(PATHS)}))

    def registered(self, paths: dict[str, str]) -> dict[bytes, Registered | bytes]:
        links = {path.encode(): Registered(self.subs[name].git("rev-parse", "main")) for name, path in paths.items()}
        return {b".gitmodules": self.modules(paths), **links}

    def modules(self, paths: dict[str, str]) -> bytes:
        """With a comment, which stays."""
        return b"# by hand\n" + b"".join(
            f'[submodule "{name}"]\n\tpath = {path}\n\turl = ./{path}\n\tdatalad-id = {self.subs[name].id}\n'.encode()
            for name, path in paths.items()
        )

    def registrations(self, commit: str = "main") -> dict[str, str]:
        """Section → path, as git has them; each of them has a gitlink and each gitlink has one."""
        listed = subprocess.run(
            ["git", "--git-dir", self.top.path, "config", "--blob", f"{commit}:.gitmodules", "--get-regexp", "path$"],
            capture_output=True, text=True,
        ).stdout  # fmt: skip
        found = dict(line.split(" ", 1) for line in listed.splitlines())
        paths = {name.split(".")[1]: path for name, path in found.items()}
        gitlinks = {path.decode() for path, (mode, _) in tree(self.top, commit).items() if mode == "160000"}
        assert sorted(paths.values()) == sorted(gitlinks)
        return paths


@pytest.fixture
def made(tmp_path: Path) -> Super:
    return Super(tmp_path / "store")


async def push(driver: WritableObject, made: Super, *places: bytes, prefer: Prefer = Prefer.NEITHER) -> list[Outcome]:
    order = Order(request(prefer=prefer), places)
    return await push_changes(
        driver.filesystem, parse_ria_source(str(made.store)), means(), order, NoWatcher(), driver.tell
    )


async def remove_all(driver: WritableObject, path: bytes) -> None:
    """rm -r"""
    for name in await driver.ls(path):
        each = path + b"/" + name
        try:
            await driver.unlink(each)
        except IsADirectoryError:
            raise AssertionError from None
        except Exception:  # noqa: BLE001  # a directory
            await remove_all(driver, each)
    await driver.rmdir(path)


@pytest.mark.parametrize("target", [b"top/inputs", b"top/a/deep"])
async def test_subdatasets_in_a_renamed_directory_stay_registered(made: Super, tmp_path: Path, target: bytes) -> None:
    async with writable(made.store, tmp_path / "over") as driver:
        if target == b"top/a/deep":
            await driver.mkdir(b"top/a")
        await driver.rename(b"top/in", target)
        assert await driver.read(target + b"/first/x") == b"first"
        await driver.write(target + b"/deep/second/x", b"changed")
        await push(driver, made)
        inside = target.decode().removeprefix("top/")
        assert made.registrations() == {**PATHS, "first": f"{inside}/first", "second": f"{inside}/deep/second"}
        assert b"# by hand" in tree(made.top)[b".gitmodules"][1]
        assert (
            tree(made.top)[f"{inside}/deep/second".encode()][1] == made.subs["second"].git("rev-parse", "main").encode()
        )
        sound(made.top)
        await driver.filesystem.refresh(driver.tell)
        assert await driver.read(target + b"/first/x") == b"first"
    async with writable(made.store, tmp_path / "over") as driver:
        assert await driver.read(target + b"/deep/second/x") == b"changed"


async def test_changes_of_a_subdataset_stay_with_it_where_only_its_superdataset_is_pushed(
    made: Super, tmp_path: Path
) -> None:
    async with writable(made.store, tmp_path / "over") as driver:
        await driver.write(b"top/in/first/x", b"mine")
        await driver.rename(b"top/in", b"top/inputs")
        await push(driver, made, b"top/inputs")
        assert made.registrations()["first"] == "inputs/first"
        await driver.write(b"top/inputs/first/x", b"more")
    async with writable(made.store, tmp_path / "over") as driver:
        assert await driver.read(b"top/inputs/first/x") == b"moret"


async def test_a_push_of_a_part_leaves_the_rest_consistent(made: Super, tmp_path: Path) -> None:
    async with writable(made.store, tmp_path / "over") as driver:
        await driver.rename(b"top/in", b"top/inputs")
        await driver.write(b"top/s", b"other")
        await push(driver, made, b"top/s")
        assert made.registrations() == PATHS
        await push(driver, made)
        assert made.registrations()["first"] == "inputs/first"


async def test_a_removed_subdataset_is_not_registered_any_more_and_keeps_its_files(made: Super, tmp_path: Path) -> None:
    before = made.subs["third"].git("rev-parse", "main")
    async with writable(made.store, tmp_path / "over") as driver:
        with pytest.raises(DirectoryNotEmpty):
            await driver.rmdir(b"top/third")
        await driver.write(b"top/third/new", b"n", flags=os.O_CREAT)
        await remove_all(driver, b"top/third")
        with pytest.raises(NoSuchName):
            await driver.status(b"top/third")
        assert sorted(await driver.ls(b"third")) == [b"x", b"y"]
        assert [base.dataset for base in driver.filesystem.overlay.datasets()] == [made.top.id.encode()]
        await push(driver, made, b"top")
        assert made.registrations() == {name: path for name, path in PATHS.items() if name != "third"}
        assert made.subs["third"].git("rev-parse", "main") == before
        await driver.write(b"third/x", b"by its own name")
        sound(made.top)


async def test_a_removed_subdataset_comes_back_when_that_is_restored(made: Super, tmp_path: Path) -> None:
    async with writable(made.store, tmp_path / "over") as driver:
        await remove_all(driver, b"top/in")
        await driver.filesystem.restore(made.top.id.encode(), [b"in"], driver.tell)
        assert await driver.read(b"top/in/first/x") == b"first"
        await driver.write(b"top/s", b"other")
        await push(driver, made)
        assert made.registrations() == PATHS


async def test_a_file_takes_the_place_of_a_subdataset(made: Super, tmp_path: Path) -> None:
    async with writable(made.store, tmp_path / "over") as driver:
        await remove_all(driver, b"top/third")
        await driver.write(b"top/third", b"a file", flags=os.O_CREAT)
        await remove_all(driver, b"top/in/deep")
        await driver.mkdir(b"top/in/deep")
        await driver.write(b"top/in/deep/second", b"a file", flags=os.O_CREAT)
        await push(driver, made)
        assert made.registrations() == {"first": "in/first"}
        sound(made.top)


async def test_a_subdataset_is_not_removed_while_a_removed_file_of_it_is_open(made: Super, tmp_path: Path) -> None:
    async with writable(made.store, tmp_path / "over") as driver:
        opened = await driver.filesystem.open((await driver.status(b"top/third/x")).inode, os.O_RDONLY)
        await driver.unlink(b"top/third/x")
        await driver.unlink(b"top/third/y")
        with pytest.raises(Busy):
            await driver.rmdir(b"top/third")
        assert await driver.filesystem.read(opened.handle, 0, 100) == b"third"
        driver.filesystem.release(opened.handle)
        await driver.rmdir(b"top/third")


async def test_files_that_were_all_removed_are_not_pushed_unless_their_dataset_is_named(
    made: Super, tmp_path: Path
) -> None:
    before = made.subs["third"].git("rev-parse", "main")
    async with writable(made.store, tmp_path / "over") as driver:
        for name in (b"x", b"y"):
            await driver.unlink(b"top/third/" + name)
        await driver.write(b"top/s", b"other")
        for places in ((), (b"top",)):
            with pytest.raises(PushRefused, match=f"all files of {made.subs['third'].id} were removed"):
                await push(driver, made, *places)
        assert made.subs["third"].git("rev-parse", "main") == before
        await push(driver, made, b"top/third")
        assert tree(made.subs["third"]) == {}


@pytest.mark.parametrize("how", ["removed", "section removed", "path changed"])
async def test_a_gitmodules_that_forgets_a_subdataset_is_refused_before_anything_is_sent(
    made: Super, tmp_path: Path, how: str
) -> None:
    before = [each.git("rev-parse", "main") for each in (made.top, *made.subs.values())]
    async with writable(made.store, tmp_path / "over") as driver:
        await driver.write(b"top/in/first/x", b"a change that is not pushed either")
        if how == "removed":
            await driver.unlink(b"top/.gitmodules")
        else:
            paths = dict(PATHS)
            paths.pop("third") if how == "section removed" else paths.update(third="elsewhere")
            await driver.write(b"top/.gitmodules", made.modules(paths), flags=os.O_TRUNC)
        with pytest.raises(PushRefused, match=r"no section for .*third any more.*riafs restore"):
            await push(driver, made)
        assert [each.git("rev-parse", "main") for each in (made.top, *made.subs.values())] == before
        await driver.filesystem.restore(made.top.id.encode(), [b".gitmodules"], driver.tell)
        await push(driver, made)
        assert made.registrations() == PATHS


async def test_a_gitmodules_edited_by_hand_is_taken_with_what_was_moved(made: Super, tmp_path: Path) -> None:
    async with writable(made.store, tmp_path / "over") as driver:
        await driver.rename(b"top/in", b"top/inputs")
        text = made.modules({**PATHS, "first": "inputs/first"}).replace(b"by hand", b"by my own hand")
        await driver.write(b"top/.gitmodules", text, flags=os.O_TRUNC)
        await push(driver, made)
        assert made.registrations() == {**PATHS, "first": "inputs/first", "second": "inputs/deep/second"}
        assert b"by my own hand" in tree(made.top)[b".gitmodules"][1]


async def test_others_may_register_something_meanwhile(made: Super, tmp_path: Path) -> None:
    async with writable(made.store, tmp_path / "over") as driver:
        await driver.rename(b"top/in", b"top/inputs")
        paths = {**PATHS, "third": "fourth"}
        made.top.commit({b"s": b"s", b"in/file": b"f", **made.registered(paths)}, time=LATER)
        await push(driver, made)
        assert made.registrations() == {"first": "inputs/first", "second": "inputs/deep/second", "third": "fourth"}
        sound(made.top)


@pytest.mark.parametrize("prefer", Prefer)
async def test_a_subdataset_that_others_have_removed_and_that_was_moved_here_is_a_conflict(
    made: Super, tmp_path: Path, prefer: Prefer
) -> None:
    async with writable(made.store, tmp_path / "over") as driver:
        await driver.rename(b"top/in", b"top/inputs")
        paths = {name: path for name, path in PATHS.items() if name != "first"}
        made.top.commit({b"s": b"s", b"in/file": b"f", **made.registered(paths)}, time=LATER)
        if prefer is Prefer.NEITHER:
            with pytest.raises(PushConflict) as conflict:
                await push(driver, made)
            assert conflict.value.paths == (b"in/first",)
            return
        await push(driver, made, prefer=prefer)
        moved = {"second": "inputs/deep/second", "third": "third"}
        assert made.registrations() == ({**moved, "first": "inputs/first"} if prefer is Prefer.OURS else moved)
        sound(made.top)


async def described(overlay: Overlay) -> dict[str, Any]:
    with overlay.snapshot() as snapshot:
        return await describe_overlay(overlay, snapshot)


async def test_a_subdataset_in_a_renamed_directory_is_named_as_it_is_seen(made: Super, tmp_path: Path) -> None:
    async with writable(made.store, tmp_path / "over") as driver:
        await driver.rename(b"top/in", b"top/inputs")
        await driver.write(b"top/inputs/first/x", b"mine!")
        [dataset] = [
            each
            for each in (await described(driver.filesystem.overlay))["datasets"]
            if each["dataset"] == made.subs["first"].id
        ]
        assert dataset["path"] == "top/inputs/first"
        await push(driver, made, b"top/inputs/first/x")
        assert tree(made.subs["first"])[b"x"] == ("100644", b"mine!")
        assert made.registrations() == PATHS
        commit = made.subs["first"].git("rev-parse", "main").encode()
        assert tree(made.top)[b"in/first"][1] == commit
        await push(driver, made)
        assert made.registrations()["first"] == "inputs/first"
        assert tree(made.top)[b"inputs/first"][1] == commit
        assert await driver.read(b"top/inputs/first/x") == b"mine!"
