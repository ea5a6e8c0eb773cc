"""Whatever happens to the files of the cache directory, what is read through it is right, or an error.

The mount is a whole one but for the kernel: decoded members go to the block cache, lists of members and resets to saved
indexes, what was verified to its database; the next mounts find them damaged.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.behaviour.drivers import opened
from tests.cache.blocks import small_file_system
from tests.damage.mutation import CHANGES, Change
from tests.small import Locked, SmallStore, key_of, noise
from tests.waiting import random_moment

PROJECT = Path(__file__).parents[2]
"""How often a mount is killed."""
Announce = Callable[..., None]

WARNED = (
    "removed and is made again",
    "it is made again",
    "the record of content that earlier mounts verified is not used",
    "blocks are not cached on the disk for now",
)

DECODED = {b"t%d" % number: (b"line %d\n" % number) * 9000 for number in range(12)}
LOOSE = {b"loose": noise(300_000)}
CONTENTS: Mapping[bytes, bytes] = {**DECODED, **LOOSE}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One dataset: compressed members, and a loose object."""
    made = SmallStore.make(tmp_path / "store")
    dataset = made.dataset("one", {name: Locked(key_of(content)) for name, content in CONTENTS.items()})
    for content in LOOSE.values():
        dataset.put(key_of(content), content)
    dataset.archive({key_of(content): content for content in DECODED.values()}, "-mx1", "-ms=on")
    return made.path


async def read_all(store: Path, cache: Path) -> int:
    """Read everything through a mount; how many bytes it had to decode or to verify."""
    async with opened(store, cache=cache) as shown:
        for name, content in CONTENTS.items():
            assert await shown.read(b"one/" + name) == content
        return shown.counters.bytes_verified


def files_of(cache: Path) -> list[Path]:
    """All that a mount left, the memory of what was verified among it."""
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    kinds = {path.suffix or path.parent.parent.name for path in files}
    assert kinds >= {".7zi", ".sqlite", "blocks-1"}
    return files


@pytest.mark.parametrize("damage", CHANGES.values(), ids=CHANGES.keys())
async def test_every_file_damaged_at_once(
    damage: Change, store: Path, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(*WARNED)
    cache, chance = tmp_path / "cache", random.Random(1)
    assert await read_all(store, cache) > 0
    for _ in range(3):
        for path in files_of(cache):
            path.write_bytes(damage(path.read_bytes(), chance))
        await read_all(store, cache)
    await read_all(store, cache)
    assert await read_all(store, cache) == 0


async def test_the_files_of_a_kind_exchanged(store: Path, tmp_path: Path, expected_warnings: Announce) -> None:
    expected_warnings(*WARNED)
    cache = tmp_path / "cache"
    await read_all(store, cache)
    files = files_of(cache)
    contents = [path.read_bytes() for path in files]
    for path, other in zip(files, contents[1:] + contents[:1], strict=True):
        path.write_bytes(other)
    await read_all(store, cache)
    assert await read_all(store, cache) == 0


@pytest.mark.parametrize("what", ["directory", "link", "fifo", "nothing"])
async def test_something_else_in_the_place_of_every_file(
    what: str, store: Path, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(*WARNED)
    cache = tmp_path / "cache"
    await read_all(store, cache)
    for path in files_of(cache):
        path.unlink()
        if what == "directory":
            path.mkdir()
        elif what == "link":
            path.symlink_to("/etc/passwd")
        elif what == "fifo":
            os.mkfifo(path)
    for _ in range(2):
        await read_all(store, cache)


@pytest.mark.parametrize("size", ["64k", "256k"])
async def test_a_cache_directory_with_hardly_any_room(
    size: str, store: Path, tmp_path: Path, expected_warnings: Announce
) -> None:
    expected_warnings(*WARNED)
    with small_file_system(tmp_path / "small", size) as cache:
        for _ in range(3):
            await read_all(store, cache)


KILLED = """
import sys, trio
from pathlib import Path
from tests.cache.test_damaged_directory import read_all
print("begun", flush=True)
while True:
    trio.run(read_all, Path(sys.argv[1]), Path(sys.argv[2]))
"""


def killed_soon(store: Path, cache: Path, chance: random.Random) -> None:
    """A process that reads everything again and again, killed after a while."""
    command = [sys.executable, "-c", KILLED, str(store), str(cache)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    random_moment(chance, 0, 0.6)
    process.send_signal(signal.SIGKILL)
    process.communicate()


async def test_killed_again_and_again_the_next_mount_reads_what_is_right(
    store: Path, tmp_path: Path, long: bool
) -> None:
    cache, chance = tmp_path / "cache", random.Random(3)
    for number in range(100 if long else 6):
        if number % 3 == 0:
            shutil.rmtree(cache, ignore_errors=True)
        killed_soon(store, cache, chance)
        await read_all(store, cache)
    assert await read_all(store, cache) == 0
