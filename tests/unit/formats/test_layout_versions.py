import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.formats.annex import Layout, parse_dataset_version, parse_store_version


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
