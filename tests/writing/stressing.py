"""stress-ng's stressors of file systems in a directory: ``python -m tests.writing.stressing DIRECTORY``.

``stressors.txt`` has their names, and the reason of each that cannot pass where nothing but files, directories and
symbolic links can be made. All others must pass, those must not, and stress-ng must know no other of its class
"filesystem".
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

LIST = Path(__file__).parent / "stressors.txt"
_ENDING_SECONDS = 120


def listed() -> dict[str, str]:
    """Stressor → why it cannot pass, "" where it must."""
    return {name: reason for name, _, reason in (line.partition(" ") for line in _lines()) if name != "-"}


def _lines() -> list[str]:
    return [line for line in LIST.read_text().splitlines() if not line.startswith("#")]


def unlisted() -> set[str]:
    """What stress-ng has for file systems and the list does not name."""
    done = subprocess.run(["stress-ng", "--class", "filesystem?"], capture_output=True, text=True, check=False)
    return set(done.stdout.rpartition(":")[2].split()) - {line.removeprefix("- ").split()[0] for line in _lines()}


def failure(name: str, directory: Path, seconds: int) -> str:
    """Run one stressor; "" if it passes, else what it says."""
    done = subprocess.run(
        ["stress-ng", "--temp-path", directory, f"--{name}", "1", "-t", str(seconds), "--verify"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds + _ENDING_SECONDS,
    )  # fmt: skip
    said = [re.sub(r"^stress-ng: \w+: +\[\d+\] +", "", line) for line in (done.stdout + done.stderr).splitlines()]
    wrong = [line for line in said if "fail" in line or "skipped" in line or "not supported" in line]
    if done.returncode == 0 and not any("skipped" in line for line in wrong):
        return ""
    return f"status {done.returncode}: {'; '.join(wrong[:3]) or '; '.join(said[-3:])}"


def main(words: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.writing.stressing", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("stressor", nargs="*", help="only these")
    parser.add_argument("--seconds", type=int, default=5, help="for each (5)")
    chosen = parser.parse_args(words)
    stressors, began = listed(), time.monotonic()
    wrong = [f"{name} is not in {LIST.name}" for name in sorted(unlisted())]
    passed = 0
    for name in chosen.stressor or stressors:
        said, reason = failure(name, chosen.directory, chosen.seconds), stressors[name]
        passed += not said
        print(f"{name:12} {said or 'passes'}", flush=True)
        if bool(said) != bool(reason):
            wrong.append(f"{name} fails: {said}" if said else f"{name} passes, though listed: {reason}")
    wrong += [f"{path} is left" for path in sorted(chosen.directory.iterdir())]
    for line in wrong:
        print(line)
    print(f"{passed} stressors pass, {len(wrong) or 'no'} differences to the list, {time.monotonic() - began:.0f} s")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
