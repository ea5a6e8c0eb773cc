"""Keys as they are parsed and made: escapes, extensions (by git-annex 10's rules), sizes."""

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from riafs.errors import MalformedKey
from riafs.formats.digests import KeyMaker, checker, makes_keys
from riafs.formats.keys import (
    MAX_KEY,
    ExtensionRules,
    Key,
    escape,
    file_extension,
    parse_file_name,
    parse_key,
    unescape,
)
from riafs.formats.names import valid_name

numbers = st.none() | st.integers(0, 2**63 - 1)
backends = st.binary(min_size=1, max_size=12).filter(lambda text: not set(text) & set(b"-\n\0"))
names = st.binary(max_size=60).filter(lambda text: not set(text) & set(b"\n\0"))
keys = st.builds(Key, backends, names, numbers, numbers, numbers, numbers)


def test_fields_of_a_key_are_read() -> None:
    assert parse_key(b"WORM-s42-m1700000000-S10-C2--a-s1--b") == Key(b"WORM", b"a-s1--b", 42, 1700000000, 10, 2)


@pytest.mark.parametrize(
    "text",
    [
        b"MD5E-s3--",
        b"MD5E--x",
        b"MD5E-m5--x",
        b"MD5E-s3-S5--x",
        b"MD5E-s3-C5--x",
        b"MD5E----x",
        b"MD5E-s3--.",
        b"md5e--x",
        b"foo/bar-s1--x",
        b"XYZ-s1--q",
        b"MD5E-s3--a\xff\tb ",
        b"WORM--/../x",
        b"MD5E--x." + b"y" * 63,
        b"MD5--x." + b"y" * 64,
        b"GITBUNDLE--x." + b"y" * 64,
        b"MD5E-s9223372036854775807--x",
    ],
)
def test_a_key_that_git_annex_reads_is_read_and_written_back(text: bytes) -> None:
    assert parse_key(text).serialised == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b".",
        b"..",
        b"MD5E",
        b"MD5E-x",
        b"MD5E-m3-s3--x",
        b"MD5E-s-3--x",
        b"MD5E-s+3--x",
        b"MD5E-s3-s4--x",
        b"MD5E-s3 --x",
        "MD5E-s٣--x".encode(),
        b"MD5E-s--x",
        b"MD5E-C1-S1--x",
        b"----x",
        b"-s1--q",
        b"MD5E--a\nb",
        b"MD5E--a\n",
        b"MD5E--a\0b",
        b"MD5\nE--a",
        b"MD5E--x." + b"y" * 64,
        b"MD5E--x.y." + b"y" * 62,
        b"UNKNOWNE--x." + b"y" * 64,
        b"MD5E-s9223372036854775808--x",
        b"MD5E-s" + b"9" * 4000 + b"--x",
        b"MD5E-s3-m" + b"9" * 30 + b"--x",
        b"MD5--" + b"x" * MAX_KEY,
    ],
)
def test_text_that_is_no_key_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedKey):
        parse_key(text)


def test_numbers_lose_leading_zeros() -> None:
    assert parse_key(b"MD5E-s007--x").serialised == b"MD5E-s7--x"


def test_a_key_too_long_for_a_file_name_still_parses() -> None:
    assert len(parse_key(b"URL--" + b"/" * 300).file_name) == 305


@pytest.mark.parametrize(
    ("serialised", "file_name"),
    [
        (b"URL--http://example.org/a%20b?x=1&y=2", b"URL--http&c%%example.org%a&s20b?x=1&ay=2"),
        (b"a--&a%s:c/", b"a--&aa&ss&cc%"),
        (b"MD5E-s6--b1946ac92492d2347c6235b4d2611184.txt", b"MD5E-s6--b1946ac92492d2347c6235b4d2611184.txt"),
    ],
)
def test_special_characters_are_escaped_in_file_names(serialised: bytes, file_name: bytes) -> None:
    assert escape(serialised) == file_name
    assert unescape(file_name) == serialised


@pytest.mark.parametrize(
    ("file_name", "serialised"),
    [
        (b"URL--&&a", b"URL--&"),
        (b"URL--a&", b"URL--a"),
        (b"URL--&%b", b"URL--/b"),
        (b"URL--&x&y", b"URL--xy"),
        (b"URL--&&&c", b"URL--:"),
    ],
)
def test_odd_escapes_are_read_as_git_annex_reads_them(file_name: bytes, serialised: bytes) -> None:
    assert unescape(file_name) == serialised


@given(st.binary())
def test_escaping_is_undone_by_unescaping_and_leaves_no_slash(text: bytes) -> None:
    assert unescape(escape(text)) == text
    assert b"/" not in escape(text)


@given(keys)
def test_a_key_survives_both_of_its_forms(key: Key) -> None:
    try:
        again = parse_key(key.serialised)
    except MalformedKey:
        assert b"." in key.name
        assert key.backend.endswith(b"E")
        return
    assert again == key
    assert parse_file_name(key.file_name) == key


@given(st.binary() | st.from_regex(rb"[A-Z]{1,3}(-[smSC]\d{1,20}){0,4}--.{0,9}"))
@example(b"a--..")
def test_any_bytes_are_a_key_with_a_harmless_file_name_or_malformed(text: bytes) -> None:
    try:
        key = parse_file_name(text)
    except MalformedKey:
        return
    assert valid_name(key.file_name)


def test_a_chunk_names_its_size_and_number_and_leads_back_to_the_whole() -> None:
    whole = parse_key(b"MD5E-s3000000--7fc56270e7a70fa81a5935b72eacbe29.dat")
    chunk = whole.chunk(1048576, 2)
    assert chunk.serialised == b"MD5E-s3000000-S1048576-C2--7fc56270e7a70fa81a5935b72eacbe29.dat"
    assert chunk.unchunked() == whole
    assert whole.unchunked() is whole


@given(size=st.integers(0, 500), chunk_size=st.integers(1, 600))
def test_chunks_make_up_the_whole(size: int, chunk_size: int) -> None:
    key = Key(b"MD5", b"x", size, None, None, None)
    count = max(1, -(-size // chunk_size))
    lengths = [key.chunk_length(chunk_size, number) for number in range(1, count + 1)]
    assert sum(length for length in lengths if length is not None) == size
    assert all(length == chunk_size for length in lengths[:-1])
    assert key.chunk_length(chunk_size, count + 1) == 0


def test_a_key_without_size_does_not_tell_the_length_of_chunks() -> None:
    assert parse_key(b"URL--x").chunk_length(10, 1) is None


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
    assert [name for name in (b"MD5", b"MD5E", b"WORM", b"URL", b"GITBUNDLE", b"?") if makes_keys(name)] == [
        b"MD5",
        b"MD5E",
    ]
