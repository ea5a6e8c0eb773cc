"""``riafs verify`` on collections of Keep: volumes and clusters, damage and replication by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from riafs.cli import main
from tests.keep.standin.cluster import Cluster
from tests.keep.standin.keepstore import Volume
from tests.plugins.log_hygiene import Announce

FOO, BAR = b"foo" * 1000, b"bar" * 1000


@pytest.fixture(autouse=True)
def _damage_is_expected(expected_warnings: Announce) -> None:
    expected_warnings("block", "cannot be shown")


@pytest.fixture
def volumes(tmp_path: Path) -> list[Volume]:
    """Two volumes with both blocks."""
    made = [Volume(tmp_path / name) for name in ("volume0", "volume1")]
    for volume in made:
        volume.put(FOO)
        volume.put(BAR)
    return made


@pytest.fixture
def source(tmp_path: Path, volumes: list[Volume]) -> str:
    """A manifest with three files over two blocks."""
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    foo, bar = (volumes[0].put(block) for block in (FOO, BAR))
    (manifests / "one.manifest").write_text(f". {foo} {bar} 0:3000:a 0:4000:b 0:0:empty 5000:1000:c\n")
    return f"keep+file://{volumes[0].root},{volumes[1].root}?manifests={manifests}"


def verify(capfd: pytest.CaptureFixture[str], source: str, *words: str, status: int = 0) -> dict[str, Any]:
    """What the command says in JSON; it must end with `status`."""
    assert main.run("riafs", ["verify", source, "--json", *words]) == status
    report: dict[str, Any] = json.loads(capfd.readouterr().out)
    return report


def rot(volume: Volume, block: bytes) -> None:
    path = volume.path(volume.put(block)[:32])
    path.write_bytes(b"X" + path.read_bytes()[1:])


def lose(volume: Volume, block: bytes) -> None:
    volume.path(volume.put(block)[:32]).unlink()


def test_a_good_source_has_nothing_to_report(source: str, capfd: pytest.CaptureFixture[str]) -> None:
    report = verify(capfd, source)
    assert (report["parts"], report["good"], report["bytes"], report["usable_copies"]) == (2, 2, 6000, 2)
    assert verify(capfd, source, "--all-replicas")["usable_copies"] == 4


def test_a_rotten_block_is_named_with_the_files_that_use_it(
    source: str, volumes: list[Volume], capfd: pytest.CaptureFixture[str]
) -> None:
    for volume in volumes:
        rot(volume, BAR)
    [finding] = verify(capfd, source, status=2)["findings"]
    assert (finding["state"], finding["kind"], finding["name"]) == ("damaged", "block", volumes[0].put(BAR))
    assert [path.rpartition("/")[2] for path in finding["files"]] == ["b", "c"] * (len(finding["files"]) // 2)


def test_a_missing_block_is_missing(source: str, volumes: list[Volume], capfd: pytest.CaptureFixture[str]) -> None:
    for volume in volumes:
        lose(volume, FOO)
    [finding] = verify(capfd, source, status=2)["findings"]
    assert finding["state"] == "missing"


def test_replicas_are_counted(source: str, volumes: list[Volume], capfd: pytest.CaptureFixture[str]) -> None:
    lose(volumes[0], FOO)
    rot(volumes[1], BAR)
    report = verify(capfd, source, "--copies", "2", status=64)
    assert {each["state"] for each in report["findings"]} == {"under-replicated"}
    copies = {each["name"]: sorted(copy["state"] for copy in each["copies"]) for each in report["findings"]}
    assert sorted(copies.values()) == [["absent", "good"], ["damaged", "good"]]
    report = verify(capfd, source, "--copies", "1", status=64)
    assert {each["state"] for each in report["findings"]} == {"damaged copy"}


def test_more_copies_than_asked_for_are_no_failure(source: str, capfd: pytest.CaptureFixture[str]) -> None:
    report = verify(capfd, source, "--copies", "1")
    assert {each["state"] for each in report["findings"]} == {"over-replicated"}


def test_a_refused_manifest_is_told_and_its_siblings_are_checked(
    source: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifests" / "bad.manifest").write_text("nonsense\n")
    report = verify(capfd, source, status=2)
    assert [each["path"] for each in report["unlisted"]] == ["bad"]
    assert report["good"] == 2


def test_blocks_that_no_file_uses_are_read_too(
    source: str, tmp_path: Path, volumes: list[Volume], capfd: pytest.CaptureFixture[str]
) -> None:
    text = (tmp_path / "manifests/one.manifest").read_text().replace(" 0:4000:b", "").replace(" 5000:1000:c", "")
    (tmp_path / "manifests/one.manifest").write_text(text)
    for volume in volumes:
        rot(volume, BAR)
    [finding] = verify(capfd, source, status=2)["findings"]
    assert (finding["files"], finding["used_by"]) == ([], 0)


@pytest.fixture
def known_cluster(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


def test_a_collection_of_a_cluster_is_held_to_what_it_asks_for(
    known_cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    locator = known_cluster.put(FOO)
    three = known_cluster.collection("three", f". {locator} 0:3000:f\n", replication_desired=3)["uuid"]
    [finding] = verify(capfd, f"arvados://{known_cluster.host}#{three}", "--all-replicas", status=64)["findings"]
    assert (finding["state"], finding["wanted"], len(finding["copies"])) == ("under-replicated", 3, 2)
    two = known_cluster.collection("two", f". {locator} 0:3000:g\n")["uuid"]
    assert verify(capfd, f"arvados://{known_cluster.host}#{two}", "--all-replicas")["findings"] == []
