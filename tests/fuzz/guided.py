"""``python -m tests.fuzz.guided TARGET [libFuzzer options] [DIRECTORY]``: inputs led by coverage, with atheris."""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["riafs"]):
    from tests.fuzz.targets import TARGETS


def main(name: str, options: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    target = TARGETS[name]
    corpus = Path(tempfile.mkdtemp(prefix="riafs-fuzz-"))
    for number, seed in enumerate(target.seeds()):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([sys.argv[0], "-timeout=10", "-rss_limit_mb=1024", *options, str(corpus)], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
