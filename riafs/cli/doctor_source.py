"""The checks of ``riafs doctor`` on a source: a RIA store or dataset, Keep's volumes and servers, a cluster.

Stores are opened as a mount opens them, in a child that is abandoned if the store does not answer.
"""

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any

import trio

from riafs.arvados.api import ApiServer, KeepService, fetch_services, named_services
from riafs.cli.render import Finding, counted
from riafs.counters import Counters
from riafs.daemon.credentials import ArvadosAccess, arvados_access, proxies
from riafs.daemon.fork_call import call_in_child
from riafs.daemon.opening import opening_plan
from riafs.daemon.plan import NamedSource
from riafs.errors import NotInStore, RiafsError, StoreTimeout
from riafs.formats.sources import STANDARD_INPUT, ArvadosUrl, RiaUrl
from riafs.storage.http import Http, HttpOptions, Request
from riafs.storage.protocol import Storage
from riafs.tree.protocol import Directory, Entry, Kind, VerifiableTop
from riafs.tree.store_root import AliasDirectory, StoreDirectory
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


def check_store(named: NamedSource) -> Iterator[Finding]:
    """Whether a RIA store or dataset can be read, and what is in it. Raises OSError, StoreTimeout."""
    assert isinstance(named.source, RiaUrl)
    plan = opening_plan(named)
    plan = replace(plan, cache=None, deadline=min(plan.deadline, _CALL_SECONDS))
    path = (
        os.fsdecode(named.source.path) if named.source.local else str(replace(named.source, alias=None, dataset=None))
    )
    answer: dict[str, Any] = call_in_child(lambda: _examine(path, plan), _STORE_SECONDS, path)
    found = _Found(**answer)
    if found.problem:
        yield Finding("fail", found.problem)
        return
    yield _layout_finding(path, found.layout) if named.source.local else Finding("ok", f"store {path} answers")
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
    names = f"{counted(found.datasets, 'dataset')}, {found.aliases} with an alias"
    yield Finding(state, f"{names}; {shown} can be shown")


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
    """Collects the messages of warnings, such as those of names that are left out."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._messages and len(self._messages) < _LISTED:
            self._messages.append(message)


def _examine(path: str, plan: Plan) -> dict[str, Any]:
    """The fields of a _Found. Raises OSError."""
    found = _Found()
    if plan.source.local:
        found.layout = _first_line(os.path.join(path, "ria-layout-version"))
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
            if isinstance(root, VerifiableTop):
                async with aclosing(root.stored_parts()) as parts:
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
        f"at its top files: {files}, directories: {len(entries) - files}{more}"
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


_KEEP_SECONDS = 8.0
_CLUSTER_SECONDS = 4.0
_COUNTED_FILES = 10_000
_SKEW_SECONDS = 30.0
_BLOCKS = re.compile("[0-9a-f]{3}")


def check_keep(named: NamedSource) -> Iterator[Finding]:
    """Whether a source of Keep can be read: each thing it is made of."""
    source, environment, token_file = named.source, named.environment, named.settings.token_file
    assert not isinstance(source, RiaUrl)
    access = arvados_access(environment, token_file, source.host if isinstance(source, ArvadosUrl) else None)
    if isinstance(source, ArvadosUrl) or source.scheme != "file":
        yield _check_token(access)
    if isinstance(source, ArvadosUrl):
        yield from trio.run(_Network(access, environment).check_cluster, source.host)
        return
    if source.scheme == "file":
        yield from (_check_volume(os.fsdecode(path)) for path in source.places)
    else:
        urls = [f"{source.scheme}://{host.decode()}/" for host in source.places]
        yield from trio.run(_Network(access, environment).check_servers, named_services(urls))
    if source.manifests != STANDARD_INPUT and source.manifest_locator is None:
        yield _check_manifests(os.fsdecode(source.manifests))


def _check_token(access: ArvadosAccess) -> Finding:
    if access.token is None:
        return Finding("warn", "there is no token", "set ARVADOS_API_TOKEN, token-file or arvados/settings.conf")
    return Finding("ok", "a token was found")


# -- this machine -----------------------------------------------------------------------------------------------------


def _check_volume(path: str) -> Finding:
    try:
        names = call_in_child(lambda: _names(path), _KEEP_SECONDS, path)
    except (RiafsError, OSError) as error:
        return Finding("fail", f"volume {path}: {_reason(error)}", "check the path; block files need keepstore's user")
    folders = [name for name in names if _BLOCKS.fullmatch(name)]
    if not folders:
        return Finding("warn", f"volume {path} has no blocks", "its root has directories of three hexadecimal digits")
    return Finding("ok", f"volume {path}, {len(folders)} directories of blocks")


def _check_manifests(path: str) -> Finding:
    try:
        names = call_in_child(lambda: _names(path) if os.path.isdir(path) else [path], _KEEP_SECONDS, path)
        readable = call_in_child(lambda: os.access(path, os.R_OK), _KEEP_SECONDS, path)
    except (RiafsError, OSError) as error:
        return Finding("fail", f"manifests {path}: {_reason(error)}", "check the path and its permissions")
    if not readable:
        return Finding("fail", f"manifests {path} may not be read by this user", "check the permissions")
    if not names:
        return Finding("warn", f"manifests {path}: there are none", "put NAME.manifest files there")
    more = " or more" if len(names) >= _COUNTED_FILES else ""
    return Finding("ok", f"manifests {path}, {len(names)}{more} files")


def _names(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for _, entry in zip(range(_COUNTED_FILES), entries, strict=False)]


def _reason(error: Exception) -> str:
    return error.strerror or "unknown error" if isinstance(error, OSError) else str(error)


# -- the network ------------------------------------------------------------------------------------------------------


class _Network:
    """Questions to servers, each with a short deadline."""

    def __init__(self, access: ArvadosAccess, environment: Mapping[str, str]) -> None:
        self._access = access
        self._environment = environment

    def _http(self) -> Http:
        authorities = self._environment.get("SSL_CERT_FILE") or None
        options = HttpOptions(_KEEP_SECONDS, self._access.insecure, authorities, proxies(self._environment))
        return Http(options, Counters())

    async def check_cluster(self, host: str) -> list[Finding]:
        """The API server, the token there, the clocks, and the block servers it lists."""
        http = self._http()
        api = ApiServer(host, http, self._access.token, _CLUSTER_SECONDS, Counters())
        try:
            found = await api.discovery()
            findings = [Finding("ok", f"cluster {found.cluster} at {host}"), await self._check_clock(http, host)]
        except RiafsError as error:
            return [Finding("fail", str(error), "check the host, the network and the certificate")]
        try:
            await api.get("users/current")
            named = self._access.keep_services
            services = named_services(named) if named else await fetch_services(api)
        except RiafsError as error:
            return [*findings, Finding("fail", str(error), "a token is shown by the cluster's web interface")]
        return [*findings, Finding("ok", "the token is accepted"), *await self.check_servers(services)]

    async def _check_clock(self, http: Http, host: str) -> Finding:
        """Permissions to read blocks end at a time of the servers' clocks."""
        answer = await http.ask(
            Request(f"time of {host}", f"https://{host}/discovery/v1/apis/arvados/v1/rest"), 1 << 24
        )
        try:
            skew = parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()
        except (KeyError, ValueError):
            return Finding("warn", f"{host} does not tell the time", "permissions may seem to end early or late")
        if abs(skew) > _SKEW_SECONDS:
            return Finding("warn", f"the clock of {host} differs by {skew:.0f} s", "set this machine's clock by NTP")
        return Finding("ok", f"the clock of {host} differs by less than {_SKEW_SECONDS:g} s")

    async def check_servers(self, services: list[KeepService]) -> list[Finding]:
        """Whether each of them answers at all."""
        http = self._http()
        return [await self._check_server(http, service) for service in services]

    @staticmethod
    async def _check_server(http: Http, service: KeepService) -> Finding:
        try:
            await http.ask(Request(f"block server {service.url}", service.url), 1 << 16)
        except RiafsError as error:
            return Finding("fail", str(error), "check the network between this machine and the server")
        return Finding("ok", f"block server {service.url} answers")
