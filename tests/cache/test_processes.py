"""Several processes in one directory, and processes that are killed at any moment."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from riafs.cache.block_files import open_blocks
from riafs.cache.disk import DiskBlocks
from riafs.cache.eviction import DiskLimits, check_all, survey
from tests.cache.blocks import bytes_of, name_of
from tests.waiting import eventually, random_moment

SIZE = 200_000
LIMITS = DiskLimits(size=40 * 204_800, min_free=0)
PROJECT = Path(__file__).parents[2]

WORKER = """
import random, sys
from riafs.cache.disk import DiskBlocks
from tests.cache.blocks import bytes_of, name_of
from tests.cache.test_processes import LIMITS, SIZE
cache, seed, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
blocks, chance = DiskBlocks(cache, LIMITS), random.Random(seed)
print("begun", flush=True)
for _ in range(rounds):
    number = chance.randrange(100)
    data = blocks.read(name_of(number, SIZE))
    if data is None:
        blocks.write(name_of(number, SIZE), bytes_of(number, SIZE))
    else:
        assert data == bytes_of(number, SIZE)
"""


def worker(cache: str, seed: int, rounds: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", WORKER, cache, str(seed), str(rounds)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=PROJECT)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    return process


def test_processes_share_a_directory_and_its_limit(cache: str) -> None:
    workers = [worker(cache, seed, 400) for seed in range(3)]
    most = 0

    def have_ended() -> bool:
        nonlocal most
        with open_blocks(cache, make=True) as root:
            most = max(most, survey(root).size)
        return all(process.poll() is not None for process in workers)

    eventually(have_ended, 60)
    for process in workers:
        assert process.communicate() == (b"", None)
        assert process.returncode == 0
    assert most <= LIMITS.size + 3 * (LIMITS.size // 32 + 2 * SIZE)
    assert all(DiskBlocks(cache, LIMITS).read(name_of(n, SIZE)) in (None, bytes_of(n, SIZE)) for n in range(100))


def test_killed_at_any_moment_every_block_is_whole_or_not_there(cache: str) -> None:
    chance = random.Random(7)
    for seed in range(12):
        process = worker(cache, seed, 100_000)
        random_moment(chance, 0.0, 0.08)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with open_blocks(cache, make=True) as root:
            assert check_all(root).damaged == 0
    blocks = DiskBlocks(cache, LIMITS)
    found = [number for number in range(100) if blocks.read(name_of(number, SIZE)) == bytes_of(number, SIZE)]
    assert found
    assert blocks.write(name_of(1000, SIZE), bytes_of(1000, SIZE))
