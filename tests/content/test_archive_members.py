"""Keys whose content is a member of an annexed archive, as ``datalad add-archive-content`` registers them."""

import io
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.errors import CorruptContent, DecodeFailed, MissingContent, RiafsError
from riafs.formats.annex import hash_lower
from riafs.formats.annexlogs import ArchiveLink, archive_links
from riafs.formats.keys import escape, parse_key
from tests.behaviour.drivers import opened
from tests.small import Locked, SmallDataset, SmallStore, key_of, noise

Announce = Callable[..., None]

LARGE, SMALL = noise(1_200_000, "member"), b"a small member\n"
MEMBERS = {b"src/dir/a b&c.bin": LARGE, "src/grün.txt".encode(): SMALL, b"src/empty": b""}


def tar(kind: str) -> Callable[[Path], bytes]:
    def make(_: Path) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as archive:  # type: ignore[call-overload]  # chosen by tests
            for name, content in MEMBERS.items():
                entry = tarfile.TarInfo(os.fsdecode(name))
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()

    return make


def zipped(_: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name.decode(), content)
    return buffer.getvalue()


def sevenzip(directory: Path) -> bytes:
    for name, content in MEMBERS.items():
        path = directory / "tree" / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    command = ["7z", "a", "-bd", str(directory / "made.7z"), "./src"]
    subprocess.run(command, cwd=directory / "tree", check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return (directory / "made.7z").read_bytes()


FORMS: dict[bytes, Callable[[Path], bytes]] = {
    b".tar": tar(""),
    b".tar.gz": tar("gz"),
    b".tar.xz": tar("xz"),
    b".zip": zipped,
    b".7z": sevenzip,
}


def url(archive: bytes, name: bytes, size: int) -> bytes:
    quoted = name.replace(b"%", b"%25").replace(b"&", b"%26").replace(b" ", b"+")
    return b":dl+archive:%b#path=%b&size=%d" % (archive, quoted, size)


def web_log(key: bytes, *urls: bytes) -> dict[bytes, bytes]:
    path = b"%b/%b.log.web" % (hash_lower(key), escape(key))
    return {path: b"".join(b"1700000000s 1 %b\n" % each for each in urls)}


def linked(store: SmallStore, archive: bytes, members: dict[bytes, bytes] = MEMBERS) -> SmallDataset:
    """A dataset with the archive's key and its members, which are stored only there."""
    files = {name: Locked(key_of(content)) for name, content in members.items()}
    dataset = store.dataset("one", {b"archive": Locked(archive), **files})
    logs: dict[bytes, bytes] = {}
    for name, content in members.items():
        logs |= web_log(key_of(content), url(archive, name, len(content)))
    dataset.annex_branch(logs)
    return dataset


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


@pytest.mark.parametrize("form", FORMS)
async def test_members_of_every_form(store: SmallStore, tmp_path: Path, form: bytes) -> None:
    data = FORMS[form](tmp_path)
    archive = key_of(data, form)
    linked(store, archive).put(archive, data)
    async with opened(store.path) as shown:
        for name, content in MEMBERS.items():
            assert await shown.read(b"one/" + name) == content
        where = await shown.getxattr(b"one/src/dir/a b&c.bin", "user.riafs.where")
        assert where == b"src/dir/a b&c.bin in the archive " + archive


async def test_member_is_read_again_from_the_blocks_that_are_kept(store: SmallStore, tmp_path: Path) -> None:
    data = FORMS[b".tar.gz"](tmp_path)
    archive = key_of(data, b".tar.gz")
    path = linked(store, archive).put(archive, data)
    async with opened(store.path, cache=tmp_path / "cache") as shown:
        assert await shown.read(b"one/src/dir/a b&c.bin") == LARGE
    path.write_bytes(b"gone")
    async with opened(store.path, cache=tmp_path / "cache") as shown:
        assert await shown.read(b"one/src/dir/a b&c.bin") == LARGE
        assert shown.counters.blocks_from_disk


async def test_archive_in_an_archive_and_in_the_archive_of_the_store(store: SmallStore, tmp_path: Path) -> None:
    inner = zipped(tmp_path)
    inner_key = key_of(inner, b".zip")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as outer_file:
        outer_file.writestr("deep/inner.zip", inner)
    outer_key = key_of(buffer.getvalue(), b".zip")
    dataset = store.dataset("one", {b"file": Locked(key_of(LARGE))})
    dataset.annex_branch(
        web_log(key_of(LARGE), url(inner_key, b"src/dir/a b&c.bin", len(LARGE)))
        | web_log(inner_key, url(outer_key, b"deep/inner.zip", len(inner)))
    )
    dataset.archive({outer_key: buffer.getvalue()})
    async with opened(store.path) as shown:
        assert await shown.read(b"one/file") == LARGE


async def test_other_copy_of_the_archive_is_taken_where_the_first_is_damaged(
    store: SmallStore, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("")
    data = FORMS[b".tar"](tmp_path)
    archive = key_of(data, b".tar")
    dataset = linked(store, archive)
    dataset.put(archive, data.replace(LARGE[:100], bytes(100), 1))
    dataset.archive({archive: data})
    async with opened(store.path) as shown:
        assert await shown.read(b"one/src/dir/a b&c.bin") == LARGE


@pytest.mark.parametrize(
    ("name", "content", "failure"),
    [
        (b"src/dir/a b&c.bin", bytes(len(LARGE)), CorruptContent),
        (b"src/dir/a b&c.bin", LARGE[:-1], DecodeFailed),
        (b"src/dir/a b&c.bin", LARGE + b"!", DecodeFailed),
        (b"src/none", b"what is not in there", DecodeFailed),
        (b"../../../etc/passwd", b"root", DecodeFailed),
    ],
)
async def test_member_that_is_not_the_key_s_content_is_an_error(
    store: SmallStore,
    tmp_path: Path,
    expected_warnings: Announce,
    name: bytes,
    content: bytes,
    failure: type[RiafsError],
) -> None:
    expected_warnings("riafs.content")
    data = FORMS[b".tar.gz"](tmp_path)
    archive = key_of(data, b".tar.gz")
    dataset = store.dataset("one", {b"file": Locked(key_of(content))})
    dataset.annex_branch(web_log(key_of(content), url(archive, name, len(content))))
    dataset.put(archive, data)
    async with opened(store.path) as shown:
        with pytest.raises(failure):
            await shown.read(b"one/file")


async def test_archive_that_is_not_in_the_store_and_one_in_itself(
    store: SmallStore, expected_warnings: Announce
) -> None:
    expected_warnings("is not in the store")
    key = key_of(b"content")
    dataset = store.dataset("one", {b"file": Locked(key), b"other": Locked(key_of(b"x"))})
    links = web_log(key, url(key, b"in itself", 7)) | web_log(key_of(b"x"), url(key_of(b"none"), b"y", 1))
    dataset.annex_branch(links)
    async with opened(store.path) as shown:
        for name in (b"one/file", b"one/other"):
            with pytest.raises(MissingContent):
                await shown.read(name)
            assert await shown.getxattr(name, "user.riafs.where") == b"nowhere found"


def test_urls_of_both_forms() -> None:
    key = parse_key(b"MD5E-s3--764efa883dda1e11db47671c4a3bbd9e.tar.gz")
    urls = [
        b":dl+archive:%b#path=a+b/%%C3%%A4%%26&size=12" % key.serialised,
        b"dl+archive:%b/old/%%41%%20b#size=3" % key.serialised,
        b"dl+archive:%b#size=3" % key.serialised,
        b"dl+archive:nothing#path=x",
        b"dl+archive:%b#path=x%%00y" % key.serialised,
        b"https://example.org/x",
        b"dl+archive:%b#path=x&size=-1" % key.serialised,
    ]
    assert archive_links(urls) == (
        ArchiveLink(key, "a b/ä&".encode(), 12),
        ArchiveLink(key, b"old/A b", 3),
        ArchiveLink(key, b"x", None),
    )
