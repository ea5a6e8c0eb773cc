"""Children that write large objects: gone when they were given up, never too many, whatever holds them."""

import os
import signal
from pathlib import Path

import pytest
import trio

from riafs.git import writers
from riafs.git.writers import Writers


async def given_up(many: Writers, command: list[str], file: Path, seconds: float) -> bool:
    """Whether the child had not ended after that time."""
    with file.open("wb") as output, trio.move_on_after(seconds) as scope:
        await many.run(command, {}, output.fileno())
    return scope.cancelled_caught


async def test_the_output_is_in_the_file(tmp_path: Path) -> None:
    assert not await given_up(Writers(), ["/bin/echo", "content"], tmp_path / "out", 20)
    assert (tmp_path / "out").read_bytes() == b"content\n"


async def test_a_child_that_is_given_up_is_killed_and_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "MOST", 1)
    many = Writers()
    for _ in range(3):
        assert await given_up(many, ["/bin/sleep", "60"], tmp_path / "out", 0.2)
    assert not await given_up(many, ["/bin/echo", "x"], tmp_path / "out", 20)


async def test_a_child_that_cannot_be_killed_holds_up_nobody_beyond_his_time_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "MOST", 1)
    many, held = Writers(), list[trio.Process]()

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
    monkeypatch.setattr(writers, "MOST", 1)
    many = Writers()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            await given_up(many, ["/nonexistent/program"], tmp_path / "out", 20)
    assert not await given_up(many, ["/bin/echo", "x"], tmp_path / "out", 20)
