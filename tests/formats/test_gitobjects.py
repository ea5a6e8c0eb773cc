"""git objects as they are read and written: git itself reads them, and what was there stays byte for byte."""

import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import MalformedObject
from riafs.formats.gitobjects import (
    DIRECTORY,
    EXECUTABLE,
    FILE,
    LINK,
    SUBMODULE,
    Commit,
    NewCommit,
    NewObject,
    Stamp,
    Tag,
    TreeEntry,
    encode_commit,
    encode_tree,
    loose_object,
    make_pack,
    object_name,
    pack_stream,
    parse_commit,
    parse_tag,
    parse_tree,
    read_tree_entries,
    tree_entry,
)
from riafs.formats.names import valid_name

A, B = b"a" * 20, b"\0\n 100644 x\0" + b"b" * 8
HEX = b"1234567890" * 4


def _raw(*entries: tuple[bytes, bytes, bytes]) -> bytes:
    return b"".join(mode + b" " + name + b"\0" + oid for mode, name, oid in entries)


def test_entries_of_every_kind_are_read_in_order() -> None:
    tree = parse_tree(
        _raw(
            (b"40000", b"d", A),
            (b"100755", b"e", B),
            (b"100644", b"f g\n\xff", A),
            (b"120000", b"l", B),
            (b"160000", b"s", A),
        )
    )
    assert tree.names == (b"d", b"e", b"f g\n\xff", b"l", b"s")
    assert tree.modes == (DIRECTORY, EXECUTABLE, FILE, LINK, SUBMODULE)
    assert tree.oids == (A, B, A, B, A)
    assert tree.dropped == 0


def test_modes_of_old_trees_become_gits_own() -> None:
    tree = parse_tree(
        _raw(
            (b"040000", b"d", A), (b"100664", b"f", A), (b"100744", b"x", A), (b"100641", b"y", A), (b"120777", b"l", A)
        )
    )
    assert tree.modes == (DIRECTORY, FILE, EXECUTABLE, FILE, LINK)


def test_sha256_trees_have_longer_object_names() -> None:
    assert parse_tree(_raw((b"100644", b"f", b"c" * 32)), 32).oids == (b"c" * 32,)


def test_hostile_entries_are_dropped_and_counted() -> None:
    names = (b"..", b"ok", b"a/b", b".git", b".GIT", b"ok", b"", b"x" * 300, b".")
    tree = parse_tree(_raw(*((b"100644", name, A) for name in names), (b"40000", b"ok", B), (b"010000", b"fifo", A)))
    assert tree.names == (b"ok",)
    assert tree.oids == (A,)
    assert tree.dropped == 10
    assert tree.dropped_names == (b"..", b"a/b", b".git", b".GIT", b"ok")


def test_an_empty_tree_is_empty() -> None:
    assert parse_tree(b"").names == ()


def test_a_tree_of_many_windows_is_read_like_a_small_one() -> None:
    entries = [(b"100644", b"%07d" % number, b"%020d" % number) for number in range(20_000)]
    entries[9_000] = (b"40000", b"x" * 600_000, A)
    tree = parse_tree(_raw(*entries))
    kept = entries[:9_000] + entries[9_001:]
    assert (tree.names, tree.oids) == (tuple(each[1] for each in kept), tuple(each[2] for each in kept))
    assert tree.dropped == 1
    with pytest.raises(MalformedObject, match="after 20000 entries"):
        parse_tree(_raw(*entries) + b"100644 x")


@pytest.mark.parametrize(
    "others",
    [[], [(b"40000", b"d", A)], [(b"100644", b"a/b", A)], [(b"120000", b"x" * 256, B)], [(b"120000", b"f00001", B)]],
)
def test_what_comes_after_many_entries_of_one_kind_is_read_as_anywhere(
    others: list[tuple[bytes, bytes, bytes]],
) -> None:
    many = [(b"120000", b"f%05d" % number, B) for number in range(8000)]
    entries = [(b"100644", b".datalad", A), *many, *others, (b"120000", b"z", A)]
    tree, kept = parse_tree(_raw(*entries)), _kept(entries)
    assert list(zip(tree.names, tree.modes, tree.oids, strict=True)) == kept
    assert tree.dropped == len(entries) - len(kept)


def _kept(entries: list[tuple[bytes, bytes, bytes]]) -> list[tuple[bytes, int, bytes]]:
    found: dict[bytes, tuple[bytes, int, bytes]] = {}
    for octal, name, oid in entries:
        if valid_name(name):
            found.setdefault(name, (name, int(octal, 8), oid))
    return list(found.values())


def test_a_tree_cut_anywhere_inside_an_entry_is_malformed() -> None:
    raw = _raw((b"100644", b"f", A), (b"40000", b"d", B))
    whole = {0, len(_raw((b"100644", b"f", A))), len(raw)}
    for length in set(range(len(raw))) - whole:
        with pytest.raises(MalformedObject):
            parse_tree(raw[:length])


@pytest.mark.parametrize("raw", [b"100644", b"x y\0" + A, b" f\0" + A, b"108644 f\0" + A, b"100644 f\0" + A + b"!"])
def test_what_is_no_tree_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedObject):
        parse_tree(raw)


def test_reading_hostile_trees_takes_time_in_proportion_to_their_length() -> None:
    start = time.monotonic()
    for raw in (b"1 " * 1_000_000, b"100644 " * 300_000, b"1 x\0" * 500_000, b"1" * 2_000_000, (b"9 " + A) * 100_000):
        with pytest.raises(MalformedObject):
            parse_tree(raw + b"!")
    assert time.monotonic() - start < 10


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"40000", b"100644", b"1"]), st.binary(max_size=4), st.binary(min_size=20, max_size=20)
        )
    )
)
def test_a_written_tree_gives_its_valid_entries_back(entries: list[tuple[bytes, bytes, bytes]]) -> None:
    entries = [(mode, name.replace(b"\0", b"0"), oid) for mode, name, oid in entries]
    tree = parse_tree(_raw(*entries))
    expected: dict[bytes, bytes] = {}
    for mode, name, oid in entries:
        if mode != b"1" and valid_name(name):
            expected.setdefault(name, oid)
    assert dict(zip(tree.names, tree.oids, strict=True)) == expected
    assert tree.dropped == len(entries) - len(expected)
    assert len(tree.modes) == len(tree.names)


@given(st.binary() | st.from_regex(rb"([0-7]{0,7} [^\0]{0,3}\0.{18,21}){0,4}"), st.sampled_from([20, 32]))
def test_any_bytes_are_a_tree_or_malformed(raw: bytes, oid_length: int) -> None:
    try:
        tree = parse_tree(raw, oid_length)
    except MalformedObject:
        return
    assert all(map(valid_name, tree.names))
    assert all(len(oid) == oid_length for oid in tree.oids)


def test_a_commit_gives_tree_parents_and_committer_time() -> None:
    raw = b"tree %b\nparent %b\nparent %b\nauthor A <a@b> 5 +0000\ncommitter C <c@d> 1700000000 +0100\n"
    raw += b"gpgsig x\n committer D <e@f> 6 +0000\n\nmessage\n"
    other = b"f" * 40
    assert parse_commit(raw % (HEX, other, HEX)) == Commit(HEX, 1700000000, (other, HEX))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"committer C <c@d>",
        b"committer C <c@d> -5 +0000",
        b"committer C <c@d> 99999999999999999999 +0000",
        b"committer C <c@d> 9999999999999999 +0000",
        b"committer C <c@d> x +0000",
        b"committer",
        b" committer C <c@d> 5 +0000",
        b"\ncommitter C <c@d> 5 +0000",
    ],
)
def test_a_commit_without_usable_time_has_time_zero(line: bytes) -> None:
    assert parse_commit(b"tree " + HEX + b"\nauthor A <a@b> 7 +0000\n" + line + b"\n\nmsg").time == 0


def test_an_odd_committer_does_not_hide_the_time() -> None:
    assert parse_commit(b"tree " + HEX + b"\ncommitter > 3 <x> y> 12 +0000\n\n").time == 12
    assert parse_commit(b"tree " + HEX + b"\ncommitter C <c@d> 12").time == 12


@pytest.mark.parametrize(
    "raw", [b"", b"tree\n", b"tree " + HEX[:39], b"tree " + HEX + b"0\n", b"parent " + HEX, b"x\ntree " + HEX]
)
def test_a_commit_without_tree_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedObject):
        parse_commit(raw)


def test_a_tag_gives_what_it_points_at() -> None:
    raw = b"object " + HEX + b"\ntype commit\ntag v1\ntagger T <t@u> 5 +0000\n\nmsg\n"
    assert parse_tag(raw) == Tag(HEX, b"commit")
    with pytest.raises(MalformedObject):
        parse_tag(raw.replace(b"commit", b"comet"))


@given(st.binary())
def test_any_bytes_are_a_commit_and_a_tag_or_malformed(raw: bytes) -> None:
    for parse, start in ((parse_commit, b"tree " + HEX + b"\n"), (parse_tag, b"object " + HEX + b"\n")):
        for text in (raw, start + raw):
            try:
                parse(text)
            except MalformedObject:
                continue


STAMP = Stamp(b"A <a@b.invalid> 1700000000 +0100")
_names = st.binary(min_size=1, max_size=9).filter(lambda name: b"\0" not in name)
_modes = st.sampled_from([b"40000", b"100644", b"100755", b"120000", b"160000", b"100664", b"040000"])
_trees = st.dictionaries(_names, st.builds(TreeEntry, _modes, st.binary(min_size=20, max_size=20)))


@given(_trees)
def test_trees_round_trip(items: dict[bytes, TreeEntry]) -> None:
    assert read_tree_entries(encode_tree(items)) == items


@given(st.binary(max_size=200))
def test_any_bytes_are_a_tree_or_not(raw: bytes) -> None:
    try:
        items = read_tree_entries(raw)
    except MalformedObject:
        return
    assert encode_tree(items) == raw or sorted(encode_tree(items)) == sorted(raw)


def test_a_name_twice_is_damage() -> None:
    entry = b"100644 a\0" + bytes(20)
    with pytest.raises(MalformedObject):
        read_tree_entries(entry + entry)


@pytest.mark.parametrize("digits", [40, 64])
def test_git_reads_a_pack(tmp_path: Path, digits: int) -> None:
    blobs = [NewObject(b"blob", bytes(size)) for size in (0, 15, 16, 2047, 2048, 300_000)]
    names = {b"f%d" % number: object_name(*each, digits) for number, each in enumerate(blobs)}
    inner = encode_tree({name: tree_entry(0o100644, oid) for name, oid in names.items()})
    inner_name = object_name(b"tree", inner, digits)
    odd = [b"f", b"f-", b"f.x", b"f0"]
    entries = {name: tree_entry(0o100644, names[b"f0"]) for name in odd}
    entries[b"f"] = tree_entry(0o040000, inner_name)
    top = encode_tree(entries)
    commit = encode_commit(NewCommit(object_name(b"tree", top, digits), (), STAMP, STAMP, b"\nmessage\0\n\n"))
    objects = [*blobs, NewObject(b"tree", inner), NewObject(b"tree", top), NewObject(b"commit", commit)]
    git = ["git", "-C", tmp_path]
    form = "sha1" if digits == 40 else "sha256"
    subprocess.run([*git, "init", "-q", "--bare", f"--object-format={form}"], check=True)
    stream = b"".join(pack_stream(objects, digits))
    subprocess.run([*git, "index-pack", "--stdin", "--strict"], input=stream, check=True, stdout=subprocess.PIPE)
    pack = make_pack(objects, digits)
    stem = tmp_path / "objects" / "pack" / f"pack-{pack.name.decode()}"
    assert (stem.with_suffix(".pack").read_bytes(), stem.with_suffix(".idx").read_bytes()) == (pack.data, pack.index)
    name = object_name(b"commit", commit, digits).decode()
    subprocess.run([*git, "fsck", "--full", "--strict", name], check=True, capture_output=True)
    listed = subprocess.run([*git, "ls-tree", "--name-only", name], check=True, stdout=subprocess.PIPE).stdout
    assert listed == b"f-\nf.x\nf\nf0\n"
    shown = subprocess.run([*git, "log", "-1", "--format=%B|%ad", name], check=True, stdout=subprocess.PIPE).stdout
    assert shown.startswith(b"message\n|")


def test_git_reads_loose_objects(tmp_path: Path) -> None:
    git = ["git", "-C", tmp_path]
    subprocess.run([*git, "init", "-q", "--bare"], check=True)
    for content in (b"", b"content", bytes(100_000)):
        each = NewObject(b"blob", content)
        name = object_name(each.kind, content, 40).decode()
        path = tmp_path / "objects" / name[:2] / name[2:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(loose_object(each))
        assert subprocess.run([*git, "cat-file", "blob", name], check=True, stdout=subprocess.PIPE).stdout == content
    subprocess.run([*git, "fsck", "--full", "--strict"], check=True)


def test_a_commit_is_read_as_it_was_written() -> None:
    commit = NewCommit(b"1" * 40, (b"2" * 40, b"3" * 40), STAMP, STAMP, b"m")
    found = parse_commit(encode_commit(commit))
    assert (found.tree, found.parents, found.time) == (b"1" * 40, (b"2" * 40, b"3" * 40), 1_700_000_000)
