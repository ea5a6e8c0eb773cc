"""``riafs prefetch``: read files and trees through their mount, so that the kernel and the block cache have them.

Several threads read, each one file at a time; how many files wait for them is bounded, so trees of any size can be
given.
"""

import argparse
import os
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from riafs import watching
from riafs.cli.main import complain
from riafs.cli.progress import Display, progress
from riafs.cli.render import amount, counted, print_json
from riafs.cli.targets import File, files_below

_CHUNK = 1 << 20
_WAITING_FOR_EACH = 4
_FAILED = 2


@dataclass(slots=True)
class Outcome:
    """What was read; changed under `lock` by several threads."""

    files: int = 0
    bytes: int = 0
    failed: int = 0
    seconds: float = 0.0


def run(arguments: argparse.Namespace) -> int:
    """The subcommand: exit status 2 if something could not be read."""
    began = time.monotonic()
    with progress(arguments.verbosity) as display:
        reading = Reading(display)
        if display.shown:
            reading.expected = count_files(arguments.paths, display)
        else:
            display.begin(watching.Reading.READING, 0)
        read_all(reading, files_below(arguments.paths, reading.fail), arguments.jobs)
    outcome = reading.outcome
    outcome.seconds = round(time.monotonic() - began, 3)
    if arguments.json:
        print_json(asdict(outcome))
    elif arguments.verbosity >= 0:
        read = f"{counted(outcome.files, 'file')}, {amount(outcome.bytes)}"
        print(f"{read} in {outcome.seconds:.1f} s, {outcome.failed} failed")
    return _FAILED if outcome.failed else 0


def count_files(paths: Sequence[str], display: Display) -> int:
    """Count what there is to read, and begin to read it. What cannot be looked at is told when it is read."""
    display.begin(watching.Reading.COUNTING, 0)
    files = size = 0
    for file in files_below(paths, lambda *_: None):
        files, size = files + 1, size + file.size
        display.advance(file.size)
        display.files(files, 0)
    display.begin(watching.Reading.READING, size)
    return files


def read_all(reading: "Reading", files: Iterable[File], jobs: int) -> None:
    """Read `files` in `jobs` threads. Raises what going through `files` raises, once no thread reads any more."""
    room = threading.Semaphore(jobs * _WAITING_FOR_EACH)
    with ThreadPoolExecutor(jobs) as executor:
        try:
            for file in files:
                reading.display.at(file.dataset)
                room.acquire()
                executor.submit(reading.read, file).add_done_callback(lambda _: room.release())
        except BaseException:
            reading.ended.set()
            executor.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass(slots=True)
class Reading:
    """The state of one run."""

    display: Display
    expected: int = 0
    """The number of files to read; 0: not known."""
    outcome: Outcome = field(default_factory=Outcome)
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, file: File) -> None:
        """Read a whole file and drop what was read; a failure is told and counted."""
        size = 0
        try:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                size = self._read_all(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.fail(file.path, error)
        else:
            with self.lock:
                self.outcome.files += 1
        self.display.advance(file.size - size)
        self.display.files(self.outcome.files + self.outcome.failed, self.expected)

    def _read_all(self, descriptor: int) -> int:
        buffer = bytearray(_CHUNK)
        size = 0
        while not self.ended.is_set():
            count = os.readv(descriptor, [buffer])
            if not count:
                break
            size += count
            self.display.advance(count)
            with self.lock:
                self.outcome.bytes += count
        return size

    def fail(self, path: str, error: OSError) -> None:
        """Tell and count what cannot be read."""
        with self.lock:
            self.outcome.failed += 1
        complain(f"{path}: {error.strerror}")
