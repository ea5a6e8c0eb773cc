"""The suite pjdfstest, compared with the list of the cases that must fail: ``pjdfstest_exceptions.txt``.

``python -m tests.writing.pjdfstest SUITE DIRECTORY`` runs all of it as root in a directory of a mount that can be
written and is open to others (``-o allow_other``). SUITE is a checkout of github.com/pjd/pjdfstest with its program
built in it. Every case that fails must be in the list, and every case in the list must fail.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).parent / "pjdfstest_exceptions.txt"
JOBS = 4
_FILE_SECONDS = 600
_RESULT = re.compile(r"(not )?ok (\d+)(.*)")

Cases = Mapping[str, Mapping[int, str]]
"""File → number of a case → what is said of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of all files: how many cases there were, and which of them failed."""

    files: int
    cases: int
    failed: Cases


def run(suite: Path, directory: Path) -> Outcome:
    """Run the whole suite in `directory`."""
    names = sorted(str(path.relative_to(suite / "tests")) for path in suite.glob("tests/*/*.t"))
    assert names, f"{suite} is no checkout of pjdfstest"
    with ThreadPoolExecutor(JOBS) as pool:
        outputs = pool.map(lambda name: _output(suite / "tests" / name, directory), names)
        results = {name: _results(output) for name, output in zip(names, outputs, strict=True)}
    failed = {
        name: {number: said for number, (good, said) in each.items() if not good} for name, each in results.items()
    }
    return Outcome(len(names), sum(map(len, results.values())), {name: each for name, each in failed.items() if each})


def _output(file: Path, directory: Path) -> str:
    done = subprocess.run(
        ["sh", file], cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, errors="replace", timeout=_FILE_SECONDS,
    )  # fmt: skip
    return done.stdout


def _results(output: str) -> dict[int, tuple[bool, str]]:
    """Number of a case → whether it is as it should be, and what was said. Planned cases that are missing failed."""
    planned = re.search(r"^1\.\.(\d+)", output, re.MULTILINE)
    found = dict.fromkeys(range(1, int(planned[1]) + 1 if planned else 2), (False, "did not run"))
    for line in output.splitlines():
        if match := _RESULT.match(line):
            found[int(match[2])] = (not match[1] or "# TODO" in match[3], match[3].strip(" -"))
    return found


# -- the list ---------------------------------------------------------------------------------------------------------


def listed() -> dict[str, set[int]]:
    """File → the cases of it that must fail."""
    found: dict[str, set[int]] = {}
    for line in LIST.read_text().splitlines():
        if not line.startswith("#"):
            name, cases, _ = line.split(maxsplit=2)
            found.setdefault(name, set()).update(numbers(cases))
    return found


def numbers(text: str) -> Iterator[int]:
    """The numbers in ``1,3-5``."""
    for part in text.split(","):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def ranges(found: set[int]) -> str:
    """The other way round."""
    parts: list[list[int]] = []
    for number in sorted(found):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)


def differences(failed: Cases) -> list[str]:
    """Where what failed is not what is listed."""
    expected, lines = listed(), []
    for name in sorted(expected.keys() | failed.keys()):
        found, wanted = failed.get(name, {}), expected.get(name, set())
        lines += [f"{name} {number} fails: {found[number]}" for number in sorted(found.keys() - wanted)]
        if missing := wanted - found.keys():
            lines.append(f"{name} {ranges(missing)} are listed and do not fail")
    return lines


# -- running it -------------------------------------------------------------------------------------------------------


def main(words: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.writing.pjdfstest", description=__doc__)
    parser.add_argument("suite", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--failed", action="store_true", help="print all cases that fail")
    chosen = parser.parse_args(words)
    began = time.monotonic()
    outcome = run(chosen.suite.absolute(), chosen.directory)
    for name, cases in outcome.failed.items() if chosen.failed else ():
        print(name, ranges(set(cases)))
    wrong = differences(outcome.failed)
    for line in wrong:
        print(line)
    failures = sum(map(len, outcome.failed.values()))
    print(
        f"{outcome.cases} cases in {outcome.files} files, {failures} in {len(outcome.failed)} files fail, "
        f"{len(wrong) or 'no'} differences to the list, {time.monotonic() - began:.0f} s"
    )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
