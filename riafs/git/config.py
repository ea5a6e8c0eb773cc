"""git's own configuration reader, for files of the store and for the user's settings.

A store's configuration is parsed by ``git config --file -`` from bytes we read ourselves, without includes, and only
ever as data: no git runs with it as its configuration.
"""

import os
import subprocess
from collections.abc import Mapping

import trio

from riafs.errors import GitError
from riafs.formats.gitconfig import parse_config_list
from riafs.git.environment import PrivateGitDirs

_SECONDS = 5.0
MAX_CONFIG = 8 << 20
"""Bytes of a ``config`` or ``.gitmodules`` that are looked at; 10,000 subdatasets need about 3 MB."""


async def parse_config(gits: PrivateGitDirs, text: bytes) -> tuple[tuple[bytes, bytes | None], ...]:
    """(key in lower case but for the subsection, value) for each line of `text`. Raises GitError for malformed text."""
    with trio.move_on_after(_SECONDS):
        done = await trio.run_process(
            [gits.program, "config", "--file", "-", "--no-includes", "-z", "--list"],
            stdin=text,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=dict(gits.environment(b"/nonexistent", b"sha1")),
        )
        if done.returncode:
            raise GitError(f"git cannot parse the configuration: {_first_line(done.stderr)}")
        return parse_config_list(done.stdout)
    raise GitError(f"git config took longer than {_SECONDS:g} s")


def _first_line(text: bytes) -> str:
    return text.decode(errors="replace").strip().partition("\n")[0]


def instead_of_rules(environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """(base, prefix) of each ``url.<base>.insteadOf = <prefix>`` in the user's git configuration; none if git fails.

    `environment` must hold what git needs to find that configuration (HOME or XDG_CONFIG_HOME, PATH).
    """
    try:
        done = subprocess.run(
            ["git", "config", "-z", "--get-regexp", r"^url\..*\.insteadof$"],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    rules = []
    for item in done.stdout.split(b"\0"):
        key, found, prefix = item.partition(b"\n")
        if found:
            rules.append((os.fsdecode(key[len(b"url.") : -len(b".insteadof")]), os.fsdecode(prefix)))
    return rules
