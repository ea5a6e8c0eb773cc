"""``riafs umount``: take mounts away, also those whose daemon has died."""

import argparse
import os
import sys
from collections.abc import Sequence

from riafs.cli.main import complain
from riafs.cli.render import print_table
from riafs.daemon.ask import ask
from riafs.daemon.mounts import Mount, riafs_mounts
from riafs.daemon.unmount import find_mount, unmount
from riafs.errors import NotMounted, RiafsError, StoreTimeout, UsageError
from riafs.settings import complete_environment

_SOME_SUCCEEDED = 64


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
        kept = _kept(mount)
        unmount(mount, lazy=arguments.lazy, force=arguments.force)
    except RiafsError as error:
        complain(str(error))
        return error.exit_code
    if arguments.verbosity > 0:
        print(f"{mount.mountpoint} is unmounted")
    if kept and arguments.verbosity >= 0:
        print(kept)
    return 0


def _kept(mount: Mount) -> str:
    """Where the changes are that were not pushed, if there are any and the daemon can tell."""
    if not mount.writable:
        return ""
    try:
        status = ask(mount, "status", complete_environment())
    except (NotMounted, StoreTimeout, PermissionError):
        return ""
    count = status.get("changes")
    changes = "1 change that is" if count == 1 else f"{count} changes that are"
    return f"{changes} not pushed: kept in {status.get('overlay')}" if count else ""


def combined(codes: Sequence[int]) -> int:
    """One exit status for several: mount(8)'s bits together, and 64 if some succeeded and some did not."""
    status = 0
    for code in codes:
        status |= code
    return status | _SOME_SUCCEEDED if status and 0 in codes else status
