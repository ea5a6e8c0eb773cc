"""What happens to files: other bytes in them, or something else in their place."""

import os
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Change = Callable[[bytes, random.Random], bytes]


def _flip(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _flip_front(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(min(100, len(data)))
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _zero_part(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    part = data[at : at + 4096]
    return data[:at] + bytes(len(part)) + data[at + len(part) :]


def _exchange_parts(data: bytes, chance: random.Random) -> bytes:
    length = min(chance.choice((1, 4, 20, 512, 4096)), len(data) // 2)
    first = chance.randrange(len(data) - 2 * length + 1)
    second = chance.randrange(first + length, len(data) - length + 1)
    between = data[first + length : second]
    return (
        data[:first] + data[second : second + length] + between + data[first : first + length] + data[second + length :]
    )


CHANGES: Mapping[str, Change] = {
    "a bit flipped": _flip,
    "a bit of the front flipped": _flip_front,
    "cut": lambda data, chance: data[: chance.randrange(len(data))],
    "empty": lambda _data, _chance: b"",
    "zeroed": lambda data, _chance: bytes(len(data)),
    "a page zeroed": _zero_part,
    "something else": lambda data, chance: chance.randbytes(len(data)),
    "longer": lambda data, chance: data + chance.randbytes(100),
    "ends exchanged": lambda data, _chance: data[len(data) // 2 :] + data[: len(data) // 2],
    "parts exchanged": _exchange_parts,
}
"""Of the bytes of a file that is not empty."""

LIKELY = ("a bit flipped", "a bit flipped", "a bit of the front flipped", "cut", "a page zeroed", "parts exchanged")
REPLACEMENTS = (
    "missing",
    "a directory",
    "a fifo",
    "a link out",
    "a link to nothing",
    "a neighbour's link",
    "exchanged",
)


def damage(files: Sequence[Path], chance: random.Random) -> str:
    """Damage one of `files`, or two by each other; says what was done."""
    path = chance.choice(files)
    if chance.random() < 0.2:
        return f"{path}: {replace(path, files, chance)}"
    return f"{path}: {alter(path, chance)}"


def alter(path: Path, chance: random.Random) -> str:
    """Put other bytes into a file, which stays one; says which."""
    data = path.read_bytes()
    name = chance.choice((*LIKELY, *CHANGES)) if data else "longer"
    data = CHANGES[name](data, chance)
    path.chmod(0o644)
    path.write_bytes(data)
    return name


def replace(path: Path, others: Sequence[Path], chance: random.Random) -> str:
    """Put something else into the place of a file; says what."""
    name, other = chance.choice(REPLACEMENTS), chance.choice(others)
    if name == "exchanged":
        aside = path.with_name("aside")
        os.rename(path, aside)
        if other != path:
            os.rename(other, path)
        os.rename(aside, other)
        return f"exchanged with {other}"
    if name == "a neighbour's link":
        shutil.copyfile(other, path.with_name("neighbour"))
    path.unlink()
    if name == "a directory":
        path.mkdir()
    elif name == "a fifo":
        os.mkfifo(path)
    elif name != "missing":
        targets = {"a link out": "/etc/passwd", "a link to nothing": "nothing", "a neighbour's link": "neighbour"}
        path.symlink_to(targets[name])
    return name


DIRECTORY_REPLACEMENTS = (
    "missing",
    "empty",
    "a file",
    "a fifo",
    "a link out",
    "a link to nothing",
    "a link to itself",
)


def outside(directory: Path) -> Path:
    """A directory that links may lead to, and nobody may change."""
    made = directory / "outside"
    made.mkdir(parents=True)
    (made / "1").write_bytes(b"not ours")
    return made


def check_outside(made: Path) -> None:
    """Raises AssertionError where somebody has."""
    found = sorted(path.relative_to(made) for path in made.rglob("*"))
    assert [str(path) for path in found] == ["1"], found
    assert (made / "1").read_bytes() == b"not ours"


def replace_directory(path: Path, elsewhere: Path, chance: random.Random) -> str:
    """Put something else into the place of a directory; says what. `elsewhere`: see `outside`."""
    name = chance.choice(DIRECTORY_REPLACEMENTS)
    if name == "a link to itself":
        os.rename(path, path.with_name("moved"))
        path.symlink_to("moved")
        return f"{path}: {name}, moved"
    shutil.rmtree(path)
    if name == "empty":
        path.mkdir(mode=0o700)
    elif name == "a file":
        path.write_bytes(chance.randbytes(100))
    elif name == "a fifo":
        os.mkfifo(path)
    elif name != "missing":
        path.symlink_to(elsewhere if name == "a link out" else "nothing")
    return f"{path}: {name}"
