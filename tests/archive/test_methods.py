"""Archives of every method that 7-Zip writes: each member's bytes, and py7zr as a second opinion on the header."""

import os
import random
import stat
import zlib
from pathlib import Path

import py7zr
import pytest

from riafs.archive.archive import ArchiveTools
from riafs.archive.member import DecodedMember
from riafs.storage.extents import Extent
from tests.archive.conftest import Pack, content_of, open_archive, update
from tests.archive.headers import File, stored_archive

METHODS = {
    "stored": ("-mx0",),
    "stored, plain header": ("-mx0", "-mhc=off"),
    "stored, solid": ("-mx0", "-ms=on"),
    "default": (),
    "LZMA2, solid": ("-mx9", "-m0=LZMA2", "-ms=on"),
    "LZMA": ("-m0=LZMA",),
    "not solid": ("-ms=off",),
    "blocks of two": ("-ms=2f",),
    "PPMd": ("-m0=PPMd",),
    "BZip2": ("-m0=BZip2",),
    "Deflate": ("-m0=Deflate",),
    "Deflate64": ("-m0=Deflate64",),
    "BCJ": ("-m0=BCJ", "-m1=LZMA2"),
    "BCJ2": ("-m0=BCJ2", "-m1=LZMA", "-m2=LZMA", "-m3=LZMA", "-mb0:1", "-mb0s1:2", "-mb0s2:3"),
    "Delta": ("-m0=Delta:4", "-m1=LZMA2"),
    "ARM64": ("-m0=ARM64", "-m1=LZMA2"),
}
# What py7zr 1.1 does not know.
NO_SECOND_OPINION = {"BCJ2", "ARM64"}

# py7zr shows escapes as the characters they are in the archive, and backslashes as slashes.
ALTERED_BY_PY7ZR = (b"raw", "\uef80".encode(), b"back")

CONTENTS: dict[bytes, bytes | None] = {
    b"F4/53/MD5E-s6--b1946ac92492d2347c6235b4d2611184.txt/MD5E-s6--b1946ac92492d2347c6235b4d2611184.txt": b"hello\n",
    b"F4/53/empty": b"",
    b"F4/directory": None,
    b"g/noise": random.Random(1).randbytes(70_000),
    b"g/text": b"".join(b"line %d of the text\n" % line for line in range(5000)),
    b"star *?[x]": b"pattern" * 3,
    b"st*r": b"as a pattern this is also the next",
    b"stair": b"no pattern",
    b"@list": b"at sign",
    b"-dash": b"dash",
    "tär.gz".encode(): b"umlaut",
    b"raw \xff\xfe\x80": b"not UTF-8",
    "\uef80 private".encode(): b"private use",
    b"new\nline": b"two lines",
    b"back\\slash": b"back",
    b"trailing. ": b"space",
}


@pytest.mark.parametrize("method", METHODS)
async def test_every_member_is_read_back(method: str, pack: Pack, tools: ArchiveTools) -> None:
    archive = await open_archive(pack(CONTENTS, *METHODS[method]), tools)
    for name, content in CONTENTS.items():
        if content is not None:
            assert await content_of(archive, name) == content


@pytest.mark.parametrize("method", METHODS)
async def test_members_have_the_crc_and_mode_of_the_files(
    method: str, pack: Pack, tools: ArchiveTools, tmp_path: Path
) -> None:
    archive = await open_archive(pack(CONTENTS, *METHODS[method]), tools)
    assert len({member.name for member in archive.listing}) == len(archive.listing)
    for member in archive.listing:
        status = os.stat(os.path.join(os.fsencode(tmp_path / "tree"), member.name))
        assert (member.mode, member.is_directory) == (status.st_mode, stat.S_ISDIR(status.st_mode))
        if not member.is_directory:
            content = CONTENTS[member.name]
            assert content is not None
            assert member.crc == (zlib.crc32(content) if content else None)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in NO_SECOND_OPINION])
async def test_py7zr_lists_the_same(method: str, pack: Pack, tools: ArchiveTools) -> None:
    plain = {name: content for name, content in CONTENTS.items() if not name.startswith(ALTERED_BY_PY7ZR)}
    path = pack(plain, *METHODS[method])
    archive = await open_archive(path, tools)
    with py7zr.SevenZipFile(path) as reference:
        theirs = [
            (file.filename.encode(), file.uncompressed, file.crc32, file.is_directory) for file in reference.files
        ]
    assert [(member.name, member.size, member.crc, member.is_directory) for member in archive.listing] == theirs


async def test_stored_members_are_parts_of_the_archive(pack: Pack, tools: ArchiveTools) -> None:
    for switches in METHODS["stored"], METHODS["stored, solid"]:
        path = pack(CONTENTS, *switches)
        archive = await open_archive(path, tools)
        member = archive.find(b"g/noise")
        assert member is not None
        opened = await archive.open_member(member)
        assert isinstance(opened, Extent)
        assert path.read_bytes()[opened.offset :][: opened.size] == CONTENTS[b"g/noise"]
        path.unlink()


async def test_decoded_members_leave_no_file_behind(pack: Pack, tools: ArchiveTools, spool: Path) -> None:
    archive = await open_archive(pack(CONTENTS), tools)
    member = archive.find(b"g/text")
    assert member is not None
    opened = await archive.open_member(member)
    assert isinstance(opened, DecodedMember)
    assert os.listdir(spool) == []
    opened.close()


def replace(path: bytes, content: bytes, mtime: int) -> None:
    Path(os.fsdecode(path)).write_bytes(content)
    os.utime(path, (mtime, mtime))


async def test_several_generations_are_read(pack: Pack, tools: ArchiveTools, tmp_path: Path) -> None:
    path = pack(CONTENTS, "-mx0")
    expected = dict(CONTENTS)
    for generation, switches in enumerate([("-mx5",), ("-m0=PPMd",), ("-mx0",), ("-mx9", "-ms=on")]):
        changes: dict[bytes, bytes] = {b"added %d" % generation: b"new" * 99, b"g/text": b"%d" % generation * 999}
        for name, content in changes.items():
            replace(os.path.join(os.fsencode(tmp_path / "tree"), name), content, 2_000_000_000 + generation)
        expected |= changes
        update(path, os.fsencode(tmp_path / "tree"), *switches)
    archive = await open_archive(path, tools)
    for name, wanted in expected.items():
        if wanted is not None:
            assert await content_of(archive, name) == wanted


async def test_an_archive_without_members_is_empty(pack: Pack, tools: ArchiveTools, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "nothing").mkdir()
    archive = await open_archive(update(tmp_path / "a.7z", os.fsencode(tree), "-xr!nothing"), tools)
    assert list(archive.listing) == []
    assert archive.find(b"nothing") is None


async def test_names_of_old_p7zip_are_found(pack: Pack, tools: ArchiveTools) -> None:
    archive = await open_archive(pack({"tÃ¤r".encode(): b"mojibake"}), tools)
    assert await content_of(archive, "tär".encode()) == b"mojibake"


async def test_seventy_thousand_stored_members_are_read(tools: ArchiveTools, tmp_path: Path) -> None:
    files = [File(b"%03x/%d" % (position % 4096, position), b"content %d" % position) for position in range(70_000)]
    path = tmp_path / "many.7z"
    path.write_bytes(stored_archive(files))
    archive = await open_archive(path, tools)
    for position in range(0, 70_000, 999):
        assert await content_of(archive, files[position].name) == files[position].content
