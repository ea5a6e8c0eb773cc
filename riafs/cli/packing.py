"""What ``riafs archive`` and ``riafs unarchive`` have in common: opening the dataset, progress, telling of damage."""

import argparse
import os
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import trio

from riafs.cli.main import complain
from riafs.cli.mount import absolute_source
from riafs.cli.progress import progress
from riafs.cli.render import print_json, printable
from riafs.errors import BadSource, MissingProgram
from riafs.formats.sources import RiaUrl
from riafs.git.user import instead_of_rules
from riafs.packing.archiving import ArchiveReport
from riafs.packing.dataset import PackedDataset, open_dataset
from riafs.packing.loose_objects import Damage
from riafs.packing.unarchiving import UnarchiveReport
from riafs.settings import complete_environment, load
from riafs.tree.tools import CommandSettings
from riafs.watching import Watcher

Report = TypeVar("Report", ArchiveReport, UnarchiveReport)
Job = Callable[[PackedDataset, Watcher], Awaitable[Report]]

SOME_DAMAGED = 64
"""Exit status when some keys were left out."""


def work(source: str, job: Job[Report], verbosity: int, *, dry_run: bool) -> Report:
    """Run `job` on the dataset that `source` names, and show its progress.

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
    means = CommandSettings(git, environment["PATH"], settings.deadline, settings.cache_dir, allowed)

    async def run() -> Report:
        async with open_dataset(located, means, dry_run=dry_run) as dataset:
            with progress(verbosity) as watcher:
                watcher.at(os.fsdecode(located.alias or located.dataset or b""))
                return await job(dataset, watcher)

    return trio.run(run)


def conclude(report: ArchiveReport | UnarchiveReport, lines: Sequence[str], arguments: argparse.Namespace) -> int:
    """Print the report, or its `lines`; returns the exit status."""
    if arguments.json:
        print_json(_json(report))
    elif arguments.verbosity >= 0:
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
