"""How entries look to the kernel, and with which options it mounts."""

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.fuse.presentation import LASTING_SECONDS, Presentation, Presenter
from riafs.fuse.session import KernelOptions
from riafs.tree.protocol import UNKNOWN_SIZE, Entry, Kind

ALL = 0o777


def shown(entry: Entry, file_mode: int = ALL, dir_mode: int = ALL) -> tuple[int, int, int]:
    """Mode, size and blocks."""
    presenter = Presenter(Presentation(1, 2, file_mode, dir_mode, 5))
    attributes = presenter.blank()
    presenter.fill(attributes, 77, entry)
    assert (attributes.st_ino, attributes.st_uid, attributes.st_gid) == (77, 1, 2)
    return attributes.st_mode, attributes.st_size, attributes.st_blocks


def entry(kind: Kind, size: int = 0, *, executable: bool = False) -> Entry:
    return Entry(b"name", kind, size, executable=executable, mtime_ns=5, version=b"")


@given(st.sampled_from((Kind.FILE, Kind.LINK, Kind.DIRECTORY)), st.booleans(), st.integers(0, ALL), st.integers(0, ALL))
def test_modes_are_never_setuid_or_the_like(kind: Kind, executable: bool, files: int, directories: int) -> None:
    mode, _, _ = shown(entry(kind, executable=executable), files, directories)
    assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)


@pytest.mark.parametrize(("files", "executable"), [(0o644, 0o755), (0o640, 0o750), (0o600, 0o700), (0o444, 0o555)])
def test_modes_are_the_ones_given(files: int, executable: int) -> None:
    assert shown(entry(Kind.FILE), files)[0] == stat.S_IFREG | files
    assert shown(entry(Kind.FILE, executable=True), files)[0] == stat.S_IFREG | executable
    assert shown(entry(Kind.DIRECTORY), dir_mode=0o750)[0] == stat.S_IFDIR | 0o750
    assert shown(entry(Kind.LINK), 0)[0] == stat.S_IFLNK | 0o777


@pytest.mark.parametrize(("size", "blocks"), [(0, 0), (1, 1), (512, 1), (513, 2), (1 << 40, 1 << 31)])
def test_blocks_follow_from_the_size(size: int, blocks: int) -> None:
    assert shown(entry(Kind.FILE, size))[1:] == (size, blocks)


def test_unknown_size_is_shown_as_none() -> None:
    assert shown(entry(Kind.FILE, UNKNOWN_SIZE))[1:] == (0, 0)


def test_absent_names_are_remembered_long_unless_a_ref_may_come_into_being() -> None:
    presenter = Presenter(Presentation(1, 2, ALL, ALL, 5))
    assert presenter.absent(lasting=True).entry_timeout == LASTING_SECONDS
    assert presenter.absent(lasting=False).entry_timeout == 5
    assert presenter.absent(lasting=True).st_ino == 0


@pytest.mark.parametrize("wanted", [False, True])
def test_kernel_is_always_told_to_be_careful(wanted: bool) -> None:
    options = KernelOptions("/mnt", "source", wanted, wanted, wanted, wanted).as_libfuse()
    assert {"ro", "nosuid", "nodev", "default_permissions", "subtype=riafs"} <= options
    assert not options & {"rw", "suid", "dev", "exec"}
    assert ("allow_other" in options, "noexec" in options) == (wanted, wanted)


@given(st.text())
def test_source_cannot_bring_in_options(source: str) -> None:
    [named] = [
        option
        for option in KernelOptions("/mnt", source, False, False, False).as_libfuse()
        if option.startswith("fsname=")
    ]
    assert "," not in named
    assert named.isascii()
    assert named.isprintable()
