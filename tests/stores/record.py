"""Recording what a dataset holds, with git and git-annex as witnesses."""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.stores.manifest import UNKNOWN_SIZE, Dataset, Expect, Row, Type
from tests.stores.work import Work, escape

MODES = {"120000": stat.S_IFLNK | 0o777, "160000": stat.S_IFDIR | 0o555, "100755": stat.S_IFREG | 0o555}


@dataclass(frozen=True, slots=True)
class Built:
    """A finished dataset."""

    dataset: Dataset
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Blob:
    """One line of ``git ls-tree``."""

    mode: str
    sha: str
    path: bytes


@dataclass(frozen=True, slots=True)
class Fate:
    """What a recipe did to paths in the store."""

    expect: Expect = Expect.OK
    stored: tuple[str, ...] = ("loose",)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one dataset is to be written into the manifest."""

    refs: tuple[str, ...] = ("main",)
    fate: Fate = Fate()
    fates: Mapping[str, Fate] = field(default_factory=dict)
    clonable: bool = True
    alias: bool = True
    note: str = ""


def record(work: Work, recipe: Recipe) -> Built:
    """Manifest entries of a finished dataset."""
    contents = kept_contents(work.path / ".git" / "annex" / "objects")
    rows = [row for ref in recipe.refs for row in rows_at(work, ref, contents)]
    known = Dataset(work.name, work.id, work.name if recipe.alias else None, recipe.refs, recipe.clonable, recipe.note)
    return Built(known, tuple(fated(row, recipe) for row in rows))


def fated(row: Row, recipe: Recipe) -> Row:
    """A row after what the recipe did in the store."""
    if row.type not in {Type.LOCKED, Type.UNLOCKED}:
        return row
    fate = recipe.fates.get(row.name, recipe.fate)
    return replace(row, expect=fate.expect, stored=fate.stored, sha256=row.sha256 if fate.expect.readable else None)


def kept_contents(objects: Path) -> dict[str, tuple[int, str]]:
    """Size and sha256 of every object that the working repository keeps, by the key's file name."""
    found = {}
    for directory, _, files in os.walk(os.fsencode(objects)):
        for name in files:
            with open(os.path.join(directory, name), "rb") as file:
                content = file.read()
            found[os.fsdecode(name)] = digest(content)
    return found


def digest(content: bytes) -> tuple[int, str]:
    """Size and sha256."""
    return len(content), hashlib.sha256(content).hexdigest()


def rows_at(work: Work, ref: str, contents: Mapping[str, tuple[int, str]]) -> Iterator[Row]:
    """Rows of one version."""
    commit = work.word("rev-parse", f"{ref}^{{commit}}")
    blobs = list(listing(work, commit))
    keys = annexed(work, commit)
    texts = blob_texts(work, [blob for blob in blobs if blob.mode != "160000" and blob.path not in keys])
    for blob in blobs:
        size, sha256 = content_of(blob, keys.get(blob.path), contents, texts)
        name = os.fsdecode(blob.path)
        kind = type_of(blob, annexed=blob.path in keys)
        mode = MODES["100755"] if kind is Type.UNLOCKED and blob.mode == "100755" else mode_of(blob, kind)
        link = blob.sha if kind is Type.SUBMODULE else None
        yield Row(
            work.name, ref, commit, name, kind, mode, keys.get(blob.path), size, sha256, ("git",), Expect.OK, link
        )


def listing(work: Work, commit: str) -> Iterator[Blob]:
    """All entries of a commit's tree that are no trees."""
    for line in work.git("ls-tree", "-r", "-z", "--full-tree", commit).split(b"\0")[:-1]:
        about, path = line.split(b"\t", 1)
        mode, _, sha = about.decode().split(" ")
        yield Blob(mode, sha, path)


def annexed(work: Work, commit: str) -> dict[bytes, str]:
    """Path → key of everything git-annex takes for an annexed file in a commit."""
    if not (work.path / ".git" / "annex").exists():
        return {}
    form = "--format=${key}\\000${file}\\000"
    fields = work.annex("find", "--anything", f"--branch={commit}", form).split(b"\0")[:-1]
    return {path: os.fsdecode(key) for key, path in zip(fields[::2], fields[1::2], strict=True)}


def type_of(blob: Blob, *, annexed: bool) -> Type:
    """How an entry is kept."""
    if annexed:
        return Type.LOCKED if blob.mode == "120000" else Type.UNLOCKED
    return {"120000": Type.LINK, "160000": Type.SUBMODULE}.get(blob.mode, Type.GIT)


def mode_of(blob: Blob, kind: Type) -> int:
    """What stat must show of an entry."""
    if kind is Type.LOCKED:
        return stat.S_IFREG | 0o444
    return MODES.get(blob.mode, stat.S_IFREG | 0o444)


def content_of(
    blob: Blob, key: str | None, contents: Mapping[str, tuple[int, str]], texts: Mapping[str, bytes]
) -> tuple[int, str | None]:
    """Size and sha256 that a reader must get."""
    if key is not None:
        return contents.get(escape(key), (size_in(key), None))
    if blob.mode == "160000":
        return 0, None
    return digest(texts[blob.sha])


def size_in(key: str) -> int:
    """The size that a key tells."""
    fields = key.split("--", 1)[0].split("-")[1:]
    return next((int(field[1:]) for field in fields if field.startswith("s")), UNKNOWN_SIZE)


def blob_texts(work: Work, blobs: Sequence[Blob]) -> dict[str, bytes]:
    """Content of git blobs by object name."""
    output = work.git("cat-file", "--batch", stdin="".join(f"{blob.sha}\n" for blob in blobs).encode())
    return dict(batch(output))


def batch(output: bytes) -> Iterator[tuple[str, bytes]]:
    """The answers of ``git cat-file --batch``."""
    while output:
        header, output = output.split(b"\n", 1)
        sha, _, size = header.decode().split(" ")
        yield sha, output[: int(size)]
        output = output[int(size) + 1 :]


def changed(built: Built, changes: Iterable[tuple[bytes, Mapping[str, object]]]) -> Built:
    """The same with some fields of some paths replaced, at every ref."""
    by_path = dict(changes)
    rows = tuple(replace(row, **by_path[row.path]) if row.path in by_path else row for row in built.rows)  # type: ignore[arg-type]  # fields of Row
    return replace(built, rows=rows)
