"""A test fails where riafs or trio logs a warning that it did not announce.

A test that provokes warnings takes the fixture ``expected_warnings`` and gives a regular expression for each kind::

    def test_damaged_object_is_reported(expected_warnings):
        expected_warnings("digest of .* differs")
"""

import logging
import re
from collections.abc import Callable, Iterator

import pytest

WATCHED = ("riafs", "trio")

Announce = Callable[..., None]


class Collector(logging.Handler):
    """Keeps records of warnings and worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


def unexpected(records: list[logging.LogRecord], patterns: list[re.Pattern[str]]) -> list[str]:
    """Messages that no pattern is found in."""
    messages = [f"{record.name}: {record.levelname}: {record.getMessage()}" for record in records]
    return [message for message in messages if not any(pattern.search(message) for pattern in patterns)]


@pytest.fixture(autouse=True)
def _log_hygiene(request: pytest.FixtureRequest) -> Iterator[list[re.Pattern[str]]]:
    """Collect during the test, judge after it."""
    patterns: list[re.Pattern[str]] = []
    collector = Collector()
    loggers = [logging.getLogger(name) for name in WATCHED]
    for logger in loggers:
        logger.addHandler(collector)
    yield patterns
    for logger in loggers:
        logger.removeHandler(collector)
    left = unexpected(collector.records, patterns)
    if left:
        pytest.fail("unexpected warnings in the log:\n" + "\n".join(left), pytrace=False)


@pytest.fixture
def expected_warnings(_log_hygiene: list[re.Pattern[str]]) -> Announce:
    """Announce what may be logged: regular expressions searched in ``logger: LEVEL: message``."""

    def announce(*expressions: str) -> None:
        _log_hygiene.extend(re.compile(expression) for expression in expressions)

    return announce
