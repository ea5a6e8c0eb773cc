"""Somebody who works in a directory until it fails, and writes down what is to be there: started by ``killing.py``.

Each line of the record is what is going to be done; ``synced`` says that all of the lines above are durable. Contents
are told by a number, from which `content` makes them. Only the standard library is used: this starts in no time.
"""

import contextlib
import hashlib
import json
import os
import random
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST = 60_000
_DIRECTORIES = ("a", "b", "code", "a/deep")


def content(number: int, size: int) -> bytes:
    """The bytes that are meant by a number and a size."""
    return hashlib.shake_128(str(number).encode()).digest(size)


class Worker:
    """Works in `top`; `record` is the file to write to."""

    def __init__(self, top: str, record: int, seed: int) -> None:
        self._top = top
        self._record = record
        self._random = random.Random(seed)

    def run(self, operations: int) -> None:
        """Raises OSError as soon as something fails."""
        ways: list[Callable[[], None]] = [self._write] * 4 + [self._replace] * 3 + [self._patch] * 4
        ways += [self._append] * 2 + [self._unlink, self._rename, self._rename_directory]
        for _ in range(operations):
            self._random.choice(ways)()

    def _tell(self, **line: Any) -> None:
        os.write(self._record, json.dumps(line).encode() + b"\n")

    def _at(self, path: str) -> str:
        return f"{self._top}/{path}"

    def _new(self) -> str:
        directory = self._random.choice(_DIRECTORIES)
        os.makedirs(self._at(directory), exist_ok=True)
        return f"{directory}/f{self._random.randrange(8)}.dat"

    def _some(self) -> str | None:
        found = [
            os.path.relpath(os.path.join(directory, name), self._top)
            for directory, _, names in os.walk(self._top)
            for name in names
        ]
        return self._random.choice(sorted(found)) if found else None

    def _described(self) -> tuple[int, int]:
        return self._random.getrandbits(60), self._random.choice((0, 10, 5000, self._random.randrange(LARGEST)))

    def _put(self, path: str, flags: int, data: bytes, offset: int | None, *, sync: bool) -> None:
        file = os.open(self._at(path), flags | os.O_WRONLY, 0o644)
        try:
            if data:
                os.write(file, data) if offset is None else os.pwrite(file, data, offset)
            if sync:
                os.fsync(file)
                self._tell(op="synced")
        finally:
            os.close(file)

    def _sync_directory(self, path: str) -> None:
        directory = os.open(os.path.dirname(self._at(path)), os.O_RDONLY)
        try:
            os.fsync(directory)
            self._tell(op="synced")
        finally:
            os.close(directory)

    def _maybe(self) -> bool:
        return self._random.random() < 0.4

    def _write(self) -> None:
        path, (number, size) = self._new(), self._described()
        self._tell(op="write", path=path, number=number, size=size)
        self._put(path, os.O_CREAT | os.O_TRUNC, content(number, size), 0, sync=self._maybe())

    def _replace(self) -> None:
        path, (number, size) = self._new(), self._described()
        temporary = f"{path}.tmp"
        self._tell(op="write", path=temporary, number=number, size=size)
        self._put(temporary, os.O_CREAT | os.O_TRUNC, content(number, size), 0, sync=True)
        self._tell(op="rename", path=temporary, to=path)
        os.rename(self._at(temporary), self._at(path))
        if self._maybe():
            self._sync_directory(path)

    def _patch(self) -> None:
        path = self._some()
        if path is None:
            return
        number, size = self._described()
        offset = self._random.randrange(os.stat(self._at(path)).st_size + 1)
        self._tell(op="patch", path=path, number=number, size=size, offset=offset)
        self._put(path, 0, content(number, size), offset, sync=self._maybe())

    def _append(self) -> None:
        path, number = self._some(), self._random.getrandbits(60)
        if path is None or os.stat(self._at(path)).st_size > LARGEST:
            return
        self._tell(op="patch", path=path, number=number, size=300, offset=os.stat(self._at(path)).st_size)
        self._put(path, os.O_APPEND, content(number, 300), None, sync=self._maybe())

    def _unlink(self) -> None:
        path = self._some()
        if path is not None:
            self._tell(op="unlink", path=path)
            os.unlink(self._at(path))
            if self._maybe():
                self._sync_directory(path)

    def _rename(self) -> None:
        path, to = self._some(), self._new()
        if path is not None and path != to:
            self._tell(op="rename", path=path, to=to)
            os.rename(self._at(path), self._at(to))
            if self._maybe():
                self._sync_directory(to)

    def _rename_directory(self) -> None:
        for path, to in (("b", "c"), ("c", "b"), ("b", "a/b"), ("a/b", "b")):
            if os.path.isdir(self._at(path)) and not os.path.exists(self._at(to)) and self._maybe():
                with contextlib.suppress(FileNotFoundError):  # there is no a
                    os.stat(self._at(os.path.dirname(to)))
                    self._tell(op="move", path=path, to=to)
                    os.rename(self._at(path), self._at(to))
                    if self._maybe():
                        self._sync_directory(to)
                return


def main(top: str, record: str, seed: str) -> None:
    """Ends when something fails; prints its errno."""
    with open(record, "ab", buffering=0) as file:
        try:
            Worker(top, file.fileno(), int(seed)).run(10_000)
        except OSError as error:
            print(error.errno)


if __name__ == "__main__":
    main(*sys.argv[1:])
