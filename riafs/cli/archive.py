"""``riafs archive`` packs a dataset's loose objects into its 7z archive, ``riafs unarchive`` unpacks it again."""

import argparse
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import trio

from riafs.cli.main import complain
from riafs.cli.progress import progress
from riafs.cli.render import amount, counted, print_json, printable
from riafs.daemon.opening import command_settings
from riafs.daemon.plan import named_source
from riafs.errors import BadSource, UsageError
from riafs.formats.sources import RiaUrl
from riafs.options import Kind, Option
from riafs.packing.archiving import ArchiveReport, ArchiveRequest, archive_objects
from riafs.packing.dataset import PackedDataset, open_dataset
from riafs.packing.loose_objects import Damage
from riafs.packing.selection import Selection
from riafs.packing.unarchiving import UnarchiveReport, UnarchiveRequest, unarchive_objects
from riafs.settings import Given, parse_value
from riafs.watching import Watcher

_MOST_IN_MEMORY = 256 << 20


def run_archive(arguments: argparse.Namespace) -> int:
    """``riafs archive``. Exit status 64 if some objects were left out because they are damaged."""
    request = ArchiveRequest(
        selection=Selection(_days(arguments.older), _size("larger", arguments), _size("smaller", arguments)),
        solid_block=_solid_block(arguments),
        prune=arguments.prune,
        dry_run=arguments.dry_run,
    )

    async def job(dataset: PackedDataset, watcher: Watcher) -> ArchiveReport:
        return await archive_objects(dataset, request, watcher)

    report = work(arguments.source, job, arguments.verbosity, dry_run=request.dry_run)
    return conclude(report, list(_archive_lines(report)), arguments)


def _days(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days < 1e6:
        raise UsageError(f"--older takes a number of days, not {text!r}")
    return days


def _size(name: str, arguments: argparse.Namespace) -> int | None:
    text = getattr(arguments, name.replace("-", "_"))
    if text is None:
        return None
    value = parse_value(Option(name, Kind.SIZE, None, "", ""), Given(name, text, f"--{name}"))
    assert isinstance(value, int)
    return value


def _solid_block(arguments: argparse.Namespace) -> int:
    size = _size("solid-block", arguments)
    if size is None or size > _MOST_IN_MEMORY:
        raise UsageError("--solid-block takes at most 256M, as a block is packed in memory")
    return size


def _archive_lines(report: ArchiveReport) -> Iterator[str]:
    would = "would be " if report.dry_run else ""
    yield f"{report.archive}: {counted(report.chosen, 'object')} chosen, {report.already} in the archive before"
    packed = f"{counted(report.packed, 'object')} of {amount(report.packed_bytes)} {would}packed"
    yield f"{packed}, {report.compressed} of them compressed"
    about = "about " if report.dry_run else ""
    yield f"archive: {amount(report.archive_before)} before, {about}{amount(report.archive_after)} after"
    if report.removed:
        removed = f"{counted(report.removed, 'loose object')} {would}removed"
        yield f"{removed}: {report.inodes_freed} inodes and {amount(report.bytes_freed)} on the disk {would}freed"
    if report.others:
        yield f"files below annex/objects that are no objects, left alone: {report.others}"


def run_unarchive(arguments: argparse.Namespace) -> int:
    """``riafs unarchive``. Exit status 64 if some members are damaged; then the archive stays."""
    request = UnarchiveRequest(arguments.remove_archive, arguments.dry_run)

    async def job(dataset: PackedDataset, watcher: Watcher) -> UnarchiveReport:
        return await unarchive_objects(dataset, request, watcher)

    report = work(arguments.source, job, arguments.verbosity, dry_run=request.dry_run)
    return conclude(report, list(_unarchive_lines(report, request)), arguments)


def _unarchive_lines(report: UnarchiveReport, request: UnarchiveRequest) -> Iterator[str]:
    would = "would be " if report.dry_run else ""
    yield f"{report.archive}: {counted(report.keys, 'key')}, {report.already} of them loose before"
    yield f"{counted(report.unpacked, 'key')} of {amount(report.unpacked_bytes)} {would}unpacked"
    if report.others:
        yield f"members of the archive that are no objects, left alone: {report.others}"
    if request.remove_archive:
        yield f"archive {would}removed" if report.archive_removed else "archive not removed"


Report = TypeVar("Report", ArchiveReport, UnarchiveReport)
Job = Callable[[PackedDataset, Watcher], Awaitable[Report]]

SOME_DAMAGED = 64
"""Exit status when some keys were left out."""


def work(source: str, job: Job[Report], verbosity: int, *, dry_run: bool) -> Report:
    """Run `job` on the dataset that `source` names, and show its progress.

    Raises what opening the dataset and the job raise.
    """
    named = named_source(source)
    url, settings = named.source, command_settings(named)
    if not isinstance(url, RiaUrl):
        raise BadSource(f"{url}: only datasets of RIA stores can be archived")

    async def run() -> Report:
        async with open_dataset(url, settings, dry_run=dry_run) as dataset:
            with progress(verbosity) as watcher:
                watcher.at(os.fsdecode(url.alias or url.dataset or b""))
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
