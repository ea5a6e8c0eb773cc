"""Putting a mount together: from a plan to something that can be served.

The only place that knows which parts a mount is made of; everything above sees a Servable, everything below is given
what it needs. Imports pyfuse3, so it is imported in the mount's own process only.
"""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from riafs.counters import Counters
from riafs.daemon.control import Command
from riafs.daemon.lifecycle import Servable
from riafs.daemon.logs import RecentErrors
from riafs.daemon.mounts import shown_source
from riafs.daemon.opening import command_settings, opening_plan
from riafs.daemon.plan import MountPlan
from riafs.formats.sources import RiaUrl
from riafs.fuse.presentation import Presentation
from riafs.fuse.session import KernelOptions, ReadOnlySession, Session
from riafs.settings import show_settings
from riafs.tasks import Background
from riafs.vfs import assembly
from riafs.watching import Doing

if TYPE_CHECKING:
    from riafs.daemon.change_commands import Changing


async def assemble(
    plan: MountPlan, counters: Counters, recent: RecentErrors, background: Background, doing: Doing
) -> Servable:
    """Open the plan's source; `background` runs what has to go on beside readers, until it is cancelled; `doing` is
    called with steps that take long.

    Raises SourceNotFound, NoSuchVersion, StoreDenied, StoreTimeout, StoreError, MissingProgram, …
    """
    assembled = await assembly.assemble(opening_plan(plan), counters, background, _virtual(plan, counters, recent))
    if not plan.settings.overlay:
        return _Mount(ReadOnlySession(assembled.filesystem, kernel_options(plan), presentation(plan)), assembled, None)
    assert isinstance(plan.source, RiaUrl)
    # A third of all imports, which a read-only mount does without.
    from riafs.daemon.change_commands import Changing
    from riafs.fuse.writing import WritingSession
    from riafs.vfs.open_overlay import OverlayPlace, lay_over

    try:
        place = OverlayPlace(plan.settings.overlay, presentation(plan).ownership)
        writable = await lay_over(assembled, plan.source, place, doing)
    except BaseException:
        assembled.close()
        raise
    session = WritingSession(writable, kernel_options(plan), presentation(plan))
    return _Mount(session, assembled, Changing(writable, plan.source, command_settings(plan), session.tell, background))


def kernel_options(plan: MountPlan) -> KernelOptions:
    """How the plan's settings ask the kernel to mount."""
    settings = plan.settings
    return KernelOptions(
        mountpoint=plan.mountpoint,
        fsname=shown_source(str(plan.source), marked=plan.by_mount),
        allow_other=settings.allow_other,
        allow_root=settings.allow_root,
        auto_unmount=settings.auto_unmount,
        noexec=settings.noexec,
        writable=bool(settings.overlay),
    )


def presentation(plan: MountPlan) -> Presentation:
    """How the plan's settings want entries to look."""
    settings = plan.settings
    return Presentation(settings.uid, settings.gid, settings.file_mode, settings.dir_mode, settings.refresh)


def _virtual(plan: MountPlan, counters: Counters, recent: RecentErrors) -> Mapping[bytes, Callable[[], str]]:
    """``.riafs``: lines of ``name value``, the last errors, and the settings in the form of config.toml."""

    def stats() -> str:
        return "".join(f"{name} {count}\n" for name, count in counters.as_dict().items())

    def errors() -> str:
        return "".join(f"{line}\n" for line in recent.lines())

    def config() -> str:
        return "".join(f"{name} = {json.dumps(text)}\n" for name, text in show_settings(plan.settings).items())

    return {b"stats": stats, b"errors": errors, b"config": config}


class _Mount:
    """A Session with what has to be given back after it."""

    def __init__(self, session: Session[Any], assembled: assembly.Assembled, changing: "Changing | None") -> None:
        self.serve = session.serve
        self.refresh = session.refresh
        self.close = assembled.close
        self._changing = changing

    @property
    def commands(self) -> Mapping[str, Command]:
        return {} if self._changing is None else self._changing.commands

    async def status(self) -> Mapping[str, Any]:
        return {} if self._changing is None else await self._changing.status()
