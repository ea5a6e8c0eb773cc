"""What every test gets: a private home, log hygiene, the test stores, and a clean kernel before and after."""

import contextlib
import os
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins import mounts
from tests.stores.build import built_clones
from tests.stores.build import stores as built_stores
from tests.stores.hostile import HostileStore, build_hostile
from tests.stores.manifest import Stores
from tests.stores.tools import ToolError

pytest_plugins = ["tests.plugins.log_hygiene", "tests.plugins.long", "tests.plugins.workers"]

PROGRAMS = ("git", "git-annex", "datalad", "7z", "gpg", "fusermount3", "getfattr")

KEPT = {"RIAFS_TEST_STORES", "RIAFS_KEEPSTORE", "GIT_SSL_CAINFO"}
"""Variables that keep their values though their like are taken away."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the suite takes too long for."""
    parser.addoption(
        "--snakemake",
        action="store_true",
        help="install snakemake from PyPI into an environment of its own for tests/programs, if it is not in PATH",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Move to a private home before anything of the user's is read."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun by a shell in the background; children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # begun by nohup
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    home = tempfile.mkdtemp(prefix=f"{mounts.PREFIX}{os.getpid()}-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    for name in [name for name in os.environ if name.startswith(("GIT_", "XDG_", "RIAFS_")) and name not in KEPT]:
        del os.environ[name]
    os.environ.update(private_environment(Path(home)))


def private_environment(home: Path) -> dict[str, str]:
    """HOME and the XDG directories below it, an identity for git, this Python's programs first in PATH.

    Root's mounts keep things below /var, and killed programs leave temporary files: here all of that is below `home`.
    """
    (home / ".gitconfig").write_text("[user]\n\tname = riafs tests\n\temail = tests@riafs.invalid\n")
    kinds = {
        "XDG_CONFIG_HOME": "config",
        "XDG_CACHE_HOME": "cache",
        "XDG_STATE_HOME": "state",
        "XDG_RUNTIME_DIR": "run",
    }
    for name in (*kinds.values(), "tmp"):
        (home / name).mkdir(mode=0o700)
    own = {"TMPDIR": "tmp", "RIAFS_CACHE_DIR": "cache/riafs", "RIAFS_LOG": "riafs.log"}
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    return {"HOME": str(home), "PATH": path, "GIT_CONFIG_NOSYSTEM": "1"} | {
        name: str(home / place) for name, place in (kinds | own).items()
    }


def pytest_report_header(config: pytest.Config) -> list[str]:
    """What this machine lets the tests do."""
    found = [f"{name}{'' if shutil.which(name) else ' MISSING'}" for name in PROGRAMS]
    user = "root" if os.getuid() == 0 else f"uid {os.getuid()}"
    fuse = "usable" if mounts.fuse_usable() else "NOT USABLE: tests with a real mount are skipped"
    return [f"riafs: {user}, Linux {platform.release()}, /dev/fuse {fuse}", f"programs: {', '.join(found)}"]


def pytest_sessionstart(session: pytest.Session) -> None:
    """Take down what an aborted earlier run of this user left: mounts, and private homes."""
    if not hasattr(session.config, "workerinput"):  # of pytest-xdist
        mounts.sweep(mounts.abandoned())
        for home in mounts.abandoned_homes():
            shutil.rmtree(home, ignore_errors=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build what the chosen tests want, here because it takes minutes and each test's own time is bounded."""
    wanted = {name for item in session.items if isinstance(item, pytest.Function) for name in item.fixturenames}
    if session.config.option.collectonly or not wanted & {"stores", "clones"}:
        return
    with contextlib.suppress(ToolError):  # the fixture meets it again and says it, and the other tests run
        made = built_stores()
        if "clones" in wanted:
            built_clones(made)


@pytest.fixture(scope="session")
def stores() -> Stores:
    """The test stores and their manifest; never write to them, use `Stores.copy`."""
    return built_stores()


@pytest.fixture(scope="session")
def clones(stores: Stores) -> Path:
    """Directory with DataLad's clone of every dataset that is `clonable`, by the datasets' names."""
    return built_clones(stores)


@pytest.fixture(scope="session")
def hostile_store(tmp_path_factory: pytest.TempPathFactory) -> HostileStore:
    """A store that tries to do harm."""
    return build_hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="session")
def fuse() -> None:
    """Skip where the kernel offers no FUSE to this user."""
    if not mounts.fuse_usable():
        pytest.skip("/dev/fuse is not usable by this user")


@pytest.fixture
def no_mounts_left(tmp_path: Path) -> Iterator[None]:
    """Fail a test that leaves something mounted below its directory, and take it down."""
    yield
    left = mounts.below(tmp_path)
    mounts.sweep(left)
    assert not left
