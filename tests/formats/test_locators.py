import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import MalformedLocator
from riafs.formats.locators import (
    EMPTY_BLOCK,
    MAX_BLOCK,
    MAX_LOCATOR_SIZE,
    ZERO_BLOCK,
    Locator,
    parse_locator,
    service_weight,
)
from tests.collections import vectors

FOO = b"acbd18db4cc2f85cedef654fccc4a4d8"
SIGNATURE = b"A" + b"a7" * 20 + b"@7fffffff"


@pytest.mark.parametrize("vector", vectors()["locators"], ids=lambda vector: vector["locator"])
def test_what_is_a_locator_and_what_is_not(vector: dict[str, Any]) -> None:
    text = vector["locator"].encode()
    if vector["valid"]:
        assert parse_locator(text).text == text
    else:
        with pytest.raises(MalformedLocator):
            parse_locator(text)


def test_a_locator_has_a_digest_a_size_and_hints() -> None:
    assert parse_locator(FOO + b"+3+K@zzzzz+Zx") == Locator(FOO, 3, (b"K@zzzzz", b"Zx"))
    assert parse_locator(FOO + b"+3+K@zzzzz+Zx").unsigned == FOO + b"+3"


@pytest.mark.parametrize(
    ("hints", "time"),
    [
        (b"", None),
        (b"+K@zzzzz", None),
        (b"+A123@456", None),
        (b"+" + SIGNATURE, 0x7FFFFFFF),
        (b"+Zx+" + SIGNATURE + b"+K@zzzzz", 0x7FFFFFFF),
        (b"+Rzzzzz-" + b"1f" * 20 + b"@5835c8bc", 0x5835C8BC),
    ],
)
def test_the_signature_tells_when_it_expires(hints: bytes, time: int | None) -> None:
    assert parse_locator(FOO + b"+3" + hints).expires == time


def test_a_size_that_go_programs_cannot_hold_is_refused() -> None:
    assert parse_locator(FOO + b"+%d" % MAX_LOCATOR_SIZE).size == MAX_LOCATOR_SIZE
    with pytest.raises(MalformedLocator, match="for more than 2147483647 bytes"):
        parse_locator(FOO + b"+%d" % (MAX_LOCATOR_SIZE + 1))


@pytest.mark.parametrize("locator", [EMPTY_BLOCK, ZERO_BLOCK])
def test_the_special_blocks_are_zeros(locator: Locator) -> None:
    assert locator.size in (0, MAX_BLOCK)
    assert hashlib.md5(bytes(locator.size)).hexdigest().encode() == locator.digest


@given(st.binary(max_size=80) | st.from_regex(rb"[0-9a-f]{32}\+[0-9]{1,12}(\+[A-Za-z@0-9]{0,9}){0,3}", fullmatch=True))
def test_any_bytes_are_a_locator_or_refused(text: bytes) -> None:
    try:
        found = parse_locator(text)
    except MalformedLocator:
        return
    assert parse_locator(found.text) == found


@pytest.mark.parametrize("vector", vectors()["probe_orders"], ids=range(len(vectors()["probe_orders"])))
def test_services_are_asked_in_the_order_of_all_clients(vector: dict[str, Any]) -> None:
    for digest, order in vector["order"].items():
        found = sorted(
            vector["services"], key=lambda uuid: service_weight(digest.encode(), uuid.encode()), reverse=True
        )
        assert found == order
