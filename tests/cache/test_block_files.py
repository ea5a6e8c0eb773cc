"""The form of a block's file: whatever is not exactly the block is noticed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.cache.block_files import HEADER_SIZE, BlockName, check_block, content_digest, make_header, parse_file_name
from riafs.errors import CorruptContent

names = st.builds(
    BlockName,
    st.binary(max_size=40).map(content_digest),
    st.integers(0, 2**64 - 1),
    st.integers(1, 2**32 - 1),
)


@st.composite
def blocks(draw: st.DrawFn) -> tuple[BlockName, bytes]:
    payload = draw(st.binary(min_size=1, max_size=300))
    name = draw(names)
    return BlockName(name.digest, name.offset, len(payload)), payload


@given(blocks())
def test_a_block_is_what_was_written(block: tuple[BlockName, bytes]) -> None:
    name, payload = block
    header = make_header(name, payload)
    assert len(header) == HEADER_SIZE
    check_block(name, header, payload)


@given(blocks(), st.data())
def test_every_flipped_bit_is_noticed(block: tuple[BlockName, bytes], data: st.DataObject) -> None:
    name, payload = block
    whole = bytearray(make_header(name, payload) + payload)
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptContent):
        check_block(name, bytes(whole[:HEADER_SIZE]), bytes(whole[HEADER_SIZE:]))


@given(blocks(), st.data())
def test_a_block_that_was_cut_or_zeroed_from_somewhere_on_is_noticed(
    block: tuple[BlockName, bytes], data: st.DataObject
) -> None:
    name, payload = block
    whole = make_header(name, payload) + payload
    at = data.draw(st.integers(0, len(whole) - 1))
    zeroed = whole[:at] + bytes(len(whole) - at)
    for wrong in [whole[:at], *([zeroed] if zeroed != whole else [])]:
        with pytest.raises(CorruptContent):
            check_block(name, wrong[:HEADER_SIZE], wrong[HEADER_SIZE:])


@given(blocks(), blocks())
def test_a_block_under_the_name_of_another_is_noticed(
    one: tuple[BlockName, bytes], other: tuple[BlockName, bytes]
) -> None:
    if one[0] != other[0]:
        with pytest.raises(CorruptContent):
            check_block(one[0], make_header(*other), other[1])


@given(names, st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_are_no_block(name: BlockName, header: bytes, payload: bytes) -> None:
    with pytest.raises(CorruptContent):
        check_block(name, header, payload)


@given(names)
def test_a_file_is_called_by_its_block(name: BlockName) -> None:
    directory, _, file = name.path.partition("/")
    assert (directory, parse_file_name(file)) == (name.directory, name)


@given(st.text(max_size=90))
def test_any_text_is_a_name_or_none(text: str) -> None:
    name = parse_file_name(text)
    assert name is None or text.startswith(name.digest.hex())


def test_blocks_of_another_size_have_other_names() -> None:
    digest = content_digest(b"x")
    assert len({BlockName(digest, offset, length).path for offset in (0, 1, 2) for length in (1, 2)}) == 6
