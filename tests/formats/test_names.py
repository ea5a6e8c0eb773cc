"""Names that may be entries of a directory, and names that git refuses in a tree, as git itself says it."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.formats.names import git_takes, valid_name, valid_names


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b".git", b".GIT", b".gIt", b"a/b", b"/", b"../x", b"a\0b", b"\0", b"x" * 256]
)
def test_names_that_no_directory_may_show_are_refused(name: bytes) -> None:
    assert not valid_name(name)


@pytest.mark.parametrize(
    "name", [b"a", b"...", b".gitmodules", b"git", b".gi", b" ", b"\n", b"-rf", b"\\", b"\xff\xfe", b":", b"x" * 255]
)
def test_names_that_git_and_linux_accept_are_accepted(name: bytes) -> None:
    assert valid_name(name)


@given(st.frozensets(st.binary(max_size=6) | st.sampled_from([b"..", b".Git", b"a/b", b"x" * 256])))
def test_names_together_are_valid_if_each_is(names: frozenset[bytes]) -> None:
    assert valid_names(names) == all(map(valid_name, names))


ZERO_WIDTH = "\u200c\u200d\u200e\u200f\u202a\u202e\u206a\u206f\ufeff\u200b\u2060"
NAMES = [
    *(f".git{end}" for end in ("", " ", ".", "... .", ":", "::$INDEX_ALLOCATION", "\\", "\\x", "x", "~1", "-", "\x01")),
    *(f"git~{end}" for end in ("1", "2", "1 ", "1.", "1:x", "10", "1x", "")),
    *(".gi" + ignored + "t" for ignored in ZERO_WIDTH),
    *(ignored + ".git" for ignored in ZERO_WIDTH),
    *(".GiT" + ignored for ignored in ZERO_WIDTH),
    *(".GitModules" + ignored for ignored in ZERO_WIDTH[:3]),
    *(f".gitmodules{end}" for end in ("", " ", "...", ":", ":x", "x", "\\", "\\x")),
    *(f"gitmod~{number}" for number in range(6)),
    *("gi7eba~1", "GI7EBA~9", "gi7eba~0", "gi7eb~10", "GI7E~123", "gi7e~12"),
    *("~1000000", "~0000000", "g~100000", "gi7d29~1"),
    *("a\\.git", "a\\b", "a\\git~1", "a\\b\\.git", "a\\.gitmodules", "a\\gi7eba~1", "a\\.gi\u200ct"),
    *("..git", ". git", "git", ".gitattributes", ".gitignore", "con", "aux.txt", "x:y", "a\n"),
    *(".g\u0131t", ".\u011dit"),
    *("\u212agit", ".\u017fit", "x.git", ".git.x", "gitmodules", ".gitm"),
]  # fmt: skip
RAW = [b".git\xff", b".gi\xfft", b"\xff.git", b".\xe2\x80\x8cgit\xff", b".gitmodules\xff", b".\xe2\x80git"]


def taken(repository: Path, name: bytes, mode: str) -> bool:
    """Whether git puts a file of that name into an index."""
    done = subprocess.run(
        ["git", "-C", repository, "-c", "core.protectHFS=true", "-c", "core.protectNTFS=true",
         "update-index", "-z", "--index-info"],
        input=f"{mode} {'1' * 40}\t".encode() + name + b"\0", capture_output=True,
    )  # fmt: skip
    return done.returncode == 0 and not done.stderr


@pytest.mark.parametrize("mode", ["100644", "120000"])
def test_git_says_the_same(tmp_path: Path, mode: str) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    names = [*map(str.encode, NAMES), *RAW]
    said = {name: taken(tmp_path, name, mode) for name in names}
    assert {name: git_takes(name, is_link=mode == "120000") for name in names} == said
    assert 30 < sum(said.values()) < len(names) - 30


def test_what_git_finds_wrong_with_it_only_later_is_refused_too() -> None:
    assert not git_takes(b"\\.git", is_link=False)  # git fsck: hasDotgit
