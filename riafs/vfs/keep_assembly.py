"""Everything that a mount of Keep collections needs, put together: places of blocks, the API server, manifests."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

import trio

from riafs import memory
from riafs.arvados.api import ApiServer, KeepService, fetch_services, named_services
from riafs.content.keep_blocks import KeepBlocks, KeepTools
from riafs.errors import RiafsError, UsageError
from riafs.formats.composed import parse_composition
from riafs.formats.locators import Locator
from riafs.formats.sources import STANDARD_INPUT, ArvadosUrl, KeepUrl
from riafs.storage.deadline import THREADS_PER_STORE, Deadline
from riafs.storage.http import Http, HttpOptions
from riafs.storage.keep_places import BlockPlace, BlockPlaces, HintedPlaces, KeepVolume, Places
from riafs.storage.keep_servers import KeepServer, ServerTools
from riafs.storage.local import LocalStorage
from riafs.storage.manifests import GivenManifest, ManifestDirectory, Manifests
from riafs.storage.temporary import TEXT_PIECE, SpilledText
from riafs.tree.cluster_collections import ClusterCollections
from riafs.tree.cluster_root import ClusterRoot, open_cluster
from riafs.tree.collection import FolderCache
from riafs.tree.collection_opening import CollectionTools, Resolve
from riafs.tree.composed import ComposedDirectory
from riafs.tree.manifests_root import ManifestCollections, open_manifests
from riafs.tree.protocol import Directory
from riafs.vfs.keep_plan import KeepPlan, MountTools

log = logging.getLogger(__name__)

_FIRST_SECONDS = 4.0
"""How long an API server may take to answer anything at all, so that mounting fails with the reason."""
_PORTS = {"http": 80, "https": 443}
_MAX_COMPOSITION = 64 << 20
_MEMORY_SHARE = 4
"""Of what the control group allows: for whole blocks."""
_SERVICES_SECONDS = 300.0
"""How often a cluster is asked for its block servers."""


async def open_keep(source: KeepUrl | ArvadosUrl, plan: KeepPlan, means: MountTools) -> Directory:
    """What a mount of `source` shows. Raises SourceNotFound, StoreDenied, StoreTimeout, StoreError, MissingContent."""
    return await _Opening(plan, means).open(source)


class _Opening:
    """One source being opened."""

    def __init__(self, plan: KeepPlan, means: MountTools) -> None:
        self._plan = plan
        self._means = means
        options = HttpOptions(means.deadline, plan.insecure, plan.authorities, plan.proxies)
        self._http = Http(options, means.counters)
        means.closing.callback(self._http.close)
        self._server_tools = ServerTools(self._http, means.counters, plan.token, plan.per_server)

    async def open(self, source: KeepUrl | ArvadosUrl) -> Directory:
        if isinstance(source, ArvadosUrl):
            api = ApiServer(source.host, self._http, self._plan.token, self._means.deadline, self._means.counters)
            at_first = replace(api, seconds=min(api.seconds, _FIRST_SECONDS))
            discovery = await at_first.discovery()
            blocks = self._blocks(await self._cluster_places(api, at_first))
            tools = self._collection_tools(blocks, discovery.replication)
            root = ClusterRoot(ClusterCollections(api, tools, await at_first.slash_substitute()))
            if source.tree is not None:
                return await self._composed(source.tree, root.resolve)
            return await open_cluster(root, source.identifier)
        blocks = self._blocks(await self._named_places(source))
        manifests = await self._manifests(source, blocks)
        self._means.closing.callback(manifests.close)
        kept = ManifestCollections(manifests, self._collection_tools(blocks))
        shown = await open_manifests(kept, source.collection)
        return shown if source.tree is None else await self._composed(source.tree, kept.resolve)

    async def _composed(self, path: bytes, resolve: Resolve) -> Directory:
        """The tree that a file describes. Raises MalformedComposition, and as `open_keep`."""
        directory, name = os.path.split(path)
        storage, _ = await self._directory("composed tree", directory)
        text = await storage.read_file(name, _MAX_COMPOSITION)
        status = await storage.stat(name)
        storage.close()
        return ComposedDirectory(await trio.to_thread.run_sync(parse_composition, text), resolve, status.mtime_ns)

    async def _directory(
        self, what: str, path: bytes, threads: int = THREADS_PER_STORE
    ) -> tuple[LocalStorage, Deadline]:
        """Raises SourceNotFound, StoreDenied, StoreTimeout, StoreError."""
        deadline = Deadline(f"{what} {os.fsdecode(path)}", self._means.deadline, self._means.counters, threads)
        try:
            return await LocalStorage.open_root(path, deadline), deadline
        except RiafsError as error:
            raise type(error)(f"{what} {error}") from error

    def _blocks(self, places: BlockPlaces) -> KeepBlocks:
        means = self._means
        return KeepBlocks(
            KeepTools(
                places=places,
                cache=means.cache,
                verified=means.verified,
                counters=means.counters,
                background=means.background,
                deadline=means.deadline,
                memory=memory.share(self._plan.memory, _MEMORY_SHARE),
            )
        )

    def _collection_tools(self, blocks: KeepBlocks, replication: int | None = None) -> CollectionTools:
        means = self._means
        folders = FolderCache(means.counters)
        return CollectionTools(blocks, means.counters, self._plan.lenient, folders, means.scratch, replication)

    # -- places -------------------------------------------------------------------------------------------------------

    async def _named_places(self, source: KeepUrl) -> BlockPlaces:
        if source.scheme == "file":
            return self._hinted(Places(await self._volumes(source.places), {}), {})
        urls = [f"{source.scheme}://{host.decode('ascii')}/" for host in source.places]
        self._look_at(urls)
        return self._hinted(Places([], self._servers(named_services(urls))), {})

    async def _volumes(self, paths: Sequence[bytes]) -> list[KeepVolume]:
        """Those that can be opened; what they lack the others may have. Raises why the last one cannot if none can."""
        found, problem = [], None
        for path in paths:
            try:
                found.append(await self._volume(path))
            except RiafsError as error:
                if len(paths) > 1:
                    log.warning("%s; the mount does without it", error)
                problem = error
        if problem is not None and not found:
            raise problem
        return found

    async def _volume(self, path: bytes) -> KeepVolume:
        threads = self._plan.per_volume or THREADS_PER_STORE
        storage, deadline = await self._directory("volume", path, threads)
        self._means.closing.callback(storage.close)
        return KeepVolume(storage, deadline)

    async def _cluster_places(self, api: ApiServer, at_first: ApiServer) -> BlockPlaces:
        if self._plan.services:
            return self._hinted(Places([], self._servers(named_services(self._plan.services))), {})
        services = await fetch_services(at_first)
        self._look_at([each.url for each in services if not each.kind.startswith("gateway")])

        async def refresh() -> None:
            places.replace(self._servers(await fetch_services(api)))

        places = Places([], self._servers(services), refresh)
        self._means.background.keep_running(_refresh_regularly, places)
        return self._hinted(places, self._servers(services, gateways=True))

    def _look_at(self, urls: Sequence[str]) -> None:
        """Have it logged if no block server can be reached; nobody waits for that."""
        if not self._plan.proxies:
            self._means.background.start_soon(_log_if_dead, urls)

    def _servers(self, services: list[KeepService], *, gateways: bool = False) -> dict[bytes, BlockPlace]:
        chosen = [each for each in services if each.kind.startswith("gateway") is gateways]
        return {service.uuid: KeepServer(service.url, self._server_tools) for service in chosen}

    def _hinted(self, places: BlockPlaces, gateways: Mapping[bytes, BlockPlace]) -> BlockPlaces:
        if not self._plan.follow_hints:
            return places
        return HintedPlaces(places, gateways, lambda url: KeepServer(url, self._server_tools))

    # -- manifests ----------------------------------------------------------------------------------------------------

    async def _manifests(self, source: KeepUrl, blocks: KeepBlocks) -> Manifests:
        locator = source.manifest_locator
        if locator is not None:
            text = SpilledText(self._means.scratch, "a manifest of Keep")
            for start in range(0, locator.size, TEXT_PIECE):
                text.append(bytes(await blocks.read(locator, start, TEXT_PIECE, _no_renewal)))
            return GivenManifest(locator.unsigned, text)
        if source.manifests == STANDARD_INPUT:
            if self._plan.manifest is None:
                raise UsageError("manifests=- takes a manifest from standard input, and there is none here")
            return GivenManifest(b"stdin", self._plan.manifest)
        return await self._manifest_files(source.manifests)

    async def _manifest_files(self, path: bytes) -> ManifestDirectory:
        deadline = Deadline(f"manifests {os.fsdecode(path)}", self._means.deadline, self._means.counters)
        if not await deadline.run(os.path.isfile, path):
            return ManifestDirectory((await self._directory("manifests", path))[0])
        directory, name = os.path.split(await deadline.run(os.path.realpath, path))
        return ManifestDirectory((await self._directory("manifests", directory))[0], name)


async def _refresh_regularly(places: BlockPlaces) -> None:
    while True:
        await trio.sleep(_SERVICES_SECONDS)
        try:
            await places.refresh()
        except RiafsError as error:
            log.info("the list of block servers stays as it is: %s", error)


async def _log_if_dead(urls: Sequence[str]) -> None:
    silent: list[str] = []

    async def look(url: str) -> None:
        parts = urlsplit(url)
        try:
            with trio.fail_after(_FIRST_SECONDS):
                stream = await trio.open_tcp_stream(parts.hostname or "", parts.port or _PORTS[parts.scheme])
                await trio.aclose_forcefully(stream)
        except (OSError, trio.TooSlowError):
            silent.append(parts.netloc.rpartition("@")[2])

    async with trio.open_nursery() as nursery:
        for url in urls:
            nursery.start_soon(look, url)
    if urls and len(silent) == len(urls):
        log.error("no block server can be reached, so no file can be read for now: %s", ", ".join(sorted(silent)[:6]))


async def _no_renewal(_locator: Locator) -> Locator | None:
    return None
