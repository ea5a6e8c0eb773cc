"""Checksums are those of zlib, whichever library makes them."""

import sys
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.formats import digests


@given(st.lists(st.binary(max_size=100)))
def test_checksum_of_pieces_is_that_of_zlib(pieces: list[bytes]) -> None:
    checksum = 0
    for piece in pieces:
        checksum = digests.crc32(memoryview(piece), checksum)
    assert checksum == zlib.crc32(b"".join(pieces))


def test_zlib_serves_where_the_faster_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    assert digests._fastest() is zlib.crc32
