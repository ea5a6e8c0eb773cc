"""``riafs doctor``: does this machine have what riafs needs, can the source be read, and what to do if not.

Each check is one line: ok, warn or fail. Nothing is changed, and nothing is waited for longer than a few seconds.
"""

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from importlib import metadata, util

import riafs
from riafs.archive.child import libarchive_loaded
from riafs.children import cause, run_again
from riafs.cli.render import Finding, print_json, printable
from riafs.daemon.fork_call import call_in_child
from riafs.daemon.plan import named_source
from riafs.errors import MissingProgram, ProgramKilled, RiafsError, UsageError
from riafs.formats.sources import RiaUrl
from riafs.settings import complete_environment, load, version

_PROGRAM_SECONDS = 5.0
_OLDEST_GIT = (2, 36)
_MOUNT_TABLE = "/etc/mtab"
_FUSE_DEVICE = "/dev/fuse"
_READERS = (
    ("pyppmd", "pyppmd", "archive members packed with PPMd cannot be read"),
    ("inflate64", "inflate64", "archive members packed with Deflate64 cannot be read"),
    ("brotli", "brotli", "archive members packed with Brotli cannot be read"),
    ("blake3", "blake3", "keys of BLAKE3 are checked by their size only"),
    ("skein", "pyskein", "keys of SKEIN are checked by their size only"),
    ("xxhash", "xxhash", "keys of XXH3 are checked by their size only"),
)
"""Python packages: module, name for pip, and the consequence of not having it."""
_ZSTANDARD = ("compression.zstd", "backports.zstd")
_CIPHERS = ("cryptography", "Cryptodome")


def run(arguments: argparse.Namespace) -> int:
    """The subcommand: exit status 1 if anything failed."""
    findings = list(check_machine())
    if arguments.source is not None:
        findings += check_source(arguments.source)
    if arguments.json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{finding.state:4}  {printable(finding.what)}" + (f": {finding.advice}" if finding.advice else ""))
    return int(any(finding.state == "fail" for finding in findings))


def check_machine() -> Iterator[Finding]:
    """Everything that does not depend on a source."""
    environment = complete_environment()
    yield Finding("ok", f"riafs {version()}, Python {platform.python_version()}, Linux {platform.release()}")
    yield _check_pyfuse3()
    yield _check_device()
    yield from _check_fusermount()
    yield _check_git()
    yield _check_program("7z", "7zz", without="some archives take longer to decode", package="7zip")
    yield _check_program("gpg", without="content encrypted by git-annex cannot be read", package="gnupg")
    yield _check_libarchive()
    yield from _check_packages()
    try:
        yield _check_cache(load(environment, ()).settings.cache_dir)
    except UsageError as error:
        yield Finding("fail", str(error), "correct it: no mount starts with this setting")


def _check_pyfuse3() -> Finding:
    try:
        return Finding("ok", f"pyfuse3 {metadata.version('pyfuse3')}, trio {metadata.version('trio')}")
    except metadata.PackageNotFoundError as error:
        return Finding("fail", f"{error.name} is not installed", _pip_install(str(error.name)))


def _check_device() -> Finding:
    if not os.path.exists(_FUSE_DEVICE):
        return Finding("fail", f"there is no {_FUSE_DEVICE}", "modprobe fuse; in a container: --device /dev/fuse")
    if not os.access(_FUSE_DEVICE, os.R_OK | os.W_OK):
        return Finding(
            "fail", f"{_FUSE_DEVICE} may not be opened by this user", "ask root for mode 0666, as udev sets it"
        )
    return Finding("ok", f"{_FUSE_DEVICE} can be opened")


def _check_fusermount() -> Iterator[Finding]:
    program = shutil.which("fusermount3")
    if program is None:
        state = "warn" if os.geteuid() == 0 else "fail"
        yield Finding(state, "there is no fusermount3, which users need to mount", "apt install fuse3")
        return
    if os.geteuid() != 0 and not os.stat(program).st_mode & 0o4000:
        yield Finding("fail", f"{program} is not setuid root", f"chmod u+s {program}")
    else:
        yield Finding("ok", program)
    if os.geteuid() != 0 and not os.path.exists(_MOUNT_TABLE):
        advice = f"ln -s ../proc/self/mounts {_MOUNT_TABLE}"
        yield Finding("fail", f"there is no {_MOUNT_TABLE}, which fusermount3 needs to unmount", advice)
    if os.geteuid() != 0 and not user_allow_other():
        yield Finding("warn", "only root can mount with allow-other here", "put user_allow_other into /etc/fuse.conf")


def user_allow_other(path: str = "/etc/fuse.conf") -> bool:
    """Whether fuse.conf lets users give others access to their mounts."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return any(line.strip() == "user_allow_other" for line in file)
    except OSError:
        return False


def _check_git() -> Finding:
    try:
        done = run_again(["git", "--version"], seconds=_PROGRAM_SECONDS)
    except FileNotFoundError:
        return Finding("fail", "git is not installed", "apt install git")
    except OSError as error:
        return Finding("fail", f"git cannot be started: {error.strerror}", "see that git --version works here")
    except subprocess.TimeoutExpired:
        return Finding(
            "fail",
            f"git did not tell its version in {_PROGRAM_SECONDS:g} s",
            "try again; the disk that git is on may not answer",
        )
    except ProgramKilled as error:
        return Finding(
            "fail", str(error), "something on this machine ended it: look for a lack of memory in the kernel's log"
        )
    said = done.stdout.decode(errors="replace").partition("\n")[0]
    found = re.search(r"(\d+)\.(\d+)", said)
    if done.returncode or found is None:
        told = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        return Finding("fail", f"git does not tell its version: {told or cause(done.returncode)}", "apt install git")
    if (int(found[1]), int(found[2])) < _OLDEST_GIT:
        return Finding("fail", said, f"riafs needs git {_OLDEST_GIT[0]}.{_OLDEST_GIT[1]} or newer")
    return Finding("ok", said)


def _check_program(*names: str, without: str, package: str) -> Finding:
    for name in names:
        path = shutil.which(name)
        if path is not None:
            return Finding("ok", path)
    return Finding("warn", f"there is no {names[0]}, so {without}", f"apt install {package}")


def _check_libarchive() -> Finding:
    number = call_in_child(_libarchive_version, _PROGRAM_SECONDS, "libarchive")
    if not number:
        without = "annexed archives (tar, zip, …) and members packed with BCJ2 cannot be read"
        return Finding("warn", f"there is no libarchive, so {without}", "apt install libarchive13")
    return Finding("ok", f"libarchive {number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}")


def _libarchive_version() -> int:
    """As libarchive counts (3.6.2: 3006002), 0 where it cannot be loaded. In a child, as it is foreign code."""
    try:
        with libarchive_loaded():
            from libarchive.ffi import version_number
    except MissingProgram:
        return 0
    return int(version_number())


def _check_packages() -> Iterator[Finding]:
    """Python packages for some kinds of content."""
    missing = [(package, without) for module, package, without in _READERS if not _is_installed(module)]
    if not any(map(_is_installed, _ZSTANDARD)):
        missing.append(("backports.zstd", "archive members packed with Zstandard cannot be read"))
    if not any(map(_is_installed, _CIPHERS)):
        missing.append(("cryptography", "archives with a password cannot be read"))
    for package, without in missing:
        yield Finding("warn", f"there is no Python package {package}, so {without}", _pip_install(package))
    if not missing:
        yield Finding("ok", "Python packages for all methods of archives and all digests of keys")
    if not _is_installed("isal"):
        yield Finding(
            "ok", "checksums of archives and of cached blocks would be faster with isal", _pip_install("isal")
        )


def _is_installed(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it would be in
        return False


def _pip_install(package: str) -> str:
    """The command that adds a package to this installation, by root where only root may change it."""
    sudo = "" if os.access(os.path.dirname(os.path.dirname(os.path.abspath(riafs.__file__))), os.W_OK) else "sudo "
    return f"{sudo}{shlex.quote(sys.executable)} -m pip install {package}"


def _check_cache(path: str) -> Finding:
    """The directory or, before the first mount, the nearest one above it that exists."""
    existing = path
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing) or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(
            "warn",
            f"cache directory {path} cannot be written",
            "set cache-dir; until then each mount verifies all content again",
        )
    return Finding("ok", f"cache directory {path}")


# -- the source -------------------------------------------------------------------------------------------------------


def check_source(text: str) -> list[Finding]:
    """Whether the source that `text` names can be read, and what is in it."""
    try:
        named = named_source(text)
        from riafs.cli.doctor_source import check_keep, check_store  # imports trio

        return list(check_store(named) if isinstance(named.source, RiaUrl) else check_keep(named))
    except RiafsError as error:
        return [Finding("fail", str(error))]
    except OSError as error:
        return [Finding("fail", f"store {text}: {error.strerror}", "check the path and its permissions")]
