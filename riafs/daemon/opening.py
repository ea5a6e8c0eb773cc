"""From a named source to what opens it, for mounts and for commands."""

import os
import shlex

from riafs.cache.blocks import BlockLimits
from riafs.cache.eviction import DiskLimits
from riafs.content.verifying import Verify
from riafs.daemon.credentials import archive_password, arvados_access, proxies
from riafs.daemon.plan import NamedSource
from riafs.formats.sources import ArvadosUrl, RiaUrl
from riafs.settings import Settings
from riafs.storage.ssh import SshOptions
from riafs.tree.tools import CommandSettings
from riafs.vfs import assembly
from riafs.vfs.assembly import find_git
from riafs.vfs.keep_plan import KeepPlan


def opening_plan(named: NamedSource) -> assembly.Plan:
    """The plan to open a source by. Raises UsageError for a file with a secret that others may read, …"""
    settings, environment = named.settings, named.environment
    return assembly.Plan(
        source=named.source,
        deadline=settings.deadline,
        verify=Verify(settings.verify),
        checkout=settings.checkout,
        dated_by_change=settings.times == "changed",
        cache=settings.cache_dir,
        search_path=environment["PATH"],
        blocks=block_limits(settings),
        dictionary=settings.archive_dictionary,
        password=archive_password(settings.archive_password_file, environment),
        instead_of=named.instead_of,
        allow_links=tuple(map(os.fsencode, settings.allow_links)),
        keep=_keep_plan(named),
        ssh=SshOptions(tuple(shlex.split(settings.ssh_command))),
        environment=environment,
    )


def _keep_plan(named: NamedSource) -> KeepPlan:
    source, settings, environment = named.source, named.settings, named.environment
    if isinstance(source, RiaUrl):
        return KeepPlan()
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
        manifest=named.manifest,
    )


def command_settings(named: NamedSource) -> CommandSettings:
    """What a command that changes a store needs of this machine. Raises MissingProgram."""
    settings, search_path = named.settings, named.environment["PATH"]
    allowed = tuple(map(os.fsencode, settings.allow_links))
    return CommandSettings(find_git(search_path), search_path, settings.deadline, settings.cache_dir, allowed)


def block_limits(settings: Settings) -> BlockLimits:
    """How much decoded content a mount keeps."""
    disk = DiskLimits(settings.cache_size, settings.cache_min_free)
    return BlockLimits(settings.block_size, settings.cache_memory, disk)
