"""Archives of every method that 7-Zip writes: each member's bytes, and py7zr as a second opinion on the header."""

import contextlib
import os
import random
import stat
import sys
import zlib
from pathlib import Path

import py7zr
import pytest

from riafs.archive.archive import ArchiveTools
from riafs.archive.index import IndexDirectory
from riafs.archive.member import DecodedMember
from riafs.storage.bytesource import Extent
from tests.archive.conftest import SEARCH_PATH, Pack, content_of, open_archive, tools_with, update
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
    "RISC-V": ("-m0=RISCV", "-m1=LZMA2"),
    "Swap2": ("-m0=SWAP2", "-m1=LZMA2"),
    "Swap4": ("-m0=SWAP4", "-m1=PPMd"),
    "BCJ, LZMA": ("-m0=BCJ", "-m1=LZMA"),
    "ARM, PPMd": ("-m0=ARM", "-m1=PPMd"),
    "PPC, BZip2": ("-m0=PPC", "-m1=BZip2"),
    "Delta, Deflate": ("-m0=Delta:2", "-m1=Deflate"),
    "SPARC, ARM64, Deflate64": ("-m0=SPARC", "-m1=ARM64", "-m2=Deflate64"),
    "IA64, stored": ("-m0=IA64", "-m1=Copy"),
    "Deflate, BZip2": ("-m0=Deflate", "-m1=BZip2"),
    "PPMd, LZMA": ("-m0=PPMd", "-m1=LZMA"),
    "BCJ2, stored": ("-m0=BCJ2", "-m1=Copy", "-m2=LZMA", "-m3=LZMA", "-mb0:1", "-mb0s1:2", "-mb0s2:3"),
}
# What py7zr 1.1 does not know.
NO_SECOND_OPINION = {
    name for name in METHODS if {*name.split(", ")} & {"BCJ2", "ARM64", "RISC-V", "Swap2", "Swap4", "Delta"}
}

# py7zr shows escapes as the characters they are in the archive, and backslashes as slashes.
ALTERED_BY_PY7ZR = (b"raw", "\uef80".encode(), b"back")


def machine_code() -> bytes:
    """Bytes in which every branch filter finds much to change."""
    generator = random.Random(7)
    code = bytearray(generator.randbytes(100_003))
    for at in range(0, len(code) - 8, 4):
        code[at] = generator.choice((0xE8, 0xE9, 0xEF, 0x17, 0x97, code[at]))
        code[at + 1] &= generator.choice((0x02, 0xF2, 0xFF))
        code[at + 3] = generator.choice((0x00, 0x94, 0x97, 0x90, 0xB0, 0xEB, code[at + 3]))
    return bytes(code)


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
    b"g/program": Path(sys.executable).read_bytes()[:300_000],
    b"g/calls": machine_code(),
}


@pytest.mark.parametrize("method", METHODS)
async def test_every_member_is_read_back_with_and_without_7z(method: str, pack: Pack, spool: Path) -> None:
    path = pack(CONTENTS, *METHODS[method])
    for search_path in (SEARCH_PATH, ()):
        with contextlib.closing(tools_with(spool, search_path=search_path)) as tools:
            archive = await open_archive(path, tools)
            for name, content in CONTENTS.items():
                if content is not None:
                    assert await content_of(archive, name) == content


@pytest.mark.parametrize("method", METHODS)
async def test_every_member_is_decrypted_without_7z(method: str, pack: Pack, spool: Path) -> None:
    path = pack(CONTENTS, "-psecret", *METHODS[method])
    with contextlib.closing(tools_with(spool, search_path=(), password="secret")) as tools:
        archive = await open_archive(path, tools)
        for name, content in CONTENTS.items():
            if content is not None:
                assert await content_of(archive, name) == content


@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("stored")])
async def test_members_of_many_packed_pieces_are_read_without_7z(method: str, pack: Pack, spool: Path) -> None:
    contents: dict[bytes, bytes | None] = {b"noise": random.Random(5).randbytes(700_000), b"last": b"last"}
    with contextlib.closing(tools_with(spool, search_path=())) as tools:
        archive = await open_archive(pack(contents, *METHODS[method]), tools)
        for name, content in contents.items():
            assert await content_of(archive, name) == content


@pytest.mark.parametrize("filters", [[py7zr.FILTER_ZSTD], [py7zr.FILTER_BROTLI], [py7zr.FILTER_X86, py7zr.FILTER_ZSTD]])
@pytest.mark.parametrize("password", [None, "secret"])
async def test_methods_of_other_programs_are_read_with_and_without_7z(
    filters: list[int], password: str | None, spool: Path, tmp_path: Path
) -> None:
    chain = [{"id": each, "level": 3} for each in filters]
    chain += [] if password is None else [{"id": py7zr.FILTER_CRYPTO_AES256_SHA256}]
    path = tmp_path / "other.7z"
    with py7zr.SevenZipFile(path, "w", filters=chain, password=password) as made:
        for name in (b"g/noise", b"g/text", b"g/program"):
            made.writestr(CONTENTS[name] or b"", name.decode())
    for search_path in (SEARCH_PATH, ()):
        with contextlib.closing(tools_with(spool, search_path=search_path, password=password)) as tools:
            archive = await open_archive(path, tools)
            for name in (b"g/noise", b"g/text", b"g/program"):
                assert await content_of(archive, name) == CONTENTS[name]


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


@pytest.mark.parametrize("switches", [("-mx0",), ("-m0=LZMA2",), ("-m0=PPMd", "-psecret", "-mhe=on")])
async def test_an_archive_behind_a_program_is_read(
    switches: tuple[str, ...], pack: Pack, spool: Path, tmp_path: Path
) -> None:
    program = Path(sys.executable).read_bytes()[:50_000]
    stub = program + b"7z\xbc\xaf\x27\x1c" * 9 + program + bytes((1 << 20) - 2 * len(program) - 54 - 3)
    path = tmp_path / "archive.exe"
    path.write_bytes(stub + pack(CONTENTS, *switches).read_bytes())
    for _ in range(2):  # the second time with the saved list
        indexes = IndexDirectory(os.fsencode(spool))
        with contextlib.closing(tools_with(spool, search_path=(), indexes=indexes, password="secret")) as tools:
            archive = await open_archive(path, tools)
            for name in (b"g/text", b"g/noise", b"st*r"):
                assert await content_of(archive, name) == CONTENTS[name]


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
