"""What memory tells of names: never that one is not there which is."""

from hypothesis import given
from hypothesis import strategies as st

from riafs.overlay.rows import KnownNames

DIRECTORIES = st.integers(1, 4)
NAMES = st.binary(min_size=1, max_size=1)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("made"), DIRECTORIES),
        st.tuples(st.just("removed"), DIRECTORIES),
        st.tuples(st.just("add"), DIRECTORIES, NAMES),
    )
)


@given(calls=CALLS, most=st.integers(1, 5))
def test_no_name_that_is_there_is_excluded(calls: list[tuple[str, int, bytes]], most: int) -> None:
    known, there = KnownNames(most), set()
    for what, directory, *rest in calls:
        if what == "made":
            there = {each for each in there if each[0] != directory}
            known.made(directory)
        elif what == "removed":
            known.removed(directory)
        else:
            known.add(directory, rest[0])
            there.add((directory, rest[0]))
    assert not any(known.excludes(directory, name) for directory, name in there)


def test_of_a_new_directory_everything_else_is_excluded() -> None:
    known = KnownNames()
    known.made(1)
    known.add(1, b"here")
    known.add(None, b"nowhere")
    assert known.excludes(1, b"other")
    assert not known.excludes(1, b"here")
    assert not known.excludes(2, b"other")


def test_a_directory_that_was_removed_is_not_known_any_more() -> None:
    known = KnownNames()
    known.made(1)
    known.removed(1)
    assert not known.excludes(1, b"any")


def test_memory_is_bounded() -> None:
    known = KnownNames(10)
    for directory in range(11):
        known.made(directory)
    assert not any(known.excludes(directory, b"any") for directory in range(11))
