"""Reading a manifest: chunks of text in, columns out, in one pass whatever the length of its lines.

Checked meanwhile: the grammar that Arvados' servers and its Go programs agree on, ranges within their streams, no name
that is a file and a folder. Only whole items (names, locators, tokens) are looked at; an item that a chunk cuts in two
waits for the next chunk. The text of file tokens is kept; tokens that name a path are put where the others of their
folder are, and those that are no files are left out.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import add

from riafs.errors import MalformedManifest
from riafs.formats.locators import MAX_LOCATOR_SIZE, PortableHash
from riafs.formats.manifests.blocks import LocatorsBuilder, StreamsBuilder
from riafs.formats.manifests.folder import file_names
from riafs.formats.manifests.manifest import MakePages, Manifest
from riafs.formats.manifests.text import (
    PATH,
    TOKEN,
    TokenColumns,
    is_utf8,
    lightly_escaped,
    plain_columns,
    possible,
    resolved,
    unescaped,
)
from riafs.formats.manifests.tree import MAX_FOLDERS, FolderTree, Runs, RunsBuilder
from riafs.formats.text import shown

_CHUNK = 1 << 20
_MAX_ITEM = 4 << 20
_MAX_ROUTED = 8 << 20
_MAX_BYTES = (1 << 63) - 1
"""Limit of the bytes of all files of a collection, so that no sum is too large for a column."""

_STRICT = re.compile(rb"[0-9a-f]{32}\+([0-9]{1,32})(?:\+[A-Z][A-Za-z0-9_@-]*+)* ")
_LENIENT = re.compile(rb"[^ :+]*+\+([0-9]{1,32})(?:\+[^ :]*+)? ")


@dataclass(slots=True)
class _Line:
    """The line that is being read."""

    stream: int
    folder: int
    parts: list[bytes]
    """The parts of its name."""
    size: int = 0
    """Bytes in its blocks so far."""
    has_blocks: bool = False
    has_tokens: bool = False


class ManifestReader:
    """Reads a manifest that comes in chunks. `lenient`: see `parse_manifest`; `pages`: None for memory only."""

    def __init__(self, *, lenient: bool = False, pages: MakePages | None = None) -> None:
        self._make_pages, place = pages, None if pages is None else pages()
        self._lenient = lenient
        self._hash = PortableHash()
        self._locators, self._streams = LocatorsBuilder(place), StreamsBuilder(place)
        self._tree, self._runs = FolderTree(), RunsBuilder(place)
        self._rest = b""
        self._bytes = 0
        self._line: _Line | None = None
        self._routed: dict[int, bytearray] = {}
        """Tokens of the line that belong to other folders than its own."""
        self._routed_bytes = 0
        self._locator = _LENIENT if lenient else _STRICT

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """The next part of the text, of any size. Raises MalformedManifest: line and reason."""
        view = memoryview(chunk).cast("B")
        for start in range(0, len(view), _CHUNK):
            self._feed(bytes(view[start : start + _CHUNK]))

    def _feed(self, chunk: bytes) -> None:
        data = self._rest + chunk
        whole = max(data.rfind(b" "), data.rfind(b"\n")) + 1
        self._rest = data[whole:]
        items = data[:whole]
        self._hash.update(items, in_line=self._line is not None)
        *lines, begun = items.split(b"\n")
        for line in lines:
            self._end(self._read(line + b" "))
        if begun:
            self._read(begun)
        if len(self._rest) > _MAX_ITEM:
            raise self._malformed(f"a name or token of more than {_MAX_ITEM >> 20} MiB")

    def finish(self) -> Manifest:
        """The manifest, all of which has come. Raises MalformedManifest."""
        if self._rest or self._line is not None:
            raise self._malformed("no newline at the end")
        locators, streams, runs = self._locators.build(), self._streams.build(), self._runs.build()
        _check_names(self._tree, runs)
        return Manifest(self._hash.value(), locators, streams, self._tree, runs, self._make_pages)

    def _malformed(self, reason: str) -> MalformedManifest:
        line = len(self._streams) + (self._line is None)
        return MalformedManifest(f"line {line}: {reason}")

    # -- lines --------------------------------------------------------------------------------------------------------

    def _read(self, text: bytes) -> _Line:
        """A line or a part of one, a blank behind each item."""
        at = 0
        line = self._line
        if line is None:
            at = text.index(b" ") + 1
            line = self._begin(text[: at - 1])
        if not line.has_tokens:
            at = self._read_locators(line, text, at)
        if at < len(text):
            line.has_tokens = True
            self._read_tokens(line, text[at:-1])
        return line

    def _begin(self, name: bytes) -> _Line:
        parts = unescaped(name).split(b"/")
        if not self._lenient and (parts[0] != b"." or not possible(parts[1:]) or not _is_path(name)):
            raise self._malformed(f"invalid stream name {shown(name)}")
        folder = self._folder(resolved(parts) if self._lenient else parts[1:], name)
        line = self._line = _Line(self._streams.begin(), folder, parts)
        self._tree.add_run(folder, self._runs.append(line.stream))
        return line

    def _read_locators(self, line: _Line, text: bytes, at: int) -> int:
        """Add the locators that stand at `at`. Returns where they end."""
        while match := self._locator.match(text, at):
            size = int(match[1])
            if size > MAX_LOCATOR_SIZE:
                raise self._malformed(f"locator {shown(match[0][:-1])} is for more than {MAX_LOCATOR_SIZE} bytes")
            at = match.end()
            line.has_blocks = True
            line.size += size
            self._locators.append(match[0][:-1])
            self._streams.append(line.size)
        return at

    def _end(self, line: _Line) -> None:
        """The newline behind a line."""
        if not line.has_tokens:
            raise self._malformed("no file token" if line.has_blocks else "no locator")
        self._put_routed(line)
        self._line = None

    def _put_routed(self, line: _Line) -> None:
        for folder, tokens in self._routed.items():
            self._tree.add_run(folder, self._runs.append(line.stream))
            self._runs.extend(tokens)
        self._routed.clear()
        self._routed_bytes = 0

    # -- tokens -------------------------------------------------------------------------------------------------------

    def _read_tokens(self, line: _Line, tokens: bytes) -> None:
        if not line.has_blocks:
            raise self._malformed(f"missing or invalid locator {shown(tokens.partition(b' ')[0])}")
        columns = plain_columns(tokens)
        if columns is not None and self._fits(line, columns):
            self._count(sum(columns.lengths))
            self._runs.extend(tokens + b" ")
        else:
            for token in tokens.split(b" "):
                self._read_token(line, token)
            if self._routed_bytes > _MAX_ROUTED:
                self._put_routed(line)
                self._tree.add_run(line.folder, self._runs.append(line.stream))

    def _fits(self, line: _Line, columns: TokenColumns) -> bool:
        end: int = max(map(add, columns.positions, columns.lengths))
        return end <= (_MAX_BYTES if self._lenient else line.size)

    def _count(self, length: int) -> None:
        self._bytes += length
        if self._bytes > _MAX_BYTES:
            raise self._malformed("files of more than 8 EiB in all")

    def _read_token(self, line: _Line, token: bytes) -> None:
        match = TOKEN.fullmatch(token)
        if match is None:
            raise self._malformed(f"invalid file token {shown(token)}")
        position, length = int(match[1]), int(match[2])
        if position + length > (_MAX_BYTES if self._lenient else line.size):
            raise self._malformed(f"{shown(token)} is not within the {line.size} bytes of its stream")
        self._count(length)
        *path, name = unescaped(match[3]).split(b"/")
        marker = name == b"." and (length == 0 if self._lenient else token.startswith(b"0:0:"))
        if not (marker or possible([name])) or not (self._lenient or (possible(path) and _is_path(match[3]))):
            raise self._malformed(f"invalid file token {shown(token)}")
        folder = self._folder(resolved([*line.parts, *path]), token) if path else line.folder
        if not marker:
            written = b"%d:%d:%b " % (position, length, lightly_escaped(name))
            if folder == line.folder:
                self._runs.extend(written)
            else:
                self._routed.setdefault(folder, bytearray()).extend(written)
                self._routed_bytes += len(written)

    # -- folders ------------------------------------------------------------------------------------------------------

    def _folder(self, parts: Sequence[bytes] | None, named: bytes) -> int:
        if parts is None:
            raise self._malformed(f"{shown(named)} leads out of the collection")
        folder = self._tree.add(parts)
        if len(self._tree) > MAX_FOLDERS:
            raise self._malformed(f"more than {MAX_FOLDERS} folders")
        return folder


def _check_names(tree: FolderTree, runs: Runs) -> None:
    """No name is that of a file and of a folder."""
    for folder in tree.parents():
        below = tree.below(folder).keys()
        for run in tree.runs(folder):
            for names in file_names(runs, run):
                if not below.isdisjoint(names):
                    name = next(name for name in names if name in below)
                    line = runs.stream(run) + 1
                    raise MalformedManifest(f"line {line}: {shown(name)} is a file here and a folder elsewhere")


def _is_path(text: bytes) -> bool:
    return PATH.fullmatch(text) is not None and is_utf8(text)


def parse_manifest(text: bytes | bytearray | memoryview | Iterable[bytes], *, lenient: bool = False) -> Manifest:
    """The manifest that `text` is, given at once or in chunks of any size.

    With `lenient`, everything that Arvados' Go programs accept, and tokens beyond the end of their stream: such a file
    has the length that is written, and segments of NO_BLOCK where there are no bytes. Raises MalformedManifest: line
    and reason.
    """
    reader = ManifestReader(lenient=lenient)
    for chunk in (text,) if isinstance(text, bytes | bytearray | memoryview) else text:
        reader.feed(chunk)
    return reader.finish()
