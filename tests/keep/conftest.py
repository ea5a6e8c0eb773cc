"""A stand-in cluster for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.keep.standin.cluster import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """An empty cluster with two keepstores."""
    cluster = Cluster(tmp_path / "cluster")
    cluster.start()
    yield cluster
    cluster.stop()
