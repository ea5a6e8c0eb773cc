"""Children of a mount are killed while programs read and push: ``python -m tests.faults.killchildren SEED SECONDS``.

Whatever the mount's process starts (git cat-file, git for blobs, configuration and attributes, decoders of archives,
gpg, the process that moves refs) is ended by SIGKILL at moments that follow from the seed. Every read has the right
bytes, at once or when it is tried again; no error stays; the mount's process lives on; a push ends well or can be made
again, and leaves no lock.
"""

import argparse
import collections
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.conftest import private_environment
from tests.content.test_archive_members import FORMS, MEMBERS, url, web_log
from tests.content.test_special_remotes import SHARED, UUID, put_encrypted
from tests.fuse.mounting import Mounted, mounted, run_riafs
from tests.plugins import mounts
from tests.push.conftest import FILES, with_annex
from tests.small import Files, Locked, SmallStore, key_of, noise
from tests.waiting import eventually

METHODS = {"ppmd": ("-m0=PPMd",), "bcj2": ("-m0=BCJ2", "-m1=LZMA", "-m2=LZMA", "-m3=LZMA", "-mb0:1", "-mb0s1:2",
           "-mb0s2:3"), "lzma2": ("-m0=LZMA2", "-ms=on"), "deflate64": ("-m0=Deflate64",)}  # fmt: skip
READERS = 4
PATIENCE = 20.0
"""Seconds that an error may last for one reader, of which a decoder that was killed again and again takes five."""
_KINDS = {
    b"--batch-command": "git cat-file", b"cat-file\0blob": "git cat-file of a blob", b"ref_mover": "move of refs",
    b"check-attr": "git attributes", b"update-index": "git attributes", b"hash-object": "git attributes",
    b"config\0": "git config", b"riafs.archive.child": "decoder", b"7z": "7-Zip", b"gpg": "gpg", b"ulimit": "decoder",
}  # fmt: skip


def built(area: Path) -> tuple[SmallStore, dict[str, bytes]]:
    """A store in which every kind of child is needed, and the files that are read of it by path."""
    store, wanted = SmallStore.make(area / "store"), dict[str, bytes]()
    contents = [b"".join(b"%d %d\n" % (each, line) for line in range(30_000)) for each in range(6)]
    names = {b"f%d" % each: content for each, content in enumerate(contents)}
    for alias, switches in METHODS.items():
        dataset = store.dataset(alias, {name: Locked(key_of(content)) for name, content in names.items()})
        dataset.archive({key_of(content): content for content in contents}, *switches)
        wanted |= {f"{alias}/{os.fsdecode(name)}": content for name, content in names.items()}
    wanted |= _of_git(store) | _encrypted(store, area) | _of_an_archive(store, area)
    with_annex(store.dataset("pushed", FILES | {b".gitattributes": b"* annex.largefiles=nothing\n"}))
    return store, wanted


def _of_git(store: SmallStore) -> Mapping[str, bytes]:
    files = {b"many/%d" % each: b"%d\n" % each * 50 for each in range(600)} | {b"large": noise(9 << 20)}
    dataset = store.dataset("git", files)
    dataset.git("repack", "-adq")
    return {f"git/{os.fsdecode(name)}": content for name, content in files.items()}


def _encrypted(store: SmallStore, area: Path) -> Mapping[str, bytes]:
    home = area / "gpg"
    home.mkdir(mode=0o700)
    contents = {b"secret%d" % each: noise(20_000, f"secret {each}") for each in range(4)}
    dataset = store.dataset("gpg", {name: Locked(key_of(content)) for name, content in contents.items()})
    line = b" ".join([UUID, b"archive-id=" + dataset.id.encode(), b"externaltype=ora", b"name=s", *SHARED])
    dataset.annex_branch({b"remote.log": line + b" timestamp=1700000000s\n"})
    for content in contents.values():
        put_encrypted(dataset, key_of(content), content, home)
        (home / "message").unlink()
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    return {f"gpg/{os.fsdecode(name)}": content for name, content in contents.items()}


def _of_an_archive(store: SmallStore, area: Path) -> Mapping[str, bytes]:
    data = FORMS[b".tar.gz"](area)
    archive = key_of(data, b".tar.gz")
    files: Files = {b"archive": Locked(archive), **{name: Locked(key_of(each)) for name, each in MEMBERS.items()}}
    dataset = store.dataset("member", files)
    logs: dict[bytes, bytes] = {}
    for name, content in MEMBERS.items():
        logs |= web_log(key_of(content), url(archive, name, len(content)))
    dataset.annex_branch(logs)
    dataset.put(archive, data)
    return {f"member/{os.fsdecode(name)}": content for name, content in MEMBERS.items()}


class KillChildren:
    """`mount`: shows the store of `built`. What went wrong is in `trouble`."""

    def __init__(self, mount: Mounted, wanted: Mapping[str, bytes], seed: str) -> None:
        self._mount = mount
        self._wanted = wanted
        self._seed = seed
        self._ended = threading.Event()
        self.killed: Counter[str] = collections.Counter()
        self.told: Counter[str] = collections.Counter()
        self.trouble: list[str] = []

    def run(self, seconds: float) -> None:
        """Read, push and kill for so long, then read everything once more in peace."""
        threads = [threading.Thread(target=self._read, args=(number,)) for number in range(READERS)]
        threads += [threading.Thread(target=self._push), threading.Thread(target=self._kill)]
        for thread in threads:
            thread.start()
        self._ended.wait(seconds)
        self._ended.set()
        for thread in threads:
            thread.join()
        for path in self._wanted:
            self._look(path)
        if self._mount.status()["counters"]["handler_errors"]:
            self.trouble.append("an internal error, see the log")

    # -- reading ------------------------------------------------------------------------------------------------------

    def _read(self, number: int) -> None:
        chance = random.Random(f"{self._seed} reader {number}")
        while not self._ended.is_set() and not self.trouble:
            group = chance.choice(sorted({path.partition("/")[0] for path in self._wanted}))
            self._look(chance.choice([path for path in self._wanted if path.startswith(f"{group}/")]))

    def _look(self, path: str) -> None:
        found = b""

        def is_read() -> bool:
            nonlocal found
            try:
                found = _content(self._mount.path / path)
            except OSError as error:
                self.told[f"{error.strerror}, tried again"] += 1
                return False
            return True

        try:
            eventually(is_read, PATIENCE)
        except AssertionError:
            self.trouble.append(f"{path}: errors for {PATIENCE:g} s")
            return
        self.told["read"] += 1
        if found != self._wanted[path]:
            self.trouble.append(f"{path} has {len(found)} bytes that are wrong")

    # -- pushing ------------------------------------------------------------------------------------------------------

    def _push(self) -> None:
        """The commands are not killed, but what the mount starts for them is."""
        top = self._mount.path / "pushed"
        for number in range(1000):
            if self._ended.is_set():
                return
            (top / f"new{number}").write_bytes(b"%d\n" % number)
            done = run_riafs("push", top, "-m", f"push {number}")
            self.told["pushed" if done.returncode == 0 else "push to be made again"] += 1
            if done.returncode and "can be tried again" not in done.stderr:
                self.trouble.append(f"push: {done.stderr.strip()}")

    # -- killing ------------------------------------------------------------------------------------------------------

    def _kill(self) -> None:
        chance = random.Random(f"{self._seed} kills")
        while not self._ended.wait(chance.expovariate(25)):
            children = list(children_of(self._mount.pid))
            if children:
                kind = chance.choice(sorted({kind for _, kind in children}))
                pid = chance.choice([pid for pid, each in children if each == kind])
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    self.killed[kind] += 1


def _content(path: Path) -> bytes:
    """Read by this process anew, as far as the kernel lets go what it has."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()


def children_of(parent: int) -> Iterator[tuple[int, str]]:
    """Processes that `parent` has started and that live, each with what it is."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
            if fields[0] != "Z" and int(fields[1]) == parent:
                words = Path(f"/proc/{name}/cmdline").read_bytes()
                yield int(name), next((kind for part, kind in _KINDS.items() if part in words), "just begun")


def check(area: Path, seed: str, seconds: float) -> KillChildren:
    """All of it in a directory; raises AssertionError where anything went wrong."""
    store, wanted = built(area)
    words = (
        "--overlay",
        str(area / "overlay"),
        "--cache-size",
        "0",
        "--cache-memory",
        "0",
        "--cache-dir",
        str(area / "c"),
    )
    with mounted(store.path, area / "mount", *words) as mount:
        killing = KillChildren(mount, wanted, seed)
        killing.run(seconds)
        done = run_riafs("push", mount.path / "pushed", "-m", "the last")
        log = mount.logged()
        assert not killing.trouble, (killing.trouble, log[-3000:])
        assert done.returncode == 0, done.stderr
        new = [path.name for path in (mount.path / "pushed").glob("new*")]
    [pushed] = [each.resolve() for each in (store.path / "alias").iterdir() if each.name == "pushed"]
    git = ["git", "--git-dir", pushed]
    names = subprocess.run([*git, "ls-tree", "--name-only", "main"], capture_output=True, text=True, check=True)
    assert set(new) <= set(names.stdout.split())
    subprocess.run([*git, "fsck", "--strict", "--no-dangling"], check=True, capture_output=True)
    assert not list(pushed.rglob("*.lock"))
    assert "Traceback" not in log, log[-3000:]
    return killing


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.killchildren", description=__doc__)
    parser.add_argument("seed")
    parser.add_argument("seconds", type=float)
    words = parser.parse_args()
    base = Path(tempfile.mkdtemp())
    (base / "home").mkdir()
    os.environ.update(private_environment(base / "home"))
    try:
        killing = check(base, words.seed, words.seconds)
    finally:
        mounts.sweep(mounts.below(base))
    shutil.rmtree(base)
    print(f"killed: {dict(killing.killed)}; {dict(killing.told)}; nothing wrong")
    return 0


if __name__ == "__main__":
    sys.exit(main())
