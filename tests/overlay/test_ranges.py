"""Ranges behave like a set of offsets."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from riafs.overlay.open_file import Ranges

BOUNDS = st.tuples(st.integers(0, 40), st.integers(1, 10)).map(lambda pair: (pair[0], sum(pair)))


def offsets(ranges: Ranges) -> set[int]:
    return {offset for start, end in ranges for offset in range(start, end)}


@given(st.lists(st.one_of(BOUNDS, st.integers(0, 50))))
def test_ranges_are_a_set_of_offsets(steps: list[tuple[int, int] | int]) -> None:
    ranges, model = Ranges(), set[int]()
    for step in steps:
        if isinstance(step, int):
            ranges.clip(step)
            model = {offset for offset in model if offset < step}
        else:
            start, end = ranges.add(*step)
            assert start <= step[0]
            assert end >= step[1]
            model |= set(range(*step))
        assert offsets(ranges) == model
        listed = list(ranges)
        assert all(start < end for start, end in listed)
        assert all(before[1] < after[0] for before, after in itertools.pairwise(listed))


@given(st.lists(BOUNDS), BOUNDS)
def test_pieces_cover_a_span_and_tell_what_is_in(added: list[tuple[int, int]], span: tuple[int, int]) -> None:
    ranges = Ranges(added)
    model = offsets(ranges)
    told: dict[int, bool] = {}
    for start, end, inside in ranges.pieces(*span):
        assert start < end
        told |= dict.fromkeys(range(start, end), inside)
    assert told == {offset: offset in model for offset in range(*span)}
    assert ranges.covers(*span) == all(told.values())
