"""How costs grow with size: processor time, how long others wait, the exponent. For tests, proofs and benchmarks."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression

_SECONDS = 600.0
_LEAST = 1e-6
_LOOK = """
import os, sys, time, threading
worst, number, ended = 0.0, 0, threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
os.path.lexists(sys.argv[1] + "/first")
print(flush=True)
while not ended.is_set():
    number += 1
    before = time.perf_counter()
    os.path.lexists(f"{sys.argv[1]}/{os.getpid()}-{number}")
    worst = max(worst, time.perf_counter() - before)
    ended.wait(0.002)
print(worst)
"""


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The exponent with which costs grow: 0 constant, 1 linear, 2 quadratic. By least squares over the logarithms."""
    logarithms = [math.log(max(cost, _LEAST)) for cost in costs]
    return linear_regression([math.log(size) for size in sizes], logarithms).slope


def processor(pid: int, *, children: bool = False) -> float:
    """Seconds of processor time that a process took so far; with those of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if children else 13])) / os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Looks:
    """Look-ups of another process. `worst`: seconds of the longest one, known at the end."""

    worst: float = 0.0


@contextmanager
def looking(directory: Path) -> Iterator[Looks]:
    """Another process looks up names that `directory` does not have: always another one, as the kernel remembers."""
    looks = Looks()
    words = [sys.executable, "-c", _LOOK, str(directory)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            yield looks
        finally:
            told = other.communicate("", timeout=_SECONDS)[0]
        looks.worst = float(told)
