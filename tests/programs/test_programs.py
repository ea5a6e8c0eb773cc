"""Programs and libraries for data, as an ordinary user, over a read-only and a writable mount and a local directory."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.fuse.mounting import mounted, run_riafs
from tests.programs.libraries import WAYS
from tests.small import Locked, SmallStore, key_of, noise

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups") if os.getuid() == 0 else ()
FOR_ALL = ("-o", "allow_other") if os.getuid() == 0 else ()
BACKED_UP = {"one": b"one\n", "two": noise(300_000), "deep/three": b"three\n" * 5000}


@pytest.fixture
def public(fuse: None) -> Iterator[Path]:
    """A directory that every user can enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="riafs-public-") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def open_to_all(directory: Path) -> Path:
    """Make a directory that every user can write to."""
    directory.mkdir()
    directory.chmod(0o777)
    return directory


def stored(public: Path, source: Path | None) -> Path:
    """A store of one dataset, which has the files of `source` as annexed ones."""
    store = SmallStore.make(public / "store")
    paths = [] if source is None else [path for path in source.rglob("*") if path.is_file()]
    contents = {os.fsencode(path.relative_to(source or public)): path.read_bytes() for path in paths}
    nodes = {path: Locked(key_of(content)) for path, content in contents.items()}
    dataset = store.dataset("one", {b"readme": b"readme\n", **nodes})
    for content in contents.values():
        dataset.put(key_of(content), content)
    return store.path


@pytest.mark.parametrize("name", WAYS)
def test_a_library_works_over_a_writable_and_a_read_only_mount(name: str, public: Path) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    local = open_to_all(public / "local")
    with mounted(stored(public, None), public / "rw", "--overlay", str(public / "overlay"), *FOR_ALL) as mount:
        library(name, local, open_to_all(mount.path / "one" / "made"))
    shutil.rmtree(public / "store")
    again = open_to_all(public / "again")
    with mounted(stored(public, local), public / "ro", *FOR_ALL) as mount:
        library(name, again, mount.path / "one", "--read-only")


def library(name: str, local: Path, shown: Path, *words: str) -> None:
    """Run what is in libraries.py."""
    done = run_riafs(name, local, shown, *words, command=("-m", "tests.programs.libraries"))
    assert done.returncode == 0, done.stderr


def backups(name: str, repository: Path, source: Path, target: Path) -> Sequence[Sequence[str]]:
    """The commands of a program: make a repository, a backup, check it, and restore it into `target`."""
    if name == "restic":
        restic = ("restic", "--no-cache", "-r", str(repository))
        back_up = [(*restic, "init"), (*restic, "backup", "."), (*restic, "check", "--read-data")]
        return [*back_up, (*restic, "restore", "latest", "--target", str(target))]
    borg = ("borg", "init", "-e", "none", str(repository))
    check = ("borg", "check", "--verify-data", str(repository))
    return [borg, ("borg", "create", f"{repository}::a", "."), check, ("borg", "extract", f"{repository}::a")]


@pytest.mark.parametrize("name", ["restic", "borg"])
def test_a_backup_program_backs_up_a_mount_into_a_mount_and_restores(name: str, public: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    source, home = public / "source", open_to_all(public / "home")
    for path, content in BACKED_UP.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    store, words = stored(public, source), ("--overlay", str(public / "overlay"), *FOR_ALL)
    with mounted(store, public / "rw", *words) as writable, mounted(store, public / "ro", *FOR_ALL) as shown:
        made = open_to_all(writable.path / "one" / "made")
        target = made / "restored"
        subprocess.run([*NOBODY, "mkdir", target], check=True)
        environment = {**os.environ, "HOME": str(home), "RESTIC_PASSWORD": "secret"}
        environment |= {"XDG_CACHE_HOME": str(home), "XDG_CONFIG_HOME": str(home), "TMPDIR": str(home)}
        for command in backups(name, made / "repository", shown.path, target):
            where = target if "extract" in command else shown.path / "one"
            run = [*NOBODY, *command]
            done = subprocess.run(run, cwd=where, env=environment, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, f"{command}: {done.stdout} {done.stderr}"
        found = {path.name: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    assert found == {Path(path).name: content for path, content in BACKED_UP.items()} | {"readme": b"readme\n"}


MADE = {"a.count": b"0\n", "b.count": b"4\n", "c.count": b"7\n", "sum": b"0\n4\n7\n"}
WORKFLOW = """
PARTS = ["a", "b", "c"]
rule all:
    input: "out/sum"
rule count:
    input: "in/{part}"
    output: "out/{part}.count"
    shell: "sort -u {input} | wc -l > {output}"
rule sum:
    input: expand("out/{part}.count", part=PARTS)
    output: "out/sum"
    shell: "cat {input} > {output}"
"""


@pytest.fixture(scope="session")
def snakemake(request: pytest.FixtureRequest) -> Iterator[str]:
    """The program: that in PATH, or with ``--snakemake`` one that is installed for this run (20 s, 55 packages)."""
    found = shutil.which("snakemake")
    if found is not None:
        yield found
        return
    if not request.config.getoption("--snakemake"):
        pytest.skip("snakemake is not installed; --snakemake installs it for this run")
    with tempfile.TemporaryDirectory(prefix="riafs-public-") as directory:
        Path(directory).chmod(0o755)
        python = f"{directory}/venv/bin/python"
        subprocess.run([sys.executable, "-m", "venv", f"{directory}/venv"], check=True)
        install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "snakemake>=8")
        subprocess.run(install, check=True, timeout=240)
        yield f"{directory}/venv/bin/snakemake"


def test_a_workflow_runs_on_a_mount_as_in_a_local_directory(snakemake: str, public: Path) -> None:
    store, home = stored(public, None), open_to_all(public / "home")
    words = ("--overlay", str(public / "overlay"), *FOR_ALL)
    with mounted(store, public / "rw", *words) as mount:
        places = [open_to_all(top / "work") for top in (public, mount.path / "one")]
        told = [worked(snakemake, place, home) for place in places]
    assert told[0] == told[1]
    ran_first, ran_again, made, ran_for_change, *_ = told[0]
    assert (ran_again, made) == (["Nothing to be done (all requested files are present and up to date)."], MADE)
    assert len(ran_first) == 5 > len(ran_for_change) > 0


def worked(snakemake: str, place: Path, home: Path) -> list[object]:
    """What a workflow makes, what it does when it is run again, and after one of its inputs was changed."""
    open_to_all(place / "in")
    (place / "Snakefile").write_text(WORKFLOW)
    for number, name in enumerate("abc"):
        (place / "in" / name).write_text("".join(f"{each % 7}\n" for each in range(number * 4)))
        (place / "in" / name).chmod(0o644)
    found: list[object] = []
    for _ in range(2):
        found += [run_workflow(snakemake, place, home), run_workflow(snakemake, place, home)]
        made = {path.name: path.read_bytes() for path in (place / "out").iterdir()}
        found.append(made)
        (place / "in" / "a").write_text("another\n")
    return found


def run_workflow(snakemake: str, place: Path, home: Path) -> list[str]:
    """The rules that it ran, sorted."""
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home), "TMPDIR": str(home)}
    command = [*NOBODY, snakemake, "--cores", "2", "--nocolor", "--latency-wait", "0"]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    return sorted(line.strip() for line in lines if line.startswith(("rule ", "localrule ", "Nothing to be done")))
