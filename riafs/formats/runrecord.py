"""Run records: commit messages that say by which command a commit was made.

As ``datalad run`` writes them and ``datalad rerun`` reads them (seen with DataLad 1.7.1).

DataLad takes braces in commands and paths for placeholders, and ``*?[`` in paths for patterns: both are escaped here.
Text is `str`, with surrogate escapes for bytes that are no UTF-8.
"""

import glob
import json
import os.path
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

_LONGEST_TITLE = 40
_MESSAGE = """\
[DATALAD RUNCMD] {}

=== Do not change lines below ===
{}
^^^ Do not change lines above ^^^
"""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A command that was run in a dataset. Paths are relative to the dataset's top."""

    command: str
    """For a shell."""
    directory: str
    """Directory that it was run in; ``""`` for the top."""
    inputs: Sequence[str]
    outputs: Sequence[str]
    dataset: str | None
    """DataLad's id of the dataset, where it has one."""
    exit_status: int = 0


def command_line(words: Sequence[str]) -> str:
    """The command for a shell: one word is a shell's command already, several are quoted.

    >>> command_line(["cp", "my file", "b"]), command_line(["sort a > b"])
    ("cp 'my file' b", 'sort a > b')
    """
    return words[0] if len(words) == 1 else shlex.join(words)


def run_message(record: RunRecord, title: str | None) -> str:
    """The commit message. `title`: of the commit; None for the beginning of the command."""
    if title is None:
        command = record.command
        title = command[:_LONGEST_TITLE] + ("..." if len(command) > _LONGEST_TITLE else "")
    return _MESSAGE.format(title, json.dumps(_fields(record), indent=1, sort_keys=True, ensure_ascii=False))


def _fields(record: RunRecord) -> dict[str, object]:
    fields: dict[str, object] = {
        "chain": [],
        "cmd": _literal(record.command),
        "exit": record.exit_status,
        "extra_inputs": [],
        "inputs": [_pattern(path, record.directory) for path in record.inputs],
        "outputs": [_pattern(path, record.directory) for path in record.outputs],
        "pwd": record.directory or ".",
    }
    return fields if record.dataset is None else {**fields, "dsid": record.dataset}


def _pattern(path: str, directory: str) -> str:
    """A path as DataLad reads it: from where the command is run."""
    return _literal(glob.escape(os.path.relpath(f"/{path}", f"/{directory}")))


def _literal(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
