"""What a mountpoint must be before anything is started: checked, and healed where a daemon has died.

A directory that is not empty is accepted, as by mount(8). mount.fuse3 may have mounted already and hand over the FUSE
device as ``/dev/fd/N`` (its ``drop_privileges`` option); then there is nothing to check.
"""

import os
import re
import stat

from riafs.daemon.bounded import call_in_child
from riafs.daemon.mounts import TYPE, Mount, mount_at, resolve
from riafs.daemon.unmount import is_dead, unmount
from riafs.errors import MountpointError

_PROBE_SECONDS = 3.0


def is_passed_device(mountpoint: str) -> bool:
    """Whether `mountpoint` stands for an open FUSE device instead of a directory."""
    return re.fullmatch(r"/dev/fd/[0-9]{1,6}", mountpoint) is not None


def prepare(directory: str) -> str:
    """The absolute path to mount on. Raises MountpointError where it is missing, no directory, or has a riafs mount.

    A mount whose daemon has died is taken away.
    """
    if is_passed_device(directory):
        return directory
    path = resolve(directory)
    mount = heal(path)
    if mount is not None:
        raise MountpointError(f"{path} is already mounted from {mount.source}; riafs umount {path} ends that")
    _check_directory(path)
    return path


def heal(path: str) -> Mount | None:
    """Take away riafs mounts at `path` whose daemon has died. Returns the one that lives, if there is one."""
    mount = mount_at(path)
    while mount is not None and mount.type == TYPE:
        if not is_dead(mount):
            return mount
        unmount(mount, lazy=True)
        mount = mount_at(path)
    return None


def _check_directory(path: str) -> None:
    try:
        mode = call_in_child(lambda: os.stat(path).st_mode, _PROBE_SECONDS, path)
    except FileNotFoundError:
        raise MountpointError(f"mountpoint {path} does not exist; mkdir makes it") from None
    except OSError as error:
        raise MountpointError(f"mountpoint {path} cannot be used: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise MountpointError(f"mountpoint {path} is not a directory")
