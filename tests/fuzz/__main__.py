"""``python -m tests.fuzz [TARGET…] [--inputs N] [--seed N]``: many mutated inputs, reproducible by their seed."""

import argparse
import random
import resource
import sys
import time
from collections.abc import Sequence

from tests.fuzz.mutation import mutated
from tests.fuzz.targets import TARGETS, Target

_MEMORY = 1 << 30


def fuzz(target: Target, inputs: int, seed: int) -> None:
    """Raises what the first input raises that fails, with a note of that input."""
    chance, seeds = random.Random(seed), target.seeds()
    for each in seeds:
        target.feed(each)
    for _ in range(inputs):
        data = mutated(seeds, chance)
        try:
            target.check(data)
        except Exception as problem:
            problem.add_note(f"input {data.hex()}")
            raise


def main(words: Sequence[str]) -> None:
    """Fuzz the targets that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", choices=[*TARGETS, []], default=[])
    parser.add_argument("--inputs", type=int, default=100_000, help="of each target (100000)")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(words)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for name in chosen.target or TARGETS:
        began = time.monotonic()
        fuzz(TARGETS[name], chosen.inputs, chosen.seed)
        seconds = time.monotonic() - began
        print(f"{name}: {chosen.inputs} inputs in {seconds:.0f} s, nothing found", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
