"""Objects that are gone, or not what their keys say."""

import shutil

from tests.stores.manifest import Expect
from tests.stores.recipes.archives import replace_object, spoil, truncate
from tests.stores.recipes.keys import DEAD_URL, add_url, with_content, worm
from tests.stores.recipes.samples import noise
from tests.stores.record import Built, Fate, Recipe, changed, digest, record
from tests.stores.work import Work, plain_dataset, publish

WORM_NAME = "worm/dir%name,with.txt"


def missing(work: Work) -> list[Built]:
    """Objects deleted: alone, with their directory, with both hash directories."""
    plain_dataset(work)
    names = ("object.dat", "directory.dat", "all.dat")
    for name in (*names, "kept.dat"):
        work.write(name, noise(name, 2_000))
    publish(work)
    work.loose("object.dat").unlink()
    shutil.rmtree(work.loose("directory.dat").parent)
    shutil.rmtree(work.loose("all.dat").parents[2])
    fates = dict.fromkeys(names, Fate(Expect.MISSING, ()))
    return [record(work, Recipe(fates=fates, note="objects deleted behind git-annex's back"))]


def corrupt(work: Work) -> list[Built]:
    """Objects changed in every way, small and larger than what is verified at once."""
    plain_dataset(work)
    names = ("flipped.dat", "short.dat", "long.dat", "empty.dat", "late.dat", "zeroed-to-size.dat")
    for name in (*names, "good.dat"):
        work.write(name, noise(name, 5_000))
    work.write("large.dat", noise("large", 17 << 20))
    worm(work)
    work.commit("worm keys")
    with_content(work, add_url(work, "url.txt", f"{DEAD_URL}/c"), b"content of a URL key")
    publish(work)
    damage(work)
    fates = dict.fromkeys((*names, "large.dat"), Fate(Expect.CORRUPT))
    fates |= dict.fromkeys((WORM_NAME, "url.txt"), Fate(Expect.CORRUPT_UNDETECTABLE))
    fates["worm/a&b:c.txt"] = Fate(Expect.ORA_CANNOT)
    built = record(work, Recipe(fates=fates, clonable=False, note="objects changed behind git-annex's back"))
    return [changed(built, [(name.encode(), in_store(work, name)) for name in (WORM_NAME, "url.txt")])]


def damage(work: Work) -> None:
    """Change the objects."""
    for name in ("flipped.dat", "large.dat", WORM_NAME, "url.txt"):
        spoil(work.loose(name))
    truncate(work.loose("short.dat"))
    replace_object(work.loose("long.dat"), noise("long.dat", 5_000) + b"x")
    replace_object(work.loose("empty.dat"), b"")
    replace_object(work.loose("late.dat"), noise("late.dat", 5_000)[:-1] + b"?")
    replace_object(work.loose("zeroed-to-size.dat"), bytes(5_000))


def in_store(work: Work, name: str) -> dict[str, object]:
    """Size and digest that a file has in the store now."""
    size, sha256 = digest(work.loose(name).read_bytes())
    return {"size": size, "sha256": sha256}
