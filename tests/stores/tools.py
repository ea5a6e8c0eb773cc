"""Starting the real tools (git, git-annex, DataLad, 7z, gpg) in a private environment.

Nothing of the user's set-up reaches them: HOME, git configuration and gpg's directory are the builder's own, their
standard input is empty (7z and gpg would wait on it), and the commit dates are fixed.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Argument = str | bytes | Path

EPOCH = 1_700_000_000
"""Commit date of everything the builder commits, in seconds since 1970."""

GIT_CONFIG = """\
[user]
    name = riafs tests
    email = tests@riafs.invalid
[init]
    defaultBranch = main
[gc]
    auto = 0
[protocol "file"]
    allow = always
"""


class ToolError(Exception):
    """A tool that has to work did not: the command, its exit status and what it said."""


@dataclass(frozen=True, slots=True)
class Tools:
    """The environment in which tools run."""

    home: Path
    extra: Mapping[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Make the private home."""
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / ".gitconfig").write_text(GIT_CONFIG)
        (self.home / "gnupg").mkdir(mode=0o700, exist_ok=True)

    def having(self, **variables: str) -> "Tools":
        """The same with more environment variables."""
        return Tools(self.home, {**self.extra, **variables})

    def environment(self) -> dict[str, str]:
        """All variables a tool sees. The programs beside this Python come first in PATH."""
        return {
            "HOME": str(self.home),
            "GNUPGHOME": str(self.home / "gnupg"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "LANG": "C.UTF-8",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_AUTHOR_DATE": f"{EPOCH} +0000",
            "GIT_COMMITTER_DATE": f"{EPOCH} +0000",
            "DATALAD_LOG_LEVEL": "error",
            "DATALAD_UI_PROGRESSBAR": "none",
            **self.extra,
        }

    def run(self, cwd: Path, *command: Argument, stdin: bytes = b"") -> bytes:
        """What the command prints. Raises ToolError."""
        done = subprocess.run(command, cwd=cwd, env=self.environment(), input=stdin, capture_output=True)
        if done.returncode:
            raise ToolError(f"{words(command)} in {cwd} ended with {done.returncode}:\n{said(done)}")
        return done.stdout


def words(command: Sequence[Argument]) -> str:
    """A command as one line for a message."""
    return " ".join(os.fsdecode(word) for word in command)


def said(done: subprocess.CompletedProcess[bytes]) -> str:
    """The end of both outputs of a finished command."""
    return (done.stdout + done.stderr)[-4000:].decode(errors="replace")
