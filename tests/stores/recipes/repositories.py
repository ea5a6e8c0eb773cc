"""Forms of the git repository in the store, and stores where half of a dataset is absent."""

from dataclasses import replace

from tests.stores.recipes.keys import with_content
from tests.stores.recipes.samples import various
from tests.stores.record import Built, Recipe, record
from tests.stores.tools import EPOCH
from tests.stores.work import (
    ATTRIBUTES,
    STORAGE,
    Work,
    alias,
    annex_repository,
    bare_repository,
    dataset_directory,
    dataset_id,
    main_storage,
    plain_dataset,
    publish,
    push,
    storage,
    upload,
)


def sha256_repository(work: Work) -> list[Built]:
    """SHA-256 object names, in the clone and in the store."""
    work = replace(work, tools=work.tools.having(GIT_DEFAULT_HASH="sha256"))
    plain_dataset(work)
    various(work)
    publish(work)
    return [record(work, Recipe(note="SHA-256 object names"))]


def packed(work: Work) -> list[Built]:
    """Everything that git's maintenance may have done: packs, bitmaps, commit-graph, packed refs."""
    plain_dataset(work)
    various(work)
    publish(work)
    work.git("tag", "-m", "packed", "v1")
    work.write("later.txt", b"later\n")
    publish(work)
    work.store_git("repack", "-q", "-a", "-d", "--write-bitmap-index")
    work.store_git("commit-graph", "write", "--reachable")
    work.store_git("pack-refs", "--all")
    return [record(work, Recipe(refs=("main", "v1"), note="repacked, commit-graph, packed refs"))]


def alternates(work: Work) -> list[Built]:
    """Two datasets of which the second borrows the first one's git objects by a relative path."""
    base = replace(work, name=f"{work.name}-base", path=work.path.with_name("base"), id=dataset_id(f"{work.name}-base"))
    plain_dataset(base)
    various(base)
    publish(base)
    borrower(work, base)
    return [record(base, Recipe(note="git objects lent to another dataset")), record(work, Recipe(note="alternates"))]


def borrower(work: Work, base: Work) -> None:
    """Make the dataset that continues `base`."""
    work.tools.run(work.store, "git", "clone", "-q", base.path, work.path)
    work.git("remote", "remove", "origin")
    work.git("branch", "-q", "git-annex", work.tools.run(base.path, "git", "rev-parse", "git-annex").decode().strip())
    work.annex("init", "--quiet", "borrower")
    work.git("config", f"remote.{STORAGE}.annex-verified", "verified")
    dataset_directory(work)
    bare_repository(work)
    lent = work.bare / "objects" / "info" / "alternates"
    lent.write_text(f"../../../{base.id[:3]}/{base.id[3:]}/objects\n")
    work.store_git("config", "datalad.ora-remote.uuid", storage(work, "borrower-storage", "encryption=none"))
    alias(work)
    for kept in base.path.glob(".git/annex/objects/*/*/*/*"):
        with_content(work, kept.name, kept.read_bytes())
    work.write("borrower.txt", b"only here\n")
    work.save()
    upload(work, to="borrower-storage")
    push(work)


def head_detached(work: Work) -> list[Built]:
    """HEAD in the store names a commit, which is not the tip of the branch."""
    plain_dataset(work)
    various(work)
    publish(work)
    first = work.word("rev-parse", "main")
    work.write("second.txt", b"second\n")
    publish(work)
    work.store_git("update-ref", "--no-deref", "HEAD", first)
    return [record(work, Recipe(refs=(first, "main"), clonable=False, note="detached HEAD at the first ref"))]


def head_unborn(work: Work) -> list[Built]:
    """HEAD in the store names a branch that does not exist; the newest other branch is to be shown."""
    plain_dataset(work)
    work.write("old.txt", b"old\n")
    publish(work)
    work.git("branch", "aside")
    work = replace(work, tools=work.tools.having(GIT_COMMITTER_DATE=f"{EPOCH + 1000} +0000"))
    work.write("new.txt", b"new\n")
    publish(work)
    work = replace(work, tools=work.tools.having(GIT_COMMITTER_DATE=f"{EPOCH + 2000} +0000"))
    newest = work.word("commit-tree", "-m", "synced", "-p", "main", "main^{tree}")
    work.git("branch", "synced/main", newest)
    push(work, "main", "aside", "git-annex", "synced/main")
    work.store_git("symbolic-ref", "HEAD", "refs/heads/master")
    return [record(work, Recipe(refs=("main", "aside"), note="HEAD names an absent branch; synced/main is newer"))]


def storage_only(work: Work) -> list[Built]:
    """Objects and no git repository."""
    annex_repository(work)
    various(work)
    work.save()
    dataset_directory(work)
    storage(work, STORAGE)
    upload(work)
    return [record(work, Recipe(refs=(), clonable=False, alias=False, note="no git repository"))]


def git_only(work: Work) -> list[Built]:
    """A git repository that never saw git-annex."""
    work.path.mkdir(parents=True)
    work.git("init", "-q")
    various(work)
    work.git("add", ".")
    work.commit("plain git")
    work.bare.mkdir(parents=True)
    bare_repository(work)
    (work.bare / "ria-layout-version").write_text("2\n")
    push(work, "main")
    alias(work)
    return [record(work, Recipe(note="plain git"))]


def annex_only(work: Work) -> list[Built]:
    """An annex without DataLad: the directory is named after the special remote's UUID."""
    annex_repository(work, attributes=ATTRIBUTES.replace(b"MD5E", b"SHA256E"))
    dataset_directory(work)
    bare_repository(work)
    main_storage(work, "encryption=none", f"uuid={work.id}")
    various(work)
    publish(work)
    return [record(work, Recipe(alias=False, note="initremote uuid=ID; no alias"))]
