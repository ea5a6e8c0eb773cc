import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import MalformedObject
from riafs.formats.gitrepository import (
    MAX_ALTERNATES,
    Oid,
    Submodule,
    SymbolicRef,
    candidates,
    looks_like_commit,
    parse_alternates,
    parse_config_list,
    parse_packed_refs,
    parse_ref,
    submodules,
    valid_ref_name,
)
from riafs.formats.names import valid_name

X, Y, LONG = b"1" * 40, b"a" * 40, b"b" * 64


@pytest.mark.parametrize(
    "name", [b"refs/heads/main", b"refs/x", b"refs/heads/a.b/c@d", b"refs/heads/\xff", b"refs/tags/-v", b"refs/@"]
)
def test_names_that_git_accepts_are_accepted(name: bytes) -> None:
    assert valid_ref_name(name)


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"HEAD",
        b"refs",
        b"refs/",
        b"heads/main",
        b"/refs/heads/x",
        b"refs//x",
        b"refs/../x",
        b"refs/heads/..",
        b"refs/a..b",
        b"refs/.x",
        b"refs/x.lock",
        b"refs/x.lock/y",
        b"refs/x.",
        b"refs/x/",
        b"refs/a b",
        b"refs/a\0b",
        b"refs/a\n",
        b"refs/a~1",
        b"refs/a^",
        b"refs/a:b",
        b"refs/a?",
        b"refs/a*",
        b"refs/a[",
        b"refs/a\\b",
        b"refs/a@{1}",
        b"refs/\x7f",
        b"refs/" + b"x" * 256,
        b"refs/" + b"x/" * 600 + b"x",
    ],
)
def test_names_that_git_refuses_are_refused(name: bytes) -> None:
    assert not valid_ref_name(name)


def test_packed_refs_are_read_without_comments_peeled_and_bad_names() -> None:
    text = b"# pack-refs with: peeled fully-peeled sorted \n%b refs/heads/main\n%b refs/tags/v1\n^%b\n" % (X, Y, X)
    text += b"%b refs/../../etc/passwd\n%b config\n%b refs/heads/main\n\n%b refs/heads/sha256\n" % (X, X, Y, LONG)
    assert parse_packed_refs(text) == {b"refs/heads/main": X, b"refs/tags/v1": Y, b"refs/heads/sha256": LONG}


@pytest.mark.parametrize(
    "line", [b"xyz refs/heads/bad\n", X[1:] + b" refs/heads/git-annex\n", X + b"\n", b"\0" * 90, X]
)
def test_packed_refs_with_a_damaged_line_are_no_refs_that_do_not_exist(line: bytes) -> None:
    with pytest.raises(MalformedObject, match="packed-refs is damaged at byte 57"):
        parse_packed_refs(X + b" refs/heads/main\n" + line + b"")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"ref: refs/heads/main\n", SymbolicRef(b"refs/heads/main")),
        (b"ref:refs/heads/main", SymbolicRef(b"refs/heads/main")),
        (b"ref: \t refs/heads/main \n\n", SymbolicRef(b"refs/heads/main")),
        (X + b"\n", Oid(X)),
        (X, Oid(X)),
        (X + b" trailing", Oid(X)),
        (LONG + b"\n", Oid(LONG)),
    ],
)
def test_a_reference_names_an_object_or_another_reference(text: bytes, expected: SymbolicRef | Oid) -> None:
    assert parse_ref(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"ref:",
        b"ref: \n",
        b"ref: ../../etc/passwd",
        b"ref: config",
        b"ref: refs/a\nb",
        X[:39],
        X + b"0",
        X[:39] + b"g",
        b"\0",
        b"x" * 10_000,
        b"ref: " + b" " * 10_000,
    ],
)
def test_what_is_no_reference_is_malformed(text: bytes) -> None:
    with pytest.raises(MalformedObject):
        parse_ref(text)


def test_a_version_is_a_branch_then_a_tag_then_a_full_name() -> None:
    assert candidates(b"v1") == (b"refs/heads/v1", b"refs/tags/v1")
    assert candidates(b"refs/heads/x") == (b"refs/heads/refs/heads/x", b"refs/tags/refs/heads/x", b"refs/heads/x")
    assert candidates(b"../x") == ()
    assert candidates(b"") == ()


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (b"abcdef0", True),
        (X, True),
        (b"A" * 64, True),
        (b"abcdef", False),
        (b"a" * 65, False),
        (b"abcdefg", False),
        (X + b"\n", False),
    ],
)
def test_hex_digits_look_like_a_commit(version: bytes, expected: bool) -> None:
    assert looks_like_commit(version) is expected


def test_alternates_are_paths_without_comments_and_quotes() -> None:
    text = b'# comment\n../../other/objects\n\n/abs/objects\n"quoted\\n"\na\0b\nlast'
    assert parse_alternates(text) == (b"../../other/objects", b"/abs/objects", b"last")
    assert len(parse_alternates(b"x\n" * 1000)) == MAX_ALTERNATES


@given(st.binary() | st.from_regex(rb"ref: ?refs/[a-z./@{ ]{0,9}"))
def test_any_bytes_are_a_reference_or_malformed(text: bytes) -> None:
    try:
        ref = parse_ref(text)
    except MalformedObject:
        return
    assert isinstance(ref, Oid) or valid_ref_name(ref.target)


@given(st.binary())
def test_any_bytes_are_packed_refs_and_alternates(text: bytes) -> None:
    parse_alternates(text)
    with contextlib.suppress(MalformedObject):
        assert all(map(valid_ref_name, parse_packed_refs(X + b" refs/" + text)))


@given(st.binary(max_size=8))
def test_a_valid_name_stays_below_refs(name: bytes) -> None:
    if valid_ref_name(b"refs/" + name):
        assert not {b"", b".", b".."} & set(name.split(b"/"))


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
