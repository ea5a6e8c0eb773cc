"""The log hygiene plugin sees what it should and nothing else."""

import logging
import re

from tests.plugins.log_hygiene import Announce, unexpected


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("riafs.content", logging.WARNING, __file__, 1, message, None, None)


def test_a_message_without_a_pattern_is_unexpected() -> None:
    assert unexpected([record("bad bytes")], [re.compile("other")]) == ["riafs.content: WARNING: bad bytes"]


def test_an_announced_warning_does_not_fail_the_test(expected_warnings: Announce) -> None:
    expected_warnings("announced .* 7")
    logging.getLogger("riafs.content").warning("announced with number %d", 7)


def test_information_is_no_warning() -> None:
    logging.getLogger("riafs.content").info("all is well")
