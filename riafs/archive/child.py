"""The Python program of the limited child: decodes an archive that it was given, to its standard output.

Started by archive/extractor with nothing but descriptors, as ``main(["folder", DESCRIPTOR])`` for the only folder of a
7z archive by the decoders of archive/methods, or ``main(["member", DESCRIPTOR, NAME])`` for one member of any archive
that libarchive reads; without a name its first one. What decodes is imported first, then no further file, socket or
process can be opened. Exit status: 0 everything was written, or one of those below, with the reason on standard error.
"""

import contextlib
import os
import resource
from collections.abc import Iterator

from riafs.archive.decompressors import Decompressor
from riafs.archive.methods import RestartingDecompressor, decompressor_of
from riafs.errors import MalformedArchive, MissingProgram, RiafsError, UnsupportedArchive
from riafs.formats.sevenzip.writing import parse_single_folder

DAMAGED = 3
"""What it was given cannot be decoded, nor could it another time."""
UNABLE = 4
"""A library is not there."""
LACKS_MEMORY = 5
UNKNOWN = 6
"""No decoder of this program knows the method."""

_PIECE = 256 << 10
_BLOCK = 64 << 10
_LIBRARY = "libarchive.so.13"


def main(arguments: list[str]) -> None:
    """Decode, and end the process."""
    kind, descriptor, *names = arguments
    try:
        with open(f"/proc/self/fd/{int(descriptor)}", "rb", buffering=0) as archive:
            pieces = _member(archive.fileno(), names) if kind == "member" else _folder(archive.fileno())
            for piece in pieces:
                _write(piece)
    except MissingProgram as problem:
        _end(UNABLE, problem)
    except UnsupportedArchive as problem:
        _end(UNKNOWN, problem)
    except MemoryError:
        _end(LACKS_MEMORY, "not enough memory")
    except (RiafsError, OSError) as problem:
        _end(DAMAGED, problem)
    _end(0, "")


def _end(status: int, reason: object) -> None:
    """End at once, without the interpreter's way of ending, which no decoder's thread has to survive."""
    with contextlib.suppress(OSError):
        os.write(2, str(reason).encode(errors="replace"))
    os._exit(status)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _close_the_door() -> None:
    """Let this process open nothing any more, neither files nor sockets."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _folder(archive: int) -> Iterator[bytes]:
    folder = parse_single_folder(lambda offset, length: os.pread(archive, length, offset))
    start = folder.pack_offset
    kept: list[Decompressor] = []  # until the process ends, as pyppmd's thread may still wait in one

    def make() -> Decompressor:
        kept.append(decompressor_of(folder))
        return kept[-1]

    decompressor = RestartingDecompressor(make, folder.size, "the folder")
    _close_the_door()
    left = folder.size
    while left > 0:
        data = b""
        if decompressor.needs_input:
            length = min(_PIECE, folder.pack_size - decompressor.position)
            data = os.pread(archive, length, start + decompressor.position) if length > 0 else b""
        decoded = decompressor.decode(data, _PIECE)
        left -= len(decoded)
        yield decoded


def _member(archive: int, names: list[str]) -> Iterator[bytes]:
    """The bytes of the member called `names[0]`, of the first one without a name."""
    wanted = [_plain(os.fsencode(name)) for name in names]
    with libarchive_loaded():
        import libarchive
        from libarchive.exception import ArchiveError
        from libarchive.ffi import entry_pathname
    try:
        with libarchive.fd_reader(archive) as entries:
            _close_the_door()
            for entry in entries:
                if not wanted or _plain(entry_pathname(entry._entry_p) or b"") in wanted:
                    yield from entry.get_blocks(block_size=_BLOCK)
                    return
    except ArchiveError as error:
        raise MalformedArchive(f"libarchive: {error.msg}") from error
    raise MalformedArchive("libarchive finds no such member")


def _plain(name: bytes) -> bytes:
    """A member's name as tar and others write it, which may begin with ``./``."""
    return name.removeprefix(b"./")


@contextlib.contextmanager
def libarchive_loaded() -> Iterator[None]:
    """Import libarchive-c in here: with the library's usual name, since looking for it starts compilers, and with a
    locale in which names are UTF-8. Raises MissingProgram, also if the import fails."""
    import ctypes
    import locale

    with contextlib.suppress(OSError):
        os.environ["LIBARCHIVE"] = ctypes.CDLL(_LIBRARY)._name
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    try:
        yield
    except (ImportError, OSError, AttributeError, TypeError) as error:  # ctypes, where there is no library
        raise MissingProgram(f"libarchive cannot be loaded ({error}): install libarchive13") from error
