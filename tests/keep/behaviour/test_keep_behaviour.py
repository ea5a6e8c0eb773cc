"""What a user sees of Keep, where it is the same as for a RIA store: the same tests, on the object and on a mount."""

import errno

import pytest

from tests.behaviour.drivers import Driver
from tests.behaviour.test_behaviour import (
    failure,
    test_absent_name_is_not_found,
    test_annexed_content,
    test_content_in_git,
    test_content_over_several_requests,
    test_damaged_content_is_an_input_output_error,
    test_directory_is_no_file,
    test_file_is_no_directory,
    test_hundred_readers_of_one_file,
    test_inode_numbers_are_distinct_and_stay,
    test_listing_has_every_name_once,
    test_names_are_bytes,
    test_other_attributes_do_not_exist,
    test_virtual_directory_is_at_the_root_only,
    test_virtual_directory_is_there_but_not_listed,
)

__all__ = [
    "test_absent_name_is_not_found",
    "test_annexed_content",
    "test_content_in_git",
    "test_content_over_several_requests",
    "test_damaged_content_is_an_input_output_error",
    "test_directory_is_no_file",
    "test_file_is_no_directory",
    "test_hundred_readers_of_one_file",
    "test_inode_numbers_are_distinct_and_stay",
    "test_listing_has_every_name_once",
    "test_names_are_bytes",
    "test_other_attributes_do_not_exist",
    "test_virtual_directory_is_at_the_root_only",
    "test_virtual_directory_is_there_but_not_listed",
]


@pytest.fixture(autouse=True)
def _announced(expected_warnings: object) -> None:
    assert callable(expected_warnings)
    expected_warnings("is damaged", "cannot be read")


async def test_root_lists_collections_and_by_id(driver: Driver) -> None:
    assert sorted(await driver.ls(b"")) == [b"by-id", b"by_id", b"main", b"nested", b"sub"]


async def test_collection_is_the_same_by_name_and_by_hash(driver: Driver) -> None:
    data_hash = await driver.getxattr(b"main", "user.riafs.collection")
    assert await driver.ls(b"by_id/" + data_hash) == await driver.ls(b"main")
    assert await driver.read(b"by_id/" + data_hash + b"/deep/locked") == await driver.read(b"main/locked")
    assert data_hash in await driver.ls(b"by_id")
    assert data_hash == await driver.getxattr(b"main/deep/locked", "user.riafs.collection")


async def test_files_can_be_looked_at_and_not_changed(driver: Driver) -> None:
    status = await driver.stat(b"main/medium")
    assert status.size == 700_000
    assert status.mtime_ns == (await driver.stat(b"main")).mtime_ns
    assert await failure(driver.stat(b"by_id/0" * 3)) == errno.ENOENT
