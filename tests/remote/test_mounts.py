"""Stores on other machines, mounted: read again without requests, while the machine is away, and after it came back."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from tests.fuse.mounting import Mounted, mounted, run_riafs
from tests.remote.here import SshHere, needs_sftp_server
from tests.small import Locked, SmallDataset, SmallStore, key_of

pytestmark = [pytest.mark.usefixtures("fuse"), needs_sftp_server]

CONTENTS = {b"file%02d" % number: b"content %d " % number * 1000 for number in range(60)}


@pytest.fixture
def ssh(tmp_path: Path) -> SshHere:
    return SshHere.make(tmp_path / "ssh")


@pytest.fixture
def dataset(tmp_path: Path) -> SmallDataset:
    store = SmallStore.make(tmp_path / "store")
    dataset = store.dataset("one", {name: Locked(key_of(content)) for name, content in CONTENTS.items()})
    for content in CONTENTS.values():
        dataset.put(key_of(content), content)
    return dataset


def url(tmp_path: Path, host: str = "store.example.org") -> str:
    return f"ria+ssh://{host}{tmp_path}/store"


def read_all(mount: Mounted) -> None:
    for name, content in CONTENTS.items():
        assert (mount.path / "one" / os.fsdecode(name)).read_bytes() == content


def sftp_servers(mount: Mounted) -> list[int]:
    """The processes that serve the mount."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if parent == mount.pid and b"sftp-server" in words[0]:
            found.append(int(process.name))
    return found


def failure(path: Path) -> int:
    """The errno with which reading fails; 0 where it does not."""
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno or -1
    return 0


def cut_off(mount: Mounted) -> None:
    """End the connection, as the other machine does when it goes down."""
    for pid in sftp_servers(mount):
        os.kill(pid, signal.SIGKILL)


def test_a_second_mount_sends_no_requests_for_files(dataset: SmallDataset, ssh: SshHere, tmp_path: Path) -> None:
    cache = ("--cache-dir", str(tmp_path / "cache"))
    with mounted(url(tmp_path), tmp_path / "first", *ssh.options, *cache) as mount:
        read_all(mount)
        assert mount.counter("blocks_made") == len(CONTENTS)
    fetches = ssh.calls("upload-pack")
    with mounted(url(tmp_path), tmp_path / "second", *ssh.options, *cache) as mount:
        read_all(mount)
        assert mount.counter("blocks_made") == 0
        assert ssh.calls("upload-pack") == fetches
        # Nothing is opened on the server: only refs are read there.
        cut_off(mount)
        ssh.go_down()
        read_all(mount)
        ssh.come_up()


def test_while_the_machine_is_away(dataset: SmallDataset, ssh: SshHere, tmp_path: Path) -> None:
    """What was read stays, the rest fails at once with the reason, and comes back without a new mount."""
    with mounted(url(tmp_path), tmp_path / "mounted", *ssh.options) as mount:
        top = mount.path / "one"
        assert (top / "file07").read_bytes() == CONTENTS[b"file07"]
        cut_off(mount)
        ssh.go_down()
        assert len(os.listdir(top)) == len(CONTENTS)
        assert (top / "file07").read_bytes() == CONTENTS[b"file07"]
        began = time.monotonic()
        for name in ("file50", "file51", "file52"):
            assert failure(top / name) == errno.EHOSTUNREACH
        assert time.monotonic() - began < 5
        assert "No route to host" in mount.logged()
        assert "since" in mount.logged()
        ssh.come_up()
        deadline = time.monotonic() + 40
        while failure(top / "file50"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert (top / "file50").read_bytes() == CONTENTS[b"file50"]
        assert "can be reached again" in mount.logged()


def test_an_open_file_goes_on_over_a_new_connection(dataset: SmallDataset, ssh: SshHere, tmp_path: Path) -> None:
    content = os.urandom(20 << 20)
    dataset.commit({b"large": Locked(key_of(content))})
    dataset.put(key_of(content), content)
    with (
        mounted(url(tmp_path), tmp_path / "mounted", *ssh.options) as mount,
        open(mount.path / "one" / "large", "rb") as file,
    ):
        assert file.read(1 << 20) == content[: 1 << 20]
        cut_off(mount)
        assert file.read() == content[1 << 20 :]


def test_versions_of_a_path_in_the_mount(dataset: SmallDataset, ssh: SshHere, tmp_path: Path) -> None:
    with mounted(url(tmp_path), tmp_path / "mounted", *ssh.options) as mount:
        done = run_riafs("versions", mount.path / "one")
        assert done.returncode == 0, done.stderr
        assert "branch  main" in done.stdout


def test_a_new_commit_is_shown(dataset: SmallDataset, ssh: SshHere, tmp_path: Path) -> None:
    with mounted(url(tmp_path), tmp_path / "mounted", *ssh.options) as mount:
        assert len(os.listdir(mount.path / "one")) == len(CONTENTS)
        dataset.commit({b"only": Locked(key_of(CONTENTS[b"file00"]))})
        mount.refresh()
        assert os.listdir(mount.path / "one") == ["only"]
        assert (mount.path / "one" / "only").read_bytes() == CONTENTS[b"file00"]


def test_damaged_content_is_not_served_and_a_repaired_copy_is(
    dataset: SmallDataset, ssh: SshHere, tmp_path: Path
) -> None:
    """Also where the damaged one is in the cache."""
    stored = dataset.object_path(key_of(CONTENTS[b"file07"]))
    good = stored.read_bytes()
    stored.chmod(0o644)
    stored.write_bytes(b"X" + good[1:])
    cache = ("--cache-dir", str(tmp_path / "cache"))
    for number in range(2):
        with mounted(url(tmp_path), tmp_path / f"bad{number}", *ssh.options, *cache) as mount:
            assert failure(mount.path / "one" / "file07") == errno.EIO
    stored.write_bytes(good)
    os.utime(stored, (1, 1))
    with mounted(url(tmp_path), tmp_path / "good", *ssh.options, *cache) as mount:
        assert (mount.path / "one" / "file07").read_bytes() == good


def test_a_host_that_cannot_be_reached(dataset: SmallDataset, ssh: SshHere, tmp_path: Path) -> None:
    ssh.go_down()
    (tmp_path / "mnt").mkdir()
    began = time.monotonic()
    done = run_riafs("mount", url(tmp_path), tmp_path / "mnt", *ssh.options)
    assert time.monotonic() - began < 10
    assert done.returncode == 32
    assert "store.example.org cannot be reached: ssh: connect to host" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("mount", "{url}", "{mnt}", "-o", "rw"), "can only be read"),
        (("archive", "{url}#~one"), "is on another machine"),
        (("mount", "ria+ssh://me:secret@store.example.org/store", "{mnt}"), "has a password"),
        (("mount", "ria+http://store.example.org/store", "{mnt}"), "cannot be read yet"),
    ],
)
def test_refusals(dataset: SmallDataset, ssh: SshHere, tmp_path: Path, words: tuple[str, ...], text: str) -> None:
    (tmp_path / "mnt").mkdir()
    given = [word.format(url=url(tmp_path), mnt=tmp_path / "mnt") for word in words]
    done = run_riafs(*given, *(ssh.options if words[0] == "mount" else ()))
    assert done.returncode != 0
    assert text in done.stderr
    assert "secret" not in done.stderr
    assert not ssh.calls()


def test_commands(dataset: SmallDataset, ssh: SshHere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that read a store read one on another machine."""
    monkeypatch.setenv("RIAFS_SSH_COMMAND", ssh.command)

    def run(*words: str) -> str:
        done = run_riafs(*words)
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    assert "main" in run("versions", f"{url(tmp_path)}#~one")
    assert "1 dataset" in run("doctor", url(tmp_path))
    assert "60 good" in run("verify", f"{url(tmp_path)}#~one")
