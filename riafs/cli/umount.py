"""``riafs umount``: take mounts away, also those whose daemon has died."""

import argparse
import contextlib
import os
import select
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from riafs.cli.main import complain
from riafs.cli.render import counted, print_table
from riafs.daemon.ask import ask
from riafs.daemon.mountpoint import LEAVING_SECONDS, find_mount, kept_by, unmount
from riafs.daemon.mounts import Mount, riafs_mounts
from riafs.errors import NotMounted, RiafsError, StoreTimeout, UsageError
from riafs.settings import complete_environment

_SOME_SUCCEEDED = 64
_END_SECONDS = 20.0


def run(arguments: argparse.Namespace) -> int:
    """The subcommand. Each directory that cannot be unmounted is reported; the others are unmounted all the same.

    Without directories what could be unmounted is listed.
    """
    if arguments.directories and arguments.all:
        raise UsageError("umount takes directories or --all, not both")
    if not arguments.directories and not arguments.all:
        mounts = _own_mounts()
        if not mounts:
            raise UsageError("nothing is mounted that this user could unmount")
        print_table(("MOUNTPOINT", "SOURCE"), [[mount.mountpoint, mount.source] for mount in mounts])
        sys.stdout.flush()
        raise UsageError("name the directories to unmount, or give --all")
    targets = [mount.mountpoint for mount in reversed(_own_mounts())] if arguments.all else arguments.directories
    codes = [_unmount(target, arguments) for target in targets]
    return combined(codes)


def _own_mounts() -> Sequence[Mount]:
    user = os.getuid()
    return [mount for mount in riafs_mounts() if user in (0, mount.owner)]


def _unmount(directory: str, arguments: argparse.Namespace) -> int:
    try:
        mount = find_mount(directory)
        status = _status(mount)
        daemon = -1 if arguments.lazy or arguments.force else _daemon(status)
        try:
            unmount(mount, lazy=arguments.lazy, force=arguments.force)
            _wait_for(daemon, mount)
        finally:
            if daemon >= 0:
                os.close(daemon)
    except RiafsError as error:
        complain(str(error))
        return error.exit_code
    if arguments.verbosity > 0:
        print(f"{mount.mountpoint} is unmounted")
    kept = _kept(status) if mount.writable else ""
    if kept and arguments.verbosity >= 0:
        print(kept)
    return 0


def _status(mount: Mount) -> Mapping[str, Any]:
    """What the daemon tells of itself, nothing if it does not."""
    try:
        return ask(mount, "status", complete_environment())
    except (NotMounted, StoreTimeout, PermissionError):
        return {}


def _daemon(status: Mapping[str, Any]) -> int:
    """A descriptor of the daemon's process, -1 where it cannot be seen from here."""
    process = status.get("pid")
    with contextlib.suppress(OSError):
        return os.pidfd_open(process) if isinstance(process, int) and process > 0 else -1
    return -1


def _wait_for(daemon: int, mount: Mount) -> None:
    """Wait until the daemon has ended: until then it holds the overlay and files of the store. Where another mount
    namespace keeps the mount, that may be for ever, so this is reported instead.
    """
    if daemon < 0 or select.select([daemon], [], [], LEAVING_SECONDS)[0]:
        return
    reason = kept_by(mount.device)
    if reason:
        complain(f"{mount.mountpoint} is unmounted here, but its process keeps running: {reason}")
    elif not select.select([daemon], [], [], _END_SECONDS)[0]:
        complain(f"{mount.mountpoint} is unmounted, but its process still runs after {_END_SECONDS:g} s")


def _kept(status: Mapping[str, Any]) -> str:
    """Where the changes are that were not pushed, if there are any and the daemon can tell."""
    count = status.get("changes")
    return f"{counted(count, 'change')} not pushed, kept in {status.get('overlay')}" if count else ""


def combined(codes: Sequence[int]) -> int:
    """One exit status for several: mount(8)'s bits together, and 64 if some succeeded and some did not."""
    status = 0
    for code in codes:
        status |= code
    return status | _SOME_SUCCEEDED if status and 0 in codes else status
