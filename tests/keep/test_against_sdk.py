"""The real Arvados SDK writes collections and riafs shows them, and the other way round: bytes, names, portable data
hashes."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from riafs.tree.protocol import Kind
from tests.behaviour.drivers import Driver
from tests.fuse.mounting import mounted
from tests.keep.making import KeptStore
from tests.keep.sdk import sdk
from tests.keep.shown import shown, shown_cluster
from tests.keep.standin.cluster import Cluster

BLOCK = 1 << 26
NAMES = (
    "blank name",
    "co:lon",
    "back\\slash",
    "new\nline",
    "tab\t",
    "café",
    "日本",
    "-dash",
    "a'b\"c",
    "…",
    "\\040",
    "x" * 200,
)
SIZES = (0, 1, BLOCK // 2, BLOCK // 2 + 1, BLOCK - 1, BLOCK, BLOCK + 1)


def tree(top: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    """Files below `top`."""
    for name, content in files:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return top


async def everything(driver: Driver, path: bytes, below: str = "") -> dict[str, Any]:
    """path → size and MD5 of a file, None for a folder."""
    found: dict[str, Any] = {}
    for name in await driver.ls(path):
        status = await driver.stat(path + b"/" + name)
        key = below + os.fsdecode(name)
        if status.kind is Kind.DIRECTORY:
            found[key] = None
            found |= await everything(driver, path + b"/" + name, key + "/")
        else:
            content = await driver.read(path + b"/" + name)
            assert status.size == len(content)
            found[key] = [len(content), hashlib.md5(content).hexdigest()]
    return found


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Odd names, empty files and folders."""
    files = [(name, name.encode()) for name in NAMES] + [(f"in/{name}/{name}", b"") for name in NAMES[:4]]
    top = tree(tmp_path / "odd", files)
    (top / "empty folder" / "below").mkdir(parents=True)
    return top


async def test_what_the_sdk_writes_is_shown_as_it_reads_it(cluster: Cluster, odd: Path, tmp_path: Path) -> None:
    made = sdk(cluster, tmp_path, "write", "odd", odd)
    expected = sdk(cluster, tmp_path, "read", made["uuid"])
    assert len(expected) > 20
    async with shown_cluster(cluster) as driver:
        for identifier in (made["uuid"], made["hash"]):
            assert await everything(driver, f"by_id/{identifier}".encode()) == expected
        data_hash = await driver.getxattr(f"by_id/{made['uuid']}".encode(), "user.riafs.collection")
        assert data_hash.decode() == made["hash"]
        assert await everything(driver, b"home/odd") == expected


async def test_volumes_of_the_servers_can_be_mounted_without_them(cluster: Cluster, odd: Path, tmp_path: Path) -> None:
    made = sdk(cluster, tmp_path, "write", "odd", odd)
    expected = sdk(cluster, tmp_path, "read", made["uuid"])
    cluster.stop()
    (tmp_path / "kept").mkdir()
    kept = KeptStore(tmp_path / "kept")
    kept.write_text("odd.manifest", made["manifest"])
    kept.volumes = [server.volume for server in cluster.keepstores]
    async with shown(kept.source) as driver:
        assert await everything(driver, b"odd") == expected
        assert await everything(driver, b"by_id/" + made["hash"].encode()) == expected
    cluster.keepstores[0].volume.root.rename(tmp_path / "elsewhere")
    kept.volumes = kept.volumes[1:]
    async with shown(kept.source) as driver:
        assert await everything(driver, b"odd") == expected


async def test_files_around_the_size_of_a_block(
    cluster: Cluster, fuse: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [(f"size-{size}", hashlib.shake_128(b"%d" % size).digest(size)) for size in SIZES]
    top = tree(tmp_path / "sizes", files)
    made = sdk(cluster, tmp_path, "write", "sizes", top)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    with mounted(f"arvados://{cluster.host}#{made['uuid']}", tmp_path / "mount") as mount:
        for file, content in files:
            assert await mount.driver.read(file.encode()) == content


async def test_same_tree_has_the_same_hash_by_any_path(cluster: Cluster, odd: Path, tmp_path: Path) -> None:
    first, second = (sdk(cluster, tmp_path, "write", name, odd) for name in ("one", "two"))
    assert first["hash"] == second["hash"]
    async with shown_cluster(cluster) as driver:
        await driver.ls(b"home")
        hashes = [await driver.getxattr(f"home/{name}".encode(), "user.riafs.collection") for name in ("one", "two")]
        assert hashes == [first["hash"].encode()] * 2
