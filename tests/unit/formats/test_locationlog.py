"""Logs as they are written: the newest line for each info stays, one is added, nobody's is lost."""

from hypothesis import given
from hypothesis import strategies as st

from riafs.formats.annexlogs import (
    dead_repositories,
    parse_chunk_log,
    parse_config_log,
    parse_presence,
    union_of,
    with_chunks,
    with_presence,
)

UUID, OTHER = b"11111111-1111", b"22222222-2222"


def test_a_new_log_has_one_line() -> None:
    assert with_presence(b"", UUID, 100) == b"100s 1 11111111-1111\n"


def test_what_is_logged_already_is_not_written_again() -> None:
    assert with_presence(b"100s 1 %b\n" % UUID, UUID, 200) is None


def test_a_clock_is_above_every_earlier_one() -> None:
    assert (
        with_presence(b"500s 1 %b\n500s 0 %b\n500.5s 0 %b\n" % (UUID, UUID, UUID), UUID, 100) == b"501s 1 %b\n" % UUID
    )


def test_others_stay_sorted_and_compacted() -> None:
    text = b"7s 1 %b\nrubbish\n5s X %b\n8.25s 0 %b\n" % (OTHER, OTHER, OTHER)
    assert with_presence(text, UUID, 9) == b"9s 1 %b\n8.25s 0 %b\n" % (UUID, OTHER)


def test_chunks() -> None:
    text = with_chunks(b"5s %b:100 2\n" % OTHER, UUID, 100, 3, 9)
    assert text == b"9s %b:100 3\n5s %b:100 2\n" % (UUID, OTHER)
    assert with_chunks(text, UUID, 100, 3, 20) is None
    assert with_chunks(text, UUID, 100, 4, 5) == b"10s %b:100 4\n5s %b:100 2\n" % (UUID, OTHER)


@given(st.binary(max_size=200), st.integers(0, 2**33))
def test_any_log_gets_its_line(text: bytes, now: int) -> None:
    before = parse_presence(text)
    written = with_presence(text, UUID, now)
    after = parse_presence(text if written is None else written)
    assert after == {**before, UUID: True}


@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.sampled_from([b"0", b"1"]), st.sampled_from([UUID, OTHER])),
        unique_by=lambda line: (line[0], line[2]),
    ),
    st.integers(0, 99),
)
def test_every_reader_believes_the_new_line(lines: list[tuple[int, bytes, bytes]], now: int) -> None:
    text = b"".join(b"%ds %b %b\n" % line for line in lines)
    written = with_presence(text, UUID, now)
    after = text if written is None else written
    assert parse_presence(after)[UUID]
    assert parse_presence(union_of([text, after])) == parse_presence(after)
    assert with_presence(after, UUID, now) is None


@given(st.binary(max_size=200))
def test_any_chunk_log_gets_its_line(text: bytes) -> None:
    written = with_chunks(text, UUID, 4096, 7, 50)
    copies = parse_chunk_log(text if written is None else written)
    assert (UUID, 4096, 7) in {(copy.uuid, copy.chunk_size, copy.count) for copy in copies}


def test_a_union_has_every_line_once() -> None:
    assert union_of([b"2s 1 b\n1s 1 a\n", b"1s 1 a\n3s 0 a"]) == b"1s 1 a\n2s 1 b\n3s 0 a\n"
    assert union_of([b"", b"\n"]) == b""


def test_settings_that_hold_for_all() -> None:
    text = (
        b"5s annex.backend SHA1\n7.5s annex.backend MD5\n1s annex.largefiles include=*.bin and largerthan=1\n2s gone \n"
    )
    assert parse_config_log(text) == {b"annex.backend": b"MD5", b"annex.largefiles": b"include=*.bin and largerthan=1"}


@given(st.binary(max_size=100))
def test_any_bytes_are_settings_of_some_kind(text: bytes) -> None:
    parse_config_log(text)
    dead_repositories(text)


def test_dead_repositories() -> None:
    text = b"%b X timestamp=5s\n%b X timestamp=5s\n%b 1 timestamp=6s\n" % (UUID, OTHER, OTHER)
    assert dead_repositories(text) == {UUID}
