"""What the README and the pages say about this checkout is so."""

import re
from pathlib import Path

import pytest

from riafs.cli.mount import MountRequest, fstab_line
from tests.fuse.mounting import PROJECT

PAGES = (PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").rglob("*.md")))


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize(
    "name", re.findall(r"`(\w+/\w+\.py)`", (PROJECT / "docs" / "internals" / "concurrency.md").read_text())
)
def test_modules_named_in_the_concurrency_page_exist(name: str) -> None:
    assert (PROJECT / "riafs" / name).exists()


def test_fstab_line_is_the_one_that_riafs_prints() -> None:
    line = fstab_line(MountRequest("/srv/store", "/mnt/lab", (), ()))
    assert f"    {line}\n" in (PROJECT / "README.md").read_text()
