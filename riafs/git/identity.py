"""Who the author of a commit is: what the user told git."""

import subprocess
from collections.abc import Mapping

from riafs.children import run_again
from riafs.errors import NoAuthor
from riafs.formats.gitobjects import Stamp

_SECONDS = 10.0


def author(environment: Mapping[str, str], given: str | None = None) -> Stamp:
    """The author by the user's git configuration, or as `given` (``Name <address>``). Raises NoAuthor.

    `environment` must hold what git needs to find that configuration (HOME or XDG_CONFIG_HOME, PATH).
    """
    return _asked("GIT_AUTHOR_IDENT", {**environment, **_parts(given)} if given else environment)


def committer(environment: Mapping[str, str]) -> Stamp:
    """Who makes the commit, by the user's git configuration. Raises NoAuthor."""
    return _asked("GIT_COMMITTER_IDENT", environment)


def _parts(given: str) -> Mapping[str, str]:
    name, opened, rest = given.partition("<")
    address, closed, after = rest.partition(">")
    if not (opened and closed and name.strip() and address.strip()) or after.strip():
        raise NoAuthor(f"an author is given as 'Name <address>', not as {given!r}")
    return {"GIT_AUTHOR_NAME": name.strip(), "GIT_AUTHOR_EMAIL": address.strip()}


def _asked(variable: str, environment: Mapping[str, str]) -> Stamp:
    """git's answer; it is not let to make up an address from the names of user and machine.

    Raises NoAuthor, ProgramKilled.
    """
    outside = {name: value for name, value in environment.items() if name not in ("GIT_DIR", "GIT_WORK_TREE")}
    try:
        command = ["git", "-c", "user.useConfigOnly=true", "var", variable]
        done = run_again(command, environment=outside, seconds=_SECONDS, cwd="/")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoAuthor(f"git cannot be asked who you are: {error}") from error
    if done.returncode or not done.stdout.strip():
        raise NoAuthor(
            "git does not know who you are; tell it with git config --global user.name NAME and user.email ADDRESS"
        )
    return Stamp(done.stdout.strip())
