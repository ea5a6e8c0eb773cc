"""Writing the new archive: the members of the old one, and added objects.

Packed bytes of the old archive are copied, so that nothing in it is decoded, sorted or compressed again. Added objects
are hashed while they are read; one that is not the content of its key is cut off from the file again.

The 7-Zip program is not used for writing. It sorts members by name, which for keys is a random order (the files of one
directory would be spread over all blocks), reads the whole archive once for each method, and writes no dictionary
resets that readers could start from.

Compression is LZMA2 with a dictionary reset every MiB. Each MiB is compressed by itself, so that readers can start at
any of them, and several threads can compress or decode one block. (liblzma ends a raw LZMA2 stream with a zero byte;
without it, streams can be joined.)
"""

import lzma
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from riafs.errors import StoreError
from riafs.formats.sevenzip.fullheader import FullHeader, NewMember, shape_of_lzma2, shape_of_stored
from riafs.formats.sevenzip.writing import encode_header, write_header, write_signature
from riafs.packing.archive_file import ARCHIVE, Packed, path_in
from riafs.packing.loose_objects import PIECE, BadObject, Checked, ContentCheck, Damage, LooseObject, ObjectReader
from riafs.storage.permissions import FILE_MODE
from riafs.storage.posix import HeldDirectory, write_all, writing_to
from riafs.watching import Watcher

DICTIONARY_CODE = 16
"""LZMA2's property byte for a dictionary of PIECE bytes."""
END = b"\0"
"""Ends a stream."""
_FILTER = {"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": PIECE}
_COPIED_AT_ONCE = 64 << 20
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Compressor:
    """Threads that compress; used as a context."""

    def __init__(self) -> None:
        self._threads = len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="riafs-compress")

    def __enter__(self) -> "Compressor":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def compress(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The LZMA2 stream of `pieces`, each at most PIECE bytes, without its end. Keeps few of them in memory."""
        waiting: deque[Future[bytes]] = deque()
        for piece in pieces:
            waiting.append(self._pool.submit(_compress, piece))
            if len(waiting) > 2 * self._threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _compress(piece: bytes) -> bytes:
    return lzma.compress(piece, lzma.FORMAT_RAW, filters=[_FILTER])[: -len(END)]


class ArchiveWriter:
    """Writes a new archive in `directory`, which must have none. Used by one thread."""

    def __init__(self, directory: HeldDirectory, columns: FullHeader, reader: ObjectReader, watcher: Watcher) -> None:
        path = self._path = path_in(directory)
        self._columns = columns
        self._reader = reader
        self._watcher = watcher
        self.packed: list[Packed] = []
        self.damaged: list[Damage] = []
        with writing_to(path):
            self._file = os.open(ARCHIVE, _NEW, FILE_MODE, dir_fd=directory.descriptor)
        self._kept_end = columns.packed_end
        self._end = self._kept_end

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    # -- the old archive ----------------------------------------------------------------------------------------------

    def keep(self, old: int) -> None:
        """Copy all packed bytes of the old archive, from its descriptor `old`.

        New objects are written after them, so that this can wait until there is a good one.
        """
        position = 0
        while position < self._kept_end:
            with writing_to(self._path):
                copied = _copy(old, self._file, position, min(_COPIED_AT_ONCE, self._kept_end - position))
            if not copied:
                raise StoreError(f"the archive ends at byte {position}, its header says {self._kept_end}")
            position += copied
            self._watcher.advance(copied)

    # -- new objects --------------------------------------------------------------------------------------------------

    def add_stored(self, found: LooseObject) -> None:
        """Add an object without compression."""
        check = ContentCheck(found.key)
        start = self._end
        try:
            for piece in self._reader.pieces(found.path, check):
                self._watcher.advance(len(piece))
                self._append(piece)
        except BadObject as problem:
            self._take_back(start)
            self._leave_out(found, problem)
            return
        self._add_stored_folder(found, check.result())

    def _add_stored_folder(self, found: LooseObject, checked: Checked) -> None:
        member = _member(found, checked)
        if checked.size:
            self._columns.add_folder(shape_of_stored(), checked.size, [member])
        else:
            self._columns.add_empty_file(member)
        self.packed.append(Packed(found, checked, compressed=False))

    def add_block(self, objects: Sequence[LooseObject], compressor: Compressor) -> None:
        """Add objects, compressed as one solid block. All of them are in memory at once."""
        good: list[tuple[LooseObject, Checked]] = []
        content: list[bytes] = []
        for found in objects:
            check = ContentCheck(found.key)
            try:
                pieces = list(self._reader.pieces(found.path, check))
            except BadObject as problem:
                self._leave_out(found, problem)
                continue
            good.append((found, check.result()))
            content += pieces
            self._watcher.advance(found.size)
        self._write_block(good, content, compressor)

    def _write_block(
        self, good: Sequence[tuple[LooseObject, Checked]], content: Sequence[bytes], compressor: Compressor
    ) -> None:
        members = [(found, checked) for found, checked in good if checked.size]
        for found, checked in good:
            if not checked.size:
                self._add_stored_folder(found, checked)
        if members:
            start = self._end
            for part in compressor.compress(_cut(content)):
                self._append(part)
            self._add_compressed_folder(members, start)

    def _add_compressed_folder(self, members: Sequence[tuple[LooseObject, Checked]], start: int) -> None:
        self._append(END)
        new = [_member(found, checked) for found, checked in members]
        self._columns.add_folder(shape_of_lzma2(DICTIONARY_CODE), self._end - start, new)
        self.packed += [Packed(found, checked, compressed=True) for found, checked in members]

    def add_large(self, found: LooseObject, compressor: Compressor) -> None:
        """Add a compressed object without keeping it in memory."""
        check = ContentCheck(found.key)
        start = self._end
        try:
            for part in compressor.compress(self._watched(self._reader.pieces(found.path, check))):
                self._append(part)
        except BadObject as problem:
            self._take_back(start)
            self._leave_out(found, problem)
            return
        if check.result().size:
            self._add_compressed_folder([(found, check.result())], start)
        else:
            self._add_stored_folder(found, check.result())

    def _watched(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._watcher.advance(len(piece))
            yield piece

    def _leave_out(self, found: LooseObject, problem: BadObject) -> None:
        place = "annex/objects/" + os.fsdecode(found.path)
        self.damaged.append(Damage(found.key.serialised, place, str(problem)))

    # -- the file -----------------------------------------------------------------------------------------------------

    def finish(self) -> int:
        """Write the header and make everything durable. Returns the archive's size in bytes."""
        plain = write_header(self._columns)
        start = self._end
        packed, header = encode_header(plain, start) if plain else (b"", b"")
        self._append(packed)
        signature = write_signature(self._end, header)
        self._append(header)
        with writing_to(self._path):
            write_all(self._file, signature, 0)
            os.fsync(self._file)
            # So that the archive is read back from the disk, and not from the kernel's cache.
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
        return self._end

    def _append(self, data: bytes) -> None:
        with writing_to(self._path):
            write_all(self._file, data, self._end)
        self._end += len(data)

    def _take_back(self, end: int) -> None:
        with writing_to(self._path):
            os.ftruncate(self._file, end)
        self._end = end


def _member(found: LooseObject, checked: Checked) -> NewMember:
    return NewMember(found.member, checked.size, checked.crc, found.mode, found.mtime_ns)


def _cut(content: Sequence[bytes]) -> Iterator[bytes]:
    """The bytes in pieces of PIECE bytes; the last may be shorter."""
    whole = b"".join(content)
    for start in range(0, len(whole), PIECE):
        yield whole[start : start + PIECE]


def _copy(source: int, target: int, offset: int, length: int) -> int:
    """Copy bytes to the same offset, inside the kernel if possible. Returns their number."""
    try:
        return os.copy_file_range(source, target, length, offset, offset)
    except OSError:  # across file systems, or not supported; an error of writing occurs again below
        data = os.pread(source, min(length, PIECE), offset)
        write_all(target, data, offset)
        return len(data)
