"""Encrypted archives: read with the right password, refused with permission denied otherwise."""

import errno
import random
import sys
from pathlib import Path

import py7zr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.archive.encryption import Decrypted, derive_key, parse_properties
from riafs.errors import EncryptedArchive, MalformedArchive, MissingProgram, RiafsError
from riafs.storage.bytesource import MemoryBytes
from tests.archive.conftest import Announce, Pack, content_of, open_archive, tools_with

CONTENTS: dict[bytes, bytes | None] = {
    b"noise": random.Random(2).randbytes(3_000_017),
    b"text": b"".join(b"line %d\n" % line for line in range(200_000)),
    b"empty": b"",
    b"small": b"x",
}
PASSWORD = "pässword ☃"


@pytest.mark.parametrize("switches", [("-mx0",), ("-mx1",), ("-mx5", "-ms=on"), ("-m0=LZMA",), ("-mx5", "-ms=off")])
@pytest.mark.parametrize("names", ["-mhe=on", "-mhe=off"])
async def test_members_are_read_with_the_password(
    switches: tuple[str, ...], names: str, pack: Pack, spool: Path
) -> None:
    path = pack(CONTENTS, f"-p{PASSWORD}", names, *switches)
    archive = await open_archive(path, tools_with(spool, password=PASSWORD))
    for name, content in CONTENTS.items():
        assert await content_of(archive, name) == content


@pytest.mark.parametrize("password", [None, "wrong"])
@pytest.mark.parametrize("switches", [("-mx0",), ("-mx5",), ("-m0=LZMA",)])
@pytest.mark.parametrize("names", ["-mhe=on", "-mhe=off"])
async def test_without_the_password_permission_is_denied(
    password: str | None, switches: tuple[str, ...], names: str, pack: Pack, spool: Path, expected_warnings: Announce
) -> None:
    expected_warnings("the password of the archive is wrong")
    path = pack(CONTENTS, f"-p{PASSWORD}", names, *switches)

    async def read() -> bytes:
        return await content_of(await open_archive(path, tools_with(spool, password=password)), b"text")

    with pytest.raises(EncryptedArchive) as failure:
        await read()
    assert failure.value.errno == errno.EACCES


async def test_archives_of_another_writer_are_read(tmp_path: Path, spool: Path) -> None:
    path = tmp_path / "other.7z"
    with py7zr.SevenZipFile(path, "w", password=PASSWORD, header_encryption=True) as archive:
        archive.writestr(b"content" * 999, "name")
    opened = await open_archive(path, tools_with(spool, password=PASSWORD))
    assert await content_of(opened, b"name") == b"content" * 999


def test_a_password_without_derivation_is_the_key() -> None:
    assert derive_key(b"p\0", b"salt", 0x3F) == b"saltp\0".ljust(32, b"\0")


@given(st.binary(max_size=40))
def test_any_properties_are_parsed_or_malformed(properties: bytes) -> None:
    try:
        parsed = parse_properties(properties)
    except MalformedArchive:
        return
    assert len(parsed.vector) == 16
    assert parsed.cycles <= 24 or parsed.cycles == 0x3F


async def test_the_package_that_py7zr_brings_decrypts_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    source = MemoryBytes(random.Random(3).randbytes(160))
    expected = await Decrypted(source, b"k" * 32, b"v" * 16).read(3, 150)
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers", None)
    assert await Decrypted(source, b"k" * 32, b"v" * 16).read(3, 150) == expected
    monkeypatch.setitem(sys.modules, "Cryptodome.Cipher", None)
    with pytest.raises(MissingProgram, match="cryptography"):
        Decrypted(source, b"k" * 32, b"v" * 16)


@given(st.integers(0, 20), st.integers(0, 400), st.integers(0, 400))
async def test_any_range_is_decrypted_as_a_part_of_the_whole(blocks: int, offset: int, length: int) -> None:
    source = MemoryBytes(random.Random(3).randbytes(16 * blocks))
    decrypted = Decrypted(source, b"k" * 32, b"v" * 16)
    whole = bytes(await decrypted.read(0, 16 * blocks))
    assert len(whole) == 16 * blocks
    assert await decrypted.read(offset, length) == whole[offset : offset + length]


async def test_damage_of_an_archive_whose_password_was_right_is_no_question_of_the_password(
    pack: Pack, spool: Path, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings("this copy is not used")
    whole = bytearray(pack(CONTENTS, "-psecret", "-mx0").read_bytes())
    whole[32 + 1_000_000] ^= 1
    (tmp_path / "bad.7z").write_bytes(bytes(whole))
    archive = await open_archive(tmp_path / "bad.7z", tools_with(spool, password="secret"))
    assert await content_of(archive, b"small") == b"x"
    with pytest.raises(RiafsError) as failure:
        await content_of(archive, b"noise")
    assert failure.value.errno == errno.EIO
