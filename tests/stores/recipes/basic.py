"""DataLad's own way to a store: names, kinds of entries, versions."""

import stat
from dataclasses import replace

from tests.stores.recipes.samples import noise, text, various
from tests.stores.record import Built, Recipe, changed, record
from tests.stores.work import ATTRIBUTES, Work, alias, upload

ODD_NAMES = (
    b"new\nline.txt",
    b"tab\there.txt",
    b"-x",
    b"caf\xc3\xa9.txt",
    b"cafe\xcc\x81.txt",
    b"latin-\xe9.txt",
    b"bytes.\xff\xfe",
    b" leading and trailing ",
    b"back\\slash",
    b'quote"s.txt',
    b"star*[1]?.txt",
    b"percent%2F&amp.txt",
    b"at@sign.txt",
    "日本語.txt".encode(),
)

BRANCHES = ("main", "v1.0", "light", "annotée", "feature/x", "orphan", "pointers")


def datalad_dataset(work: Work) -> Work:
    """Create the working repository with DataLad; the answer knows the id that DataLad chose."""
    work.path.parent.mkdir(parents=True, exist_ok=True)
    work.tools.run(work.path.parent, "datalad", "create", work.path)
    created = replace(work, id=work.word("config", "-f", ".datalad/config", "datalad.dataset.id"))
    created.write(".gitattributes", ATTRIBUTES)
    datalad_save(created, "code stays in git")
    return created


def datalad_save(work: Work, message: str) -> None:
    """Save everything with DataLad."""
    work.run("datalad", "save", "-m", message)


def datalad_sibling(work: Work, *options: str) -> None:
    """Create the dataset's sibling in the store with DataLad."""
    work.run("datalad", "create-sibling-ria", "-s", "ria", *options, f"ria+file://{work.store}")


def datalad_push(work: Work) -> None:
    """Push content and history with DataLad."""
    work.run("datalad", "push", "--to", "ria")


def datalad_only(work: Work) -> list[Built]:
    """Create, save, create-sibling-ria, push, and nothing else."""
    work = datalad_dataset(work)
    various(work)
    datalad_save(work, "files")
    datalad_sibling(work, "--alias", work.name, "--post-update-hook")
    datalad_push(work)
    return [record(work, Recipe(note="as a user of DataLad alone makes it"))]


def basic(work: Work) -> list[Built]:
    """Odd names, every kind of entry, and versions by branch and tag."""
    work = datalad_dataset(work)
    various(work)
    kinds(work)
    datalad_save(work, "first")
    odd_names(work)
    longest_name(work)
    unlocked(work)
    versions(work)
    pointers(work)
    datalad_sibling(work, "--alias", work.name)
    upload(work)  # DataLad's push leaves out files beside names that are not UTF-8
    work.git("push", "-q", "ria", "--all")
    work.git("push", "-q", "ria", "--tags")
    aliases(work)
    built = record(work, Recipe(refs=BRANCHES, note="odd names, kinds of entries, versions"))
    return [changed(built, [(b"locked-executable", {"mode": stat.S_IFREG | 0o555})])]


def odd_names(work: Work) -> None:
    """Annexed and git files under names that programs stumble over; DataLad's save fails on the non-UTF-8 ones."""
    for number, name in enumerate(ODD_NAMES):
        work.write(b"odd/" + name, b"odd %d\n" % number)
        work.write(b"code/odd/" + name, b"git odd %d\n" % number)
    work.write(b"odd/\xe9t\xe9/file.txt", b"in a directory with a latin-1 name\n")
    work.save("odd names")


def kinds(work: Work) -> None:
    """Links, executables, empty files, deep directories."""
    work.link("link-to-file", "text.txt")
    work.link("link-to-directory", "sub")
    work.link("link-dangling", "nowhere/at all")
    work.link("link-absolute", "/nonexistent/riafs")
    work.link("sub/link-up", "../sub/./small.txt")
    work.write("code/empty", b"")
    work.write("code/large.txt", text("in git", 300_000))
    work.write("locked-executable", b"#!/bin/sh\necho locked\n", executable=True)
    work.write("/".join(f"level{number}" for number in range(20)) + "/deep.txt", b"deep\n")


def longest_name(work: Work) -> None:
    """A name of 255 bytes, which git-annex cannot add itself."""
    work.write("short.dat", noise("long", 500))
    work.add("short.dat")
    work.git("mv", "short.dat", "x" * 251 + ".dat")
    work.commit("longest name")


def unlocked(work: Work) -> None:
    """Pointer files, one of them executable."""
    work.write("unlocked.txt", b"unlocked\n")
    work.write("unlocked.sh", b"#!/bin/sh\necho unlocked\n", executable=True)
    work.add("unlocked.txt", "unlocked.sh")
    work.annex("unlock", "--quiet", "unlocked.txt", "unlocked.sh")
    work.git("add", "unlocked.txt", "unlocked.sh")
    work.commit("unlocked files")


def versions(work: Work) -> None:
    """Tags and branches that differ from main."""
    for tag in (["-m", "annotated", "v1.0"], ["light"], ["-m", "unicode", "annotée"]):
        work.git("tag", *tag)
    work.git("branch", "feature/x")
    work.git("rm", "-q", "text.txt")
    work.write("text.txt", text("second", 150_000))
    work.write("new-in-second.txt", b"second\n")
    work.add("text.txt", "new-in-second.txt")
    work.commit("second")
    orphan(work)


def orphan(work: Work) -> None:
    """A branch with one git file and no history in common."""
    blob = work.git("hash-object", "-w", "--no-filters", "--stdin", stdin=b"alone\n").decode().strip()
    tree = work.git("mktree", stdin=f"100644 blob {blob}\talone.txt\n".encode()).decode().strip()
    work.git("branch", "orphan", work.word("commit-tree", "-m", "orphan", tree))


def pointers(work: Work) -> None:
    """A branch of everything that is nearly, or oddly, an annex link or pointer file."""
    key = work.lookup("sub/small.txt").encode()
    work.git("symbolic-ref", "HEAD", "refs/heads/pointers")
    work.git("read-tree", "--empty")
    for name, blob in pointer_variants(key).items():
        work.stage_blob(f"files/{name}", blob)
        if name != "over-limit":  # as a link it would be longer than any that Linux can show
            work.stage_blob(f"links/{name}", blob, "120000")
    work.commit("pointers")
    work.git("symbolic-ref", "HEAD", "refs/heads/main")
    work.git("reset", "-q", "--mixed")


def pointer_variants(key: bytes) -> dict[str, bytes]:
    """Blobs of the key that git-annex takes for pointers, and others that it does not."""
    plain = b"/annex/objects/" + key
    tail = b"/annex/ more\n"
    filled = plain + b"\n" + tail * ((32768 - len(plain) - 1) // len(tail) - 1)
    exact = filled + b"/annex/" + b"x" * (32768 - len(filled) - 8) + b"\n"
    return {
        "plain": plain + b"\n",
        "no-newline": plain,
        "crlf": plain + b"\r\n",
        "annex-line": plain + b"\n" + tail,
        "unterminated-line": plain + b"\n/annex/ text",
        "empty-line": plain + b"\n\n",
        "appended": plain + b"\nhello\n",
        "mixed-directories": b".git/annex/objects/F4/53/" + key + b"/" + key + b"\n",
        "absolute": b"/abs/.git/annex/objects/F4/53/" + key + b"/" + key,
        "module": b"../.git/modules/sub/annex/objects/F4/53/" + key + b"/" + key,
        "lower-directories": b".git/annex/objects/e43/794/" + key + b"/" + key,
        "no-directories": b".git/annex/objects/" + key,
        "text-before": b"text /annex/objects/" + key,
        "no-slash": b"annex/objects/" + key + b"\n",
        "no-objects": b".git/annex/F4/53/" + key + b"/" + key,
        "ends-in-slash": plain + b"/",
        "exact-limit": exact,
        "over-limit": exact[:-1] + b"x\n",
        "bad-key": b"/annex/objects/MD5E-m3-s3--x\n",
    }


def aliases(work: Work) -> None:
    """An alias of an alias, a dangling one and a second one."""
    directory = work.store / "alias"
    alias(work, "basic again")
    (directory / "basic-of-basic").symlink_to(work.name)
    (directory / "dangling").symlink_to("../fff/ffff-0000")
