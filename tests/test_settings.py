"""The option table: what each kind of value takes, and which source wins."""

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs import settings
from riafs.errors import RiafsError, UsageError
from riafs.options import OPTIONS
from riafs.settings import Given, Settings, find_option, load, parse_value, show_settings, show_value


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(settings, "SYSTEM_CONFIG", str(tmp_path / "system.toml"))
    (tmp_path / "riafs").mkdir()
    return {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin"}


def value(name: str, text: str) -> object:
    return parse_value(find_option(name), Given(name, text, "test"))


def test_every_option_is_a_setting_and_every_setting_an_option() -> None:
    assert [option.field for option in OPTIONS] == [field.name for field in fields(Settings)]


def test_an_empty_environment_gives_usable_settings(environment: dict[str, str]) -> None:
    effective = load({}, ()).settings
    assert (effective.refresh, effective.deadline, effective.verify) == (5.0, 30.0, "auto")
    assert (effective.uid, effective.gid) == (os.getuid(), os.getgid())
    assert effective.cache_dir.startswith("/")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("allow-other", "yes", True),
        ("allow-other", "off", False),
        ("readahead", "0", 0),
        ("readahead", "64", 64),
        ("readahead", "4k", 4096),
        ("readahead", "2M", 2 << 20),
        ("readahead", "3G", 3 << 30),
        ("readahead", "1T", 1 << 40),
        ("refresh", "0.1", 0.1),
        ("refresh", "2.5", 2.5),
        ("file-mode", "0640", 0o640),
        ("file-mode", "0o444", 0o444),
        ("verify", "never", "never"),
        ("uid", "4294967294", 4294967294),
        ("cache-dir", "/a/../b/", "/b"),
        ("cache-size", "0", 0),
        ("cache-min-free", "7.5%", 7.5),
        ("cache-min-free", "90", 90.0),
        ("block-size", "4K", 4096),
        ("block-size", "64M", 64 << 20),
        ("log", "none", "none"),
        ("log", "/var/log/x", "/var/log/x"),
        ("allow-links", "", ()),
        ("allow-links", "/a/:/b/../c:/a", ("/a", "/c")),
        ("allow-links", r"/with\:colon:/b", ("/with:colon", "/b")),
    ],
)
def test_values_are_read(name: str, text: str, expected: object) -> None:
    assert value(name, text) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("allow-other", "maybe"),
        ("readahead", "-1"),
        ("readahead", "1.5M"),
        ("readahead", "99999999T"),
        ("readahead", "10%"),
        ("readahead", ""),
        ("refresh", "-1"),
        ("refresh", "nan"),
        ("refresh", "inf"),
        ("refresh", "5s"),
        ("deadline", "0"),
        ("file-mode", "888"),
        ("file-mode", "4755"),
        ("verify", "sometimes"),
        ("uid", "4294967295"),
        ("uid", "root"),
        ("cache-dir", "relative"),
        ("cache-dir", ""),
        ("cache-min-free", "91%"),
        ("cache-min-free", "%"),
        ("cache-min-free", "5%%"),
        ("cache-min-free", "1G"),
        ("block-size", "0"),
        ("block-size", "65M"),
        ("log", "somewhere"),
        ("allow-links", "relative"),
        ("allow-links", "/a:b"),
    ],
)
def test_bad_values_are_refused_with_the_option_and_its_origin(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=rf"{name} \(test\) takes"):
        value(name, text)


@given(st.sampled_from(OPTIONS), st.text(max_size=12))
def test_any_text_is_a_value_or_a_riafs_error(option: settings.Option, text: str) -> None:
    try:
        read = parse_value(option, Given(option.name, text, "test"))
    except RiafsError:
        return
    shown = show_value(option, read)
    assert show_value(option, parse_value(option, Given(option.name, shown, "test"))) == shown


def test_each_source_wins_over_the_ones_before(environment: dict[str, str], tmp_path: Path) -> None:
    def refresh(*given: Given) -> tuple[float, str]:
        effective = load(environment, given)
        return effective.settings.refresh, next(one.origin for one in effective.winners if one.name == "refresh")

    assert refresh() == (5.0, "default")
    (tmp_path / "system.toml").write_text("refresh = 6\n")
    assert refresh() == (6.0, str(tmp_path / "system.toml"))
    (tmp_path / "riafs" / "config.toml").write_text("refresh = 7\n")
    assert refresh() == (7.0, str(tmp_path / "riafs" / "config.toml"))
    environment["RIAFS_REFRESH"] = "8"
    assert refresh() == (8.0, "RIAFS_REFRESH")
    flag, option = Given("refresh", "9", "--refresh"), Given("refresh", "10", "-o refresh")
    assert refresh(flag, option) == (10.0, "-o refresh")
    assert refresh(option, flag) == (9.0, "--refresh")


def test_toml_values_have_their_own_types(environment: dict[str, str], tmp_path: Path) -> None:
    text = 'allow_other = true\nfile-mode = 0o440\ndir_mode = "550"\nreadahead = "2M"\ndeadline = 1.5\n'
    (tmp_path / "system.toml").write_text(text)
    read = load(environment, ()).settings
    found = (read.allow_other, read.file_mode, read.dir_mode, read.readahead, read.deadline)
    assert found == (True, 0o440, 0o550, 2 << 20, 1.5)


def test_what_may_be_repeated_adds_up_until_it_is_given_empty(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "system.toml").write_text('allow-links = ["/a:b", "/c"]\n')
    environment["RIAFS_ALLOW_LINKS"] = "/d:/e"
    flags = [Given("allow-links", "/f", "--allow-links"), Given("allow-links", "/c", "-o allow_links")]
    found = load(environment, flags)
    assert found.settings.allow_links == ("/a:b", "/c", "/d", "/e", "/f")
    shown = settings.show_settings(found.settings)["allow-links"]
    assert value("allow-links", shown) == found.settings.allow_links
    assert load(environment, [Given("allow-links", "", "flag"), flags[0]]).settings.allow_links == ("/f",)


@pytest.mark.parametrize("text", ["refesh = 1", "refresh = [1]", "refresh = ", "allow-other = 'x'", "file-mode = 555"])
def test_a_mistake_in_a_file_names_the_file(environment: dict[str, str], tmp_path: Path, text: str) -> None:
    (tmp_path / "system.toml").write_text(text)
    with pytest.raises(UsageError, match=r"system\.toml"):
        load(environment, ())


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'refresh'"):
        find_option("refrehs")


def test_allow_other_and_allow_root_exclude_each_other(environment: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="exclude"):
        load(environment, [Given("allow-other", "yes", "-o"), Given("allow-root", "yes", "-o")])


def test_what_is_shown_of_settings_gives_the_same_settings(environment: dict[str, str]) -> None:
    read = load(environment, [Given("file-mode", "640", "-o"), Given("refresh", "0.25", "-o")]).settings
    again = load(environment, [Given(name, text, "-o") for name, text in show_settings(read).items()]).settings
    assert again == read


def test_a_process_without_path_and_home_gets_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATH")
    monkeypatch.delenv("HOME")
    found = settings.complete_environment()
    assert "/usr/bin" in found["PATH"].split(":")
    assert found["HOME"].startswith("/")


def test_an_own_file_that_cannot_be_read_is_named_and_left_out(
    tmp_path: Path, expected_warnings: Callable[..., None]
) -> None:
    expected_warnings("config.toml: Is a directory; it is left out")
    (tmp_path / "riafs" / "config.toml").mkdir(parents=True)
    assert load({"XDG_CONFIG_HOME": str(tmp_path)}, ()).settings == load({}, ()).settings
