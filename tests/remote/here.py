"""An ssh whose other machine is this one: the store's side of a connection, without a server.

It runs the sftp program and git as sshd would for the same user. It writes a line for each call to ``calls`` beside it,
and refuses to connect while there is a file ``down`` beside it.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

_PROJECT = Path(__file__).parents[2]
SFTP_SERVER = "/usr/lib/openssh/sftp-server"
needs_sftp_server = pytest.mark.skipif(
    not os.path.exists(SFTP_SERVER), reason=f"{SFTP_SERVER} is not installed (Debian: apt install openssh-sftp-server)"
)

_SCRIPT = f"""#!/bin/sh
place=$(dirname "$0")
subsystem=
while [ $# -gt 0 ]; do
  case $1 in
    -s) subsystem=yes; shift ;;
    -o | -p | -l) shift 2 ;;
    --) shift; break ;;
    -*) shift ;;
    *) break ;;
  esac
done
host=$1
shift
echo "$host $*" >>"$place/calls"
if [ -e "$place/down" ]; then
  echo "ssh: connect to host $host port 22: No route to host" >&2
  exit 255
fi
if [ -n "$subsystem" ]; then exec {SFTP_SERVER}; fi
exec sh -c "$*"
"""


@dataclass(frozen=True, slots=True)
class SshHere:
    """`command`: the value of ``--ssh-command``."""

    place: Path

    @classmethod
    def make(cls, place: Path, milliseconds: float = 0, megabytes: float = 0) -> "SshHere":
        """With a round trip of so many milliseconds, and so many megabytes a second, 0 for no limit."""
        place.mkdir(parents=True, exist_ok=True)
        scripts = {"ssh": _SCRIPT}
        if milliseconds or megabytes:
            line = f"{sys.executable} -m tests.remote.slow_line {milliseconds:g} {megabytes:g}"
            scripts = {"near": _SCRIPT, "ssh": f'#!/bin/sh\ncd {_PROJECT} && exec {line} {place}/near "$@"\n'}
        for name, text in scripts.items():
            (place / name).write_text(text)
            (place / name).chmod(0o755)
        return cls(place)

    @property
    def command(self) -> str:
        return str(self.place / "ssh")

    @property
    def options(self) -> tuple[str, str]:
        """Of riafs' commands."""
        return "--ssh-command", self.command

    def calls(self, word: str = "") -> int:
        """How often it was called, with `word` in the remote command."""
        calls = self.place / "calls"
        return sum(word in line for line in calls.read_text().splitlines()) if calls.exists() else 0

    def go_down(self) -> None:
        """From now on, nothing connects. Connections that exist stay."""
        (self.place / "down").touch()

    def come_up(self) -> None:
        (self.place / "down").unlink()
