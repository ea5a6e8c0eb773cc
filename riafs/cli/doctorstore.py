"""What ``riafs doctor`` says of RIA stores: of the dataset that the source names, or of each one in the store.

They are opened as a mount opens them, in a child that may be left behind where the store does not answer.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import trio

from riafs.cli.finding import Finding
from riafs.counters import Counters
from riafs.daemon.bounded import call_in_child
from riafs.daemon.opening import opening_plan
from riafs.errors import NotInStore, RiafsError, StoreTimeout
from riafs.formats.sources import RiaUrl
from riafs.git.user import instead_of_rules
from riafs.settings import load
from riafs.storage.protocol import Storage
from riafs.tree.divisible import Holding
from riafs.tree.protocol import Directory, Entry, Kind
from riafs.tree.storeroot import AliasDirectory, StoreDirectory
from riafs.vfs.assembly import Plan, open_assembled

_STORE_SECONDS = 8.0
_CALL_SECONDS = 5.0
_LOOKING_SECONDS = 6.0
_SHOWN = 10
_LISTED = 1000


@dataclass(slots=True)
class _Found:
    """What was found out of a store. `bad`: datasets that cannot be shown, with reasons."""

    layout: str | None = None
    problem: str = ""
    dataset: str = ""
    datasets: int = 0
    looked_at: int = 0
    empty: int = 0
    aliases: int = 0
    bad: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_store(source: RiaUrl, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the source can be read, and what is in it. Raises OSError, StoreTimeout."""
    settings = load(environment, ()).settings
    plan = opening_plan(source, settings, environment, tuple(instead_of_rules(environment)), None)
    plan = replace(plan, cache=None, deadline=min(plan.deadline, _CALL_SECONDS))
    path = os.fsdecode(source.path)
    answer: dict[str, Any] = call_in_child(lambda: _examine(path, plan), _STORE_SECONDS, path)
    found = _Found(**answer)
    if found.problem:
        yield Finding("fail", found.problem)
        return
    yield _layout_finding(path, found.layout)
    if found.dataset:
        yield Finding("ok", found.dataset)
    yield from (Finding("warn", each) for each in _some(found.warnings))
    if found.dataset:
        return
    yield from (Finding("fail", each, "riafs verify says more") for each in _some(found.bad))
    yield from _counts(path, found)


def _some(messages: list[str]) -> list[str]:
    more = len(messages) - _SHOWN
    return messages[:_SHOWN] + ([f"… and {more} more like these"] if more > 0 else [])


def _counts(path: str, found: _Found) -> Iterator[Finding]:
    if not found.datasets:
        yield Finding("fail", f"store {path} has no datasets", "a store's root has directories of three characters")
        return
    shown = found.looked_at - found.empty - len(found.bad)
    if found.looked_at < found.datasets:
        what = f"only {found.looked_at} of the datasets were looked at in {_LOOKING_SECONDS:g} s"
        yield Finding("warn", what, "riafs verify STORE looks at all")
    if found.empty:
        what = f"datasets without a commit or a git repository, shown empty: {found.empty}"
        yield Finding("warn", what, "push to them, or see riafs verify for what they store")
    state = "ok" if shown else "fail"
    yield Finding(state, f"{found.datasets} datasets, {found.aliases} aliases; {shown} can be shown")


def _layout_finding(path: str, layout: str | None) -> Finding:
    if layout is None:
        return Finding(
            "warn", f"store {path} has no ria-layout-version", "it is shown all the same; is it a RIA store?"
        )
    if layout.partition("|")[0] != "1":
        return Finding("warn", f"store {path} has the unknown layout version {layout}", "it is read as version 1")
    return Finding("ok", f"store {path}, layout version {layout}")


# -- in the child -----------------------------------------------------------------------------------------------------


class _Collecting(logging.Handler):
    """Keeps what the log says of names that are left out and the like."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """See logging."""
        message = record.getMessage()
        if message not in self._messages and len(self._messages) < _LISTED:
            self._messages.append(message)


def _examine(path: str, plan: Plan) -> dict[str, Any]:
    """The fields of a _Found. Raises OSError."""
    found = _Found(layout=_first_line(os.path.join(path, "ria-layout-version")))
    os.stat(path)
    log = logging.getLogger("riafs")
    log.propagate = False
    log.handlers = [_Collecting(found.warnings)]
    try:
        trio.run(_open, plan, found)
    except RiafsError as error:
        found.problem = str(error)
    # what is told of a dataset that cannot be shown is not told twice
    found.warnings = [each for each in found.warnings if " cannot be shown: " not in each]
    return asdict(found)


def _first_line(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline(100).strip()
    except FileNotFoundError:
        return None


async def _open(plan: Plan, found: _Found) -> None:
    async with open_assembled(plan, Counters(), {}) as assembled:
        root = assembled.root
        if isinstance(root, AliasDirectory):
            await _look_at_all(root, found)
        else:
            found.dataset = await _described(root)
            if isinstance(root, Holding):
                async with aclosing(root.held()) as parts:
                    async for _ in parts:
                        return
                found.warnings.append("it stores no content of annexed files")


async def _described(top: Directory) -> str:
    """One line about a dataset that can be shown. Raises what listing it raises."""
    entries = await top.entries(0)
    known = await top.own_attributes()
    at = f" at {os.fsdecode(known['ref'])}" if "ref" in known else ""
    commit = f", commit {os.fsdecode(known['commit'])[:12]}" if "commit" in known else ""
    files = sum(entry.kind is not Kind.DIRECTORY for entry in entries)
    more = " or more" if len(await top.entries(len(entries))) else ""
    return (
        f"dataset {os.fsdecode(known['dataset'])}{at}{commit}: "
        f"{files} files and {len(entries) - files} directories{more} at its top"
    )


async def _look_at_all(root: AliasDirectory, found: _Found) -> None:
    aliases = root.aliases()
    found.aliases = len(aliases)
    ids = await root.by_id()
    datasets: list[Entry] = []
    while piece := await ids.entries(len(datasets)):
        datasets += piece
    found.datasets = len(datasets)
    with trio.move_on_after(_LOOKING_SECONDS):
        for entry in datasets:
            await _look_at(ids, entry, aliases, found)


async def _look_at(ids: StoreDirectory, entry: Entry, aliases: Mapping[str, str], found: _Found) -> None:
    """Whether one dataset can be shown, and what it stores listed."""
    identifier = os.fsdecode(entry.name)
    alias = aliases.get(identifier)
    name = f"dataset {identifier}" + (f" (alias {alias})" if alias else "")
    try:
        directory = await ids.directory(entry)
        await directory.entries(0)
        dataset = await ids.dataset(entry)
        if dataset is not None:
            await _list_objects(dataset.storage, dataset.path + b"/annex/objects")
    except StoreTimeout:
        raise
    except RiafsError as problem:
        found.bad.append(f"{name} cannot be read: {problem}")
    else:
        found.empty += "error" in await directory.own_attributes()
    found.looked_at += 1


async def _list_objects(storage: Storage, path: bytes) -> None:
    """Raises what keeps a reader from finding objects there."""
    try:
        if storage.listing is not None:
            await storage.listing.list(path)
    except NotInStore:  # nothing is annexed, or all of it is in archives
        return
