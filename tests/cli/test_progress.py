"""Progress: drawn on a terminal, a line for each step with ``--verbose``, else nothing; counted before it is read."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from riafs.cli import main
from riafs.cli.parser import build_parser
from riafs.cli.progress import Display, progress
from riafs.watching import PushStep, Reading
from tests.daemon.conftest import PROGRAM, Run, mountpoint, riafs
from tests.small import Locked, SmallStore, key_of, noise
from tests.waiting import eventually

__all__ = ["mountpoint", "riafs"]

FLAGS = {"": 0, "-q": -1, "--quiet": -1, "--verbose": 1, "-v -v": 2, "-vv": 2, "-q -v": 1}
CONTENTS = [noise(300_000, str(number)) for number in range(5)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two datasets, with three and two annexed files."""
    made = SmallStore.make(tmp_path / "store")
    for alias, contents in {"one": CONTENTS[:3], "two": CONTENTS[3:]}.items():
        dataset = made.dataset(alias)
        for content in contents:
            dataset.put(key_of(content), content)
        dataset.commit({b"f%d" % number: Locked(key_of(content)) for number, content in enumerate(contents)})
    return made.path


def on_a_terminal(words: list[str]) -> str:
    """What riafs writes to standard error when that is a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "150", "TERM": "xterm", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", PROGRAM, "riafs", *words]
    said = b""
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                part = os.read(ours, 1 << 16)
            except OSError:  # nobody has the other end any more
                break
            said += part
    os.close(ours)
    assert process.returncode == 0, said
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())


def test_verify_counts_first_and_names_datasets_on_a_terminal(store: Path) -> None:
    said = on_a_terminal(["verify", str(store)])
    assert "counting" in said
    assert re.search(r"(one|two): reading", said)
    assert "100%, 5/5 files, 1.4 MiB/1.4 MiB" in said
    shares = [int(share) for share in re.findall(r"(\d+)%", said)]
    assert shares == sorted(shares)


@pytest.mark.parametrize("words", [["verify", "{store}"], ["archive", "{store}#~one", "--dry-run"]])
def test_nothing_is_drawn_where_there_is_no_terminal(
    store: Path, words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    given = [word.format(store=store) for word in words]
    assert main.run("riafs", given) == 0
    said = capfd.readouterr()
    assert said.out
    assert not said.err
    assert main.run("riafs", [*given, "-v"]) == 0
    assert re.search(r"riafs: (one: )?(reading|looking at the store)", capfd.readouterr().err)
    assert main.run("riafs", ["-q", *given]) == 0
    assert not capfd.readouterr().err


@pytest.mark.usefixtures("fuse")
def test_prefetch_counts_first_and_is_quiet_on_demand(store: Path, riafs: Run, mountpoint: Path) -> None:
    assert riafs("mount", store, mountpoint, "-v").stdout.startswith(f"ria+file://{store} is mounted at {mountpoint}")
    said = on_a_terminal(["prefetch", str(mountpoint / "one"), str(mountpoint / "two")])
    assert "counting" in said
    assert "100%, 5/5 files, 1.4 MiB/1.4 MiB" in said
    assert "two: reading" in said or "one: reading" in said
    done = riafs("prefetch", mountpoint / "one", "-q")
    assert (done.stdout, done.stderr) == ("", "")
    assert json.loads(riafs("prefetch", mountpoint / "one", "-q", "--json").stdout)["files"] == 3
    assert riafs("umount", mountpoint, "-v").stdout == f"{mountpoint} is unmounted\n"


def test_a_display_without_a_bar_tells_steps_only_if_asked(capfd: pytest.CaptureFixture[str]) -> None:
    told = "riafs: a\nriafs: a: reading: 1.0 KiB\nriafs: a: moving refs: 2\n"
    for verbosity, lines in {-1: "", 0: "", 1: told}.items():
        with progress(verbosity) as display:
            assert not display.shown
            display.names = {"id": "a"}
            display.at("id")
            display.begin(Reading.READING, 1024)
            display.advance(1024)
            display.files(1, 1)
            display.begin(PushStep.REFS, 2)
        assert capfd.readouterr().err == lines


def test_the_work_of_another_process_is_followed(capfd: pytest.CaptureFixture[str]) -> None:
    display = Display(None, verbose=True)
    state = {"dataset": "d\x1b", "step": "sending content", "total": 10, "done": 5, "in_bytes": True}
    state |= {"files": 1, "of_files": 2}
    asked: list[int] = []

    def ask() -> dict[str, object]:
        asked.append(1)
        return state

    with display.following(ask):
        eventually(lambda: asked)
    assert capfd.readouterr().err == "riafs: asking the mount\nriafs: d\\x1b\nriafs: d\\x1b: sending content: 10 B\n"


def test_every_command_can_be_louder_and_quieter() -> None:
    words = {
        "mount": ["S", "D"], "push": [], "run": ["D", "--", "x"], "restore": ["P"], "prefetch": ["P"], "verify": ["S"],
        "archive": ["S"], "unarchive": ["S"], "versions": ["S"], "cache": ["verify"], "overlay": ["list"],
    }  # fmt: skip
    for command in main.COMMANDS:
        first, *rest = [*words.get(command, []), ""]
        given = [word for word in (first, *rest) if word]
        position = given.index("--") if "--" in given else len(given)
        for flags, verbosity in FLAGS.items():
            parsed = build_parser().parse_args([command, *given[:position], *flags.split(), *given[position:]])
            assert parsed.verbosity == verbosity
