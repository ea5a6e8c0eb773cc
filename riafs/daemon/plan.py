"""One mount that is about to be made: everything that was decided before its process starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from riafs.formats.sources import Source
from riafs.settings import Directories, Settings
from riafs.storage.temporary import SpilledText


@dataclass(frozen=True, slots=True)
class MountPlan:
    """What is mounted where, and how. All paths are absolute, so the working directory no longer matters."""

    source: Source
    mountpoint: str
    """A directory without symbolic links in its path, or ``/dev/fd/N`` for a FUSE device that is open already."""
    settings: Settings
    directories: Directories
    environment: Mapping[str, str]
    """As `riafs.settings.complete_environment` gives it."""
    instead_of: tuple[tuple[str, str], ...]
    """(base, prefix) of the user's ``url.<base>.insteadOf`` rules; already applied to `source`."""
    by_mount: bool = False
    """Whether mount(8) asks, for a line of /etc/fstab or a person."""
    manifest: SpilledText | None = field(default=None, repr=False)
    """The manifest that came on standard input, where `source` has its manifest from there."""
