"""The two subcommands as a user types them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from riafs.cli import main
from tests.packing.conftest import archive_path, archived, loose, source
from tests.packing.test_archive import MEMBERS
from tests.small import SmallDataset, key_of


def test_archive_says_what_it_saves(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run("riafs", ["archive", source(dataset), "--prune", "--dry-run"]) == 0
    foreseen = capfd.readouterr().out
    assert "12 objects of" in foreseen
    assert "48 inodes and" in foreseen
    assert loose(dataset) == MEMBERS
    assert main.run("riafs", ["archive", source(dataset), "--prune"]) == 0
    assert "12 loose objects removed: 48 inodes" in capfd.readouterr().out
    assert archived(dataset) == MEMBERS


def test_unarchive_is_the_way_back(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run("riafs", ["archive", source(dataset), "--prune"]) == 0
    assert main.run("riafs", ["unarchive", f"ria+file://{source(dataset)}", "--remove-archive"]) == 0
    assert "archive removed" in capfd.readouterr().out
    assert loose(dataset) == MEMBERS
    assert not archive_path(dataset).exists()


def test_an_alias_names_the_dataset(dataset: SmallDataset) -> None:
    assert main.run("riafs", ["archive", f"{dataset.path.parent.parent}#~one"]) == 0
    assert archive_path(dataset).exists()


def test_damage_is_told_and_gives_status_64(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    dataset.put(key_of(b"right"), b"wrong")
    assert main.run("riafs", ["archive", source(dataset), "--json"]) == 64
    output, errors = capfd.readouterr()
    report = json.loads(output)
    assert report["packed"] == 12
    assert [each["key"] for each in report["damaged"]] == [key_of(b"right").decode()]
    assert "does not have the digest" in errors


def test_unarchive_tells_in_json(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    main.run("riafs", ["archive", source(dataset), "--prune"])
    capfd.readouterr()
    assert main.run("riafs", ["unarchive", source(dataset), "--json", "--dry-run"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["keys"], report["unpacked"], report["archive_removed"]) == (12, 12, False)


@pytest.mark.parametrize(
    "words",
    [
        ["--older", "never"],
        ["--older", "-1"],
        ["--older", "nan"],
        ["--larger", "big"],
        ["--smaller", "-1"],
        ["--solid-block", "2G"],
    ],
)
def test_bad_values_are_usage_errors(
    dataset: SmallDataset, words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main.run("riafs", ["archive", source(dataset), *words]) == 1
    assert words[0].removeprefix("--") in capfd.readouterr().err
    assert not archive_path(dataset).exists()


def test_a_store_without_a_dataset_named_is_refused(dataset: SmallDataset, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run("riafs", ["archive", str(dataset.path.parent.parent)]) == 1
    assert "names no dataset" in capfd.readouterr().err


def test_a_full_disk_leaves_the_store_as_it_was(dataset: SmallDataset, tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys; from riafs.cli.main import run\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (15000, 15000))\n"
        "sys.exit(run('riafs', ['archive', sys.argv[1], '--prune']))"
    )
    done = subprocess.run([sys.executable, "-c", script, source(dataset)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no room to write" in done.stderr
    assert loose(dataset) == MEMBERS
    assert [path.name for path in (dataset.path / "archives").iterdir()] == []


def test_an_interrupt_leaves_the_store_as_it_was(dataset: SmallDataset) -> None:
    script = (
        "import os, signal, sys\n"
        "from riafs.cli.main import run\n"
        "from riafs.cli.progress import Display\n"
        "from riafs.watching import PackingStep\n"
        "def begin(self, step, total):\n"
        "    if step is PackingStep.CHECKING: os.kill(os.getpid(), signal.SIGINT)\n"
        "Display.begin = begin\n"
        "sys.exit(run('riafs', ['archive', sys.argv[1], '--prune']))"
    )
    done = subprocess.run([sys.executable, "-c", script, source(dataset)], capture_output=True, text=True)
    assert done.returncode == 8, done.stderr
    assert loose(dataset) == MEMBERS
    assert [path.name for path in (dataset.path / "archives").iterdir()] == []
