"""Taking times: programs with their output thrown away, peers in turns, the kernel's caches dropped where asked."""

import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Times = Mapping[str, float]
Samples = Mapping[str, Sequence[float]]

_DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def seconds(*command: str | Path) -> float:
    """How long `command` takes, output to /dev/null. Raises CalledProcessError if it fails."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def seconds_piped(*command: str | Path) -> float:
    """The same with the output read through a pipe: tar reads no files where it can tell that nobody wants them."""
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        subprocess.run(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL, check=True)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - began


def in_turns(rounds: int, *steps: Callable[[], Times]) -> Samples:
    """Run all `steps` one after the other, `rounds` times (A B A B …), and collect what they measured by name."""
    samples: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for step in steps:
            for name, value in step().items():
                samples[name].append(value)
    return samples


def can_drop_caches() -> bool:
    """Whether this user may empty the kernel's caches."""
    return os.access(_DROP_CACHES, os.W_OK)


def drop_caches(what: int = 3) -> None:
    """Empty the kernel's page cache (1), its directory entries and inodes (2), or both (3)."""
    os.sync()
    _DROP_CACHES.write_text(f"{what}\n")


def each(samples: Sequence[float], convert: Callable[[float], float]) -> list[float]:
    """`samples` in another unit."""
    return [convert(sample) for sample in samples]
