"""``python -m tests.damage KIND SEED COUNT``: damage something COUNT times, and read all of it after each.

Each damage follows from the seed and its number: ``--first NUMBER`` with a COUNT of 1 makes one again.
"""

import argparse
import collections
import logging
import random
import select
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import trio

from riafs.content.verifying import Verify
from tests.damage.kinds import KINDS, POLICIES, Subject

DEADLINE = 60.0
"""Seconds after which a child hangs that tells nothing: it reads for 10 (see reading) after it has told of a damage."""
PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of many damages."""

    told: Counter[str] = field(default_factory=collections.Counter)
    trouble: list[str] = field(default_factory=list)
    """What must not be, by damage."""


def run(kind: str, seed: str, first: int, count: int, directory: Path) -> Outcome:
    """Let a child do it, and another one go on where a child died or took too long."""
    outcome, end = Outcome(), first + count
    while first < end:
        outcome.told["children"] += 1
        area = directory / f"{kind}-{first}"
        command = [sys.executable, "-m", "tests.damage", kind, seed, str(end - first), "--first", str(first)]
        child = subprocess.Popen(
            [*command, "--in", area], cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        try:
            first = _follow(child, first, outcome) + 1
        finally:
            child.kill()
            child.communicate()
            shutil.rmtree(area, ignore_errors=True)
    return outcome


def _follow(child: "subprocess.Popen[bytes]", first: int, outcome: Outcome) -> int:
    """Read what a child tells; returns the number of the last damage that it came to."""
    assert child.stdout is not None
    number, doing = first, "building"
    while True:
        if not select.select([child.stdout], [], [], DEADLINE)[0]:
            outcome.trouble.append(f"{number}: took longer than {DEADLINE:.0f} s: {doing}")
            return number
        line = child.stdout.readline().decode(errors="replace").rstrip("\n")
        what, _, rest = line.partition(" ")
        if what == "damage":
            digits, _, doing = rest.partition(" ")
            number = int(digits)
        elif what == "told":
            name, _, times = rest.partition(" ")
            outcome.told[name.replace("_", " ")] += int(times)
        elif what == "wrong":
            outcome.trouble.append(f"{number}: {rest}: {doing}")
        elif not line:
            if child.wait() != 0:
                outcome.trouble.append(f"{number}: the process died with {child.returncode}: {doing}")
            return number if child.returncode else sys.maxsize - 1


def work(kind: str, seed: str, first: int, count: int, area: Path) -> None:
    """What a child does: tell each damage and what came of it, a line each."""
    logging.disable()
    area.mkdir(parents=True)
    subject = KINDS[kind](area / "work")
    for part in subject.parts:
        shutil.copytree(area / "work" / part, area / "built" / part, symlinks=True)
    told = trio.run(subject.read, Verify.AUTO, random.Random(0))
    assert told["right"], told
    assert not told["errors"], told
    print("told right", told["right"], flush=True)
    for number in range(first, first + count):
        chance = random.Random(f"{kind} {seed} {number}")
        for part in subject.parts:
            shutil.rmtree(area / "work" / part)
            shutil.copytree(area / "built" / part, area / "work" / part, symlinks=True)
        print("damage", number, subject.damage(chance).replace(f"{area}/work/", ""), flush=True)
        _read(subject, chance)


def _read(subject: Subject, chance: random.Random) -> None:
    for verify in POLICIES:
        try:
            told = trio.run(subject.read, verify, chance)
        except Exception as problem:  # noqa: BLE001 - whatever it is, it is what is looked for
            traceback.print_exc()
            print("wrong", verify.value, type(problem).__name__, " ".join(str(problem).split())[:200], flush=True)
        else:
            for name, times in told.items():
                print("told", name.replace(" ", "_"), times, flush=True)


def main() -> int:
    """Exit status 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.damage", description=__doc__)
    parser.add_argument("kind", choices=[*KINDS, "all"])
    parser.add_argument("seed")
    parser.add_argument("count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--in", dest="area", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.area is not None:
        work(words.kind, words.seed, words.first, words.count, words.area)
        return 0
    status = 0
    for kind in KINDS if words.kind == "all" else [words.kind]:
        with tempfile.TemporaryDirectory(prefix="riafs-damage-") as directory:
            outcome = run(kind, words.seed, words.first, words.count, Path(directory))
        told = ", ".join(f"{name} {times}" for name, times in sorted(outcome.told.items()))
        print(f"{kind}: {words.count} damages, {len(outcome.trouble)} wrong; {told}", *outcome.trouble, sep="\n  ")
        status |= bool(outcome.trouble)
    return status


if __name__ == "__main__":
    sys.exit(main())
