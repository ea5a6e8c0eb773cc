"""Examples in Markdown: blocks of shell commands, each behind ``$ ``, followed by what it prints."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```sh\n(.*?)^```$|^#+ ([^\n]+)$", re.MULTILINE | re.DOTALL)
PROMPT = "$ "


@dataclass(frozen=True, slots=True)
class Example:
    """One block."""

    name: str
    """The heading above it, and its number below that heading."""
    text: str
    """Commands and output."""

    @property
    def commands(self) -> list[str]:
        """What is typed, one line each."""
        return [line.removeprefix(PROMPT) for line in self.text.splitlines() if line.startswith(PROMPT)]


def examples(text: str) -> list[Example]:
    """The blocks marked ``sh`` of a Markdown text, in order."""
    heading, number = "", 0
    found = []
    for block, title in _BLOCK.findall(text):
        if title:
            heading, number = title, 0
            continue
        number += 1
        found.append(Example(f"{heading} {number}", block))
    return found


def transcript(commands: list[str], directory: Path, environment: Mapping[str, str]) -> str:
    """The commands as typed into one shell that runs in `directory`, each followed by all it prints."""
    script = ["exec 2>&1", *(f"echo {_quoted(PROMPT + command)}\n{command}" for command in commands)]
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=directory,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    return done.stdout.decode()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
