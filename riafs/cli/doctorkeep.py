"""What ``riafs doctor`` says of sources of Keep: volumes, block servers, manifests, the API server and the token."""

import os
import re
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime

import trio

from riafs.arvados.api import ApiServer
from riafs.arvados.services import KeepService, fetch_services, named_services
from riafs.cli.finding import Finding
from riafs.counters import Counters
from riafs.daemon.credentials import ArvadosAccess, arvados_access, proxies
from riafs.daemon.fork_call import call_in_child
from riafs.errors import RiafsError
from riafs.formats.sources import STANDARD_INPUT, ArvadosUrl, KeepUrl
from riafs.settings import load
from riafs.storage.http import Http, HttpOptions, Request

_SECONDS = 8.0
_CLUSTER_SECONDS = 4.0
_COUNTED = 10_000
_SKEW_SECONDS = 30.0
_BLOCKS = re.compile("[0-9a-f]{3}")


def check_keep(source: KeepUrl | ArvadosUrl, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the source can be read: each thing it is made of."""
    token_file = load(environment, ()).settings.token_file
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
        names = call_in_child(lambda: _names(path), _SECONDS, path)
    except (RiafsError, OSError) as error:
        return Finding("fail", f"volume {path}: {_reason(error)}", "check the path; block files need keepstore's user")
    folders = [name for name in names if _BLOCKS.fullmatch(name)]
    if not folders:
        return Finding("warn", f"volume {path} has no blocks", "its root has directories of three hexadecimal digits")
    return Finding("ok", f"volume {path}, {len(folders)} directories of blocks")


def _check_manifests(path: str) -> Finding:
    try:
        names = call_in_child(lambda: _names(path) if os.path.isdir(path) else [path], _SECONDS, path)
        readable = call_in_child(lambda: os.access(path, os.R_OK), _SECONDS, path)
    except (RiafsError, OSError) as error:
        return Finding("fail", f"manifests {path}: {_reason(error)}", "check the path and its permissions")
    if not readable:
        return Finding("fail", f"manifests {path} may not be read by this user", "check the permissions")
    if not names:
        return Finding("warn", f"manifests {path}: there are none", "put NAME.manifest files there")
    more = " or more" if len(names) >= _COUNTED else ""
    return Finding("ok", f"manifests {path}, {len(names)}{more} files")


def _names(path: str) -> list[str]:
    with os.scandir(path) as entries:
        return [entry.name for _, entry in zip(range(_COUNTED), entries, strict=False)]


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
        options = HttpOptions(_SECONDS, self._access.insecure, authorities, proxies(self._environment))
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
