"""The exponent with which costs grow."""

import pytest

from tests.growth import slope


@pytest.mark.parametrize("exponent", [0, 1, 2])
def test_the_exponent_is_that_of_the_costs(exponent: int) -> None:
    sizes = (1000, 2000, 4000)
    assert slope(sizes, [3 * size**exponent for size in sizes]) == pytest.approx(exponent)


def test_constant_costs_beside_growing_ones_make_it_smaller() -> None:
    sizes = (1000, 2000, 4000)
    assert 0 < slope(sizes, [5000 + size for size in sizes]) < 1


def test_costs_too_small_to_be_measured_are_constant() -> None:
    assert slope((1, 2, 4), (0, 0, 0)) == 0
