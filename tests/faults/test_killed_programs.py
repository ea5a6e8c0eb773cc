"""Programs that riafs starts are ended by others: the next one does the work, and what repeats is one plain message."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.children import ATTEMPTS
from riafs.cli import doctor, run
from riafs.content.openpgp import Decryptor
from riafs.counters import Counters
from riafs.daemon import mountpoint
from riafs.daemon.mounts import Mount
from riafs.errors import MissingContent, ProgramKilled
from riafs.git.catfile import GitPool
from riafs.git.config import AttributeFiles, change_config
from riafs.git.environment import PrivateGitDirs
from riafs.git.object_source import RepositoryPlace
from riafs.git.repository import Repository
from riafs.git.user import author, instead_of_rules
from riafs.storage.bytesource import MemoryBytes
from riafs.storage.deadline import Deadline
from riafs.storage.local import LocalStorage
from tests.behaviour.drivers import opened
from tests.content.test_archive_members import FORMS, LARGE, linked
from tests.plugins.log_hygiene import Announce
from tests.small import SmallDataset, SmallStore, key_of, noise

ALWAYS = 99
KILLED = rf"was ended by SIGKILL each of {ATTEMPTS} times; it can be tried again"
Killed = Callable[..., str]

_PROGRAM = """#!/bin/sh
for number in $(seq {times}); do
    if mkdir {directory}/$number 2>/dev/null; then
        {leaves}
        kill -9 $$
    fi
done
exec {real} "$@"
"""


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Killed:
    """``killed(name, times, leaves)``: let the first so many of these programs die, after they have done what `leaves`
    says to the shell; the path of the one that does."""

    def make(name: str, times: int = 1, leaves: str = "") -> str:
        directory = tmp_path / "killed"
        directory.mkdir()
        program = directory / name
        real = shutil.which(name) or "false"
        program.write_text(_PROGRAM.format(times=times, directory=directory, leaves=leaves, real=real))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
        return str(program)

    return make


def gits(tmp_path: Path, program: str) -> PrivateGitDirs:
    return PrivateGitDirs(program, os.environ["PATH"], os.fsencode(tmp_path))


@pytest.fixture
def dataset(tmp_path: Path) -> SmallDataset:
    return SmallStore.make(tmp_path / "store").dataset("one", {b"large": noise(9 << 20), b"small": b"s"})


# -- git --------------------------------------------------------------------------------------------------------------


async def test_a_killed_git_config_leaves_no_lock_behind(tmp_path: Path, killed: Killed) -> None:
    program = killed("git", 2, 'touch "$3.lock"')
    changed = await change_config(gits(tmp_path, program), b"[a]\n\tb = c\n", [[b"a.b", b"d"], [b"a.e", b"f"]])
    assert changed == b"[a]\n\tb = d\n\te = f\n"


async def test_a_killed_git_leaves_no_lock_of_an_index_behind(tmp_path: Path, killed: Killed) -> None:
    program = killed("git", 3, '[ $1 = update-index ] && touch "$GIT_INDEX_FILE.lock"')
    files = AttributeFiles({b".gitattributes": b"*.txt a=b\n"})
    assert await files.of([b"x.txt"], ["a"], gits(tmp_path, program)) == [{b"a": b"b"}]


async def test_git_that_is_always_killed_is_no_bad_configuration(tmp_path: Path, killed: Killed) -> None:
    program = killed("git", ALWAYS)
    with pytest.raises(ProgramKilled, match=f"^git config {KILLED}$"):
        await change_config(gits(tmp_path, program), b"", [[b"a.b", b"d"]])


async def test_a_blob_or_history_whose_git_is_killed_is_not_damaged(
    tmp_path: Path, dataset: SmallDataset, killed: Killed
) -> None:
    oid, commit = (dataset.git("rev-parse", name).encode() for name in ("main:large", "main"))
    storage = await LocalStorage.open_root(os.fsencode(tmp_path / "store"), Deadline("the store", 10, Counters()))
    pool = GitPool(gits(tmp_path, killed("git", 3 * ATTEMPTS - 1)), 10, Counters())
    path = os.fsencode(dataset.path.relative_to(tmp_path / "store"))
    repository = Repository(RepositoryPlace(storage, path, (storage, path)), pool, "dataset one", 10)
    with pytest.raises(ProgramKilled, match=f"blob .* of dataset one, {KILLED}"):
        await repository.open_blob(oid, 9 << 20)
    with (tmp_path / "history").open("wb") as file:
        with pytest.raises(ProgramKilled, match=f"history of dataset one, {KILLED}"):
            await repository.write_history(commit, (), file.fileno())
        assert await repository.write_history(commit, (), file.fileno())
    assert bytes(await (await repository.open_blob(oid, 9 << 20)).read(0, 9 << 20)) == noise(9 << 20)
    pool.close()
    storage.close()


def test_who_the_author_is_does_not_hang_on_one_git(killed: Killed) -> None:
    killed("git", 2)
    assert b"riafs tests" in author(os.environ).ident


def test_a_killed_git_does_not_mean_that_nobody_is_the_author(killed: Killed) -> None:
    killed("git", ALWAYS)
    with pytest.raises(ProgramKilled, match=KILLED):
        author(os.environ)


def test_rules_that_no_git_lives_to_tell_are_done_without(killed: Killed, expected_warnings: Announce) -> None:
    expected_warnings("insteadOf is not used: git config was ended by SIGKILL")
    killed("git", ALWAYS)
    assert instead_of_rules(os.environ) == ()


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, ALWAYS])
def test_doctor_does_not_say_that_git_is_not_installed(killed: Killed, times: int) -> None:
    killed("git", times)
    found = doctor._check_git()
    if times == 1:
        assert (found.state, found.what[:11]) == ("ok", "git version")
    else:
        assert found.state == "fail"
        assert found.what.startswith("git --version was ended by SIGKILL")


def test_doctor_tells_what_a_git_that_does_not_work_says(killed: Killed) -> None:
    killed("git", ALWAYS, "echo no such library >&2; exit 127")
    assert doctor._check_git().what == "git does not tell its version: no such library"


@pytest.mark.parametrize("name", ["datalad id", "what is ignored"])
def test_what_run_asks_of_git_is_asked_again(tmp_path: Path, killed: Killed, name: str) -> None:
    (tmp_path / ".datalad").mkdir()
    (tmp_path / ".datalad/config").write_text('[datalad "dataset"]\n\tid = abc\n')
    (tmp_path / ".gitignore").write_text("*.log\n")
    asks: dict[str, tuple[Callable[[], object], object]] = {
        "datalad id": (lambda: run._datalad_id(str(tmp_path), os.environ), "abc"),
        "what is ignored": (lambda: run._ignored(str(tmp_path), ["a.log", "b"], os.environ), {"a.log"}),
    }
    ask, expected = asks[name]
    killed("git", ATTEMPTS + ATTEMPTS - 1)
    with pytest.raises(ProgramKilled, match=KILLED):
        ask()
    assert ask() == expected


def test_a_killed_fusermount_is_started_again(tmp_path: Path, killed: Killed, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = Mount(str(tmp_path), "0:1", "fuse.riafs", "x", os.geteuid())
    monkeypatch.setattr(mountpoint, "all_mounts", lambda: (mount,))
    killed("fusermount3", ATTEMPTS)
    with pytest.raises(ProgramKilled, match=f"fusermount3 -u {KILLED}"):
        mountpoint._unmount_as_user(mount, lazy=False)
    with pytest.raises(mountpoint.MountpointError):  # the real one, as nothing is mounted there
        mountpoint._unmount_as_user(mount, lazy=False)
    monkeypatch.setattr(mountpoint, "all_mounts", tuple)
    mountpoint._unmount_as_user(mount, lazy=False)  # the one before had done it


# -- content ----------------------------------------------------------------------------------------------------------


async def test_a_message_whose_gpg_is_killed_is_not_damaged(tmp_path: Path, killed: Killed) -> None:
    killed("gpg", ALWAYS)
    decryptor = Decryptor(os.environ["PATH"], os.fsencode(tmp_path), 10)
    with pytest.raises(ProgramKilled, match=f"^gpg, decrypting content, {KILLED}$"):
        await decryptor.decrypt(MemoryBytes(b"message"), b"secret")


@pytest.mark.parametrize("times", [ATTEMPTS - 1, ALWAYS])
async def test_a_member_of_an_annexed_archive_is_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected_warnings: Announce, times: int
) -> None:
    from riafs.archive.extractor import ChildDecoder, Extractor

    expected_warnings("riafs.content")
    start, started = Extractor.start_member, []

    async def killed(*arguments: object) -> ChildDecoder:
        decoder = await start(*arguments)  # type: ignore[arg-type]
        started.append(decoder)
        if len(started) <= times:
            decoder._child.send_signal(signal.SIGKILL)
            decoder._child.wait()
        return decoder

    monkeypatch.setattr(Extractor, "start_member", killed)
    data = FORMS[b".tar.gz"](tmp_path)
    archive = key_of(data, b".tar.gz")
    linked(SmallStore.make(tmp_path / "store"), archive).put(archive, data)
    async with opened(tmp_path / "store") as shown:
        if times == ALWAYS:
            with pytest.raises((ProgramKilled, MissingContent), match="SIGKILL"):
                await shown.read(b"one/src/dir/a b&c.bin")
            monkeypatch.setattr(Extractor, "start_member", start)
        assert await shown.read(b"one/src/dir/a b&c.bin") == LARGE
