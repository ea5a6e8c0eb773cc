"""A short run of ``python -m tests.faults.killchildren``."""

from pathlib import Path

from tests.faults.killchildren import check


def test_children_that_others_kill_cost_no_reader_and_no_push_anything(fuse: None, tmp_path: Path, long: bool) -> None:
    killing = check(tmp_path, "suite", 120 if long else 2)
    assert killing.told["read"] > 0
    assert killing.killed.total() > 5
