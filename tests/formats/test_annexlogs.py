"""Logs of the git-annex branch: what they say, and that writing one line loses nobody else's."""

from hypothesis import given
from hypothesis import strategies as st

from riafs.formats.annexlogs import (
    ChunkedCopy,
    equivalent_keys,
    live_infos,
    parse_chunk_log,
    parse_presence,
    with_chunks,
    with_presence,
)
from riafs.formats.keys import parse_key

clocks = st.decimals(0, 10**12, places=3).map(lambda clock: f"{clock}s".encode())


def test_the_newest_line_about_an_info_counts() -> None:
    text = b"1287290776.765152s 1 a\n1287290776.765153s 0 a\n5s 1 b\n4s 0 b\n7s X c\n8s 1 http://x/a b\n"
    assert parse_presence(text) == {b"a": False, b"b": True, b"c": False, b"http://x/a b": True}
    assert live_infos(text) == (b"b", b"http://x/a b")


def test_of_lines_with_the_same_clock_the_earlier_counts() -> None:
    assert parse_presence(b"5s 1 a\n5s 0 a\n5.0s 0 a\n") == {b"a": True}


def test_clocks_are_compared_as_numbers() -> None:
    assert parse_presence(b"9s 0 a\n10s 1 a\n9.9s 0 a\n") == {b"a": True}


def test_lines_are_read_or_skipped_as_in_git_annex() -> None:
    read = b"6 1 bbbb\n6s 1 dd dd\n6s 1 eeee\r\n-6s 1 ffff\n6s 1  jjjj\n6s 1 last"
    skipped = b"\n1 cccc\n6.s 1 gggg\n.5s 1 hhhh\n6s  1 iiii\n6e2s 1 kkkk\n 6s 1 mmmm\n6s 2 nnnn\n6s 1\n"
    assert live_infos(skipped + read) == (b"bbbb", b"dd dd", b"eeee", b"ffff", b" jjjj", b"last")


def test_chunk_logs_give_the_copies_that_are_there() -> None:
    text = b"2s u1:1048576 3\n1s u1:1048576 9\n2s u1:10 4\n3s u1:10 0\n2s u2:5 1\nx u3:5 1\n2s u3:0 1\n2s u3:x 1\n"
    assert parse_chunk_log(text) == (ChunkedCopy(b"u1", 1048576, 3), ChunkedCopy(b"u2", 5, 1))


def test_of_chunk_log_lines_with_the_same_clock_the_later_counts() -> None:
    assert parse_chunk_log(b"2s u:10 3\n2s u:10 4\n") == (ChunkedCopy(b"u", 10, 4),)


def test_chunk_counts_beyond_reason_are_left_out() -> None:
    assert parse_chunk_log(b"2s u:1 9999999999999999999\n2s v:9999999999999999999 1\n2s w:1 " + b"9" * 99) == ()


def test_equivalent_keys_are_the_live_ones_that_can_verify() -> None:
    key = b"SHA256E-s11--60d6"
    text = b"5s 1 " + key + b"\n5s 1 VURL--http://x\n5s 0 MD5--gone\n5s 1 no key\n"
    assert equivalent_keys(text) == (parse_key(key),)


@given(st.lists(st.tuples(clocks, st.booleans(), st.sampled_from([b"a", b"b c"]))))
def test_a_written_log_is_read_back(lines: list[tuple[bytes, bool, bytes]]) -> None:
    text = b"".join(b"%b %d %b\n" % line for line in lines)
    presence = parse_presence(text)
    assert set(presence) == {info for _, _, info in lines}
    for info, present in presence.items():
        newest = max(float(clock[:-1]) for clock, _, name in lines if name == info)
        assert present in {status for clock, status, name in lines if name == info and float(clock[:-1]) == newest}


@given(st.binary() | st.from_regex(rb"([-0-9.s]{1,4} [01X] [a-z:0-9 ]{0,5}\r?\n){0,5}"))
def test_any_bytes_are_a_log(text: bytes) -> None:
    assert set(live_infos(text)) <= set(parse_presence(text))
    parse_chunk_log(text)
    equivalent_keys(text)


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
    union = b"".join(sorted({*text.splitlines(keepends=True), *after.splitlines(keepends=True)}))  # as git-annex merges
    assert parse_presence(union) == parse_presence(after)
    assert with_presence(after, UUID, now) is None


@given(st.binary(max_size=200))
def test_any_chunk_log_gets_its_line(text: bytes) -> None:
    written = with_chunks(text, UUID, 4096, 7, 50)
    copies = parse_chunk_log(text if written is None else written)
    assert (UUID, 4096, 7) in {(copy.uuid, copy.chunk_size, copy.count) for copy in copies}
