"""Nothing is opened outside of the directory that paths are relative to, with openat2 and without."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from riafs.storage import openat
from riafs.storage.openat import PATH_FLAGS, READ_FLAGS, open_beneath, open_beneath_cached
from tests.failing import errno_of

INSIDE = b"inside"
SECRET = b"secret"


@pytest.fixture(params=["openat2", "steps"])
def directory(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A directory with links in and out, and a secret beside it."""
    if request.param == "steps":
        monkeypatch.setattr(openat, "HAVE_OPENAT2", False)
    elif not openat.HAVE_OPENAT2:
        pytest.skip("this kernel has no openat2")
    descriptor = os.open(make_tree(tmp_path), os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def make_tree(tmp_path: Path) -> Path:
    """The directory to stay in."""
    (tmp_path / "secret").write_bytes(SECRET)
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").write_bytes(INSIDE)
    for name, target in {
        "up": "..",
        "out": "../secret",
        "absolute": str(tmp_path / "secret"),
        "around": "../root/a",
        "proc": f"/proc/{os.getpid()}/root",
        "loop": "loop",
        "a/up-two": "../..",
    }.items():
        (root / name).symlink_to(target)
    return root


def read(directory: int, path: bytes) -> bytes:
    descriptor = open_beneath(directory, path, READ_FLAGS)
    try:
        return os.read(descriptor, 100)
    finally:
        os.close(descriptor)


def test_file_inside_is_opened(directory: int) -> None:
    assert read(directory, b"a/b/file") == INSIDE
    assert read(directory, b"a//b/./file") == INSIDE


def test_directory_itself_is_opened(directory: int) -> None:
    descriptor = open_beneath(directory, b".", PATH_FLAGS | os.O_DIRECTORY)
    assert os.path.samestat(os.fstat(descriptor), os.fstat(directory))
    os.close(descriptor)


@pytest.mark.parametrize(
    "path",
    [
        b"../secret", b"out", b"absolute", b"up/secret", b"a/../../secret", b"a/up-two/secret", b"around/b/file",
        b"proc/etc/passwd", b"loop", b"/etc/passwd", b"up", b"..",
    ],
)  # fmt: skip
def test_what_leads_out_is_refused(directory: int, path: bytes) -> None:
    code = errno_of(lambda: os.close(open_beneath(directory, path, READ_FLAGS)))
    assert code in {errno.EXDEV, errno.ELOOP, errno.ENOENT, errno.ENOTDIR}


def test_cached_answer_refuses_what_leads_out(directory: int) -> None:
    for path in (b"../secret", b"out", b"absolute", b"up/secret"):
        try:
            found = open_beneath_cached(directory, path, READ_FLAGS)
        except OSError:
            continue
        assert found is None


def test_a_link_within_is_followed_by_openat2_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(INSIDE)
    (tmp_path / "link").symlink_to("file")
    directory = os.open(tmp_path, os.O_RDONLY)
    if openat.HAVE_OPENAT2:
        assert read(directory, b"link") == INSIDE
    monkeypatch.setattr(openat, "HAVE_OPENAT2", False)
    assert errno_of(lambda: read(directory, b"link")) == errno.ELOOP
    os.close(directory)


def test_no_descriptor_is_left_open(directory: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in (b"a/b/file", b"a/b/none", b"a/b/file/x", b"../secret", b"a/up-two/secret", b"loop/x"):
        try:
            os.close(open_beneath(directory, path, READ_FLAGS))
        except OSError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before


STEPS = st.sampled_from(
    [b"a", b"b", b"..", b".", b"", b"up", b"out", b"around", b"up-two", b"root", b"secret", b"file"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(steps=st.lists(STEPS, min_size=1, max_size=7))
def test_no_path_reads_the_secret(directory: int, steps: list[bytes]) -> None:
    with contextlib.suppress(OSError):
        assert read(directory, b"/".join(steps)) == INSIDE
