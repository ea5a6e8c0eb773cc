"""git objects as they are written: git itself reads them, and what was there stays byte for byte."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import MalformedObject
from riafs.formats.gitobjects import (
    GitBytes,
    Item,
    NewCommit,
    Stamp,
    encode_commit,
    encode_tree,
    item,
    loose_object,
    make_pack,
    object_name,
    pack_stream,
    parse_commit,
    read_items,
)

STAMP = Stamp(b"A <a@b.invalid> 1700000000 +0100")
_names = st.binary(min_size=1, max_size=9).filter(lambda name: b"\0" not in name)
_modes = st.sampled_from([b"40000", b"100644", b"100755", b"120000", b"160000", b"100664", b"040000"])
_trees = st.dictionaries(_names, st.builds(Item, _modes, st.binary(min_size=20, max_size=20)))


@given(_trees)
def test_trees_round_trip(items: dict[bytes, Item]) -> None:
    assert read_items(encode_tree(items)) == items


@given(st.binary(max_size=200))
def test_any_bytes_are_a_tree_or_not(raw: bytes) -> None:
    try:
        items = read_items(raw)
    except MalformedObject:
        return
    assert encode_tree(items) == raw or sorted(encode_tree(items)) == sorted(raw)


def test_a_name_twice_is_damage() -> None:
    entry = b"100644 a\0" + bytes(20)
    with pytest.raises(MalformedObject):
        read_items(entry + entry)


@pytest.mark.parametrize("digits", [40, 64])
def test_git_reads_a_pack(tmp_path: Path, digits: int) -> None:
    blobs = [GitBytes(b"blob", bytes(size)) for size in (0, 15, 16, 2047, 2048, 300_000)]
    names = {b"f%d" % number: object_name(*each, digits) for number, each in enumerate(blobs)}
    inner = encode_tree({name: item(0o100644, oid) for name, oid in names.items()})
    inner_name = object_name(b"tree", inner, digits)
    odd = [b"f", b"f-", b"f.x", b"f0"]
    entries = {name: item(0o100644, names[b"f0"]) for name in odd}
    entries[b"f"] = item(0o040000, inner_name)
    top = encode_tree(entries)
    commit = encode_commit(NewCommit(object_name(b"tree", top, digits), (), STAMP, STAMP, b"\nmessage\0\n\n"))
    objects = [*blobs, GitBytes(b"tree", inner), GitBytes(b"tree", top), GitBytes(b"commit", commit)]
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
        each = GitBytes(b"blob", content)
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
