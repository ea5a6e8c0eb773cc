"""riafs run: what a command read and wrote is pushed with a record of it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.mounting import COMMAND, PROJECT, Mounted, mounted, run_riafs
from tests.push.conftest import content, run, sound, tree, with_annex
from tests.push.conftest import dataset as dataset
from tests.small import Registered, SmallDataset, SmallStore
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("fuse")

SECONDS = 30


@pytest.fixture
def mount(dataset: SmallDataset, tmp_path: Path) -> Iterator[Mounted]:
    with mounted(dataset.path.parent.parent, tmp_path / "mounted", "--overlay", str(tmp_path / "over")) as made:
        yield made


def riafs(*words: str | Path, status: int = 0) -> str:
    """What a command prints, on its error output if it is to fail."""
    done = run_riafs(*words)
    assert done.returncode == status, (done.stdout, done.stderr)
    return done.stderr if status else done.stdout


def recorded(place: Path, *command: str) -> dict[str, Any]:
    """Run a command that prints nothing; what riafs run tells of it."""
    return dict(json.loads(riafs("run", place, "-m", "made", "--json", "--", *command)))


def record_of(dataset: SmallDataset) -> dict[str, Any]:
    """The record of the last commit."""
    message = dataset.git("log", "-1", "--format=%B", "main")
    return dict(json.loads(message.partition("below ===\n")[2].partition("\n^^^")[0]))


def python(program: str) -> tuple[str, ...]:
    return sys.executable, "-c", textwrap.dedent(program)


def local(mount: Mounted) -> list[str]:
    return [f"{each['kind']} {each['path']}" for each in json.loads(riafs("diff", mount.path, "--json"))]


# -- what is recorded -------------------------------------------------------------------------------------------------


def test_what_is_read_is_an_input_and_what_is_written_an_output(mount: Mounted, dataset: SmallDataset) -> None:
    riafs("run", mount.path / "one" / "data", "-m", "a message", "--", "cp", "locked.dat", "../copy.dat")
    assert dataset.git("log", "-1", "--format=%s", "main") == "[DATALAD RUNCMD] a message"
    assert record_of(dataset) == {
        "chain": [],
        "cmd": "cp locked.dat ../copy.dat",
        "exit": 0,
        "extra_inputs": [],
        "inputs": ["locked.dat"],
        "outputs": ["../copy.dat"],
        "pwd": "data",
    }
    assert content(dataset, b"copy.dat") == b"locked content\n"
    assert (mount.path / "one" / "copy.dat").read_bytes() == b"locked content\n"
    assert local(mount) == []
    sound(dataset)


def test_looking_is_not_reading(mount: Mounted) -> None:
    seen = recorded(mount.path / "one", "sh", "-c", "ls -lR >/dev/null; stat tool >/dev/null; test -r tool; : > new")
    assert (seen["inputs"], seen["outputs"]) == ([], ["new"])


def test_content_in_the_kernel_s_cache_is_read_as_well(mount: Mounted) -> None:
    for _ in range(2):
        assert (mount.path / "one" / "tool").read_bytes() == b"tool\n"
    assert recorded(mount.path / "one", "sh", "-c", "cat tool > new")["inputs"] == ["tool"]


def test_mapped_content_is_read_as_well(mount: Mounted) -> None:
    program = """
        import mmap
        with open("tool", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            open("new", "wb").write(mapped[:])
    """
    assert recorded(mount.path / "one", *python(program))["inputs"] == ["tool"]


def test_what_the_command_made_itself_is_no_input(mount: Mounted) -> None:
    command = "echo x > new; cat new > other; echo y > tool; cat tool >> other; rm other"
    seen = recorded(mount.path / "one", "sh", "-c", command)
    assert (seen["inputs"], seen["outputs"]) == ([], ["new", "tool"])


@pytest.mark.parametrize("command", ["echo x >> tool", "printf X | dd of=tool conv=notrunc status=none"])
def test_what_is_changed_in_part_is_both(mount: Mounted, command: str) -> None:
    seen = recorded(mount.path / "one", "sh", "-c", command)
    assert (seen["inputs"], seen["outputs"]) == (["tool"], ["tool"])


def test_renamed_and_removed(mount: Mounted, dataset: SmallDataset) -> None:
    seen = recorded(mount.path / "one", "sh", "-c", "mv data moved; rm tool; cat moved/sub/deep.dat > copy.dat")
    assert seen["inputs"] == ["data/sub/deep.dat"]
    assert (seen["outputs"], seen["removed"]) == (["copy.dat", "moved"], ["tool"])
    assert b"tool" not in tree(dataset)


def test_a_script_that_is_run_is_an_input(mount: Mounted, dataset: SmallDataset) -> None:
    dataset.commit({b"do.sh": b"#!/bin/sh\n: > made\n"}, time=1_800_000_000)
    mount.refresh()
    assert recorded(mount.path / "one", "sh", "./do.sh")["inputs"] == ["do.sh"]


def test_orphans_and_threads_are_the_command_s(mount: Mounted) -> None:
    program = """
        import os, select, threading
        source, target = os.pipe()
        if not os.fork():
            middle = os.pidfd_open(os.getpid())
            if not os.fork():
                os.setsid()
                select.select([middle], [], [])
                open("tool").read()
                open("orphaned", "w").close()
                os.write(target, b"x")
            os._exit(0)
        os.wait()
        os.read(source, 1)
        thread = threading.Thread(target=lambda: open("code/run.sh").read())
        thread.start()
        thread.join()
    """
    seen = recorded(mount.path / "one", *python(program))
    assert (seen["inputs"], seen["outputs"], seen["others"]) == (["code/run.sh", "tool"], ["orphaned"], [])


def test_files_of_subdatasets_and_of_others(tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    inner = with_annex(store.dataset("inner", {b"x": b"x"}))
    modules = f'[submodule "i"]\n\tpath = sub/inner\n\turl = ./x\n\tdatalad-id = {inner.id}\n'
    registered = Registered(inner.git("rev-parse", "main"))
    outer = with_annex(store.dataset("outer", {b".gitmodules": modules.encode(), b"sub/inner": registered}))
    with_annex(store.dataset("third", {b"z": b"z"}))
    with mounted(store.path, tmp_path / "mounted", "--overlay", str(tmp_path / "over")) as mount:
        command = "cat sub/inner/x ../third/z > new; cp new sub/inner/new"
        seen = recorded(mount.path / "outer", "sh", "-c", command)
        assert (seen["inputs"], seen["elsewhere"]) == (["sub/inner/x"], ["third/z"])
        assert seen["outputs"] == ["new", "sub/inner/new"]
        assert local(mount) == []
    assert tree(outer)[b"sub/inner"] == ("160000", inner.git("rev-parse", "main").encode())
    assert record_of(inner) == record_of(outer)


# -- who else is there meanwhile --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """A command that is under way. Its two outputs are read after its end."""

    process: "subprocess.Popen[bytes]"
    output: Path
    errors: Path

    @property
    def told(self) -> dict[str, Any]:
        return dict(json.loads(self.output.read_text()))


@contextmanager
def waiting(place: Path, gate: Path, after: str, status: int = 0) -> Iterator[Waiting]:
    """A command that goes on with `after` at the end of the block, and then ends."""
    os.mkfifo(gate)
    words = ("run", place, "-m", "made", "--json", "--", "sh", "-c", f": > {gate}.begun; read x < {gate}; {after}")
    output, errors = Path(f"{gate}.out"), Path(f"{gate}.err")
    with open(output, "wb") as out, open(errors, "wb") as err:
        process = started(*words, stdout=out, stderr=err)
    try:
        eventually(Path(f"{gate}.begun").exists)
        yield Waiting(process, output, errors)
        gate.write_text("go on\n")
        assert process.wait(SECONDS) == status, errors.read_text()
    finally:
        process.kill()
        process.wait(SECONDS)


def started(*words: str | Path, **options: Any) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, *COMMAND, *words], cwd=PROJECT, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(PROJECT)}, **options,
    )  # fmt: skip


def test_what_others_do_meanwhile_is_not_the_command_s(mount: Mounted, dataset: SmallDataset, tmp_path: Path) -> None:
    top = mount.path / "one"
    with waiting(top, tmp_path / "gate", "cat code/run.sh > mine") as running:
        (top / "tool").read_bytes()
        (top / "theirs").write_bytes(b"theirs")
    seen = running.told
    assert (seen["inputs"], seen["outputs"], seen["others"]) == (["code/run.sh"], ["mine"], ["theirs"])
    assert b"theirs" not in tree(dataset)
    assert local(mount) == ["added one/theirs"]


def test_a_command_sees_one_commit_from_its_beginning_to_its_end(
    mount: Mounted, dataset: SmallDataset, tmp_path: Path
) -> None:
    before = dataset.git("rev-parse", "main")
    with waiting(mount.path / "one", tmp_path / "gate", "cat link > mine") as running:
        dataset.commit({b"link": b"later\n", b"code/run.sh": b"later\n"}, time=1_800_000_000)
        mount.refresh()
    assert running.told["inputs"] == ["code/run.sh"]
    assert f"the inputs are those of commit {before}" in running.errors.read_text()
    assert content(dataset, b"mine") == b"#!/bin/sh\n"
    assert dataset.git("rev-parse", "main~2") == before
    assert (mount.path / "one" / "code" / "run.sh").read_bytes() == b"later\n"


def test_a_conflict_leaves_changes_and_record_for_the_next_push(
    mount: Mounted, dataset: SmallDataset, tmp_path: Path
) -> None:
    with waiting(mount.path / "one", tmp_path / "gate", "echo mine > tool", status=16) as running:
        dataset.commit({b"tool": b"theirs"}, time=1_800_000_000)
    line = running.errors.read_text()
    assert line.count("\n") == 1
    kept = line.rpartition("--message-file ")[2].strip()
    assert local(mount) == ["changed one/tool"]
    riafs("push", mount.path / "one", "--message-file", kept, "--ours")
    assert record_of(dataset)["outputs"] == ["tool"]
    assert content(dataset, b"tool") == b"mine\n"


def test_one_command_at_a_time_in_a_dataset(mount: Mounted, tmp_path: Path) -> None:
    top = mount.path / "one"
    with waiting(top, tmp_path / "gate", ": > mine") as running:
        assert f"process {running.process.pid} runs a command" in riafs(
            "run", top / "data", "--", "true", "x", status=2
        )


def test_a_run_that_is_killed_ends_its_recording(mount: Mounted, tmp_path: Path) -> None:
    top = mount.path / "one"
    with waiting(top, tmp_path / "gate", "true", status=-signal.SIGKILL) as running:
        running.process.kill()
    assert recorded(top, "sh", "-c", ": > new")["outputs"] == ["new"]


def test_somebody_s_push_meanwhile_stops_the_push(mount: Mounted, dataset: SmallDataset, tmp_path: Path) -> None:
    top = mount.path / "one"
    with waiting(top, tmp_path / "gate", ": > mine", status=2) as running:
        (top / "theirs").write_bytes(b"theirs")
        riafs("push", top, "-m", "theirs")
    assert "was pushed to by others" in running.errors.read_text()
    assert dataset.git("log", "-1", "--format=%s", "main") == "theirs"
    assert local(mount) == ["added one/mine"]


def test_a_record_may_be_long(mount: Mounted, dataset: SmallDataset, tmp_path: Path) -> None:
    (mount.path / "one" / "new").write_bytes(b"x")
    (tmp_path / "record").write_text("title\n\n" + "x" * 3_000_000 + "\n")
    riafs("push", mount.path, "--message-file", tmp_path / "record")
    assert len(dataset.git("log", "-1", "--format=%B", "main")) > 3_000_000
    (mount.path / "one" / "new").write_bytes(b"y")
    (tmp_path / "record").write_text("x" * 20_000_000)
    assert "too much to tell" in riafs("push", mount.path, "--message-file", tmp_path / "record", status=1)
    assert "cannot be read" in riafs("push", mount.path, "--message-file", tmp_path / "none", status=1)


# -- commands that fail, and what is refused --------------------------------------------------------------------------


def test_a_command_that_fails_pushes_nothing(mount: Mounted, dataset: SmallDataset) -> None:
    before = dataset.git("for-each-ref")
    told = riafs("run", mount.path / "one", "--", "sh", "-c", ": > new; exit 7", status=7)
    assert "riafs restore drops it" in told
    assert told.count("\n") == 1
    assert dataset.git("for-each-ref") == before
    assert local(mount) == ["added one/new"]


def test_a_command_that_fails_and_changes_nothing(mount: Mounted) -> None:
    assert "has changed nothing" in riafs("run", mount.path / "one" / "data", "--", "false", "x", status=1)


def test_signals_reach_the_command(mount: Mounted, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        ready = tmp_path / number.name
        command = f"trap 'exit 9' {number.name[3:]}; : > {ready}; while :; do sleep 0.05; done"
        words = ("run", mount.path / "one", "--", "bash", "-c", command)
        running = started(*words, stderr=subprocess.DEVNULL)
        eventually(ready.exists)
        running.send_signal(number)
        assert running.wait(SECONDS) == 9


def test_a_command_ended_by_a_signal(mount: Mounted) -> None:
    riafs("run", mount.path / "one", "--", "sh", "-c", "kill -KILL $$", status=137)


def test_a_dry_run_runs_and_pushes_nothing(mount: Mounted, dataset: SmallDataset) -> None:
    before = dataset.git("for-each-ref")
    printed = riafs("run", mount.path / "one", "--dry-run", "-m", "made", "--", "sh", "-c", "cat tool > new")
    assert printed.startswith("[DATALAD RUNCMD] made\n")
    assert '"tool"' in printed
    assert dataset.git("for-each-ref") == before
    assert local(mount) == ["added one/new"]


def test_nothing_changed_nothing_pushed(mount: Mounted, dataset: SmallDataset) -> None:
    before = dataset.git("for-each-ref")
    assert "nothing to push" in riafs("run", mount.path / "one", "--", "cat", "tool")
    assert dataset.git("for-each-ref") == before


def refused(mount: Mounted, tmp_path: Path, reason: str, place: str = "one", status: int = 1) -> None:
    """Nothing is run."""
    marker = tmp_path / "was-run"
    told = riafs("run", mount.path / place, "--", "touch", str(marker), status=status)
    assert reason in told
    assert told.count("\n") == 1
    assert not marker.exists()


def test_local_changes_are_refused_before_the_command(mount: Mounted, tmp_path: Path) -> None:
    (mount.path / "one" / "empty").mkdir()
    riafs("run", mount.path / "one", "--", "true", "x")
    (mount.path / "one" / "new").write_bytes(b"x")
    refused(mount, tmp_path, "has local changes (one/new)")


def test_a_store_that_takes_no_push_is_refused_before_the_command(
    mount: Mounted, dataset: SmallDataset, tmp_path: Path
) -> None:
    with_annex(dataset, "encryption=shared cipher=eHh4")
    refused(mount, tmp_path, "encryption=shared")


def test_what_is_no_dataset_is_refused(mount: Mounted, tmp_path: Path) -> None:
    refused(mount, tmp_path, "is in no dataset that can be changed", "")
    refused(mount, tmp_path, "is no directory", "one/tool")
    told = riafs("run", tmp_path, "--", "true", "x", status=1)
    assert "is in no riafs mount" in told


def test_without_an_author_nothing_is_run(mount: Mounted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    refused(mount, tmp_path, "git does not know who you are")


def test_a_command_s_options_go_behind_two_dashes(mount: Mounted) -> None:
    riafs("run", mount.path / "one", "cp", "tool", "copy")
    assert "goes behind --" in riafs("run", mount.path / "one", "cp", "-p", "tool", "copy", status=1)
    riafs("run", mount.path / "one", "--", "cp", "-p", "--", "tool", "copy")


def test_a_program_that_is_none_is_told(mount: Mounted) -> None:
    assert "there is no such program" in riafs("run", mount.path / "one", "--", "no-such-program", "x", status=2)


# -- DataLad ----------------------------------------------------------------------------------------------------------


def test_datalad_reports_the_record_and_runs_it_again(tmp_path: Path) -> None:
    store, clone = SmallStore.make(tmp_path / "store"), tmp_path / "clone"
    inner = with_annex(store.dataset("sub", {b"raw [1]{x}.txt": b"b 2\na 1\n"}))
    modules = f'[submodule "sub"]\n\tpath = sub\n\turl = ./sub\n\tdatalad-id = {inner.id}\n'
    outer = store.dataset("lab")
    files = {b".gitmodules": modules.encode(), b"sub": Registered(inner.git("rev-parse", "main")), b"code/x": b"x"}
    outer.commit({**files, b".datalad/config": f'[datalad "dataset"]\n\tid = {outer.id}\n'.encode()})
    with_annex(outer)
    with mounted(f"{store.path}#~lab", tmp_path / "mounted", "--overlay", str(tmp_path / "over")) as mount:
        command = "sort '../sub/raw [1]{x}.txt' | awk '{print $2}' > ../'sorted {1}.txt'"
        riafs("run", mount.path / "code", "-m", "sorted", "--", command)
    run(tmp_path, "datalad", "clone", f"ria+file://{store.path}#~lab", clone)
    [report] = [json.loads(line) for line in run(clone, "datalad", "-f", "json", "rerun", "--report").splitlines()]
    assert (report["status"], report["run_message"]) == ("ok", "sorted")
    assert report["run_info"]["dsid"] == outer.id
    assert report["run_info"]["inputs"] == ["../sub/raw [[]1]{{x}}.txt"]
    made = run(clone, "git", "rev-parse", "HEAD").strip()
    run(clone, "git", "rm", "-q", "sorted {1}.txt")
    run(clone, "git", "commit", "-q", "-m", "gone")
    run(clone, "datalad", "rerun", made)
    assert (clone / "sorted {1}.txt").read_bytes() == b"1\n2\n"
    assert run(clone, "git", "diff", "--stat", made, "HEAD") == ""


def test_what_gitignore_leaves_out_stays_local(mount: Mounted, dataset: SmallDataset) -> None:
    top = mount.path / "one"
    (top / ".gitignore").write_text(".snakemake/\n*.log\n!kept.log\n")
    riafs("push", top, "-m", "rules")
    command = "mkdir .snakemake && echo 1 > .snakemake/lock && echo 2 > x.log && echo 3 > kept.log && echo 4 > result"
    done = recorded(top, "sh", "-c", command)
    assert done["outputs"] == ["kept.log", "result"]
    assert done["ignored"] == [".snakemake/lock", "x.log"]
    assert local(mount) == ["added one/.snakemake/lock", "added one/x.log"]
    assert content(dataset, b"result") == b"4\n"


def test_what_git_has_is_pushed_whatever_gitignore_says(mount: Mounted, dataset: SmallDataset) -> None:
    top = mount.path / "one"
    (top / "x.log").write_text("1")
    riafs("push", top, "-m", "x")
    (top / ".gitignore").write_text("*.log\n")
    riafs("push", top, "-m", "rules")
    assert recorded(top, "sh", "-c", "echo 2 > x.log")["outputs"] == ["x.log"]
    assert content(dataset, b"x.log") == b"2\n"
