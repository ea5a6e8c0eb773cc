"""Whatever a handler raises, the caller gets an errno and the mount lives."""

import errno
from collections.abc import Callable

import pyfuse3
import pytest
import trio

from riafs import errors
from riafs.counters import Counters
from riafs.errors import RiafsError
from riafs.fuse.guard import Guard

Announce = Callable[..., None]


def every_failure() -> list[type[RiafsError]]:
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, RiafsError)]
    assert len(found) > 30
    return found


async def errno_of(exception: BaseException, guard: Guard | None = None) -> int:
    async def handler() -> None:
        raise exception

    with pytest.raises(pyfuse3.FUSEError) as caught:
        await (guard or Guard(Counters())).wrap(handler)()
    return int(caught.value.errno)


@pytest.mark.parametrize("kind", every_failure())
async def test_failure_of_ours_gives_its_errno(kind: type[RiafsError], expected_warnings: Announce) -> None:
    expected_warnings("riafs.fuse.guard: (ERROR|WARNING): message")
    assert await errno_of(kind("message")) == kind.errno


async def test_failure_of_the_store_is_logged_once(
    caplog: pytest.LogCaptureFixture, expected_warnings: Announce
) -> None:
    expected_warnings("the store is broken")
    guard = Guard(Counters())
    for _ in range(3):
        await errno_of(errors.StoreError("the store is broken"), guard)
    assert [record.getMessage() for record in caplog.records] == ["the store is broken"]


async def test_what_the_caller_did_or_what_was_reported_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    reported = errors.MissingContent("nowhere")
    reported.reported = True
    for failure in (reported, errors.NoSuchName("x"), errors.NotADirectoryHere("x"), errors.ReadOnly("x")):
        await errno_of(failure)
    assert caplog.records == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ESTALE, errno.EINTR])
async def test_system_error_gives_its_own(code: int) -> None:
    assert await errno_of(OSError(code, "x")) == code


async def test_system_error_without_a_number_gives_eio() -> None:
    assert await errno_of(OSError("x")) == errno.EIO


async def test_errno_that_a_handler_chose_is_left_alone() -> None:
    assert await errno_of(pyfuse3.FUSEError(errno.ENODATA)) == errno.ENODATA


BUGS = [
    ValueError("x"),
    KeyError(1),
    AssertionError(),
    RecursionError(),
    ExceptionGroup("x", [ValueError()]),
]


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: type(bug).__name__)
async def test_bug_gives_eio_is_counted_and_leaves_its_stack(
    bug: Exception, caplog: pytest.LogCaptureFixture, expected_warnings: Announce
) -> None:
    expected_warnings("bug in handler, it ends with EIO")
    counters = Counters()
    guard = Guard(counters)
    assert await errno_of(bug, guard) == errno.EIO
    assert await errno_of(bug, guard) == errno.EIO
    assert counters.handler_errors == 2
    assert [record.exc_info is not None for record in caplog.records] == [True, False]


@pytest.mark.parametrize("lack", [MemoryError(), ExceptionGroup("x", [MemoryError()])], ids=repr)
async def test_a_lack_of_memory_is_no_bug_and_said_once(
    lack: Exception, caplog: pytest.LogCaptureFixture, expected_warnings: Announce
) -> None:
    expected_warnings("riafs.fuse.guard: ERROR: handler: out of memory")
    counters = Counters()
    guard = Guard(counters)
    assert await errno_of(lack, guard) == errno.ENOMEM
    assert await errno_of(lack, guard) == errno.ENOMEM
    assert counters.handler_errors == 0
    assert [record.getMessage() for record in caplog.records] == ["handler: out of memory for one request"]


async def test_cancellation_passes_through() -> None:
    async def handler() -> None:
        await trio.sleep_forever()

    with trio.move_on_after(0.01) as scope:
        await Guard(Counters()).wrap(handler)()
    assert scope.cancelled_caught


async def test_result_passes_through() -> None:
    async def handler(value: int) -> int:
        return value + 1

    assert await Guard(Counters()).wrap(handler)(1) == 2
