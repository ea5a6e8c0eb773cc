"""A store that tries to do harm: nothing outside of it is opened or run, and the harmless parts are served."""

import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from riafs.errors import NoSuchName, RiafsError
from riafs.formats.names import valid_name
from riafs.tree.protocol import Kind
from tests.behaviour.drivers import ObjectDriver, opened, read_file
from tests.faults.opens import Opens, watched
from tests.fuse.mounting import Mounted, mounted
from tests.small import SmallStore, put
from tests.stores.hostile import CANARY, GOOD, GOOD_CONTENT, TRAPS, HostileStore

Announce = Callable[..., None]

UNREADABLE = {
    "alternates-absolute", "alternates-relative", "objects-link", "head-fifo", "head-garbage", "head-huge", "head-up",
    "head-link", "ref-loop", "truncated-pack", "alternates-loop",
}  # fmt: skip
"""Datasets whose own repository is broken; all others serve ``good.txt``."""


@pytest.fixture(autouse=True)
def _announced(expected_warnings: Announce) -> None:
    expected_warnings("riafs")


@pytest.fixture
def outside(hostile_store: HostileStore) -> Iterator[Opens]:
    """What is opened outside of the store."""
    with watched(hostile_store.outside) as opens:
        yield opens
        assert opens.paths() == []
        assert not hostile_store.executed.exists()


async def walk(shown: ObjectDriver, path: bytes, found: dict[bytes, bytes | int]) -> None:
    """Every file below `path` with its content, or the errno of what goes wrong."""
    try:
        names = await shown.ls(path)
    except RiafsError as problem:
        found[path] = problem.errno
        return
    assert len(set(names)) == len(names)
    assert all(map(valid_name, names))
    for name in names:
        below = path + b"/" + name
        kind = (await shown.stat(below)).kind
        if kind is Kind.DIRECTORY:
            await walk(shown, below, found)
            continue
        try:
            found[below] = await (shown.readlink(below) if kind is Kind.LINK else shown.read(below))
        except RiafsError as problem:
            found[below] = problem.errno


@pytest.mark.parametrize("trap", TRAPS)
async def test_trap_is_harmless(hostile_store: HostileStore, outside: Opens, trap: str) -> None:
    found: dict[bytes, bytes | int] = {}
    name = trap.encode()
    async with opened(hostile_store.path, deadline=5) as shown:
        with trio.fail_after(20):
            await walk(shown, name, found)
            await walk(shown, b"by-id/" + hostile_store.ids[trap].encode(), found)
        assert await shown.read(b"good/annexed.txt") == GOOD_CONTENT
    assert not [path for path, content in found.items() if isinstance(content, bytes) and CANARY in content]
    if trap not in UNREADABLE:
        assert found.get(name + b"/good.txt") == GOOD


async def test_bad_aliases_and_ids_are_not_shown(hostile_store: HostileStore, outside: Opens) -> None:
    async with opened(hostile_store.path) as shown:
        assert set(await shown.ls(b"")) == {name.encode() for name in TRAPS} | {b"by-id"}
        assert set(await shown.ls(b"by-id")) == {identifier.encode() for identifier in hostile_store.ids.values()}


@pytest.mark.parametrize(
    "fragment",
    [
        "#~out-absolute",
        "#~out-relative",
        "#~root",
        "#~up",
        "#~loop",
        "#~to-fifo",
        "#~to-file",
        "#~dangling",
        "#eeeeeeee-0000-4000-8000-000000000000",
        "#dddstray",
    ],
)
async def test_bad_place_is_no_source(hostile_store: HostileStore, outside: Opens, fragment: str) -> None:
    with pytest.raises(RiafsError), trio.fail_after(10):
        async with opened(hostile_store.path, fragment):
            pass


@pytest.mark.parametrize(
    "version",
    [b"../../outside/ref", b"%2e%2e%2foutside", b"-h", b"--help", b"HEAD\n", b"main^{/x}", b"@{-1}", b"a b", b":x"],
)
async def test_odd_versions_name_nothing(hostile_store: HostileStore, outside: Opens, version: bytes) -> None:
    async with opened(hostile_store.path) as shown:
        root = await shown.inode(b"")
        with pytest.raises(NoSuchName):
            await shown.filesystem.lookup(root, b"good@" + version)


async def test_names_that_are_no_names_are_counted_and_logged(
    hostile_store: HostileStore, outside: Opens, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(hostile_store.path) as shown:
        for _ in range(3):
            await shown.ls(b"tree-names")
        assert shown.counters.names_dropped >= 10
    assert len([record for record in caplog.records if "impossible names left out" in record.getMessage()]) == 1


@pytest.fixture(scope="module")
def mount(hostile_store: HostileStore, fuse: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A real mount of it."""
    with mounted(hostile_store.path, tmp_path_factory.mktemp("hostile-mount"), "--deadline", "5") as made:
        yield made


def test_whole_store_through_the_kernel(mount: Mounted, hostile_store: HostileStore, outside: Opens) -> None:
    served = 0
    refused: set[int | None] = set()
    for directory, _, files in os.walk(os.fsencode(mount.path)):
        for name in files:
            path = os.path.join(directory, name)
            if os.path.islink(path):
                continue
            try:
                content = read_file(path)
            except OSError as error:
                refused.add(error.errno)
                continue
            assert CANARY not in content
            served += content == GOOD
    assert refused <= {errno.EIO, errno.EACCES}
    assert served >= 2 * (len(TRAPS) - len(UNREADABLE)) - 2
    assert read_file(mount.path / "good" / "annexed.txt") == GOOD_CONTENT
    assert mount.counter("handler_errors") == 0


# -- links among git's own files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["pack", "index", "loose object", "fan-out directory"])
async def test_link_in_place_of_a_git_object_is_not_followed(tmp_path: Path, what: str) -> None:
    store = SmallStore.make(tmp_path / "store")
    secret = SmallStore.make(tmp_path / "outside").dataset("secret", {b"file": CANARY})
    dataset = store.dataset("one", {b"good.txt": GOOD})
    if what in ("pack", "index"):
        secret.git("repack", "-adq")
    for path in (secret.path / "objects").rglob("*"):
        relative = path.relative_to(secret.path)
        wanted = path.is_dir() if what == "fan-out directory" else path.is_file()
        if wanted and path.name not in ("info", "pack") and not (dataset.path / relative).exists():
            put(dataset.path / relative.parent / ".made", b"")
            (dataset.path / relative).symlink_to(path)
    put(dataset.path / "refs" / "heads" / "main", secret.git("rev-parse", "main").encode())
    with watched(tmp_path / "outside") as opens:
        async with opened(store.path) as shown:
            with pytest.raises(RiafsError):
                await shown.read(b"one/file")
        assert opens.paths() == []


# -- sizes that nobody can mean ---------------------------------------------------------------------------------------


async def test_absurd_sizes_cost_no_memory(hostile_store: HostileStore, outside: Opens) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: dict[bytes, bytes | int] = {}
    async with opened(hostile_store.path) as shown:
        for trap in (b"key-names", b"head-huge", b"layout-huge", b"archive-garbage", b"alternates-loop"):
            await walk(shown, trap, found)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


@pytest.mark.parametrize("trap", ["commands", "external-transport"])
def test_the_same_repository_does_run_its_command_under_plain_git(hostile_store: HostileStore, trap: str) -> None:
    """So that the tests above show something."""
    command = ["git", "--git-dir", hostile_store.dataset_path(trap), "cat-file", "-p", "main:absent.txt"]
    try:
        subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=30)
        assert hostile_store.executed.exists()
    finally:
        hostile_store.executed.unlink(missing_ok=True)
