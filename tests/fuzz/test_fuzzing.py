"""The short version of fuzzing; see README.md for the long ones."""

import pytest

from tests.fuzz.__main__ import fuzz
from tests.fuzz.targets import TARGETS

INPUTS = {"index": 300}


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_of_good_bytes_are_values_or_failures_of_ours(name: str, long: bool) -> None:
    fuzz(TARGETS[name], INPUTS.get(name, 2000) * (100 if long else 1), seed=1)
