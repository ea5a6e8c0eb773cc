"""Keys of every backend, keys without size, and keys whose names need escaping."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.stores.manifest import Expect
from tests.stores.recipes.samples import noise
from tests.stores.record import Built, Fate, Recipe, record
from tests.stores.tools import EPOCH
from tests.stores.work import ATTRIBUTES, Work, escape, plain_dataset, publish

NOT_FOR_FILES = {"URL", "VURL", "GITBUNDLE", "GITMANIFEST", "X*"}

DEAD_URL = "http://127.0.0.1:9/riafs"
"""Nobody listens there (the discard port)."""


def backends(work: Work) -> list[Built]:
    """One file per backend that this git-annex has."""
    plain_dataset(work)
    names = backend_names(work)
    lines = "".join(f"{name}.dat annex.backend={name}\n" for name in names)
    work.write(".gitattributes", ATTRIBUTES + lines.encode())
    for name in names:
        work.write(f"{name}.dat", noise(name, 3_001))
        os.utime(work.path / f"{name}.dat", (EPOCH, EPOCH))
    publish(work)
    return [record(work, Recipe(fates={"WORM.dat": Fate(Expect.ORA_CANNOT)}, note="a file per backend"))]


def backend_names(work: Work) -> list[str]:
    """What ``git annex version`` lists as backends, without those that no file is added with."""
    for line in work.annex("version").decode().splitlines():
        if line.startswith("key/value backends: "):
            return [name for name in line.split(": ", 1)[1].split() if name not in NOT_FOR_FILES]
    raise AssertionError("git annex version lists no backends")


def url_keys(work: Work) -> list[Built]:
    """URL, VURL and WORM keys, keys without size, keys that only a URL serves.

    git-annex fetches neither WORM nor URL keys from a store ("content cannot be verified"), so readers of the mount get
    more than those of a clone.
    """
    plain_dataset(work)
    worm(work)
    work.commit("worm keys")
    for name, url in {"url.txt": f"{DEAD_URL}/a/b?x=1&y=%20z", "colon.txt": f"{DEAD_URL}:x/c"}.items():
        with_content(work, add_url(work, name, url), b"content of " + name.encode())
    with_content(work, add_verifiable_url(work, "vurl.txt", f"{DEAD_URL}/v"), b"verifiable")
    downloaded(work, "vurl-recorded.txt", b"verifiable by a recorded key")
    with_content(work, by_hand(work, "sizeless.txt", "MD5--5d41402abc4b2a76b9719d911017c592"), b"hello")
    work.annex("registerurl", by_hand(work, "web.txt", "MD5-s7--00000000000000000000000000000000"), f"{DEAD_URL}/w")
    add_url(work, "web-unknown-size.txt", f"{DEAD_URL}/unknown")
    publish(work)
    return [record(work, Recipe(fates=url_fates(), note="keys with / : % & in them, and without size"))]


def url_fates() -> dict[str, Fate]:
    """What becomes of the files of `url_keys`."""
    refused = Fate(Expect.ORA_CANNOT)
    by_url = Fate(Expect.WEB, ("web",))
    names = ("url.txt", "colon.txt", "worm/dir%name,with.txt", "worm/a&b:c.txt")
    return {**dict.fromkeys(names, refused), "web.txt": by_url, "web-unknown-size.txt": by_url}


def worm(work: Work) -> None:
    """Files with WORM keys whose names hold characters that are escaped."""
    for name in ("worm/dir%name,with.txt", "worm/a&b:c.txt"):
        work.write(name, b"worm " + name.encode())
        os.utime(work.path / name, (EPOCH, EPOCH))
        work.annex("add", "--quiet", "--backend=WORM", name)


def add_url(work: Work, name: str, url: str) -> str:
    """A file with a URL key that nobody fetched; git-annex today makes such keys only when told the key."""
    variant = add_verifiable_url(work, f"{name}.vurl", url)
    work.git("rm", "-q", "--cached", f"{name}.vurl")
    (work.path / f"{name}.vurl").unlink()
    key = by_hand(work, name, variant.replace("VURL", "URL", 1))
    work.annex("registerurl", "--quiet", key, url)
    return key


def add_verifiable_url(work: Work, name: str, url: str) -> str:
    """A file with a VURL key that nobody fetched."""
    work.annex("addurl", "--quiet", "--relaxed", "--raw", f"--file={name}", url)
    return work.lookup(name)


def downloaded(work: Work, name: str, content: bytes) -> None:
    """A file with a VURL key that git-annex fetched, so that the key's equivalent is on the git-annex branch."""
    with serving(content) as url:
        add_verifiable_url(work, name, f"{url}/{name}")
        work.git("-c", "annex.security.allowed-ip-addresses=127.0.0.1", "annex", "get", "--quiet", name)


@contextmanager
def serving(content: bytes) -> Iterator[str]:
    """A web server on this machine that answers everything with `content`; the value is its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def by_hand(work: Work, name: str, key: str) -> str:
    """A file with a key given as text."""
    work.annex("fromkey", "--quiet", "--force", key, name)
    return key


def with_content(work: Work, key: str, content: bytes) -> None:
    """Give a key its content."""
    source = work.path.parent / f"{work.name}.content"
    source.write_bytes(content)
    work.annex("setkey", "--quiet", key, source)


def misplaced(work: Work) -> list[Built]:
    """Objects under hash directories where ORA does not look, and odd things beside the objects."""
    plain_dataset(work)
    work.write("lower.txt", b"under lower-case hash directories\n")
    work.write("mixed.txt", b"under the layout's own hash directories\n")
    work.commit("before the URL key")
    with_content(work, add_url(work, "url.txt", f"{DEAD_URL}/m?&%"), b"under the hash of the unescaped key")
    publish(work)
    move_object(work, "lower.txt", lower_directories(work, "lower.txt"))
    move_object(work, "url.txt", work.annex("examinekey", work.lookup("url.txt"), "--format=${hashdirmixed}").decode())
    (work.objects / "0a" / "0b").mkdir(parents=True, exist_ok=True)
    (work.bare / "annex" / "index.lck").touch()
    elsewhere = Fate(Expect.ORA_CANNOT)
    return [record(work, Recipe(fates={"lower.txt": elsewhere, "url.txt": elsewhere}, note="other hash directories"))]


def lower_directories(work: Work, name: str) -> str:
    """Lower-case hash directories of a file's key."""
    return work.annex("examinekey", work.lookup(name), "--format=${hashdirlower}").decode()


def move_object(work: Work, name: str, directories: str) -> None:
    """Move the loose object of a file under other hash directories, leaving the empty ones behind."""
    source = work.loose(name)
    target = work.objects / directories / escape(work.lookup(name)) / source.name
    target.parent.mkdir(parents=True)
    source.rename(target)
    source.parent.rmdir()
