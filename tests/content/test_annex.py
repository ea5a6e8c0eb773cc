"""Where the content of a key is found, and which of several copies is served."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.content.locations import ARCHIVE_PATHS
from riafs.content.verifying import Verify
from riafs.errors import (
    CorruptContent,
    EncryptedContent,
    GitError,
    MissingContent,
    NoSuchAttribute,
    OutsideStore,
    RiafsError,
    ShortRead,
    StoreError,
)
from riafs.formats.annex import hash_lower, hash_mixed
from riafs.formats.keys import escape
from tests.behaviour.drivers import ObjectDriver, opened
from tests.faults.opens import watched
from tests.small import Locked, Pointer, SmallDataset, SmallStore, key_of, mixed_path, noise, sha256_key_of

Announce = Callable[..., None]

CONTENT = b"the content of the key"
KEY = key_of(CONTENT)
DAMAGED = CONTENT.upper()
URL_KEY = b"URL-s22--http://example.org/a%20b?x=1&y"


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


def with_key(store: SmallStore, key: bytes = KEY, layout: str = "2") -> SmallDataset:
    """A dataset with one annexed file."""
    return store.dataset("one", {b"file": Locked(key)}, layout=layout)


async def content_of(store: SmallStore, **options: object) -> bytes:
    async with opened(store.path, **options) as shown:  # type: ignore[arg-type]  # passed through
        return await shown.read(b"one/file")


async def where(shown: ObjectDriver) -> bytes:
    return await shown.getxattr(b"one/file", "user.riafs.where")


# -- each place alone -------------------------------------------------------------------------------------------------

DIRECTORIES = {
    "escaped-mixed": hash_mixed(escape(URL_KEY)),
    "escaped-lower": hash_lower(escape(URL_KEY)),
    "plain-mixed": hash_mixed(URL_KEY),
    "plain-lower": hash_lower(URL_KEY),
}


@pytest.mark.parametrize("layout", ["1", "2"])
@pytest.mark.parametrize("directories", DIRECTORIES.values(), ids=DIRECTORIES)
async def test_loose_object_is_found_in_each_of_four_directories(
    store: SmallStore, directories: bytes, layout: str
) -> None:
    with_key(store, URL_KEY, layout).put(URL_KEY, CONTENT, directories)
    assert await content_of(store) == CONTENT


@pytest.mark.parametrize("directories", [hash_mixed(KEY), hash_lower(KEY)], ids=["mixed", "lower"])
@pytest.mark.parametrize("layout", ["1", "2", "9", "2|l", ""])
async def test_loose_object_is_found_in_either_layout(
    store: SmallStore, directories: bytes, layout: str, expected_warnings: Announce
) -> None:
    expected_warnings("unknown dataset version")
    with_key(store, layout=layout).put(KEY, CONTENT, directories)
    assert await content_of(store) == CONTENT


@pytest.mark.parametrize("place", [os.fsdecode(place) for place in ARCHIVE_PATHS])
async def test_member_is_found_in_each_place_of_an_archive(store: SmallStore, place: str) -> None:
    with_key(store).archive({KEY: CONTENT}, place=place)
    async with opened(store.path) as shown:
        assert await shown.read(b"one/file") == CONTENT
        assert await where(shown) == place.encode()


@pytest.mark.parametrize("directories", DIRECTORIES.values(), ids=DIRECTORIES)
async def test_member_is_found_under_each_of_four_names(store: SmallStore, directories: bytes) -> None:
    name = escape(URL_KEY)
    with_key(store, URL_KEY).archive({b"%b/%b/%b" % (directories, name, name): CONTENT}, paths=True)
    assert await content_of(store) == CONTENT


@pytest.mark.parametrize("switches", [("-mx0",), ("-mx0", "-mhc=off"), ("-mx0", "-ms=on"), ("-mx9",), ("-m0=PPMd",)])
async def test_member_is_read_whatever_the_method(store: SmallStore, switches: tuple[str, ...]) -> None:
    with_key(store).archive({key_of(b"another"): b"another", KEY: CONTENT, key_of(b""): b""}, *switches)
    assert await content_of(store) == CONTENT


async def test_key_with_odd_bytes_in_its_extension(store: SmallStore) -> None:
    key = key_of(CONTENT, b".\xff\xfe")
    dataset = with_key(store, key)
    dataset.put(key, CONTENT)
    assert await content_of(store) == CONTENT


async def test_pointer_in_an_odd_directory_is_found_by_its_key_alone(store: SmallStore) -> None:
    dataset = store.dataset("one", {b"file": b"../../elsewhere/annex/objects/aa/bb/" + KEY + b"/" + KEY + b"\n"})
    dataset.put(KEY, CONTENT)
    assert await content_of(store) == CONTENT


# -- several places ---------------------------------------------------------------------------------------------------


async def test_loose_copy_goes_before_archive(store: SmallStore) -> None:
    dataset = with_key(store)
    dataset.put(KEY, CONTENT)
    dataset.archive({KEY: CONTENT})
    async with opened(store.path) as shown:
        assert (await where(shown)).startswith(b"annex/objects/")


async def test_good_archive_stands_in_for_a_damaged_loose_copy(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("content of key .* in annex/objects/.* is damaged")
    dataset = with_key(store)
    dataset.put(KEY, DAMAGED)
    dataset.archive({KEY: CONTENT})
    async with opened(store.path) as shown:
        for _ in range(2):
            assert await shown.read(b"one/file") == CONTENT
        assert (shown.counters.keys_corrupt, shown.counters.keys_healed >= 1) == (1, True)
        assert await where(shown) == b"archives/archive.7z"


@pytest.mark.parametrize("wrong", [b"", CONTENT[:-1], CONTENT + b"x"], ids=["empty", "short", "long"])
async def test_copy_of_the_wrong_size_is_passed_over(
    store: SmallStore, wrong: bytes, expected_warnings: Announce
) -> None:
    expected_warnings(f"has {len(wrong)} bytes; this copy is not used")
    dataset = with_key(store)
    dataset.put(KEY, wrong)
    dataset.put(KEY, CONTENT, hash_lower(KEY))
    async with opened(store.path, verify=Verify.NEVER) as shown:
        assert await shown.read(b"one/file") == CONTENT
        assert shown.counters.keys_corrupt == 1


async def test_wrong_size_is_an_error_even_without_verification(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("riafs.content")
    with_key(store).put(KEY, CONTENT + b"x")
    with pytest.raises(CorruptContent, match=f"has {len(CONTENT) + 1} bytes"):
        await content_of(store, verify=Verify.NEVER)


async def test_second_archive_stands_in_for_an_unreadable_first_one(
    store: SmallStore, expected_warnings: Announce
) -> None:
    dataset = with_key(store)
    dataset.archive({KEY: CONTENT}, place="archive.7z")
    (dataset.path / "archives").mkdir()
    (dataset.path / "archives" / "archive.7z").write_bytes(b"7z\xbc\xaf'\x1c\0\4" + noise(500))
    assert await content_of(store) == CONTENT


async def test_replaced_object_is_looked_at_again(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("riafs.content")
    dataset = with_key(store)
    path = dataset.put(KEY, DAMAGED)
    async with opened(store.path) as shown:
        with pytest.raises(CorruptContent):
            await shown.read(b"one/file")
        path.unlink()
        dataset.put(KEY, CONTENT)
        assert await shown.read(b"one/file") == CONTENT


async def test_key_that_arrives_later_is_found(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("is not in the store")
    dataset = with_key(store)
    async with opened(store.path) as shown:
        with pytest.raises(MissingContent):
            await shown.read(b"one/file")
        dataset.put(KEY, CONTENT)
        assert await shown.read(b"one/file") == CONTENT


async def test_replaced_archive_is_opened_anew_and_old_readers_keep_theirs(store: SmallStore) -> None:
    dataset = with_key(store)
    big = noise(300_000)
    big_key = key_of(big)
    dataset.commit({b"file": Locked(KEY), b"big": Locked(big_key)})
    archive = dataset.archive({big_key: big})
    async with opened(store.path) as shown:
        file = await shown.filesystem.open(await shown.inode(b"one/big"))
        archive.unlink()
        dataset.archive({KEY: CONTENT})
        assert await shown.read(b"one/file") == CONTENT
        assert await shown.read_handle(file.handle) == big
        shown.filesystem.release(file.handle)


# -- attributes -------------------------------------------------------------------------------------------------------


async def test_an_attribute_that_is_not_of_the_content_does_not_look_for_it(store: SmallStore) -> None:
    dataset = with_key(store)
    dataset.put(KEY, CONTENT)
    async with opened(store.path) as shown:
        await shown.stat(b"one/file")
        with watched(dataset.path) as opens:
            for name in ("key", "kind", "path", "dataset", "commit"):
                assert await shown.getxattr(b"one/file", f"user.riafs.{name}")
            for name in ("no-such", "object", "ref"):
                with pytest.raises(NoSuchAttribute):
                    await shown.getxattr(b"one/file", f"user.riafs.{name}")
            assert opens.paths() == []
            assert await where(shown) != b""
            assert opens.paths() != []


# -- nothing to serve -------------------------------------------------------------------------------------------------


async def test_missing_key_names_itself_and_every_place(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("is not in the store")
    dataset = with_key(store, URL_KEY)
    async with opened(store.path) as shown:
        with pytest.raises(MissingContent) as caught:
            await shown.read(b"one/file")
        message = str(caught.value)
        for part in (*DIRECTORIES.values(), *ARCHIVE_PATHS, b"'file'", dataset.id.encode(), URL_KEY):
            assert os.fsdecode(part) in message
        assert caught.value.errno == errno.EIO
        assert await shown.getxattr(b"one/file", "user.riafs.error") == message.encode()
        assert await where(shown) == b"nowhere found"
        assert shown.counters.keys_missing == 1


async def test_empty_key_directory_is_no_object(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("is not in the store")
    with_key(store).object_path(KEY).parent.mkdir(parents=True)
    with pytest.raises(MissingContent):
        await content_of(store)


async def test_missing_key_is_logged_once(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("is not in the store")
    with_key(store)
    logged: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("riafs.content.annex.log.error", lambda _, problem: logged.append(str(problem)))
        async with opened(store.path) as shown:
            for _ in range(5):
                with pytest.raises(MissingContent):
                    await shown.read(b"one/file")
    assert len(logged) == 1


async def test_truncated_archive_is_an_error_for_its_members_only(
    store: SmallStore, expected_warnings: Announce
) -> None:
    expected_warnings("riafs.content")
    dataset = store.dataset("one", {b"file": Locked(KEY), b"loose": Pointer(key_of(b"loose"))})
    dataset.put(key_of(b"loose"), b"loose")
    archive = dataset.archive({KEY: CONTENT})
    os.truncate(archive, archive.stat().st_size - 10)
    async with opened(store.path) as shown:
        with pytest.raises(RiafsError, match="cannot be read") as caught:
            await shown.read(b"one/file")
        assert caught.value.errno == errno.EIO
        assert await shown.read(b"one/loose") == b"loose"


async def test_archive_cut_off_while_it_is_open_is_an_error(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("riafs.content")
    big = noise(400_000)
    dataset = with_key(store, key_of(big))
    archive = dataset.archive({key_of(big): big})
    async with opened(store.path) as shown:
        file = await shown.filesystem.open(await shown.inode(b"one/file"))
        os.truncate(archive, 1000)
        with pytest.raises(RiafsError):
            await shown.read_handle(file.handle)
        shown.filesystem.release(file.handle)
        with pytest.raises(RiafsError):
            await shown.read(b"one/file")


async def test_archive_with_a_password_is_permission_denied(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("password")
    with_key(store).archive({KEY: CONTENT}, "-mx0", "-psecret", "-mhe=on")
    with pytest.raises(EncryptedContent) as caught:
        await content_of(store)
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize("part", ["annex", "annex/objects", "archives"])
async def test_link_out_of_the_store_is_not_followed(
    store: SmallStore, part: str, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("riafs.content")
    dataset = with_key(store)
    dataset.put(KEY, CONTENT)
    dataset.archive({KEY: CONTENT})
    for each in {"annex", "archives"} - {part.split("/")[0]}:
        (dataset.path / each).rename(tmp_path / f"away-{each}")
    (dataset.path / part).rename(tmp_path / "outside")
    (dataset.path / part).symlink_to(tmp_path / "outside")
    with pytest.raises(OutsideStore, match="leads out of the store"):
        await content_of(store)


async def test_link_inside_the_store_is_followed(store: SmallStore) -> None:
    dataset = with_key(store)
    dataset.put(KEY, CONTENT)
    (dataset.path / "annex").rename(store.path / "annex-of-one")
    (dataset.path / "annex").symlink_to("../../annex-of-one")
    assert await content_of(store) == CONTENT


async def test_failing_disk_is_a_failure_of_the_store_and_other_places_are_tried(
    store: SmallStore, monkeypatch: pytest.MonkeyPatch, expected_warnings: Announce
) -> None:
    expected_warnings("riafs.content")

    def fail(_self: object, _offset: int, _length: int) -> bytes:
        raise StoreError("the disk is broken")

    dataset = with_key(store)
    dataset.put(KEY, CONTENT)
    async with opened(store.path) as shown:
        await shown.inode(b"one/file")
        with monkeypatch.context() as patch:
            patch.setattr("riafs.storage.local_file.FileBytes._read_cached", fail)
            with pytest.raises(StoreError, match="the disk is broken"):
                await shown.read(b"one/file")
        assert await shown.read(b"one/file") == CONTENT


# -- sizes ------------------------------------------------------------------------------------------------------------


async def test_key_without_size_gets_that_of_its_object(store: SmallStore) -> None:
    key = b"URL--http://example.org/x"
    with_key(store, key).put(key, CONTENT)
    async with opened(store.path) as shown:
        assert (await shown.stat(b"one/file")).size == len(CONTENT)
        assert await shown.read(b"one/file") == CONTENT
        assert shown.counters.keys_unverifiable == 1


async def test_key_without_size_in_an_archive(store: SmallStore) -> None:
    key = b"URL--http://example.org/x"
    with_key(store, key).archive({mixed_path(key): CONTENT}, paths=True)
    async with opened(store.path) as shown:
        assert (await shown.stat(b"one/file")).size == len(CONTENT)


async def test_missing_key_without_size_shows_none(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("is not in the store")
    with_key(store, b"URL--http://example.org/x")
    async with opened(store.path) as shown:
        assert (await shown.stat(b"one/file")).size == 0
        with pytest.raises(MissingContent):
            await shown.read(b"one/file")


async def test_executable_bit_of_a_locked_file_is_that_of_its_object(store: SmallStore) -> None:
    dataset = store.dataset("one", {b"yes": Locked(KEY), b"no": Locked(key_of(b"other"))})
    dataset.put(KEY, CONTENT).chmod(0o555)
    dataset.put(key_of(b"other"), b"other").chmod(0o444)
    async with opened(store.path) as shown:
        assert (await shown.stat(b"one/yes")).executable
        assert not (await shown.stat(b"one/no")).executable


# -- VURL -------------------------------------------------------------------------------------------------------------

VURL = b"VURL--http://example.org/v"


ONE_LEVEL = b"40ad46ba fromList [OneLevelBranchHash] timestamp=1796071135s\n"


def with_equivalents(store: SmallStore, *lines: bytes, one_level: bool = False) -> SmallDataset:
    dataset = with_key(store, VURL)
    directories = hash_lower(VURL)[:3] if one_level else hash_lower(VURL)
    logs: dict[bytes, bytes] = {b"%b/%b.log.ek" % (directories, escape(VURL)): b"".join(lines)}
    dataset.annex_branch({**logs, **({b"difference.log": ONE_LEVEL} if one_level else {})})
    return dataset


async def test_vurl_key_is_checked_against_its_equivalents(store: SmallStore) -> None:
    lines = [b"1700000000s 1 %b\n" % key for key in (sha256_key_of(b"other"), sha256_key_of(CONTENT))]
    with_equivalents(store, *lines).put(VURL, CONTENT)
    async with opened(store.path) as shown:
        assert await shown.read(b"one/file") == CONTENT
        assert shown.counters.keys_verified == 1


@pytest.mark.parametrize("one_level", [False, True])
async def test_vurl_key_that_matches_no_equivalent_is_damaged(
    store: SmallStore, expected_warnings: Announce, one_level: bool
) -> None:
    expected_warnings("riafs.content")
    line = b"1700000000s 1 %b\n" % sha256_key_of(CONTENT)
    with_equivalents(store, line, one_level=one_level).put(VURL, DAMAGED)
    with pytest.raises(CorruptContent):
        await content_of(store)


@pytest.mark.parametrize("lost", ["log", "directory", "root"])
async def test_vurl_key_whose_equivalents_cannot_be_read_is_not_served(
    store: SmallStore, lost: str, expected_warnings: Announce
) -> None:
    expected_warnings("riafs.content")
    dataset = with_equivalents(store, b"1700000000s 1 %b\n" % sha256_key_of(CONTENT))
    dataset.put(VURL, DAMAGED)
    path = os.fsdecode(hash_lower(VURL))
    name = {"log": f"{path}/{os.fsdecode(escape(VURL))}.log.ek", "directory": path, "root": ""}[lost]
    damaged = loose_object(dataset, f"git-annex:{name}")
    kept = damaged.read_bytes()
    damaged.unlink()
    async with opened(store.path, verify=Verify.ALWAYS) as shown:
        with pytest.raises(GitError):
            await shown.read(b"one/file")
        damaged.write_bytes(kept)
        with pytest.raises(CorruptContent):
            await shown.read(b"one/file")


async def test_storages_whose_log_cannot_be_read_are_the_reason_that_is_given(
    store: SmallStore, expected_warnings: Announce
) -> None:
    expected_warnings("riafs.content")
    dataset = with_key(store)
    dataset.annex_branch({b"remote.log": b"x name=s type=external externaltype=ora timestamp=1s\n"})
    loose_object(dataset, "git-annex:remote.log").unlink()
    async with opened(store.path) as shown:
        with pytest.raises(GitError, match=r"remote\.log"):
            await shown.read(b"one/file")
        assert b"remote.log" in await shown.getxattr(b"one/file", "user.riafs.error")


def loose_object(dataset: SmallDataset, revision: str) -> Path:
    """The file of a git object."""
    oid = dataset.git("rev-parse", revision)
    return dataset.path / "objects" / oid[:2] / oid[2:]


@pytest.mark.parametrize("line", [b"1700000000s 0 %b\n" % sha256_key_of(b"x"), b"nonsense\n", b""])
async def test_vurl_key_without_equivalents_is_accepted(store: SmallStore, line: bytes) -> None:
    with_equivalents(store, line).put(VURL, CONTENT)
    assert await content_of(store) == CONTENT


async def test_vurl_key_without_a_branch_is_accepted(store: SmallStore) -> None:
    with_key(store, VURL).put(VURL, CONTENT)
    assert await content_of(store) == CONTENT


async def test_read_that_fails_after_the_open_names_file_and_key(
    store: SmallStore, expected_warnings: Announce
) -> None:
    expected_warnings("'file' in dataset .* key MD5E-.* cannot be read: .* should have", "has 1000 bytes")
    big = noise(400_000)
    path = with_key(store, key_of(big)).put(key_of(big), big)
    async with opened(store.path, verify=Verify.NEVER) as shown:
        file = await shown.filesystem.open(await shown.inode(b"one/file"))
        os.truncate(path, 1000)
        with pytest.raises(ShortRead):
            await shown.read_handle(file.handle)
        shown.filesystem.release(file.handle)
        assert b"ends at byte 1000" in await shown.getxattr(b"one/file", "user.riafs.error")
