"""How a source is opened with the settings of a mount; needs no kernel, so commands use it too."""

from collections.abc import Mapping

from riafs.cache.blocks import BlockLimits
from riafs.cache.blocks_eviction import DiskLimits
from riafs.content.verifying import Verify
from riafs.daemon.archivepassword import archive_password
from riafs.formats.riaurl import RiaUrl
from riafs.settings import Settings
from riafs.vfs import assembly


def opening_plan(
    source: RiaUrl, settings: Settings, environment: Mapping[str, str], rules: tuple[tuple[str, str], ...]
) -> assembly.Plan:
    """What `assembly` has to know. `rules`: the user's insteadOf rules, (base, prefix) each. Raises UsageError, …"""
    return assembly.Plan(
        source=source,
        deadline=settings.deadline,
        verify=Verify(settings.verify),
        cache=settings.cache_dir,
        search_path=environment["PATH"],
        blocks=block_limits(settings),
        dictionary=settings.archive_dictionary,
        password=archive_password(settings.archive_password_file, environment),
        instead_of=rules,
    )


def block_limits(settings: Settings) -> BlockLimits:
    """How much decoded content a mount keeps."""
    disk = DiskLimits(settings.cache_size, settings.cache_min_free)
    return BlockLimits(settings.block_size, settings.cache_memory, disk)
