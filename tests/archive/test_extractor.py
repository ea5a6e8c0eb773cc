"""The child that decodes folders: limited, fed with one folder only, and gone when its decoder was closed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from riafs.archive.extractor import ChildDecoder, Engine, Extractor, find_program
from riafs.errors import DecodeFailed, MissingProgram, StoreError
from riafs.formats.sevenzip.cursor import Cursor
from riafs.formats.sevenzip.folder import Folder, parse_shape
from riafs.storage.bytesource import MemoryBytes
from tests.archive.conftest import SEARCH_PATH, no_room_elsewhere
from tests.waiting import eventually_true

PACKED = b"packed bytes of the folder"
COPY = b"\x01\x01\x00"
FOLDER = Folder(parse_shape(Cursor(COPY)), 1234, (len(PACKED),), (6,), None)

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


async def started(search_path: tuple[bytes, ...], spool: Path, folder: Folder = FOLDER) -> ChildDecoder:
    return await Extractor(search_path, os.fsencode(spool), 20).start(
        Engine.SEVENZIP, folder, MemoryBytes(PACKED), "folder"
    )


async def extracted(search_path: tuple[bytes, ...], spool: Path, folder: Folder = FOLDER) -> bytes:
    decoder = await started(search_path, spool, folder)
    data = b""
    try:
        while len(data) < folder.size:
            piece = await decoder.decode(100)
            assert piece
            data += piece
    finally:
        decoder.close()
    return data


async def test_the_child_gets_an_archive_of_its_own_and_nothing_else(program: Program, spool: Path) -> None:
    script = 'for last; do :; done; [ "${last%%[0-9]*}" = /proc/self/fd/ ] && tail -c +33 "$last" | head -c 6'
    assert await extracted(program(script), spool) == PACKED[:6]


async def test_a_stored_folder_comes_back_from_the_real_program(spool: Path) -> None:
    folder = Folder(parse_shape(Cursor(COPY)), 1234, (len(PACKED),), (len(PACKED),), None)
    assert await extracted(SEARCH_PATH, spool, folder) == PACKED


async def test_the_child_has_no_input_and_no_environment(
    program: Program, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "secret")
    script = 'read line && exit 9; [ -z "$SECRET$HOME" ] && printf "%s" "clean "'
    assert await extracted(program(script), spool) == b"clean "


async def test_the_child_has_bounded_memory_time_and_files(program: Program, spool: Path) -> None:
    script = '[ "$(ulimit -v)" -le 2097152 ] && [ "$(ulimit -t)" -le 21 ] && [ "$(ulimit -c)" = 0 ] && printf 123456'
    assert await extracted(program(script), spool) == b"123456"


async def test_endless_output_is_an_error(program: Program, spool: Path) -> None:
    with pytest.raises(DecodeFailed, match="more than it says"):
        await extracted(program("while :; do printf x; done"), spool)


async def test_endless_messages_do_not_fill_the_disk(program: Program, spool: Path) -> None:
    with pytest.raises(DecodeFailed) as failure:
        await extracted(program("while echo message; do :; done >&2"), spool)
    assert len(str(failure.value)) < 3000


async def test_a_failed_child_is_quoted(program: Program, spool: Path) -> None:
    with pytest.raises(DecodeFailed, match="6 bytes before its end with status 2 ERROR: no such thing"):
        await extracted(program("echo 'ERROR:  no such\nthing' >&2; exit 2"), spool)


async def test_the_last_bytes_of_a_failed_child_are_not_served(program: Program, spool: Path) -> None:
    with pytest.raises(DecodeFailed, match="cannot be decoded: 7z ended with status 2"):
        await extracted(program("printf 123456; exit 2"), spool)


async def test_a_warning_of_7z_does_not_lose_the_bytes(program: Program, spool: Path) -> None:
    assert await extracted(program("printf 123456; exit 1"), spool) == b"123456"


async def test_a_call_that_was_given_up_loses_no_bytes(program: Program, spool: Path) -> None:
    search_path = program('printf 123456; read line < "$0.go"; exit 0')
    fifo = os.fsdecode(spool.parent / "bin" / "7zz.go")
    os.mkfifo(fifo)
    decoder = await started(search_path, spool)
    with trio.move_on_after(0.5):
        await decoder.decode(100)
    await trio.to_thread.run_sync(Path(fifo).write_text, "\n")
    assert await decoder.decode(100) == b"123456"
    decoder.close()


async def test_a_closed_decoder_leaves_no_child_and_no_file(program: Program, spool: Path, tmp_path: Path) -> None:
    decoder = await started(program('echo $$ > "$0.pid"; exec /bin/sleep 60'), spool)
    pid_file = tmp_path / "bin" / "7zz.pid"
    await eventually_true(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    pid = pid_file.read_text().strip()
    assert os.path.exists(f"/proc/{pid}")
    decoder.close()
    decoder.close()
    assert not os.path.exists(f"/proc/{pid}")
    assert os.listdir(spool) == []


async def test_no_room_is_an_error_of_this_machine(
    program: Program, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_room_elsewhere(monkeypatch)
    with pytest.raises(StoreError, match="No space left"):
        await extracted(program("printf 123456"), spool / "missing")


def test_the_program_is_looked_for_in_order(program: Program) -> None:
    directories = program("")
    assert find_program((b"/nonexistent", *directories, *SEARCH_PATH)) == directories[0] + b"/7zz"
    assert find_program(SEARCH_PATH)
    with pytest.raises(MissingProgram, match="7zip"):
        find_program((b"/nonexistent",))
