"""``riafs verify``: read everything a source holds, and report what is damaged, missing, or has too few good copies.

Nothing is changed in the store, and nothing that was cached or remembered as verified is used.
"""

import argparse
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import trio

from riafs.checking.checking import Request, check
from riafs.checking.report import ArchiveTally, Finding, Report, Verdict
from riafs.cli.main import complain
from riafs.cli.progress import Display, progress
from riafs.cli.render import amount, print_json, print_table, printable
from riafs.cli.targets import manifest_on_input
from riafs.content.copies import Copy, CopyState
from riafs.content.verifying import Verify
from riafs.counters import Counters
from riafs.daemon.opening import opening_plan
from riafs.daemon.plan import named_source
from riafs.tree.store_root import AliasDirectory
from riafs.vfs.assembly import Plan, open_assembled

_LOST, _DEGRADED = 2, 64
_DEGRADED_VERDICTS = (Verdict.DAMAGED_COPY, Verdict.UNDER_REPLICATED)
_TITLES = ("STATE", "FILES", "KEY, OBJECT OR BLOCK", "COPIES")
_REASONS = 3
_LOOSE = "annex/objects/"
_STEPS = {
    (Verdict.MISSING, "key"): "in a clone that has their content: git annex copy --to=STORAGE FILE",
    (Verdict.DAMAGED, "key"): (
        "in a clone that has their content: git annex fsck --from=STORAGE FILE removes what is damaged from the store, "
        "git annex copy --to=STORAGE FILE sends it again"
    ),
    (Verdict.DAMAGED_COPY, "key"): (
        "readers are served from the good copy; git annex fsck --from=STORAGE FILE in a clone removes a damaged loose "
        "object; an archive is made anew by riafs unarchive and riafs archive, once its loose copies are good"
    ),
    (Verdict.MISSING, "git object"): "push them again from a clone that has them",
    (Verdict.DAMAGED, "git object"): (
        "git fsck in the dataset's directory names all; a copy of objects/ from a clone that has them puts them back"
    ),
    (
        Verdict.MISSING,
        "block",
    ): "no place has them: look in the cluster's trash or a backup",
    (Verdict.DAMAGED, "block"): "no good copy is left: look in the cluster's trash or a backup",
    (Verdict.DAMAGED_COPY, "block"): "remove the damaged copy; keep-balance makes a new one from the good ones",
    (Verdict.UNDER_REPLICATED, "block"): "keep-balance makes the copies that are missing",
    (Verdict.UNDER_REPLICATED, "key"): "send them to another storage, or ask for fewer copies",
}
_UNREACHABLE_STEP = (
    "they may be good; the reasons above name the permission, password, link or program that is missing here "
    "(riafs doctor SOURCE)"
)


def run(arguments: argparse.Namespace) -> int:
    """The subcommand: exit status 2 if something cannot be read, 64 if all can but copies are damaged or too few."""
    logging.getLogger("riafs").addHandler(logging.NullHandler())  # the report says it all
    named = named_source(arguments.source, arguments.given)
    plan = opening_plan(replace(named, manifest=manifest_on_input(named.source)))
    every = arguments.all_replicas or arguments.copies is not None
    with progress(arguments.verbosity) as display:
        request = Request(every, arguments.copies, arguments.jobs, counting=display.shown)
        report = trio.run(_check, replace(plan, verify=Verify.ALWAYS, believing=False), request, display)
        names = display.names
    if arguments.json:
        print_json(_json(report, names))
    else:
        _print(report, _Names(names))
    if report.nothing:
        complain(f"nothing was read, so nothing is known to be good: {arguments.source} shows no files, stores no keys")
    for path, reason in report.unlisted:
        complain(f"/{_shown(path)} cannot be listed: {reason}")
    return exit_status(report)


async def _check(plan: Plan, request: Request, display: Display) -> Report:
    async with open_assembled(plan, Counters(), {}) as assembled:
        root = assembled.root
        if isinstance(assembled.root, AliasDirectory):
            display.names = assembled.root.aliases()
            root = await assembled.root.by_id()  # where no dataset is missing and none comes twice
        return await check(root, request, display)


def exit_status(report: Report) -> int:
    """0, 2 or 64: see `run`."""
    if report.lost:
        return _LOST
    return _DEGRADED if any(finding.verdict in _DEGRADED_VERDICTS for finding in report.findings) else 0


class _Names:
    """The names of datasets and files in the report: by aliases where there are any."""

    def __init__(self, aliases: Mapping[str, str]) -> None:
        self._aliases = aliases

    def path(self, path: bytes) -> str:
        """A path below the source."""
        first, slash, rest = _shown(path).partition("/")
        return self._aliases.get(first, first) + slash + rest

    def dataset(self, identifier: bytes) -> str:
        """A dataset."""
        name = _shown(identifier)
        return self._aliases.get(name, name)


def _print(report: Report, names: _Names) -> None:
    """One line for the files of each key that is not good, one for each archive with such, sums, and what to do."""
    if report.findings:
        print_table(_TITLES, [_row(finding, names) for finding in _worst_first(report.findings)])
    for line in _archives(report, names):
        print(printable(line))
    counted = f"{report.parts} keys, blocks and git objects, {amount(report.size)}"
    sized = f" ({report.unverifiable} by size only, as they have no digest)" if report.unverifiable else ""
    others = Counter(finding.verdict for finding in report.findings)
    bad = "".join(f", {others[verdict]} {verdict.value}" for verdict in Verdict if others[verdict])
    print(f"{counted}: {report.good} good{sized}{bad}; {report.copies} usable copies read")
    for path, reason in report.empty:
        print(printable(f"/{names.path(path)} shows no files: {_one_line(reason)}"))
    for state, step in _steps(report):
        print(f"next, for what is {state}: {step}")


def _archives(report: Report, names: _Names) -> Iterator[str]:
    """A line for each archive in which something is not good."""
    for (dataset, place), tally in sorted(report.archives.items()):
        bad = [f"{count} {state.value}" for state, count in tally.states.items() if not state.usable]
        if not bad:
            continue
        good = sum(count for state, count in tally.states.items() if state.usable)
        met = tally.reasons.most_common(_REASONS)
        common = [_one_line(reason) for reason, count in met if count > 1 or len(met) == 1]
        why = f" ({'; '.join(common)})" if common else ""
        yield f"{names.dataset(dataset)}: {place}: {', '.join(bad)}, {good} good of the keys that were read in it{why}"


def _steps(report: Report) -> Iterator[tuple[str, str]]:
    """What to do next, for each kind of finding."""
    met = {(finding.verdict, finding.part.kind) for finding in report.findings}
    if any(verdict is Verdict.UNREACHABLE for verdict, _ in met):
        yield Verdict.UNREACHABLE.value, _UNREACHABLE_STEP
    for (verdict, kind), step in _STEPS.items():
        if (verdict, kind) in met:
            yield f"{verdict.value} ({kind}s)", step


def _worst_first(findings: Sequence[Finding]) -> list[Finding]:
    order = list(Verdict)
    return sorted(findings, key=lambda finding: (order.index(finding.verdict), finding.part.name))


def _row(finding: Finding, names: _Names) -> list[str]:
    return [
        finding.verdict.value,
        _files(finding, names),
        _shown(finding.part.name),
        "; ".join(_copies(finding)) or "none",
    ]


def _copies(finding: Finding) -> Iterator[str]:
    if finding.wanted is not None:
        yield f"{sum(copy.state.usable for copy in finding.copies)} of {finding.wanted} copies"
    for copy in finding.copies:
        # The path of a loose object says nothing more than its key.
        place = "loose object" if copy.place.startswith(_LOOSE) else copy.place
        why = f" ({_one_line(copy.problem)})" if copy.state is CopyState.UNREACHABLE else ""
        yield f"{place}: {copy.state.value}{why}"


def _files(finding: Finding, names: _Names) -> str:
    if not finding.users:
        return "(of other versions)"
    more = finding.users - 1
    others = "" if not more else f" and {more} other file{'s' if more > 1 else ''}"
    return names.path(finding.paths[0]) + others


def _json(report: Report, aliases: Mapping[str, str]) -> dict[str, Any]:
    return {
        "parts": report.parts,
        "bytes": report.size,
        "good": report.good,
        "size_only": report.unverifiable,
        "usable_copies": report.copies,
        "findings": [_finding(finding) for finding in _worst_first(report.findings)],
        "archives": [_tally(dataset, place, tally) for (dataset, place), tally in sorted(report.archives.items())],
        "aliases": dict(aliases),
        "next": [{"for": state, "step": step} for state, step in _steps(report)],
        "unlisted": [{"path": _shown(path), "reason": reason} for path, reason in report.unlisted],
        "empty": [{"path": _shown(path), "reason": reason} for path, reason in report.empty],
    }


def _tally(dataset: bytes, place: str, tally: ArchiveTally) -> dict[str, Any]:
    states = {state.value: count for state, count in tally.states.items()}
    reasons = [reason for reason, _ in tally.reasons.most_common(_REASONS)]
    return {"dataset": _shown(dataset), "place": place, "copies": states, "problems": reasons}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "state": finding.verdict.value,
        "kind": finding.part.kind,
        "name": _shown(finding.part.name),
        "size": finding.part.size,
        "wanted": finding.wanted,
        "copies": [_copy(copy) for copy in finding.copies],
        "files": [_shown(path) for path in finding.paths],
        "used_by": finding.users,
    }


def _copy(copy: Copy) -> dict[str, str]:
    return {"place": _shown(os.fsencode(copy.place)), "state": copy.state.value, "problem": copy.problem}


def _shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def _one_line(text: str) -> str:
    return " ".join(text.split())
