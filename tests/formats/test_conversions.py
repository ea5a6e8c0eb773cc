"""Conversions of a file's bytes, beside those of git itself, in both directions."""

import itertools
import random
import re
import subprocess
from pathlib import Path

import pytest

from riafs.errors import MalformedText
from riafs.formats.conversions import Conversion, Ends, conversion_of
from riafs.formats.gitobjects import object_name

SPECIFIED = {
    "text": ["", "text", "-text", "text=auto", "text=input", "text=odd", "crlf", "-crlf", "crlf=input", "binary"],
    "eol": ["", "eol=lf", "eol=crlf"],
    "ident": ["", "ident", "-ident"],
}
PIECES = [
    b"\r\n", b"\n", b"\r", b"line", b"\0", b"\x01", b"\x1a", b"\x7f", "ü".encode(), b"$Id$", b"$Id: x$", b"$Id: a b $",
    b"$Id:$", b"$Id: \n$", b"$Id:  $", b"$Id: 1 $", b"$Id", b"$", b"text of more than a few bytes " * 9, b"\t\x1b\x08",
]  # fmt: skip


def git(top: Path, *words: str, stdin: bytes = b"") -> bytes:
    command = ["git", "-c", "core.safecrlf=false", "-c", "advice.x=false", *words]
    return subprocess.run(command, cwd=top, input=stdin, capture_output=True, check=True).stdout


def attributes_of(top: Path, names: list[str]) -> dict[str, dict[bytes, bytes]]:
    said = git(top, "check-attr", "-z", "--stdin", "text", "crlf", "eol", "working-tree-encoding", "ident", "filter",
               stdin=b"".join(name.encode() + b"\0" for name in names)).split(b"\0")[:-1]  # fmt: skip
    found: dict[str, dict[bytes, bytes]] = {name: {} for name in names}
    for path, name, value in zip(said[::3], said[1::3], said[2::3], strict=True):
        if value != b"unspecified":
            found[path.decode()][name] = value
    return found


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A repository with files of all kinds of content under all kinds of attributes, none of them in git yet."""
    top = tmp_path_factory.mktemp("converted")
    git(top, "init", "-q")
    chosen = random.Random(1)
    files: dict[str, bytes] = {}
    lines = []
    for number, words in enumerate(itertools.product(*SPECIFIED.values())):
        lines.append(f"{number}-* {' '.join(filter(None, words)) or '!text'}\n")
        for sample in range(30):
            pieces = chosen.choices(PIECES, k=chosen.randrange(6))
            files[f"{number}-{sample}"] = b"".join(pieces)
    (top / ".gitattributes").write_text("".join(lines))
    for name, data in files.items():
        (top / name).write_bytes(data)
    return top, files


def test_blobs_are_those_that_git_makes(samples: tuple[Path, dict[str, bytes]]) -> None:
    top, files = samples
    names = list(files)
    theirs = git(top, "hash-object", "--stdin-paths", stdin="\n".join(names).encode()).split()
    known = attributes_of(top, names)
    for name, oid in zip(names, theirs, strict=True):
        conversion = conversion_of(known[name])
        stored = conversion.stored(files[name])
        assert object_name(b"blob", stored, 40) == oid, (known[name], files[name], stored)


def test_checkouts_are_those_that_git_makes(samples: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    top, files = samples
    names = list(files)
    oids = git(top, "hash-object", "-w", "--no-filters", "--stdin-paths", stdin="\n".join(names).encode()).split()
    lines = b"".join(b"100644 %b\t%b\n" % (oid, name.encode()) for name, oid in zip(names, oids, strict=True))
    git(top, "update-index", "--index-info", stdin=lines)
    git(top, "checkout-index", "-a", f"--prefix={tmp_path}/")
    known = attributes_of(top, names)
    for name, oid in zip(names, oids, strict=True):
        conversion = conversion_of(known[name])
        if conversion.ident and b"$" in re.sub(rb"\$Id(: 1 |: x|: a b )?\$", b"", files[name]):
            continue  # keywords that are not whole
        shown = conversion.checked_out(files[name], oid)
        assert shown == (tmp_path / name).read_bytes(), (known[name], files[name])


ENCODINGS = [
    "UTF-16", "UTF-16LE", "utf-16be", "UTF-16LE-BOM", "UTF-32", "UTF-32LE", "latin1", "ISO-8859-15", "SHIFT-JIS",
    "UTF-8", "windows-1252",
]  # fmt: skip
TEXT = "Grüße\r\n£\n"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_are_those_of_git(tmp_path: Path, encoding: str) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitattributes").write_text(f"* working-tree-encoding={encoding} text\n")
    text = "ｱ\r\n" if encoding == "SHIFT-JIS" else TEXT
    blob = text.replace("\r", "").encode()
    oid = git(tmp_path, "hash-object", "-w", "--no-filters", "--stdin", stdin=blob).strip()
    git(tmp_path, "update-index", "--add", "--cacheinfo", f"100644,{oid.decode()},file")
    git(tmp_path, "checkout-index", "file")
    conversion = conversion_of(attributes_of(tmp_path, ["file"])["file"])
    assert conversion.checked_out(blob, oid) == (tmp_path / "file").read_bytes()
    assert conversion.stored((tmp_path / "file").read_bytes()) == blob
    assert conversion.stored(b"") == conversion.checked_out(b"", oid) == b""


@pytest.mark.parametrize(
    ("encoding", "data", "reason"),
    [
        ("UTF-16", "x".encode("utf-16-le"), "no byte order mark"),
        ("UTF-16LE", b"\xff\xfex\0", "does not allow"),
        ("UTF-16LE", b"x", "not in UTF-16LE"),
        ("no-such-thing", b"x", "no known encoding"),
    ],
)
def test_what_is_not_in_its_encoding_is_refused(encoding: str, data: bytes, reason: str) -> None:
    with pytest.raises(MalformedText, match=reason):
        Conversion(encoding=encoding).stored(data)


def test_guessed_line_ends_stay_where_the_blob_had_them() -> None:
    conversion = Conversion(Ends.GUESSED)
    assert conversion.stored(b"a\r\nb\r\n", b"a\r\n") == b"a\r\nb\r\n"
    assert conversion.stored(b"a\r\nb\r\n", b"a\n") == b"a\nb\n"
    assert Conversion(Ends.TEXT).stored(b"a\r\n", b"a\r\n") == b"a\n"


@pytest.mark.parametrize(("value", "driver"), [(b"lfs", b"lfs"), (b"annex", None), (b"set", None), (b"unset", None)])
def test_filters_are_only_named(value: bytes, driver: bytes | None) -> None:
    conversion = conversion_of({b"filter": value})
    assert conversion.filter == driver
    assert conversion.changes_nothing
    assert conversion_of({}) == Conversion()
