"""``riafs archive``: pack a dataset's loose objects into its 7z archive."""

import argparse
from collections.abc import Iterator

from riafs.cli.packing import conclude, work
from riafs.cli.render import amount
from riafs.errors import UsageError
from riafs.options import Kind, Option
from riafs.packing.archiving import ArchiveReport, ArchiveRequest, archive_objects
from riafs.packing.dataset import PackedDataset
from riafs.packing.selection import Selection
from riafs.settings import Given, parse_value
from riafs.watching import Watcher

_MOST_IN_MEMORY = 256 << 20


def run(arguments: argparse.Namespace) -> int:
    """The subcommand. Exit status 64 if some objects were left out because they are damaged."""
    request = ArchiveRequest(
        selection=Selection(_days(arguments.older), _size("larger", arguments), _size("smaller", arguments)),
        solid_block=_solid_block(arguments),
        prune=arguments.prune,
        dry_run=arguments.dry_run,
    )

    async def job(dataset: PackedDataset, watcher: Watcher) -> ArchiveReport:
        return await archive_objects(dataset, request, watcher)

    report = work(arguments.source, job, arguments.verbosity, dry_run=request.dry_run)
    return conclude(report, list(_lines(report)), arguments)


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


def _lines(report: ArchiveReport) -> Iterator[str]:
    would = "would be " if report.dry_run else ""
    yield f"{report.archive}: {_count(report.chosen, 'object')} chosen, {report.already} in the archive before"
    packed = f"{_count(report.packed, 'object')} of {amount(report.packed_bytes)} {would}packed"
    yield f"{packed}, {report.compressed} of them compressed"
    about = "about " if report.dry_run else ""
    yield f"archive: {amount(report.archive_before)} before, {about}{amount(report.archive_after)} after"
    if report.removed:
        removed = f"{_count(report.removed, 'loose object')} {would}removed"
        yield f"{removed}: {report.inodes_freed} inodes and {amount(report.bytes_freed)} on the disk {would}freed"
    if report.others:
        yield f"{_count(report.others, 'file')} below annex/objects no objects, left alone"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
