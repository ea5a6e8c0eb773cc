"""Packets of sftp: what is encoded is what the draft says, and any bytes are a value or BadAnswer."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import BadAnswer
from riafs.formats.sftp import (
    Attributes,
    Data,
    Done,
    Extended,
    Failed,
    Handle,
    Limits,
    Names,
    Request,
    extended_packet,
    init_packet,
    open_packet,
    parse_limits,
    parse_reply,
    parse_version,
    path_packet,
    read_packet,
)

numbers = st.integers(0, 2**32 - 1)
texts = st.binary(max_size=40)


def string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def encoded(attributes: Attributes) -> bytes:
    """Attributes as a server sends them, with an owner in between."""
    flags, fields = 2, b""
    if attributes.size is not None:
        flags |= 1
        fields += struct.pack(">Q", attributes.size)
    fields += struct.pack(">II", 1000, 100)
    if attributes.mode is not None:
        flags |= 4
        fields += struct.pack(">I", attributes.mode)
    if attributes.mtime is not None:
        flags |= 8
        fields += struct.pack(">II", 7, attributes.mtime)
    return struct.pack(">I", flags) + fields


attributes = st.builds(Attributes, st.none() | st.integers(0, 2**64 - 1), st.none() | numbers, st.none() | numbers)


def test_requests() -> None:
    assert init_packet() == bytes.fromhex("00000005 01 00000003")
    assert path_packet(Request.STAT, b"/a", 7) == bytes.fromhex("0000000b 11 00000007 00000002 2f61")
    assert open_packet(b"/a", 8) == bytes.fromhex("00000013 03 00000008 00000002 2f61 00000001 00000000")
    assert read_packet(b"h", 2**33, 5, 9) == bytes.fromhex("00000016 05 00000009 00000001 68 0000000200000000 00000005")
    assert extended_packet(b"x", 1) == bytes.fromhex("0000000a c8 00000001 00000001 78")


@given(st.binary(max_size=200))
def test_any_packet_is_a_reply_or_a_bad_answer(packet: bytes) -> None:
    for parse in (parse_reply, parse_version):
        with contextlib.suppress(BadAnswer):
            parse(memoryview(packet))
    with contextlib.suppress(BadAnswer):
        parse_limits(packet)


@given(st.sampled_from([101, 102, 103, 104, 105, 201]), st.binary(max_size=200))
def test_any_payload_of_a_known_type(kind: int, payload: bytes) -> None:
    try:
        number, _ = parse_reply(memoryview(bytes([kind]) + payload))
    except BadAnswer:
        return
    assert number == int.from_bytes(payload[:4], "big")


@given(numbers, st.lists(st.tuples(texts, attributes), max_size=5))
def test_names(number: int, names: list[tuple[bytes, Attributes]]) -> None:
    body = b"".join(string(name) + string(b"-rw-r--r-- ...") + encoded(each) for name, each in names)
    packet = b"\x68" + struct.pack(">II", number, len(names)) + body
    assert parse_reply(memoryview(packet)) == (number, Names(tuple(names)))


@given(numbers, attributes)
def test_attributes_with_extensions(number: int, found: Attributes) -> None:
    body = encoded(found)
    [flags] = struct.unpack_from(">I", body)
    extended = struct.pack(">I", flags | 0x80000000) + body[4:] + struct.pack(">I", 1) + string(b"x") + string(b"y")
    assert parse_reply(memoryview(b"\x69" + struct.pack(">I", number) + extended)) == (number, found)


def test_other_replies() -> None:
    def reply(kind: int, payload: bytes) -> object:
        return parse_reply(memoryview(bytes([kind]) + struct.pack(">I", 3) + payload))

    assert reply(101, struct.pack(">I", 0) + string(b"Success") + string(b"en")) == (3, Done())
    assert reply(101, struct.pack(">I", 2)) == (3, Failed(2))
    assert reply(102, string(b"handle")) == (3, Handle(b"handle"))
    assert reply(103, string(b"bytes")) == (3, Data(memoryview(b"bytes")))
    assert reply(201, b"rest") == (3, Extended(b"rest"))
    with pytest.raises(BadAnswer, match="longer than the packet"):
        reply(103, struct.pack(">I", 10) + b"few")
    with pytest.raises(BadAnswer, match="unknown type 99"):
        reply(99, b"")


def test_the_first_packet_of_a_server() -> None:
    packet = b"\x02" + struct.pack(">I", 3) + string(b"limits@openssh.com") + string(b"1")
    assert parse_version(memoryview(packet)) == {b"limits@openssh.com": b"1"}
    with pytest.raises(BadAnswer, match="no sftp server"):
        parse_version(memoryview(b"Welcome"))


def test_limits() -> None:
    assert parse_limits(struct.pack(">4Q", 262144, 261120, 261120, 19995)) == Limits(262144, 261120, 19995)
    assert parse_limits(bytes(32)).handles == Limits().handles
    assert Limits(read=2**40).read_size <= 256 << 10
    assert Limits(read=1).read_size == 1024
