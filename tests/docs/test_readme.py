"""What the README and the pages say about this checkout is so."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from riafs.cli.mount import MountRequest, fstab_line
from tests.docs import installing, lab
from tests.docs.examples import examples, transcript
from tests.fuse.mounting import PROJECT
from tests.plugins import mounts
from tests.small import EPOCH, noise

README = (PROJECT / "README.md").read_text()
PAGES = (PROJECT / "README.md", PROJECT / "CHANGELOG.md", *sorted((PROJECT / "docs").rglob("*.md")))


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_to_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text())
    missing = [(target, anchor) for target, anchor in links if anchor not in anchors(page.parent / target, page)]
    assert not missing


def anchors(target: Path, page: Path) -> set[str]:
    """The anchors of the page `target` (of `page` itself if that is a directory): its headings', and written ones."""
    text = (target if target.is_file() else page).read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    given = re.findall(r'<a name="([^"]+)">', text)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings} | set(given)


@pytest.mark.parametrize(
    "name", re.findall(r"`(\w+/\w+\.py)`", (PROJECT / "docs" / "internals" / "concurrency.md").read_text())
)
def test_modules_named_in_the_concurrency_page_exist(name: str) -> None:
    assert (PROJECT / "riafs" / name).exists()


@pytest.mark.parametrize("page", ["README.md", "docs/use/boot.md"])
def test_fstab_line_is_the_one_that_riafs_prints(page: str) -> None:
    line = fstab_line(MountRequest("/srv/store", "/mnt/lab", (), ()))
    assert f"    {line}\n" in (PROJECT / page).read_text()


def test_lines_for_installing_are_among_those_that_were_tried() -> None:
    tried = installing.commands((PROJECT / "docs/use/installing.md").read_text())
    chapter = README.partition("\n## Installing\n")[2].partition("\n## ")[0]
    assert set(installing.commands(chapter)) <= set(tried)


def test_session_prints_what_the_readme_shows(fuse: None, tmp_path: Path) -> None:
    [session] = [each for each in examples(README) if each.name.startswith("In a terminal")]
    home, mountpoint = tmp_path / "home", tmp_path / "lab"
    home.mkdir()
    mountpoint.mkdir()
    (home / "t1.nii.gz").write_bytes(noise(2_800_000, "sub-03"))
    (home / ".gitconfig").write_text("[user]\n\tname = Ada Lovelace\n\temail = ada@example.org\n")
    store = lab.build_for_readme(tmp_path / "store")
    environment = {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "TIME_STYLE": "long-iso",
        "RIAFS_OVERLAY": str(tmp_path / "overlay"),
        "RIAFS_CACHE_DIR": str(tmp_path / "cache"),
        "RIAFS_LOG": str(tmp_path / "log"),
        "GIT_AUTHOR_DATE": f"{EPOCH + 172800} +0000",
        "GIT_COMMITTER_DATE": f"{EPOCH + 172800} +0000",
    }
    places = {"/srv/store": str(store.path), "/mnt/lab": str(mountpoint)}
    try:
        printed = transcript([replaced(command, places) for command in session.commands], home, environment)
    finally:
        mounts.sweep(mounts.below(tmp_path))
    assert replaced(printed, {here: there for there, here in places.items()}) == session.text


def replaced(text: str, pairs: Mapping[str, str]) -> str:
    """`text` with each of the words replaced."""
    for old, new in pairs.items():
        text = text.replace(old, new)
    return text
