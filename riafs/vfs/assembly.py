"""A FileSystem and all that works behind it, put together: what a mount, a test or a program opens.

Everything of a mount is made here and given back here: private GIT_DIRs, git children, scratch directory, memory of
what was verified, background tasks.
"""

import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio

from riafs.archive.archive import ArchiveTools
from riafs.archive.blocks import Digests
from riafs.archive.extractor import Extractor
from riafs.archive.index import INDEX_DIRECTORY, IndexDirectory
from riafs.cache.blocks import BlockCache, BlockLimits
from riafs.cache.disk import TemporaryBlocks
from riafs.cache.known_versions import KnownVersions
from riafs.cache.last_changes import DIRECTORY as TIMES_DIRECTORY
from riafs.cache.verified import VerifiedMemory
from riafs.content.annex import ContentTools
from riafs.content.openpgp import Decryptor
from riafs.content.verifying import Verifier, Verify
from riafs.counters import Counters
from riafs.errors import MissingProgram, StoreDenied
from riafs.formats.sevenzip.cursor import Limits
from riafs.formats.sources import RiaUrl, Source
from riafs.git.catfile import GitPool
from riafs.git.environment import PrivateGitDirs
from riafs.git.mirror import GitAccess
from riafs.storage.deadline import Deadline
from riafs.storage.ssh import SshOptions
from riafs.storage.temporary import Scratch, private_directory
from riafs.tasks import Background, ungrouped
from riafs.tree import directories as virtual
from riafs.tree import versions
from riafs.tree.checkout import Checkouts
from riafs.tree.listing import ListingCache
from riafs.tree.protocol import Directory
from riafs.tree.remote import RemoteStores
from riafs.tree.source import open_source
from riafs.tree.times import LastChanges, Times
from riafs.tree.tools import StoreTools
from riafs.vfs.filesystem import FileSystem
from riafs.vfs.keep_plan import KeepPlan, MountTools

log = logging.getLogger(__name__)

_DIGESTS = {Verify.AUTO: Digests.BESIDE, Verify.ALWAYS: Digests.BEFORE, Verify.NEVER: Digests.NONE}
_HASHING_THREADS = 4
_DECODING_SECONDS = 600.0
"""Patience with one archive member that has to be decoded; next to it the deadline of a request to the store counts."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to open and how."""

    source: Source
    deadline: float
    """Seconds that a request to the store may take."""
    verify: Verify
    cache: str | None
    """Directory of this user alone for what is kept across mounts and for temporary files; None keeps nothing."""
    search_path: str
    """Where programs (git, 7z, gpg) are found, directories separated by ``:``."""
    instead_of: tuple[tuple[str, str], ...] = ()
    """The user's ``url.<base>.insteadOf`` rules: (base, prefix) each."""
    allow_links: tuple[bytes, ...] = ()
    """Directories outside of a store that links in it may lead into."""
    blocks: BlockLimits = field(default_factory=BlockLimits)
    """How much decoded content is kept."""
    dictionary: int = Limits().dictionary
    """Bytes of memory that the decoder of an archive's member may ask for."""
    password: str | None = field(default=None, repr=False)
    """Of encrypted archives."""
    checkout: bool = False
    """Whether files that git keeps are shown as a checkout has them."""
    dated_by_change: bool = False
    """Whether a file has the time of the commit that changed it last, not of the one that is shown."""
    ssh: SshOptions = field(default_factory=SshOptions)
    """For stores behind ``ria+ssh``."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The user's, for ssh."""
    keep: KeepPlan = field(default_factory=KeepPlan)
    """For sources of Keep."""
    believing: bool = True
    """Whether what was verified or decoded before is believed; if not, every byte comes out of the store again, and a
    dataset that shows nothing is opened for what it stores."""


class Assembled:
    """A filesystem with what has to be given back after it."""

    def __init__(
        self, root: Directory, filesystem: FileSystem, closing: ExitStack, git: GitPool | None, times: Times
    ) -> None:
        self.root = root
        self.times = times
        """What says which times of a store's files are not the commits'."""
        self.git = git
        """What reads a store's git objects."""
        self.filesystem = filesystem
        self._closing = closing

    def call_at_close(self, function: Callable[[], None]) -> None:
        """Have `function` called before what was there earlier is given back."""
        self._closing.callback(function)

    def close(self) -> None:
        """End git's children, close what is open, remove temporary files."""
        self.filesystem.close()
        self._closing.close()


async def assemble(
    plan: Plan, counters: Counters, background: Background, files: Mapping[bytes, Callable[[], str]]
) -> Assembled:
    """The filesystem for `plan`; `background` runs what goes on beside readers, until it is cancelled.

    `files`: name → what makes the text of the files in ``.riafs``. Raises MissingProgram, and as `open_source`.
    """
    with ExitStack() as closing:
        scratch = Scratch(plan.cache)
        closing.callback(scratch.close)
        kept = scratch.cache if plan.believing else None
        memory = VerifiedMemory(None if kept is None else os.fsencode(f"{kept}/verified.sqlite"))
        closing.callback(memory.close)
        background.keep_running(memory.keep)
        temporary = None
        if scratch.cache is None and isinstance(plan.source, RiaUrl) and plan.blocks.disk.size:
            temporary = TemporaryBlocks(os.fsencode(scratch.path), plan.blocks.disk.size)
        blocks = BlockCache(kept, plan.blocks, counters, temporary)
        background.keep_running(blocks.keep)
        means = MountTools(memory, blocks, counters, background, plan.deadline, closing, os.fsencode(scratch.path))
        git: GitPool | None = None
        times = Times()
        if isinstance(plan.source, RiaUrl):
            git = _git_pool(plan, scratch, counters)
            closing.callback(git.close)
            root = await _open_store(plan, plan.source, scratch, means, git, times)
        else:
            from riafs.vfs.keep_assembly import open_keep

            root = await open_keep(plan.source, plan.keep, means)
        shown = {virtual.VIRTUAL: _virtual(root, files)} if files else {}
        return Assembled(root, FileSystem(root, counters, shown), closing.pop_all(), git, times)


def _virtual(root: Directory, files: Mapping[bytes, Callable[[], str]]) -> Directory:
    found = versions.versions_of(root)
    directories = {} if found is None else {versions.NAME: found}
    return virtual.VirtualDirectory(files, directories, time.time_ns())


def _git_pool(plan: Plan, scratch: Scratch, counters: Counters) -> GitPool:
    gits = PrivateGitDirs(find_git(plan.search_path), plan.search_path, os.fsencode(scratch.path))
    return GitPool(gits, plan.deadline, counters)


async def _open_store(
    plan: Plan, source: RiaUrl, scratch: Scratch, means: MountTools, git: GitPool, times: Times
) -> Directory:
    path = os.fsencode(scratch.path)
    deadline = Deadline("the store", plan.deadline, means.counters, _HASHING_THREADS)
    verifier = Verifier(plan.verify, means.verified, means.counters, deadline, means.background)
    archives = _archive_tools(plan, scratch, means.cache, means.counters)
    means.closing.callback(archives.close)
    content = ContentTools(verifier, archives, Decryptor(plan.search_path, path, plan.deadline))
    tools = StoreTools(
        git, content, ListingCache(), means.counters, plan.deadline, plan.instead_of, plan.allow_links, times,
        Checkouts(git.gits) if plan.checkout else None,
        _last_changes(plan, scratch, means) if plan.dated_by_change else None,
        remote=None if source.local else _remote_stores(plan, scratch, means, git),
    )  # fmt: skip
    return await open_source(source, tools, keys=not plan.believing)


def _remote_stores(plan: Plan, scratch: Scratch, means: MountTools, git: GitPool) -> RemoteStores:
    access = GitAccess(git.gits.program, plan.search_path, plan.ssh, plan.environment)
    place = scratch.cache or scratch.path
    versions = KnownVersions(
        os.fsencode(f"{scratch.cache}/versions.sqlite") if scratch.cache and plan.believing else None
    )
    means.background.keep_running(versions.keep)
    remote = RemoteStores(place, access, plan.deadline, means.cache, versions, means.counters, means.background)
    means.closing.callback(remote.close)
    return remote


def _last_changes(plan: Plan, scratch: Scratch, means: MountTools) -> LastChanges:
    place = f"{scratch.cache or scratch.path}/{TIMES_DIRECTORY}"
    changes = LastChanges(place, scratch.path, means.background, plan.deadline)
    means.closing.callback(changes.close)
    return changes


@asynccontextmanager
async def open_filesystem(
    plan: Plan, counters: Counters, files: Mapping[bytes, Callable[[], str]] | None = None
) -> AsyncIterator[FileSystem]:
    """`assemble` for programs: everything is given back when the context is left."""
    async with open_assembled(plan, counters, files or {}) as assembled:
        yield assembled.filesystem


@asynccontextmanager
async def open_assembled(
    plan: Plan, counters: Counters, files: Mapping[bytes, Callable[[], str]]
) -> AsyncIterator[Assembled]:
    """The same, with everything that the file system uses."""
    with ungrouped():
        async with trio.open_nursery() as nursery:
            assembled = await assemble(plan, counters, Background(nursery, counters), files)
            try:
                yield assembled
            finally:
                assembled.close()
                nursery.cancel_scope.cancel()


def find_git(search_path: str) -> str:
    """The program. Raises MissingProgram."""
    program = shutil.which("git", path=search_path)
    if program is None:
        raise MissingProgram("git is not installed (Debian: apt install git)")
    return program


def _archive_tools(plan: Plan, scratch: Scratch, blocks: BlockCache, counters: Counters) -> ArchiveTools:
    search_path = [os.fsencode(directory) for directory in plan.search_path.split(":")]
    indexes = None
    if scratch.cache is not None:
        try:
            indexes = IndexDirectory(os.fsencode(private_directory(f"{scratch.cache}/{INDEX_DIRECTORY}")))
        except StoreDenied as error:
            log.warning("%s; lists of what is in archives are kept by this mount only", error)
    return ArchiveTools(
        Limits(dictionary=plan.dictionary),
        Extractor(search_path, os.fsencode(scratch.path), _DECODING_SECONDS),
        blocks,
        indexes=indexes,
        password=plan.password,
        digests=_DIGESTS[plan.verify],
        counters=counters,
    )
