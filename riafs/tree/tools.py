"""What stores are opened with: what all stores of a mount share, and the same for a command that works without a mount.

Such a command (packing, pushing) remembers nothing from one run to the next, and verifies all that it reads: what
it checks must come out of the store, and from nowhere else.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from riafs.archive.archive import ArchiveTools
from riafs.archive.extractor import Extractor
from riafs.cache.blocks import BlockCache, BlockLimits
from riafs.cache.verified import VerifiedMemory
from riafs.content.annex import ContentTools
from riafs.content.openpgp import Decryptor
from riafs.content.verifying import Verifier, Verify
from riafs.counters import Counters
from riafs.formats.sevenzip.cursor import Limits
from riafs.git.catfile import GitPool
from riafs.git.environment import PrivateGitDirs
from riafs.git.object_source import RepositoryMirror
from riafs.storage.deadline import Deadline
from riafs.storage.temporary import Scratch
from riafs.tasks import Background, ungrouped
from riafs.tree.checkout import Checkouts
from riafs.tree.listing import ListingCache
from riafs.tree.remote import RemoteStores
from riafs.tree.times import LastChanges, Times

_DECODING_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class StoreTools:
    """What all stores of a mount share."""

    git: GitPool
    content: ContentTools
    listings: ListingCache
    counters: Counters
    seconds: float
    """Deadline of a request to the store."""
    instead_of: tuple[tuple[str, str], ...]
    """The user's ``url.<base>.insteadOf`` rules: (base, prefix) each."""
    allow_links: tuple[bytes, ...] = ()
    """Directories outside of stores that links in stores may lead into."""
    times: Times = field(default_factory=Times)
    """Those that are not the commits'."""
    checkouts: Checkouts | None = None
    """For files as a checkout has them; None for files as they are in the commit."""
    changes: LastChanges | None = None
    """For files with the times of their last changes; None for those of the commit."""
    mirror: RepositoryMirror | None = None
    """Of the store, if it is no directory of this machine."""
    remote: RemoteStores | None = None
    """Opens stores on other machines; None where they cannot be used."""


@dataclass(frozen=True, slots=True)
class CommandSettings:
    """What such a command needs of this machine. `git`: the program; `search_path`: where programs are found."""

    git: str
    search_path: str
    deadline: float
    """Seconds that a request to the store may take."""
    scratch_in: str | None
    """Directory of this user alone for temporary files."""
    allow_links: tuple[bytes, ...] = ()
    """Directories outside of a store that links in it may lead into."""


@asynccontextmanager
async def working_tools(settings: CommandSettings) -> AsyncIterator[StoreTools]:
    """The tools to open stores with; closed and removed at the end."""
    with ungrouped():
        async with trio.open_nursery() as nursery:
            scratch = Scratch(settings.scratch_in)
            gits = PrivateGitDirs(settings.git, settings.search_path, os.fsencode(scratch.path))
            git = GitPool(gits, settings.deadline, Counters())
            try:
                yield _tools(settings, os.fsencode(scratch.path), git, Background(nursery))
            finally:
                git.close()
                scratch.close()
                nursery.cancel_scope.cancel()


def _tools(settings: CommandSettings, scratch: bytes, git: GitPool, background: Background) -> StoreTools:
    counters = Counters()
    search_path = [os.fsencode(directory) for directory in settings.search_path.split(":")]
    deadline = Deadline("the store", settings.deadline, counters)
    verifier = Verifier(Verify.ALWAYS, VerifiedMemory(None), counters, deadline, background)
    blocks = BlockCache(None, BlockLimits(), counters)
    archives = ArchiveTools(Limits(), Extractor(search_path, scratch, _DECODING_SECONDS), blocks)
    content = ContentTools(verifier, archives, Decryptor(settings.search_path, scratch, settings.deadline))
    return StoreTools(git, content, ListingCache(), counters, settings.deadline, (), settings.allow_links)
