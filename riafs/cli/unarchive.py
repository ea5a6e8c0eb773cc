"""``riafs unarchive``: turn the keys of a dataset's 7z archive into loose objects again."""

import argparse
from collections.abc import Iterator

from riafs.cli.packing import conclude, work
from riafs.cli.render import amount
from riafs.packing.dataset import PackedDataset
from riafs.packing.unarchiving import UnarchiveReport, UnarchiveRequest, unarchive_objects
from riafs.watching import Watcher


def run(arguments: argparse.Namespace) -> int:
    """The subcommand. Exit status 64 if some members are damaged; then the archive stays."""
    request = UnarchiveRequest(arguments.remove_archive, arguments.dry_run)

    async def job(dataset: PackedDataset, watcher: Watcher) -> UnarchiveReport:
        return await unarchive_objects(dataset, request, watcher)

    report = work(arguments.source, job, arguments.verbosity, dry_run=request.dry_run)
    return conclude(report, list(_lines(report, request)), arguments)


def _lines(report: UnarchiveReport, request: UnarchiveRequest) -> Iterator[str]:
    would = "would be " if report.dry_run else ""
    yield f"{report.archive}: {report.keys} keys, {report.already} of them loose before"
    yield f"{report.unpacked} keys of {amount(report.unpacked_bytes)} {would}unpacked"
    if report.others:
        yield f"{report.others} files in the archive are no objects"
    if request.remove_archive:
        yield f"archive {would}removed" if report.archive_removed else "archive not removed"
