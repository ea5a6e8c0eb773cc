"""From words to what is done: subcommands, the form without one, mount(8)'s helper, exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from riafs.cli import main, mount, status, umount
from riafs.cli.mount import MountRequest
from riafs.cli.parser import TASKS, build_helper_parser, build_parser
from riafs.cli.render import amount, duration
from riafs.cli.umount import combined
from riafs.daemon.mounts import Mount
from riafs.errors import UsageError


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[MountRequest, bool]]:
    """What would have been mounted."""
    seen: list[tuple[MountRequest, bool]] = []

    def record(request: MountRequest, *, fake: bool = False) -> int:
        seen.append((request, fake))
        return 0

    monkeypatch.setattr(mount, "mount", record)
    monkeypatch.setattr("riafs.cli.mount.mount", record)
    return seen


@pytest.mark.parametrize(
    ("words", "given", "fake"),
    [
        (["SRC", "DIR", "-o", "rw"], [], False),
        (["SRC", "DIR", "-o", "ro,allow_other,cache-dir=/c"], ["allow-other", "cache-dir"], False),
        (["SRC", "DIR", "-f", "-n", "-v", "-o", "rw"], [], True),
        (["SRC", "DIR", "-s", "-o", "rw,nonsense"], [], False),
        (["SRC", "DIR", "-sfnv", "-N", "ns", "-t", "fuse.riafs"], [], True),
        (["SRC", "DIR", "-o", "ro,noexec,nosuid,nodev,uid=1000,_netdev,nofail,user"], ["noexec", "uid"], False),
        (["SRC", "DIR", "-r", "-o", "refresh=1", "-o", "refresh=2"], ["refresh", "refresh"], False),
    ],
)
@pytest.mark.parametrize("name", ["/sbin/mount.riafs", "mount.fuse.riafs"])
def test_the_helper_takes_what_mount_gives(
    name: str, words: list[str], given: list[str], fake: bool, requests: list[tuple[MountRequest, bool]]
) -> None:
    assert main.run(name, words) == 0
    [(request, was_fake)] = requests
    assert (request.source, request.directory, was_fake) == ("SRC", "DIR", fake)
    assert [one.name for one in request.given] == given


@pytest.mark.parametrize("words", [["mount", "/SRC", "DIR"], ["/SRC", "DIR"], ["-o", "rw,dev,suid", "/SRC", "DIR"]])
def test_mount_is_what_is_done_without_a_subcommand(
    words: list[str], requests: list[tuple[MountRequest, bool]]
) -> None:
    assert main.run("riafs", words) == 0
    assert requests[0][0].source == "/SRC"


def test_flags_and_options_keep_their_order() -> None:
    words = ["mount", "S", "D", "--refresh", "1", "-o", "refresh=2,x-foo", "-f", "--no-allow-other"]
    arguments = build_parser().parse_args(words)
    found = [(one.name, one.text) for one in arguments.given]
    assert found == [("refresh", "1"), ("refresh", "2"), ("foreground", "yes"), ("allow-other", "no")]
    assert arguments.words == ("x-foo",)


def test_a_relative_directory_on_the_command_line_is_one_from_here() -> None:
    [given] = build_parser().parse_args(["mount", "S", "D", "--cache-dir", "c"]).given
    assert given.text == os.path.abspath("c")


@pytest.mark.parametrize(
    "words",
    [
        ["mount"],
        ["mount", "S"],
        ["mount", "S", "D", "--nonsense"],
        ["mount", "S", "D", "-o", "nonsense"],
        ["mount", "S", "D", "--refresh", "soon"],
        ["umount", "--all", "D"],
        ["umount", "/"],
        ["status", "/"],
    ],
)
def test_wrong_usage_is_one_line_and_status_1(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run("riafs", words) == 1
    said = capsys.readouterr()
    assert said.err.startswith("riafs: ")
    assert said.err.count("\n") == 1
    assert not said.out


def test_riafs_alone_shows_every_command_by_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run("riafs", []) == 0
    alone = capsys.readouterr().out
    listed = [name for _, names in TASKS for name in names]
    assert sorted(listed) == sorted(main.COMMANDS)
    assert all(f"\n  {name} " in alone for name in listed)
    for words in (["--help"], ["help"]):
        with pytest.raises(SystemExit):
            main.run("riafs", words)
        assert capsys.readouterr().out == alone
    with pytest.raises(SystemExit):
        main.run("riafs", ["help", "umount"])
    assert capsys.readouterr().out.startswith("usage: riafs umount")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["mount", "S", "D", "--refesh", "1"], "did you mean --refresh?"),
        (["mount", "S", "D", "--refesh=1"], "did you mean --refresh?"),
        (["mount", "S", "D", "-refresh", "1"], "did you mean --refresh?"),
        (["mount", "S", "D", "--allow_other"], "did you mean --allow-other?"),
        (["mount", "S", "D", "-o", "refesh=1"], "did you mean -o refresh?"),
        (["mount", "S", "D", "-o", "ro,alow-other"], "did you mean -o allow_other?"),
        (["mount", "S", "D", "-o", "no_alow_other"], "did you mean -o no_allow_other?"),
        (["mount", "S", "D", "-o", "noatuo"], "did you mean -o noauto?"),
        (["push", "--as-brnach", "x"], "did you mean --as-branch?"),
        (["verify", "S", "--all-replica"], "did you mean --all-replicas?"),
        (["cache", "evit"], "did you mean evict?"),
        (["overlay", "remov", "x"], "did you mean remove?"),
    ],
)
def test_a_mistyped_option_is_refused_with_the_one_that_is_near(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run("riafs", words) == 1
    said = capsys.readouterr().err
    assert meant in said
    assert said.count("\n") == 1
    assert main.run("riafs", ["mount", "S", "D", "--nothing-like-it"]) == 1
    assert "did you mean" not in capsys.readouterr().err


def test_a_mistyped_variable_or_key_is_refused_with_the_one_that_is_near(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RIAFS_SOMEBODY_ELSES", "1")
    monkeypatch.setenv("RIAFS_ARCHIVE_PASSWORD", "1")
    assert main.run("riafs", ["config"]) == 0
    monkeypatch.setenv("RIAFS_REFESH", "1")
    assert main.run("riafs", ["config"]) == 1
    assert "RIAFS_REFESH is no option; did you mean RIAFS_REFRESH?" in capsys.readouterr().err
    monkeypatch.delenv("RIAFS_REFESH")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "riafs").mkdir()
    (tmp_path / "riafs" / "config.toml").write_text("refesh = 5\n")
    assert main.run("riafs", ["config"]) == 1
    assert "did you mean 'refresh'?" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "word"), [("-r", "ro"), ("--ro", "ro"), ("-w", "rw"), ("--rw", "rw")])
def test_ro_and_rw_have_flags(flag: str, word: str, requests: list[tuple[MountRequest, bool]]) -> None:
    assert main.run("riafs", ["mount", flag, "/SRC", "DIR"]) == 0
    assert main.run("riafs", ["mount", "/SRC", "DIR", "-o", "rw" if word == "ro" else "ro", flag]) == 0
    assert requests[0][0].words == (word,)
    assert requests[1][0].words[-1] == word
    assert not requests[0][0].by_mount


def test_umount_alone_lists_what_could_be_unmounted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = [Mount(f"/m{number}", f"0:{number}", "fuse.riafs", f"/s{number}", os.getuid()) for number in range(2)]
    monkeypatch.setattr(umount, "riafs_mounts", lambda: mounts)
    assert main.run("riafs", ["umount"]) == 1
    said = capsys.readouterr()
    assert [line.split() for line in said.out.splitlines()[1:]] == [["/m0", "/s0"], ["/m1", "/s1"]]
    assert "--all" in said.err
    monkeypatch.setattr(umount, "riafs_mounts", list)
    assert main.run("riafs", ["umount"]) == 1
    assert "nothing is mounted" in capsys.readouterr().err


def test_status_has_ones_own_mounts_first(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    owners = [os.getuid() + 1, os.getuid(), os.getuid() + 2, os.getuid()]
    mounts = [Mount(f"/m{number}", "0:0", "fuse.riafs", "/s", owner) for number, owner in enumerate(owners)]
    monkeypatch.setattr(status, "riafs_mounts", lambda: mounts)
    monkeypatch.setattr(status, "report", lambda mount, _: {"mountpoint": mount.mountpoint, "source": "", "state": ""})
    assert main.run("riafs", ["status"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["/m1", "/m3", "/m0", "/m2"]


def test_the_helper_refuses_unknown_options_with_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run("mount.riafs", ["/store", "/mnt", "-o", "rw,nonsense"]) == 1
    assert "nonsense" in capsys.readouterr().err


def test_a_bug_is_one_line_and_status_4(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_words: object) -> None:
        raise ValueError("on\nno account")

    monkeypatch.setattr("riafs.cli.main.with_command", broken)
    assert main.run("riafs", ["status"]) == 4
    assert capsys.readouterr().err.startswith("riafs: internal error: ValueError: on no account")


def test_a_word_that_is_no_command_is_told_apart_from_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run("riafs", ["statsu"]) == 1
    assert "there is no command statsu; did you mean status?" in capsys.readouterr().err
    assert main.run("riafs", ["/no/such/store"]) == 1
    assert "DIR" in capsys.readouterr().err


def test_a_missing_argument_of_the_helper_is_a_usage_error() -> None:
    with pytest.raises(UsageError):
        build_helper_parser().parse_args(["only-source"])


def test_help_and_version_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--version"], ["--help"], ["mount", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main.run("riafs", words)
        assert not ended.value.code
    assert "install-helper" in capsys.readouterr().out


def test_config_says_where_each_setting_comes_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIAFS_VERIFY", "always")
    assert main.run("riafs", ["config", "--json", "-o", "refresh=60"]) == 0
    shown = {row["name"]: (row["value"], row["origin"]) for row in json.loads(capsys.readouterr().out)}
    assert shown["verify"] == ("always", "RIAFS_VERIFY")
    assert shown["refresh"] == ("60", "-o refresh")
    assert shown["deadline"] == ("30", "default")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["ria+file:///s t#~x@v1", "/mnt/a b", "-o", "ro,allow_other,x-systemd.idle-timeout=600"],
            (
                "ria+file:///s\\040t#~x@v1  /mnt/a\\040b  riafs  "
                "ro,noauto,nofail,x-systemd.automount,x-systemd.idle-timeout=600,allow_other  0  0"
            ),
        ),
        (
            ["ria+ssh://host/store", "/mnt", "--log", "/l,og"],
            "ria+ssh://host/store  /mnt  riafs  ro,noauto,nofail,_netdev,x-systemd.automount,log=/l\\134,og  0  0",
        ),
        (["/store#~a", "/mnt"], "/store#~a  /mnt  riafs  ro,noauto,nofail,x-systemd.automount  0  0"),
    ],
)
def test_the_fstab_line_says_the_same(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run("riafs", ["mount", "--print-fstab", *words]) == 0
    assert capsys.readouterr().out == line + "\n"


def test_umount_all_takes_this_users_mounts_innermost_first(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [Mount(path, "0:1", "fuse.riafs", "s", owner) for path, owner in (("/a", 7), ("/b", 8), ("/a/c", 7))]
    taken: list[str] = []
    monkeypatch.setattr(umount, "riafs_mounts", lambda: mounts)
    monkeypatch.setattr(umount, "find_mount", lambda path: next(one for one in mounts if one.mountpoint == path))
    monkeypatch.setattr(umount, "unmount", lambda mount, **_: taken.append(mount.mountpoint))
    monkeypatch.setattr(umount.os, "getuid", lambda: 7)
    assert main.run("riafs", ["umount", "--all"]) == 0
    assert taken == ["/a/c", "/a"]


def test_umount_combines_exit_statuses_as_mount_does() -> None:
    assert combined([]) == 0
    assert combined([0, 0]) == 0
    assert combined([32, 1]) == 33
    assert combined([0, 32]) == 96


def test_durations_and_amounts_are_short() -> None:
    assert [duration(s) for s in (5, 65.2, 3700, 180000, None)] == ["5s", "1m", "1h01m", "2d2h", "-"]
    assert [amount(n) for n in (5, 1536, 3 << 30, 5 << 50, "x")] == ["5 B", "1.5 KiB", "3.0 GiB", "5120.0 TiB", "-"]


def test_a_quick_command_imports_neither_event_loop_nor_rich(tmp_path: Path) -> None:
    program = (
        "import sys; from riafs.cli.main import run; run('riafs', ['config']);"
        "sys.exit(any(name in sys.modules for name in ('trio', 'pyfuse3', 'rich')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=os.environ, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
