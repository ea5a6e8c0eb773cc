"""The user's own git configuration: the author of commits, and replacements of URLs.

`environment` must have the variables by which git finds that configuration (HOME or XDG_CONFIG_HOME, PATH).
"""

import logging
import os
import subprocess
from collections.abc import Mapping

from riafs.children import first_line, run_again
from riafs.errors import NoAuthor, ProgramKilled
from riafs.formats.gitobjects import Stamp

log = logging.getLogger(__name__)

_IDENTITY_SECONDS = 10.0
_CONFIG_SECONDS = 5.0
_NOT_SET = 1
"""The exit status of git config where no name matches."""


def author(environment: Mapping[str, str], given: str | None = None) -> Stamp:
    """The author from the user's git configuration, or as `given` (``Name <address>``). Raises NoAuthor."""
    if given is None:
        return _identity("GIT_AUTHOR_IDENT", environment)
    name, opened, rest = given.partition("<")
    address, closed, after = rest.partition(">")
    if not (opened and closed and name.strip() and address.strip()) or after.strip():
        raise NoAuthor(f"an author is given as 'Name <address>', not as {given!r}")
    parts = {"GIT_AUTHOR_NAME": name.strip(), "GIT_AUTHOR_EMAIL": address.strip()}
    return _identity("GIT_AUTHOR_IDENT", {**environment, **parts})


def committer(environment: Mapping[str, str]) -> Stamp:
    """The committer from the user's git configuration. Raises NoAuthor."""
    return _identity("GIT_COMMITTER_IDENT", environment)


def _identity(variable: str, environment: Mapping[str, str]) -> Stamp:
    """The identity from git, which must not make up an address from the names of user and machine.

    Raises NoAuthor, ProgramKilled.
    """
    outside = {name: value for name, value in environment.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    try:
        command = ["git", "-c", "user.useConfigOnly=true", "var", variable]
        done = run_again(command, environment=outside, seconds=_IDENTITY_SECONDS, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAuthor(f"git cannot be asked for your name and address: {error}") from error
    if done.returncode or not done.stdout.strip():
        raise NoAuthor(
            "git does not know who you are; tell it with git config --global user.name NAME and user.email ADDRESS"
        )
    return Stamp(done.stdout.strip())


def instead_of_rules(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """(base, prefix) of each ``url.<base>.insteadOf = <prefix>`` in the user's git configuration.

    A configuration that git cannot read is named in the log and left out.
    """
    try:
        done = run_again(
            ["git", "config", "-z", "--get-regexp", r"^url\..*\.insteadof$"],
            environment=environment,
            seconds=_CONFIG_SECONDS,
        )
    except OSError as error:
        log.warning("url.*.insteadOf is not used, since git cannot be started: %s", error.strerror)
        return ()
    except subprocess.TimeoutExpired:
        log.warning(
            "url.*.insteadOf is not used, since git did not read its configuration within %g s", _CONFIG_SECONDS
        )
        return ()
    except ProgramKilled as error:
        log.warning("url.*.insteadOf is not used: %s", error)
        return ()
    if done.returncode not in (0, _NOT_SET):
        log.warning("url.*.insteadOf is not used, since git cannot read its configuration: %s", first_line(done.stderr))
    rules = []
    for item in done.stdout.split(b"\0"):
        key, found, prefix = item.partition(b"\n")
        if found:
            rules.append((os.fsdecode(key[len(b"url.") : -len(b".insteadof")]), os.fsdecode(prefix)))
    return tuple(rules)
