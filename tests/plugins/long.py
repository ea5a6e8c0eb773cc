"""``--long``: proofs that take minutes or hours. The suite has short versions of them.

A test with the mark ``long`` runs with the option only; one that takes the fixture ``long`` does more with it.
"""

import pytest

SECONDS = 3600
"""What such a test may take."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long proofs as well, some hours in all")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out long tests, or give them time."""
    if not config.option.long:
        left_out = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
        return
    for item in items:
        if item.get_closest_marker("long") or (isinstance(item, pytest.Function) and "long" in item.fixturenames):
            item.add_marker(pytest.mark.timeout(SECONDS), append=False)


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether long proofs are wanted."""
    return bool(request.config.option.long)
