"""What commands import: times differ between machines, the modules that they are made of do not."""

import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
HEAVY = {
    "asyncio", "cachetools", "email", "http", "importlib.metadata", "libarchive", "multiprocessing", "py7zr", "pyfuse3",
    "rich", "sqlite3", "ssl", "tomllib", "trio", "urllib3", "riafs.api", "riafs.overlay", "riafs.tree", "riafs.vfs",
}  # fmt: skip


def imported(code: str, *words: str) -> set[str]:
    """The modules after `code` was run in a new interpreter."""
    code = f"import sys\n{code}\nprint('\\n'.join(sys.modules), file=sys.stderr)"
    words = (sys.executable, "-c", code, *words)
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=True)
    return set(done.stderr.split())


COMMAND = "from riafs.cli import main\ntry:\n    main.run('riafs', sys.argv[1:])\nexcept SystemExit:\n    pass"


@pytest.mark.parametrize(
    "words",
    [["--help"], ["mount", "--help"], ["status", "-q"], ["mount", "/nonexistent/store", "/mnt", "--print-fstab"]],
)
def test_quick_commands_import_nothing_that_is_slow(words: list[str]) -> None:
    # the environment may have a configuration file, which is what tomllib is for
    assert imported(COMMAND, *words) & HEAVY <= ({"tomllib"} if "--print-fstab" in words else set())


def test_help_needs_no_json_and_no_child() -> None:
    assert not imported(COMMAND, "--help") & {"socket", "subprocess", "ctypes", "riafs.daemon.mountpoint"}


def test_mount_that_is_read_imports_nothing_for_changes() -> None:
    modules = imported("import riafs.daemon.lifecycle, riafs.daemon.assemble")
    slow = {"urllib3", "http", "rich", "py7zr", "libarchive", "riafs.push", "riafs.packing"}
    assert not modules & {*slow, "riafs.daemon.pushing", "riafs.daemon.change_commands", "riafs.vfs.writable"}
    assert {module for module in modules if module.startswith("riafs.overlay.")} == {"riafs.overlay.stat"}
