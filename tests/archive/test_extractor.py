"""The child that decodes members: limited, fed with nothing, and gone when its caller is."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from riafs.archive.extractor import Extractor, find_program
from riafs.errors import DecodeFailed, MissingProgram, StoreError, StoreTimeout
from riafs.formats.sevenzip import Member
from tests.archive.conftest import SEARCH_PATH

MEMBER = Member(b"name", 6, 0, 0, None, is_directory=False, mode=None)
# Without PATH a shell looks in its own default places.
SLEEP = 'echo $$ > "$0.pid"; /bin/sleep 60'

Program = Callable[[str], tuple[bytes, ...]]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """``program(script)``: a search path whose only ``7zz`` is this shell script."""

    def make(script: str) -> tuple[bytes, ...]:
        directory = tmp_path / "bin"
        directory.mkdir()
        (directory / "7zz").write_text(f"#!/bin/sh\n{script}\n")
        (directory / "7zz").chmod(0o755)
        return (os.fsencode(directory),)

    return make


async def wait_for(path: Path) -> int:
    """The process id that the script wrote."""
    return await trio.to_thread.run_sync(wait_in_thread, path)


def wait_in_thread(path: Path) -> int:
    while not (path.exists() and path.read_text().endswith("\n")):
        time.sleep(0.01)
    return int(path.read_text())


def is_alive(process: int) -> bool:
    return os.path.exists(f"/proc/{process}")


async def extracted(search_path: tuple[bytes, ...], spool: Path, deadline: float = 20) -> bytes:
    found = await Extractor(search_path, os.fsencode(spool), deadline).extract(b"archive", MEMBER)
    data = bytes(await found.read(0, 100))
    found.close()
    return data


async def test_the_child_gets_the_names_as_they_are(program: Program, spool: Path) -> None:
    assert await extracted(program('for last; do :; done; printf "%s!\\n" "$last"'), spool) == b"name!\n"


async def test_the_child_has_no_input_and_no_environment(
    program: Program, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "secret")
    script = 'read line && exit 9; [ -z "$SECRET$HOME" ] && printf "%s" "clean "'
    assert await extracted(program(script), spool) == b"clean "


async def test_the_child_has_bounded_memory_time_and_files(program: Program, spool: Path) -> None:
    script = '[ "$(ulimit -v)" -le 2097152 ] && [ "$(ulimit -t)" -le 21 ] && [ "$(ulimit -c)" = 0 ] && printf 123456'
    assert await extracted(program(script), spool) == b"123456"


async def test_endless_output_is_cut(program: Program, spool: Path) -> None:
    with pytest.raises(DecodeFailed, match="more than its 6 bytes"):
        await extracted(program("while :; do echo endless; done"), spool)


async def test_endless_messages_do_not_fill_the_disk(program: Program, spool: Path) -> None:
    with pytest.raises(DecodeFailed) as failure:
        await extracted(program("while echo message; do :; done >&2"), spool)
    assert len(str(failure.value)) < 3000


async def test_a_failed_child_is_quoted(program: Program, spool: Path) -> None:
    with pytest.raises(DecodeFailed, match="status 2 ERROR: no such thing"):
        await extracted(program("echo 'ERROR:  no such\nthing' >&2; exit 2"), spool)


async def test_right_size_with_a_failed_child_is_not_served(program: Program, spool: Path) -> None:
    with pytest.raises(DecodeFailed, match="cannot be decoded: 7z ended with status 2"):
        await extracted(program("printf 123456; exit 2"), spool)


async def test_a_warning_of_7z_does_not_lose_the_member(program: Program, spool: Path) -> None:
    assert await extracted(program("printf 123456; exit 1"), spool) == b"123456"


async def test_a_child_that_hangs_is_ended_at_the_deadline(program: Program, spool: Path, tmp_path: Path) -> None:
    search_path = program(SLEEP)
    start = time.monotonic()
    with pytest.raises(StoreTimeout, match=r"more than 0\.5 s"):
        await extracted(search_path, spool, deadline=0.5)
    assert time.monotonic() - start < 10
    assert not is_alive(await wait_for(tmp_path / "bin" / "7zz.pid"))


async def test_a_cancelled_caller_leaves_no_child(program: Program, spool: Path, tmp_path: Path) -> None:
    search_path = program(SLEEP)
    process = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(extracted, search_path, spool)
        process = await wait_for(tmp_path / "bin" / "7zz.pid")
        assert is_alive(process)
        nursery.cancel_scope.cancel()
    assert not is_alive(process)
    assert os.listdir(spool) == []


async def test_only_so_many_children_run_at_once(program: Program, spool: Path, tmp_path: Path) -> None:
    extractor = Extractor(program('echo x >> "$0.log"; /bin/sleep 60'), os.fsencode(spool), deadline=60, children=2)
    log = tmp_path / "bin" / "7zz.log"
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(extractor.extract, b"archive", MEMBER)
        with trio.fail_after(30):
            while not log.exists() or log.read_text() != "x\nx\n":  # noqa: ASYNC110  # another process writes it
                await trio.sleep(0.02)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert log.read_text() == "x\nx\n"
        nursery.cancel_scope.cancel()


async def test_no_room_is_an_error_of_this_machine(program: Program, spool: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        await extracted(program("printf 123456"), spool / "missing")


def test_the_program_is_looked_for_in_order(program: Program) -> None:
    directories = program("")
    assert find_program((b"/nonexistent", *directories, *SEARCH_PATH)) == directories[0] + b"/7zz"
    assert find_program(SEARCH_PATH)
    with pytest.raises(MissingProgram, match="7zip"):
        find_program((b"/nonexistent",))
