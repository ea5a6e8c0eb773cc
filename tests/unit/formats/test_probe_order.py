from typing import Any

import pytest

from riafs.formats.locators import service_weight, volume_weight
from tests.collections import vectors


@pytest.mark.parametrize("vector", vectors()["probe_orders"], ids=range(len(vectors()["probe_orders"])))
def test_services_are_asked_in_the_order_of_all_clients(vector: dict[str, Any]) -> None:
    for digest, order in vector["order"].items():
        found = sorted(
            vector["services"], key=lambda uuid: service_weight(digest.encode(), uuid.encode()), reverse=True
        )
        assert found == order


@pytest.mark.parametrize("vector", vectors()["volume_orders"], ids=lambda vector: vector["hash"])
def test_volumes_are_written_in_the_order_of_keepstore(vector: dict[str, Any]) -> None:
    digest = vector["hash"].encode()
    assert sorted(vector["mounts"], key=lambda uuid: volume_weight(digest, uuid.encode())) == vector["write_order"]
