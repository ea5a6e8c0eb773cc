"""What ``riafs archive`` and ``riafs unarchive`` have in common: opening the dataset, progress, telling of damage."""

import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from riafs.cli.main import complain
from riafs.cli.mount import absolute_source
from riafs.cli.render import print_json, printable
from riafs.errors import BadSource, MissingProgram
from riafs.formats.riaurl import RiaUrl
from riafs.git.config import instead_of_rules
from riafs.packing.archiving import ArchiveReport
from riafs.packing.dataset import PackedDataset, open_dataset
from riafs.packing.problems import Damage
from riafs.packing.unarchiving import UnarchiveReport
from riafs.packing.watching import Nobody, Step, Watcher
from riafs.settings import complete_environment, load
from riafs.tree.working import Means

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Report = TypeVar("Report", ArchiveReport, UnarchiveReport)
Job = Callable[[PackedDataset, Watcher], Awaitable[Report]]

SOME_DAMAGED = 64
"""Exit status when some keys were left out."""


def work(source: str, job: Job[Report], *, dry_run: bool) -> Report:
    """Run `job` on the dataset that `source` names, with a progress bar if standard error is a terminal.

    Raises what opening the dataset and the job raise.
    """
    environment = complete_environment()
    settings = load(environment, ()).settings
    git = shutil.which("git")
    if git is None:
        raise MissingProgram("git is not installed (Debian: apt install git)")
    located = absolute_source(source, instead_of_rules(environment))
    if not isinstance(located, RiaUrl):
        raise BadSource(f"{located}: only datasets of RIA stores are packed")
    allowed = tuple(map(os.fsencode, settings.allow_links))
    means = Means(git, environment["PATH"], settings.deadline, settings.cache_dir, allowed)

    async def run() -> Report:
        async with open_dataset(located, means, dry_run=dry_run) as dataset:
            with _progress() as watcher:
                return await job(dataset, watcher)

    return trio.run(run)


def conclude(report: ArchiveReport | UnarchiveReport, lines: Sequence[str], *, as_json: bool) -> int:
    """Print the report, or its `lines`; returns the exit status."""
    if as_json:
        print_json(_json(report))
    else:
        for line in lines:
            print(printable(line))
    for each in report.damaged:
        complain(f"key {os.fsdecode(each.key)}: the copy in {each.place} {each.reason}")
    return SOME_DAMAGED if report.damaged else 0


def _json(report: ArchiveReport | UnarchiveReport) -> dict[str, Any]:
    return asdict(report) | {"damaged": [_damage(each) for each in report.damaged]}


def _damage(each: Damage) -> dict[str, str]:
    return {
        "key": each.key.decode(errors="backslashreplace"),
        "place": os.fsencode(each.place).decode(errors="backslashreplace"),
        "reason": each.reason,
    }


@contextmanager
def _progress() -> Iterator[Watcher]:
    """A bar for each step on a terminal. rich is imported only there."""
    if not sys.stderr.isatty():
        yield Nobody()
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar)


class _Bar:
    """A Watcher that draws."""

    def __init__(self, bar: "Progress") -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def begin(self, step: Step, total: int) -> None:
        """See Watcher."""
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(step.value, total=total or None)

    def advance(self, amount: int) -> None:
        """See Watcher."""
        if self._task is not None:
            self._bar.advance(self._task, amount)
