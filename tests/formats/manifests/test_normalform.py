import hashlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.formats.locators import Locator, PortableHash, portable_data_hash
from riafs.formats.manifests.reader import parse_manifest
from riafs.formats.manifests.text import lightly_escaped, unescaped, unescaped_names
from tests.collections import as_bytes, tree_of, vectors
from tests.normalform import BlockRange, escaped, normal_form, stream

ACCEPTED = [vector for vector in vectors()["manifests"] if vector["accept"]]
BLOCKS = [Locator(hashlib.md5(data).hexdigest().encode(), len(data)) for data in (b"foo", b"barbar", b"", b"x")]
EMPTY = BLOCKS[2].digest
SIGNED = Locator(BLOCKS[0].digest, 3, (b"A" + b"1f" * 20 + b"@5835c8bc", b"K@zzzzz"))


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda vector: vector["name"])
def test_the_normal_form_is_that_of_other_programs(vector: dict[str, Any]) -> None:
    written = b"".join(normal_form(parse_manifest(as_bytes(vector["manifest"]))))
    expected = vector.get("normalized")
    assert written == (
        rb". acbd18db4cc2f85cedef654fccc4a4d8+3 0:3:a\377b" + b"\n" if expected is None else as_bytes(expected)
    )
    assert portable_data_hash(written).decode() == vector.get("normalized_pdh", portable_data_hash(written).decode())
    assert b"".join(normal_form(parse_manifest(written))) == written


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda vector: vector["name"])
def test_the_portable_data_hash_is_that_of_the_text_without_hints(vector: dict[str, Any]) -> None:
    assert portable_data_hash(as_bytes(vector["manifest"])) == vector["pdh"].encode()


def test_what_arv_put_writes_is_normal() -> None:
    text = vectors()["arv_put"]["manifest"].encode()
    assert b"".join(normal_form(parse_manifest(text))) == text


def test_files_without_data_get_the_empty_block() -> None:
    assert stream(b"d e", {b"f": []}) == rb"./d\040e d41d8cd98f00b204e9800998ecf8427e+0 0:0:f" + b"\n"
    assert stream(b"d", {}) == rb"./d d41d8cd98f00b204e9800998ecf8427e+0 0:0:\056" + b"\n"


# -- any tree --------------------------------------------------------------------------------------------------------

_NAMES = st.one_of(
    st.sampled_from(
        [b"a", b"a b", b"a-b", b"b", b"...", b"..a", "é\u3000".encode(), b"\xff", b"\\", b"\\040", b"x:y", b"\n"]
    ),
    st.binary(min_size=1, max_size=4).filter(lambda name: b"/" not in name and name not in (b".", b"..")),
)


@st.composite
def _ranges(draw: st.DrawFn) -> BlockRange:
    locator = draw(st.sampled_from([*BLOCKS, SIGNED]))
    offset = draw(st.integers(0, locator.size))
    return BlockRange(locator, offset, draw(st.integers(0, locator.size - offset)))


_FILES = st.dictionaries(_NAMES, st.lists(_ranges(), max_size=4), max_size=4)
Tree = dict[bytes, dict[bytes, list[BlockRange]]]


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Folders with their files; no file has the name of a folder."""
    paths = draw(st.lists(st.lists(_NAMES, max_size=3).map(b"/".join), max_size=5, unique=True))
    folders = {b""} | {b"/".join(path.split(b"/")[:depth]) for path in paths if path for depth in range(1, 4)}
    return {
        folder: {
            name: ranges
            for name, ranges in draw(_FILES).items()
            if (folder + b"/" + name if folder else name) not in folders
        }
        for folder in sorted(folders)
    }


def content(ranges: list[BlockRange] | list[tuple[bytes, int, int]]) -> list[tuple[bytes, int]]:
    """A file byte by byte: (block, offset)."""
    return [
        (block.digest if isinstance(block, Locator) else block[:32], position)
        for block, offset, length in ranges
        for position in range(offset, offset + length)
    ]


def is_leaf(tree: Mapping[bytes, object], folder: bytes) -> bool:
    return not any(other.startswith(folder + b"/") for other in tree)


@given(trees(), st.randoms(use_true_random=False))
def test_a_tree_is_the_same_after_it_is_written_normalised_and_read(tree: Tree, random: Any) -> None:
    written = [stream(folder, files) for folder, files in tree.items() if files or (folder and is_leaf(tree, folder))]
    random.shuffle(written)
    manifest = parse_manifest(b"".join(written))
    normal = b"".join(normal_form(manifest))
    for text in (b"".join(written), normal):
        files, folders = tree_of(parse_manifest(text))
        assert {path: content(parts) for path, (_, parts) in files.items()} == {
            (folder + b"/" + name if folder else name): content(ranges)
            for folder, named in tree.items()
            for name, ranges in named.items()
        }
        assert set(folders) == tree.keys() - {b""}
    if EMPTY not in normal:  # an empty block within a range is kept (as a vector has it), one at the end is not
        assert b"".join(normal_form(parse_manifest(normal))) == normal
    assert portable_data_hash(normal) == parse_manifest(normal).portable_data_hash


@given(st.lists(_ranges(), max_size=6))
def test_what_follows_on_is_one_token(ranges: list[BlockRange]) -> None:
    _, *items = stream(b"", {b"f": ranges}).split()
    tokens = [tuple(map(int, item.split(b":")[:2])) for item in items if b":" in item]
    assert len({item for item in items if b":" not in item}) == len(items) - len(tokens)
    for (start, length), (following, _) in pairwise(tokens):
        assert start + length != following


# -- names -----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=12) | st.sampled_from([rb"\040", rb"\\040", rb"\134040", "\u00a0é".encode(), b"\\"]))
def test_any_name_is_read_back_as_it_was(name: bytes) -> None:
    for text in (escaped(name), lightly_escaped(name)):
        assert unescaped(text) == name
        assert not set(text) & set(range(0x21)) - {0x5C}
        assert b":" not in text
    escaped(name).decode()


@given(st.lists(st.binary(max_size=6).filter(lambda name: b"/" not in name), min_size=1, max_size=6))
def test_names_are_read_back_together_as_each_alone(names: list[bytes]) -> None:
    assert unescaped_names([lightly_escaped(name) for name in names]) == names


@given(
    st.lists(st.sampled_from([b".", SIGNED.text, BLOCKS[1].text, b"0:3:f", b"./d"]), max_size=12), st.integers(0, 12)
)
def test_the_hash_of_parts_is_that_of_the_whole(items: list[bytes], place: int) -> None:
    first, second = (b"".join(item + b" " for item in part) for part in (items[:place], items[place:]))
    whole = PortableHash()
    whole.update(first, in_line=False)
    whole.update(second, in_line=bool(first))
    assert whole.value() == portable_data_hash(first + second)
