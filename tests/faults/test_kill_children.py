"""A short run of ``python -m tests.faults.killchildren``."""

import os
from pathlib import Path

from tests.faults.killchildren import check

SECONDS = 4.0 * int(os.environ.get("RIAFS_TEST_ROUNDS", "1"))


def test_children_that_others_kill_cost_no_reader_and_no_push_anything(fuse: None, tmp_path: Path) -> None:
    killing = check(tmp_path, "suite", SECONDS)
    assert killing.told["read"] > 0
    assert killing.killed.total() > 5
