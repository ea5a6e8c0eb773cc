"""A store as a whole: which datasets it shows under which names, and what is left out."""

import contextlib
import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from riafs.content.annex import AnnexContents
from riafs.errors import BadSource, CorruptContent, NoSuchName, NoSuchVersion, OutsideStore, RiafsError, SourceNotFound
from riafs.formats.keys import escape
from riafs.git.repository import Repository
from riafs.tree import commit_directory
from riafs.tree.listing import FEW, GitEntry, TreeLine
from tests.behaviour.drivers import opened
from tests.small import Files, Locked, SmallDataset, SmallStore, key_of, noise, put

Announce = Callable[..., None]


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    made = SmallStore.make(tmp_path / "store")
    made.dataset("one", {b"file": b"of one"})
    return made


def place(dataset: SmallDataset) -> str:
    return f"{dataset.id[:3]}/{dataset.id[3:]}"


# -- sources ----------------------------------------------------------------------------------------------------------


async def test_source_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for path, reason in {"empty": "is not a RIA store", "file": "not a directory", "none": "does not exist"}.items():
        with pytest.raises(SourceNotFound, match=reason) as caught:
            async with opened(tmp_path / path):
                pass
        assert path in str(caught.value)
        assert caught.value.exit_code == 32


@pytest.mark.parametrize(
    ("fragment", "failure"),
    [
        ("#~none", SourceNotFound),
        ("#12345678-0000-4000-8000-000000000000", SourceNotFound),
        ("#~one@none", NoSuchVersion),
        ("#~one@1212121212121212121212121212121212121212", RiafsError),
    ],
)
async def test_fragment_that_names_nothing(store: SmallStore, fragment: str, failure: type[RiafsError]) -> None:
    with pytest.raises(failure):
        async with opened(store.path, fragment):
            pass


async def test_remote_sources_are_refused_with_a_reason() -> None:
    for scheme in ("http", "https"):
        with pytest.raises(BadSource, match="cannot be read yet"):
            async with opened(f"ria+{scheme}://host/store"):
                pass


def descriptors() -> set[str]:
    """What this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return found


async def test_nothing_is_left_behind(store: SmallStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.dataset("large", {b"file": noise(300_000)})  # which git has to read
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    monkeypatch.setenv("TMPDIR", str(scratch))
    gc.collect()
    before = descriptors()
    async with opened(store.path) as shown:
        await shown.read(b"large/file")
        assert list(scratch.iterdir())
    del shown
    with pytest.raises(SourceNotFound):
        async with opened(store.path, "#~none"):
            pass
    assert list(scratch.iterdir()) == []
    gc.collect()  # the store's directory is closed with the last one who has a dataset of it
    assert descriptors() == before


# -- versions of the layout -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [b"1\n", b"1", b" 1|l \n\n", b"1|"])
async def test_known_version_is_shown_without_a_word(store: SmallStore, text: bytes) -> None:
    (store.path / "ria-layout-version").write_bytes(text)
    async with opened(store.path) as shown:
        assert await shown.read(b"one/file") == b"of one"


@pytest.mark.parametrize("text", [b"7\n", b"", b"1|a|b", b"\xff", None])
async def test_unknown_or_missing_version_is_shown_with_a_warning(
    store: SmallStore, text: bytes | None, expected_warnings: Announce
) -> None:
    expected_warnings("(unknown store version|has no ria-layout-version)")
    (store.path / "ria-layout-version").unlink()
    if text is not None:
        (store.path / "ria-layout-version").write_bytes(text)
    async with opened(store.path) as shown:
        assert await shown.read(b"one/file") == b"of one"


async def test_dataset_without_layout_version_is_shown_with_a_warning(
    store: SmallStore, expected_warnings: Announce
) -> None:
    expected_warnings("has no ria-layout-version, read as version 2")
    dataset = store.dataset("two", {b"file": Locked(key_of(b"x"))})
    dataset.put(key_of(b"x"), b"x")
    (dataset.path / "ria-layout-version").unlink()
    async with opened(store.path) as shown:
        assert await shown.read(b"two/file") == b"x"


# -- aliases and ids --------------------------------------------------------------------------------------------------


async def test_store_without_aliases(store: SmallStore) -> None:
    (store.path / "alias" / "one").unlink()
    (store.path / "alias").rmdir()
    async with opened(store.path) as shown:
        assert await shown.ls(b"") == [b"by-id"]
        [identifier] = await shown.ls(b"by-id")
        assert await shown.read(b"by-id/" + identifier + b"/file") == b"of one"


async def test_aliases_that_lead_to_no_dataset_are_left_out(
    store: SmallStore, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("is left out")
    outside = SmallStore.make(tmp_path / "outside").dataset("secret", {b"file": b"secret"})
    for name, target in {
        "dangling": "../none/none",
        "out": str(outside.path),
        "out-relative": "../../outside/alias/secret",
        "loop": "loop",
        "root": "/",
        "store": "..",
        "version-file": "../ria-layout-version",
        "too-deep": f"../{place(store.dataset('two'))}/objects",
    }.items():
        (store.path / "alias" / name).symlink_to(target)
    os.mkfifo(store.path / "alias" / "fifo")
    (store.path / "alias" / "file").write_bytes(b"")
    async with opened(store.path) as shown:
        assert await shown.ls(b"") == [b"one", b"two", b"by-id"]
        with pytest.raises(NoSuchName):
            await shown.filesystem.lookup(1, b"out")


async def test_alias_of_an_alias(store: SmallStore) -> None:
    (store.path / "alias" / "again").symlink_to("one")
    async with opened(store.path) as shown:
        assert await shown.read(b"again/file") == b"of one"
    async with opened(store.path, "#~again") as shown:
        assert await shown.read(b"file") == b"of one"


async def test_alias_out_of_the_store_is_no_source(store: SmallStore, tmp_path: Path) -> None:
    outside = SmallStore.make(tmp_path / "outside").dataset("secret", {b"file": b"secret"})
    (store.path / "alias" / "out").symlink_to(outside.path)
    with pytest.raises(OutsideStore):
        async with opened(store.path, "#~out"):
            pass


async def test_alias_of_the_name_of_the_id_directory_is_hidden(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("hidden by the directory of that name")
    (store.path / "alias" / "by-id").symlink_to("one")
    async with opened(store.path) as shown:
        assert await shown.ls(b"") == [b"one", b"by-id"]
        assert len(await shown.ls(b"by-id")) == 1


async def test_ids_are_three_characters_and_the_rest_of_any_form(store: SmallStore) -> None:
    for path in ("abc/def", "é日x/any id", "AAA/" + "x" * 200):
        (store.path / path).mkdir(parents=True)
    for path in ("ab/cdef", "abcd/ef", "error_logs/x"):
        (store.path / path).mkdir(parents=True)
    (store.path / "xyz").write_bytes(b"")
    (store.path / "abc" / "file").write_bytes(b"")
    async with opened(store.path) as shown:
        assert set(await shown.ls(b"by-id")) >= {b"abcdef", "é日xany id".encode(), b"AAA" + b"x" * 200}
        assert len(await shown.ls(b"by-id")) == 4


async def test_links_in_place_of_datasets_are_not_followed(
    store: SmallStore, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("is left out")
    outside = SmallStore.make(tmp_path / "outside").dataset("secret", {b"file": b"secret"})
    (store.path / "abc").mkdir()
    (store.path / "abc" / "def").symlink_to(outside.path)
    (store.path / "xyz").symlink_to(tmp_path / "outside")
    async with opened(store.path) as shown:
        assert len(await shown.ls(b"by-id")) == 1
    for fragment in ("#abcdef", "#xyz" + outside.id):
        with pytest.raises(RiafsError):
            async with opened(store.path, fragment):
                pass


async def test_storage_without_git_is_empty_and_says_why(store: SmallStore) -> None:
    (store.path / "abc" / "def" / "annex" / "objects").mkdir(parents=True)
    (store.path / "abc" / "def" / "ria-layout-version").write_text("2\n")
    async with opened(store.path) as shown:
        assert await shown.ls(b"by-id/abcdef") == []
        assert await shown.getxattr(b"by-id/abcdef", "user.riafs.error")
    with pytest.raises(RiafsError):
        async with opened(store.path, "#abcdef"):
            pass


async def test_keys_of_a_storage_without_git(store: SmallStore, tmp_path: Path) -> None:
    storage = SmallDataset(store.path / "abc" / "def", "abcdef", "none")
    put(storage.path / "ria-layout-version", b"2\n")
    loose, archived, url, later = noise(3000), noise(4000), b"content", noise(10)
    storage.put(key_of(loose), loose)
    storage.put(b"URL--http://example.org/a", url)
    storage.archive({key_of(archived): archived})
    async with opened(store.path) as shown:
        assert await shown.ls(b"by-id/abcdef") == [b".keys"]
        names = {key_of(loose), key_of(archived), escape(b"URL--http://example.org/a")}
        assert set(await shown.ls(b"by-id/abcdef/.keys")) == names
        assert await shown.read(b"by-id/abcdef/.keys/" + key_of(archived)) == archived
        assert await shown.read(b"by-id/abcdef/.keys/" + escape(b"URL--http://example.org/a")) == url
        assert (await shown.stat(b"by-id/abcdef/.keys/" + key_of(loose))).size == 3000
        assert await shown.getxattr(b"by-id/abcdef/.keys/" + key_of(loose), "user.riafs.key") == key_of(loose)
        assert b"is in .keys" in await shown.getxattr(b"by-id/abcdef", "user.riafs.error")
        storage.put(key_of(later), later)
        assert await shown.read(b"by-id/abcdef/.keys/" + key_of(later)) == later
        assert len(await shown.ls(b"by-id/abcdef/.keys")) == 4
        for name in (b"MD5E-s5--" + b"0" * 32, b"no key", b"MD5E-s10-S5-C1--" + b"0" * 32):
            with pytest.raises(NoSuchName):
                await shown.read(b"by-id/abcdef/.keys/" + name)


async def test_damaged_key_of_a_storage_without_git(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("riafs.content")
    storage = SmallDataset(store.path / "abc" / "def", "abcdef", "none")
    put(storage.path / "ria-layout-version", b"2\n")
    storage.put(key_of(noise(3000)), noise(3000)[:-1] + b"!")
    async with opened(store.path) as shown:
        with pytest.raises(CorruptContent, match=r"in .keys of dataset abcdef"):
            await shown.read(b"by-id/abcdef/.keys/" + key_of(noise(3000)))


async def test_keys_go_when_there_is_a_commit_and_come_with_the_first_key(store: SmallStore) -> None:
    empty = store.dataset("empty")
    name = b"by-id/" + empty.id.encode()
    async with opened(store.path) as shown:
        assert await shown.ls(name) == []
        empty.put(key_of(b"x"), b"x")
        await shown.refresh()
        assert await shown.ls(name) == [b".keys"]
        assert await shown.read(name + b"/.keys/" + key_of(b"x")) == b"x"
        empty.commit({b"file": Locked(key_of(b"x"))})
        await shown.refresh()
        assert await shown.ls(name) == [b"file"]


async def test_git_without_annex_is_shown(store: SmallStore) -> None:
    async with opened(store.path) as shown:
        assert not (store.path / "annex").exists()
        assert await shown.read(b"one/file") == b"of one"


async def test_dataset_is_opened_once_however_it_is_reached(store: SmallStore) -> None:
    (store.path / "alias" / "again").symlink_to("one")
    async with opened(store.path) as shown:
        for path in (b"one", b"again", b"one@main"):
            await shown.ls(path)
        assert shown.counters.datasets_opened == 1


async def test_dataset_at_a_version_by_an_alias_with_a_slash(store: SmallStore) -> None:
    (store.path / "alias" / "group").mkdir()
    (store.path / "alias" / "group" / "two").symlink_to(f"../../{place(store.dataset('x', {b'file': b'two'}))}")
    async with opened(store.path) as shown:
        assert await shown.read(b"group/two@main/file") == b"two"
    async with opened(store.path, "#~group/two@main") as shown:
        assert await shown.read(b"file") == b"two"


async def test_percent_sign_in_a_ref_is_written_as_percent_25(store: SmallStore) -> None:
    dataset = store.dataset("x", {b"file": b"main"})
    dataset.commit({b"file": b"odd"}, "refs/heads/a%2Fb")
    dataset.commit({b"file": b"deep"}, "refs/heads/a/b")
    async with opened(store.path) as shown:
        assert await shown.read(b"x@a%2Fb/file") == b"deep"
        assert await shown.read(b"x@a%252Fb/file") == b"odd"


# -- listings ---------------------------------------------------------------------------------------------------------


async def test_large_directory_is_classified_piece_by_piece(store: SmallStore) -> None:
    count = 20 * commit_directory.PIECE
    files: Files = {b"%06d" % number: b"x" for number in range(count)}
    store.dataset("large", files)
    async with opened(store.path) as shown:
        inode = await shown.inode(b"large")
        handle = await shown.filesystem.opendir(inode)
        before = shown.counters.git_objects_read
        page = await shown.filesystem.readdir(handle, 0)
        assert 0 < len(page.entries) < count
        assert shown.counters.git_objects_read - before <= 2 * commit_directory.PIECE
        assert len(await shown.ls(b"large")) == count


async def test_names_looked_up_here_and_there_in_a_large_directory_cost_little(store: SmallStore) -> None:
    count = 4 * commit_directory.PIECE
    files: Files = {b"%06d" % number: b"x%d" % number for number in range(count)}
    store.dataset("large", files)
    async with opened(store.path) as shown:
        await shown.inode(b"large/000001")
        before = shown.counters.git_objects_read
        for number in (300, 700, 900):
            assert await shown.read(b"large/%06d" % number) == b"x%d" % number
        assert shown.counters.git_objects_read - before <= 200
        assert await shown.ls(b"large") == sorted(files)


async def test_names_looked_up_in_order_are_classified_in_pieces(
    store: SmallStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    classify = commit_directory.classify

    async def counting(
        repository: Repository, contents: AnnexContents, lines: Sequence[TreeLine], time_ns: int
    ) -> list[GitEntry]:
        sizes.append(len(lines))
        return await classify(repository, contents, lines, time_ns)

    count = 3 * commit_directory.PIECE
    store.dataset("large", {b"%06d" % number: b"x" for number in range(count)})
    monkeypatch.setattr(commit_directory, "classify", counting)
    async with opened(store.path) as shown:
        for number in range(5, count):
            await shown.inode(b"large/%06d" % number)
    assert sizes == [FEW, *[commit_directory.PIECE] * 3]


async def test_second_listing_reads_nothing(store: SmallStore) -> None:
    store.dataset("two", {b"%d" % number: Locked(key_of(b"%d" % number)) for number in range(300)})
    async with opened(store.path) as shown:
        await shown.ls(b"two")
        before = shown.counters.git_objects_read
        assert len(await shown.ls(b"two")) == 300
        assert shown.counters.git_objects_read == before


async def test_file_whose_blob_is_missing_is_listed_and_fails_alone(store: SmallStore) -> None:
    dataset = store.dataset("two", {b"bad": b"this blob will vanish", b"good": b"good"})
    blob = dataset.git("rev-parse", "main:bad")
    (dataset.path / "objects" / blob[:2] / blob[2:]).unlink()
    async with opened(store.path) as shown:
        assert await shown.ls(b"two") == [b"bad", b"good"]
        with pytest.raises(RiafsError):
            await shown.read(b"two/bad")
        assert await shown.read(b"two/good") == b"good"
