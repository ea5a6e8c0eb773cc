"""Short runs of ``python -m tests.damage``: right bytes or an error, whatever was damaged, and soon."""

from pathlib import Path

import pytest

from tests.damage.__main__ import run
from tests.damage.kinds import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_never_wrong_bytes_nor_a_death_nor_a_hang(kind: str, tmp_path: Path, long: bool) -> None:
    outcome = run(kind, "suite", 0, 100 if long else 3, tmp_path)
    assert not outcome.trouble
    assert outcome.told["children"] == 1
    assert outcome.told["right"] > 0
