"""Digests are those that git-annex computes, checksums those of zlib, whichever library makes them."""

import hashlib
import random
import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.formats import digests
from riafs.formats.digests import Blake2bp, Blake2sp, checker, verifiable
from riafs.formats.keys import parse_key

CONTENT = random.Random(1).randbytes(100_003)
# Digests of CONTENT, as git-annex 10.20261026 computed them.
REAL = {
    b"MD5": b"c19e6d2071d39347e6189064d90e7f19",
    b"SHA1": b"eaf557ef41d62e802c64d970ddd4b5d3cbcc73c1",
    b"SHA224": b"4e0854a73a0b8ed7b49551033ce5b814bf03e434026b8b709b363952",
    b"SHA256": b"217ea88c278a8cc18cdef24dc15bac4f48d27733a480b53aee06015dd1b5c143",
    b"SHA384": b"a4947fc94fa2aee47d2aeb7b052227ffc432c11ed6b19a7d0328c6fa5c953dce4b3d4a3495f1bd2f1fd65a2c6b2b2474",
    b"SHA512": b"3cc52915f0c3737420e26dd647de9c20175656e606092d75b480c932d6254d73"
    b"255c14b9efd11190a30a49a7b552cb4e988da3f19096a16fe14e60bd62770d44",
    b"SHA3_224": b"782a12c40d701021130996a0f900b5ece0e734a84942c81163fa1e30",
    b"SHA3_256": b"b62a4dda0419488b349451985332b5bb8c4e163ed3b83694c5f2347075fecfea",
    b"SHA3_384": b"94e187a50a58184dedf397a4f78818182e066892262129c6799651475abdbc9db277b1f2aa499825f407d6543c74bda7",
    b"SHA3_512": b"3127961aa22e0c0e0ab9f3c8d2e0bd15f548eb0ba00733beb144abbba44c36c5"
    b"2470d5662b9eabec25b22b564884761118afb1a8e532925d8c99181349dcea50",
    b"BLAKE2B160": b"9fdfd7f7640312ac7d3a05544b6ab527555e2d8a",
    b"BLAKE2B224": b"b7311b2d40781952105a93887da9c1e40ea417fba65580301fa12668",
    b"BLAKE2B256": b"8c62ef2f1b68ca04511d99aeb51cfc12409adbc307df1706d83ed20a597e513e",
    b"BLAKE2B384": b"01c5068fe0fbff5fd2c456647ad995d213f3ec148683a3e9c247935dacc81af3dd894a5658bb8a4e7d3ab2df36c352e2",
    b"BLAKE2B512": b"3e8d936fbfadf666cceeb2997cc84e890ed10faedd4e9a962be03d791d629aab"
    b"2f4264a4f8cd7c29fbcfd23531c5b3351bf5ef0f683a1a32cddbb34ade43c412",
    b"BLAKE2BP512": b"396d3a4db371583c5c7a3dad9a3437dfc1c4b17983318c47fd89bb3631750676"
    b"e30054e3bccfe44b4d680bbe473d131842b8c4e53b7abb3899a68993329f2c73",
    b"BLAKE2S160": b"9f89ddf55ab5ce4aed477e96739cbca4bc33747c",
    b"BLAKE2S224": b"cf005117f1d54790b9c68458ce4d453224e789f8a9ed29068e3e04ae",
    b"BLAKE2S256": b"07539d3c6c7439a99d7029899034f883cd4950858823fd4aa3ab79894fa80faa",
    b"BLAKE2SP256": b"6067f19c70267f875dc9bfbdaa8ed9c7ea7ab65a6e180e243b71939ff6a29b53",
    b"BLAKE3_256": b"44f252df812272e20e24ad391308db0d39330b11bc573a35ebfa2cca628e1cd8",
    b"XXH3": b"3d793e65e68e5da5",
}
SKEIN = {
    b"SKEIN256": b"f5263f9d5da1320fb8290749a10894e211139b738ddf00c11bf133638599f35a",
    b"SKEIN512": b"4fd526b313079a887a869b4cb7ef85fa63c50c4315311f423f0bbfeaba06dcf0"
    b"279ef31459e63be197dad441034a5b7dfc900caaae49b1bf2308f83c3a5ab405",
}
UNCHECKED = [
    b"WORM-s1-m2--x",
    b"URL--http://x/",
    b"VURL--x",
    b"XFOO--ab",
    b"GPGHMACSHA1--ab",
    b"GITMANIFEST--ab",
    b"BLAKE2SP224--ab",
    b"MD5EE--ab",
    b"md5--ab",
    b"E--ab",
    b"MD5-s5-S2-C1--5d41402abc4b2a76b9719d911017c592",
]


def _accepts(key: bytes, content: bytes = CONTENT) -> bool:
    found = checker(parse_key(key))
    assert found is not None
    found.update(content)
    return found.matches()


@pytest.mark.parametrize(("backend", "digest"), REAL.items())
def test_content_matches_its_key_and_nothing_else_does(backend: bytes, digest: bytes) -> None:
    assert _accepts(backend + b"--" + digest)
    assert _accepts(backend + b"E--" + digest + b".nii.gz")
    assert not _accepts(backend + b"--" + digest, CONTENT + b"x")
    assert not _accepts(backend + b"--" + digest, CONTENT[:-1])


@pytest.mark.parametrize(("backend", "digest"), SKEIN.items())
def test_skein_is_checked_where_its_package_is_installed(backend: bytes, digest: bytes) -> None:
    pytest.importorskip("skein")
    assert _accepts(backend + b"--" + digest)
    assert not _accepts(backend + b"--" + digest, b"other")


@pytest.mark.parametrize("backend", REAL)
def test_how_content_is_cut_up_does_not_matter(backend: bytes) -> None:
    found = checker(parse_key(backend + b"--" + REAL[backend]))
    assert found is not None
    position = 0
    for length in (1, 127, 0, 128, 129, 511, 512, 513, 10_000, 100_000):
        found.update(memoryview(CONTENT)[position : position + length])
        position += length
    assert found.matches()


@pytest.mark.parametrize("text", UNCHECKED)
def test_keys_without_a_usable_digest_have_no_checker(text: bytes) -> None:
    assert checker(parse_key(text)) is None
    assert not verifiable(parse_key(text))


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"x",
        b"5D41402ABC4B2A76B9719D911017C592",
        b"5d41402abc4b2a76b9719d911017c59",
        b"5d41402abc4b2a76b9719d911017c5921",
        b"\xff",
        b"\\\\5d41402abc4b2a76b9719d911017c592",
    ],
)
def test_a_malformed_digest_of_a_known_backend_never_matches(name: bytes) -> None:
    assert verifiable(parse_key(b"MD5--" + name))
    assert not _accepts(b"MD5--" + name, b"hello")


def test_a_backslash_before_the_digest_is_ignored() -> None:
    assert _accepts(b"MD5E--\\5d41402abc4b2a76b9719d911017c592.txt", b"hello")


def test_a_git_bundle_is_checked_by_the_end_of_its_name() -> None:
    digest = hashlib.sha256(b"hello").hexdigest().encode()
    assert _accepts(b"GITBUNDLE-s5--89ddefa4-a04c-11ef-87b5-e880882a4f98-" + digest, b"hello")
    assert not _accepts(b"GITBUNDLE-s5--89ddefa4-a04c-11ef-87b5-e880882a4f98-" + digest, b"jello")


def test_a_backend_whose_package_is_missing_cannot_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(digests._OPTIONAL, b"SKEIN256", ("riafs_has_no_such_module", "skein256", 256))
    assert checker(parse_key(b"SKEIN256--ab")) is None


@given(st.binary(max_size=3000), st.lists(st.integers(0, 700), max_size=6))
def test_tree_hashes_do_not_depend_on_the_pieces(content: bytes, lengths: list[int]) -> None:
    for algorithm in (Blake2bp, Blake2sp):
        whole, pieces = algorithm(), algorithm()
        whole.update(content)
        position = 0
        for length in lengths:
            pieces.update(content[position : position + length])
            pieces.hexdigest()
            position += length
        pieces.update(content[position:])
        assert whole.hexdigest() == pieces.hexdigest()


@given(st.lists(st.binary(max_size=100)))
def test_checksum_of_pieces_is_that_of_zlib(pieces: list[bytes]) -> None:
    checksum = 0
    for piece in pieces:
        checksum = digests.crc32(memoryview(piece), checksum)
    assert checksum == zlib.crc32(b"".join(pieces))


def test_zlib_serves_where_the_faster_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    assert digests._fastest() is zlib.crc32
