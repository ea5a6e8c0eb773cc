import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.formats.keys import parse_key
from riafs.formats.pointers import MAX_POINTER, parse_pointer, pointed

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
