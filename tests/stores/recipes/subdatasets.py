"""Datasets in datasets: nested ones, an older registered commit, and submodules that lead nowhere."""

from dataclasses import replace

from tests.stores.manifest import Expect, Type
from tests.stores.recipes.basic import datalad_dataset, datalad_save, datalad_sibling
from tests.stores.record import Built, Recipe, record
from tests.stores.work import Work

NOWHERE = "1234567890123456789012345678901234567890"


def super_dataset(work: Work) -> list[Built]:
    """A dataset with a subdataset that has one itself, all in the store, and four bad submodules."""
    work = datalad_dataset(work)
    sub = create_below(work, "inputs/sub", "super-sub")
    nested = create_below(sub, "nested", "super-nested")
    for one in (nested, sub, work):
        one.write("file.txt", one.name.encode() + b"\n")
        one.write("README.md", b"# " + one.name.encode() + b"\n")
    work.run("datalad", "save", "-r", "-m", "files")
    datalad_sibling(work, "-r", "--alias", work.name)
    registered = sub.word("rev-parse", "HEAD")
    work.run("datalad", "push", "-r", "--to", "ria")
    later_commit(sub)
    bad_submodules(work, sub)
    push_all(work)
    return [super_record(work), record(sub, Recipe(("main", registered), alias=False)), nested_record(nested)]


def create_below(work: Work, path: str, name: str) -> Work:
    """Create and register a subdataset."""
    work.run("datalad", "create", "-d", ".", path)
    below = replace(work, name=name, path=work.path / path)
    return replace(below, id=below.word("config", "-f", ".datalad/config", "datalad.dataset.id"))


def later_commit(sub: Work) -> None:
    """Move the subdataset's branch on, in the store too, past the registered commit."""
    sub.write("later.txt", b"after registration\n")
    datalad_save(sub, "later")
    push_all(sub)


def push_all(work: Work) -> None:
    """Push the content and history of this dataset alone."""
    work.run("datalad", "push", "--to", "ria")


def bad_submodules(work: Work, sub: Work) -> None:
    """A submodule without dataset id, an absent commit, an absent dataset, and one that .gitmodules does not know."""
    declare(work, "plain", url="../plain")
    declare(work, "absent-commit", url="./absent-commit", id=sub.id)
    declare(work, "absent-dataset", url="./absent-dataset", id="ffffffff-0000-4000-8000-000000000000")
    work.git("add", ".gitmodules")
    for path in ("plain", "absent-commit", "absent-dataset", "undeclared"):
        work.git("update-index", "--add", "--cacheinfo", f"160000,{NOWHERE},{path}")
    work.commit("bad submodules")


def declare(work: Work, path: str, **properties: str) -> None:
    """Write a section of .gitmodules."""
    names = {"url": "url", "id": "datalad-id"}
    for key, value in {"path": path, **{names[name]: value for name, value in properties.items()}}.items():
        work.git("config", "-f", ".gitmodules", f"submodule.{path}.{key}", value)


def super_record(work: Work) -> Built:
    """The superdataset's rows: submodules that lead nowhere are expected to be missing."""
    built = record(work, Recipe(note="subdataset at inputs/sub at an older commit, four bad submodules"))
    rows = tuple(
        replace(row, expect=Expect.MISSING, stored=()) if row.type is Type.SUBMODULE and row.gitlink == NOWHERE else row
        for row in built.rows
    )
    return replace(built, rows=rows)


def nested_record(work: Work) -> Built:
    """Rows of the innermost dataset."""
    return record(work, Recipe(alias=False, note="inputs/sub/nested of super"))
