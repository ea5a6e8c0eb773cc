"""Names of a collection that cannot be those of files, among many that can."""

import random
from typing import TYPE_CHECKING, cast

import pytest

from riafs import memory
from riafs.errors import OutOfMemory
from riafs.tree.shown_folder import shown_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from riafs.formats.manifests.folder import ManifestFolder


class Folder:
    def __init__(self, names: "Sequence[bytes]") -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def find(self, name: bytes) -> int | None:
        return self.names.index(name) if name in self.names else None


def expected(names: "Sequence[bytes]") -> list[tuple[bytes, int]]:
    taken: dict[bytes, int] = {}
    for index in sorted(range(len(names)), key=lambda index: b"\0" in names[index]):
        if len(names[index]) <= 255:
            taken.setdefault(names[index].replace(b"\0", b"_"), index)
    return sorted(taken.items())


@pytest.mark.parametrize("seed", range(200))
def test_names_are_in_order_each_once_and_found(seed: int) -> None:
    chance = random.Random(seed)
    letters = [b"a", b"b", b"_", b"\0", b"~", b"x" * 254]
    made = {b"".join(chance.choices(letters, k=chance.randrange(1, 4))) for _ in range(chance.randrange(1, 40))}
    names = sorted(made)
    found, wanted = shown_folder(cast("ManifestFolder", Folder(names))), expected(names)
    assert [tuple(found.at(position)) for position in range(len(found))] == wanted
    assert [found.find(name) for name, _ in wanted] == list(range(len(wanted)))
    shown = {name for name, _ in wanted}
    assert all(found.find(name) is None for name in names if name not in shown)
    if len(found) < len(names):
        assert found.left_out() in {names[index] for index in range(len(names)) if index not in dict(wanted).values()}


def test_only_odd_names_take_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def ensure(size: int, what: str) -> None:
        nonlocal asked
        asked += size
        if asked > 10 << 20:
            raise OutOfMemory(what)

    monkeypatch.setattr(memory, "ensure", ensure)
    names = [b"file%09d" % number for number in range(200_000)]
    odd = shown_folder(cast("ManifestFolder", Folder([b"\0", *names, b"x" * 300])))
    assert (len(odd), odd.at(0).name, odd.at(150_000).name) == (200_001, b"_", names[149_999])
