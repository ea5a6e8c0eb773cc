"""``python -m benchmarks``: run the measurements, print a table, write JSON."""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks import (
    archives,
    attributes,
    datasets,
    keep,
    large_object,
    listing,
    memory,
    pushing,
    remote,
    scale,
    small_files,
    starting,
    writing,
)
from benchmarks.bench import Bench
from benchmarks.report import Row, print_table, save

MEASUREMENTS: Mapping[str, Callable[[Bench], Iterator[Row]]] = {
    "large": large_object.rows,
    "listing": listing.rows,
    "small": small_files.rows,
    "starting": starting.rows,
    "datasets": datasets.rows,
    "attributes": attributes.rows,
    "memory": memory.rows,
    "archives": archives.rows,
    "keep": keep.rows,
    "writing": writing.rows,
    "pushing": pushing.rows,
    "remote": remote.rows,
    "scale": scale.rows,
}


def main(words: Sequence[str]) -> int:
    """Run what was chosen. Returns 1 where a measurement failed, whether or not targets are met."""
    parser = _parser()
    chosen = parser.parse_args(words)
    unknown = set(chosen.names) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"no measurement {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    data = chosen.data.resolve()
    data.mkdir(mode=0o755, parents=True, exist_ok=True)
    bench = Bench(data, chosen.quick, chosen.whole_get)
    circumstances = _circumstances(bench)
    rows: list[Row] = []
    failed = False
    for name in chosen.names or MEASUREMENTS:
        print(f"measuring: {name}", flush=True)
        try:
            rows += MEASUREMENTS[name](bench)
        except (subprocess.SubprocessError, OSError, AssertionError) as error:
            print(f"{name} failed: {error}", file=sys.stderr)
            failed = True
    print_table(rows)
    report = chosen.json or data / "results" / time.strftime("%Y%m%dT%H%M%S.json")
    save(report, rows, circumstances | {"load at the end": os.getloadavg()})
    print(f"written to {report}")
    return int(failed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure riafs beside its peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these: {', '.join(MEASUREMENTS)}")
    parser.add_argument("--quick", action="store_true", help="smaller data, fewer rounds")
    parser.add_argument("--whole-get", action="store_true", help="let DataLad get all files, not a tenth of them")
    default = Path(tempfile.gettempdir()) / f"riafs-benchmarks-{os.getuid()}"
    parser.add_argument("--data", type=Path, default=default, help="where stores are made and kept (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the report (DATA/results/TIME.json)")
    return parser


def _circumstances(bench: Bench) -> dict[str, object]:
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "load at the start": os.getloadavg(),
        "quick": bench.quick,
        "rounds": bench.rounds,
    }


def _end(number: int, _: FrameType | None) -> NoReturn:
    """Leave by way of every ``finally``, which unmounts and ends what was started."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main(sys.argv[1:]))
