"""The guard around background tasks: whatever one raises, the others go on."""

import contextlib
import itertools
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.children import ATTEMPTS, run_again
from riafs.counters import Counters
from riafs.errors import MissingContent, OutOfMemory, ProgramKilled, StoreError, TaskFailed
from riafs.tasks import Background, as_failure, described, guarded, start_detached

Announce = Callable[..., None]

NO_THREAD = RuntimeError("can't start new thread")
FAILURES = [
    RuntimeError("a bug"),
    NO_THREAD,
    MemoryError(),
    OSError(24, "Too many open files"),
    RecursionError(),
    StoreError("the store is gone"),
    ExceptionGroup("several", [KeyError(1), OSError(5, "x")]),
]


@pytest.fixture(autouse=True)
def announced(expected_warnings: Announce) -> None:
    expected_warnings("riafs.tasks: ERROR: .*")


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_a_failure_of_one_task_leaves_the_others_alone(failure: Exception) -> None:
    counters, ended = Counters(), []

    async def failing() -> None:
        raise failure

    async def working() -> None:
        await trio.testing.wait_all_tasks_blocked()
        ended.append(True)

    async with trio.open_nursery() as nursery:
        background = Background(nursery, counters)
        background.start_soon(failing)
        background.start_soon(working)
    assert ended == [True]
    assert counters.task_failures == 1


@pytest.mark.parametrize("failure", FAILURES, ids=repr)
async def test_a_task_without_an_end_is_begun_anew(failure: Exception, autojump_clock: trio.testing.MockClock) -> None:
    begun: list[float] = []

    async def failing() -> None:
        begun.append(trio.current_time())
        if len(begun) <= 3:
            raise failure
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        Background(nursery).keep_running(failing)
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert [later - earlier for earlier, later in itertools.pairwise(begun)] == [0.5, 1.0, 2.0]


async def test_pauses_are_short_again_after_a_task_has_run_for_long(autojump_clock: trio.testing.MockClock) -> None:
    begun: list[float] = []

    async def failing() -> None:
        begun.append(trio.current_time())
        await trio.sleep(100 if len(begun) == 3 else 0)
        raise KeyError("x")

    async with trio.open_nursery() as nursery:
        Background(nursery).keep_running(failing)
        await trio.sleep(102.5)
        nursery.cancel_scope.cancel()
    assert begun == [0, 0.5, 1.5, 102.0]


async def test_a_task_that_ends_is_not_begun_anew(autojump_clock: trio.testing.MockClock) -> None:
    begun = []

    async def ending() -> None:
        begun.append(1)

    async with trio.open_nursery() as nursery:
        Background(nursery).keep_running(ending)
    assert begun == [1]


async def test_a_detached_task_does_not_end_the_process(caplog: pytest.LogCaptureFixture) -> None:
    async def failing() -> None:
        raise KeyError("a bug")

    start_detached(failing)
    await trio.testing.wait_all_tasks_blocked()
    assert "failing failed" in caplog.text
    assert "Traceback" in caplog.text


async def test_cancellation_passes_the_guard_and_what_came_with_it_is_logged() -> None:
    counters = Counters()

    async def failing() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("a bug on the way out")

    with trio.CancelScope() as scope:
        with guarded("task", counters):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                nursery.start_soon(failing)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        raise AssertionError("not reached")
    assert scope.cancelled_caught
    assert counters.task_failures == 1


def test_a_shortage_is_told_in_words_and_without_a_stack(caplog: pytest.LogCaptureFixture) -> None:
    with guarded("decoding", Counters()):
        raise NO_THREAD
    assert caplog.messages == ["decoding failed, everything else goes on: no more thread can be started for this user"]
    assert caplog.records[0].exc_info is None
    assert described(OSError(2, "No such file", b"/a/b")) == "/a/b: No such file"


def test_users_of_a_task_are_told_with_a_failure_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(OutOfMemory, match="block x: out of memory"), as_failure("block x"):
        raise MemoryError
    with pytest.raises(MissingContent, match="nowhere"), as_failure("y"):
        raise MissingContent("nowhere")
    assert caplog.records == []
    with pytest.raises(TaskFailed, match="internal error"), as_failure("z"):
        raise KeyError("bug")
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize("deaths", [0, 3, 9])
def test_a_program_that_others_end_is_run_again(tmp_path: Path, deaths: int) -> None:
    count = f"echo x >>{tmp_path}/runs; [ $(wc -l <{tmp_path}/runs) -gt {deaths} ] || kill -9 $$; cat"
    with pytest.raises(ProgramKilled, match="SIGKILL") if deaths > ATTEMPTS else contextlib.nullcontext():
        done = run_again(["sh", "-c", count], environment={"PATH": os.environ["PATH"]}, seconds=10, given=b"asked")
        assert (done.returncode, done.stdout) == (0, b"asked")
    assert len((tmp_path / "runs").read_text().split()) == min(deaths + 1, ATTEMPTS)
