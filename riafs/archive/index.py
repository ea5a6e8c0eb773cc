"""What is remembered about archives in the cache directory: the list of members, and where LZMA2 decoding can begin.

Owns the form of these files. Each is: magic and version, a digest of the name of its subject, a table of columns, a
CRC32 for each page of `PAGE` bytes, a CRC32 of these tables; then the columns, each filling whole pages. A file is
written beside its name and renamed, so it is whole or absent; later damage is noticed when a page is read: DamagedIndex
is raised, the file is removed and made again. Nothing is mapped: a file that another process truncates must not kill
this one. Several daemons share the directory.
"""

import contextlib
import os
import struct
import sys
import tempfile
import time
import zlib
from array import array
from collections.abc import Callable, Mapping
from hashlib import blake2b

from cachetools import LRUCache

from riafs.counters import Counters
from riafs.errors import DamagedIndex, StoreTimeout
from riafs.formats.columns import PAGE, Column, PagedColumn
from riafs.formats.sevenzip.lzma2 import Resets
from riafs.storage.deadline import Deadline

INDEX_DIRECTORY = "archives-1"
"""What the directory of these files is called in the cache directory; the number is the layout's version."""
_MAGIC = b"riafs-7z-index\x00\x01"
_HEAD = struct.Struct("<16s32sIIQI")  # magic, digest of the name, parts, byte order mark, pages, CRC32 of the tables
_PART = struct.Struct("<24s8sQQ")  # name, element type, count, first page
_ORDER = 0x01020304
_MAX_PARTS = 64
_MAX_PAGES = 1 << 20
_PAGES_IN_MEMORY = 256
_SUFFIX = b".7zi"
_NEW = b".new-"
_ABANDONED_SECONDS = 3600.0
_THREADS = 4
_SAVE_SECONDS = 20.0  # what is saved has up to hundreds of MB


class _Pages:
    """The pages of one file, checked when they are read; the last ones used stay in memory. Owns the descriptor."""

    def __init__(self, descriptor: int, offset: int, checksums: "array[int]") -> None:
        self._descriptor = descriptor
        self._offset = offset
        self._checksums = checksums
        self._read_pages: LRUCache[int, bytes] = LRUCache(_PAGES_IN_MEMORY)

    def page(self, number: int) -> bytes:
        """A page. Raises DamagedIndex."""
        page: bytes | None = self._read_pages.get(number)
        if page is None:
            page = self._load(number)
            self._read_pages[number] = page
        return page

    def _load(self, number: int) -> bytes:
        if number >= len(self._checksums):
            raise DamagedIndex("saved index of an archive refers to what it does not hold")
        try:
            page = os.pread(self._descriptor, PAGE, self._offset + number * PAGE)
        except OSError as error:
            raise DamagedIndex(f"saved index of an archive cannot be read: {error.strerror}") from error
        if len(page) != PAGE or zlib.crc32(page) != self._checksums[number]:
            raise DamagedIndex("saved index of an archive is damaged")
        return page

    def __del__(self) -> None:
        os.close(self._descriptor)


def write_columns(path: bytes, name: bytes, columns: Mapping[str, tuple[str, Column]]) -> None:
    """Save columns (element type and values each) about what is called `name`. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), prefix=_NEW, buffering=PAGE * 8, delete=False) as file:
        try:
            parts, checksums = _written_parts(file.write, _front_pages(columns) * PAGE, columns)
            tables = b"".join(parts) + checksums.tobytes()
            head = (_MAGIC, _named(name), len(parts), _ORDER, len(checksums), zlib.crc32(tables))
            file.seek(0)
            file.write(_HEAD.pack(*head) + tables)
            file.flush()
            os.rename(file.name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(file.name)
            raise


def _named(name: bytes) -> bytes:
    return blake2b(name, digest_size=32).digest()


def _page_count(code: str, column: Column) -> int:
    return -(-len(column) * array(code).itemsize // PAGE)


def _front_pages(columns: Mapping[str, tuple[str, Column]]) -> int:
    """Pages that are left for the head and the tables."""
    pages = sum(_page_count(*each) for each in columns.values())
    return -(-(_HEAD.size + len(columns) * _PART.size + 4 * pages) // PAGE)


def _written_parts(
    write: Callable[[bytes], object], front: int, columns: Mapping[str, tuple[str, Column]]
) -> tuple[list[bytes], "array[int]"]:
    write(bytes(front))
    parts, checksums = [], array("I")
    for name, (code, column) in columns.items():
        parts.append(_PART.pack(name.encode(), code.encode(), len(column), len(checksums)))
        data = memoryview(column).cast("B")  # type: ignore[arg-type]  # what is saved is an array or bytes
        for start in range(0, len(data), PAGE):
            page = bytes(data[start : start + PAGE]).ljust(PAGE, b"\0")
            checksums.append(zlib.crc32(page))
            write(page)
    return parts, checksums


def read_columns(path: bytes, name: bytes, expected: Mapping[str, str]) -> dict[str, Column]:
    """The columns `expected` (name → element type) that were saved at `path` about `name`.

    Raises FileNotFoundError, OSError, DamagedIndex (also for a file of another version or about something else).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        tables, checksums = _read_tables(descriptor, name)
    except BaseException:
        os.close(descriptor)
        raise
    size = _HEAD.size + len(tables) + 4 * len(checksums)
    return _columns(_Pages(descriptor, -(-size // PAGE) * PAGE, checksums), tables, expected)


def _read_tables(descriptor: int, name: bytes) -> tuple[bytes, "array[int]"]:
    """The table of columns and the checksums of the pages."""
    head = os.pread(descriptor, _HEAD.size, 0).ljust(_HEAD.size, b"\0")
    magic, named, parts, order, pages, checksum = _HEAD.unpack(head)
    if (magic, named, order) != (_MAGIC, _named(name), _ORDER) or parts > _MAX_PARTS or pages > _MAX_PAGES:
        raise DamagedIndex("saved index of an archive is of another version, or about another archive")
    size = parts * _PART.size + 4 * pages
    tables = os.pread(descriptor, size, _HEAD.size)
    if len(tables) != size or zlib.crc32(tables) != checksum:
        raise DamagedIndex("saved index of an archive is damaged")
    return tables[: parts * _PART.size], array("I", tables[parts * _PART.size :])


def _columns(pages: _Pages, parts: bytes, expected: Mapping[str, str]) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for raw_name, raw_code, count, first_page in _PART.iter_unpack(parts):
        name, code = raw_name.rstrip(b"\0").decode("latin-1"), raw_code.rstrip(b"\0").decode("latin-1")
        if expected.get(name) != code:
            raise DamagedIndex("saved index of an archive has other columns")
        columns[name] = PagedColumn(array(code), pages, (first_page,), sys.maxsize, in_pages=count)
    if len(columns) != len(expected):
        raise DamagedIndex("saved index of an archive lacks columns")
    return columns


class IndexDirectory:
    """A directory of such files, at most `bound` bytes of them; those unused for longest go.

    What blocks is for threads; `find`, `keep` and `forget` are the same for the event loop, where a directory that does
    not answer within `seconds` holds nothing.
    """

    def __init__(self, path: bytes, bound: int = 2 << 30, seconds: float = 10.0) -> None:
        self._path = path
        self._bound = bound
        self.deadline = Deadline("the cache directory", seconds, Counters(), _THREADS, ours=True)

    async def find(self, name: bytes, kind: bytes, expected: Mapping[str, str]) -> dict[str, Column] | None:
        """`load` in a thread; None where the directory does not answer."""
        try:
            return await self.deadline.run(self.load, name, kind, expected)
        except StoreTimeout:
            return None

    async def keep(self, name: bytes, kind: bytes, columns: Mapping[str, tuple[str, Column]]) -> bool:
        """`save` in a thread; False where the directory does not answer. The columns must not be changed any more."""
        try:
            return await self.deadline.run_longer(_SAVE_SECONDS, self.save, name, kind, columns)
        except StoreTimeout:
            return False

    async def forget(self, name: bytes, kind: bytes) -> None:
        """`remove` in a thread, or not at all where the directory does not answer."""
        with contextlib.suppress(StoreTimeout):
            await self.deadline.run(self.remove, name, kind)

    def path(self, name: bytes, kind: bytes) -> bytes:
        """Where the file of that kind about `name` is."""
        return os.path.join(self._path, blake2b(name, digest_size=20).hexdigest().encode() + b"-" + kind + _SUFFIX)

    def load(self, name: bytes, kind: bytes, expected: Mapping[str, str]) -> dict[str, Column] | None:
        """What was saved, None where there is nothing of use; a damaged file is removed."""
        path = self.path(name, kind)
        try:
            columns = read_columns(path, name, expected)
        except DamagedIndex:
            self.remove(name, kind)
            return None
        except OSError:
            return None
        with contextlib.suppress(OSError):  # a directory that cannot be written
            os.utime(path)  # used just now
        return columns

    def save(self, name: bytes, kind: bytes, columns: Mapping[str, tuple[str, Column]]) -> bool:
        """Whether it could be saved."""
        try:
            write_columns(self.path(name, kind), name, columns)
            self._trim()
        except OSError:
            return False
        return True

    def remove(self, name: bytes, kind: bytes) -> None:
        """Forget what was saved."""
        with contextlib.suppress(OSError):
            os.unlink(self.path(name, kind))

    def _trim(self) -> None:
        files = []
        with os.scandir(self._path) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if entry.name.startswith(_NEW) and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                        os.unlink(entry.path)
                        continue
                    files.append((status.st_mtime_ns, status.st_blocks * 512, entry.path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files)[:-1]:
            if total <= self._bound:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size


_ELEMENTS = {"starts": "Q", "packed": "Q", "walked": "Q"}


class SavedWalks:
    """The walks through the folders of the archive called `name`; without a directory nothing is remembered."""

    def __init__(self, directory: IndexDirectory | None, name: bytes) -> None:
        self._directory = directory
        self._name = name

    async def load(self, folder: int, resets: Resets) -> None:
        """Take over into `resets` what was found out about a folder, if anything."""
        if self._directory is None:
            return
        kind = _kind(folder)
        try:
            found = await self._directory.deadline.run(_read, self._directory, self._name, kind)
            if found is not None:
                resets.restore(*found)
        except DamagedIndex:
            await self._directory.forget(self._name, kind)
        except StoreTimeout:
            return

    async def save(self, folder: int, resets: Resets) -> None:
        """Remember what is known of a folder."""
        if self._directory is None:
            return
        starts, packed = (array("Q", column) for column in resets.columns())  # the walk may go on meanwhile
        walked = array("Q", [resets.walked, resets.walked_packed])
        columns = {"starts": ("Q", starts), "packed": ("Q", packed), "walked": ("Q", walked)}
        await self._directory.keep(self._name, _kind(folder), columns)


_Walk = tuple["array[int]", "array[int]", int, int]


def _read(directory: IndexDirectory, name: bytes, kind: bytes) -> _Walk | None:
    """What `Resets.restore` takes. Raises DamagedIndex."""
    columns = directory.load(name, kind, _ELEMENTS)
    if columns is None or len(columns["walked"]) != 2:
        return None
    starts, packed, walked = (array("Q", columns[each]) for each in _ELEMENTS)
    return starts, packed, walked[0], walked[1]


def _kind(folder: int) -> bytes:
    return b"walk%d" % folder
