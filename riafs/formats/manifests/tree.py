"""The folders of a manifest, and where the text of their files is.

A folder has a number; the top one is 0. Its files are runs of tokens in one text that holds all file tokens of a
manifest: a run belongs to one folder and one stream, and a folder's runs are in the order of the manifest. The tokens
are parsed when the folder is read; until then a file costs the bytes of its token.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence

from riafs.formats.columns import Column, GrowingColumn, Pages
from riafs.formats.manifests.text import PIECE

MAX_FOLDERS = 2_000_000
"""Two letters can make a folder, which takes 200 bytes: there may not be more of them than fit into memory."""
TOP = 0
_NONE = -1


class Runs:
    """Text and runs of tokens. Each token in the text has a blank behind it."""

    __slots__ = ("_starts", "_streams", "_text")

    def __init__(self, text: Column, starts: Column, streams: Column) -> None:
        self._text = text
        self._starts = starts
        self._streams = streams

    def stream(self, run: int) -> int:
        """The stream that the tokens of a run are ranges of."""
        return self._streams[run]

    def length(self, run: int) -> int:
        """Bytes in a run."""
        start, end = self._place(run)
        return end - start

    def _place(self, run: int) -> tuple[int, int]:
        """The beginning and end of a run in the text."""
        following = run + 1
        return self._starts[run], self._starts[following] if following < len(self._starts) else len(self._text)

    def pieces(self, run: int) -> Iterator[bytes]:
        """The tokens of a run, one blank between them, about `PIECE` bytes at a time."""
        start, end = self._place(run)
        rest = b""
        for at in range(start, end, PIECE):
            text = rest + bytes(self._text[at : min(at + PIECE, end)])
            whole = text.rfind(b" ")
            rest = text[whole + 1 :]
            if whole > 0:
                yield text[:whole]


class RunsBuilder:
    """Runs to which more are added."""

    __slots__ = ("_starts", "_streams", "_text")

    def __init__(self, pages: Pages | None) -> None:
        self._text = GrowingColumn("B", pages)
        self._starts = GrowingColumn("Q", pages)
        self._streams = GrowingColumn("I", pages)

    def append(self, stream: int) -> int:
        """A new run, without text yet. Returns its number."""
        self._starts.append(len(self._text))
        self._streams.append(stream)
        return len(self._starts) - 1

    def extend(self, tokens: bytes | bytearray) -> None:
        """Add tokens to the newest run."""
        self._text.extend(tokens)

    def build(self) -> Runs:
        """All that was added."""
        return Runs(self._text.finished(), self._starts.finished(), self._streams.finished())


class FolderTree:
    """All folders. Names are as they are on disk, never written forms."""

    __slots__ = ("_below", "_first", "_last", "_next")

    def __init__(self) -> None:
        self._below: list[dict[bytes, int] | None] = [None]
        self._first = array("q", (_NONE,))
        self._last: dict[int, int] = {}
        """The last run of each folder that has several."""
        self._next = array("q")
        """run → the folder's next run."""

    def __len__(self) -> int:
        return len(self._below)

    def add(self, parts: Sequence[bytes]) -> int:
        """The folder at a path, made if there is none."""
        folder = TOP
        for part in parts:
            below = self._below[folder]
            if below is None:
                below = self._below[folder] = {}
            number = below.setdefault(part, len(self._below))
            if number == len(self._below):
                self._below.append(None)
                self._first.append(_NONE)
            folder = number
        return folder

    def add_run(self, folder: int, run: int) -> None:
        """Runs are added in their order."""
        self._next.append(_NONE)
        if self._first[folder] == _NONE:
            self._first[folder] = run
        else:
            self._next[self._last.get(folder, self._first[folder])] = run
            self._last[folder] = run

    def runs(self, folder: int) -> Iterator[int]:
        """The runs of a folder, in order."""
        run = self._first[folder]
        while run != _NONE:
            yield run
            run = self._next[run]

    def below(self, folder: int) -> Mapping[bytes, int]:
        """The folders in a folder: name → number."""
        return self._below[folder] or {}

    def find(self, path: bytes) -> int | None:
        """The folder at a path (``b""`` is the top), None if there is none."""
        folder: int | None = TOP
        for part in path.split(b"/") if path else ():
            folder = self.below(folder).get(part) if folder is not None else None
        return folder

    def parents(self) -> Iterator[int]:
        """Folders that have both files and folders in them."""
        return (number for number, below in enumerate(self._below) if below and self._first[number] != _NONE)
