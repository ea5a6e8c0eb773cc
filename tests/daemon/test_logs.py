"""Where messages go, and that no secret goes with them."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from riafs.daemon import logs
from riafs.daemon.logs import JsonFormatter, LogPlace, RecentErrors, TextFormatter, redact
from riafs.errors import StoreDenied, UsageError
from riafs.settings import Given, Settings, load
from riafs.storage.temporary import private_directory

SECRETS = (
    "cannot reach ria+https://user:CANARY@host/store",
    "cannot reach https://CANARY@host/x",
    "Authorization: Bearer CANARY",
    "authorization=CANARY, x",
    f"acbd18db4cc2f85cedef654fccc4a4d8+3+A{b'CANARY'.hex():0<40}@52dee1ab",
)


def settings(**chosen: str) -> Settings:
    return load({}, [Given(name.replace("_", "-"), text, "test") for name, text in chosen.items()]).settings


def record(message: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("riafs.x", level, "", 0, message, (), None)


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_secrets_are_not_written(text: str, formatter: logging.Formatter) -> None:
    written = formatter.format(record(text))
    assert "CANARY" not in written
    assert b"CANARY".hex() not in written


def test_an_ordinary_message_stays_as_it_is() -> None:
    text = "dataset ria+file:///store#~a@v1: key MD5E-s1--x@y is missing"
    assert redact(text) == text


def test_json_lines_are_json() -> None:
    line = json.loads(JsonFormatter().format(record("a\n'b\"")))
    assert (line["level"], line["logger"], line["message"]) == ("warning", "riafs.x", "a\n'b\"")


def test_the_last_errors_are_kept_one_line_each_and_no_more_than_the_bound() -> None:
    recent = RecentErrors()
    for number in range(logs.KEPT_LINES + 5):
        recent.handle(record(f"problem {number}\nmore"))
    assert len(recent.lines()) == logs.KEPT_LINES
    assert recent.lines()[0].endswith("problem 5")


def test_a_mount_logs_into_a_private_file_of_its_own(tmp_path: Path, expected_warnings: Callable[..., None]) -> None:
    expected_warnings("hello")
    place = LogPlace(str(tmp_path / "log"), "/mnt/my-lab")
    recent = logs.set_up(settings(), place)
    logging.getLogger("riafs.x").warning("hello")
    logs.tear_down(recent)
    logging.getLogger("riafs.x").info("after")
    assert Path(place.path).name == "mnt-my\\x2dlab.log"
    assert "WARNING riafs.x: hello" in Path(place.path).read_text()
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
    assert recent.lines()[0].endswith("hello")


def test_a_log_that_was_asked_for_and_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write the log"):
        logs.set_up(settings(log=str(tmp_path / "missing" / "file")), LogPlace(str(tmp_path), "/m"))


def test_a_directory_that_others_can_write_is_not_private(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("open", "link"):
        with pytest.raises(StoreDenied):
            private_directory(str(tmp_path / name))
    assert private_directory(str(tmp_path / "new" / "one")) == str(tmp_path / "new" / "one")
