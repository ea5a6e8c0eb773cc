"""What a user sees: one list of behaviours, run on the filesystem object and on a real mount."""

import errno
import hashlib
import os
from collections.abc import Awaitable

import pytest
import trio

from riafs.errors import RiafsError
from riafs.tree.protocol import Kind
from tests.behaviour import shown_store as made
from tests.behaviour.drivers import Driver, Status
from tests.behaviour.shown_store import ShownStore
from tests.small import EPOCH, key_of

SECOND = (EPOCH + 100) * 10**9
"""Time of the newest commit, in nanoseconds."""


@pytest.fixture(autouse=True)
def _announced(expected_warnings: object) -> None:
    assert callable(expected_warnings)
    expected_warnings("riafs.content")  # missing and damaged keys are reported, here on purpose


async def failure(call: Awaitable[object]) -> int | None:
    """The errno that a call fails with."""
    with pytest.raises((RiafsError, OSError)) as caught:
        await call
    return caught.value.errno


async def file(driver: Driver, path: bytes) -> tuple[Kind, int, bool]:
    """Kind, size and executable bit."""
    status = await driver.stat(path)
    return status.kind, status.size, status.executable


# -- the tree ---------------------------------------------------------------------------------------------------------


async def test_root_lists_aliases_and_by_id(driver: Driver) -> None:
    assert sorted(await driver.ls(b"")) == [b"by-id", b"main", b"nested", b"sub", b"unborn"]


async def test_by_id_lists_every_dataset(driver: Driver, shown: ShownStore) -> None:
    names = await driver.ls(b"by-id")
    assert {shown.main.id.encode(), shown.sub.id.encode()} <= set(names)
    assert len(names) == 3


async def test_dataset_is_the_same_by_alias_and_by_id(driver: Driver, shown: ShownStore) -> None:
    identifier = shown.main.id.encode()
    assert await driver.ls(b"by-id/" + identifier) == await driver.ls(b"main")
    assert await driver.read(b"by-id/" + identifier + b"/locked") == made.SMALL


async def test_alias_with_a_slash_is_a_directory_of_aliases(driver: Driver) -> None:
    assert await driver.ls(b"nested") == [b"again"]
    assert await driver.read(b"nested/again/version") == b"second\n"


async def test_listing_has_every_name_once(driver: Driver) -> None:
    names = await driver.ls(b"main/many")
    assert names == [b"%04d" % number for number in range(1500)]


async def test_names_are_bytes(driver: Driver) -> None:
    assert sorted(await driver.ls(b"main/names")) == sorted(made.ODD_NAMES)
    for name in made.ODD_NAMES:
        assert await driver.read(b"main/names/" + name) == b"content of " + name


async def test_unborn_dataset_is_empty_and_says_why(driver: Driver) -> None:
    assert await driver.ls(b"unborn") == []
    assert b"no commit" in await driver.getxattr(b"unborn", "user.riafs.error")


async def test_absent_name_is_not_found(driver: Driver) -> None:
    for path in (b"nothing", b"main/nothing", b"main/deep/nothing", b"by-id/nothing", b"main/many/1500"):
        assert await failure(driver.stat(path)) == errno.ENOENT


async def test_file_is_no_directory(driver: Driver) -> None:
    assert await failure(driver.ls(b"main/version")) == errno.ENOTDIR


async def test_directory_is_no_file(driver: Driver) -> None:
    assert await failure(driver.read(b"main/deep")) == errno.EISDIR


async def test_inode_numbers_are_distinct_and_stay(driver: Driver) -> None:
    paths = [b"main/many/%04d" % number for number in range(0, 1500, 100)] + [b"main", b"main/many", b"sub", b"by-id"]
    first = [(await driver.stat(path)).inode for path in paths]
    assert len(set(first)) == len(paths)
    assert [(await driver.stat(path)).inode for path in paths] == first


# -- status -----------------------------------------------------------------------------------------------------------


async def test_file_in_git(driver: Driver) -> None:
    assert await driver.stat(b"main/version") == Status(
        Kind.FILE, 7, executable=False, mtime_ns=SECOND, inode=(await driver.stat(b"main/version")).inode
    )


async def test_executable_bit_of_a_file_in_git(driver: Driver) -> None:
    assert (await driver.stat(b"main/script")).executable
    assert not (await driver.stat(b"main/empty")).executable


async def test_annexed_files_look_like_files_locked_or_not(driver: Driver) -> None:
    size = len(made.SMALL)
    assert await file(driver, b"main/locked") == (Kind.FILE, size, False)
    assert await file(driver, b"main/unlocked") == (Kind.FILE, size, False)
    assert await file(driver, b"main/unlocked-executable") == (Kind.FILE, size, True)


async def test_size_of_a_key_that_does_not_tell_it_is_that_of_the_object(driver: Driver) -> None:
    assert (await driver.stat(b"main/unsized")).size == len(made.UNSIZED)


async def test_missing_key_is_listed_with_its_size(driver: Driver) -> None:
    assert b"missing" in await driver.ls(b"main")
    assert await file(driver, b"main/missing") == (Kind.FILE, len(made.MISSING), False)


async def test_times_are_those_of_the_commit_or_the_key(driver: Driver) -> None:
    assert (await driver.stat(b"main/locked")).mtime_ns == SECOND
    assert (await driver.stat(b"main/worm")).mtime_ns == 1234567890 * 10**9
    assert (await driver.stat(b"main@v1/version")).mtime_ns == EPOCH * 10**9


async def test_links_that_are_not_annexed_are_shown_verbatim(driver: Driver) -> None:
    assert (await driver.stat(b"main/link")).kind is Kind.LINK
    assert await driver.readlink(b"main/link") == b"version"
    assert await driver.readlink(b"main/link-out") == b"/etc/passwd"


# -- content ----------------------------------------------------------------------------------------------------------


async def test_content_in_git(driver: Driver) -> None:
    assert await driver.read(b"main/version") == b"second\n"
    assert await driver.read(b"main/empty") == b""
    assert await driver.read(b"main/deep/er/and/deeper") == b"down here"


@pytest.mark.parametrize("name", [b"locked", b"unlocked", b"unlocked-executable", b"deep/locked"])
async def test_annexed_content(driver: Driver, name: bytes) -> None:
    assert await driver.read(b"main/" + name) == made.SMALL


async def test_content_over_several_requests(driver: Driver) -> None:
    assert hashlib.md5(await driver.read(b"main/medium")).digest() == hashlib.md5(made.MEDIUM).digest()


async def test_content_in_an_archive(driver: Driver) -> None:
    assert await driver.read(b"main/archived") == made.ARCHIVED


async def test_content_without_a_digest(driver: Driver) -> None:
    assert await driver.read(b"main/unsized") == made.UNSIZED
    assert await driver.read(b"main/worm") == b"stale"


async def test_missing_content_is_an_input_output_error_that_says_what_was_tried(driver: Driver) -> None:
    assert await failure(driver.read(b"main/missing")) == errno.EIO
    reason = await driver.getxattr(b"main/missing", "user.riafs.error")
    assert key_of(made.MISSING) in reason
    assert b"annex/objects/" in reason
    assert b"archives/archive.7z" in reason


async def test_damaged_content_is_an_input_output_error(driver: Driver) -> None:
    for _ in range(2):
        assert await failure(driver.read(b"main/damaged")) == errno.EIO
    assert b"damaged" in await driver.getxattr(b"main/damaged", "user.riafs.error")


async def test_hundred_readers_of_one_file(driver: Driver) -> None:
    found: set[bytes] = set()

    async def read() -> None:
        found.add(hashlib.md5(await driver.read(b"main/archived")).digest())

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(read)
    assert found == {hashlib.md5(made.ARCHIVED).digest()}


# -- versions and subdatasets -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "annotated", "feature%2Fx", "feature%2fx", "refs%2Ftags%2Fv1"])
async def test_dataset_at_a_ref(driver: Driver, version: str) -> None:
    assert await driver.ls(b"main@" + version.encode()) == [b"version"]
    assert await driver.read(b"main@" + version.encode() + b"/version") == b"first\n"


async def test_dataset_at_a_commit(driver: Driver, shown: ShownStore) -> None:
    for commit in (shown.first_commit, shown.first_commit[:7], shown.first_commit[:20]):
        assert await driver.read(b"main@" + commit.encode() + b"/version") == b"first\n"
    by_id = b"by-id/" + shown.main.id.encode() + b"@" + shown.first_commit.encode()
    assert await driver.read(by_id + b"/version") == b"first\n"


async def test_versions_are_not_listed(driver: Driver) -> None:
    await driver.stat(b"main@v1")
    assert not [name for name in await driver.ls(b"") if b"@" in name]


@pytest.mark.parametrize("name", [b"main@nothing", b"nothing@v1", b"main@", b"@v1", b"main@v1@v1", b"by-id@v1"])
async def test_version_that_does_not_exist(driver: Driver, name: bytes) -> None:
    assert await failure(driver.stat(name)) == errno.ENOENT


async def test_subdataset_is_shown_at_its_registered_commit(driver: Driver) -> None:
    assert await driver.ls(b"main/sub") == [b"inside"]
    assert await driver.read(b"main/sub/inside") == b"registered version"


async def test_subdataset_at_another_version(driver: Driver) -> None:
    assert await driver.read(b"main/sub@main/inside") == b"later version"


async def test_subdataset_that_is_nowhere_is_empty_and_says_why(driver: Driver) -> None:
    assert await driver.ls(b"main/nowhere") == []
    assert b"not in the store" in await driver.getxattr(b"main/nowhere", "user.riafs.error")


# -- looking inside ---------------------------------------------------------------------------------------------------


async def test_virtual_directory_is_there_but_not_listed(driver: Driver) -> None:
    assert b".riafs" not in await driver.ls(b"")
    assert b"stats" in await driver.ls(b".riafs")
    assert b"lookups" in await driver.read(b".riafs/stats")


async def test_virtual_directory_is_at_the_root_only(driver: Driver) -> None:
    assert await failure(driver.stat(b"main/.riafs")) == errno.ENOENT


async def test_attributes_of_an_annexed_file(driver: Driver, shown: ShownStore) -> None:
    expected = {
        "key": key_of(made.SMALL),
        "kind": b"annex",
        "dataset": shown.main.id.encode(),
        "commit": shown.second_commit.encode(),
        "path": b"deep/locked",
    }
    for name, value in expected.items():
        assert await driver.getxattr(b"main/deep/locked", f"user.riafs.{name}") == value
    where = await driver.getxattr(b"main/deep/locked", "user.riafs.where")
    assert where.startswith(b"annex/objects/")


async def test_attributes_of_other_entries(driver: Driver, shown: ShownStore) -> None:
    assert await driver.getxattr(b"main/version", "user.riafs.kind") == b"git"
    assert await driver.getxattr(b"main/archived", "user.riafs.where") == b"archives/archive.7z"
    assert await driver.getxattr(b"main", "user.riafs.commit") == shown.second_commit.encode()
    assert await driver.getxattr(b"main@v1", "user.riafs.commit") == shown.first_commit.encode()
    assert await driver.getxattr(b"main/sub", "user.riafs.commit") == shown.registered.encode()
    assert await driver.getxattr(b"main/sub", "user.riafs.dataset") == shown.sub.id.encode()
    assert await driver.getxattr(b"", "user.riafs.store") == os.fsencode(shown.path)


async def test_medium_content_is_verified_once_read(driver: Driver) -> None:
    await driver.read(b"main/medium")
    assert await driver.getxattr(b"main/medium", "user.riafs.verified") == b"yes"


async def test_other_attributes_do_not_exist(driver: Driver) -> None:
    for name in ("user.riafs.nothing", "user.other"):
        assert await failure(driver.getxattr(b"main/version", name)) == errno.ENODATA
