"""Stores whose objects lie in 7z archives: compressible text packed in several ways, and a great many small keys.

Archives are made by 7-Zip, as by DataLad's ``export-archive-ora``, or by ``riafs archive``. The files of a dataset are
numbered in the order of the archive's members, so that both have the same order of names.
"""

import itertools
import os
import random
import shutil
import string
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import mounts, stores
from benchmarks.stores import Annexed
from riafs.formats.annex import hash_mixed

SMALL_SIZE = 1000
_PHRASES = 5_000
_WORD_LETTERS = (3, 9)
_LINE_PHRASES = 5
_PACKING_SECONDS = 1800.0
_OBJECTS = "annex/objects"
_DEPTH = 3  # hash directory, hash directory, key, key
_ARCHIVE = "archives/archive.7z"


@dataclass(frozen=True, slots=True)
class Packing:
    """A way to pack: what tables call it, and 7-Zip's switches (None: by ``riafs archive``)."""

    name: str
    shown: str
    switches: tuple[str, ...] | None


COPY = Packing("copy", "stored (-mx0)", ("-mx0",))
SINGLE = Packing("single", "LZMA2 -mx1, not solid", ("-mx1", "-ms=off"))
RESETS = Packing("resets", "LZMA2 -mx1 solid, reset each MiB", ("-mx1", "-ms=on", "-m0=LZMA2:d256k:c1m"))
SOLID = Packing("solid", "LZMA2 -mx5 solid, as 7-Zip writes it", ("-mx5", "-ms=on"))
ONE_BLOCK = Packing("one-block", "LZMA2 -mx5 solid, one thread, no resets", ("-mx5", "-ms=on", "-mmt1"))
OWN = Packing("own", "riafs archive", None)
PACKINGS = (COPY, SINGLE, RESETS, SOLID, ONE_BLOCK, OWN)


@dataclass(frozen=True, slots=True)
class Packed:
    """A store with one dataset, alias ``packed``, whose objects are all in `archive`."""

    store: Path
    files: Sequence[str]
    """The paths of the dataset's files, in order of name and of the archive."""
    size: int
    """Bytes of all files together."""

    @property
    def source(self) -> str:
        """What to mount."""
        return f"{self.store}#~packed"

    @property
    def archive(self) -> Path:
        """The archive's file."""
        return self.store / stores.dataset_path(1) / _ARCHIVE

    def members(self) -> Sequence[str]:
        """The names of the archive's members, those of `files` in order. It asks 7-Zip."""
        listed = subprocess.run(["7z", "l", "-ba", "-slt", self.archive], check=True, capture_output=True, text=True)
        paths = [line.removeprefix("Path = ") for line in listed.stdout.splitlines() if line.startswith("Path = ")]
        return sorted(path for path in paths if path.count("/") == _DEPTH)


def text_store(data: Path, packing: Packing, files: int, size: int) -> Packed:
    """`files` files of about `size` bytes of text, packed in that way."""
    loose = _loose_text(data, files, size)
    place = data / f"text-{files}x{size}-{packing.name}"
    stores.build_once(place, lambda root: _pack_text(root, place, loose, packing))
    return Packed(place, _names(files), files * size)


def small_store(data: Path, count: int) -> tuple[Packed, Packed]:
    """`count` keys of `SMALL_SIZE` bytes: in a stored archive, and the same as loose objects (which has no archive)."""
    loose, place = data / f"keys-{count}-loose", data / f"keys-{count}-archive"
    stores.build_once(loose, lambda root: _build_loose(root, loose, list(_small(count))))
    stores.build_once(place, lambda root: _pack_small(root, place, loose, count))
    return Packed(place, _names(count), count * SMALL_SIZE), Packed(loose, _names(count), count * SMALL_SIZE)


def _names(count: int) -> Sequence[str]:
    return [f"d{number // 1000:03d}/file{number:06d}.txt" for number in range(count)]


def _in_order(content: list[Annexed]) -> Iterator[Annexed]:
    """`content` with paths in the order of the names that the objects have in an archive."""
    content.sort(key=lambda file: hash_mixed(file.key) + b"/" + file.key)
    for name, file in zip(_names(len(content)), content, strict=True):
        yield Annexed(name, file.data)


def _small(count: int) -> Iterator[Annexed]:
    return (Annexed(f"{number}.txt", b"%012d " % number * (SMALL_SIZE // 13)) for number in range(count))


def _loose_text(data: Path, files: int, size: int) -> Path:
    place = data / f"text-{files}x{size}-loose"
    content = (Annexed(f"{number}.txt", _text(number, size)) for number in range(files))
    return stores.build_once(place, lambda root: _build_loose(root, place, list(content)))


def _text(seed: int, size: int) -> bytes:
    """Lines of a table: numbers, and phrases of which some are more frequent than others. LZMA2 leaves an eighth."""
    vocabulary = random.Random(0)
    phrases = [_phrase(vocabulary) for _ in range(_PHRASES)]
    weights = list(itertools.accumulate(1 / (rank + 1) for rank in range(_PHRASES)))
    generator = random.Random(seed + 1)
    chosen = iter(generator.choices(phrases, cum_weights=weights, k=size // 20))
    lines = []
    for number, line in enumerate(zip(*[chosen] * _LINE_PHRASES, strict=False)):
        lines.append(f"{number},{generator.gauss(100, 15):.3f},{','.join(line)}\n")
    return "".join(lines).encode()[:size]


def _phrase(generator: random.Random) -> str:
    words = ("".join(generator.choices(string.ascii_lowercase, k=generator.randint(*_WORD_LETTERS))) for _ in range(4))
    return " ".join(words)


def _build_loose(root: Path, store: Path, content: list[Annexed]) -> None:
    ordered = list(_in_order(content))
    stores.make_store(root)
    with stores.new_dataset(root, store, 1, "packed") as dataset:
        dataset.keep(ordered)
        dataset.commit("main", ordered)
        dataset.log_locations(ordered)


def _contents(loose: Path) -> list[Annexed]:
    """The objects of a store, without paths."""
    found = (loose / stores.dataset_path(1) / _OBJECTS).glob("*/*/*/*")
    return [Annexed("", place.read_bytes()) for place in found]


def _pack_text(root: Path, store: Path, loose: Path, packing: Packing) -> None:
    if packing.switches is None:
        _build_loose(root, store, _contents(loose))
        mounts.riafs("archive", "--prune", f"{root}#~packed", patience=_PACKING_SECONDS)
        return
    _build_without_objects(root, store, _contents(loose))
    _seven_zip(loose, root, packing.switches)


def _pack_small(root: Path, store: Path, loose: Path, count: int) -> None:
    _build_without_objects(root, store, list(_small(count)))
    _seven_zip(loose, root, ["-mx0"])


def _build_without_objects(root: Path, store: Path, content: list[Annexed]) -> None:
    _build_loose(root, store, content)
    shutil.rmtree(root / stores.dataset_path(1) / _OBJECTS)


def _seven_zip(loose: Path, root: Path, switches: Sequence[str]) -> None:
    """Pack the objects of the store `loose` for the one at `root`."""
    archive = root / stores.dataset_path(1) / _ARCHIVE
    archive.parent.mkdir()
    objects = loose / stores.dataset_path(1) / _OBJECTS
    subprocess.run(
        ["7z", "a", "-bso0", "-bsp0", *switches, archive, *sorted(os.listdir(objects))], cwd=objects, check=True
    )
