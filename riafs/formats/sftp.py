"""Packets of the SSH file transfer protocol, version 3, with OpenSSH's extensions; reading only.

A packet is its length, a type and a payload; all numbers are big-endian, and strings are preceded by their length
(draft-ietf-secsh-filexfer-02). ``limits@openssh.com`` is described in the file PROTOCOL of OpenSSH.
A server's packets may be anything: each gives a value or BadAnswer.
"""

import enum
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct
from struct import error as struct_error

from riafs.errors import BadAnswer

VERSION = 3
MAX_PACKET = 256 << 10
"""Bytes of the largest packet that is accepted, as in OpenSSH."""
LIMITS = b"limits@openssh.com"
_HEADER = Struct(">IBI")
_NUMBER = Struct(">I")
_LONG = Struct(">Q")
_RANGE = Struct(">QI")
_LIMITS = Struct(">4Q")
LENGTH = _NUMBER
"""What is in front of each packet: the number of bytes after it."""

_HAS_SIZE, _HAS_OWNER, _HAS_MODE, _HAS_TIMES, _HAS_EXTENSIONS = 1, 2, 4, 8, 0x80000000
_READ_ACCESS = 1


class Request(enum.IntEnum):
    """Types of packets that a client sends."""

    INIT = 1
    OPEN = 3
    CLOSE = 4
    READ = 5
    LSTAT = 7
    FSTAT = 8
    OPENDIR = 11
    READDIR = 12
    REALPATH = 16
    STAT = 17
    READLINK = 19
    EXTENDED = 200


class Status(enum.IntEnum):
    """Results of requests."""

    OK = 0
    EOF = 1
    NO_SUCH_FILE = 2
    PERMISSION_DENIED = 3
    FAILURE = 4
    BAD_MESSAGE = 5
    NO_CONNECTION = 6
    CONNECTION_LOST = 7
    OP_UNSUPPORTED = 8


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes of a file; None for those that the server does not send."""

    size: int | None = None
    mode: int | None = None
    """Type and permissions, as in stat(2)."""
    mtime: int | None = None
    """Seconds since 1970."""

    @property
    def is_regular(self) -> bool:
        """Whether the server calls it a regular file."""
        return self.mode is not None and stat.S_ISREG(self.mode)


@dataclass(frozen=True, slots=True)
class Failed:
    """A status other than OK."""

    code: int
    """One of `Status`, or any number."""


@dataclass(frozen=True, slots=True)
class Done:
    """The status OK."""


@dataclass(frozen=True, slots=True)
class Handle:
    """An open file or directory."""

    handle: bytes


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a file. They are part of the packet, and so as short-lived as its buffer."""

    data: memoryview


@dataclass(frozen=True, slots=True)
class Names:
    """Files with their attributes; of a link, or of a path made absolute, one file without any."""

    names: tuple[tuple[bytes, Attributes], ...]


@dataclass(frozen=True, slots=True)
class Extended:
    """The answer to a request of an extension."""

    payload: bytes


Reply = Done | Failed | Handle | Data | Names | Attributes | Extended


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server accepts, in bytes and open handles."""

    packet: int = 34_000
    """The least that the protocol demands."""
    read: int = 32_768
    handles: int = 100

    @property
    def read_size(self) -> int:
        """Bytes to ask for in one request."""
        return max(1024, min(self.read, MAX_PACKET - 1024))


# -- requests: the number comes last, as it is known last -------------------------------------------------------------


def init_packet() -> bytes:
    """The first packet of a client."""
    return _NUMBER.pack(5) + bytes((Request.INIT,)) + _NUMBER.pack(VERSION)


def path_packet(kind: Request, path: bytes, number: int) -> bytes:
    """A request whose only argument is a path or a handle."""
    return _packet(kind, number, _string(path))


def open_packet(path: bytes, number: int) -> bytes:
    """A request to open a file for reading."""
    return _packet(Request.OPEN, number, _string(path) + _NUMBER.pack(_READ_ACCESS) + _NUMBER.pack(0))


def read_packet(handle: bytes, offset: int, length: int, number: int) -> bytes:
    """A request for up to `length` bytes."""
    return _packet(Request.READ, number, _string(handle) + _RANGE.pack(offset, length))


def extended_packet(name: bytes, number: int) -> bytes:
    """A request of an extension without arguments."""
    return _packet(Request.EXTENDED, number, _string(name))


def _packet(kind: Request, number: int, payload: bytes) -> bytes:
    return _HEADER.pack(5 + len(payload), kind, number) + payload


def _string(text: bytes) -> bytes:
    return _NUMBER.pack(len(text)) + text


# -- replies ----------------------------------------------------------------------------------------------------------


class _Cursor:
    """Reads a packet from front to back."""

    def __init__(self, packet: memoryview) -> None:
        self._packet = packet
        self._position = 0

    def number(self) -> int:
        return self._unpack(_NUMBER)

    def long(self) -> int:
        return self._unpack(_LONG)

    def _unpack(self, form: Struct) -> int:
        try:
            [value] = form.unpack_from(self._packet, self._position)
        except struct_error as error:
            raise BadAnswer("the server sent a packet that ends too early") from error
        self._position += form.size
        return int(value)

    def string(self) -> memoryview:
        length = self.number()
        if length > len(self._packet) - self._position:
            raise BadAnswer("the server sent a packet with a text that is longer than the packet")
        self._position += length
        return self._packet[self._position - length : self._position]

    def rest(self) -> memoryview:
        return self._packet[self._position :]

    @property
    def is_at_end(self) -> bool:
        return self._position == len(self._packet)


def parse_version(packet: memoryview) -> Mapping[bytes, bytes]:
    """The extensions (name → version) that a server's first packet announces. Raises BadAnswer."""
    cursor = _Cursor(packet[1:])
    if not packet or packet[0] != 2 or cursor.number() < VERSION:
        raise BadAnswer("what answers is no sftp server of version 3")
    found: dict[bytes, bytes] = {}
    while not cursor.is_at_end:
        name = bytes(cursor.string())
        found[name] = bytes(cursor.string())
    return found


def parse_reply(packet: memoryview) -> tuple[int, Reply]:
    """The number of the request that a packet (without the length in front) answers, and the answer. Raises BadAnswer.

    Names are not checked: a listing may have anything in it.
    """
    if len(packet) < 5:
        raise BadAnswer("the server sent a packet that ends too early")
    cursor = _Cursor(packet[1:])
    number = cursor.number()
    parse = _REPLIES.get(packet[0])
    if parse is None:
        raise BadAnswer(f"the server sent a packet of the unknown type {packet[0]}")
    return number, parse(cursor)


def _status(cursor: _Cursor) -> Reply:
    code = cursor.number()  # a text and its language follow, in most servers
    return Done() if code == Status.OK else Failed(code)


def _handle(cursor: _Cursor) -> Reply:
    return Handle(bytes(cursor.string()))


def _data(cursor: _Cursor) -> Reply:
    return Data(cursor.string())


def _names(cursor: _Cursor) -> Reply:
    names = []
    for _ in range(cursor.number()):  # a wrong number ends at the end of the packet
        name = bytes(cursor.string())
        cursor.string()  # a line as of ls -l, for people
        names.append((name, _attributes(cursor)))
    return Names(tuple(names))


def _attributes(cursor: _Cursor) -> Attributes:
    flags = cursor.number()
    size = cursor.long() if flags & _HAS_SIZE else None
    if flags & _HAS_OWNER:
        cursor.long()
    mode = cursor.number() if flags & _HAS_MODE else None
    mtime = None
    if flags & _HAS_TIMES:
        cursor.number()
        mtime = cursor.number()
    if flags & _HAS_EXTENSIONS:
        for _ in range(cursor.number()):
            cursor.string()
            cursor.string()
    return Attributes(size, mode, mtime)


def _extended(cursor: _Cursor) -> Reply:
    return Extended(bytes(cursor.rest()))


_REPLIES = {101: _status, 102: _handle, 103: _data, 104: _names, 105: _attributes, 201: _extended}


def parse_limits(payload: bytes) -> Limits:
    """The answer to ``limits@openssh.com``, where 0 means no limit. Raises BadAnswer."""
    if len(payload) < _LIMITS.size:
        raise BadAnswer("the server sent limits that end too early")
    packet, read, _, handles = _LIMITS.unpack_from(payload)
    return Limits(packet or MAX_PACKET, read or MAX_PACKET, handles or Limits().handles)
