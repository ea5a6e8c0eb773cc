"""What a change costs does not grow with how many there are: counted in steps of SQLite's machine, not in seconds."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from riafs.counters import Counters
from riafs.overlay.filesystem import OverlayFileSystem
from riafs.overlay.journal import GROUP
from riafs.overlay.namespace import EXCHANGE, Creator
from riafs.overlay.overlay import Overlay
from riafs.overlay.stat import Ownership
from tests.overlay.disk import TOP, DiskLower

MAKER = Creator(0, 0, 0o755)
_AT_ONCE = 10


class Steps:
    """How many steps of SQLite's virtual machine were made, in tens."""

    def __init__(self) -> None:
        self.count = 0

    def more(self) -> int:
        self.count += 1
        return 0


@contextmanager
def counted(overlay: Overlay) -> Iterator[Steps]:
    steps = Steps()
    connection = overlay.journal._connection
    connection.set_progress_handler(steps.more, _AT_ONCE)
    yield steps
    connection.set_progress_handler(None, 0)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[tuple[OverlayFileSystem, Overlay]]:
    (tmp_path / "lower").mkdir()
    overlay = Overlay(str(tmp_path / "overlay"), Counters())
    made = OverlayFileSystem(overlay, DiskLower(str(tmp_path / "lower").encode()), Ownership(0, 0))
    await made.attach()
    yield made, overlay
    made.close()
    overlay.close()


async def test_directories_cost_the_same_however_many_there_are(engine: tuple[OverlayFileSystem, Overlay]) -> None:
    made, overlay = engine
    top = (await made.mkdir(TOP, b"top", MAKER)).inode
    costs = []
    for size in (200, 400, 800):
        with counted(overlay) as steps:
            for number in range(size):
                await made.mkdir(top, b"%d" % number, MAKER)
                assert (await made.getattr(top)).links == 3 + number  # as the kernel asks for it
            for number in range(size):
                await made.rmdir(top, b"%d" % number)
                assert (await made.getattr(top)).links == 1 + size - number
        costs.append(steps.count / size)
    assert max(costs) < 1.3 * min(costs), f"steps for each of 200, 400 and 800 directories: {costs}"


async def test_links_of_a_directory_follow_every_change(engine: tuple[OverlayFileSystem, Overlay]) -> None:
    made, _ = engine
    one = (await made.mkdir(TOP, b"one", MAKER)).inode
    two = (await made.mkdir(TOP, b"two", MAKER)).inode

    async def links() -> tuple[int, int]:
        return (await made.getattr(one)).links, (await made.getattr(two)).links

    assert await links() == (2, 2)
    await made.mkdir(one, b"a", MAKER)
    await made.mkdir(one, b"b", MAKER)
    _, handle = await made.create(two, b"file", MAKER)
    made.release(handle)
    assert await links() == (4, 2)
    await made.rename(one, b"a", two, b"a")
    assert await links() == (3, 3)
    await made.rename(one, b"b", two, b"file", EXCHANGE)
    assert await links() == (2, 4)
    await made.rename(two, b"file", two, b"a")  # over an empty directory
    assert await links() == (2, 3)
    await made.rmdir(two, b"a")
    await made.unlink(one, b"b")
    assert await links() == (2, 2)


def test_the_size_of_the_log_is_known_without_moving_it(tmp_path: Path) -> None:
    overlay = Overlay(str(tmp_path), Counters())
    database, journal = tmp_path / "overlay.sqlite", overlay.journal
    try:
        journal.move_log()
        before = database.read_bytes()
        for number in range(20 * GROUP):
            with journal.step:
                journal.run("INSERT OR REPLACE INTO setting VALUES ('many', ?)", (b"%d" % number,))
        journal._count()
        assert 20 * 4096 < journal.size - len(before) < 1 << 20
        assert database.read_bytes() == before
    finally:
        overlay.close()
