"""A store made to do harm, by hand with git's plumbing; quick enough to be made in every run.

Each dataset tries one thing, has a harmless ``good.txt`` beside it where its repository can be read at all, and the
dataset ``good`` is a neighbour that must be served whatever happens. `HostileStore.outside` holds what must never be
opened: its files contain CANARY, under keys and object names that are right for it, so that no checksum saves a reader
that follows a path out of the store. `HostileStore.executed` exists as soon as a command from the store has run.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.stores.manifest import place
from tests.stores.tools import Tools
from tests.stores.work import dataset_id

CANARY = b"CANARY: this lies outside of the store and must never be read\n"
GOOD = b"good\n"
GOOD_CONTENT = b"content of an annexed file of the neighbour\n"

TreeEntry = tuple[str, bytes, str]
"""Mode, name, object name, as a tree object has them."""


@dataclass(frozen=True, slots=True)
class HostileStore:
    """The finished store."""

    path: Path
    outside: Path
    executed: Path
    ids: Mapping[str, str]
    """Name → id of the datasets."""

    def dataset_path(self, name: str) -> Path:
        """Directory of a dataset."""
        return place(self.path, self.ids[name])


@dataclass(frozen=True, slots=True)
class Maker:
    """The words in which the datasets are written."""

    tools: Tools
    store: Path
    outside: Path
    executed: Path
    scratch: Path
    """An annex, which git-annex wants to have before it says anything about a key."""

    def git(self, repository: Path, *arguments: str, stdin: bytes = b"") -> str:
        """Run git on a bare repository."""
        return self.tools.run(repository, "git", "--git-dir", repository, *arguments, stdin=stdin).decode().strip()

    def repository(self, path: Path) -> Path:
        """A bare repository, laid out as a dataset."""
        path.mkdir(parents=True)
        self.tools.run(path, "git", "init", "-q", "--bare", "--template=", path)
        (path / "ria-layout-version").write_text("2\n")
        return path

    def blob(self, repository: Path, content: bytes) -> str:
        """Write a blob."""
        return self.git(repository, "hash-object", "-w", "--stdin", stdin=content)

    def tree(self, repository: Path, entries: Sequence[TreeEntry]) -> str:
        """Write a tree as it is, in the order given, unchecked."""
        raw = b"".join(mode.encode() + b" " + name + b"\0" + bytes.fromhex(sha) for mode, name, sha in entries)
        return self.git(repository, "hash-object", "-t", "tree", "--literally", "-w", "--stdin", stdin=raw)

    def commit(self, repository: Path, entries: Sequence[TreeEntry], ref: str = "refs/heads/main") -> str:
        """Commit a tree of these entries."""
        commit = self.git(repository, "commit-tree", "-m", "hostile", self.tree(repository, entries))
        self.git(repository, "update-ref", ref, commit)
        return commit

    def files(self, repository: Path, files: Mapping[bytes, bytes], mode: str = "100644") -> str:
        """Commit files, with good.txt beside them."""
        entries = [(mode, name, self.blob(repository, content)) for name, content in files.items()]
        good = ("100644", b"good.txt", self.blob(repository, GOOD))
        return self.commit(repository, sorted([*entries, good], key=lambda entry: entry[1]))

    def annexed(self, repository: Path, name: bytes, content: bytes) -> Path:
        """Commit an annex link; the path is where the object would lie."""
        key = f"MD5E-s{len(content)}--{hashlib.md5(content).hexdigest()}.txt"
        path = f"{self.hash_directories(key)}{key}/{key}"
        self.files(repository, {name: f".git/annex/objects/{path}".encode()}, "120000")
        return repository / "annex" / "objects" / path

    def hash_directories(self, key: str) -> str:
        """Mixed hash directories of a key, by git-annex."""
        return self.tools.run(self.scratch, "git", "annex", "examinekey", key, "--format=${hashdirmixed}").decode()


Trap = Callable[[Maker, Path], None]
"""Fills the new, empty repository of one dataset."""


def put(path: Path, content: bytes) -> None:
    """Write a file and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def good(maker: Maker, repository: Path) -> None:
    """The neighbour: nothing wrong with it."""
    put(maker.annexed(repository, b"annexed.txt", GOOD_CONTENT), GOOD_CONTENT)


def tree_names(maker: Maker, repository: Path) -> None:
    """Names that are no file names, and two entries of one name."""
    blob = maker.blob(repository, b"bad name\n")
    below = maker.tree(repository, [("100644", b"passwd", blob)])
    names = (b"..", b".", b".git", b"a/b", b"/abs", b"../up", b"x" * 300)
    bad = [("100644", name, blob) for name in names]
    twice = [("100644", b"twice", blob), ("100644", b"twice", maker.blob(repository, b"second\n"))]
    trees = [("40000", b"..", below), ("40000", b".git", below), ("40000", b"directory", below)]
    modes = [("100664", b"group-writable", blob), ("10644", b"fifo-mode", blob), ("777777", b"absurd-mode", blob)]
    good_entry = ("100644", b"good.txt", maker.blob(repository, GOOD))
    maker.commit(repository, [*bad, *twice, *trees, *modes, good_entry])


def tree_malformed(maker: Maker, repository: Path) -> None:
    """A tree that git itself calls malformed, for an empty name, in a directory; its neighbours are fine."""
    bad = maker.tree(repository, [("100644", b"", maker.blob(repository, b"x"))])
    maker.commit(repository, [("40000", b"bad", bad), ("100644", b"good.txt", maker.blob(repository, GOOD))])


def key_names(maker: Maker, repository: Path) -> None:
    """Keys in links and pointer files that lead elsewhere, say absurd sizes, or hold what no name holds."""
    texts = {
        b"up": b"/annex/objects/MD5E-s62--..%..%..%..%outside%canary",
        b"dots": b"/annex/objects/X--..",
        b"passwd": b"../../etc/passwd/annex/objects/..%..%etc%passwd",
        b"absolute": b"/annex/objects/WORM-s62--%" + os.fsencode(maker.outside / "canary").replace(b"/", b"%"),
        b"huge-size": b"/annex/objects/MD5E-s" + b"9" * 40 + b"--x",
        b"endless-size": b"/annex/objects/MD5E-s" + b"9" * 6000 + b"--x",
        b"terabytes": b"/annex/objects/MD5E-s9223372036854775807--" + b"0" * 32,
        b"zero-chunk": b"/annex/objects/MD5E-s5-S0-C0--" + b"0" * 32,
        b"nul": b"/annex/objects/MD5E-s5--a\0b",
        b"long": b"/annex/objects/X--" + b"k" * 5000,
        b"no-name": b"/annex/objects/MD5E-s5--",
        b"no-digest": b"/annex/objects/MD5E-s5--not hexadecimal",
        b"long-extension": b"/annex/objects/MD5E-s5--" + b"0" * 32 + b"." + b"e" * 100,
    }
    pointers = {b"pointer-" + name: text + b"\n" for name, text in texts.items()}
    links = {b"link-" + name: text for name, text in texts.items()}
    blobs = [("100644", name, maker.blob(repository, text)) for name, text in pointers.items()]
    blobs += [("120000", name, maker.blob(repository, text)) for name, text in links.items()]
    maker.commit(repository, [*blobs, ("100644", b"good.txt", maker.blob(repository, GOOD))])


def annex_link(maker: Maker, repository: Path) -> None:
    """``annex`` is a symbolic link out of the store, where the right object is."""
    link_out(maker, repository, maker.annexed(repository, b"canary.txt", CANARY), repository / "annex")


def hash_directory_link(maker: Maker, repository: Path) -> None:
    """The first hash directory is a symbolic link out of the store."""
    wanted = maker.annexed(repository, b"canary.txt", CANARY)
    link_out(maker, repository, wanted, wanted.parents[2])


def key_directory_link(maker: Maker, repository: Path) -> None:
    """The key's directory is a symbolic link out of the store."""
    wanted = maker.annexed(repository, b"canary.txt", CANARY)
    link_out(maker, repository, wanted, wanted.parent)


def object_link(maker: Maker, repository: Path) -> None:
    """The object is a symbolic link to a file outside of the store."""
    wanted = maker.annexed(repository, b"canary.txt", CANARY)
    link_out(maker, repository, wanted, wanted)


def link_out(maker: Maker, repository: Path, wanted: Path, at: Path) -> None:
    """Put the canary for `wanted` outside and a link to it at one of the directories above."""
    real = maker.outside / repository.name / wanted.relative_to(repository)
    put(real, CANARY)
    at.parent.mkdir(parents=True, exist_ok=True)
    at.symlink_to(maker.outside / repository.name / at.relative_to(repository))


def archive_link(maker: Maker, repository: Path) -> None:
    """The archive is a symbolic link to one outside of the store that has the key."""
    wanted = maker.annexed(repository, b"canary.txt", CANARY)
    objects = maker.outside / repository.name / "objects"
    put(objects / wanted.relative_to(repository / "annex" / "objects"), CANARY)
    maker.tools.run(objects, "7z", "a", "-y", "-bd", "-mx0", objects.parent / "archive.7z", ".")
    (repository / "archives").mkdir()
    (repository / "archives" / "archive.7z").symlink_to(objects.parent / "archive.7z")


def archive_garbage(maker: Maker, repository: Path) -> None:
    """The archive is noise behind a signature."""
    maker.annexed(repository, b"wanted.txt", b"wanted")
    put(repository / "archives" / "archive.7z", b"7z\xbc\xaf'\x1c\0\4" + bytes(range(256)) * 40)


def archive_fifo(maker: Maker, repository: Path) -> None:
    """The archive is a fifo: opening it would wait for ever."""
    maker.annexed(repository, b"wanted.txt", b"wanted")
    (repository / "archives").mkdir()
    os.mkfifo(repository / "archives" / "archive.7z")


def fifo_object(maker: Maker, repository: Path) -> None:
    """The object is a fifo."""
    wanted = maker.annexed(repository, b"wanted.txt", b"wanted")
    wanted.parent.mkdir(parents=True)
    os.mkfifo(wanted)


def directory_object(maker: Maker, repository: Path) -> None:
    """The object is a directory."""
    maker.annexed(repository, b"wanted.txt", b"wanted").mkdir(parents=True)


def alternates_absolute(maker: Maker, repository: Path) -> None:
    """Its commit is in a repository outside of the store only, named by an absolute path."""
    lent_from_outside(maker, repository, "{lender}/objects")


def alternates_relative(maker: Maker, repository: Path) -> None:
    """The same by a relative path."""
    lent_from_outside(maker, repository, "../../../../outside/{lender.name}/objects")


def lent_from_outside(maker: Maker, repository: Path, path: str) -> None:
    """Take objects from a repository outside."""
    lender = maker.repository(maker.outside / f"{repository.name}-lender")
    commit = maker.files(lender, {b"canary.txt": CANARY})
    put(repository / "objects" / "info" / "alternates", path.format(lender=lender).encode() + b"\n")
    put(repository / "refs" / "heads" / "main", commit.encode() + b"\n")


def alternates_loop(maker: Maker, repository: Path) -> None:
    """It lends its objects to itself."""
    maker.files(repository, {})
    put(repository / "objects" / "info" / "alternates", b"../objects\n" * 10_000)


def objects_link(maker: Maker, repository: Path) -> None:
    """``objects`` is a symbolic link to those of a repository outside."""
    lender = maker.repository(maker.outside / f"{repository.name}-lender")
    commit = maker.files(lender, {b"canary.txt": CANARY})
    shutil.rmtree(repository / "objects")
    (repository / "objects").symlink_to(lender / "objects")
    put(repository / "refs" / "heads" / "main", commit.encode() + b"\n")


def commands(maker: Maker, repository: Path) -> None:
    """A partial clone with an absent blob: plain git runs the configured command to fetch it."""
    maker.files(repository, {b"absent.txt": b"absent\n"})
    absent = maker.blob(repository, b"absent\n")
    (repository / "objects" / absent[:2] / absent[2:]).unlink()
    command = f"touch {maker.executed}"
    for name, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": "ssh://nobody@127.0.0.1/x",
        "core.sshCommand": f"sh -c '{command}'",
        "core.fsmonitor": command,
        "core.pager": command,
        "core.alternateRefsCommand": command,
        "uploadpack.packObjectsHook": command,
        "protocol.ext.allow": "always",
    }.items():
        maker.git(repository, "config", name, value)
    script = f"#!/bin/sh\n{command}\n".encode()
    for hook in ("post-checkout", "reference-transaction", "post-index-change", "pre-receive"):
        put(repository / "hooks" / hook, script)
        (repository / "hooks" / hook).chmod(0o755)


def external_transport(maker: Maker, repository: Path) -> None:
    """The same with git's ``ext`` transport."""
    commands(maker, repository)
    maker.git(repository, "config", "remote.origin.url", f"ext::touch {maker.executed}")


def truncated_pack(maker: Maker, repository: Path) -> None:
    """Its only pack ends in the middle."""
    maker.files(repository, {b"large.bin": os.urandom(300_000)})
    maker.git(repository, "repack", "-a", "-d", "-q")
    (pack,) = (repository / "objects" / "pack").glob("*.pack")
    pack.chmod(0o644)
    os.truncate(pack, pack.stat().st_size // 2)


def head_link(maker: Maker, repository: Path) -> None:
    """HEAD is a symbolic link to a file outside."""
    commit = maker.files(repository, {})
    put(maker.outside / "HEAD", commit.encode() + b"\n")
    replace_head(repository).symlink_to(maker.outside / "HEAD")


def head_garbage(maker: Maker, repository: Path) -> None:
    """HEAD is noise; the branch is fine."""
    maker.files(repository, {})
    replace_head(repository).write_bytes(bytes(range(256)))


def head_huge(maker: Maker, repository: Path) -> None:
    """HEAD has ten megabytes."""
    maker.files(repository, {})
    replace_head(repository).write_bytes(b"ref: refs/heads/" + b"x" * 10_000_000)


def head_up(maker: Maker, repository: Path) -> None:
    """HEAD names a ref whose path leads out of the store."""
    commit = maker.files(maker.repository(maker.outside / "head-up"), {b"canary.txt": CANARY})
    put(maker.outside / "ref", commit.encode() + b"\n")
    maker.files(repository, {})
    replace_head(repository).write_bytes(b"ref: refs/heads/../../../../../outside/ref\n")


def head_fifo(maker: Maker, repository: Path) -> None:
    """HEAD is a fifo."""
    maker.files(repository, {})
    os.mkfifo(replace_head(repository))


def replace_head(repository: Path) -> Path:
    """Take HEAD away; the answer is its path."""
    (repository / "HEAD").unlink()
    return repository / "HEAD"


def ref_loop(maker: Maker, repository: Path) -> None:
    """Symbolic refs that name each other, and one that is a symbolic link out of the store."""
    commit = maker.files(repository, {})
    put(repository / "refs" / "heads" / "one", b"ref: refs/heads/two\n")
    put(repository / "refs" / "heads" / "two", b"ref: refs/heads/one\n")
    put(maker.outside / "ref-of-link", commit.encode() + b"\n")
    (repository / "refs" / "heads" / "link").symlink_to(maker.outside / "ref-of-link")
    replace_head(repository).write_bytes(b"ref: refs/heads/one\n")


def layout_missing(maker: Maker, repository: Path) -> None:
    """No layout version: read-only, as layout 2."""
    good(maker, repository)
    (repository / "ria-layout-version").unlink()


def layout_unknown(maker: Maker, repository: Path) -> None:
    """A layout version of the future."""
    good(maker, repository)
    (repository / "ria-layout-version").write_text("99|l|x\n")


def layout_huge(maker: Maker, repository: Path) -> None:
    """A layout version of ten megabytes."""
    good(maker, repository)
    (repository / "ria-layout-version").write_bytes(b"2" * 10_000_000)


TRAPS: Mapping[str, Trap] = {
    "good": good,
    "tree-names": tree_names,
    "tree-malformed": tree_malformed,
    "key-names": key_names,
    "annex-link": annex_link,
    "hash-directory-link": hash_directory_link,
    "key-directory-link": key_directory_link,
    "object-link": object_link,
    "archive-link": archive_link,
    "archive-garbage": archive_garbage,
    "archive-fifo": archive_fifo,
    "fifo-object": fifo_object,
    "directory-object": directory_object,
    "alternates-absolute": alternates_absolute,
    "alternates-relative": alternates_relative,
    "alternates-loop": alternates_loop,
    "objects-link": objects_link,
    "commands": commands,
    "external-transport": external_transport,
    "truncated-pack": truncated_pack,
    "head-link": head_link,
    "head-garbage": head_garbage,
    "head-huge": head_huge,
    "head-up": head_up,
    "head-fifo": head_fifo,
    "ref-loop": ref_loop,
    "layout-missing": layout_missing,
    "layout-unknown": layout_unknown,
    "layout-huge": layout_huge,
}
"""Dataset → what it tries. Each has an alias of the same name."""


def build_hostile(root: Path) -> HostileStore:
    """Make the hostile store below an empty directory."""
    tools = Tools(root / "home")
    tools.prepare()
    maker = Maker(tools, root / "store", root / "outside", root / "executed", annex(tools))
    (maker.store / "alias").mkdir(parents=True)
    maker.outside.mkdir()
    put(maker.outside / "canary", CANARY)
    (maker.store / "ria-layout-version").write_text("1\n")
    ids = {name: dataset_id(f"hostile-{name}") for name in TRAPS}
    for name, trap in TRAPS.items():
        trap(maker, maker.repository(place(maker.store, ids[name])))
        (maker.store / "alias" / name).symlink_to(f"../{ids[name][:3]}/{ids[name][3:]}")
    bad_places(maker)
    return HostileStore(maker.store, maker.outside, maker.executed, ids)


def annex(tools: Tools) -> Path:
    """An empty annex."""
    path = tools.home / "annex"
    path.mkdir()
    tools.run(path, "git", "init", "-q")
    tools.run(path, "git", "annex", "init", "--quiet", "keys")
    return path


def bad_places(maker: Maker) -> None:
    """Aliases and dataset directories that lead out of the store, nowhere, or in circles."""
    stray = maker.repository(maker.outside / "stray")
    maker.files(stray, {b"canary.txt": CANARY})
    targets = {
        "out-absolute": str(stray),
        "out-relative": "../../outside/stray",
        "out-of-out": "out-absolute",
        "dangling": "../fff/nothing",
        "loop": "loop",
        "circle-a": "circle-b",
        "circle-b": "circle-a",
        "up": "..",
        "root": "/",
        "to-file": "../ria-layout-version",
        "to-fifo": "fifo",
    }
    for name, target in targets.items():
        (maker.store / "alias" / name).symlink_to(target)
    os.mkfifo(maker.store / "alias" / "fifo")
    (maker.store / "eee").mkdir()
    (maker.store / "eee" / "eeeee-0000-4000-8000-000000000000").symlink_to(stray)
    (maker.store / "ddd").symlink_to(maker.outside)
