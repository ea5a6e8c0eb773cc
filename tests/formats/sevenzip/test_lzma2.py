"""Walking LZMA2 chunks: what they take and make, and that decoding can begin where the walk says."""

import lzma
import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import MalformedArchive
from riafs.formats.sevenzip import lzma2
from riafs.formats.sevenzip.lzma2 import NEAREST_RESETS, Chunk, Resets, parse_chunk

FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 16}]


def packed(content: bytes) -> bytes:
    return lzma.compress(content, lzma.FORMAT_RAW, filters=FILTERS)


def unpacked(stream: bytes, size: int) -> bytes:
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS).decompress(stream, max_length=size)


def joined(*contents: bytes) -> bytes:
    """A stream with a reset at the front of each content."""
    return b"".join(packed(content)[:-1] for content in contents) + b"\0"


def walked(stream: bytes, size: int, beyond: int | None = None) -> Resets:
    resets = Resets(len(stream), size)
    resets.walk(lambda offset, length: stream[offset : offset + length], size if beyond is None else beyond, 1 << 30)
    return resets


def text(seed: int, size: int) -> bytes:
    words = [random.Random(seed).randbytes(5).hex().encode() for _ in range(50)]
    chosen = random.Random(seed + 1).choices(words, k=size // 10 + 1)
    return b" ".join(chosen)[:size].ljust(size, b".")


@pytest.mark.parametrize(
    ("header", "chunk"),
    [
        (b"\x01\x00\x00", Chunk(4, 1, resets=True)),
        (b"\x02\xff\xff", Chunk(3 + 65536, 65536, resets=False)),
        (b"\x80\x00\x00\x00\x00", Chunk(6, 1, resets=False)),
        (b"\xbf\xff\xff\xff\xff", Chunk(5 + 65536, 1 << 21, resets=False)),
        (b"\xc1\x00\x00\x00\x00\x5d", Chunk(7, 65537, resets=False)),
        (b"\xe0\x00\x01\x00\x02\x5d", Chunk(9, 2, resets=True)),
    ],
)
def test_chunk_headers(header: bytes, chunk: Chunk) -> None:
    assert parse_chunk(header) == chunk


def test_a_zero_byte_ends_the_stream() -> None:
    assert parse_chunk(b"\0") is None


@pytest.mark.parametrize("header", [b"", b"\x03\0\0", b"\x7f", b"\x01\0", b"\x80\0\0\0", b"\xe0\0\0\0\0"])
def test_other_headers_are_malformed(header: bytes) -> None:
    with pytest.raises(MalformedArchive):
        parse_chunk(header)


@given(st.binary(max_size=8))
def test_any_bytes_are_a_chunk_or_malformed(header: bytes) -> None:
    try:
        chunk = parse_chunk(header)
    except MalformedArchive:
        return
    assert chunk is None or (chunk.packed > 3 and chunk.unpacked > 0)


@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=5), st.data())
def test_decoding_from_the_segment_gives_the_bytes_of_the_whole(contents: list[bytes], data: st.DataObject) -> None:
    stream, whole = joined(*contents), b"".join(contents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lzma2, "NEAREST_RESETS", 1)
        resets = walked(stream, len(whole))
        offset = data.draw(st.integers(0, len(whole) - 1))
        stretch = resets.stretch(offset)
    assert stretch.start <= offset < stretch.end
    size = stretch.end - stretch.start
    assert unpacked(stream[stretch.packed :], size) == whole[stretch.start : stretch.end]
    assert resets.complete


@given(st.binary(max_size=300), st.integers(0, 1000), st.integers(0, 1 << 40))
def test_any_stream_is_walked_or_malformed(stream: bytes, size: int, beyond: int) -> None:
    resets = Resets(len(stream), size)
    try:
        resets.walk(lambda offset, length: stream[offset : offset + length], beyond, 1000)
    except MalformedArchive:
        return
    assert resets.walked <= size
    assert resets.walked_packed <= len(stream)


def test_a_walk_goes_no_further_than_needed() -> None:
    contents = [text(seed, NEAREST_RESETS + 7) for seed in range(4)]
    stream, size = joined(*contents), sum(map(len, contents))
    resets = walked(stream, size, beyond=10)
    assert (resets.knows(10), resets.knows(2 * NEAREST_RESETS), resets.complete) == (True, False, False)
    assert resets.stretch(10).end == len(contents[0])


def test_a_walk_can_be_taken_up_in_steps() -> None:
    contents = [text(seed, NEAREST_RESETS) for seed in range(3)]
    stream, size = joined(*contents), sum(map(len, contents))
    resets = Resets(len(stream), size)
    while not resets.complete:
        resets.walk(lambda offset, length: stream[offset : offset + length], size, 1)
    assert resets.columns() == walked(stream, size).columns()
    assert list(resets.columns()[0]) == [0, NEAREST_RESETS, 2 * NEAREST_RESETS]


def test_resets_that_are_too_near_are_not_remembered() -> None:
    stream = b"\x01\x00\x00x" * 10_000 + b"\0"
    assert len(walked(stream, 10_000).columns()[0]) == 1


@pytest.mark.parametrize(
    ("stream", "size"),
    [(b"\x02\0\0x\0", 1), (b"\x01\0\0x", 2), (b"\x01\0\0x\0", 2), (b"\x01\0\1xy\0", 1), (b"\x01\0\xffx", 256)],
    ids=["no reset", "no end", "too short", "too long", "cut"],
)
def test_streams_that_contradict_themselves_are_malformed(stream: bytes, size: int) -> None:
    with pytest.raises(MalformedArchive):
        walked(stream, size)


def test_a_walk_is_restored_and_goes_on() -> None:
    contents = [text(seed, NEAREST_RESETS) for seed in range(3)]
    stream, size = joined(*contents), sum(map(len, contents))
    first = walked(stream, size, beyond=NEAREST_RESETS - 1)
    again = Resets(len(stream), size)
    assert again.restore(*first.columns(), first.walked, first.walked_packed)
    again.walk(lambda offset, length: stream[offset : offset + length], size, 1 << 30)
    assert again.columns() == walked(stream, size).columns()


@pytest.mark.parametrize(
    ("starts", "places", "position", "packed_position"),
    [
        ([], [], 0, 0),
        ([0, 5], [0], 6, 6),
        ([1], [0], 6, 6),
        ([0, 5, 5], [0, 3, 4], 6, 6),
        ([0, 5], [0, 3], 4, 6),
        ([0], [0], 101, 6),
        ([0], [0], 6, 51),
    ],
)
def test_what_cannot_be_about_the_stream_is_not_restored(
    starts: list[int], places: list[int], position: int, packed_position: int
) -> None:
    resets = Resets(50, 100)
    assert not resets.restore(array("Q", starts), array("Q", places), position, packed_position)
    assert (resets.walked, resets.walked_packed) == (0, 0)
