"""Targets: what is fed with inputs, and what has to hold of each: a value or a RiafsError, soon."""

import atexit
import functools
import os
import shutil
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from riafs.archive.index import read_columns
from riafs.cache.block_files import HEADER_SIZE, check_block
from riafs.errors import RiafsError
from riafs.formats.sevenzip.cursor import Limits
from riafs.formats.sevenzip.folder import Folder
from riafs.formats.sevenzip.fullheader import parse_full_header
from riafs.formats.sevenzip.header import Listing, parse_encoded_header, parse_header, parse_signature
from riafs.formats.sevenzip.lzma2 import Resets
from riafs.formats.sevenzip.writing import write_header
from tests.fuzz import seeds

SECONDS = 1.0
"""Processor time that no input may take; inputs have at most 128 KiB."""
_LIMITS = Limits()
_LOOKED_AT = 100
_CHUNKS_SIZE = 4301


@dataclass(frozen=True, slots=True)
class Target:
    """`feed` raises RiafsError or nothing; anything else is found."""

    seeds: Callable[[], Sequence[bytes]]
    feed: Callable[[bytes], None]

    def check(self, data: bytes) -> None:
        """Feed one input. Raises what must not come, TimeoutError where it took too long."""
        began = time.process_time()
        with suppress(RiafsError):
            self.feed(data)
        if time.process_time() - began > SECONDS:
            raise TimeoutError(f"{len(data)} bytes took {time.process_time() - began:.1f} s")


def _header(data: bytes) -> None:
    _look_at(parse_header(data, _LIMITS))


def _look_at(listing: Listing) -> None:
    """Ask a listing everything that a mount asks."""
    for position in range(min(len(listing), _LOOKED_AT)):
        member = listing.member(position)
        assert 0 <= member.size < 1 << 63
        found = listing.find(member.name)
        assert found is None or found.name == member.name
        if member.folder is None or member.stream is None:
            continue
        assert listing.member_of_stream(member.stream) == member
        streams = listing.streams_of(member.folder)
        assert member.stream in streams
        assert listing.stream_at(streams, member.offset) in range(streams.start, streams.stop + 1)
        with suppress(RiafsError):
            folder = listing.folder(member.folder)
            assert member.offset + member.size <= folder.size
            _folder(folder)


def _folder(folder: Folder) -> None:
    assert folder.pack_offset + folder.pack_size < 1 << 63
    assert folder.chain is None or len(folder.chain) == len(folder.shape.coders)
    assert folder.is_stored in (True, False)
    assert folder.memory >= 0


def _encoded(data: bytes) -> None:
    _folder(parse_encoded_header(data, _LIMITS))


def _columns(data: bytes) -> None:
    columns = parse_full_header(data, _LIMITS)
    written = write_header(columns)
    assert write_header(parse_full_header(written, _LIMITS)) == written


def _signature(data: bytes) -> None:
    place = parse_signature(data)
    assert 32 <= place.offset + place.size < 1 << 64


def _chunks(data: bytes) -> None:
    resets = Resets(len(data), _CHUNKS_SIZE)
    resets.walk(lambda offset, length: data[offset : offset + length], _CHUNKS_SIZE, len(data) + 1)
    assert resets.stretch(_CHUNKS_SIZE - 1).end <= resets.size


@functools.cache
def _index_path() -> bytes:
    made = tempfile.mkdtemp(prefix="riafs-fuzz-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return os.fsencode(made) + b"/index"


def _index(data: bytes) -> None:
    with open(_index_path(), "wb", buffering=0) as file:
        file.write(data)
    columns = read_columns(_index_path(), seeds.INDEX_NAME, seeds.INDEX_COLUMNS)
    for name, column in columns.items():
        assert array(seeds.INDEX_COLUMNS[name], column) == seeds.INDEX_VALUES[name]


def _block(data: bytes) -> None:
    check_block(seeds.BLOCK, data[:HEADER_SIZE], data[HEADER_SIZE:])
    assert data == seeds.blocks()[0]


TARGETS = {
    "header": Target(seeds.plain_headers, _header),
    "encoded": Target(seeds.encoded_headers, _encoded),
    "columns": Target(seeds.plain_headers, _columns),
    "signature": Target(seeds.fronts, _signature),
    "chunks": Target(seeds.chunk_rows, _chunks),
    "index": Target(seeds.indexes, _index),
    "block": Target(seeds.blocks, _block),
}
