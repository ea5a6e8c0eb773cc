"""What a user of DataLad does today: clone a dataset out of the store, and get its content."""

import contextlib
from pathlib import Path

from tests.stores.manifest import Dataset
from tests.stores.tools import ToolError, Tools


def clone(tools: Tools, store: Path, dataset: Dataset, target: Path) -> None:
    """Clone a dataset, and get everything that can be got."""
    tools.run(target.parent, "datalad", "clone", f"ria+file://{store}#{dataset.id}", target)
    # Some datasets hold keys that cannot be got: the tests look at each file, not at the exit status. git-annex goes on
    # where DataLad stops at names that are not UTF-8.
    with contextlib.suppress(ToolError):
        tools.run(target, "datalad", "get", ".")
    with contextlib.suppress(ToolError):
        tools.run(target, "git", "annex", "get", "--quiet", ".")
