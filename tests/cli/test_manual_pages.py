"""The committed manual pages say what the parsers say."""

from pathlib import Path

import pytest

from riafs.cli import manpages
from riafs.options import OPTIONS


def test_committed_pages_are_up_to_date() -> None:
    assert manpages.main(["--check", str(Path(__file__).parents[2] / "man")]) == 0


def test_a_page_that_is_not_up_to_date_fails_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert manpages.main([str(tmp_path)]) == 0
    with (tmp_path / "riafs.1").open("a") as page:
        page.write("more\n")
    assert manpages.main(["--check", str(tmp_path)]) == 1
    assert "riafs.1 is not up to date" in capsys.readouterr().err


def test_every_option_is_in_both_pages() -> None:
    flags, options = manpages.pages().values()
    for option in OPTIONS:
        assert f"\\-\\-{option.name}".replace("-", "\\-").replace("\\\\-", "\\-") in flags
        assert f"\\fB{option.field}" in options
