"""Programs and libraries for data, as an ordinary user, over a read-only and a writable mount and a local directory."""

import importlib.util
import os
import shutil
import subprocess
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
