"""How a mount uses Keep, and what it gives to whatever its source is.

Apart from what uses HTTP, which takes a fifth of a mount's start-up time: mounts of RIA stores do without.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from riafs.cache.blocks import BlockCache
from riafs.cache.verified import VerifiedMemory
from riafs.counters import Counters
from riafs.storage.temporary import SpilledText
from riafs.tasks import Background


@dataclass(frozen=True, slots=True)
class KeepPlan:
    """How Keep is used. Sizes in bytes."""

    token: str | None = field(default=None, repr=False)
    insecure: bool = False
    """Whether certificates are not checked."""
    services: tuple[str, ...] = ()
    """URLs of block servers to use instead of those that the cluster lists."""
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    """See HttpOptions."""
    authorities: str | None = None
    """See HttpOptions."""
    per_server: int = 4
    per_volume: int = 0
    """Blocks read at a time from one volume; 0 for no limit."""
    memory: int = 256 << 20
    lenient: bool = False
    follow_hints: bool = False
    manifest: SpilledText | None = field(default=None, repr=False)
    """The text that came on standard input."""


@dataclass(frozen=True, slots=True)
class MountTools:
    """What every mount has, whatever its source. `closing` gives back what is opened."""

    verified: VerifiedMemory
    cache: BlockCache
    counters: Counters
    background: Background
    deadline: float
    closing: ExitStack
    scratch: bytes
    """Directory for temporary files."""
