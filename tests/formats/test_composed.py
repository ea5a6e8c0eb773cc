import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import MalformedComposition
from riafs.formats.composed import CollectionPath, ComposedFolder, parse_composition

TEXT = rb"""# what the analysis reads
raw/subject\0401 zzzzz-4zz18-000000000000001/sub-01

tools/fsl 1f4b0bc7583c2a7f9102c395f4ffc5e3+45
raw/template.nii templates/mni/a:b.nii
"""


def test_lines_become_a_tree_in_the_order_of_names() -> None:
    assert parse_composition(TEXT) == ComposedFolder(
        {
            b"raw": ComposedFolder(
                {
                    b"subject 1": CollectionPath(b"zzzzz-4zz18-000000000000001", b"sub-01"),
                    b"template.nii": CollectionPath(b"templates", b"mni/a:b.nii"),
                }
            ),
            b"tools": ComposedFolder({b"fsl": CollectionPath(b"1f4b0bc7583c2a7f9102c395f4ffc5e3+45", b"")}),
        }
    )
    assert list(parse_composition(TEXT).entries) == [b"raw", b"tools"]
    assert parse_composition(b"\n  \n# nothing\n") == ComposedFolder({})


def test_the_last_line_needs_no_newline() -> None:
    assert parse_composition(b"b x\na y") == parse_composition(b"a y\nb x\n")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"a", "'a' is not a path, a blank and a source"),
        (b"a ", "'' is no relative path"),
        (b" a", "'' is no relative path"),
        (b"a  b", "' b' is no relative path"),
        (b"a b c", "'b c' is no relative path"),
        (b"a\tb c", "is no relative path"),
        (b"/a b", "'/a' is no relative path"),
        (b"a/ b", "'a/' is no relative path"),
        (b"a/../b c", "'a/../b' is no relative path"),
        (b"\\056\\056/b c", "is no relative path"),
        (b"a b/../c", "'b/../c' is no relative path"),
        (b"./a b", "'./a' is no relative path"),
        (b"x" * 256 + b" b", "has a name in it that no file can have"),
        (b"a\\000 b", "has a name in it that no file can have"),
        (b"one b", "'one' is filled by another line already"),
        (b"two b", "'two' is filled by another line already"),
        (b"one/more b", "'one/more' is below a place that another line fills"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(line: bytes, reason: str) -> None:
    with pytest.raises(MalformedComposition) as failure:
        parse_composition(b"one x\ntwo/three y\n\n" + line + b"\n")
    assert str(failure.value).startswith("line 4: ")
    assert reason in str(failure.value)


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([b"a", b"b", b"/", b" ", b"\n", b"#", b"\\040", b"."])).map(b"".join)
)
def test_any_bytes_are_a_composed_tree_or_refused(text: bytes) -> None:
    with contextlib.suppress(MalformedComposition):
        parse_composition(text)


def test_a_path_may_be_of_any_depth() -> None:
    levels = 5_000
    folder = parse_composition(b"a/" * levels + b"leaf 5348377e0b8c3b1b8f5d6d3d1c5e0f11+12")
    for _ in range(levels):
        below = folder.entries[b"a"]
        assert isinstance(below, ComposedFolder)
        folder = below
    assert isinstance(folder.entries[b"leaf"], CollectionPath)
