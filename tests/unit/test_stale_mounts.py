"""The sweeper reads the kernel's mount table."""

from pathlib import Path

from tests.plugins import mounts


def test_mountinfo_paths_are_unescaped() -> None:
    assert mounts.unescape(rb"/a\040b\011c\134d") == b"/a b\tc\\d"


def test_the_type_is_the_field_after_the_hyphen() -> None:
    line = b"36 35 98:0 / /mnt rw,nosuid shared:1 - fuse.riafs riafs rw"
    assert mounts.kind(line.split(b" ")) == b"fuse.riafs"


def test_nothing_is_mounted_below_a_new_directory(tmp_path: Path) -> None:
    assert mounts.below(tmp_path) == []
