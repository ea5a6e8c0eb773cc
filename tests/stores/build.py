"""Building all test stores once, and finding them again.

The stores lie in a directory named after the checksum of this package and the tools' versions. It is built in its final
place, since the special remotes record absolute paths, under a lock, and counts only with its manifest, which is
written last.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.stores import manifest
from tests.stores.clone import clone
from tests.stores.manifest import Stores, copy_dataset
from tests.stores.recipes import archives, basic, damage, keys, repositories, storages, subdatasets
from tests.stores.record import Built
from tests.stores.tools import Tools
from tests.stores.work import Work, dataset_id

RecipeFunction = Callable[[Work], list[Built]]


def recipes() -> dict[str, RecipeFunction]:
    """Name → recipe; slow ones first, so that the last ones running are quick."""
    return {
        "basic": basic.basic,
        "super": subdatasets.super_dataset,
        "datalad-only": basic.datalad_only,
        "arc-exported": archives.exported,
        "chunk-crypt": storages.chunk_crypt,
        "secret-key": storages.secret_key,
        "backends": keys.backends,
        "alternates": repositories.alternates,
        "layout1": archives.layout1,
        "arc-many": archives.many,
        "arc-mixed": archives.mixed,
        **{f"arc-{name}": archives.method(options) for name, options in archives.known_methods(methods()).items()},
        "arc-password": archives.encrypted("off"),
        "arc-password-names": archives.encrypted("on"),
        "arc-old-place": archives.old_place,
        "arc-oldest-place": archives.oldest_place,
        "url-keys": keys.url_keys,
        "misplaced": keys.misplaced,
        "missing": damage.missing,
        "corrupt": damage.corrupt,
        "sha256-repository": repositories.sha256_repository,
        "packed": repositories.packed,
        "head-detached": repositories.head_detached,
        "head-unborn": repositories.head_unborn,
        "storage-only": repositories.storage_only,
        "git-only": repositories.git_only,
        "annex-only": repositories.annex_only,
    }


def built_clones(made: Stores) -> Path:
    """Directory with a clone of every clonable dataset, each in a directory of the dataset's name."""
    root = made.root / "clones"
    root.mkdir(exist_ok=True)
    with locked(made.root / ".lock"):
        if not (root / ".complete").exists():
            make_clones(made, root)
    return root


def make_clones(made: Stores, root: Path) -> None:
    """Clone and get with DataLad."""
    tools = Tools(made.root / "home")
    wanted = [dataset for dataset in made.datasets if dataset.clonable]
    for dataset in wanted:
        shutil.rmtree(root / dataset.name, ignore_errors=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda dataset: clone(tools, made.path, dataset, root / dataset.name), wanted))
    tools.run(root, "gpgconf", "--kill", "all")
    (root / ".complete").touch()


def methods() -> str:
    """What this 7z can do."""
    return subprocess.run(["7z", "i"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout


def stores() -> Stores:
    """The finished stores; builds them where that was not done yet."""
    root = cache_directory() / checksum()
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / ".lock"):
        if not (root / "manifest.json").exists():
            build(root)
        return manifest.load(root)


def cache_directory() -> Path:
    """Where test stores are kept: ``RIAFS_TEST_STORES``, or a directory of this user below the temporary one."""
    given = os.environ.get("RIAFS_TEST_STORES")
    return Path(given) if given else Path(tempfile.gettempdir()) / f"riafs-test-stores-{os.getuid()}"


def checksum() -> str:
    """Of the builder's source and the tools' versions."""
    digest = hashlib.sha256(methods().encode())
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One builder at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build(root: Path) -> Stores:
    """Make all stores below `root`."""
    for leftover in (path for path in root.iterdir() if path.name != ".lock"):
        shutil.rmtree(leftover)
    tools = Tools(root / "home")
    tools.prepare()
    store = empty_store(root / "store")
    try:
        built = run_all(root, store, tools, recipes())
    finally:
        tools.run(root, "gpgconf", "--kill", "all")
    rows = tuple(row for one in built for row in one.rows)
    made = Stores(root, tuple(one.dataset for one in built), rows)
    peculiar_stores(made)
    manifest.save(made)
    shutil.rmtree(root / "work")
    return made


def run_all(root: Path, store: Path, tools: Tools, wanted: Mapping[str, RecipeFunction]) -> list[Built]:
    """Run recipes, as many at once as there are processors."""

    def one(name: str) -> list[Built]:
        return wanted[name](Work(name, root / "work" / name / name, store, dataset_id(name), tools))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [built for several in pool.map(one, wanted) for built in several]


def empty_store(path: Path) -> Path:
    """A store as create-sibling-ria begins it."""
    for name in ("alias", "error_logs"):
        (path / name).mkdir(parents=True)
    (path / "ria-layout-version").write_text("1\n")
    return path


def peculiar_stores(made: Stores) -> None:
    """Small stores that differ from the usual one in one respect."""
    example = made.dataset("datalad-only")
    for name in ("no-aliases", "no-version", "future-version"):
        copy_dataset(made.path, empty_store(made.other(name)), example)
    shutil.rmtree(made.other("no-aliases") / "alias")
    (made.other("no-version") / "ria-layout-version").unlink()
    (made.other("future-version") / "ria-layout-version").write_text("7|l\n")
