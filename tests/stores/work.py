"""A working repository that fills one dataset of a store: the words in which the recipes are written.

The working repository keeps the content of every key, whatever a recipe later does to the store; `record` relies on it.
"""

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from tests.stores.manifest import place
from tests.stores.tools import Argument, Tools

STORAGE = "ria-storage"

ATTRIBUTES = b"* annex.backend=MD5E\n**/.git* annex.largefiles=nothing\ncode/** annex.largefiles=nothing\n"
"""As DataLad begins a dataset, and ``code`` stays in git."""


@dataclass(frozen=True, slots=True)
class Work:
    """One dataset being made."""

    name: str
    path: Path
    store: Path
    id: str
    tools: Tools

    @property
    def bare(self) -> Path:
        """The dataset's directory in the store."""
        return place(self.store, self.id)

    @property
    def objects(self) -> Path:
        """Loose objects of the dataset in the store."""
        return self.bare / "annex" / "objects"

    def run(self, *command: Argument, stdin: bytes = b"") -> bytes:
        """Run a command in the working repository."""
        return self.tools.run(self.path, *command, stdin=stdin)

    def git(self, *arguments: Argument, stdin: bytes = b"") -> bytes:
        """Run git in the working repository."""
        return self.run("git", *arguments, stdin=stdin)

    def annex(self, *arguments: Argument, stdin: bytes = b"") -> bytes:
        """Run git-annex in the working repository."""
        return self.run("git", "annex", *arguments, stdin=stdin)

    def store_git(self, *arguments: Argument, stdin: bytes = b"") -> bytes:
        """Run git on the dataset in the store."""
        return self.tools.run(self.store, "git", "--git-dir", self.bare, *arguments, stdin=stdin)

    def word(self, *arguments: str) -> str:
        """One line that git prints."""
        return self.git(*arguments).decode().strip()

    def write(self, name: str | bytes, content: bytes, *, executable: bool = False) -> None:
        """Write a file of the work tree."""
        path = os.path.join(os.fsencode(self.path), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        if executable:
            os.chmod(path, 0o755)

    def link(self, name: str | bytes, target: str | bytes) -> None:
        """Make a symbolic link in the work tree."""
        os.symlink(os.fsencode(target), os.path.join(os.fsencode(self.path), os.fsencode(name)))

    def add(self, *paths: Argument) -> None:
        """Let git-annex add files as its settings say."""
        self.annex("add", "--quiet", *(paths or (".",)))

    def commit(self, message: str) -> None:
        """Commit what is staged."""
        self.git("commit", "-q", "--allow-empty", "-m", message)

    def save(self, message: str = "content") -> None:
        """Add everything and commit."""
        self.add()
        self.commit(message)

    def stage_blob(self, name: str | bytes, content: bytes, mode: str = "100644") -> None:
        """Stage a blob as it is, past all filters."""
        blob = self.git("hash-object", "-w", "--no-filters", "--stdin", stdin=content).strip()
        self.git(
            "update-index", "-z", "--index-info", stdin=mode.encode() + b" " + blob + b"\t" + os.fsencode(name) + b"\0"
        )

    def lookup(self, path: str) -> str:
        """The key of a path in the work tree."""
        return self.annex("lookupkey", path).decode().rstrip("\n")

    def loose(self, path: str) -> Path:
        """Where the store has the content of a path of the work tree as a loose object."""
        name = escape(self.lookup(path))
        return next(found / name for found in self.objects.glob(f"*/*/{name}"))


def escape(key: str) -> str:
    """The file name of a key, by git-annex's internals documentation."""
    return key.replace("&", "&a").replace("%", "&s").replace(":", "&c").replace("/", "%")


def dataset_id(name: str) -> str:
    """The id of a dataset that the builder itself chooses."""
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.riafs.invalid"))


def annex_repository(work: Work, *, attributes: bytes = ATTRIBUTES) -> None:
    """Make the working repository with git-annex alone."""
    work.path.mkdir(parents=True)
    work.git("init", "-q")
    work.annex("init", "--quiet", "maker")
    work.write(".gitattributes", attributes)
    work.git("add", ".gitattributes")
    work.commit("attributes")


def dataset_directory(work: Work, layout: str = "2\n") -> None:
    """Make the dataset's directory in the store, as ORA wants to find it."""
    work.objects.mkdir(parents=True)
    (work.bare / "archives").mkdir()
    (work.bare / "ria-layout-version").write_text(layout)


def bare_repository(work: Work, *options: str) -> None:
    """Make the git part of the dataset in the store."""
    work.tools.run(work.store, "git", "init", "-q", "--bare", *options, work.bare)


def alias(work: Work, name: str | None = None) -> str:
    """Give the dataset an alias, its own name by default."""
    chosen = name or work.name
    (work.store / "alias" / chosen).symlink_to(f"../{work.id[:3]}/{work.id[3:]}")
    return chosen


def storage(work: Work, name: str = STORAGE, *parameters: str) -> str:
    """Make the storage special remote and return its UUID."""
    work.annex(
        "initremote", "--quiet", name, "type=external", "externaltype=ora", "autoenable=true",
        f"url=ria+file://{work.store}", f"archive-id={work.id}", *(parameters or ("encryption=none",)),
    )  # fmt: skip
    work.git("config", f"remote.{name}.annex-verified", "verified")
    return work.word("config", f"remote.{name}.annex-uuid")


def main_storage(work: Work, *parameters: str) -> None:
    """Make the storage remote that the dataset's configuration in the store names."""
    work.store_git("config", "datalad.ora-remote.uuid", storage(work, STORAGE, *parameters))


def upload(work: Work, *what: Argument, to: str = STORAGE) -> None:
    """Copy keys to a storage remote, by default all."""
    work.annex("copy", "--quiet", "--to", to, *(what or ("--all",)))


def push(work: Work, *refs: str) -> None:
    """Push branches and tags."""
    work.git("push", "-q", work.bare, *(refs or ("main", "git-annex", "--tags")))


def plain_dataset(work: Work, layout: str = "2\n") -> None:
    """An annex and its empty place in the store, with storage remote and alias."""
    annex_repository(work)
    dataset_directory(work, layout)
    bare_repository(work)
    main_storage(work)
    alias(work)


def publish(work: Work) -> None:
    """Save, upload all keys and push."""
    work.save()
    upload(work)
    push(work)
