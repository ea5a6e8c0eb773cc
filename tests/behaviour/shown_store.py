"""A small store with one of everything that a mount shows."""

from dataclasses import dataclass
from pathlib import Path

from tests.small import (
    EPOCH,
    Executable,
    Link,
    Locked,
    Pointer,
    Registered,
    SmallDataset,
    SmallStore,
    key_of,
    noise,
    put,
)

SMALL = b"small annexed content\n"
MEDIUM = noise(700_000)
ARCHIVED = noise(300_000, "archived")
MISSING = b"never stored"
DAMAGED = b"what it should be"
UNSIZED_KEY = b"URL--http://example.org/file"
UNSIZED = b"content of a key without size"
WORM_KEY = b"WORM-s5-m1234567890--old"
ODD_NAMES = (b"blank name", b"new\nline", b"tab\t", b"-x", b"\xff\xfe", b"caf\xc3\xa9", b"n" * 255, b"a@b", b"*?[")


@dataclass(frozen=True, slots=True)
class ShownStore:
    """The store and what a test has to know of it."""

    path: Path
    main: SmallDataset
    first_commit: str
    second_commit: str
    sub: SmallDataset
    registered: str


def build(path: Path) -> ShownStore:
    """Make the store."""
    store = SmallStore.make(path)
    sub = store.dataset("sub", {b"inside": b"registered version"})
    registered = sub.git("rev-parse", "main")
    sub.commit({b"inside": b"later version", b"new": b""}, time=EPOCH + 50)
    main = store.dataset("main")
    first = main.commit({b"version": b"first\n"})
    main.git("tag", "v1", first)
    main.git("update-ref", "refs/heads/feature/x", first)
    main.git("-c", "user.name=x", "-c", "user.email=x@x", "tag", "-a", "-m", "m", "annotated", first)
    second = main.commit(_files(sub.id, registered), time=EPOCH + 100)
    _contents(main)
    store.dataset("unborn")
    (path / "alias" / "nested").mkdir()
    (path / "alias" / "nested" / "again").symlink_to(f"../../{main.id[:3]}/{main.id[3:]}")
    return ShownStore(path, main, first, second, sub, registered)


def _files(sub: str, registered: str) -> dict[bytes, bytes | Executable | Link | Locked | Pointer | Registered]:
    modules = f'[submodule "s"]\n\tpath = sub\n\turl = ./sub\n\tdatalad-id = {sub}\n'
    return {
        b".gitmodules": modules.encode(),
        b"version": b"second\n",
        b"empty": b"",
        b"script": Executable(b"#!/bin/sh\necho from the mount\n"),
        b"link": Link(b"version"),
        b"link-out": Link(b"/etc/passwd"),
        b"locked": Locked(key_of(SMALL)),
        b"unlocked": Pointer(key_of(SMALL)),
        b"unlocked-executable": Pointer(key_of(SMALL), executable=True),
        b"medium": Locked(key_of(MEDIUM)),
        b"archived": Locked(key_of(ARCHIVED)),
        b"missing": Locked(key_of(MISSING)),
        b"damaged": Locked(key_of(DAMAGED)),
        b"unsized": Locked(UNSIZED_KEY),
        b"worm": Locked(WORM_KEY),
        b"sub": Registered(registered),
        b"nowhere": Registered("34" * 20),
        b"deep/er/and/deeper": b"down here",
        b"deep/locked": Locked(key_of(SMALL)),
        **{b"names/" + name: b"content of " + name for name in ODD_NAMES},
        **{b"many/%04d" % number: b"%d" % number for number in range(1500)},
    }


def _contents(dataset: SmallDataset) -> None:
    for content in (SMALL, MEDIUM):
        dataset.put(key_of(content), content)
    dataset.put(key_of(DAMAGED), DAMAGED.upper())
    dataset.put(UNSIZED_KEY, UNSIZED)
    dataset.put(WORM_KEY, b"stale")
    dataset.archive({key_of(ARCHIVED): ARCHIVED})
    put(dataset.path / "annex" / "stray", b"")
