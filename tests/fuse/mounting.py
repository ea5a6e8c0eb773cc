"""Real mounts for tests: by the command ``riafs mount`` in a process of its own, gone at the end whatever happens."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riafs.daemon.ask import ask
from riafs.daemon.mounts import mount_at
from tests.behaviour.drivers import MountDriver
from tests.plugins import mounts

PROJECT = Path(__file__).parents[2]
COMMAND = ("-m", "riafs.cli.main")
_END_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Mounted:
    """A running mount."""

    path: Path
    log: Path
    pid: int

    @property
    def driver(self) -> MountDriver:
        """See tests/behaviour/drivers."""
        return MountDriver(self.path)

    def status(self) -> Mapping[str, Any]:
        """What the daemon tells about itself."""
        return self._ask("status")

    def counter(self, name: str) -> int:
        """One of the daemon's counters."""
        return int(self.status()["counters"][name])

    def refresh(self) -> None:
        """Let the daemon look for changes in the store now; they are visible when this returns."""
        assert self._ask("refresh") == {"refreshed": True}

    def _ask(self, command: str) -> Mapping[str, Any]:
        mount = mount_at(str(self.path))
        assert mount is not None
        return ask(mount, command, os.environ)

    def logged(self) -> str:
        """The daemon's log so far."""
        return self.log.read_text(errors="replace")


def run_riafs(
    *words: str | Path, command: Sequence[str] = COMMAND, timeout: float = 60, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, with nothing on standard input."""
    return subprocess.run(
        [sys.executable, *command, *words],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )


@contextmanager
def mounted(
    source: Path | str, directory: Path, *words: str, command: Sequence[str] = COMMAND, **options: Any
) -> Iterator[Mounted]:
    """Mount `source` on a new directory below `directory`; `words`: further words of the command line.

    ``--refresh 86400``: only `Mounted.refresh` looks for changes.
    """
    mountpoint, log = directory / "mnt", directory / "log"
    mountpoint.mkdir(parents=True)
    words = ("mount", str(source), str(mountpoint), "--log", str(log), "--refresh", "86400", *words)
    try:
        done = run_riafs(*words, command=command, **options)
        assert done.returncode == 0, done.stderr
        mount = mount_at(str(mountpoint))
        assert mount is not None
        pid = int(ask(mount, "status", os.environ)["pid"])
        yield Mounted(mountpoint, log, pid)
        end(mountpoint, pid)
    finally:
        mounts.sweep(mounts.below(directory))


def end(mountpoint: Path, pid: int) -> None:
    """Unmount, and wait until the daemon has ended."""
    daemon = os.pidfd_open(pid)
    try:
        done = run_riafs("umount", mountpoint)
        assert done.returncode == 0, done.stderr
        assert select.select([daemon], [], [], _END_SECONDS)[0], "the daemon lives on after the unmount"
    finally:
        os.close(daemon)
