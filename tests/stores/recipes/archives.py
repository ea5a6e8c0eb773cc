"""Keys in 7z archives, made in every way that sites make them."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.stores.manifest import Expect
from tests.stores.recipes.basic import datalad_dataset, datalad_push, datalad_save, datalad_sibling
from tests.stores.recipes.samples import noise, text, various
from tests.stores.record import Built, Fate, Recipe, record
from tests.stores.work import Work, plain_dataset, publish

PASSWORD = "riafs-secret"
IN_ARCHIVE = Fate(stored=("archive",))

METHODS = {
    "mx9-solid": ("-mx9", "-m0=LZMA2", "-ms=on"),
    "lzma": ("-m0=LZMA",),
    "not-solid": ("-ms=off",),
    "blocks-of-2": ("-ms=2f",),
    "ppmd": ("-m0=PPMd",),
    "bzip2": ("-m0=BZip2",),
    "deflate": ("-m0=Deflate",),
    "deflate64": ("-m0=Deflate64",),
    "bcj": ("-m0=BCJ", "-m1=LZMA2"),
    "bcj2": ("-m0=BCJ2", "-m1=LZMA", "-m2=LZMA", "-m3=LZMA", "-mb0:1", "-mb0s1:2", "-mb0s2:3"),
    "delta": ("-m0=Delta:4", "-m1=LZMA2"),
    "arm64": ("-m0=ARM64", "-m1=LZMA2"),
    "plain-header": ("-mx0", "-mhc=off"),
    "copy-solid": ("-mx0", "-ms=on"),
}
"""Dataset name after ``arc-`` → options of ``7z u``."""


def known_methods(filters: str) -> dict[str, tuple[str, ...]]:
    """METHODS that this 7z has; `filters` is what ``7z i`` prints (ARM64 came with 7-Zip 23)."""
    return {name: options for name, options in METHODS.items() if name != "arm64" or " ARM64" in filters}


def method(options: tuple[str, ...]) -> Callable[[Work], list[Built]]:
    """The recipe of an archive made with these options."""

    def recipe(work: Work) -> list[Built]:
        filled(work)
        pack(work, *options)
        clear(work)
        return [record(work, Recipe(fate=IN_ARCHIVE, note="7z u " + " ".join(options)))]

    return recipe


def encrypted(header: str) -> Callable[[Work], list[Built]]:
    """The recipe of an archive with a password; `header` tells whether its names are hidden too."""

    def recipe(work: Work) -> list[Built]:
        filled(work)
        pack(work, f"-p{PASSWORD}", f"-mhe={header}")
        clear(work)
        note = f"password {PASSWORD}, -mhe={header}; the empty file has no stream and needs none with -mhe=off"
        return [record(work, Recipe(fate=Fate(Expect.PASSWORD, ("archive",)), clonable=False, note=note))]

    return recipe


def filled(work: Work) -> None:
    """A dataset with loose objects."""
    plain_dataset(work)
    various(work)
    publish(work)


def pack(work: Work, *options: str, target: str = "archives/archive.7z", what: str = ".") -> None:
    """Put loose objects into an archive of the dataset, as the stores' maintenance scripts do."""
    archive = work.bare / target
    archive.parent.mkdir(parents=True, exist_ok=True)
    work.tools.run(work.objects, "7z", "u", "-y", "-bd", archive, *options, what)


def clear(work: Work) -> None:
    """Delete all loose objects."""
    for directory in work.objects.iterdir():
        shutil.rmtree(directory)


def exported(work: Work) -> list[Built]:
    """DataLad's ``export-archive-ora``."""
    work = datalad_dataset(work)
    various(work)
    datalad_save(work, "files")
    datalad_sibling(work, "--alias", work.name)
    datalad_push(work)
    work.run("datalad", "export-archive-ora", work.bare / "archives" / "archive.7z")
    clear(work)
    return [record(work, Recipe(fate=IN_ARCHIVE, note="export-archive-ora"))]


def old_place(work: Work) -> list[Built]:
    """The archive at ``annex/archives``, where early documentation draws it."""
    filled(work)
    pack(work, "-mx0", target="annex/archives/archive.7z")
    clear(work)
    return [record(work, Recipe(fate=Fate(Expect.ORA_CANNOT, ("archive",)), note="annex/archives/archive.7z"))]


def oldest_place(work: Work) -> list[Built]:
    """The archive beside the repository, as stores before the objects' own directory had it."""
    filled(work)
    pack(work, target="archive.7z")
    clear(work)
    return [record(work, Recipe(fate=Fate(Expect.ORA_CANNOT, ("archive",)), note="archive.7z"))]


def many(work: Work) -> list[Built]:
    """Many small keys in one solid archive."""
    plain_dataset(work)
    for number in range(600):
        work.write(f"d{number % 20}/f{number}.txt", b"file %d\n" % number * (number % 40))
    publish(work)
    pack(work, "-mx5", "-ms=on")
    clear(work)
    return [record(work, Recipe(fate=IN_ARCHIVE, note="600 keys, solid"))]


def mixed(work: Work) -> list[Built]:
    """An archive of three generations, keys in both places, a damaged loose copy beside a good archived one."""
    plain_dataset(work)
    various(work)
    work.write("both.dat", noise("both", 9_000))
    work.write("damaged.dat", noise("damaged", 9_000))
    work.write("shorter.dat", noise("shorter", 9_000))
    work.write("second.txt", text("second", 50_000))
    work.write("third.txt", text("third", 50_000))
    work.write("loose.txt", b"only loose\n")
    publish(work)
    generations(work)
    spoil(work.loose("damaged.dat"))
    truncate(work.loose("shorter.dat"))
    return [record(work, Recipe(fate=IN_ARCHIVE, fates=mixed_fates(), note="three generations, both places"))]


def mixed_fates() -> dict[str, Fate]:
    """Where the files of `mixed` are in the end."""
    good = Fate(Expect.ARCHIVE_GOOD, ("loose", "archive"))
    return {
        "both.dat": Fate(stored=("loose", "archive")),
        "damaged.dat": good,
        "shorter.dat": good,
        "loose.txt": Fate(),
    }


def generations(work: Work) -> None:
    """Archive the objects in three runs with different methods, and keep a few of them loose."""
    keep = {name: key_path(work, name) for name in ("both.dat", "damaged.dat", "shorter.dat", "loose.txt")}
    later = {name: key_path(work, name) for name in ("second.txt", "third.txt")}
    first = [path for path in all_keys(work) if path not in {*later.values(), keep["loose.txt"]}]
    runs = {("-mx0",): first, ("-mx9", "-ms=on"): [later["second.txt"]], ("-m0=PPMd",): [later["third.txt"]]}
    for options, paths in runs.items():
        for path in paths:
            pack(work, *options, what=path)
    for path in {*first, *later.values()} - set(keep.values()):
        (work.objects / path).unlink()


def key_path(work: Work, name: str) -> str:
    """A key's path below the objects."""
    return str(work.loose(name).relative_to(work.objects))


def all_keys(work: Work) -> list[str]:
    """All loose objects, as paths below the objects' directory."""
    return [str(path.relative_to(work.objects)) for path in sorted(work.objects.glob("*/*/*/*"))]


def spoil(path: Path) -> None:
    """Change one byte of a read-only object."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    replace_object(path, bytes(content))


def truncate(path: Path) -> None:
    """Cut the last byte off a read-only object."""
    replace_object(path, path.read_bytes()[:-1])


def replace_object(path: Path, content: bytes) -> None:
    """Give an object other bytes."""
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def layout1(work: Work) -> list[Built]:
    """Layout 1: lower-case hash directories, loose and archived, and archived ones in mixed directories."""
    plain_dataset(work, layout="1\n")
    for number in range(12):
        work.write(f"file{number:02}.txt", b"layout one, %d\n" % number)
    publish(work)
    lower = [key_path(work, f"file{number:02}.txt") for number in range(6)]
    for path in lower:
        pack(work, "-mx0", what=path)
        (work.objects / path).unlink()
    fates = {f"file{number:02}.txt": IN_ARCHIVE for number in range(6)}
    fates |= dict.fromkeys(archive_in_mixed_directories(work), Fate(Expect.ORA_CANNOT, ("archive",)))
    return [record(work, Recipe(fates=fates, note="layout 1; six keys archived as lower, three as mixed"))]


def archive_in_mixed_directories(work: Work) -> list[str]:
    """Archive three keys of a layout 1 dataset under the directories of layout 2."""
    names = [f"file{number:02}.txt" for number in range(6, 9)]
    tree = work.bare / "annex" / "othertmp"
    for name in names:
        loose = work.loose(name)
        link = work.word("show", f"HEAD:{name}")
        target = tree / Path(*Path(link).parts[-4:])
        target.parent.mkdir(parents=True)
        loose.rename(target)
    work.tools.run(tree, "7z", "u", "-y", "-bd", work.bare / "archives" / "archive.7z", "-mx0", ".")
    shutil.rmtree(tree)
    return names
