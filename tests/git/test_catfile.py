"""Children of git: many objects at once, what happens when one dies or is asked for nonsense, and large objects."""

import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from riafs.counters import Counters
from riafs.errors import GitError, ProgramKilled, StoreTimeout
from riafs.git import catfile
from riafs.git.catfile import MAX_BATCH, CatFile, FileWriters
from riafs.git.environment import PrivateGitDirs
from tests.small import SmallDataset, SmallStore, noise


@pytest.fixture
def dataset(tmp_path: Path) -> SmallDataset:
    return SmallStore.make(tmp_path / "store").dataset("one", {b"a": b"content of a", b"b": b"content of b"})


def child_for(dataset: SmallDataset, tmp_path: Path, program: str = "git", seconds: float = 10) -> CatFile:
    gits = PrivateGitDirs(program, os.environ["PATH"], os.fsencode(tmp_path))
    environment = gits.environment(os.fsencode(dataset.path / "objects"), b"sha1")
    return CatFile(program, environment, "dataset one", seconds, Counters())


@pytest.fixture
async def child(dataset: SmallDataset, tmp_path: Path) -> AsyncIterator[CatFile]:
    opened = child_for(dataset, tmp_path)
    yield opened
    opened.close()


def oid(dataset: SmallDataset, name: str) -> bytes:
    return dataset.git("rev-parse", f"main:{name}").encode()


async def contents(child: CatFile, *oids: bytes) -> list[bytes | None]:
    found = await child.batch([b"contents " + each for each in oids], 1 << 20)
    return [None if each is None else each.data for each in found]


def pid_of(child: CatFile) -> int:
    assert child._process is not None
    return child._process.pid


async def test_answers_come_in_the_order_of_the_requests(child: CatFile, dataset: SmallDataset) -> None:
    a, b = oid(dataset, "a"), oid(dataset, "b")
    assert await contents(child, a, b, a) == [b"content of a", b"content of b", b"content of a"]


async def test_information_has_no_content(child: CatFile, dataset: SmallDataset) -> None:
    [found] = await child.batch([b"info " + oid(dataset, "a")], 1)
    assert found is not None
    assert (found.kind, found.size, found.data) == (b"blob", 12, b"")


async def test_what_git_does_not_have_is_none(child: CatFile, dataset: SmallDataset) -> None:
    absent = (b"12" * 20, b"nonsense", b"main:a", b"deadbee", b"x y z", b"..", b"-h", b"\xff", b"HEAD")
    assert await contents(child, *absent, oid(dataset, "a")) == [None] * len(absent) + [b"content of a"]


async def test_ambiguous_name_is_none(child: CatFile, tmp_path: Path, dataset: SmallDataset) -> None:
    by_prefix: dict[bytes, bytes] = {}
    for number in range(100_000):
        text = b"%d" % number
        name = hashlib.sha1(b"blob %d\0%b" % (len(text), text)).hexdigest().encode()
        if name[:7] in by_prefix:
            dataset.commit({b"x": by_prefix[name[:7]], b"y": text})
            assert await contents(child, name[:7]) == [None]
            return
        by_prefix[name[:7]] = text
    raise AssertionError("no two blobs with one prefix")


async def test_largest_batch_of_longest_names(child: CatFile, dataset: SmallDataset) -> None:
    a = oid(dataset, "a")
    assert await contents(child, *[a] * MAX_BATCH) == [b"content of a"] * MAX_BATCH
    assert await contents(child, *[b"f" * 64] * MAX_BATCH) == [None] * MAX_BATCH


async def test_batches_of_many_tasks_do_not_mix(child: CatFile, dataset: SmallDataset) -> None:
    a, b = oid(dataset, "a"), oid(dataset, "b")

    async def ask(name: bytes, answer: bytes) -> None:
        for _ in range(10):
            assert await contents(child, name) == [answer]

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask, a, b"content of a")
            nursery.start_soon(ask, b, b"content of b")


async def test_large_object_comes_whole(child: CatFile, dataset: SmallDataset) -> None:
    large = noise(3_000_000)
    dataset.commit({b"large": large})
    [found] = await child.batch([b"contents " + oid(dataset, "large")], 1 << 30)
    assert found is not None
    assert found.data == large


async def test_object_over_the_limit_is_refused_and_the_next_batch_is_clean(
    child: CatFile, dataset: SmallDataset
) -> None:
    with pytest.raises(GitError, match="12 bytes, more than the 11 allowed"):
        await child.batch([b"contents " + oid(dataset, "a")], 11)
    assert await contents(child, oid(dataset, "b")) == [b"content of b"]


async def test_killed_child_is_started_again(child: CatFile, dataset: SmallDataset) -> None:
    a = oid(dataset, "a")
    await contents(child, a)
    for ended_with in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid_of(child), ended_with)
        assert await contents(child, a) == [b"content of a"]


async def test_child_that_is_killed_again_and_again_is_no_damaged_repository(
    dataset: SmallDataset, tmp_path: Path
) -> None:
    program = tmp_path / "killed"
    program.write_text("#!/bin/sh\nkill -9 $$\n")
    program.chmod(0o755)
    child = child_for(dataset, tmp_path, str(program))
    with pytest.raises(ProgramKilled, match=r"git, reading objects of .*, was ended by SIGKILL each of 5 times"):
        await contents(child, oid(dataset, "a"))


async def test_cancelled_batch_leaves_no_answers_for_the_next_one(child: CatFile, dataset: SmallDataset) -> None:
    dataset.commit({b"large": noise(3_000_000), b"a": b"content of a"})
    with trio.CancelScope() as scope:
        scope.cancel()
        await child.batch([b"contents " + oid(dataset, "large")], 1 << 30)
    assert await contents(child, oid(dataset, "a")) == [b"content of a"]


async def test_child_that_hangs_ends_with_the_deadline(child: CatFile, dataset: SmallDataset, tmp_path: Path) -> None:
    slow = child_for(dataset, tmp_path, seconds=0.2)
    a = oid(dataset, "a")
    await contents(slow, a)
    stopped = pid_of(slow)
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(StoreTimeout, match=r"within 0\.2 s"):
        await contents(slow, a)
    assert await contents(slow, a) == [b"content of a"]
    slow.close()


async def test_program_that_is_not_there(dataset: SmallDataset, tmp_path: Path) -> None:
    with pytest.raises(GitError, match="git cannot be started"):
        await contents(child_for(dataset, tmp_path, "/nonexistent/git"), b"12" * 20)


async def test_program_that_always_dies_is_not_started_in_a_hurry(dataset: SmallDataset, tmp_path: Path) -> None:
    dying = child_for(dataset, tmp_path, "false", seconds=0.5)
    while not dying.hopeless:
        with pytest.raises(GitError):
            await contents(dying, b"12" * 20)
    began = trio.current_time()
    for _ in range(2):
        with pytest.raises((GitError, StoreTimeout)):
            await contents(dying, b"12" * 20)
    assert trio.current_time() - began >= 0.5  # pauses of 0.2 and 0.4 s before the next deaths
    dying.close()


async def test_closing_ends_the_child(dataset: SmallDataset, tmp_path: Path) -> None:
    child = child_for(dataset, tmp_path)
    await contents(child, oid(dataset, "a"))
    process = os.pidfd_open(pid_of(child))
    child.close()
    with trio.fail_after(5):
        await trio.lowlevel.wait_readable(process)
    os.close(process)


async def given_up(many: FileWriters, command: list[str], file: Path, seconds: float) -> bool:
    """Whether the child had not ended after that time."""
    with file.open("wb") as output, trio.move_on_after(seconds) as scope:
        await many.run(command, {}, output.fileno())
    return scope.cancelled_caught


async def test_the_output_is_in_the_file(tmp_path: Path) -> None:
    assert not await given_up(FileWriters(), ["/bin/echo", "content"], tmp_path / "out", 20)
    assert (tmp_path / "out").read_bytes() == b"content\n"


async def test_a_child_that_is_given_up_is_killed_and_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catfile, "MOST_WRITERS", 1)
    many = FileWriters()
    for _ in range(3):
        assert await given_up(many, ["/bin/sleep", "60"], tmp_path / "out", 0.2)
    assert not await given_up(many, ["/bin/echo", "x"], tmp_path / "out", 20)


async def test_a_child_that_cannot_be_killed_holds_up_nobody_beyond_his_time_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catfile, "MOST_WRITERS", 1)
    many, held = FileWriters(), list[trio.Process]()

    def survive(child: trio.Process) -> None:
        held.append(child)

    with monkeypatch.context() as patched:
        patched.setattr(trio.Process, "kill", survive)
        with trio.fail_after(10):
            assert await given_up(many, ["/bin/sleep", "60"], tmp_path / "out", 0.2)
            assert await given_up(many, ["/bin/echo", "x"], tmp_path / "out", 0.2)
    assert len(held) == 1
    os.kill(held[0].pid, signal.SIGKILL)
    assert not await given_up(many, ["/bin/echo", "x"], tmp_path / "out", 20)


async def test_a_program_that_is_not_there_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catfile, "MOST_WRITERS", 1)
    many = FileWriters()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            await given_up(many, ["/nonexistent/program"], tmp_path / "out", 20)
    assert not await given_up(many, ["/bin/echo", "x"], tmp_path / "out", 20)
