"""Real mounts of Keep: the command line, secrets, and what the kernel is told."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.mounting import COMMAND, PROJECT, Mounted, mounted, run_riafs
from tests.keep.making import KeptStore, manifest_of
from tests.keep.standin.api import TOKEN
from tests.keep.standin.cluster import Cluster
from tests.keep.standin.records import Record, now, set_manifest
from tests.plugins import mounts

SECRET = TOKEN.rpartition("/")[2]
HELPER = ("-c", "import sys; from riafs.cli.main import run; sys.exit(run('mount.riafs', sys.argv[1:]))")
FILES = {b"file": b"content", b"below/other": b"other"}

pytestmark = pytest.mark.usefixtures("fuse", "no_mounts_left")


@pytest.fixture
def kept(tmp_path: Path) -> KeptStore:
    (tmp_path / "store").mkdir()
    store = KeptStore(tmp_path / "store")
    store.write("one.manifest", FILES)
    return store


@pytest.fixture
def told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, with the environment that leads to it."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


def made(cluster: Cluster, name: str) -> Record:
    return cluster.collection(name, manifest_of(FILES, cluster.put))


def visible_to_others(mount: Mounted) -> str:
    """What anybody can read of a mount's process, and what its user is told."""
    command = Path(f"/proc/{mount.pid}/cmdline").read_text()
    virtual = "".join((mount.path / ".riafs" / name).read_text() for name in ("stats", "errors", "config"))
    return command + virtual + str(mount.status()) + mount.logged() + Path("/proc/self/mountinfo").read_text()


# -- a cluster --------------------------------------------------------------------------------------------------------


def test_cluster_is_mounted_and_keeps_its_secret(told: Cluster, tmp_path: Path) -> None:
    record = made(told, "one")
    with mounted(f"arvados://{told.host}", tmp_path / "m", "--log-level", "debug") as mount:
        assert (mount.path / "home/one/file").read_bytes() == b"content"
        assert (mount.path / "by_id" / record["portable_data_hash"] / "below/other").read_bytes() == b"other"
        assert SECRET not in visible_to_others(mount)
        assert not re.search(r"\+A[0-9a-f]{40}@", visible_to_others(mount))
        assert "+A" not in (mount.path / "home/one/.arvados#collection").read_text()


def test_token_file_is_used_and_has_to_be_private(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(cluster, "one")
    monkeypatch.setenv("SSL_CERT_FILE", str(cluster.certificate))
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    with mounted(f"arvados://{cluster.host}", tmp_path / "m", "--token-file", str(token)) as mount:
        assert (mount.path / "home/one/file").read_bytes() == b"content"
        assert SECRET not in visible_to_others(mount)
    token.chmod(0o644)
    (tmp_path / "n").mkdir()
    done = run_riafs("mount", f"arvados://{cluster.host}", tmp_path / "n", "--token-file", token)
    assert done.returncode == 1
    assert "must be yours and have mode 0600" in done.stderr
    assert SECRET not in done.stderr


def test_mount_without_a_token_says_where_one_is_looked_for(
    told: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARVADOS_API_TOKEN")
    done = run_riafs("mount", f"arvados://{told.host}#zzzzz-4zz18-000000000000000", tmp_path)
    assert done.returncode == 32
    assert "set ARVADOS_API_TOKEN or token-file" in done.stderr


def test_looking_for_changes_costs_one_request_a_round(told: Cluster, tmp_path: Path) -> None:
    record = made(told, "one")
    with mounted(f"arvados://{told.host}", tmp_path / "m", "--refresh", "0.5") as mount:
        path = mount.path / "by_id" / record["uuid"]
        assert sorted(os.listdir(path)) == ["below", "file"]
        told.api.shape.reset()
        began = time.monotonic()
        while time.monotonic() - began < 3:
            assert os.listdir(path / "below") == ["other"]
        assert 3 <= told.api_requests() <= 7
        opened = (path / "file").open("rb")
        set_manifest(record, manifest_of({b"file": b"later content"}, told.put))
        until = time.monotonic() + 5
        while os.listdir(path) != ["file"]:
            assert time.monotonic() < until
            time.sleep(0.05)
        assert (path / "file").read_bytes() == b"later content"
        with opened:
            assert opened.read() == b"content"


def test_collection_that_comes_into_being_is_found(told: Cluster, tmp_path: Path) -> None:
    text = manifest_of({b"late": b"content"}, told.put)
    known = told.collection("known", text)
    data_hash = known["portable_data_hash"]
    del told.records.tables["collections"][known["uuid"]]
    with mounted(f"arvados://{told.host}", tmp_path / "m", "--refresh", "0.5") as mount:
        path = mount.path / "by_id" / data_hash
        assert not path.exists()
        told.collection("again", text)
        time.sleep(0.6)
        assert (path / "late").read_bytes() == b"content"
        assert os.listdir(mount.path / "by_id") == [data_hash]


def test_records_are_those_of_now(told: Cluster, tmp_path: Path) -> None:
    project = told.records.add("groups", name="p", description="first")
    record = told.collection("one", manifest_of(FILES, told.put), description="first", owner_uuid=project["uuid"])
    with mounted(f"arvados://{told.host}", tmp_path / "m", "--refresh", "0.5") as mount:
        paths = [mount.path / "home/p/one/.arvados#collection", mount.path / "home/p/.arvados#project"]
        assert [json.loads(path.read_text())["description"] for path in paths] == ["first", "first"]
        for each in (record, project):
            each |= {"description": "second", "modified_at": now()}
        until = time.monotonic() + 5
        while [json.loads(path.read_text())["description"] for path in paths] != ["second", "second"]:
            assert time.monotonic() < until
            time.sleep(0.1)


def test_content_by_hash_stays_in_the_kernel(told: Cluster, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    record = told.collection("one", manifest_of({b"large": content}, told.put))
    with mounted(f"arvados://{told.host}#{record['portable_data_hash']}", tmp_path / "m") as mount:
        assert (mount.path / "large").read_bytes() == content
        reads = mount.counter("reads")
        assert (mount.path / "large").read_bytes() == content
        assert mount.counter("reads") == reads


def test_dead_cluster_fails_the_mount_soon(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        done = run_riafs("mount", f"arvados://{host}", tmp_path)
        assert done.returncode == 32
        assert "(tried for 4 s)" in done.stderr
        assert time.monotonic() - began < 12


def test_blocks_are_pinned_and_evicted_by_the_files_that_have_them(told: Cluster, tmp_path: Path) -> None:
    made(told, "one")
    cache = ("--cache-dir", str(tmp_path / "cache"))
    with mounted(f"arvados://{told.host}", tmp_path / "m", *cache) as mount:
        assert (mount.path / "home/one/file").read_bytes() == b"content"
        assert "pinned 1" in " ".join(run_riafs("cache", *cache, "pin", mount.path / "home/one/file").stdout.split())
        until = time.monotonic() + 30
        while pinned(*cache) != 1:  # what was read is written behind the reader
            assert time.monotonic() < until
            time.sleep(0.05)
    assert pinned(*cache) == 1


def pinned(*cache: str) -> int:
    """How many pinned blocks there are."""
    status = json.loads(run_riafs("cache", *cache, "--json", "status").stdout)
    return int(status["pinned_blocks"])


def test_certificate_that_is_not_trusted_is_named(
    told: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARVADOS_API_HOST_INSECURE")
    done = run_riafs("mount", f"arvados://{told.host}", tmp_path)
    assert done.returncode == 32
    assert "certificate is not trusted" in done.stderr


# -- volumes ----------------------------------------------------------------------------------------------------------


def test_volumes_are_mounted_by_mount_helper_and_fstab_line(kept: KeptStore, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    line = run_riafs("mount", "--print-fstab", kept.source, tmp_path / "mnt", "--per-volume", "1").stdout
    source, directory, kind, options, *_ = line.split()
    assert kind == "riafs"
    assert "_netdev" not in options
    done = run_riafs(source, directory, "-o", options, command=HELPER)
    assert done.returncode == 0, done.stderr
    try:
        assert (tmp_path / "mnt/one/file").read_bytes() == b"content"
    finally:
        mounts.sweep(mounts.below(tmp_path))


def test_relative_paths_are_from_here(kept: KeptStore, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    source = kept.source.replace(str(kept.manifests), "store/manifests")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    words = [sys.executable, *COMMAND, "mount", source, "mnt"]
    subprocess.run(words, cwd=tmp_path, env=environment, check=True, stdin=subprocess.DEVNULL, timeout=30)
    try:
        assert (tmp_path / "mnt/one/below/other").read_bytes() == b"other"
    finally:
        mounts.sweep(mounts.below(tmp_path))


@contextlib.contextmanager
def mounted_from_input(source: str, text: bytes, directory: Path) -> Iterator[Path]:
    """A mount whose manifest comes on standard input."""
    mountpoint = directory / "mnt"
    mountpoint.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    words = [sys.executable, *COMMAND, "mount", source, mountpoint]
    try:
        subprocess.run(words, input=text, env=environment, check=True, timeout=30)
        yield mountpoint
    finally:
        mounts.sweep(mounts.below(directory))


def test_manifest_from_standard_input(kept: KeptStore, tmp_path: Path) -> None:
    text = manifest_of(FILES, kept.put).encode()
    with mounted_from_input(kept.source.replace(str(kept.manifests), "-"), text, tmp_path) as mountpoint:
        assert sorted(os.listdir(mountpoint)) == ["by_id", "stdin"]
        assert (mountpoint / "stdin/file").read_bytes() == b"content"


def test_manifest_on_input_is_not_for_fstab(kept: KeptStore, tmp_path: Path) -> None:
    done = run_riafs("mount", "--print-fstab", kept.source.replace(str(kept.manifests), "-"), tmp_path)
    assert done.returncode == 1
    assert "standard input" in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("volume0", "nothing", "volume {}/store/nothing does not exist"),
        ("manifests=", "manifests=/nothing/", "manifests /nothing"),
        ("?manifests", "?manifest", "unknown part 'manifest'"),
        ("manifests", "none#one&", "unknown part 'none'"),
    ],
)
def test_what_is_wrong_is_named(kept: KeptStore, tmp_path: Path, old: str, new: str, said: str) -> None:
    done = run_riafs("mount", kept.source.replace(old, new, 1), tmp_path)
    assert done.returncode in (1, 32)
    assert said.format(tmp_path) in done.stderr


def test_manifest_replaced_under_a_mount(kept: KeptStore, tmp_path: Path) -> None:
    with mounted(kept.source, tmp_path / "m") as mount:
        assert (mount.path / "one/file").read_bytes() == b"content"
        kept.write("one.manifest", {b"file": b"second content"})
        kept.write("two", FILES)
        mount.refresh()
        assert (mount.path / "one/file").read_bytes() == b"second content"
        assert sorted(os.listdir(mount.path)) == ["by_id", "one", "two"]
        assert os.listdir(mount.path / "one") == ["file"]


# -- doctor -----------------------------------------------------------------------------------------------------------


def test_doctor_looks_at_sources(told: Cluster, kept: KeptStore) -> None:
    done = run_riafs("doctor", kept.source)
    assert "manifests" in done.stdout
    assert f"ok    volume {kept.volumes[0].root}, 2 directories of blocks" in done.stdout
    done = run_riafs("doctor", f"arvados://{told.host}")
    assert "the token is accepted" in done.stdout
    assert f"block server {told.keepstores[1].url} answers" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    host = told.keepstores[0].url.split("/")[2]
    done = run_riafs("doctor", f"keep+http://{host},127.0.0.1:1?manifests=/nothing")
    assert done.returncode == 1
    assert f"ok    block server http://{host}/ answers" in done.stdout
    assert "fail  " in done.stdout


def test_mounts_of_stores_do_not_load_what_only_keep_needs() -> None:
    program = "import sys, riafs.daemon.assemble; print([name for name in sys.modules if name.startswith('urllib3')])"
    done = run_riafs(command=("-c", program))
    assert (done.stdout, done.stderr) == ("[]\n", "")
