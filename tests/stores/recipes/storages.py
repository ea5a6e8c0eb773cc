"""Storage that keeps keys in chunks or encrypted, several storage remotes in one directory."""

from tests.stores.manifest import Expect
from tests.stores.recipes.samples import noise, text
from tests.stores.record import Built, Fate, Recipe, record
from tests.stores.work import Work, plain_dataset, push, storage, upload

SIZES = {"empty.dat": 0, "small.dat": 100, "one-chunk.dat": 64 << 10, "even.dat": 128 << 10, "odd.dat": 200_001}

FORMS = {
    "chunked": (("encryption=none", "chunk=64KiB"), Fate(Expect.CHUNKED, ("chunks",))),
    "encrypted": (("encryption=shared", "mac=HMACSHA256"), Fate(Expect.ENCRYPTED, ("encrypted",))),
    "both": (
        ("encryption=shared", "mac=HMACSHA256", "chunk=64KiB"),
        Fate(Expect.ENCRYPTED_CHUNKED, ("encrypted", "chunks")),
    ),
    "sha1mac": (("encryption=shared",), Fate(Expect.ENCRYPTED, ("encrypted",))),
}
"""Directory of the files → parameters of their storage remote, and what comes of them."""


def chunk_crypt(work: Work) -> list[Built]:
    """Five storage remotes in one place, each with files of its own."""
    plain_dataset(work)
    work.write("plain/file.txt", text("plain", 5_000))
    for form in FORMS:
        for name, size in SIZES.items():
            work.write(f"{form}/{name}", noise(f"{form}{name}", size))
    work.save()
    upload(work, "plain")
    for form, (parameters, _) in FORMS.items():
        storage(work, f"storage-{form}", *parameters)
        upload(work, form, to=f"storage-{form}")
    push(work)
    fates = {f"{form}/{name}": fate for form, (_, fate) in FORMS.items() for name in SIZES}
    same_for_all_empty(fates)
    return [record(work, Recipe(fates=fates, note="chunk=64KiB and encryption=shared, alone and together"))]


def same_for_all_empty(fates: dict[str, Fate]) -> None:
    """Empty files share one key: wherever it is found, it is right."""
    for form in FORMS:
        fates[f"{form}/empty.dat"] = Fate(Expect.CHUNKED, ("chunks", "encrypted"))


def secret_key(work: Work) -> list[Built]:
    """Storage encrypted to an OpenPGP key that a reader does not have."""
    plain_dataset(work)
    key = f"{work.name}@riafs.invalid"
    work.run(
        "gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "",
        "--quick-generate-key", key, "default", "default", "never",
    )  # fmt: skip
    for form in ("hybrid", "pubkey"):
        work.write(f"{form}.dat", noise(form, 3_000))
    work.save()
    for form in ("hybrid", "pubkey"):
        storage(work, f"storage-{form}", f"encryption={form}", f"keyid={key}")
        upload(work, f"{form}.dat", to=f"storage-{form}")
    push(work)
    fate = Fate(Expect.PASSWORD, ("encrypted",))
    return [record(work, Recipe(fate=fate, clonable=False, note="encrypted to an OpenPGP key"))]
