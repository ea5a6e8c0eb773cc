"""``riafs.open_source``: a store, volumes of Keep and a composed tree as a tree of paths, with and without trio."""

import concurrent.futures
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import riafs
from riafs.errors import (
    BadSource,
    CorruptContent,
    IsADirectoryHere,
    LinkLoop,
    NoSuchName,
    NoSuchVersion,
    NotADirectoryHere,
    SourceNotFound,
    UsageError,
)
from tests.keep.making import KeptStore
from tests.plugins.log_hygiene import Announce
from tests.small import EPOCH, Link, Locked, SmallDataset, SmallStore, key_of

CONTENT = bytes(range(256)) * 1000
KEY = key_of(CONTENT)
PROJECT = Path(__file__).parents[2]

SCRIPT = """\
import sys
import riafs

with riafs.open_source(sys.argv[1], verify="always") as tree:
    print([(each.name, each.type, each.size) for each in tree.ls("sub")])
    print(tree.read_range("sub/data", 3, 4).hex(), tree.info("sub/text").size)
    with tree.open("sub/text") as file:
        print(file.read().decode())
    print([each.name for each in tree.versions() if each.kind != "commit"])
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIAFS_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


@pytest.fixture
def study(store: SmallStore) -> SmallDataset:
    files = {
        b"sub/text": b"in git",
        b"sub/data": Locked(KEY),
        b"near": Link(b"sub/text"),
        b"sub/up": Link(b"../sub/./data"),
        b"dir": Link(b"sub"),
        b"out": Link(b"../../etc/passwd"),
        b"away": Link(b"/etc/passwd"),
        b"loop": Link(b"loop"),
        b"\xff": b"any byte",
    }
    made = store.dataset("study", files)
    made.put(KEY, CONTENT)
    made.git("tag", "v1.0", "main")
    made.commit({**files, b"later": b"1"}, time=EPOCH + 60)
    return made


@pytest.fixture
def source(store: SmallStore, study: SmallDataset) -> str:
    return f"{store.path}#~study"


def test_ten_lines_in_a_new_interpreter(source: str) -> None:
    words = [sys.executable, "-c", SCRIPT, source]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(PROJECT)}
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"[('sub/data', 'file', {len(CONTENT)}), ('sub/text', 'file', 6), ('sub/up', 'link', 13)]",
        f"{CONTENT[3:7].hex()} 6",
        "in git",
        "['main', 'v1.0']",
    ]


async def test_the_same_in_trio(source: str) -> None:
    async with riafs.open_source(source) as tree:
        assert [each.name for each in await tree.ls("dir")] == ["sub/data", "sub/text", "sub/up"]
        async with await tree.open("sub/data") as file:
            assert file.size == len(CONTENT)
            assert await file.read_range(len(CONTENT) - 2, 10) == CONTENT[-2:]
        assert (await tree.attributes("sub/data"))["key"] == KEY
        assert (await tree.versions("sub", commits=1))[-1].kind == "commit"


def test_links_are_followed_inside_of_the_source_only(source: str) -> None:
    with riafs.open_source(source) as tree:
        assert tree.read_range("near", 0, 9) == b"in git"
        assert tree.read_range("dir/up", 0, 4) == CONTENT[:4]
        assert tree.info("dir/text").name == "sub/text"
        assert tree.info("near").type == "link"
        for path, failure in (("out", NoSuchName), ("away", NoSuchName), ("loop", LinkLoop), ("..", NoSuchName)):
            with pytest.raises(failure):
                tree.open(path)


def test_failures_are_those_of_riafs(source: str, study: SmallDataset, expected_warnings: Announce) -> None:
    expected_warnings("is damaged")
    with riafs.open_source(source) as tree:
        with pytest.raises(NoSuchName, match="nothing"):
            tree.info("nothing")
        with pytest.raises(NotADirectoryHere, match=r"sub/text/x: sub/text is no directory"):
            tree.info("sub/text/x")
        with pytest.raises(NotADirectoryHere):
            tree.ls("sub/text")
        with pytest.raises(IsADirectoryHere):
            tree.open("sub")
        with pytest.raises(ValueError, match="negative"):
            tree.read_range("sub/text", -1, 2)
    study.object_path(KEY).chmod(0o644)
    study.object_path(KEY).write_bytes(bytes(len(CONTENT)))
    with riafs.open_source(source, verify="always") as tree, pytest.raises(CorruptContent):
        tree.read_range("sub/data", 0, 1)


def test_files_are_those_that_libraries_take(source: str) -> None:
    with riafs.open_source(source) as tree:
        with tree.open("sub/data") as file:
            assert file.seek(-3, os.SEEK_END) == len(CONTENT) - 3
            assert file.read() == CONTENT[-3:]
            assert file.seek(10) == 10
            assert file.read(5) == CONTENT[10:15]
            with pytest.raises(ValueError, match="before the beginning"):
                file.raw.seek(-1)
        kept = tree.open(b"\xff")
        assert kept.read(3) == b"any"
    with pytest.raises(ValueError, match="closed"):
        tree.ls()
    kept.close()


def test_many_threads_use_one_tree(source: str) -> None:
    def read(number: int) -> bool:
        return tree.read_range("sub/data", number * 100, 100) == CONTENT[number * 100 : number * 100 + 100]

    with riafs.open_source(source) as tree, concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(64)))


def test_nothing_is_left(source: str, tmp_path: Path) -> None:
    def failing() -> None:
        with riafs.open_source(source) as tree:
            tree.read_range("sub/text", 0, 1)
            raise RuntimeError("of the program")

    counts = []
    for _ in range(6):
        with pytest.raises(RuntimeError, match="of the program"):
            failing()
        gc.collect()  # directories are closed with the last object that reads them
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[-1] <= counts[0] + 2  # idle threads keep what they used last
    assert not [thread for thread in threading.enumerate() if thread.name == "riafs.open_source"]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith("scratch")) == []


def test_a_store_has_its_datasets_and_these_their_versions(store: SmallStore, study: SmallDataset) -> None:
    with riafs.open_source(str(store.path)) as tree:
        assert "study" in [each.name for each in tree.ls()]
        assert tree.read_range("study/sub/text", 0, 100) == b"in git"
        assert tree.read_range("study@v1.0/sub/text", 0, 100) == b"in git"
        with pytest.raises(NoSuchName):
            tree.info("study@v1.0/later")
        for path, times in {"study": [EPOCH + 60, EPOCH], "study/later": [EPOCH + 60], "study/sub": [EPOCH]}.items():
            commits = [each for each in tree.versions(path) if each.kind == "commit"]
            assert [each.time.timestamp() for each in commits] == times
        with pytest.raises(NoSuchVersion, match=r"the top of .* is in no dataset"):
            tree.versions()


def test_volumes_of_keep_and_trees_composed_of_collections(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    kept = KeptStore(tmp_path / "keep")
    kept.write("one.manifest", {b"file": b"content", b"below/other": b"other"})
    composition = tmp_path / "tree"
    composition.write_text("a/b one\nother one/below/other\n")
    with riafs.open_source(kept.source) as tree:
        assert tree.read_range("one/below/other", 1, 3) == b"the"
        with pytest.raises(NoSuchVersion):
            tree.versions("one")
    with riafs.open_source(f"{kept.source}&tree={composition}") as tree:
        assert sorted(each.name for each in tree.ls()) == ["a", "other"]
        assert tree.read_range("a/b/file", 0, 7) == b"content"
        assert tree.read_range("other", 0, 7) == b"other"


@pytest.mark.parametrize(
    ("text", "options", "failure"),
    [
        ("ria+gopher://x", {}, BadSource),
        ("/nonexistent/store", {}, SourceNotFound),
        ("keep+file:///nonexistent?manifests=-", {}, UsageError),
        ("/nonexistent/store", {"verfy": "always"}, UsageError),
        ("/nonexistent/store", {"verify": "sometimes"}, UsageError),
    ],
)
async def test_what_cannot_be_opened_says_so_on_entering(
    text: str, options: dict[str, str], failure: type[Exception]
) -> None:
    with pytest.raises(failure), riafs.open_source(text, **options):
        pass
    with pytest.raises(failure):
        async with riafs.open_source(text, **options):
            pass


def test_everything_public_is_exported_and_described() -> None:
    names = [name for name in riafs.__all__ if name not in ("errors", "RiafsError")]
    assert sorted(riafs.__all__) == dir(riafs)
    for name in names:
        found = getattr(riafs, name)
        assert found.__doc__, name
        assert found.__module__ == "riafs.api"
    with pytest.raises(AttributeError, match="no attribute 'open_sauce'"):
        getattr(riafs, "open_sauce")  # noqa: B009
    assert (PROJECT / "riafs" / "py.typed").exists()
