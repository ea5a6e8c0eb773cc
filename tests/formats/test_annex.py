import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.formats.annex import (
    MAX_POINTER,
    Layout,
    hash_lower,
    hash_mixed,
    object_directories,
    parse_dataset_version,
    parse_pointer,
    parse_store_version,
    pointed,
)
from riafs.formats.annexlogs import CHUNK_LOG, LOCATION_LOG, WEB_LOG, Tuning, parse_difference_log
from riafs.formats.keys import escape, parse_key

K = b"MD5E-s6--b1946ac92492d2347c6235b4d2611184.txt"
POINTER = b"/annex/objects/" + K
REMARK = b"/annex/ any text\n"


def _filled(length: int) -> bytes:
    """A valid pointer of exactly `length` bytes."""
    start = POINTER + b"\n"
    whole_remarks = REMARK * ((length - len(start)) // len(REMARK) - 1)
    rest = length - len(start) - len(whole_remarks)
    return start + whole_remarks + b"/annex/" + b"x" * (rest - 8) + b"\n"


@pytest.mark.parametrize(
    "blob",
    [
        POINTER + b"\n",
        POINTER,
        POINTER + b"\r\n",
        POINTER + b"\n" + REMARK,
        POINTER + b"\n" + REMARK * 3,
        b".git/annex/objects/F4/53/" + K + b"/" + K,
        b".git/annex/objects/F4/53/" + K + b"/" + K + b"\n",
        b"../../.git/annex/objects/F4/53/" + K + b"/" + K,
        b"/abs/.git/annex/objects/F4/53/" + K + b"/" + K,
        b"../.git/modules/sub/annex/objects/F4/53/" + K + b"/" + K,
        b".git/annex/objects/e43/794/" + K + b"/" + K,
        b".git/annex/objects/" + K,
        b".git/annex/objects/00/00/" + K + b"/" + K,
        b"text before" + POINTER,
        _filled(MAX_POINTER),
    ],
)
def test_a_blob_that_git_annex_takes_for_a_pointer_gives_its_key(blob: bytes) -> None:
    assert parse_pointer(blob) == parse_key(K)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\n",
        b"hello\n",
        POINTER + b"\n/annex/ text",
        POINTER + b"\n\n",
        POINTER + b"\nhello\n",
        POINTER + b"\n" + REMARK + b"hello\n",
        b"\n" + POINTER,
        b"annex/objects/" + K,
        b".git/annex/F4/53/" + K + b"/" + K,
        b".git/annex/objects/F4/53/" + K + b"/" + K + b"/",
        b"/annex/objects/",
        b"/annex/objects/../../etc/passwd",
        b"/annex/objects/MD5E-s9999999999999999999--x\n",
        b"/annex/objects/MD5--a\0b\n",
        _filled(MAX_POINTER + 1),
    ],
)
def test_other_blobs_are_ordinary_content(blob: bytes) -> None:
    assert parse_pointer(blob) is None


def test_a_trailing_space_belongs_to_the_key() -> None:
    key = parse_pointer(POINTER + b" \n")
    assert key is not None
    assert key.serialised == K + b" "


def test_escapes_in_a_pointer_are_undone() -> None:
    key = parse_pointer(b"/annex/objects/URL--http&c%%example.org%a&s20b&ac\n")
    assert key is not None
    assert key.serialised == b"URL--http://example.org/a%20b&c"


KEYS = st.from_regex(
    rb"(MD5E|SHA1|GITBUNDLE|a)(-s0?[0-9]{1,19})?(-m5)?--[a&%:. /-]{0,3}(\.[ab.]{0,70})?\r?", fullmatch=True
)


@given(
    KEYS, st.sampled_from([b"", b"\n", b"x\n", b"/", b".git/annex/objects/a/b/"]), st.sampled_from([b"", b"\n", b"\nx"])
)
def test_a_listing_reads_the_same_key(key: bytes, before: bytes, after: bytes) -> None:
    for blob in (before + b"/annex/objects/" + key + after, before + key + after, before + key + b"/" + key + after):
        expected, found = parse_pointer(blob), pointed(blob)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert found == (expected.serialised, expected.file_name, expected.size, expected.mtime)


@given(st.binary(), st.binary())
def test_any_bytes_are_a_pointer_or_not(before: bytes, after: bytes) -> None:
    parse_pointer(before)
    parse_pointer(before + b"/annex/objects/MD5--" + after)


PLAIN = [
    (b"MD5E-s6--b1946ac92492d2347c6235b4d2611184.txt", b"e43/794", b"F4/53"),
    (b"SHA256E-s0--e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", b"f87/4d5", b"pX/ZJ"),
    (b"SHA256E-s31390--f50d7ac4c6b9031379986bc362fcefb65f1e52621ce1708d537e740fefc59cc0.mp3", b"fe0/9b4", b"7P/x0"),
    (b"MD5E-s3000000--7fc56270e7a70fa81a5935b72eacbe29.dat", b"e5e/2da", b"q5/Qk"),
    (b"MD5E-s3000000-S1048576-C2--7fc56270e7a70fa81a5935b72eacbe29.dat", b"e5e/2da", b"q5/Qk"),
    (b"XXH3--2d06800538d394c2", b"451/87d", b"15/Fw"),
    (b"GITMANIFEST--89ddefa4-a04c-11ef-87b5-e880882a4f98", b"518/260", b"9w/X8"),
    ("MD5E-s5--5d41402abc4b2a76b9719d911017c592.tär.gz".encode(), b"c83/471", b"p8/Wp"),
]
ESCAPED = [
    (b"URL--http://example.org/a/b?x", (b"67d/779", b"G7/PG"), (b"e38/fc8", b"F3/g8")),
    (b"URL-s12--http://example.org/a%20b?x=1&y=2", (b"d3d/b29", b"mp/zG"), (b"12d/08c", b"0g/3x")),
    (b"WORM-s42-m1700000000--dir%name,32with.txt", (b"f8f/8b8", b"3X/km"), (b"0f7/fc8", b"Wm/g7")),
]


@pytest.mark.parametrize(("text", "lower", "mixed"), PLAIN)
def test_an_ordinary_key_has_one_directory_in_each_layout(text: bytes, lower: bytes, mixed: bytes) -> None:
    key = parse_key(text)
    assert object_directories(key, Layout.LOWER) == (lower, mixed)
    assert object_directories(key, Layout.MIXED) == (mixed, lower)
    assert (hash_lower(key.unchunked().serialised), hash_mixed(key.unchunked().serialised)) == (lower, mixed)


@pytest.mark.parametrize(("text", "plain", "escaped"), ESCAPED)
def test_a_key_with_escapes_is_tried_under_both_hashes_the_stores_layout_first(
    text: bytes, plain: tuple[bytes, bytes], escaped: tuple[bytes, bytes]
) -> None:
    key = parse_key(text)
    assert (hash_lower(text), hash_mixed(text)) == plain
    assert (hash_lower(escape(text)), hash_mixed(escape(text))) == escaped
    assert object_directories(key, Layout.LOWER) == (escaped[0], plain[0], escaped[1], plain[1])
    assert object_directories(key, Layout.MIXED) == (escaped[1], plain[1], escaped[0], plain[0])


@given(st.binary())
def test_hash_directories_of_any_bytes_have_their_shape(name: bytes) -> None:
    lower, mixed = hash_lower(name), hash_mixed(name)
    assert len(lower) == 7
    assert len(mixed) == 5
    assert set(lower) <= set(b"0123456789abcdef/")
    assert set(mixed) <= set(b"0123456789zqjxkmvwgpfZQJXKMVWGPF/")


def test_logs_of_a_key_lie_under_the_lower_hash_of_the_unescaped_whole_key() -> None:
    url = parse_key(b"URL--http://example.org/a/b?x")
    assert Tuning().log_path(url, WEB_LOG) == b"67d/779/URL--http&c%%example.org%a%b?x.log.web"
    chunk = parse_key(b"MD5E-s3000000-S1048576-C2--7fc56270e7a70fa81a5935b72eacbe29.dat")
    assert Tuning().log_path(chunk, CHUNK_LOG) == b"e5e/2da/MD5E-s3000000--7fc56270e7a70fa81a5935b72eacbe29.dat.log.cnk"
    key = parse_key(b"MD5E-s6--b1946ac92492d2347c6235b4d2611184.txt")
    one_level = parse_difference_log(b"40ad46ba fromList [OneLevelBranchHash] timestamp=1796071135s\n")
    assert one_level.log_path(key, LOCATION_LOG) == b"e43/MD5E-s6--b1946ac92492d2347c6235b4d2611184.txt.log"


def test_tunings_of_all_clones_count_and_others_than_the_branchs_are_told_apart() -> None:
    text = (
        b"4b11715f fromList [ObjectHashLower,OneLevelBranchHash] timestamp=1796071138s\n"
        b"f41b1b75 fromList [OneLevelBranchHash] timestamp=1796071139s\r\n"
        b"aaaaaaaa fromList [] timestamp=1s\nbbbbbbbb SomethingNew\nbroken\n"
    )
    tuning = parse_difference_log(text)
    assert tuning.names == {b"ObjectHashLower", b"OneLevelBranchHash", b"SomethingNew"}
    assert tuning.of_objects == {b"ObjectHashLower", b"SomethingNew"}
    assert parse_difference_log(b"").names == frozenset()


@pytest.mark.parametrize(
    ("text", "layout", "flags"),
    [
        (b"1\n", Layout.LOWER, b""),
        (b"2\n", Layout.MIXED, b""),
        (b"2", Layout.MIXED, b""),
        (b"\n 2|l \n\n", Layout.MIXED, b"l"),
        (b"1|", Layout.LOWER, b""),
    ],
)
def test_known_dataset_versions_give_their_layout_and_flags(text: bytes, layout: Layout, flags: bytes) -> None:
    version = parse_dataset_version(text)
    assert (version.layout, version.flags, version.known, version.reason) == (layout, flags, True, "")


@pytest.mark.parametrize("text", [None, b"", b"3\n", b"2|l|x", b"02", b"2 |l", b"\xff", b"1\n2\n"])
def test_a_missing_or_unknown_dataset_version_reads_as_mixed_and_says_why(text: bytes | None) -> None:
    version = parse_dataset_version(text)
    assert (version.layout, version.known) == (Layout.MIXED, False)
    assert "ria-layout-version" in version.reason or "unknown" in version.reason


def test_store_version_1_is_known_and_anything_else_says_why_not() -> None:
    assert parse_store_version(b"1|l\n").known
    assert parse_store_version(b"1|l\n").flags == b"l"
    for text in (None, b"", b"2\n", b"1|l|l"):
        assert not parse_store_version(text).known
        assert parse_store_version(text).reason


@given(st.binary())
def test_any_bytes_give_a_version(text: bytes) -> None:
    assert parse_dataset_version(text).known or parse_dataset_version(text).layout is Layout.MIXED
    assert parse_store_version(text).known == (not parse_store_version(text).reason)
