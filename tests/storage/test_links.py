"""Links of a store that the kernel does not follow: by the names of its root, and into directories that are allowed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from riafs.errors import LinkLoop, OutsideStore
from riafs.storage import openat
from riafs.storage.openat import PATH_FLAGS, READ_FLAGS, Root, Roots

Make = Callable[..., Roots]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """``data/store`` with a file, known as ``srv/store`` and ``current`` too; ``disk`` and ``secret`` are elsewhere."""
    (tmp_path / "data" / "store" / "abc").mkdir(parents=True)
    (tmp_path / "data" / "store" / "abc" / "file").write_bytes(b"content")
    (tmp_path / "srv").symlink_to("data")
    (tmp_path / "current").symlink_to(tmp_path / "srv" / "store")
    (tmp_path / "disk" / "objects").mkdir(parents=True)
    (tmp_path / "disk" / "objects" / "file").write_bytes(b"on the disk")
    (tmp_path / "secret").write_bytes(b"secret")
    return tmp_path


@pytest.fixture
def make(place: Path) -> Iterator[Make]:
    """Opens the store by a name, with allowed directories."""
    made: list[Roots] = []

    def open_roots(name: str = "data/store", *allowed: str) -> Roots:
        opened = [Root.open(os.fsencode(place / each)) for each in (name, *allowed)]
        made.append(Roots(os.fsencode(place / name), opened[0], opened[1:]))
        return made[-1]

    yield open_roots
    for roots in made:
        roots.close()


def content(roots: Roots, path: bytes) -> bytes:
    descriptor = roots.open(path, READ_FLAGS)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def link(place: Path, name: str, target: str | Path) -> bytes:
    (place / "data" / "store" / name).symlink_to(target)
    return name.encode()


@pytest.mark.parametrize("known_as", ["data/store", "srv/store", "current"])
def test_absolute_link_below_any_name_on_the_way_to_the_root(place: Path, make: Make, known_as: str) -> None:
    roots = make("current")
    path = link(place, "link", place / known_as / "abc")
    assert content(roots, path + b"/file") == b"content"
    assert roots.store_path(path) == b"abc"


@pytest.mark.parametrize("target", ["{}/data/store//./abc/", "{}/data/store/abc/../abc", "../../data/store/abc"])
def test_spellings_of_a_target_below_the_root(place: Path, make: Make, target: str) -> None:
    path = link(place, "link", target.format(place))
    assert content(make(), path + b"/file") == b"content"


def test_absolute_link_to_the_root_itself_and_chains(place: Path, make: Make) -> None:
    link(place, "top", place / "data" / "store")
    link(place, "chain", place / "data" / "store" / "top" / "abc")
    link(place, "abc/back", "../chain")
    roots = make()
    assert content(roots, b"abc/back/../chain/file") == b"content"
    assert roots.store_path(b"abc/back") == b"abc"
    assert roots.store_path(b"top") == b""


_OUT = (
    "{}/secret",
    "{}/data/storehouse",
    "{}/data/store/../../secret",
    "{}/data/store/abc/../../../secret",
    "{}/data/store/out/secret",
    "{}/elsewhere/../data/store/abc",
    "../../secret",
    "/",
)


@pytest.mark.parametrize("target", _OUT)
def test_what_is_not_below_the_root_is_refused_and_named(place: Path, make: Make, target: str) -> None:
    link(place, "out", place)
    path = link(place, "link", target.format(place))
    with pytest.raises(OutsideStore, match=r"data/store/link leads out of the store, to /.*--allow-links"):
        make().open(path, PATH_FLAGS)


def test_name_that_the_root_is_not_opened_by_is_no_name_of_it_until_it_is_allowed(place: Path, make: Make) -> None:
    (place / "other").symlink_to("data/store")
    path = link(place, "link", place / "other" / "abc")
    with pytest.raises(OutsideStore):
        make().open(path, PATH_FLAGS)
    roots = make("data/store", "other")
    assert content(roots, path + b"/file") == b"content"
    assert roots.store_path(path) == b"abc"


def test_links_into_an_allowed_directory(place: Path, make: Make) -> None:
    roots = make("data/store", "disk")
    absolute = link(place, "absolute", place / "disk" / "objects")
    relative = link(place, "abc/relative", "../../../disk/objects")
    for path in (absolute, relative):
        assert content(roots, path + b"/file") == b"on the disk"
        assert roots.store_path(path + b"/file") == path + b"/file"
    alias = link(place, "alias", "abc/relative")
    assert roots.store_path(alias) == relative
    assert roots.path_of(os.fsencode(place / "disk" / "objects")) == os.fsencode(place / "disk" / "objects")
    assert content(roots, os.fsencode(place / "disk" / "objects" / "file")) == b"on the disk"


def test_links_of_an_allowed_directory(place: Path, make: Make) -> None:
    roots = make("data/store", "disk")
    path = link(place, "link", place / "disk")
    (place / "disk" / "again").symlink_to("objects/file")
    (place / "disk" / "back").symlink_to(place / "data" / "store" / "abc" / "file")
    (place / "disk" / "out").symlink_to("../secret")
    (place / "disk" / "out-absolute").symlink_to(place / "secret")
    assert content(roots, path + b"/again") == b"on the disk"
    assert content(roots, path + b"/back") == b"content"
    assert roots.store_path(path + b"/back") == b"abc/file"
    for name in (b"/out", b"/out-absolute"):
        with pytest.raises(OutsideStore):
            roots.open(path + name, PATH_FLAGS)


def test_allowed_directory_above_the_store(place: Path, make: Make) -> None:
    roots = make("data/store", "data")
    (place / "data" / "beside").write_bytes(b"beside")
    assert content(roots, link(place, "link", "../beside")) == b"beside"
    assert roots.path_of(os.fsencode(place / "data" / "store" / "abc")) == b"abc"
    assert roots.path_of(os.fsencode(place / "secret")) is None


@pytest.mark.parametrize("prefix", ["", "{}/data/store/"])
def test_links_in_a_circle(place: Path, make: Make, prefix: str) -> None:
    link(place, "one", prefix.format(place) + "two")
    link(place, "two", prefix.format(place) + "one")
    with pytest.raises(LinkLoop, match="in a circle"):
        make().open(b"one", PATH_FLAGS)


def test_without_openat2(place: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openat, "HAVE_OPENAT2", False)
    link(place, "relative", "abc/file")
    link(place, "absolute", place / "data" / "store" / "abc")
    link(place, "out", "../../secret")
    roots = make()
    assert content(roots, b"relative") == content(roots, b"absolute/file") == b"content"
    with pytest.raises(OutsideStore):
        roots.open(b"out", PATH_FLAGS)


def test_last_link_is_not_followed_where_it_is_asked_for_itself(place: Path, make: Make) -> None:
    roots = make()
    link(place, "to", place / "data" / "store" / "abc")
    link(place, "abc/out", place / "secret")
    descriptor = roots.open(b"to/out", PATH_FLAGS | os.O_NOFOLLOW)
    assert os.readlink(b"", dir_fd=descriptor) == os.fsencode(place / "secret")
    os.close(descriptor)
