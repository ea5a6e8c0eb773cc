"""Refs move together or not at all, as git itself would see it, and nothing but plain files is ever opened for it."""

import itertools
import json
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from riafs.git import ref_mover, writing
from riafs.git.ref_mover import Ended, Killed, Order, move
from riafs.storage.permissions import UNSHARED, Sharing

IDENT = b"riafs tests <tests@riafs.invalid> 1700000000 +0000"
MAIN, ANNEX = b"refs/heads/main", b"refs/heads/git-annex"
Update = tuple[bytes, bytes, bytes | None]


class Repository:
    """A bare repository with three commits, of which both branches are at the first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", path], check=True)
        tree = self.git("mktree")
        self.commits = [self.git("commit-tree", tree, "-m", str(number)).encode() for number in range(3)]
        for name in (MAIN, ANNEX):
            self.git("update-ref", os.fsdecode(name), self.commits[0].decode())

    def git(self, *arguments: str) -> str:
        stamp = {f"GIT_{role}_{part}": "x" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
        command = ["git", "--git-dir", str(self.path), *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=os.environ | stamp, check=True
        )
        return done.stdout.strip()

    def at(self, name: bytes) -> bytes:
        return self.git("rev-parse", os.fsdecode(name)).encode()

    def move(self, updates: Sequence[Update], sharing: Sharing = UNSHARED) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            move(descriptor, updates, IDENT, sharing)
        finally:
            os.close(descriptor)

    def both(self) -> list[Update]:
        return [(ANNEX, self.commits[1], self.commits[0]), (MAIN, self.commits[2], self.commits[0])]

    def as_before(self) -> bool:
        """Whether no branch has moved; there is never a lock."""
        assert not list(self.path.rglob("*.lock"))
        return [self.at(name) for name in (MAIN, ANNEX)] == [self.commits[0]] * 2


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def fails(outcome: str, run: Callable[[], None]) -> str:
    with pytest.raises(Ended) as raised:
        run()
    assert raised.value.outcome == outcome
    return raised.value.detail


# -- what git sees ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_both_move(repository: Repository, packed: bool) -> None:
    if packed:
        repository.git("pack-refs", "--all", "--prune")
        assert not (repository.path / "refs/heads/main").exists()
    repository.move(repository.both())
    assert [repository.at(ANNEX), repository.at(MAIN)] == repository.commits[1:]
    repository.git("fsck", "--strict")


@pytest.mark.parametrize("packed", [False, True])
def test_none_moves_from_another_value(repository: Repository, packed: bool) -> None:
    if packed:
        repository.git("pack-refs", "--all", "--prune")
    first, second = repository.both()
    assert "main" in fails("changed", lambda: repository.move([first, (*second[:2], repository.commits[1])]))
    assert "main" in fails("changed", lambda: repository.move([first, (*second[:2], None)]))
    gone = (b"refs/heads/gone", repository.commits[1], repository.commits[0])
    assert "does not exist" in fails("changed", lambda: repository.move([first, gone]))
    assert repository.as_before()


def test_a_new_branch_in_a_new_directory(repository: Repository) -> None:
    repository.move([(b"refs/heads/a/b/c", repository.commits[1], None)], Sharing(0o660))
    assert repository.at(b"refs/heads/a/b/c") == repository.commits[1]
    assert stat.S_IMODE((repository.path / "refs/heads/a/b").stat().st_mode) & 0o2070 == 0o2070
    assert stat.S_IMODE((repository.path / "refs/heads/a/b/c").stat().st_mode) & 0o660 == 0o660


def test_directories_that_former_branches_left_make_room(repository: Repository) -> None:
    (repository.path / "refs/heads/new/was/here").mkdir(parents=True)
    (repository.path / "refs/heads/new/too").mkdir()
    repository.move([(b"refs/heads/new", repository.commits[1], None)])
    assert repository.at(b"refs/heads/new") == repository.commits[1]


@pytest.mark.parametrize("packed", [False, True])
def test_no_branch_below_or_above_another(repository: Repository, packed: bool) -> None:
    repository.move([(b"refs/heads/a/b", repository.commits[1], None)])
    if packed:
        repository.git("pack-refs", "--all", "--prune")
    for name in (b"refs/heads/a", b"refs/heads/a/b/c"):
        fails("refused", lambda name=name: repository.move([(name, repository.commits[1], None)]))
    assert repository.git("for-each-ref", "--format=%(refname)").splitlines()[0] == "refs/heads/a/b"
    assert repository.as_before()


def test_a_branch_that_stands_for_another_stays(repository: Repository) -> None:
    repository.git("symbolic-ref", "refs/heads/git-annex", "refs/heads/main")
    fails("refused", lambda: repository.move(repository.both()))
    assert repository.as_before()


def test_a_lock_of_a_git_is_waited_for_and_named(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = repository.path / "refs/heads/main.lock"
    lock.touch()
    monkeypatch.setattr(ref_mover, "LOCK_SECONDS", 0.05)
    assert fails("locked", lambda: repository.move(repository.both())) == "refs/heads/main.lock"
    assert lock.exists()
    monkeypatch.setattr(ref_mover, "LOCK_SECONDS", 10.0)
    threading.Timer(0.05, lock.unlink).start()
    repository.move(repository.both())
    assert repository.at(MAIN) == repository.commits[2]


def test_git_moves_and_packs_the_same_ref_meanwhile(repository: Repository) -> None:
    """Every value that was written over was one that was expected: each has its line in the log, none is lost."""
    repository.git("config", "core.logAllRefUpdates", "always")
    repository.git("update-ref", "--create-reflog", "refs/heads/main", repository.commits[1].decode())
    ended = threading.Event()

    def pack() -> None:
        while not ended.is_set():
            repository.git("pack-refs", "--all", "--prune")

    packer = threading.Thread(target=pack)
    packer.start()
    try:
        moved = 0
        for number in range(60):
            old, new = repository.commits[1 + number % 2], repository.commits[1 + (number + 1) % 2]
            while True:
                try:
                    repository.move([(MAIN, new, old)])
                    break
                except Ended as ended_by_packing:
                    if ended_by_packing.outcome != "changed":
                        raise
            moved += 1
    finally:
        ended.set()
        packer.join()
    log = (repository.path / "logs/refs/heads/main").read_text().splitlines()
    assert len(log) == moved + 1
    assert [line.split()[1] for line in log[:-1]] == [line.split()[0] for line in log[1:]]


def test_reflogs_that_are_there_get_their_line(repository: Repository) -> None:
    for name in ("HEAD", "refs/heads/main"):
        path = repository.path / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    repository.move(repository.both())
    assert "main@{0}: push" in repository.git("reflog", "show", "main")
    assert "HEAD@{0}: push" in repository.git("reflog", "show", "HEAD")
    line = b"%b %b %b\tpush\n" % (repository.commits[0], repository.commits[2], IDENT)
    assert (repository.path / "logs/HEAD").read_bytes() == line
    assert not (repository.path / "logs/refs/heads/git-annex").exists()


def test_where_the_second_cannot_move_the_first_goes_back(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = repository.path / "logs/refs/heads/git-annex"
    log.parent.mkdir(parents=True)
    log.write_text("a line\n")
    rename = os.rename

    def failing(source: bytes, target: bytes, **directories: int) -> None:
        if target == b"main":
            raise OSError(5, "Input/output error")
        rename(source, target, **directories)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        repository.move(repository.both())
    new = (b"refs/heads/a", repository.commits[1], None)
    with pytest.raises(OSError, match="Input/output"):
        repository.move([new, repository.both()[1]])
    assert repository.as_before()
    assert not (repository.path / "refs/heads/a").exists()
    assert log.read_text() == "a line\n"


# -- traps ------------------------------------------------------------------------------------------------------------

PLACES = ("refs", "refs/heads", "refs/heads/main", "refs/heads/git-annex", "packed-refs")
LOGS = ("logs", "logs/refs", "logs/refs/heads", "logs/refs/heads/main", "logs/HEAD")


def trap(place: Path, kind: str, outside: Path) -> None:
    """Put something in a place that is no plain file or directory. What a link leads to is as if it belonged there."""
    outside.mkdir(exist_ok=True)
    target = outside / place.name
    if place.exists():
        place.rename(target)
    elif place.name in ("logs", "refs", "heads"):
        (target / "refs/heads").mkdir(parents=True, exist_ok=True)
        (target / "main").touch()
    else:
        target.touch()
    place.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "link":
            place.symlink_to(target)
        case "hard link":
            os.link(target, place)
        case "fifo":
            os.mkfifo(place)
        case "device":
            os.mknod(place, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def state(directory: Path) -> list[tuple[str, int, int, bytes]]:
    found = []
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found.append((str(path), status.st_ctime_ns, status.st_mode, content))
    return found


KINDS = ["link", "fifo", pytest.param("device", marks=pytest.mark.skipif(os.getuid() != 0, reason="needs root"))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_refs_do_not_move_through_anything_else(repository: Repository, tmp_path: Path, place: str, kind: str) -> None:
    trap(repository.path / place, kind, tmp_path / "outside")
    before = state(tmp_path)
    detail = fails("refused", lambda: repository.move(repository.both()))
    assert place in detail
    after = state(tmp_path)
    assert [each for each in after if "/outside" in each[0]] == [each for each in before if "/outside" in each[0]]
    assert [each[0] for each in after] == [each[0] for each in before]


@pytest.mark.parametrize("kind", [*KINDS, "hard link"])
@pytest.mark.parametrize("place", LOGS)
def test_reflogs_are_written_to_plain_files_only(repository: Repository, tmp_path: Path, place: str, kind: str) -> None:
    if kind == "hard link" and place.rpartition("/")[2] in ("logs", "refs", "heads"):
        return
    trap(repository.path / place, kind, tmp_path / "outside")
    before = state(tmp_path / "outside")
    repository.move(repository.both())
    assert [repository.at(ANNEX), repository.at(MAIN)] == repository.commits[1:]
    assert state(tmp_path / "outside") == before


# -- killed -----------------------------------------------------------------------------------------------------------

STEPS = ("open", "link", "rename", "unlink", "fsync", "write", "ftruncate", "mkdir")


def killed_at(step: int) -> str:
    """The program of a process that is killed before its call number `step` of those that change something."""
    return f"""
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import riafs.git.ref_mover
left = [{step}]
def counted(call):
    def counting(*arguments, **named):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **named)
    return counting
for name in {STEPS}:
    setattr(os, name, counted(getattr(os, name)))
riafs.git.ref_mover.main()
"""


def in_turn(programs: list[str], started: list[str], command: list[str], **named: Any) -> Any:
    """Run the programs one after the other, then the real one, as subprocess.run does."""
    started.append(programs.pop(0) if programs else command[-2])
    return run([*command[:-2], started[-1], command[-1]], **named)


run = subprocess.run


@pytest.mark.parametrize("packed", [False, True])
def test_killed_at_any_step_the_next_process_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, long: bool
) -> None:
    repository = Repository(tmp_path / "built")
    (repository.path / "logs/refs/heads").mkdir(parents=True, exist_ok=True)
    (repository.path / "logs/refs/heads/main").touch()
    if packed:
        repository.git("pack-refs", "--all", "--prune")
    wanted = [*repository.commits[1:], repository.commits[0]]
    for step in itertools.count(1 + packed, 1 if long else 4):
        repository.path = tmp_path / str(step)
        shutil.copytree(tmp_path / "built", repository.path)
        started: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(writing.subprocess, "run", partial(in_turn, [killed_at(step)], started))
            done = writing._run(Order(os.fsencode(repository.path), repository.both(), IDENT, UNSHARED))
        assert json.loads(done.stdout.splitlines()[-1]) == ["moved", ""], (step, done)
        found = repository.git("rev-parse", "git-annex", "main", "main@{1}").encode().split()
        assert (found, list(repository.path.rglob("*.lock"))) == (wanted, []), step
        if len(started) == 1:
            break
    assert step > 10


def test_a_lock_of_somebody_else_stays_where_a_process_was_killed(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ref_mover, "LOCK_SECONDS", 0.05)
    lock = repository.path / "refs/heads/main.lock"
    lock.write_bytes(repository.commits[1] + b"\n")
    status = lock.stat()
    before = Killed(frozenset([(status.st_dev, status.st_ino)]))  # its number was another file's before
    descriptor = os.open(repository.path, os.O_RDONLY | os.O_DIRECTORY)
    detail = fails("locked", lambda: move(descriptor, repository.both(), IDENT, UNSHARED, before))
    os.close(descriptor)
    assert (detail, lock.exists()) == ("refs/heads/main.lock", True)


def test_what_was_not_moved_by_us_is_no_work_to_go_on_with(repository: Repository) -> None:
    repository.git("update-ref", "refs/heads/main", repository.commits[1].decode())
    descriptor = os.open(repository.path, os.O_RDONLY | os.O_DIRECTORY)
    fails("changed", lambda: move(descriptor, repository.both(), IDENT, UNSHARED, Killed()))
    os.close(descriptor)
    assert repository.at(ANNEX) == repository.commits[0]


def test_an_order_is_heard_whole_or_not_at_all() -> None:
    order = Order(
        b"/a\xff", [(MAIN, b"1" * 40, None), (ANNEX, b"2" * 40, b"3" * 40)], IDENT, Sharing(0o664, exact=True)
    )
    again = order.again(b'["lock", [1, 2]]\n["lock", [1, 3]]\n["lo')
    assert again.before == Killed(frozenset([(1, 2), (1, 3)]))
    assert Order.decode(again.encode()) == again
    text = order.encode()
    assert Order.decode(text) == order
    for end in range(len(text)):
        with pytest.raises(ValueError, match=r"."):
            Order.decode(text[:end])
