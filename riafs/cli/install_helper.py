"""``riafs install-helper``: the links by which mount(8) finds riafs, and what keeps locate(1) out of mounts.

mount(8) looks for ``mount.TYPE`` in /sbin only, where pip and pipx never write.
"""

import argparse
import contextlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator

import riafs
from riafs.cli.main import HELPERS, complain
from riafs.daemon.mounts import TYPE
from riafs.errors import MissingProgram, MountpointError, UsageError

DIRECTORY = "/sbin"
UPDATEDB = "/etc/updatedb.conf"
_PRUNEFS = re.compile(r"^([ \t]*PRUNEFS[ \t]*=[ \t]*\")([^\"\n]*)(\")", re.MULTILINE)


def run(arguments: argparse.Namespace) -> int:
    """The subcommand."""
    if arguments.prunefs:
        change_prunefs(UPDATEDB, present=not arguments.remove, only_print=arguments.print)
        return 0
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
    """Warn if only this user can run the program: mount(8) runs it as the user who mounts."""
    for path in (program, sys.executable, os.path.dirname(os.path.abspath(riafs.__file__))):
        for barrier in closed_to_others(path):
            complain(
                f"only root can mount with this riafs, also from /etc/fstab, as {barrier} is closed to other users; "
                "to let them mount too, install it in a virtual environment below /opt with umask 022"
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
    print(f"{link} is removed")


def change_prunefs(path: str, *, present: bool, only_print: bool = False) -> None:
    """Have updatedb(8) leave out mounts of riafs, or no longer: PRUNEFS in its configuration, updatedb.conf(5). Nothing
    where there is none, as then nothing reads it. Raises UsageError, MountpointError without permission.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            before, mode = file.read(), os.fstat(file.fileno()).st_mode
    except FileNotFoundError:
        complain(f"there is no {path}: no updatedb goes through mounts here")
        return
    except OSError as error:
        raise MountpointError(f"cannot read {path}: {error.strerror}") from error
    after = with_prunefs(before, present=present)
    if only_print or after == before:
        print(after if only_print else f"{path} is as it should be", end="" if only_print else "\n")
        return
    path = os.path.realpath(path)
    temporary = f"{path}.{os.getpid()}"
    try:
        with open(temporary, "x", encoding="utf-8", errors="surrogateescape") as file:
            file.write(after)
            os.fchmod(file.fileno(), stat.S_IMODE(mode))
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise MountpointError(f"cannot change {path}: {error.strerror}; run it as root") from error
    print(f"{path}: PRUNEFS {'has' if present else 'no longer has'} {TYPE}")


def with_prunefs(text: str, *, present: bool) -> str:
    """A configuration of updatedb with or without our type in PRUNEFS; all else stays as it is. Raises UsageError where
    PRUNEFS is written in a way that updatedb does not take either.
    """
    found = _PRUNEFS.search(text)
    if found is None:
        if re.search(r"^[ \t]*PRUNEFS", text, re.MULTILINE):
            raise UsageError('PRUNEFS is not of the form PRUNEFS = "TYPE …"; it is left alone')
        line_end = "" if not text or text.endswith("\n") else "\n"
        return f'{text}{line_end}PRUNEFS = "{TYPE}"\n' if present else text
    types = found[2].split()
    if (TYPE in types) == present:
        return text
    changed = f"{found[2]} {TYPE}".strip() if present else " ".join(each for each in types if each != TYPE)
    return text[: found.start(2)] + changed + text[found.end(2) :]
