"""Every example of docs/use/semantics.md prints what stands there."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs import lab
from tests.docs.examples import Example, examples, transcript
from tests.fuse.mounting import PROJECT, mounted

EXAMPLES = examples((PROJECT / "docs" / "use" / "semantics.md").read_text())
STORE = "/srv/store"


@dataclass(frozen=True, slots=True)
class Lab:
    """The store and its mount."""

    store: Path
    mountpoint: Path
    environment: Mapping[str, str]


@pytest.fixture(scope="module")
def mounted_lab(fuse: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The store that the page describes, mounted as it says."""
    base = tmp_path_factory.mktemp("semantics")
    store = lab.build(base / "store")
    environment = {
        "HOME": str(base),
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "TZ": "UTC",
        "TIME_STYLE": "long-iso",
    }
    words = ("--refresh", "1", "--cache-dir", str(base / "cache"))
    with mounted(store.path, base, *words) as mount:
        yield Lab(store.path, mount.path, environment)


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_example_prints_what_the_page_says(example: Example, mounted_lab: Lab) -> None:
    commands = [command.replace(STORE, str(mounted_lab.store)) for command in example.commands]
    printed = transcript(commands, mounted_lab.mountpoint, mounted_lab.environment)
    assert printed.replace(str(mounted_lab.store), STORE) == example.text


def test_page_has_examples() -> None:
    assert len(EXAMPLES) > 10
