"""The life of a mount's process: open the source, mount, become ready, serve, unmount, end.

Invariants: `announce` is called at most once, and only when the mount has answered a request; however the process ends,
nothing stays mounted that it mounted. After a signal to end, open files can be read for a bounded time, with the mount
already detached.
"""

import logging
import os
import select
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from riafs.counters import Counters
from riafs.daemon import control, logs
from riafs.daemon.mountpoint import LEAVING_SECONDS, is_passed_device, kept_by, unmount
from riafs.daemon.mounts import Mount, all_mounts, mount_at
from riafs.daemon.plan import MountPlan
from riafs.daemon.process import Notifier, describe_stacks, set_readahead
from riafs.errors import Interrupted, MountFailed, RiafsError, StoreTimeout
from riafs.settings import typed_settings, version
from riafs.tasks import Background, as_failure
from riafs.watching import Doing, untold

OPEN_SECONDS = 8.0
"""A source that is not open by then, without progress, fails the mount, so that its starter reports it within 10 s."""
ANSWER_SECONDS = 5.0
DRAIN_SECONDS = 10.0


class Servable(Protocol):
    """A source that is open and can be mounted once."""

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Mount, call ``task_status.started()`` when requests are served, return after an unmount.

        Cancelling it unmounts. Raises MountFailed.
        """

    async def refresh(self) -> None:
        """Look now for what has changed in the store, instead of when the refresh time has passed."""

    @property
    def commands(self) -> Mapping[str, control.Command]:
        """Commands of the control socket beside those of every mount."""

    async def status(self) -> Mapping[str, Any]:
        """What ``riafs status`` shows of it beside what it shows of every mount."""

    def close(self) -> None:
        """Release what was opened; called after `serve` has ended, or instead of it."""


Assemble = Callable[[MountPlan, Counters, logs.RecentErrors, Background, Doing], Awaitable[Servable]]
Announce = Callable[[], None]
_ENDING = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGABRT, signal.SIGXCPU, signal.SIGPWR))
"""After these a mount is unmounted. Damage (SIGSEGV, SIGBUS, SIGILL, SIGFPE) and SIGKILL end it as it is."""
_DAMAGE = frozenset((signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE))
_HARMLESS = frozenset((signal.SIGPIPE, signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH))
_STOPPING = frozenset((signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGSTOP))
_HEEDED = tuple(signal.valid_signals() - _DAMAGE - _HARMLESS - _STOPPING - {signal.SIGKILL})
"""All others that would end a process (SIGALRM, real-time ones, …) are received too, and not followed: a timer or
program that sends one does not mean the mount, and a mount that ends so stays behind dead."""
_log = logging.getLogger(__name__)


def run(plan: MountPlan, assemble: Assemble, announce: Announce, doing: Doing = untold) -> None:
    """Mount, and return after the unmount. Raises what went wrong, before or after `announce`."""
    place = logs.LogPlace(plan.directories.log, plan.mountpoint)
    recent = logs.set_up(plan.settings, place)
    try:
        trio.run(_Life(plan, assemble, announce, doing, recent).live)
    except RiafsError:
        raise
    except Exception as error:
        cause = _only_cause(error)
        if not isinstance(cause, RiafsError):
            _log.critical("%s has ended: internal error", plan.mountpoint, exc_info=error)
            raise
        raise cause from error
    finally:
        logs.tear_down(recent)


def _only_cause(error: BaseException) -> BaseException:
    """What a nursery has wrapped, if that is one thing."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


@dataclass(slots=True)
class _State:
    """What the tasks of one life share; changed by the event loop's thread only."""

    servable: Servable | None = None
    mount: Mount | None = None
    ended_by_signal: bool = False
    announced: bool = False


class _Life:
    """One run. The nursery's tasks: the file system, the signals, the control socket, the watchdog."""

    def __init__(
        self, plan: MountPlan, assemble: Assemble, announce: Announce, doing: Doing, recent: logs.RecentErrors
    ) -> None:
        self._plan = plan
        self._assemble = assemble
        self._announce = announce
        self._doing = doing
        self._recent = recent
        self._counters = Counters()
        self._notifier = Notifier(plan.environment)
        self._version = version()  # read from a file, for which there may be no descriptor later
        self._began = time.monotonic()
        self._state = _State()

    async def live(self) -> None:
        """From opening the source to after the unmount."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._heed_signals, nursery.cancel_scope)
            servable = await self._open(nursery)
            self._state.servable = servable
            try:
                await self._mounted(servable)
            finally:
                servable.close()
            nursery.cancel_scope.cancel()
        self._notifier.send("STOPPING=1")
        if self._state.ended_by_signal and not self._state.announced:
            raise Interrupted("interrupted before the mount was ready")
        _log.info("unmounted %s", self._plan.mountpoint)

    async def _open(self, nursery: trio.Nursery) -> Servable:
        last = ""

        def doing(what: str) -> None:
            nonlocal last
            last, opening.deadline = what, trio.current_time() + OPEN_SECONDS
            self._doing(what)

        with trio.move_on_after(OPEN_SECONDS) as opening:
            background = Background(nursery, self._counters)
            return await self._assemble(self._plan, self._counters, self._recent, background, doing)
        if last:
            raise StoreTimeout(f"the mount was not ready: nothing got on for {OPEN_SECONDS:g} s while {last}")
        raise StoreTimeout(f"source {self._plan.source} did not answer in {OPEN_SECONDS:g} s")

    async def _mounted(self, servable: Servable) -> None:
        async with trio.open_nursery() as nursery:

            async def serve(*, task_status: trio.TaskStatus[None]) -> None:
                await servable.serve(task_status=task_status)
                nursery.cancel_scope.cancel()

            await nursery.start(serve)
            await self._become_ready(nursery, servable)

    async def _become_ready(self, nursery: trio.Nursery, servable: Servable) -> None:
        if not is_passed_device(self._plan.mountpoint):
            self._state.mount = await self._answering_mount()
            set_readahead(self._state.mount.device, self._plan.settings.readahead)
            await nursery.start(self._control, self._state.mount, servable)
            Background(nursery, self._counters).start_soon(self._tell_who_keeps, self._state.mount)
        if self._notifier.watchdog_seconds:
            Background(nursery, self._counters).keep_running(self._feed_watchdog)
        self._announce()
        self._state.announced = True
        _log.info("mounted %s at %s", self._plan.source, self._plan.mountpoint)
        self._notifier.send(
            "READY=1", f"STATUS={self._plan.source} at {self._plan.mountpoint}", f"MAINPID={os.getpid()}"
        )

    async def _answering_mount(self) -> Mount:
        """The mount in the kernel's table, after it has answered a request."""
        path = self._plan.mountpoint
        with trio.move_on_after(ANSWER_SECONDS):
            try:
                await trio.to_thread.run_sync(os.statvfs, path, abandon_on_cancel=True)
            except OSError as error:
                raise MountFailed(f"the mount at {path} does not work: {error.strerror}") from error
            mount = mount_at(path)
            if mount is not None:
                return mount
        raise MountFailed(f"the mount at {path} did not answer in {ANSWER_SECONDS:g} s")

    # -- being told things --------------------------------------------------------------------------------------------

    async def _heed_signals(self, everything: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*_HEEDED) as received:
            task_status.started()
            async with trio.open_nursery() as nursery:
                background = Background(nursery, self._counters)
                async for number in received:
                    if number in _ENDING:
                        self._end(background, everything)
                    else:
                        background.start_soon(self._heed, number)

    def _end(self, background: Background, everything: trio.CancelScope) -> None:
        """The first signal lets readers finish, the second does not."""
        if self._state.ended_by_signal or self._state.mount is None:
            everything.cancel()
        else:
            background.start_soon(self._drain, self._state.mount, everything)
        self._state.ended_by_signal = True

    async def _drain(self, mount: Mount, everything: trio.CancelScope) -> None:
        self._notifier.send("STOPPING=1", "STATUS=waiting for open files")
        _log.info("unmounting %s; open files have %g s", mount.mountpoint, DRAIN_SECONDS)
        with trio.move_on_after(DRAIN_SECONDS):
            try:
                with as_failure(f"cannot unmount {mount.mountpoint}"):
                    await trio.to_thread.run_sync(lambda: unmount(mount, lazy=True), abandon_on_cancel=True)
                await trio.sleep_forever()  # until `serve` returns and the nurseries are cancelled
            except RiafsError as error:
                _log.warning("%s", error)
        everything.cancel()

    async def _heed(self, number: int) -> None:
        if number == signal.SIGHUP and self._state.servable is not None:
            await self._refresh(self._state.servable)
        elif number == signal.SIGUSR1:
            _log.warning("stacks, as asked for by signal\n%s", describe_stacks())
        elif number == signal.SIGUSR2:
            _log.info("counters: %s", " ".join(f"{name}={count}" for name, count in self._counters.as_dict().items()))
        elif number != signal.SIGHUP:
            _log.info("signal %d is not followed", number)

    async def _refresh(self, servable: Servable) -> Mapping[str, Any]:
        try:
            await servable.refresh()
        except RiafsError as error:
            _log.warning("refresh: %s", error)
            return {"error": str(error)}
        return {"refreshed": True}

    async def _control(self, mount: Mount, servable: Servable, *, task_status: trio.TaskStatus[None]) -> None:
        """The control socket. A mount works without it, so a runtime directory that cannot be used is only logged."""

        async def status(_: control.Request) -> Mapping[str, Any]:
            return {**self._status(mount), **(await servable.status())}

        async def refresh(_: control.Request) -> Mapping[str, Any]:
            return await self._refresh(servable)

        try:
            with control.bound_socket(self._plan.directories.runtime, mount.device) as listener:
                task_status.started()
                commands = {"status": status, "refresh": refresh, **servable.commands}
                async with trio.open_nursery() as nursery:
                    await control.serve_control(listener, commands, Background(nursery, self._counters))
        except (RiafsError, OSError) as error:
            _log.warning("no control socket, riafs status cannot ask this mount: %s", error)
            task_status.started()

    def _status(self, mount: Mount) -> Mapping[str, Any]:
        return {
            "version": self._version,
            "pid": os.getpid(),
            "source": str(self._plan.source),
            "mountpoint": mount.mountpoint,
            "uptime": round(time.monotonic() - self._began, 1),
            "settings": typed_settings(self._plan.settings),
            "counters": self._counters.as_dict(),
            "recent_errors": len(self._recent.lines()),
        }

    async def _tell_who_keeps(self, mount: Mount) -> None:
        """Log what keeps this process after the unmount: copies of the mount in other mount namespaces."""
        with open("/proc/self/mountinfo", "rb") as table, select.epoll() as changes:  # noqa: ASYNC230  # the kernel's
            changes.register(table, select.EPOLLPRI)  # proc_pid_mounts(5); plain readable it is always
            while any(each.device == mount.device for each in all_mounts()):
                await trio.lowlevel.wait_readable(changes.fileno())
                changes.poll(0)
                await trio.sleep(LEAVING_SECONDS)  # by then this process is gone mostly, or others have mounted more
        reason = await trio.to_thread.run_sync(kept_by, mount.device, abandon_on_cancel=True)
        if reason:
            _log.warning("%s is unmounted, but has to be served further: %s", mount.mountpoint, reason)

    async def _feed_watchdog(self) -> None:
        """Twice in each interval; that this task runs is what shows that the event loop does."""
        while True:
            self._notifier.send("WATCHDOG=1")
            await trio.sleep(self._notifier.watchdog_seconds / 2)
