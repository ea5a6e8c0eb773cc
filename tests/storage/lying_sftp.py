"""An sftp server on standard input and output that lies in one way, given as its argument; ``honest`` does not.

It shows a directory with one file, called ``file``, and answers everything else as if that were asked for.
"""

import os
import struct
import sys
import time

from riafs.errors import BadAnswer, RiafsError, ShortRead, StoreTimeout, StoreUnreachable

CONTENT = b"content"

LIES: dict[str, type[RiafsError]] = {
    "wrong-number": BadAnswer,
    "oversized-packet": BadAnswer,
    "tiny-packet": BadAnswer,
    "unknown-type": BadAnswer,
    "slash-in-name": BadAnswer,
    "empty-name": BadAnswer,
    "many-paths": BadAnswer,
    "no-size": BadAnswer,
    "too-much-data": BadAnswer,
    "handle-for-data": BadAnswer,
    "no-data": BadAnswer,
    "too-small": ShortRead,
    "half-a-packet": StoreTimeout,
    "silence": StoreTimeout,
    "death": StoreUnreachable,
}


def string(text: bytes) -> bytes:
    return struct.pack(">I", len(text)) + text


def attributes(mode: int, *, size: bool = True) -> bytes:
    flags = (1 if size else 0) | 4 | 8
    return struct.pack(">I", flags) + (struct.pack(">Q", 7) if size else b"") + struct.pack(">III", mode, 1, 1)


class Server:
    def __init__(self, lie: str) -> None:
        self.lie = lie
        self.listed = False

    def send(self, kind: int, number: int, payload: bytes) -> None:
        body = bytes([kind]) + struct.pack(">I", number) + payload
        os.write(1, struct.pack(">I", len(body)) + body)

    def status(self, number: int, code: int) -> None:
        self.send(101, number, struct.pack(">I", code) + string(b"") + string(b""))

    def serve(self) -> None:
        stream = sys.stdin.buffer
        while head := stream.read(4):
            packet = stream.read(struct.unpack(">I", head)[0])
            if packet[0] == 1:
                os.write(1, struct.pack(">IBI", 5, 2, 3))
                continue
            [number] = struct.unpack_from(">I", packet, 1)
            self.answer(packet[0], number, packet[9:])

    def answer(self, kind: int, number: int, rest: bytes) -> None:
        root = rest.endswith(b"root")
        if kind == 16:
            self.path(number, rest)
        elif kind in (17, 7, 8):
            self.send(105, number, attributes(0o40755 if root else 0o100644, size=root or self.lie != "no-size"))
        elif kind == 11:
            self.send(102, number, string(b"directory"))
        elif kind == 12:
            self.names(number)
        elif kind == 3:
            self.send(102, number, string(b"handle"))
        elif kind == 5:
            self.data(number)
        else:
            self.status(number, 0)

    def path(self, number: int, path: bytes) -> None:
        if self.lie == "hang-at-secret" and path.endswith(b"secret"):
            time.sleep(60)
        count = 2 if self.lie == "many-paths" else 1
        one = string(path) + string(b"") + struct.pack(">I", 0)
        self.send(104, number, struct.pack(">I", count) + one * count)

    def names(self, number: int) -> None:
        if self.listed:
            self.status(number, 1)
            return
        self.listed = True
        name = {"slash-in-name": b"a/b", "empty-name": b""}.get(self.lie, b"file")
        self.send(104, number, struct.pack(">I", 1) + string(name) + string(b"") + attributes(0o100644))

    def data(self, number: int) -> None:
        lie = self.lie
        if lie == "wrong-number":
            self.send(103, number + 1000, string(CONTENT))
        elif lie == "oversized-packet":
            os.write(1, struct.pack(">I", 1 << 30) + b"x" * 100)
        elif lie == "tiny-packet":
            os.write(1, struct.pack(">I", 2) + b"xx")
        elif lie == "unknown-type":
            self.send(77, number, b"")
        elif lie == "too-much-data":
            self.send(103, number, string(CONTENT * 2))
        elif lie == "handle-for-data":
            self.send(102, number, string(b"x"))
        elif lie == "no-data":
            self.send(103, number, string(b""))
        elif lie == "too-small":
            self.status(number, 1)
        elif lie == "half-a-packet":
            os.write(1, struct.pack(">IBI", 100, 103, number))
        elif lie == "silence":
            pass
        elif lie == "death":
            sys.exit(1)
        else:
            self.send(103, number, string(CONTENT))


if __name__ == "__main__":
    Server(sys.argv[1]).serve()
