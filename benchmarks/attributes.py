"""Extended attributes beside look-ups: programs that copy ask for several a file, of which a mount has none."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks import listing, mounts
from benchmarks.bench import Bench
from benchmarks.report import Row, Target

_DIRECTORIES = 100
_NAMES = ("security.capability", "system.posix_acl_access", "user.other", "user.riafs.key", "user.riafs.dataset")
_OF_CONTENT = ("user.riafs.where", "user.riafs.verified")


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements, each call for all of some thousand files that the kernel knows."""
    store = listing.spread(bench)
    with mounts.riafs_mount(bench.data, f"{store}#~wide") as mount:
        files = some_files(mount, _DIRECTORIES)
        each(files, os.stat)
        looked_up = [each([f"{path}.{number}" for path in files], os.stat) for number in range(bench.rounds)]
        peer = "look-up of a name that is not there"
        calls: dict[str, Callable[[str], object]] = {"listxattr": os.listxattr}
        calls |= {f"getxattr {name}": partial(os.getxattr, attribute=name) for name in _NAMES + _OF_CONTENT}
        for name, call in calls.items():
            target = None if name.split()[-1] in _OF_CONTENT else Target(at_most=1.5)
            yield Row(name, "µs", [each(files, call) for _ in range(bench.rounds)], target, peer, looked_up)


def some_files(mount: Path, directories: int) -> Sequence[str]:
    """The files of the first directories of `listing.spread`, which has 50 in each."""
    return [entry.path for name in sorted(os.listdir(mount))[:directories] for entry in os.scandir(mount / name)]


def each(files: Sequence[str], call: Callable[[str], object]) -> float:
    """Microseconds for one file, whether or not a call fails."""
    began = time.perf_counter()
    for path in files:
        with contextlib.suppress(OSError):
            call(path)
    return (time.perf_counter() - began) * 1e6 / len(files)
