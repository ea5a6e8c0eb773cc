"""Directories as mountpoints: checked before a mount, healed after a daemon that died, unmounted.

A mountpoint that is not empty is accepted, as by mount(8). mount.fuse3 may have mounted already and hand over the FUSE
device as ``/dev/fd/N`` (its ``drop_privileges`` option); then there is nothing to check.

Invariant: only mounts of type fuse.riafs are ever unmounted. root asks the kernel (umount2(2)); other users ask
fusermount3, which is why this module starts a program.
"""

import contextlib
import ctypes
import errno
import glob
import os
import pwd
import re
import shlex
import stat
import subprocess

from riafs.children import run_again
from riafs.daemon.fork_call import call_in_child
from riafs.daemon.mounts import TYPE, Mount, all_mounts, copies_of, is_at_or_below, mount_at, resolve
from riafs.errors import MissingProgram, MountpointError, NotMounted, StoreTimeout

_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8
_UNMOUNT_SECONDS = 20.0
_CHECK_SECONDS = 3.0
_PROBE_SECONDS = 2.0
LEAVING_SECONDS = 1.0
"""How soon after the unmount a daemon has ended, if nothing keeps it."""
_NAMED = 5


def is_passed_device(mountpoint: str) -> bool:
    """Whether `mountpoint` names an open FUSE device instead of a directory."""
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
        mode = call_in_child(lambda: os.stat(path).st_mode, _CHECK_SECONDS, path)
    except FileNotFoundError:
        raise MountpointError(f"mountpoint {path} does not exist; mkdir makes it") from None
    except OSError as error:
        raise MountpointError(f"mountpoint {path} cannot be used: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise MountpointError(f"mountpoint {path} is not a directory")


# -- unmounting -------------------------------------------------------------------------------------------------------


def find_mount(directory: str) -> Mount:
    """The riafs mount at that directory. Raises NotMounted."""
    path = resolve(directory)
    mount = mount_at(path)
    if mount is None:
        raise NotMounted(f"nothing is mounted at {path}")
    if mount.type != TYPE:
        raise NotMounted(f"{path} is a mount of type {mount.type}, not of riafs")
    return mount


def is_dead(mount: Mount) -> bool:
    """Whether the daemon behind a mount has gone: "Transport endpoint is not connected". A silent one is not dead."""
    try:
        call_in_child(lambda: os.statvfs(mount.mountpoint).f_bsize, _PROBE_SECONDS, mount.mountpoint)
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    except StoreTimeout:
        return False
    return False


def unmount(mount: Mount, *, lazy: bool = False, force: bool = False) -> None:
    """Unmount. `lazy`: out of sight at once, ended with its last open file; `force`: waiting requests fail first.

    A dead mount that is still in use is detached lazily. Raises MountpointError for one that is busy or not
    ours, ProgramKilled where others end fusermount3 again and again.
    """
    if os.geteuid() not in (0, mount.owner):
        raise MountpointError(
            f"{mount.mountpoint} is the mount of {_called(mount.owner)}: only that user and root can unmount it"
        )
    lazy = lazy or force or is_dead(mount)
    if force:
        abort(mount)
    if os.geteuid() == 0:
        _umount2(mount.mountpoint, (_MNT_DETACH if lazy else 0) | (_MNT_FORCE if force else 0))
    else:
        _unmount_as_user(mount, lazy=lazy)


def _called(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"uid {uid}"


def abort(mount: Mount) -> None:
    """Fail every request that waits for the daemon with ECONNABORTED, if this user may; the mount is dead from then on.

    The kernel names a connection by the minor number of its device (its documentation of the FUSE control files). Where
    those files are not mounted, root has umount2's MNT_FORCE, which does the same.
    """
    minor = mount.device.partition(":")[2]
    with contextlib.suppress(OSError), open(f"/sys/fs/fuse/connections/{minor}/abort", "w") as file:
        file.write("1")


def _umount2(mountpoint: str, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), flags | _UMOUNT_NOFOLLOW) == 0:
        return
    code = ctypes.get_errno()
    if code == errno.EBUSY:
        raise _busy(mountpoint)
    raise MountpointError(f"cannot unmount {mountpoint}: {os.strerror(code)}")


def _unmount_as_user(mount: Mount, *, lazy: bool) -> None:
    mountpoint = mount.mountpoint
    command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", mountpoint]
    try:
        done = run_again(command, seconds=_UNMOUNT_SECONDS)
    except FileNotFoundError as error:
        raise MissingProgram("fusermount3 is not installed (Debian: apt install fuse3)") from error
    except subprocess.TimeoutExpired as error:
        raise MountpointError(f"fusermount3 did not unmount {mountpoint} in {_UNMOUNT_SECONDS:g} s") from error
    if done.returncode == 0 or mount not in all_mounts():  # one that was killed may have done it
        return
    said = done.stderr.decode(errors="replace").strip()
    if "busy" in said:
        raise _busy(mountpoint)
    hint = "; root can make it: ln -s ../proc/self/mounts /etc/mtab" if "/etc/mtab" in said else ""
    raise MountpointError(f"cannot unmount {mountpoint}: {said or 'fusermount3 failed'}{hint}")


def _busy(mountpoint: str) -> MountpointError:
    users = users_of(mountpoint)
    why = "; ".join(users[:_NAMED]) + (f"; and {len(users) - _NAMED} more" if len(users) > _NAMED else "")
    return MountpointError(
        f"{mountpoint} is busy: {why or 'a program that this user cannot see uses it'}; --lazy detaches it anyway"
    )


def users_of(mountpoint: str) -> list[str]:
    """What keeps a mount from being unmounted, each as part of a sentence: mounts in it, processes, loop devices.

    Only links of /proc and /sys are read, so that a mount which does not answer is not waited for.
    """
    found = [
        f"another mount is inside, {mount.source} at {mount.mountpoint}"
        for mount in all_mounts()
        if mount.mountpoint != mountpoint and is_at_or_below(mount.mountpoint, mountpoint)
    ]
    for process in filter(str.isdigit, os.listdir("/proc")):
        how = _how_it_uses(f"/proc/{process}", mountpoint)
        if how:
            found.append(f"{_name_of(process)} (process {process}) {how}")
    for path in glob.glob("/sys/block/*/loop/backing_file"):
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="surrogateescape") as file:
            if is_at_or_below(file.read().strip(), mountpoint):
                found.append(f"/dev/{path.split('/')[3]} is a file of it")
    return found


def kept_by(device: str) -> str:
    """Why an unmounted file system is still served, with the way out: copies in other mount namespaces. "" for none."""
    return "; ".join(
        f"{_name_of(str(process))} (process {process}) has a copy of the mount at {place} in a mount namespace of its "
        f"own: it ends with that process, or by nsenter -m -t {process} umount {shlex.quote(place)}"
        for process, place in copies_of(device)
    )


def _how_it_uses(process: str, mountpoint: str) -> str:
    """``works in …``, ``has … open``, …; empty where it uses nothing of the mount, or may not be looked at."""
    for link, how in (("cwd", "works in {}"), ("root", "has {} as its root"), ("exe", "runs {}")):
        path = _target(f"{process}/{link}")
        if is_at_or_below(path, mountpoint):
            return how.format(path)
    with contextlib.suppress(OSError):
        for name in os.listdir(f"{process}/fd"):
            path = _target(f"{process}/fd/{name}")
            if is_at_or_below(path, mountpoint):
                return f"has {path} open"
        with open(f"{process}/maps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                path = line.rstrip("\n").split(maxsplit=5)[-1]
                if is_at_or_below(path, mountpoint):
                    return f"has {path} in memory"
    return ""


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _name_of(process: str) -> str:
    try:
        with open(f"/proc/{process}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return "a program"
