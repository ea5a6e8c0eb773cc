"""Programs on other machines, through the user's own ``ssh``: its configuration, keys, agent, jump hosts, known hosts.

ssh asks nobody anything (BatchMode) and notices within a minute when the other machine has gone.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from riafs.errors import BadSource, MissingProgram, RiafsError, StoreDenied, StoreUnreachable
from riafs.formats.sources import RiaUrl

_PARTS = re.compile(r"(?:(?P<user>[^@]*)@)?(?P<host>\[[^\]]*\]|[^:]*)(?::(?P<port>\d*))?")
_MAX_REASON = 300
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3", "-a", "-x", "-T")


@dataclass(frozen=True, slots=True)
class SshOptions:
    """How ssh is called. `command`: the program and its first arguments."""

    command: tuple[str, ...] = ("ssh",)

    def with_options(self) -> list[str]:
        """The program with the options that every call has."""
        return [*self.command, *_OPTIONS]


@dataclass(frozen=True, slots=True)
class SshHost:
    """The machine of a ``ria+ssh`` URL, for messages and command lines."""

    user: str | None
    host: str
    port: str | None

    @classmethod
    def of(cls, source: RiaUrl) -> "SshHost":
        """Raises BadSource for a password, or a name that ssh could take for an option."""
        match = _PARTS.fullmatch(source.host or "")
        if match is None or not match["host"]:
            raise BadSource(f"{source} names no host")
        user, host = match["user"] or None, match["host"].strip("[]")
        if user is not None and ":" in user:
            raise BadSource(f"{source} has a password, which ssh does not take from a URL: use a key or an agent")
        if host.startswith("-") or (user or "").startswith("-"):
            raise BadSource(f"{source} has a host or user that begins with '-'")
        return cls(user, host, match["port"] or None)

    def __str__(self) -> str:
        return self.host if self.user is None else f"{self.user}@{self.host}"

    @property
    def by_hand(self) -> str:
        """The command by which a user tries the connection."""
        return f"ssh {self}" if self.port is None else f"ssh -p {self.port} {self}"

    def arguments(self, options: SshOptions) -> list[str]:
        """The command line up to the host."""
        found = options.with_options()
        if self.port is not None:
            found += ["-p", self.port]
        if self.user is not None:
            found += ["-l", self.user]
        return found

    def subsystem(self, options: SshOptions, name: str) -> list[str]:
        """The command line that runs a subsystem of the server (``sftp``)."""
        return [*self.arguments(options), "-s", "--", self.host, name]


def not_started(error: OSError, command: Sequence[str]) -> RiafsError:
    """The failure where the program itself cannot be started."""
    if isinstance(error, FileNotFoundError):
        return MissingProgram(f"{command[0]} is not installed (Debian: apt install openssh-client)")
    return MissingProgram(f"{command[0]} cannot be started: {error.strerror}")


def failure(host: SshHost, stderr: bytes) -> RiafsError:
    """The failure for what ssh wrote on standard error before it ended, with what to do."""
    reason = last_line(stderr)
    by_hand = f"try once by hand: {host.by_hand}"
    if "Host key verification failed" in stderr.decode(errors="replace"):
        return StoreDenied(f"{host}: ssh does not know the host's key, or knows another one; {by_hand}")
    if "Permission denied" in reason:
        return StoreDenied(f"{host}: {reason}; {by_hand}")
    if "subsystem request failed" in reason:
        return StoreDenied(f"{host} offers no sftp; ask its administrator for 'Subsystem sftp' in sshd_config")
    return StoreUnreachable(f"{host} cannot be reached: {reason or 'ssh ended without a message'}")


def last_line(stderr: bytes) -> str:
    """The last line that ssh wrote, as text that can be printed."""
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    text = lines[-1].strip()[:_MAX_REASON] if lines else ""
    return "".join(each if each.isprintable() else "?" for each in text)


def name_of(source: RiaUrl) -> str:
    """The store's name in messages: its URL without a dataset."""
    return f"ria+{source.scheme}://{source.host or ''}{os.fsdecode(source.path)}"
