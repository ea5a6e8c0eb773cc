"""Run records, as ``datalad rerun`` reads them."""

import glob
import json
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.formats.runrecord import RunRecord, command_line, run_message

READ = re.compile(
    r"\[DATALAD RUNCMD\] (.*)=== Do not change lines below ===\n(.*)\n\^\^\^ Do not change lines above \^\^\^",
    re.MULTILINE | re.DOTALL,
)
"""DataLad's own expression."""
NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1).filter(
    lambda name: name not in (".", "..")
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def read(message: str) -> tuple[str, dict[str, object]]:
    """The title, and the record."""
    match = READ.match(message)
    assert match is not None
    return match[1].strip(), json.loads(match[2])


def test_a_record_has_what_datalad_writes() -> None:
    record = RunRecord("sort a > b", "data", ["data/a", "code/x"], ["data/b"], "an-id", 0)
    assert read(run_message(record, "sorted")) == (
        "sorted",
        {
            "chain": [],
            "cmd": "sort a > b",
            "dsid": "an-id",
            "exit": 0,
            "extra_inputs": [],
            "inputs": ["a", "../code/x"],
            "outputs": ["b"],
            "pwd": "data",
        },
    )


def test_without_an_id_and_a_title() -> None:
    title, fields = read(run_message(RunRecord("x" * 50, "", [], [], None), None))
    assert title == "x" * 40 + "..."
    assert "dsid" not in fields
    assert fields["pwd"] == "."


@pytest.mark.parametrize(
    ("words", "line"), [(["cp", "my file", "b"], "cp 'my file' b"), (["sort a > b"], "sort a > b"), (["true"], "true")]
)
def test_one_word_is_for_a_shell_and_several_are_quoted(words: list[str], line: str) -> None:
    assert command_line(words) == line


@given(words=st.lists(st.text(), min_size=2))
def test_several_words_are_what_a_shell_makes_of_the_line(words: list[str]) -> None:
    assert shlex.split(command_line(words)) == words


@given(command=st.text(), paths=st.lists(PATHS), directory=PATHS | st.just(""))
def test_placeholders_and_patterns_stand_for_themselves(command: str, paths: list[str], directory: str) -> None:
    _, fields = read(run_message(RunRecord(command, directory, paths, [], None), "title"))
    assert str(fields["cmd"]).format() == command
    assert isinstance(fields["inputs"], list)
    for pattern in fields["inputs"]:
        assert not glob.has_magic(re.sub(r"\[[*?[]\]", "", pattern.format()))
    assert len(fields["inputs"]) == len(paths)
