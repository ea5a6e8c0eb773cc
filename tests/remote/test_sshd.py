"""A store behind a real sshd of its own on this machine."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fuse.mounting import mounted, run_riafs
from tests.small import Locked, SmallStore, key_of

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.usefixtures("fuse"),
    pytest.mark.skipif(SSHD is None, reason="sshd is not installed (Debian: apt install openssh-server)"),
]
_CONFIG = """ListenAddress 127.0.0.1
Port {port}
HostKey {place}/host
AuthorizedKeysFile {place}/key.pub
PidFile none
StrictModes no
UsePAM no
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True, slots=True)
class Sshd:
    """A running server. `command`: how ssh reaches it with the right key, and nothing of the user's own."""

    place: Path
    port: int

    @property
    def command(self) -> str:
        known = f"-o UserKnownHostsFile={self.place}/known -o GlobalKnownHostsFile=/dev/null"
        return f"ssh -F none -i {self.place}/key -o IdentitiesOnly=yes {known} -o StrictHostKeyChecking=yes"

    def url(self, path: Path) -> str:
        return f"ria+ssh://127.0.0.1:{self.port}{path}"


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    place = tmp_path / "sshd"
    place.mkdir()
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (place / "config").write_text(_CONFIG.format(port=port, place=place))
    kind, key, *_ = (place / "host.pub").read_text().split()
    (place / "known").write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd wants it for its privilege separation
    assert SSHD is not None
    server = subprocess.Popen([SSHD, "-D", "-f", place / "config", "-E", place / "log"])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield Sshd(place, port)
    finally:
        server.terminate()
        server.wait()


def test_a_store_behind_sshd(sshd: Sshd, tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    contents = {b"d/%d" % number: os.urandom(1000 * number) for number in range(40)}
    dataset = store.dataset("one", {name: Locked(key_of(content)) for name, content in contents.items()})
    for content in contents.values():
        dataset.put(key_of(content), content)
    with mounted(sshd.url(store.path), tmp_path / "mounted", "--ssh-command", sshd.command) as mount:
        assert sorted(os.listdir(mount.path)) == ["by-id", "one"]
        for name, content in contents.items():
            assert (mount.path / "one" / os.fsdecode(name)).read_bytes() == content


def test_a_host_with_another_key(sshd: Sshd, tmp_path: Path) -> None:
    """It is refused, and nothing waits for an answer to a question."""
    (sshd.place / "known").write_text((sshd.place / "known").read_text().replace("]:", "]:1"))
    (tmp_path / "mnt").mkdir()
    done = run_riafs("mount", sshd.url(tmp_path), tmp_path / "mnt", "--ssh-command", sshd.command)
    assert done.returncode != 0
    assert "ssh does not know the host's key" in done.stderr
    assert f"try once by hand: ssh -p {sshd.port} 127.0.0.1" in done.stderr


def test_a_user_who_may_not_log_in(sshd: Sshd, tmp_path: Path) -> None:
    (sshd.place / "key.pub").write_text("")
    (tmp_path / "mnt").mkdir()
    done = run_riafs("mount", sshd.url(tmp_path), tmp_path / "mnt", "--ssh-command", sshd.command)
    assert done.returncode != 0
    assert "Permission denied" in done.stderr
