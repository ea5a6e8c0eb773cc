"""Putting a mount together: from a plan to something that can be served.

The only place that knows which parts a mount is made of; everything above sees a Servable, everything below is given
what it needs. Imports pyfuse3, so it is imported in the mount's own process only.
"""

import json
import os
import shutil
import time

import trio

from riafs.archive.archive import ArchiveTools
from riafs.archive.extractor import Extractor
from riafs.archive.openpgp import Decryptor
from riafs.cache.verified import VerifiedMemory
from riafs.content.annex import ContentTools
from riafs.content.verifying import Verifier, Verify
from riafs.counters import Counters
from riafs.daemon.logs import RecentErrors
from riafs.daemon.plan import MountPlan
from riafs.daemon.scratch import Scratch
from riafs.daemon.servable import Servable
from riafs.errors import MissingProgram, RiafsError
from riafs.formats.sevenzip_cursor import Limits
from riafs.fuse.presentation import Presentation
from riafs.fuse.session import KernelOptions, Session
from riafs.git.environment import PrivateGitDirs
from riafs.git.pool import GitPool
from riafs.settings import show_settings
from riafs.tree.listing import ListingCache
from riafs.tree.source import open_source
from riafs.tree.store import StoreTools
from riafs.tree.virtual import NAME, VirtualDirectory
from riafs.vfs.filesystem import FileSystem

_EXECUTE = 0o111  # without these bits the kernel starts no program, not even for root


async def assemble(plan: MountPlan, counters: Counters, recent: RecentErrors, background: trio.Nursery) -> Servable:
    """Open the plan's source; `background` runs what has to go on beside readers, until it is cancelled.

    Raises SourceNotFound, NoSuchVersion, StoreDenied, StoreTimeout, StoreError, MissingProgram, …
    """
    scratch = Scratch(plan.settings.cache_dir)
    git = GitPool(_private_gits(plan, os.fsencode(scratch.path)), plan.settings.deadline, counters)
    try:
        memory = VerifiedMemory(None if scratch.cache is None else os.fsencode(f"{scratch.cache}/verified.sqlite"))
        background.start_soon(memory.keep)
        verifier = Verifier(Verify(plan.settings.verify), memory, counters, background)
        root = await open_source(plan.source, _store_tools(plan, git, verifier, os.fsencode(scratch.path), counters))
    except (RiafsError, trio.Cancelled):
        git.close()
        scratch.close()
        raise
    filesystem = FileSystem(root, counters, {NAME: _virtual(plan, counters, recent)})
    return _Mount(Session(filesystem, kernel_options(plan), presentation(plan)), git, scratch)


def _private_gits(plan: MountPlan, scratch: bytes) -> PrivateGitDirs:
    program = shutil.which("git", path=plan.environment["PATH"])
    if program is None:
        raise MissingProgram("git is not installed (Debian: apt install git)")
    return PrivateGitDirs(program, plan.environment["PATH"], scratch)


def _store_tools(plan: MountPlan, git: GitPool, verifier: Verifier, scratch: bytes, counters: Counters) -> StoreTools:
    seconds, path = plan.settings.deadline, plan.environment["PATH"]
    extractor = Extractor(os.fsencode(path).split(b":"), scratch, seconds)
    content = ContentTools(verifier, ArchiveTools(Limits(), extractor), Decryptor(path, scratch, seconds))
    return StoreTools(git, content, ListingCache(), counters, seconds, plan.instead_of)


def kernel_options(plan: MountPlan) -> KernelOptions:
    """How the plan's settings ask the kernel to mount."""
    settings = plan.settings
    return KernelOptions(
        mountpoint=plan.mountpoint,
        fsname=str(plan.source),
        allow_other=settings.allow_other,
        allow_root=settings.allow_root,
        auto_unmount=settings.auto_unmount,
    )


def presentation(plan: MountPlan) -> Presentation:
    """How the plan's settings want entries to look."""
    settings = plan.settings
    file_mode = settings.file_mode & ~_EXECUTE if settings.noexec else settings.file_mode
    return Presentation(settings.uid, settings.gid, file_mode, settings.dir_mode, settings.refresh)


def _virtual(plan: MountPlan, counters: Counters, recent: RecentErrors) -> VirtualDirectory:
    """``.riafs``: lines of ``name value``, the last errors, and the settings as they could stand in a config.toml."""

    def stats() -> str:
        return "".join(f"{name} {count}\n" for name, count in counters.as_dict().items())

    def errors() -> str:
        return "".join(f"{line}\n" for line in recent.lines())

    def config() -> str:
        return "".join(f"{name} = {json.dumps(text)}\n" for name, text in show_settings(plan.settings).items())

    return VirtualDirectory({b"stats": stats, b"errors": errors, b"config": config}, time.time_ns())


class _Mount:
    """A Session with what has to be given back after it."""

    def __init__(self, session: Session, git: GitPool, scratch: Scratch) -> None:
        self._git = git
        self._scratch = scratch
        self.serve = session.serve
        self.refresh = session.refresh

    def close(self) -> None:
        """See Servable."""
        self._git.close()
        self._scratch.close()
