"""``riafs verify``: read everything a source holds, and report what is damaged, missing, or too seldom there.

Nothing is changed in the store, and nothing that was remembered or cached is believed. What is under-replicated,
damaged beside a good copy, or over-replicated is reported; only what readers cannot have, and what has too few good
copies, makes the exit status.
"""

import argparse
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import trio

from riafs.checking.checking import Request, check
from riafs.checking.opening import starting_point
from riafs.checking.report import Finding, Report, Verdict
from riafs.cli.main import complain
from riafs.cli.mount import absolute_source, manifest_on_input
from riafs.cli.progress import Display, progress
from riafs.cli.render import amount, print_json, print_table
from riafs.content.parts import Copy
from riafs.content.verifying import Verify
from riafs.counters import Counters
from riafs.daemon.opening import opening_plan
from riafs.git.config import instead_of_rules
from riafs.settings import complete_environment, load
from riafs.tree.storeroot import AliasDirectory
from riafs.vfs.assembly import Plan, open_assembled

_LOST, _DEGRADED = 2, 64
_DEGRADED_VERDICTS = (Verdict.DAMAGED_COPY, Verdict.UNDER_REPLICATED)
_TITLES = ("STATE", "KIND", "NAME", "COPIES", "FILES")


def run(arguments: argparse.Namespace) -> int:
    """The subcommand: exit status 2 if something cannot be read, 64 if all can but copies are damaged or too few."""
    logging.getLogger("riafs").addHandler(logging.NullHandler())  # the report says it all
    environment = complete_environment()
    rules = tuple(instead_of_rules(environment))
    settings = load(environment, arguments.given).settings
    source = absolute_source(arguments.source, rules)
    plan = opening_plan(source, settings, environment, rules, manifest_on_input(source))
    every = arguments.all_replicas or arguments.copies is not None
    with progress(arguments.verbosity) as display:
        request = Request(every, arguments.copies, arguments.jobs, counting=display.shown)
        report = trio.run(_check, replace(plan, verify=Verify.ALWAYS, believing=False), request, display)
    if arguments.json:
        print_json(_json(report))
    else:
        _print(report)
    for path, reason in report.unlisted:
        complain(f"/{_shown(path)} cannot be listed: {reason}")
    return exit_status(report)


async def _check(plan: Plan, request: Request, display: Display) -> Report:
    async with open_assembled(plan, Counters(), {}) as assembled:
        if isinstance(assembled.root, AliasDirectory):
            display.names = assembled.root.aliases()
        return await check(await starting_point(assembled.root), request, display)


def exit_status(report: Report) -> int:
    """0, 2 or 64: see `run`."""
    if report.lost:
        return _LOST
    return _DEGRADED if any(finding.verdict in _DEGRADED_VERDICTS for finding in report.findings) else 0


def _print(report: Report) -> None:
    if report.findings:
        print_table(_TITLES, [_row(finding) for finding in _worst_first(report.findings)])
    counted = f"{report.parts} keys, blocks and git objects, {amount(report.size)}"
    sized = f" ({report.unverifiable} by size only, as they have no digest)" if report.unverifiable else ""
    others = Counter(finding.verdict for finding in report.findings)
    bad = "".join(f", {others[verdict]} {verdict.value}" for verdict in Verdict if others[verdict])
    print(f"{counted}: {report.good} good{sized}{bad}; {report.copies} usable copies read")
    for path, reason in report.empty:
        print(f"/{_shown(path)} is empty: {_one_line(reason)}")


def _worst_first(findings: Sequence[Finding]) -> list[Finding]:
    order = list(Verdict)
    return sorted(findings, key=lambda finding: (order.index(finding.verdict), finding.part.name))


def _row(finding: Finding) -> list[str]:
    return [
        finding.verdict.value,
        finding.part.kind,
        _shown(finding.part.name),
        "; ".join(_copies(finding)) or "none",
        _files(finding),
    ]


def _copies(finding: Finding) -> Iterator[str]:
    if finding.wanted is not None:
        yield f"{sum(copy.state.usable for copy in finding.copies)} of {finding.wanted}"
    for copy in finding.copies:
        yield f"{copy.place}: {copy.state.value}"


def _files(finding: Finding) -> str:
    if not finding.users:
        return "(of other versions)"
    more = finding.users - len(finding.paths)
    return ", ".join(map(_shown, finding.paths)) + (f" and {more} more" if more else "")


def _json(report: Report) -> dict[str, Any]:
    return {
        "parts": report.parts,
        "bytes": report.size,
        "good": report.good,
        "size_only": report.unverifiable,
        "usable_copies": report.copies,
        "findings": [_finding(finding) for finding in _worst_first(report.findings)],
        "unlisted": [{"path": _shown(path), "reason": reason} for path, reason in report.unlisted],
        "empty": [{"path": _shown(path), "reason": reason} for path, reason in report.empty],
    }


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
