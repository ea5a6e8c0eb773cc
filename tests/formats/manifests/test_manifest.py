import re
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import MalformedLocator, MalformedManifest
from riafs.formats.locators import MAX_BLOCK, portable_data_hash
from riafs.formats.manifests.blocks import NO_BLOCK
from riafs.formats.manifests.reader import parse_manifest
from tests.collections import EMPTY, as_bytes, locator, tree_of, vectors

ACCEPTED = [vector for vector in vectors()["manifests"] if vector["accept"]]
REFUSED = [vector for vector in vectors()["manifests"] if not vector["accept"]]
FOO, BAR = locator(b"foo"), locator(b"bar")
SIGNED = FOO + "+A" + "1f" * 20 + "@5835c8bc"

REASONS = {
    "escape above 377": r"line 1: invalid file token '0:3:a\\477b'",
    "no newline at the end": "line 1: no newline at the end",
    "no file token": "line 1: no file token",
    "no locator": "line 1: missing or invalid locator '0:0:f'",
    "only a name": "line 1: no locator",
    "blank line": "line 1: invalid stream name ''",
    "blank line between": "line 2: invalid stream name ''",
    "two spaces": "line 1: invalid file token ''",
    "trailing space": "line 1: invalid file token ''",
    "leading space": "line 1: invalid stream name ''",
    "CR LF": r"line 1: invalid file token '0:3:f\r'",
    "stream name without dot": "line 1: invalid stream name 'foo'",
    "stream name with dot-dot part": "line 1: invalid stream name './../x'",
    "file name dot": "line 1: invalid file token '0:3:.'",
    "file name dot-dot": "line 1: invalid file token '0:3:..'",
    "file name with dot-dot part": "line 1: invalid file token '0:3:a/../b'",
    "file name empty": "line 1: invalid file token '0:3:'",
    "locator without size": "line 1: missing or invalid locator 'acbd18db4cc2f85cedef654fccc4a4d8'",
    "segment past the end": "line 1: '0:4:f' is not within the 3 bytes of its stream",
    "empty segment past the end": "line 1: '9:0:f' is not within the 3 bytes of its stream",
    "negative position": "line 1: invalid file token '-1:3:f'",
    "file then directory of the same name": "line 1: 'f' is a file here and a folder elsewhere",
    "directory then file of the same name": "line 2: 'f' is a file here and a folder elsewhere",
    "size over 2 GiB": f"line 1: locator '{FOO[:32]}+2147483648' is for more than 2147483647 bytes",
}


def cut(text: bytes, *places: int) -> list[bytes]:
    """`text` in chunks that end at these places."""
    ends = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(ends)]


# -- what other programs have found ---------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", ACCEPTED, ids=lambda vector: vector["name"])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_an_accepted_manifest_shows_what_other_programs_show(vector: dict[str, Any], size: int) -> None:
    text = as_bytes(vector["manifest"])
    manifest = parse_manifest(text[start : start + size] for start in range(0, len(text), size))
    files, folders = tree_of(manifest)
    assert files == {
        as_bytes(path): (file["size"], [(as_bytes(block), start, length) for block, start, length in file["segments"]])
        for path, file in vector["files"].items()
    }
    assert sorted(folders) == sorted(map(as_bytes, vector["dirs"]))
    assert manifest.portable_data_hash == vector["pdh"].encode()


@pytest.mark.parametrize("vector", REFUSED, ids=lambda vector: vector["name"])
def test_a_refused_manifest_is_refused_with_line_and_reason(vector: dict[str, Any]) -> None:
    text = as_bytes(vector["manifest"])
    with pytest.raises(MalformedManifest) as failure:
        parse_manifest(text)
    assert re.match(r"line [12]: .", str(failure.value))
    assert str(failure.value) == REASONS.get(vector["name"], str(failure.value))
    with pytest.raises(MalformedManifest, match=re.escape(str(failure.value))):
        parse_manifest(text[start : start + 1] for start in range(len(text)))


def test_the_reasons_are_those_of_vectors() -> None:
    assert REASONS.keys() <= {vector["name"] for vector in REFUSED}


@pytest.mark.parametrize("vector", vectors()["manifests"], ids=lambda vector: vector["name"])
def test_leniently_all_is_read_that_go_programs_read_and_short_streams(vector: dict[str, Any]) -> None:
    text = as_bytes(vector["manifest"])
    if vector["go_accepts"] or "past the end" in vector["name"]:
        manifest = parse_manifest(text, lenient=True)
        if vector["accept"]:
            assert tree_of(manifest) == tree_of(parse_manifest(text))
            assert manifest.portable_data_hash == vector["pdh"].encode()
    else:
        with pytest.raises(MalformedManifest):
            parse_manifest(text, lenient=True)


def test_arv_puts_manifest_of_many_files_has_its_hash() -> None:
    written = vectors()["arv_put"]
    assert parse_manifest(written["manifest"].encode()).portable_data_hash == written["pdh"].encode()


# -- lenient reading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "segments"),
    [
        (b"0:5:f", [(FOO.encode(), 0, 3), (b"", 0, 2)]),
        (b"1:5:f", [(FOO.encode(), 1, 2), (b"", 0, 3)]),
        (b"3:2:f", [(b"", 0, 2)]),
        (b"9:2:f", [(b"", 0, 2)]),
        (b"9:0:f", []),
        (b"0:4:f 1:1:f", [(FOO.encode(), 0, 3), (b"", 0, 1), (FOO.encode(), 1, 1)]),
    ],
)
def test_a_short_file_has_the_recorded_length_and_a_hole(token: bytes, segments: list[tuple[bytes, int, int]]) -> None:
    files, _ = tree_of(parse_manifest(b". " + FOO.encode() + b" " + token + b"\n", lenient=True))
    assert files == {b"f": (sum(length for _, _, length in segments), segments)}


@pytest.mark.parametrize(
    ("line", "paths"),
    [
        ("foo {} 0:3:f", [b"foo/f"]),
        ("./a/ {} 0:3:f", [b"a/f"]),
        (".//a/./b {} 0:3:f", [b"a/b/f"]),
        ("./a/../b {} 0:3:f", [b"b/f"]),
        ("./a {} 0:3:../f", [b"f"]),
        (". {} 0:3:/f", [b"f"]),
        (". {} 0:3:a\\477", [b"a\\477"]),
        (". {} 0:3:f\r", [b"f\r"]),
    ],
)
def test_leniently_odd_paths_are_those_of_go_programs(line: str, paths: list[bytes]) -> None:
    files, _ = tree_of(parse_manifest(line.format(FOO).encode() + b"\n", lenient=True))
    assert list(files) == paths


@pytest.mark.parametrize("line", ["./.. {} 0:3:f", ". {} 0:3:../f", "./a {} 0:3:../../f", ". {} 0:3:a/.."])
def test_no_path_leads_out_of_the_collection(line: str) -> None:
    for lenient in (False, True):
        with pytest.raises(MalformedManifest, match="line 1: "):
            parse_manifest(line.format(FOO).encode() + b"\n", lenient=lenient)


def test_a_block_without_a_proper_name_fails_when_it_is_needed() -> None:
    manifest = parse_manifest(b". " + FOO.upper().encode() + b" 0:3:f\n", lenient=True)
    with pytest.raises(MalformedLocator):
        manifest.locator(0)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens",
    [
        b"0:3:a:4 4:2",  # as many colons as two tokens have
        b"0:3:a:0 0:3",
        b"0:3 1:0:0:4",
        b"0:+3:a",
        b"0:0_1:a",
        b" 0:3:a",
        b"0: 3:a",
        b"+0:3:a",
        b"0_0:3:a",
        b":3:a",
        b"0::a",
        b"0:" + b"9" * 5000 + b":a",
        b"9" * 30 + b":0:a",
        b"0:3:\xff",
        b"0:3:a\\",
        b"0:3:a\\40",
        b"0:3:a\\9",
        b"0:3:\\056\\056",
        b"0:3:\\056",
        b"0:3:\\057a",
        b"0:3:a\\057\\056\\056\\057b",
        b"0:3:a\x00b",
        b"0:3:a\tb",
        b"00:0:.",
        b"0:0:..",
        b"0:0:./a",
    ],
)
def test_a_bad_token_is_refused(tokens: bytes) -> None:
    for before in (b"", b"0:1:x "):
        with pytest.raises(MalformedManifest, match="line 1: "):
            parse_manifest(b". " + FOO.encode() + b" " + before + tokens + b"\n")


def test_a_clash_of_names_is_found_wherever_it_is() -> None:
    files = b"".join(b" 0:1:f%d" % number for number in range(1000))
    head = b"./d " + FOO.encode()
    with pytest.raises(MalformedManifest, match="line 1: 'f777' is a file here and a folder elsewhere"):
        parse_manifest(head + files + b"\n./d/f777/x " + FOO.encode() + b" 0:1:g\n")
    with pytest.raises(MalformedManifest, match="line 2: 'x' is a file here"):
        parse_manifest(head + files + b" 0:1:x/y\n. " + FOO.encode() + b" 0:1:d/x\n")


def test_sums_that_no_file_can_have_are_refused() -> None:
    blocks = f" {FOO[:32]}+{2**31 - 1}" * (1 << 16)
    tokens = f" 0:{(2**31 - 1) << 16}:f" * (1 << 17)
    with pytest.raises(MalformedManifest, match="files of more than 8 EiB in all"):
        parse_manifest(f".{blocks}{tokens}\n".encode())


def test_an_endless_name_is_refused_before_it_is_read_to_its_end() -> None:
    def endless() -> Any:
        yield b". " + FOO.encode() + b" 0:3:"
        for _ in range(6):
            yield b"x" * (1 << 20)
        pytest.fail("reads on")

    with pytest.raises(MalformedManifest, match="line 1: a name or token of more than 4 MiB"):
        parse_manifest(endless())


def test_folders_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("riafs.formats.manifests.reader.MAX_FOLDERS", 100)
    parse_manifest(b"." + b"/a" * 99 + b" " + EMPTY.encode() + b" 0:0:.\n")
    with pytest.raises(MalformedManifest, match="line 1: more than 100 folders"):
        parse_manifest(b"." + b"/a" * 100 + b" " + EMPTY.encode() + b" 0:0:.\n")


def test_a_block_over_64_mib_is_listed() -> None:
    manifest = parse_manifest(f". {FOO[:32]}+{MAX_BLOCK + 1} 0:{MAX_BLOCK + 1}:f\n".encode())
    assert manifest.locator(0).size == MAX_BLOCK + 1


_ITEMS = [
    b".", b"./d", b"./d/e", b"foo", FOO.encode(), SIGNED.encode(), EMPTY.encode(), b"0:3:f", b"0:0:g", b"1:1:d",
    b"0:0:.", b"0:3:d/f", b"0:3:a\\040b", b"0:9:f", b"1:2:d:e", b"0:3:..", b"\xff", b"\\056", b"\n", b"\n",
    b" ", b" ", b" ", b" ",
]  # fmt: skip


@given(st.binary(max_size=60) | st.lists(st.sampled_from(_ITEMS), max_size=30).map(b"".join), st.booleans())
def test_any_bytes_are_a_manifest_or_refused(text: bytes, lenient: bool) -> None:
    try:
        manifest = parse_manifest(text, lenient=lenient)
    except MalformedManifest:
        return
    tree_of(manifest)
    if not lenient:
        assert manifest.portable_data_hash == portable_data_hash(text)
        assert tree_of(parse_manifest(text, lenient=True)) == tree_of(manifest)


@given(st.lists(st.sampled_from(_ITEMS), max_size=30).map(b"".join), st.lists(st.integers(0, 300)), st.booleans())
def test_chunks_make_no_difference(text: bytes, places: list[int], lenient: bool) -> None:
    def read(chunks: list[bytes]) -> object:
        try:
            manifest = parse_manifest(chunks, lenient=lenient)
        except MalformedManifest as error:
            return str(error)
        return tree_of(manifest), manifest.portable_data_hash, manifest.block_count

    assert read([text]) == read(cut(text, *places))


# -- blocks ----------------------------------------------------------------------------------------------------------


def test_new_hints_replace_old_ones_in_the_same_tree() -> None:
    old = parse_manifest(f". {SIGNED} {BAR}+K@zzzzz 0:6:f\n".encode())
    new = parse_manifest(f". {SIGNED[:-8]}7fffffff {BAR} 0:6:f\n".encode())
    renewed = old.with_locators_of(new)
    assert [renewed.locator(block) for block in range(2)] == [new.locator(block) for block in range(2)]
    assert renewed.locator(0).expires == 0x7FFFFFFF
    assert renewed.portable_data_hash == old.portable_data_hash
    assert tree_of(renewed) == tree_of(new)
    assert old.locator(0).expires == 0x5835C8BC


def test_hints_of_another_manifest_are_refused() -> None:
    old, other = (parse_manifest(f". {block} 0:3:f\n".encode()) for block in (FOO, BAR))
    with pytest.raises(MalformedManifest, match=other.portable_data_hash.decode().replace("+", r"\+")):
        old.with_locators_of(other)


def test_blocks_are_counted_through_all_streams() -> None:
    manifest = parse_manifest(f". {FOO} {BAR} 0:6:f\n./d {FOO} 0:3:g\n".encode())
    assert manifest.block_count == 3
    assert list(manifest.blocks_after(0)) == [1, 2]
    assert not manifest.blocks_after(2)
    assert [manifest.digest(block).decode() for block in range(3)] == [FOO[:32], BAR[:32], FOO[:32]]
    folder = manifest.folder(b"d")
    assert folder is not None
    assert folder.segments(0) == [(2, 0, 3)]
    assert folder.glance(0) == (3, 2, 0)
    assert NO_BLOCK not in range(manifest.block_count)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_a_file_is_its_range_of_the_stream(sizes: list[int], data: st.DataObject) -> None:
    contents = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    whole = b"".join(contents)
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - start))
    blocks = " ".join(map(locator, contents))
    manifest = parse_manifest(f". {blocks} {start}:{length}:f\n".encode())
    folder = manifest.folder(b"")
    assert folder is not None
    segments = folder.segments(0)
    assert b"".join(contents[block][at : at + count] for block, at, count in segments) == whole[start : start + length]
    assert all(count for _, _, count in segments)
    assert folder.glance(0) == (length, *(segments[0][:2] if len(segments) == 1 else (NO_BLOCK, 0)))
    assert folder.size(0) == length


# -- large ones ------------------------------------------------------------------------------------------------------


def test_a_row_of_tokens_longer_than_a_chunk_is_one_folder() -> None:
    names = [b"name\\040of\\040file\\040%06d" % number for number in range(60_000)]
    tokens = b"".join(b" %d:1:%b" % (number % 3, name) for number, name in enumerate(names))
    manifest = parse_manifest(b". " + FOO.encode() + tokens + b"\n")
    folder = manifest.folder(b"")
    assert folder is not None
    assert folder.names == [b"name of file %06d" % number for number in range(60_000)]
    assert folder.segments(50_001) == [(0, 0, 1)]
    assert manifest.folder_weight(b"") == len(tokens)


def test_a_manifest_takes_little_more_memory_than_its_text() -> None:
    tokens = b"".join(b" 0:1:file%06d" % number for number in range(100_000))
    text = b"./d " + FOO.encode() + tokens + b"\n"
    tracemalloc.start()
    try:
        manifest = parse_manifest(text[start : start + 65536] for start in range(0, len(text), 65536))
        size, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 1.3 * len(text)
    assert peak < 2.5 * len(text)
    assert manifest.folder_weight(b"d") == len(tokens)


def test_a_file_in_many_streams_is_all_of_them_in_their_order() -> None:
    lines = [f"./d {FOO} 0:1:f {number % 3}:1:g\n. {BAR} {number % 3}:1:d/g\n" for number in range(20)]
    folder = parse_manifest("".join(lines).encode()).folder(b"d")
    assert folder is not None
    assert folder.names == [b"f", b"g"]
    assert folder.segments(1) == [(block, block // 2 % 3, 1) for block in range(40)]


def test_folders_are_found_by_path() -> None:
    manifest = parse_manifest(f"./a/b {FOO} 0:3:f 0:3:c/g\n".encode())
    assert [manifest.folder(path) is None for path in (b"", b"a/b/c", b"a/b/f", b"b")] == [False, False, True, True]
    assert manifest.folder_weight(b"b") == 0
