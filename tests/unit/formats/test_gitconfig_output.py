import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.formats.gitrepository import Submodule, parse_config_list, submodules
from riafs.formats.names import valid_name


def test_names_and_values_are_read_in_order() -> None:
    output = b"core.bare\ntrue\0core.bare\0a.B c.d\n\0x.y\nline 1\nline 2\0"
    assert parse_config_list(output) == (
        (b"core.bare", b"true"),
        (b"core.bare", None),
        (b"a.B c.d", b""),
        (b"x.y", b"line 1\nline 2"),
    )


def test_submodules_are_found_by_path_whatever_their_section_is_called() -> None:
    items = (
        (b"submodule.a.b/c.path", b"inputs/x"),
        (b"submodule.a.b/c.url", b"../x"),
        (b"submodule.a.b/c.datalad-id", b"7fa19776"),
        (b"submodule.a.b/c.datalad-url", b"ria+file:///s#~x"),
        (b"submodule.y.path", b"y/"),
        (b"submodule.again.path", b"y"),
        (b"submodule.again.url", b"second"),
        (b"submodule.nopath.url", b"z"),
        (b"submodule.novalue.path", None),
        (b"core.path", b"core"),
    )
    assert submodules(items) == {
        b"inputs/x": Submodule(b"inputs/x", b"../x", b"7fa19776", b"ria+file:///s#~x"),
        b"y": Submodule(b"y", b"second", None, None),
    }


def test_a_later_value_replaces_an_earlier_one() -> None:
    items = ((b"submodule.x.path", b"x"), (b"submodule.x.url", b"1"), (b"submodule.x.url", b"2"))
    assert submodules(items)[b"x"].url == b"2"


@pytest.mark.parametrize("path", [b"", b"/abs", b"..", b"a/../b", b"./a", b"a//b", b".git/x", b"a/.GIT", b"a\0b", b"/"])
def test_submodules_at_impossible_paths_are_left_out(path: bytes) -> None:
    assert submodules([(b"submodule.x.path", path)]) == {}


@given(st.binary() | st.from_regex(rb"(submodule\.[a-z]?\.?(path|url)\n[a-z./]{0,4}\0){0,5}"))
def test_any_bytes_are_a_configuration(output: bytes) -> None:
    for path, submodule in submodules(parse_config_list(output)).items():
        assert path == submodule.path
        assert all(map(valid_name, path.split(b"/")))


def test_last_line_of_a_path_counts_wherever_its_section_began() -> None:
    items = (
        (b"submodule.old.url", b"first"),
        (b"submodule.new.path", b"p"),
        (b"submodule.new.url", b"second"),
        (b"submodule.old.path", b"p"),
    )
    assert submodules(items) == {b"p": Submodule(b"p", b"first", None, None)}
