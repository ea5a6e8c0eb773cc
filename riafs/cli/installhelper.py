"""``riafs install-helper``: the links by which mount(8) finds riafs.

mount(8) looks for ``mount.TYPE`` in /sbin only, where pip and pipx never write.
"""

import argparse
import os
import shutil
import stat
import sys
from collections.abc import Iterator

import riafs
from riafs.cli.main import HELPERS, complain
from riafs.errors import MissingProgram, MountpointError, UsageError

DIRECTORY = "/sbin"


def run(arguments: argparse.Namespace) -> int:
    """The subcommand."""
    links = [f"{DIRECTORY}/{name}" for name in HELPERS]
    if arguments.remove:
        for link in links:
            remove(link)
        return 0
    program = installed_program()
    _warn(program)
    for link in links:
        if arguments.print:
            print(f"ln -sfn {program} {link}")
        else:
            install(program, link)
    return 0


def installed_program() -> str:
    """The absolute path of the ``riafs`` that runs. Raises MissingProgram where it is no installed one."""
    beside = os.path.join(os.path.dirname(os.path.abspath(sys.argv[0])), "riafs")
    found = beside if os.access(beside, os.X_OK) else shutil.which("riafs")
    if found is None:
        raise MissingProgram("riafs is not installed as a program; pip install it first")
    return os.path.abspath(found)


def _warn(program: str) -> None:
    """Say so if only this user can run the program: mount(8) runs it as whoever mounts."""
    for path in (program, sys.executable, os.path.dirname(os.path.abspath(riafs.__file__))):
        for barrier in closed_to_others(path):
            complain(
                f"other users cannot run this riafs, as {barrier} is closed to them: /etc/fstab and root can mount "
                "with it, they cannot; a virtual environment below /opt, made with umask 022, is for all"
            )
            return


def closed_to_others(path: str) -> Iterator[str]:
    """The directories on the way to `path`, links followed, and what is there, that not everybody may use."""
    for way in dict.fromkeys((os.path.abspath(path), os.path.realpath(path))):
        for end in (position for position, character in enumerate(way + "/") if character == "/" and position):
            mode = os.stat(way[:end]).st_mode
            if not mode & (stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH):
                yield way[:end]


def install(program: str, link: str) -> None:
    """Make or move `link`. Raises UsageError where something else has its name, MountpointError without permission."""
    if os.path.lexists(link) and not os.path.islink(link):
        raise UsageError(f"{link} exists and is no link; it is left alone")
    temporary = f"{link}.{os.getpid()}"
    try:
        os.symlink(program, temporary)
        os.replace(temporary, link)
    except OSError as error:
        raise MountpointError(f"cannot make {link}: {error.strerror}; run it as root") from error
    print(f"{link} -> {program}")


def remove(link: str) -> None:
    """Remove `link` if it is one and there. Raises UsageError, MountpointError."""
    if not os.path.lexists(link):
        return
    if not os.path.islink(link):
        raise UsageError(f"{link} is no link; it is left alone")
    try:
        os.unlink(link)
    except OSError as error:
        raise MountpointError(f"cannot remove {link}: {error.strerror}; run it as root") from error
