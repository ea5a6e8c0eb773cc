"""What a reader must find in the test stores, file by file; written by the builder, read by the tests.

The manifest is recorded from the working repositories with git and git-annex, never with riafs. JSON holds names as
text with surrogate escapes, `Row.path` gives the bytes back.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path


class Type(StrEnum):
    """How a path is kept in the tree."""

    LOCKED = "annex-locked"
    UNLOCKED = "annex-unlocked"
    GIT = "git"
    LINK = "symlink"
    SUBMODULE = "submodule"


class Expect(StrEnum):
    """What reading gives."""

    OK = "ok"
    MISSING = "missing"
    WEB = "web"
    """Only a URL serves it."""
    CORRUPT = "corrupt"
    CORRUPT_UNDETECTABLE = "corrupt-undetectable"
    """The key has no digest and the size is right: the damaged bytes are the content."""
    ARCHIVE_GOOD = "loose-corrupt-archive-good"
    ORA_CANNOT = "ora-cannot-read"
    """In a place where DataLad's ORA does not look: content."""
    CHUNKED = "chunked"
    ENCRYPTED = "encrypted-shared"
    ENCRYPTED_CHUNKED = "encrypted-shared-chunked"
    PASSWORD = "password"
    """Needs a password or secret key: EACCES."""

    @property
    def readable(self) -> bool:
        """Whether a reader must get the bytes with the row's sha256."""
        return self not in {Expect.MISSING, Expect.WEB, Expect.CORRUPT, Expect.PASSWORD}

    @property
    def cloned(self) -> bool:
        """Whether DataLad's ``get`` in a clone must give the bytes too."""
        return self in {Expect.OK, Expect.CHUNKED, Expect.ENCRYPTED, Expect.ENCRYPTED_CHUNKED}


UNKNOWN_SIZE = -1


@dataclass(frozen=True, slots=True)
class Row:
    """One path at one version."""

    dataset: str
    ref: str
    commit: str
    name: str
    """Path with surrogate escapes for bytes that are not UTF-8."""
    type: Type
    mode: int
    """What stat must show: type and permission bits."""
    key: str | None
    size: int
    """Bytes of the content, of a link's target, 0 for a submodule; UNKNOWN_SIZE where nothing tells it."""
    sha256: str | None
    """Of the content, or of a link's target; None where no reader can get it."""
    stored: tuple[str, ...]
    """Where the store has it: ``loose``, ``archive``, ``chunks``, ``encrypted``, ``web``, ``git``; empty: nowhere."""
    expect: Expect
    gitlink: str | None = None
    """Registered commit of a submodule; one with Expect.OK has rows of its own under that ref."""

    @property
    def path(self) -> bytes:
        """The path below the dataset."""
        return os.fsencode(self.name)


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset of the store."""

    name: str
    id: str
    alias: str | None
    refs: tuple[str, ...]
    """Versions with rows, the one shown without ``@ref`` first."""
    clonable: bool
    """``datalad clone`` and ``get`` give every file of the first ref whose `Expect.cloned` is true."""
    note: str


@dataclass(frozen=True, slots=True)
class Stores:
    """The finished test stores."""

    root: Path
    datasets: tuple[Dataset, ...]
    rows: tuple[Row, ...]

    @property
    def path(self) -> Path:
        """The store with all datasets of the manifest."""
        return self.root / "store"

    def other(self, name: str) -> Path:
        """A small store with a peculiarity: ``no-aliases``, ``no-version``, ``future-version``."""
        return self.root / name

    def dataset(self, name: str) -> Dataset:
        """The dataset of that name."""
        return next(dataset for dataset in self.datasets if dataset.name == name)

    def dataset_path(self, name: str) -> Path:
        """Directory of a dataset in the store."""
        return place(self.path, self.dataset(name).id)

    def rows_of(self, name: str, ref: str | None = None) -> list[Row]:
        """The rows of one dataset at one ref, by default the one shown without a version."""
        wanted = ref or self.dataset(name).refs[0]
        return [row for row in self.rows if row.dataset == name and row.ref == wanted]

    def row(self, name: str, path: bytes, ref: str | None = None) -> Row:
        """One path of a dataset."""
        return next(row for row in self.rows_of(name, ref) if row.path == path)

    def copy(self, target: Path, *names: str) -> "Stores":
        """A store of its own with some of the datasets, for a test that changes it."""
        chosen = [self.dataset(name) for name in names]
        (target / "store" / "alias").mkdir(parents=True)
        shutil.copy(self.path / "ria-layout-version", target / "store")
        for dataset in chosen:
            copy_dataset(self.path, target / "store", dataset)
        rows = tuple(row for row in self.rows if row.dataset in names)
        return replace(self, root=target, datasets=tuple(chosen), rows=rows)


def place(store: Path, dataset_id: str) -> Path:
    """Directory of a dataset in a store."""
    return store / dataset_id[:3] / dataset_id[3:]


def copy_dataset(source: Path, target: Path, dataset: Dataset) -> None:
    """Copy one dataset and its alias from store to store."""
    shutil.copytree(place(source, dataset.id), place(target, dataset.id), symlinks=True)
    if dataset.alias:
        shutil.copy(source / "alias" / dataset.alias, target / "alias", follow_symlinks=False)


def save(stores: Stores) -> None:
    """Write the manifest."""
    document = {"datasets": [asdict(d) for d in stores.datasets], "rows": [asdict(r) for r in stores.rows]}
    (stores.root / "manifest.json").write_text(json.dumps(document, indent=1))


def load(root: Path) -> Stores:
    """Read the manifest of finished stores."""
    document = json.loads((root / "manifest.json").read_text())
    datasets = tuple(Dataset(**{**d, "refs": tuple(d["refs"])}) for d in document["datasets"])
    return Stores(root, datasets, tuple(rows(document["rows"])))


def rows(documents: Sequence[dict[str, object]]) -> Iterator[Row]:
    """Rows from their JSON form."""
    for fields in documents:
        row = Row(**fields)  # type: ignore[arg-type]  # as asdict wrote them
        yield replace(row, type=Type(row.type), expect=Expect(row.expect), stored=tuple(row.stored))
