"""A real sshd with keys of its own, and the ssh that reaches it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.fuse.mounting import PROJECT
from tests.remote.servers import HOST, Server, program, running


class SshServer(Server):
    """sshd, which lets in whoever has the key that `command` uses, as `user`."""

    user = "root"
    sftp_log: Path
    """What its sftp-server was asked for, request by request where it was started so."""

    @property
    def command(self) -> tuple[str, ...]:
        """The user's ssh, which reads nothing of ~/.ssh. Host, port and user come from the URL."""
        return ("ssh", "-F", str(self.directory / "ssh_config"))

    def command_through(self, port: int) -> tuple[str, ...]:
        """The same through a proxy at another port, as ssh's ProxyCommand, whatever port the URL has."""
        config = self.directory / f"ssh_config-{port}"
        connect = f"{sys.executable} -I {PROJECT / 'tests/remote/connect.py'} {HOST} {port}"
        config.write_text(
            (self.directory / "ssh_config").read_text() + f" ProxyCommand {connect}\n ProxyUseFdpass yes\n"
        )
        return ("ssh", "-F", str(config))

    def url(self, path: Path | str) -> str:
        """The RIA URL of a directory."""
        return f"ria+ssh://{self.user}@{HOST}:{self.port}{path}"

    def reads(self, name: str) -> list[tuple[int, int]]:
        """(offset, length) of each request to read files of that name, where it was started with `requests_logged`."""
        lines = [line for line in self.sftp_log.read_text(errors="replace").splitlines() if ": read " in line]
        words = [line.rsplit(" ", 4) for line in lines if f'{name}" (handle' in line]
        return [(int(offset), int(length)) for *_, offset, _, length in words]


@contextmanager
def sshd(
    directory: Path,
    *,
    user: str | None = None,
    sftp: str | None = None,
    requests_logged: bool = False,
    settings: Sequence[str] = (),
) -> Iterator[SshServer]:
    """sshd for this user; root may let it serve another `user`. Its key, known hosts and client's configuration are
    made below `directory`.

    `sftp` is the command of the subsystem, sftp-server with its log unless given, ``internal-sftp`` for one without a
    program; `settings` are further lines of its configuration, which come first and so win.
    """
    daemon, sftp_server = program("sshd"), program("sftp-server")
    directory.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as Debian's own unit does; sshd insists on it
    for name in ("host", "user", "authority"):
        _ssh_keygen("-q", "-t", "ed25519", "-N", "", "-f", directory / name)
    server = SshServer(directory, lambda port: (daemon, "-D", "-e", "-f", directory / "sshd_config", "-p", str(port)))
    server.user = user or _own_name()
    server.sftp_log = directory / "sftp.log"
    server.sftp_log.touch()
    server.sftp_log.chmod(0o666)
    # Signed instead of authorised: the list of authorised keys is read with the user's own rights.
    _ssh_keygen("-q", "-s", directory / "authority", "-I", "tests", "-n", server.user, directory / "user.pub")
    level = "DEBUG1" if requests_logged else "VERBOSE"
    subsystem = sftp or f"{sftp_server} -e -l {level} 2>>{server.sftp_log}"
    _write_ssh_configurations(directory, subsystem, settings)
    with running(server):
        yield server


def _ssh_keygen(*words: str | Path) -> None:
    subprocess.run([program("ssh-keygen"), *words], check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _own_name() -> str:
    return subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()


def _write_ssh_configurations(directory: Path, subsystem: str, settings: Sequence[str]) -> None:
    server = [
        *settings,
        f"ListenAddress {HOST}",
        f"HostKey {directory / 'host'}",
        "PidFile none",
        f"TrustedUserCAKeys {directory / 'authority.pub'}",
        "AuthorizedKeysFile none",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "PrintMotd no",
        "UseDNS no",
        "MaxStartups 100",
        "MaxSessions 100",
        "AcceptEnv GIT_PROTOCOL",
        "LogLevel VERBOSE",
        f"Subsystem sftp {subsystem}",
    ]
    (directory / "sshd_config").write_text("\n".join([*server, ""]))
    (directory / "known_hosts").write_text(f"riafs-tests {(directory / 'host.pub').read_text()}")
    client = {
        "IdentityFile": directory / "user",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": directory / "known_hosts",
        "GlobalKnownHostsFile": "none",
        "HostKeyAlias": "riafs-tests",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "SendEnv": "GIT_PROTOCOL",
    }
    lines = [f" {name} {value}\n" for name, value in client.items()]
    (directory / "ssh_config").write_text("".join(["Host *\n", *lines]))
