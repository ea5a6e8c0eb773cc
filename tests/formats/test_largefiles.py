"""``annex.largefiles`` and text encodings: git-annex's expressions (tried with git-annex 10), file(1)'s encodings."""

import contextlib
import shutil
import subprocess
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import MalformedLog, RiafsError
from riafs.formats.largefiles import mime_encoding_of, parse_large_files


@dataclass(frozen=True)
class File:
    """A file with known answers."""

    path: bytes = b"dir/a.txt"
    size: int = 1000
    encoding: bytes = b"us-ascii"

    def mime_type(self) -> bytes:
        return b"text/plain"

    def mime_encoding(self) -> bytes:
        return self.encoding


@pytest.mark.parametrize(
    ("text", "large"),
    [
        (b"anything", True),
        (b"nothing", False),
        (b"include=*.txt", True),
        (b"include=a.txt", False),
        (b"include=dir/*", True),
        (b"exclude=*.txt", False),
        (b"include=dir/[ab].tx?", True),
        (b"largerthan=999", True),
        (b"largerthan=1000", False),
        (b"largerthan=1kB", False),
        (b"smallerthan=1.1kB", True),
        (b"not largerthan=1", False),
        (b"not not anything", True),
        (b"nothing and anything or anything", True),
        (b"anything or anything and nothing", False),
        (b"anything or (anything and nothing)", True),
        (b"anything nothing", False),
        (b"(anything)and(nothing)", False),
        (b"((mimeencoding=binary)and(largerthan=0))", False),
        (b"mimetype=text/*", True),
        (b"mimeencoding=us-*", True),
    ],
)
def test_expressions(text: bytes, large: bool) -> None:
    assert parse_large_files(text).matches(File()) is large


@pytest.mark.parametrize(
    "text", [b"", b"(", b")", b"anything)", b"(anything", b"and", b"what", b"largerthan=x", b"x=y"]
)
def test_what_is_no_expression(text: bytes) -> None:
    with pytest.raises(MalformedLog):
        parse_large_files(text)


def test_nesting_is_bounded() -> None:
    with pytest.raises(MalformedLog):
        parse_large_files(b"(" * 2000)
    with pytest.raises(MalformedLog):
        parse_large_files(b"not " * 1000)


def test_content_is_read_only_for_those_who_ask() -> None:
    assert parse_large_files(b"mimeencoding=binary or largerthan=1").reads_content
    assert not parse_large_files(b"include=* and largerthan=1").reads_content


@given(st.lists(st.sampled_from([b"(", b")", b"and", b"or", b"not", b"anything", b"include=*", b"x"]), max_size=12))
def test_any_words_are_an_expression_or_not(words: list[bytes]) -> None:
    with contextlib.suppress(RiafsError):
        parse_large_files(b" ".join(words)).matches(File())


ENCODINGS = {
    b"plain\ttext\r\n\x1b[0m": b"us-ascii",
    "grün".encode(): b"utf-8",
    "café".encode(): b"utf-8",
    "grüß".encode()[:-1]: b"utf-8",
    "grün".encode()[:3]: b"iso-8859-1",
    "grün".encode("latin-1"): b"iso-8859-1",
    "gr\u00fcn und \u20ac".encode("cp1252"): b"unknown-8bit",
    b"\xff\xfe" + "text".encode("utf-16-le"): b"utf-16le",
    b"\xfe\xff" + "text".encode("utf-16-be"): b"utf-16be",
    b"text\0text": b"binary",
    b"\x01\x02": b"binary",
    bytes(range(256)): b"binary",
    b"": b"binary",
}


@pytest.mark.parametrize("head", ENCODINGS)
def test_encodings(head: bytes) -> None:
    assert mime_encoding_of(head) == ENCODINGS[head]


@pytest.mark.skipif(shutil.which("file") is None, reason="the program file is not installed")
@pytest.mark.parametrize("head", [head for head in ENCODINGS if head])
def test_file_says_the_same(head: bytes) -> None:
    command = ["file", "--brief", "--mime-encoding", "-"]
    done = subprocess.run(command, input=head, stdout=subprocess.PIPE, check=True)
    assert done.stdout.strip() == ENCODINGS[head]
