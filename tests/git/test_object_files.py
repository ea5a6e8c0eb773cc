"""Objects that are read without git: the same ones that git reads, or none."""

import os
import random
import subprocess
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from riafs.git.object_files import MOST_BYTES, ReadObject, Wanted, read_beginning, read_objects
from riafs.storage.local import LocalStorage
from riafs.storage.protocol import Opener
from tests.behaviour.drivers import opened
from tests.small import Link, Node, SmallDataset, SmallStore, noise

Change = Callable[[bytes], bytes]


def git(directory: Path, *words: str, data: bytes = b"") -> bytes:
    return subprocess.run(["git", "--git-dir", directory, *words], input=data, capture_output=True, check=True).stdout


def opener(root: Path) -> Callable[[bytes, int], int]:
    return lambda path, flags: os.open(os.fsencode(root) + b"/" + path, flags)


def read(root: Path, *oids: bytes, content: bool = True, limit: int = 1 << 30) -> list[ReadObject | None]:
    return read_objects(opener(root), b"objects", [Wanted(oid, content) for oid in oids], limit)


def all_objects(directory: Path) -> Mapping[bytes, ReadObject]:
    """What git says."""
    found = {}
    for line in git(directory, "cat-file", "--batch-all-objects", "--batch-check").splitlines():
        oid, kind, size = line.split()
        found[oid] = ReadObject(kind, int(size), git(directory, "cat-file", kind.decode(), oid.decode()))
    return found


def fill(directory: Path, object_format: str) -> None:
    """Commits with a text that changes a little each time, so that packs have differences."""
    subprocess.run(["git", "init", "-q", "--bare", f"--object-format={object_format}", directory], check=True)
    text = b"".join(b"line %d of a text\n" % number for number in range(400))
    stream = b""
    for number in range(8):
        text += b"and line %d\n" % number
        stream += b"commit refs/heads/main\ncommitter t <t@t> %d +0000\ndata 1\nx\n" % number
        stream += b"M 100644 inline text\ndata %d\n%b\n" % (len(text), text)
        stream += b"M 100644 inline file%d\ndata 3\nabc\n" % number
    stream += b"tag v1\nfrom refs/heads/main\ntagger t <t@t> 0 +0000\ndata 1\nx\n"
    git(directory, "fast-import", "--quiet", data=stream)
    pack = next((directory / "objects/pack").glob("*.pack"), None)
    if pack is not None:
        data = pack.read_bytes()
        for path in pack.parent.iterdir():
            path.unlink()
        git(directory, "unpack-objects", "-q", data=data)


FORMS: Mapping[str, tuple[str, ...]] = {
    "loose": (),
    "packed": ("repack", "-qadf", "--depth=20"),
    "named bases": ("-c", "repack.useDeltaBaseOffset=false", "repack", "-qadf", "--depth=20"),
}


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
@pytest.mark.parametrize("form", FORMS)
def test_every_object_is_the_one_that_git_reads(tmp_path: Path, form: str, object_format: str) -> None:
    fill(tmp_path, object_format)
    if FORMS[form]:
        git(tmp_path, *FORMS[form])
    objects = all_objects(tmp_path)
    assert {each.kind for each in objects.values()} == {b"commit", b"tree", b"blob", b"tag"}
    assert read(tmp_path, *objects) == list(objects.values())
    assert read(tmp_path, *objects, content=False) == [each._replace(data=b"") for each in objects.values()]


def test_absent_and_large_objects_are_left_to_git(tmp_path: Path) -> None:
    fill(tmp_path, "sha1")
    large, just = [
        git(tmp_path, "hash-object", "-w", "--stdin", data=noise(size)).strip() for size in (MOST_BYTES + 1, MOST_BYTES)
    ]
    small = git(tmp_path, "hash-object", "-w", "--stdin", data=b"abc").strip()
    for _ in range(2):
        assert read(tmp_path, b"12" * 20, large) == [None, None]
        [found] = read(tmp_path, just)
        assert found is not None
        assert found.size == MOST_BYTES
        assert read(tmp_path, small, limit=2) == [None]
        tree = git(tmp_path, "mktree", data=b"".join(b"100644 blob %b\t%b\n" % (oid, oid) for oid in (large, just)))
        git(
            tmp_path,
            "update-ref",
            "refs/heads/x",
            git(tmp_path, "commit-tree", tree.strip().decode(), data=b"x").strip().decode(),
        )
        git(tmp_path, "repack", "-qad")


def _flipped(seed: int) -> Change:
    chosen = random.Random(seed)

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        for _ in range(chosen.choice((1, 1, 4, 64))):
            changed[chosen.randrange(len(changed))] ^= 1 << chosen.randrange(8)
        return bytes(changed[: chosen.randrange(len(changed))] if chosen.random() < 0.2 else changed)

    return change


@pytest.mark.parametrize("form", FORMS)
def test_damaged_files_give_no_object_that_is_another_one(tmp_path: Path, form: str) -> None:
    fill(tmp_path, "sha1")
    if FORMS[form]:
        git(tmp_path, *FORMS[form])
    objects = all_objects(tmp_path)
    files = [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]
    chosen = random.Random(form)
    unread = 0
    for seed in range(60):
        path = chosen.choice(files)
        genuine = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(_flipped(seed)(genuine))
        for oid, answer in zip(objects, read(tmp_path, *objects), strict=True):
            assert answer in (None, objects[oid]), f"seed {seed}, {path.name}"
            unread += answer is None
        read(tmp_path, *objects, content=False)
        path.write_bytes(genuine)
    assert unread, "no change did any harm"


def test_small_file_that_claims_to_be_large_takes_no_memory(tmp_path: Path) -> None:
    """20 kB that would be 20 MB."""
    packed = zlib.compressobj(9)
    bomb = packed.compress(b"blob 3\0") + b"".join(packed.compress(bytes(1 << 20)) for _ in range(20)) + packed.flush()
    path = tmp_path / "objects/12" / ("12" * 19)
    path.parent.mkdir(parents=True)
    path.write_bytes(bomb)
    assert read(tmp_path, b"12" * 20) == [None]


def test_fifos_and_directories_in_the_place_of_files_are_left_to_git(tmp_path: Path) -> None:
    (tmp_path / "objects/12").mkdir(parents=True)
    os.mkfifo(tmp_path / "objects/12" / ("12" * 19))
    (tmp_path / "objects/34" / ("34" * 19)).mkdir(parents=True)
    (tmp_path / "objects/pack/pack-1.pack").mkdir(parents=True)
    os.mkfifo(tmp_path / "objects/pack/pack-1.idx")
    before = len(os.listdir("/proc/self/fd"))
    assert read(tmp_path, b"12" * 20, b"34" * 20, b"56" * 20) == [None] * 3
    assert len(os.listdir("/proc/self/fd")) == before


# -- what entering a dataset costs ------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path) -> SmallDataset:
    files: dict[bytes, Node] = {b"file%d" % number: b"content" for number in range(10)}
    files |= {b"link": Link(b"file1"), b"sub/file": b"x"}
    return SmallStore.make(tmp_path / "store").dataset("one", files)


@pytest.mark.parametrize("packed", [False, True])
async def test_entering_a_dataset_starts_no_git(
    dataset: SmallDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    if packed:
        dataset.git("repack", "-qad")
        dataset.git("pack-refs", "--all")

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a child was started")

    monkeypatch.setattr(subprocess, "Popen", refused)
    async with opened(tmp_path / "store") as shown:
        assert len(await shown.ls(b"one")) == 12
        assert await shown.ls(b"one/sub") == [b"file"]
        assert await shown.read(b"one/file3") == b"content"
        assert await shown.readlink(b"one/link") == b"file1"


@pytest.mark.usefixtures("dataset")
async def test_a_dataset_is_entered_with_one_visit_to_its_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visits, reading = 0, LocalStorage.reading

    async def counted(storage: LocalStorage, function: Callable[[Opener], object]) -> object:
        nonlocal visits
        visits += 1
        return await reading(storage, function)

    monkeypatch.setattr(LocalStorage, "reading", counted)
    async with opened(tmp_path / "store") as shown:
        assert len(await shown.ls(b"one")) == 12
        assert visits == 1
        assert await shown.read(b"one/file3") == b"content"


def test_what_is_read_of_a_commit_is_its_tree_and_small_blobs(tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    dataset = store.dataset("one", {b"a": b"a", b"large": noise(20_000), b"link": Link(b"a"), b"d/below": b"below"})
    known = all_objects(dataset.path)
    wanted = {dataset.git("rev-parse", name).encode() for name in ("main", "main^{tree}", "main:a", "main:link")}
    commit = dataset.git("rev-parse", "main").encode()
    found = read_beginning(opener(dataset.path), b"objects", commit, MOST_BYTES)
    assert found == {oid: known[oid] for oid in wanted}
    for oid in known.keys() - {commit}:
        assert read_beginning(opener(dataset.path), b"objects", oid, MOST_BYTES) == {oid: known[oid]}


async def test_many_objects_are_read_by_one_child(dataset: SmallDataset, tmp_path: Path) -> None:
    dataset.commit({b"file%04d" % number: b"%d" % number for number in range(2000)})
    async with opened(tmp_path / "store") as shown:
        names = await shown.ls(b"one")
        assert len(names) == 2000
        assert await shown.read(b"one/file1234") == b"1234"
