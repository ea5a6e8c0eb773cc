"""Changed trees: what git would make of the same changes, with everything else byte for byte as it was."""

import subprocess
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from riafs.errors import MalformedObject, MissingObject
from riafs.formats.gitobjects import FILE, TreeEntry, encode_tree, read_tree_entries, tree_entry
from riafs.formats.sources import parse_ria_source
from riafs.push.trees import TreeEditor
from tests.push.conftest import means
from tests.push.destinations import open_for_pushing
from tests.small import SmallDataset, SmallStore

_NAMES = [b"a", b"a.b", b"a/x", b"a/y", b"b/c/d", b"b/c/e", b"b-", b"z"]


def edited(dataset: SmallDataset, root: str, edits: dict[bytes, TreeEntry | None]) -> str:
    """The tree after an edit, written into the repository."""

    async def run() -> bytes:
        source = parse_ria_source(f"{dataset.path.parent.parent}#{dataset.id}")
        async with open_for_pushing(source, means()) as destination:
            trees = TreeEditor(destination.dataset.repository, 40)
            name = await trees.edit(root.encode(), edits)
            await destination.git.store(trees.take())
            return name

    return trio.run(run).decode()


def listed(dataset: SmallDataset, tree: str) -> set[str]:
    return set(dataset.git("ls-tree", "-r", "-z", "--name-only", tree).split("\0")) - {""}


@settings(max_examples=15, deadline=None)
@given(before=st.sets(st.sampled_from(_NAMES), min_size=1), removed=st.sets(st.sampled_from(_NAMES)), data=st.data())
def test_an_edit_is_what_git_makes_of_it(
    tmp_path_factory: pytest.TempPathFactory, before: set[bytes], removed: set[bytes], data: st.DataObject
) -> None:
    before -= {b"a"} if before & {b"a/x", b"a/y"} else set()
    dataset = SmallStore.make(tmp_path_factory.mktemp("trees") / "store").dataset("one", dict.fromkeys(before, b"1"))
    added = data.draw(st.sets(st.sampled_from(_NAMES)).filter(lambda names: not (b"a" in names and len(names) > 1)))
    blob = dataset.git("hash-object", "-w", "--stdin", stdin=b"2").encode()
    edits: dict[bytes, TreeEntry | None] = dict.fromkeys(removed)
    edits.update({path: tree_entry(FILE, blob) for path in added})
    tree = edited(dataset, dataset.git("rev-parse", "main^{tree}"), edits)
    expected = {path for path in before if not any(path == gone or path.startswith(gone + b"/") for gone in removed)}
    expected = {path for path in expected if not any(new.startswith(path + b"/") for new in added)}
    expected = {path for path in expected if not any(path.startswith(new + b"/") for new in added)} | added
    assert listed(dataset, tree) == {path.decode() for path in expected}
    subprocess.run(["git", "--git-dir", dataset.path, "fsck", "--strict", tree], check=True, capture_output=True)


def odd_tree(dataset: SmallDataset, entries: dict[bytes, tuple[bytes, bytes]]) -> str:
    """A tree that git would not make, written as it is."""
    raw = encode_tree({name: TreeEntry(mode, bytes.fromhex(oid.decode())) for name, (mode, oid) in entries.items()})
    return dataset.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", stdin=raw)


def test_what_no_directory_shows_stays(tmp_path: Path) -> None:
    dataset = SmallStore.make(tmp_path / "store").dataset("one", {b"x": b"x"})
    blob = dataset.git("hash-object", "-w", "--stdin", stdin=b"2").encode()
    odd = {b".git": (b"100644", blob), b"..": (b"100644", blob), b"old": (b"100664", blob), b"s": (b"0160000", blob)}
    inner = odd_tree(dataset, odd)
    top = odd_tree(dataset, {b"d": (b"040000", inner.encode()), b"f": (b"100644", blob)})
    tree = edited(dataset, top, {b"d/new": tree_entry(FILE, blob)})
    command = ["git", "--git-dir", dataset.path, "cat-file", "tree", f"{tree}:d"]
    raw = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    kept = {name: TreeEntry(mode, bytes.fromhex(oid.decode())) for name, (mode, oid) in odd.items()}
    assert read_tree_entries(raw) == {**kept, b"new": tree_entry(FILE, blob)}


def test_damage_is_not_written_on(tmp_path: Path) -> None:
    dataset = SmallStore.make(tmp_path / "store").dataset("one", {b"d/x": b"x"})
    blob = dataset.git("hash-object", "-w", "--stdin", stdin=b"2").encode()
    missing = odd_tree(dataset, {b"d": (b"40000", b"1" * 40)})
    with pytest.raises(MissingObject):
        edited(dataset, missing, {b"d/new": tree_entry(FILE, blob)})
    entry = b"100644 a\0" + bytes(20)
    twice = dataset.git("hash-object", "-w", "-t", "tree", "--literally", "--stdin", stdin=entry * 2)
    with pytest.raises(MalformedObject):
        edited(dataset, twice, {b"new": tree_entry(FILE, blob)})
