"""Keys for new content: extensions by git-annex's rules (each tried with git-annex 10), digests, sizes."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.formats.digests import KeyMaker, checker, supported
from riafs.formats.keys import ExtensionRules, file_extension, parse_key

RULES = ExtensionRules()


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        (b"a.txt", b".txt"),
        (b"a.tar.gz", b".tar.gz"),
        (b"dir.d/a.nii.gz", b".nii.gz"),
        (b"a.b.c.d", b".c.d"),
        (b"a.jpegs", b""),
        (b"a.toolong.x", b".x"),
        (b"a.x.toolong", b""),
        (b".hidden", b""),
        (b".hidden.txt", b".txt"),
        (b"a.TXT", b".TXT"),
        (b"a.tar..gz", b".gz"),
        (b"a.b c.gz", b".gz"),
        (b"a.t-x", b""),
        ("a.ä".encode(), ".ä".encode()),
        ("a.日本".encode(), b""),
        (b"a.\xff\xfe", b".\xff\xfe"),
        (b"a", b""),
        (b"a.", b""),
    ],
)
def test_extensions(name: bytes, extension: bytes) -> None:
    assert file_extension(name, RULES) == extension


def test_a_dataset_may_have_other_rules() -> None:
    assert file_extension(b"a.b.jpegs", ExtensionRules(length=5, count=1)) == b".jpegs"
    assert file_extension(b"a.b.c.d", ExtensionRules(length=4, count=3)) == b".b.c.d"


@given(st.binary(max_size=40), st.sampled_from([b"MD5E", b"SHA256E", b"SHA1", b"BLAKE2B256E"]), st.binary(max_size=30))
def test_a_key_is_one_and_its_own_content_verifies(content: bytes, backend: bytes, name: bytes) -> None:
    maker = KeyMaker(backend)
    maker.update(content[:7])
    maker.update(content[7:])
    key = maker.key(name, RULES)
    assert parse_key(key.serialised) == key
    assert key.size == len(content)
    verifier = checker(key)
    assert verifier is not None
    verifier.update(content)
    assert verifier.matches()


def test_the_digest_is_that_of_the_content() -> None:
    maker = KeyMaker(b"MD5E")
    maker.update(b"x")
    assert maker.key(b"a.dat", RULES).serialised == b"MD5E-s1--" + hashlib.md5(b"x").hexdigest().encode() + b".dat"


def test_keys_that_are_no_digest_cannot_be_made() -> None:
    assert [name for name in (b"MD5", b"MD5E", b"WORM", b"URL", b"GITBUNDLE", b"?") if supported(name)] == [
        b"MD5",
        b"MD5E",
    ]
