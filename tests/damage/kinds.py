"""What is damaged: a store as it is built, a cache as a mount leaves it, an overlay with changes.

Every kind builds `parts`, directories that are put back before each damage, and reads what is shown after it.
"""

import contextlib
import io
import os
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar, Protocol

import trio

from riafs.cli import main
from riafs.content.verifying import Verify
from riafs.errors import RiafsError
from riafs.formats.annex import hash_lower, hash_mixed
from riafs.formats.keys import escape
from riafs.tree.protocol import Kind as EntryKind
from tests.archive.test_methods import METHODS
from tests.behaviour.drivers import ObjectDriver, opened
from tests.damage import mutation
from tests.damage.reading import Driver, Expected, Shown, check, tree_of
from tests.push.conftest import remote_log
from tests.small import Executable, Files, Link, Locked, Pointer, SmallDataset, SmallStore, key_of, noise
from tests.writing.drivers import WritableObject, writable

POLICIES = (Verify.AUTO, Verify.ALWAYS)
REQUEST_SECONDS = 10.0
PASSWORD = "secret"


class Subject(Protocol):
    """One kind, built in a directory of its own."""

    parts: Sequence[str]
    """Names of directories that are put back before each damage."""

    def damage(self, chance: random.Random) -> str:
        """Damage something; says what was done."""

    async def read(self, verify: Verify, chance: random.Random) -> Counter[str]:
        """Read everything; how many answers were right, and errors. Raises AssertionError where bytes are wrong."""


def text(number: int, size: int) -> bytes:
    """Text that can be compressed, and half of it cannot."""
    words = random.Random(number)
    half = b"".join(b"line %d of %d\n" % (words.randrange(999), number) for _ in range(size // 30 + 1))[: size // 2]
    return half + noise(size - len(half), str(number))


class _Shown(ObjectDriver):
    """What `check` drives."""

    async def kind(self, path: bytes) -> EntryKind:
        return (await self.attributes(path)).kind


class _Changed(WritableObject):
    """The same of a writable file system."""

    async def kind(self, path: bytes) -> EntryKind:
        return (await self.status(path)).kind


def files_below(*tops: Path) -> list[Path]:
    """All files, in an order that is always the same."""
    return sorted(path for top in tops for path in top.rglob("*") if path.is_file() and not path.is_symlink())


def directories_below(top: Path) -> list[Path]:
    """All directories, in an order that is always the same."""
    return sorted(path for path in top.rglob("*") if path.is_dir() and not path.is_symlink())


_METHODS = {
    "stored", "stored, plain header", "default", "LZMA2, solid", "LZMA", "not solid", "PPMd", "BZip2", "Deflate",
    "BCJ2", "ARM64", "Delta",
}  # fmt: skip

# -- stores -----------------------------------------------------------------------------------------------------------


class Archives:
    """One wrong archive of any method."""

    parts = ("store",)
    methods: ClassVar[Mapping[str, Sequence[str]]] = {name: METHODS[name] for name in METHODS if name in _METHODS} | {
        "resets": ("-mx1", "-m0=LZMA2:c=64k", "-ms=on", "-mmt=2"),
        "encrypted": ("-mx3", f"-p{PASSWORD}", "-mhe=on"),
        "encrypted, stored": ("-mx0", f"-p{PASSWORD}"),
    }

    def __init__(self, directory: Path) -> None:
        self._store = SmallStore.make(directory / "store")
        contents = [text(number, size) for number, size in enumerate((0, 1, 700, 5000, 40_000, 90_000, 200_000))]
        keys = {key_of(content): content for content in contents}
        self._files = {b"%d.dat" % number: content for number, content in enumerate(contents)}
        self._archives = {}
        for name, switches in self.methods.items():
            alias = name.replace(", ", "-").replace(" ", "-")
            dataset = self._store.dataset(alias, {path: Locked(key_of(each)) for path, each in self._files.items()})
            self._archives[alias] = dataset.archive(keys, *switches)
        self._alias = min(self._archives)

    def damage(self, chance: random.Random) -> str:
        """See Subject."""
        self._alias = chance.choice(sorted(self._archives))
        archive = self._archives[self._alias]
        if chance.random() < 0.1:
            return f"{self._alias}: {mutation.replace(archive, list(self._archives.values()), chance)}"
        return f"{self._alias}: {mutation.alter(archive, chance)}"

    async def read(self, verify: Verify, chance: random.Random) -> Counter[str]:
        """See Subject."""
        expected = {path: [content] for path, content in tree_of(self._files).items()}
        async with opened(self._store.path, verify=verify, deadline=REQUEST_SECONDS, password=PASSWORD) as shown:
            return await check(_Shown(shown.filesystem), self._alias.encode(), expected, chance)


VERSIONS = 3


class Repository:
    """A dataset with loose objects, packs, refs, a git-annex branch and keys; `wanted` says what of it is damaged."""

    parts = ("store",)

    def __init__(self, directory: Path) -> None:
        self._store = SmallStore.make(directory / "store")
        self._dataset = self._store.dataset("one")
        self._big, self._keys = text(1, 150_000), [text(2, 10), text(3, 5000), text(4, 200_000)]
        self._chunked = noise(250_000, "chunked")
        for version in range(VERSIONS - 1):
            self._dataset.commit(self._version(version))
            self._dataset.git("tag", f"v{version}", "main")
        self._annex()
        self._pack()
        self._dataset.commit(self._version(VERSIONS - 1))
        self._dataset.git("branch", "other", "v0")
        self._make_loose()
        expected: dict[bytes, list[Shown]] = {}
        for version in range(VERSIONS):
            for path, content in tree_of(self._content(version)).items():
                expected.setdefault(path, []).append(content)
        expected[b""] += [frozenset(), frozenset({b".keys"})]  # where no commit is found, and where there is no ref
        self._expected: Expected = expected

    def _plain(self, version: int) -> dict[bytes, bytes]:
        files = {b"d%d/deep/f%d" % (each % 3, each): b"file %d, version %d\n" % (each, version) for each in range(9)}
        return files | {b"version": b"%d\n" % version, b"big": b"%d" % version + self._big}

    def _version(self, version: int) -> Files:
        annexed = {b"annex/k%d.dat" % number: key_of(content) for number, content in enumerate(self._keys)}
        nodes = {path: (Pointer(key) if path == b"annex/k1.dat" else Locked(key)) for path, key in annexed.items()}
        chunked = {b"annex/chunked.dat": Locked(key_of(self._chunked))}
        return {
            **self._plain(version),
            **nodes,
            **chunked,
            b"run.sh": Executable(b"#!/bin/sh\n"),
            b"link": Link(b"big"),
        }

    def _content(self, version: int) -> dict[bytes, bytes]:
        annexed = {b"annex/k%d.dat" % number: content for number, content in enumerate(self._keys)}
        others = {b"annex/chunked.dat": self._chunked, b"run.sh": b"#!/bin/sh\n", b"link": b"big"}
        return {**self._plain(version), **annexed, **others}

    def _annex(self) -> None:
        for content in self._keys:
            self._dataset.put(key_of(content), content)
        key = key_of(self._chunked)
        for number in range(3):
            chunk = key.replace(b"-s250000-", b"-s250000-S100000-C%d-" % (number + 1))
            self._dataset.put(chunk, self._chunked[number * 100_000 :][:100_000], hash_mixed(escape(key)))
        self.logs = {
            b"uuid.log": STORAGE + b" store timestamp=1s\n",
            b"remote.log": remote_log(self._dataset, "encryption=none chunk=100000"),
            _log_path(key, b".log.cnk"): b"1s " + STORAGE + b":100000 3\n",
            _log_path(key, b".log"): b"1s 1 " + STORAGE + b"\n",
            _log_path(key_of(self._keys[0]), b".log.web"): b"1s 1 http://127.0.0.1:1/x\n",
        }
        self._dataset.annex_branch(self.logs)

    def _pack(self) -> None:
        self._dataset.git("repack", "-adq", "--depth=20", "--window=20")
        self._write_accelerators()
        self._dataset.git("pack-refs", "--all")
        self._packed = set((self._dataset.path / "objects/pack").iterdir())

    def _write_accelerators(self) -> None:
        self._dataset.git("multi-pack-index", "write")
        self._dataset.git("commit-graph", "write", "--reachable")

    def _make_loose(self) -> None:
        for pack in set((self._dataset.path / "objects/pack").glob("*.pack")) - self._packed:
            content = pack.read_bytes()
            for part in pack.parent.glob(f"{pack.stem}.*"):
                part.unlink()
            self._dataset.git("unpack-objects", "-q", stdin=content)

    def wanted(self) -> list[Path]:
        """The files that may be damaged."""
        raise NotImplementedError

    def damage(self, chance: random.Random) -> str:
        """See Subject."""
        return mutation.damage(self.wanted(), chance)

    async def read(self, verify: Verify, chance: random.Random) -> Counter[str]:
        """See Subject."""
        told = Counter[str]()
        async with opened(self._store.path, verify=verify, deadline=REQUEST_SECONDS) as shown:
            for name in (b"one", b"one@v0"):
                told += await check(_Shown(shown.filesystem), name, self._expected, chance)
        return told


STORAGE = b"5d9c6f0e-1111-4222-8333-444455556666"


def _log_path(key: bytes, suffix: bytes) -> bytes:
    return b"%b/%b%b" % (hash_lower(escape(key)), escape(key), suffix)


class LooseObjects(Repository):
    """Loose objects of git."""

    def wanted(self) -> list[Path]:
        """See Repository."""
        return files_below(*(path for path in (self._dataset.path / "objects").iterdir() if len(path.name) == 2))


class Packs(Repository):
    """Packs and their indexes."""

    def wanted(self) -> list[Path]:
        """See Repository."""
        files = files_below(self._dataset.path / "objects/pack")
        return [path for path in files if path.suffix in (".pack", ".idx")]


class Accelerators(Repository):
    """What git has for speed alone: the index of several packs, graphs of commits, bitmaps, reverse indexes. Whatever
    becomes of it, everything is read.
    """

    def _write_accelerators(self) -> None:
        self._dataset.git("config", "pack.writeReverseIndex", "true")
        self._dataset.commit({b"more": b"in another pack\n" * 50}, "refs/heads/more")
        self._dataset.git("repack", "-dq")
        self._dataset.git("multi-pack-index", "write", "--bitmap")
        self._dataset.git("repack", "-abq")
        self._dataset.git("multi-pack-index", "write")
        self._dataset.git("commit-graph", "write", "--reachable", "--split", "--changed-paths")
        self._dataset.git("update-server-info")

    def wanted(self) -> list[Path]:
        """See Repository."""
        files = files_below(self._dataset.path / "objects/pack", self._dataset.path / "objects/info")
        return [path for path in files if path.suffix not in (".pack", ".idx")]

    async def read(self, verify: Verify, chance: random.Random) -> Counter[str]:
        """See Subject."""
        told = await super().read(verify, chance)
        assert not told["errors"], told
        return told


class Alternates(Repository):
    """The file that says where else objects are, as a clone within a store has it: here all of them."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        other = self._store.dataset("other")
        shutil.rmtree(other.path / "objects")
        os.rename(self._dataset.path / "objects", other.path / "objects")
        (self._dataset.path / "objects/info").mkdir(parents=True)
        (self._dataset.path / "objects/pack").mkdir()
        relative = os.path.relpath(other.path / "objects", self._dataset.path / "objects")
        (self._dataset.path / "objects/info/alternates").write_text(f"# a comment\n{relative}\n")

    def wanted(self) -> list[Path]:
        """See Repository."""
        return [self._dataset.path / "objects/info/alternates"]


class PackedRefs(Repository):
    """All refs in one file."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._dataset.git("pack-refs", "--all", "--prune")

    def wanted(self) -> list[Path]:
        """See Repository."""
        return [self._dataset.path / "packed-refs"]


class Refs(Repository):
    """Refs, configuration, layout: what is read as text."""

    def wanted(self) -> list[Path]:
        """See Repository."""
        names = ("HEAD", "packed-refs", "config", "ria-layout-version")
        return [*(self._dataset.path / name for name in names), *files_below(self._dataset.path / "refs")]


class Keys(Repository):
    """Objects of annexed files, whole and in chunks."""

    def wanted(self) -> list[Path]:
        """See Repository."""
        return files_below(self._dataset.path / "annex")


class Logs(Repository):
    """The text of logs on the git-annex branch, in good objects of git."""

    def damage(self, chance: random.Random) -> str:
        """See Subject."""
        path = chance.choice(sorted(self.logs))
        name = chance.choice([*mutation.CHANGES, *_NONSENSE])
        nonsense = _NONSENSE.get(name)
        changed = mutation.CHANGES[name](self.logs[path], chance) if nonsense is None else nonsense
        self._dataset.annex_branch({**self.logs, path: changed})
        return f"{os.fsdecode(path)}: {name}"


_NONSENSE = {
    "numbers too large": b"99999999999999999999999s 1 " + STORAGE + b":99999999999999999999 99999999999\n",
    "negative numbers": b"-1s -1 " + STORAGE + b":-5 -3\n",
    "fewer chunks": b"1s " + STORAGE + b":100000 2\n",
    "other chunks": b"1s " + STORAGE + b":1 250000\n",
    "chunks without size": b"1s " + STORAGE + b":0 5\n",
    "an infinite time": b"1e400s 1 " + STORAGE + b"\n",
    "an encrypted remote": STORAGE + b" name=x type=external encryption=hybrid cipher=!!! timestamp=2000000000s\n",
    "a long line": b"x" * 100_000,
    "a malformed address": b"1s 1 http://[::1\n",
}


# -- what mounts keep -------------------------------------------------------------------------------------------------


class Cache:
    """Files of the cache directory: whatever becomes of them, everything is read."""

    parts = ("cache",)
    pattern = ""
    """Of the files."""

    def __init__(self, directory: Path) -> None:
        self._store, self._cache = SmallStore.make(directory / "store"), directory / "cache"
        decoded = {b"t%d" % number: (b"line %d\n" % number) * 9000 for number in range(12)}
        loose = {b"loose%d" % number: noise(200_000, str(number)) for number in range(3)}
        self._files = decoded | loose
        dataset = self._store.dataset("one", {path: Locked(key_of(each)) for path, each in self._files.items()})
        for content in loose.values():
            dataset.put(key_of(content), content)
        dataset.archive({key_of(content): content for content in decoded.values()}, "-mx1", "-ms=on")
        trio.run(self.read, Verify.AUTO, random.Random(0))

    def damage(self, chance: random.Random) -> str:
        """See Subject."""
        return mutation.damage(sorted(self._cache.glob(self.pattern)), chance)

    async def read(self, verify: Verify, chance: random.Random) -> Counter[str]:
        """See Subject."""
        expected = {path: [content] for path, content in tree_of(self._files).items()}
        async with opened(self._store.path, verify=verify, cache=self._cache, deadline=REQUEST_SECONDS) as shown:
            told = await check(_Shown(shown.filesystem), b"one", expected, chance)
        assert not told["errors"], told
        return told


class Blocks(Cache):
    """Decoded content."""

    pattern = "blocks-1/??/*"


class Verified(Cache):
    """What was verified."""

    pattern = "verified.sqlite*"


class Indexes(Cache):
    """Saved lists of members."""

    pattern = "**/*.7zi"


class CacheDirectories(Cache):
    """The directories of a cache."""

    def __init__(self, directory: Path) -> None:
        self._outside = mutation.outside(directory)
        super().__init__(directory)

    def damage(self, chance: random.Random) -> str:
        """See Subject."""
        return mutation.replace_directory(chance.choice(directories_below(self._cache)), self._outside, chance)

    async def read(self, verify: Verify, chance: random.Random) -> Counter[str]:
        """See Subject."""
        told = await super().read(verify, chance)
        mutation.check_outside(self._outside)
        return told


# -- overlays ---------------------------------------------------------------------------------------------------------


class Changes:
    """An overlay: its database and data files, read through a writable file system and pushed from.

    Neither has digests. So where bytes were changed in a file of an overlay, that may be shown; nothing else may.
    """

    parts = ("store", "overlay")

    def __init__(self, directory: Path) -> None:
        self._store, self._overlay = SmallStore.make(directory / "store"), directory / "overlay"
        locked = text(1, 50_000)
        self._before = {b"a": b"a\n" * 50, b"gone": b"gone\n", b"sub/b": b"b\n", b"data/locked.dat": locked}
        files: Files = {**self._before, b"data/locked.dat": Locked(key_of(locked))}
        self._dataset: SmallDataset = self._store.dataset("one", files)
        self._dataset.annex_branch(
            {b"uuid.log": STORAGE + b" s timestamp=1s\n", b"remote.log": remote_log(self._dataset)}
        )
        self._dataset.put(key_of(locked), locked)
        new = {b"new/%d" % number: text(number, 3000 * number + 5) for number in range(1, 4)}
        self._after = {b"a": self._before[b"a"], b"data/locked.dat": locked[:100] + b"patched" + locked[107:], **new}
        self._after |= {b"moved/b": b"b\n", b"link": b"new/1"}
        trio.run(self._change, new)
        self._altered = False

    @asynccontextmanager
    async def _shown(self) -> AsyncIterator[_Changed]:
        async with writable(self._store.path, self._overlay, "#~one") as shown:
            yield _Changed(shown.filesystem)

    async def _change(self, new: Mapping[bytes, bytes]) -> None:
        async with self._shown() as shown:
            await shown.mkdir(b"new")
            for path, content in new.items():
                await shown.write(path, content, flags=os.O_CREAT)
            await shown.write(b"data/locked.dat", b"patched", 100)
            await shown.unlink(b"gone")
            await shown.rename(b"sub", b"moved")
            await shown.symlink(b"new/1", b"link")

    def wanted(self) -> list[Path]:
        """The files that may be damaged."""
        raise NotImplementedError

    def damage(self, chance: random.Random) -> str:
        """See Subject."""
        files, self._altered = self.wanted(), chance.random() < 0.5
        path = chance.choice(files)
        if self._altered:
            return f"{path}: {mutation.alter(path, chance)}"
        return f"{path}: {mutation.replace(path, files, chance)}"

    def may_differ(self) -> bool:
        """Whether other bytes are what they are because of the damage."""
        return self._altered

    async def read(self, verify: Verify, chance: random.Random) -> Counter[str]:
        """See Subject. With `Verify.ALWAYS` what is there is pushed, and the store is looked at."""
        if verify is Verify.ALWAYS:
            return await trio.to_thread.run_sync(self._push)
        expected = {path: [content] for path, content in tree_of(self._after).items()}
        try:
            async with self._shown() as shown:
                return await self._check(shown, expected, chance)
        except RiafsError as error:
            return Counter({"errors": 1, type(error).__name__: 1})

    async def _check(self, shown: Driver, expected: Expected, chance: random.Random) -> Counter[str]:
        try:
            return await check(shown, b"", expected, chance)
        except AssertionError:
            if self.may_differ():
                return Counter({"altered": 1})
            raise

    def _push(self) -> Counter[str]:
        words = ["push", "--overlay", str(self._overlay), "-m", "a push"]
        told = io.StringIO()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            status = main.run("riafs", words)
        assert "internal error" not in told.getvalue(), told.getvalue()
        self._dataset.git("fsck", "--strict")
        if status == 0 and not self.may_differ():
            names = self._dataset.git("ls-tree", "-rz", "--name-only", "main").split("\0")
            assert set(map(os.fsencode, filter(None, names))) in ({*self._before}, {*self._after}), names
        return Counter({"pushed" if status == 0 else "push refused": 1})


class OverlayDatabase(Changes):
    """The database of an overlay, its copy, and the record of its state."""

    def wanted(self) -> list[Path]:
        """See Changes."""
        return sorted(path for path in self._overlay.iterdir() if path.is_file())


class OverlayDirectories(Changes):
    """The directories of an overlay: data files, and what the commits below consist of."""

    def __init__(self, directory: Path) -> None:
        self._outside = mutation.outside(directory)
        super().__init__(directory)

    def damage(self, chance: random.Random) -> str:
        """See Subject."""
        return mutation.replace_directory(chance.choice(directories_below(self._overlay)), self._outside, chance)

    async def read(self, verify: Verify, chance: random.Random) -> Counter[str]:
        """See Subject."""
        told = await super().read(verify, chance)
        mutation.check_outside(self._outside)
        return told


class OverlayData(Changes):
    """The data files of an overlay."""

    def wanted(self) -> list[Path]:
        """See Changes."""
        return files_below(self._overlay / "data")


KINDS: Mapping[str, type] = {
    "archives": Archives,
    "objects": LooseObjects,
    "packs": Packs,
    "accelerators": Accelerators,
    "alternates": Alternates,
    "refs": Refs,
    "packed-refs": PackedRefs,
    "keys": Keys,
    "logs": Logs,
    "blocks": Blocks,
    "verified": Verified,
    "indexes": Indexes,
    "cache-directories": CacheDirectories,
    "overlay": OverlayDatabase,
    "overlay-data": OverlayData,
    "overlay-directories": OverlayDirectories,
}
