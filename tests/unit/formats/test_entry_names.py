import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.formats.names import valid_name, valid_names


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b".git", b".GIT", b".gIt", b"a/b", b"/", b"../x", b"a\0b", b"\0", b"x" * 256]
)
def test_names_that_no_directory_may_show_are_refused(name: bytes) -> None:
    assert not valid_name(name)


@pytest.mark.parametrize(
    "name", [b"a", b"...", b".gitmodules", b"git", b".gi", b" ", b"\n", b"-rf", b"\\", b"\xff\xfe", b":", b"x" * 255]
)
def test_names_that_git_and_linux_accept_are_accepted(name: bytes) -> None:
    assert valid_name(name)


@given(st.frozensets(st.binary(max_size=6) | st.sampled_from([b"..", b".Git", b"a/b", b"x" * 256])))
def test_names_together_are_valid_if_each_is(names: frozenset[bytes]) -> None:
    assert valid_names(names) == all(map(valid_name, names))
