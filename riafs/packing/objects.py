"""Reading loose objects: nothing outside of ``annex/objects``, whatever links are there; hashed while it is read."""

import os
from collections.abc import Iterator

from riafs.formats.keys import Key
from riafs.packing.compressing import PIECE, shrinks_to
from riafs.packing.content import ContentCheck, Seen
from riafs.packing.loose import LooseObject
from riafs.storage.openat import PATH_FLAGS, open_beneath, open_regular
from riafs.storage.posix import HeldDirectory


class BadObject(Exception):
    """An object that is left out; the argument says why."""


class ObjectReader:
    """Reads loose objects below `directory`, and nothing outside of it."""

    def __init__(self, directory: HeldDirectory) -> None:
        self._directory = directory.descriptor

    def exists(self, path: bytes) -> bool:
        """Whether something is at `path`."""
        try:
            os.close(open_beneath(self._directory, path, PATH_FLAGS | os.O_NOFOLLOW))
        except OSError:
            return False
        return True

    def share(self, found: LooseObject) -> float:
        """What share of the object would be left after compression; 1 for what cannot be read."""
        try:
            file = self._open(found.path)
        except OSError:
            return 1.0
        try:
            return shrinks_to(found.size, lambda offset, length: os.pread(file, length, offset))
        except OSError:
            return 1.0
        finally:
            os.close(file)

    def pieces(self, path: bytes, check: ContentCheck) -> Iterator[bytes]:
        """The bytes at `path` in order, each seen by `check`. Raises BadObject at the end if they are not the key's."""
        try:
            file = self._open(path)
        except OSError as error:
            raise BadObject(f"cannot be read: {error.strerror}") from error
        try:
            yield from _pieces(file, check)
        except OSError as error:
            raise BadObject(f"cannot be read: {error.strerror}") from error
        finally:
            os.close(file)
        problem = check.seen().problem
        if problem:
            raise BadObject(problem)

    def _open(self, path: bytes) -> int:
        return open_regular(self._directory, path, os.O_RDONLY)


def _pieces(file: int, check: ContentCheck) -> Iterator[bytes]:
    """Pieces of exactly PIECE bytes, but for the last."""
    while True:
        parts: list[bytes] = []
        wanted = PIECE
        while wanted and (part := os.read(file, wanted)):
            parts.append(part)
            wanted -= len(part)
        piece = b"".join(parts)
        if piece:
            check.update(piece)
            yield piece
        if wanted:
            return


def read_object(reader: ObjectReader, key: Key, path: bytes) -> Seen | None:
    """What the bytes at `path` are; None if they cannot be read or are not the content of `key`."""
    check = ContentCheck(key)
    try:
        for _ in reader.pieces(path, check):
            pass
    except BadObject:
        return None
    return check.seen()
