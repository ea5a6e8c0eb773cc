"""git's own configuration reader, for files of the store and for the user's settings.

A store's configuration is parsed by ``git config --file -`` from bytes we read ourselves, without includes, and only
ever as data: no git runs with it as its configuration.
"""

import logging
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from riafs.children import run_again
from riafs.errors import GitError, ProgramKilled
from riafs.formats.gitrepository import parse_config_list
from riafs.git.environment import PrivateGitDirs, run_git

log = logging.getLogger(__name__)

_SECONDS = 5.0
_NOT_SET = 1
"""How git config ends where no name matches."""
MAX_CONFIG = 8 << 20
"""Bytes of a ``config`` or ``.gitmodules`` that are looked at; 10,000 subdatasets need about 3 MB."""


async def parse_config(gits: PrivateGitDirs, text: bytes) -> tuple[tuple[bytes, bytes | None], ...]:
    """(key in lower case but for the subsection, value) for each line of `text`. Raises GitError for malformed text,
    ProgramKilled."""
    with trio.move_on_after(_SECONDS):
        command = [gits.program, "config", "--file", "-", "--no-includes", "-z", "--list"]
        done = await run_git(command, gits.environment(b"/nonexistent", b"sha1"), text)
        if done.returncode:
            raise GitError(f"git cannot parse the configuration: {_first_line(done.stderr)}")
        return parse_config_list(done.stdout)
    raise GitError(f"git config took longer than {_SECONDS:g} s")


async def change_config(gits: PrivateGitDirs, text: bytes, commands: Sequence[Sequence[bytes]]) -> bytes:
    """A configuration after ``git config`` with each of `commands`, which leaves the rest as it is.

    Raises GitError, ProgramKilled.
    """
    with tempfile.NamedTemporaryFile(dir=gits.scratch) as file:
        file.write(text)
        file.flush()
        path = os.fsdecode(file.name)
        for command in commands:
            words = [gits.program, "config", "--file", path, *map(os.fsdecode, command)]
            environment = gits.environment(b"/nonexistent", b"sha1")
            done = await run_git(words, environment, b"", lock=os.fsencode(path) + b".lock")
            if done.returncode:
                raise GitError(f"git cannot change the configuration: {_first_line(done.stderr)}")
        return Path(path).read_bytes()


def _first_line(text: bytes) -> str:
    return text.decode(errors="replace").strip().partition("\n")[0]


def instead_of_rules(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """(base, prefix) of each ``url.<base>.insteadOf = <prefix>`` in the user's git configuration.

    A configuration that git cannot read is named in the log and passed over.
    `environment` must hold what git needs to find that configuration (HOME or XDG_CONFIG_HOME, PATH).
    """
    try:
        done = run_again(
            ["git", "config", "-z", "--get-regexp", r"^url\..*\.insteadof$"], environment=environment, seconds=_SECONDS
        )
    except OSError as error:
        log.warning("url.*.insteadOf is not used, since git cannot be started: %s", error.strerror)
        return []
    except subprocess.TimeoutExpired:
        log.warning("url.*.insteadOf is not used, since git did not read its configuration within %g s", _SECONDS)
        return []
    except ProgramKilled as error:
        log.warning("url.*.insteadOf is not used: %s", error)
        return []
    if done.returncode not in (0, _NOT_SET):
        log.warning(
            "url.*.insteadOf is not used, since git cannot read its configuration: %s", _first_line(done.stderr)
        )
    rules = []
    for item in done.stdout.split(b"\0"):
        key, found, prefix = item.partition(b"\n")
        if found:
            rules.append((os.fsdecode(key[len(b"url.") : -len(b".insteadof")]), os.fsdecode(prefix)))
    return rules
