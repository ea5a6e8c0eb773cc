"""An sftp server on standard input and output that lies in one named way.

``python lying_sftp.py LIE [WORDS…] -s sftp`` takes the place of ssh: what ssh would be given as host and options is
ignored; anything but the sftp subsystem is run by the shell of this machine, so that git works. It imports nothing of
riafs and has its own small reading of the protocol (draft-ietf-secsh-filexfer-02), the witness of the client's.
"""

import os
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import BinaryIO

INIT, VERSION, OPEN, CLOSE, READ, LSTAT, FSTAT = 1, 2, 3, 4, 5, 7, 8
OPENDIR, READDIR, REALPATH, STAT, READLINK, EXTENDED = 11, 12, 16, 17, 19, 200
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, UNSUPPORTED = 0, 1, 2, 3, 4, 8
_HEAD = 5


def u32(value: int) -> bytes:
    return struct.pack(">I", value & 0xFFFFFFFF)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value & (1 << 64) - 1)


def text(value: bytes) -> bytes:
    return u32(len(value)) + value


def attributes(status: os.stat_result, size: int | None = None) -> bytes:
    """With size, owner, mode and times."""
    length = status.st_size if size is None else size
    numbers = (status.st_uid, status.st_gid, status.st_mode, int(status.st_atime), int(status.st_mtime))
    return u32(0x0F) + u64(length) + b"".join(map(u32, numbers))


class Reader:
    """Fields of a request."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, count: int) -> bytes:
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def u32(self) -> int:
        return int(struct.unpack(">I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack(">Q", self.take(8))[0])

    def text(self) -> bytes:
        return self.take(self.u32())


Packet = tuple[int, bytes, bytes]
"""Type, request number as it is sent, and the rest."""


class Server:
    """An honest server. Handles are descriptors in decimal, or ``d`` and a number for directories."""

    def __init__(self) -> None:
        self.directories: dict[bytes, Iterator[list[bytes]]] = {}
        self._opened = 0

    def answer(self, kind: int, number: bytes, fields: Reader) -> Packet:
        """The answer to one request."""
        try:
            return self._answer(kind, number, fields)
        except FileNotFoundError:
            return status_of(number, NO_SUCH_FILE)
        except PermissionError:
            return status_of(number, PERMISSION_DENIED)
        except (OSError, KeyError, ValueError):
            return status_of(number, FAILURE)

    def _answer(self, kind: int, number: bytes, fields: Reader) -> Packet:
        if kind == OPEN:
            return HANDLE, number, text(b"%d" % os.open(fields.text(), os.O_RDONLY | os.O_NONBLOCK))
        if kind == OPENDIR:
            return HANDLE, number, text(self._open_directory(fields.text()))
        if kind == CLOSE:
            return self._close(number, fields.text())
        if kind == READ:
            handle, offset, length = fields.text(), fields.u64(), fields.u32()
            data = os.pread(int(handle), min(length, 261_120), offset)
            return (DATA, number, text(data)) if data else status_of(number, EOF)
        if kind == READDIR:
            batch = next(self.directories[fields.text()], None)
            return (NAME, number, u32(len(batch)) + b"".join(batch)) if batch else status_of(number, EOF)
        return self._answer_about_paths(kind, number, fields)

    def _answer_about_paths(self, kind: int, number: bytes, fields: Reader) -> Packet:
        if kind == FSTAT:
            return ATTRS, number, attributes(os.fstat(int(fields.text())))
        if kind in {STAT, LSTAT}:
            return ATTRS, number, attributes((os.stat if kind == STAT else os.lstat)(fields.text()))
        if kind in {REALPATH, READLINK}:
            path = fields.text()
            found = os.path.realpath(path) if kind == REALPATH else os.readlink(path)
            return NAME, number, u32(1) + text(found) * 2 + u32(0)
        if kind == EXTENDED and fields.text() == b"limits@openssh.com":
            return EXTENDED_REPLY, number, b"".join(map(u64, (262_144, 261_120, 261_120, 1000)))
        return status_of(number, UNSUPPORTED)

    def _open_directory(self, path: bytes) -> bytes:
        names = [b".", b"..", *os.listdir(path)]
        entries = [entry(name, attributes(os.lstat(os.path.join(path, name)))) for name in names]
        self._opened += 1
        handle = b"d%d" % self._opened
        self.directories[handle] = iter([entries[start : start + 100] for start in range(0, len(entries), 100)])
        return handle

    def _close(self, number: bytes, handle: bytes) -> Packet:
        if self.directories.pop(handle, None) is None:
            os.close(int(handle))
        return status_of(number, OK)


def entry(name: bytes, attrs: bytes) -> bytes:
    """One name of a listing."""
    return text(name) + text(b"-rw-r--r-- 1 u g 0 Jan 1 00:00 " + name) + attrs


def status_of(number: bytes, code: int) -> Packet:
    """An answer that is only a status."""
    return STATUS, number, u32(code) + text(b"") + text(b"")


# -- lies: what becomes of an honest answer to a request of a kind -----------------------------------------------------

Lie = Callable[[int, Packet], bytes]


def encode(packet: Packet) -> bytes:
    """As it goes over the line."""
    body = bytes([packet[0]]) + packet[1] + packet[2]
    return u32(len(body)) + body


def _with_size(change: Callable[[int], int]) -> Lie:
    """Files have other sizes; directories are left alone."""

    def lie(_: int, packet: Packet) -> bytes:
        kind, number, rest = packet
        if kind != ATTRS or not stat.S_ISREG(struct.unpack(">I", rest[20:24])[0]):
            return encode(packet)
        size = int(struct.unpack(">Q", rest[4:12])[0])
        return encode((kind, number, rest[:4] + u64(change(size)) + rest[12:]))

    return lie


def _names(names: list[bytes]) -> Lie:
    """Listings consist of these names."""
    attrs = u32(0x04) + u32(stat.S_IFDIR | 0o755)
    state = {"told": False}

    def lie(request: int, packet: Packet) -> bytes:
        if request != READDIR:
            return encode(packet)
        if state["told"]:
            state["told"] = False
            return encode(status_of(packet[1], EOF))
        state["told"] = True
        return encode((NAME, packet[1], u32(len(names)) + b"".join(entry(name, attrs) for name in names)))

    return lie


def _endless(request: int, packet: Packet) -> bytes:
    """Listings have no end."""
    if request != READDIR:
        return encode(packet)
    attrs = u32(0x04) + u32(stat.S_IFREG | 0o644)
    names = [b"%d-%d" % (time.monotonic_ns(), index) for index in range(100)]
    return encode((NAME, packet[1], u32(len(names)) + b"".join(entry(name, attrs) for name in names)))


def _other_requests(_: int, packet: Packet) -> bytes:
    """Answers to requests that nobody sent."""
    return encode((packet[0], u32(struct.unpack(">I", packet[1])[0] + 1_000_000), packet[2]))


def _twice(_: int, packet: Packet) -> bytes:
    return encode(packet) * 2


def _other_kind(request: int, packet: Packet) -> bytes:
    """Names where data, attributes or a handle were asked for."""
    return encode((NAME, packet[1], u32(1) + entry(b"x", u32(0)))) if request in {READ, STAT, OPEN} else encode(packet)


def _oversized_data(request: int, packet: Packet) -> bytes:
    """More data than were asked for."""
    if request != READ or packet[0] != DATA:
        return encode(packet)
    data = packet[2][4:]
    return encode((DATA, packet[1], text(data + b"x" * 1000)))


def _huge_packet(request: int, packet: Packet) -> bytes:
    """A packet that claims to have 4 GB."""
    return u32(0xFFFFFFF0) + encode(packet)[4:] if request in {READ, STAT, LSTAT} else encode(packet)


def _huge_count(request: int, packet: Packet) -> bytes:
    """A listing that claims to have four thousand million names."""
    return encode((NAME, packet[1], u32(0xFFFFFFF0))) if request in {READDIR, REALPATH} else encode(packet)


def _empty_data(request: int, packet: Packet) -> bytes:
    """Data without a byte, for ever."""
    return encode((DATA, packet[1], text(b""))) if request == READ else encode(packet)


def _early_eof(request: int, packet: Packet) -> bytes:
    """Files end at once, whatever their size is said to be."""
    return encode(status_of(packet[1], EOF)) if request == READ else encode(packet)


def _short_reads(request: int, packet: Packet) -> bytes:
    """A tenth of what was asked for, which the protocol allows."""
    if request != READ or packet[0] != DATA:
        return encode(packet)
    data = packet[2][4:]
    return encode((DATA, packet[1], text(data[: max(1, len(data) // 10)])))


def _flipped(request: int, packet: Packet) -> bytes:
    """One bit of each answer is another one."""
    if request != READ or packet[0] != DATA:
        return encode(packet)
    data = packet[2][4:]
    return encode((DATA, packet[1], text(data[:-1] + bytes([data[-1] ^ 1]))))


def _truncated_attributes(_: int, packet: Packet) -> bytes:
    return encode((packet[0], packet[1], packet[2][:6])) if packet[0] == ATTRS else encode(packet)


def _other_realpath(_: int, packet: Packet) -> bytes:
    """Everything is said to be outside."""
    if packet[0] != NAME or packet[2][:4] != u32(1):
        return encode(packet)
    return encode((NAME, packet[1], u32(1) + text(b"/etc/passwd") * 2 + u32(0)))


def _no_limits(request: int, packet: Packet) -> bytes:
    """A server without extensions, which is honest."""
    return encode(status_of(packet[1], UNSUPPORTED)) if request == EXTENDED else encode(packet)


def _huge_limits(request: int, packet: Packet) -> bytes:
    """Limits beyond reason."""
    return encode((EXTENDED_REPLY, packet[1], u64(1 << 63) * 4)) if request == EXTENDED else encode(packet)


def _garbage(request: int, packet: Packet) -> bytes:
    """What a login script prints."""
    return b"Welcome to this machine!\r\n" + encode(packet) if request == INIT else encode(packet)


LIES: Mapping[str, Lie] = {
    "none": lambda _, packet: encode(packet),
    "larger": _with_size(lambda size: size + 1000),
    "smaller": _with_size(lambda size: size // 2),
    "zero": _with_size(lambda _: 0),
    "enormous": _with_size(lambda _: (1 << 64) - 1),
    "slash-names": _names([b"../../etc", b"a/b", b"/etc/passwd", b"..", b".", b"", b"nul\0byte", b"n" * 300]),
    "endless-listing": _endless,
    "other-requests": _other_requests,
    "twice": _twice,
    "other-kind": _other_kind,
    "oversized-data": _oversized_data,
    "huge-packet": _huge_packet,
    "huge-count": _huge_count,
    "empty-data": _empty_data,
    "early-eof": _early_eof,
    "short-reads": _short_reads,
    "flipped": _flipped,
    "truncated-attributes": _truncated_attributes,
    "other-realpath": _other_realpath,
    "no-limits": _no_limits,
    "huge-limits": _huge_limits,
    "garbage": _garbage,
    "trickle": lambda _, packet: encode(packet),
    "dies": lambda _, packet: encode(packet),
    "mute": lambda _, packet: encode(packet),
}
"""By name. With none, short-reads, no-limits and huge-limits a reader gets the right bytes, else those or an error."""

_TRICKLE_SECONDS = 0.5
_LAST_PACKETS = 40


def packets(source: BinaryIO) -> Iterator[bytes]:
    """Requests, without their lengths."""
    while len(head := source.read(4)) == 4:
        yield source.read(struct.unpack(">I", head)[0])


def serve(lie: str, source: BinaryIO, sink: BinaryIO) -> None:
    """Until the client goes away."""
    server = Server()
    for count, packet in enumerate(packets(source)):
        kind, fields = packet[0], Reader(packet[1:])
        if kind == INIT:
            answer = VERSION, u32(3), text(b"limits@openssh.com") + text(b"1")
        else:
            answer = server.answer(kind, fields.take(4), fields)
        if (lie == "dies" and count >= _LAST_PACKETS) or (lie == "mute" and count >= 1):
            if lie == "mute":
                continue
            return
        told = encode(answer) if kind == INIT and lie != "garbage" else LIES[lie](kind, answer)
        _send(sink, told, slowly=lie == "trickle" and kind == READ)


def _send(sink: BinaryIO, data: bytes, *, slowly: bool) -> None:
    for index in range(len(data)) if slowly else ():
        sink.write(data[index : index + 1])
        sink.flush()
        time.sleep(_TRICKLE_SECONDS)
    if not slowly:
        sink.write(data)
        sink.flush()


def lying_ssh(lie: str) -> tuple[str, ...]:
    """The command that takes the place of ssh."""
    assert lie in LIES
    return (sys.executable, "-I", os.path.abspath(__file__), lie)


def main(words: list[str]) -> int:
    """See the module."""
    lie, *rest = words
    if rest[-1:] == ["sftp"]:
        with suppress(BrokenPipeError):  # the client saw the lie
            serve(lie, sys.stdin.buffer, sys.stdout.buffer)
        os._exit(0)  # without writing what is left in the buffer
    after = rest[rest.index("--") + 2 :] if "--" in rest else rest[-1:]
    return subprocess.run(["/bin/sh", "-c", " ".join(after)]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
