"""-o options: quoting, mount(8)'s own words, unknown ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.cli.mount_options import quote_option, sort_options, split_options, wants_writing
from riafs.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("ro", ["ro"]),
        ("ro,,refresh=1,", ["ro", "refresh=1"]),
        (r"cache_dir=/a\,b,ro", ["cache_dir=/a,b", "ro"]),
        ('cache_dir="/a,b",ro', ["cache_dir=/a,b", "ro"]),
        (r'log="/a\"b"', ['log=/a"b']),
        (r"log=/a\\b", [r"log=/a\b"]),
    ],
)
def test_options_are_split_with_quoting(text: str, expected: list[str]) -> None:
    assert split_options(text) == expected


@pytest.mark.parametrize("text", ['log="/a', "log=/a\\", '"'])
def test_a_quote_without_an_end_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        split_options(text)


@given(st.lists(st.text(min_size=1)))
def test_quoted_options_come_back_whole(options: list[str]) -> None:
    assert split_options(",".join(map(quote_option, options))) == options


@pytest.mark.parametrize(
    "text",
    [
        "rw",
        "ro,noexec,nosuid,nodev,uid=1000,_netdev,nofail,user",
        "rw,dev,suid",
        "defaults,noatime,relatime,comment=x,user=joe,x-systemd.automount,X-mount.mkdir=0755,noauto,exec",
    ],
)
def test_what_mount_passes_is_accepted(text: str) -> None:
    sort_options([text], sloppy=False)


def test_own_options_are_found_among_the_others_dash_or_underscore() -> None:
    found = sort_options(["ro,cache_dir=/c,allow-other", "no_auto_unmount,noexec,refresh=1"], sloppy=False)
    texts = [(one.name, one.text) for one in found.given]
    assert texts == [
        ("cache-dir", "/c"),
        ("allow-other", "yes"),
        ("auto-unmount", "no"),
        ("noexec", "yes"),
        ("refresh", "1"),
    ]


@pytest.mark.parametrize("text", ["nonsense", "nonsense=1", "nosymfollow", "comment", "rw=1", "refresh"])
def test_unknown_options_are_refused_unless_sloppy(text: str) -> None:
    with pytest.raises(UsageError):
        sort_options([text], sloppy=False)
    assert sort_options([text], sloppy=True).given == ()


def test_a_remount_may_name_what_the_kernels_table_says() -> None:
    found = sort_options(["rw,remount,user_id=0,group_id=0,default_permissions,allow_other"], sloppy=False)
    assert "remount" in found.words


def test_the_last_of_ro_and_rw_counts() -> None:
    assert wants_writing(["ro", "remount", "rw"])
    assert not wants_writing(["rw", "remount", "ro"])
    assert not wants_writing(["remount"])
