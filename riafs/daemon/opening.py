"""How a source is opened with the settings of a mount; needs no kernel, so commands use it too."""

import os
from collections.abc import Mapping

from riafs.cache.blocks import BlockLimits
from riafs.cache.eviction import DiskLimits
from riafs.content.verifying import Verify
from riafs.daemon.credentials import archive_password, arvados_access, proxies
from riafs.formats.sources import ArvadosUrl, KeepUrl, RiaUrl, Source
from riafs.settings import Settings
from riafs.storage.temporary import SpilledText
from riafs.vfs import assembly
from riafs.vfs.keep_plan import KeepPlan


def opening_plan(
    source: Source,
    settings: Settings,
    environment: Mapping[str, str],
    rules: tuple[tuple[str, str], ...],
    manifest: SpilledText | None,
) -> assembly.Plan:
    """What `assembly` has to know. `rules`: the user's insteadOf rules, (base, prefix) each. `manifest`: what came on
    standard input, if the source asks for it. Raises UsageError for a file with a secret that others may read, …
    """
    return assembly.Plan(
        source=source,
        deadline=settings.deadline,
        verify=Verify(settings.verify),
        checkout=settings.checkout,
        dated_by_change=settings.times == "changed",
        cache=settings.cache_dir,
        search_path=environment["PATH"],
        blocks=block_limits(settings),
        dictionary=settings.archive_dictionary,
        password=archive_password(settings.archive_password_file, environment),
        instead_of=rules,
        allow_links=tuple(map(os.fsencode, settings.allow_links)),
        keep=KeepPlan() if isinstance(source, RiaUrl) else _keep_plan(source, settings, environment, manifest),
    )


def _keep_plan(
    source: KeepUrl | ArvadosUrl, settings: Settings, environment: Mapping[str, str], manifest: SpilledText | None
) -> KeepPlan:
    host = source.host if isinstance(source, ArvadosUrl) else None
    access = arvados_access(environment, settings.token_file, host)
    return KeepPlan(
        token=access.token,
        insecure=access.insecure,
        services=access.keep_services,
        proxies=proxies(environment),
        authorities=environment.get("SSL_CERT_FILE") or None,
        per_server=settings.per_server,
        per_volume=settings.per_volume,
        memory=settings.keep_memory,
        lenient=settings.lenient_manifests,
        follow_hints=settings.follow_k_hints,
        manifest=manifest,
    )


def block_limits(settings: Settings) -> BlockLimits:
    """How much decoded content a mount keeps."""
    disk = DiskLimits(settings.cache_size, settings.cache_min_free)
    return BlockLimits(settings.block_size, settings.cache_memory, disk)
