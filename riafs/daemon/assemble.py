"""Putting a mount together: from a plan to something that can be served.

The only place that knows which parts a mount is made of; everything above sees a Servable, everything below is given
what it needs. Imports pyfuse3, so it is imported in the mount's own process only.
"""

import json
from collections.abc import Callable, Mapping

import trio

from riafs.cache.blocks import BlockLimits
from riafs.cache.blocks_eviction import DiskLimits
from riafs.content.verifying import Verify
from riafs.counters import Counters
from riafs.daemon.archivepassword import archive_password
from riafs.daemon.arvadosaccess import arvados_access, proxies
from riafs.daemon.logs import RecentErrors
from riafs.daemon.plan import MountPlan
from riafs.daemon.servable import Servable
from riafs.formats.keepurl import ArvadosUrl
from riafs.formats.riaurl import RiaUrl
from riafs.fuse.presentation import Presentation
from riafs.fuse.session import KernelOptions, Session
from riafs.settings import show_settings
from riafs.vfs import assembly
from riafs.vfs.keepplan import KeepPlan


async def assemble(plan: MountPlan, counters: Counters, recent: RecentErrors, background: trio.Nursery) -> Servable:
    """Open the plan's source; `background` runs what has to go on beside readers, until it is cancelled.

    Raises SourceNotFound, NoSuchVersion, StoreDenied, StoreTimeout, StoreError, MissingProgram, …
    """
    settings = plan.settings
    inner = assembly.Plan(
        source=plan.source,
        deadline=settings.deadline,
        verify=Verify(settings.verify),
        cache=settings.cache_dir,
        search_path=plan.environment["PATH"],
        blocks=block_limits(plan),
        dictionary=settings.archive_dictionary,
        password=archive_password(settings.archive_password_file, plan.environment),
        instead_of=plan.instead_of,
        keep=keep_plan(plan),
    )
    assembled = await assembly.assemble(inner, counters, background, _virtual(plan, counters, recent))
    return _Mount(Session(assembled.filesystem, kernel_options(plan), presentation(plan)), assembled)


def block_limits(plan: MountPlan) -> BlockLimits:
    """How much decoded content the plan's settings let a mount keep."""
    settings = plan.settings
    disk = DiskLimits(settings.cache_size, settings.cache_min_free)
    return BlockLimits(settings.block_size, settings.cache_memory, disk)


def keep_plan(plan: MountPlan) -> KeepPlan:
    """How the plan's settings and environment let Keep be used. Raises UsageError for a token file of others."""
    if isinstance(plan.source, RiaUrl):
        return KeepPlan()
    settings, host = plan.settings, plan.source.host if isinstance(plan.source, ArvadosUrl) else None
    access = arvados_access(plan.environment, settings.token_file, host)
    return KeepPlan(
        token=access.token,
        insecure=access.insecure,
        services=access.keep_services,
        proxies=proxies(plan.environment),
        authorities=plan.environment.get("SSL_CERT_FILE") or None,
        per_server=settings.per_server,
        per_volume=settings.per_volume,
        memory=settings.keep_memory,
        lenient=settings.lenient_manifests,
        follow_hints=settings.follow_k_hints,
        manifest=plan.manifest,
    )


def kernel_options(plan: MountPlan) -> KernelOptions:
    """How the plan's settings ask the kernel to mount."""
    settings = plan.settings
    return KernelOptions(
        mountpoint=plan.mountpoint,
        fsname=str(plan.source),
        allow_other=settings.allow_other,
        allow_root=settings.allow_root,
        auto_unmount=settings.auto_unmount,
        noexec=settings.noexec,
    )


def presentation(plan: MountPlan) -> Presentation:
    """How the plan's settings want entries to look."""
    settings = plan.settings
    return Presentation(settings.uid, settings.gid, settings.file_mode, settings.dir_mode, settings.refresh)


def _virtual(plan: MountPlan, counters: Counters, recent: RecentErrors) -> Mapping[bytes, Callable[[], str]]:
    """``.riafs``: lines of ``name value``, the last errors, and the settings as they could stand in a config.toml."""

    def stats() -> str:
        return "".join(f"{name} {count}\n" for name, count in counters.as_dict().items())

    def errors() -> str:
        return "".join(f"{line}\n" for line in recent.lines())

    def config() -> str:
        return "".join(f"{name} = {json.dumps(text)}\n" for name, text in show_settings(plan.settings).items())

    return {b"stats": stats, b"errors": errors, b"config": config}


class _Mount:
    """A Session with what has to be given back after it."""

    def __init__(self, session: Session, assembled: assembly.Assembled) -> None:
        self.serve = session.serve
        self.refresh = session.refresh
        self.close = assembled.close
