"""What libraries for data do with a directory: ``python -m tests.programs.libraries NAME LOCAL SHOWN``.

Each writes and reads a local directory as who starts it, then the one that is shown as ``nobody``, and has to read
the same. In this order everything is imported before the rights are given up: the interpreter may lie where ``nobody``
cannot look. With ``--read-only`` what is shown was written before.
"""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from tests.faults.sabotage import another_user


def write_h5py(top: str) -> None:
    """Chunked and compressed data, changed in a second session."""
    h5py, numpy = _module("h5py"), _module("numpy")
    with h5py.File(f"{top}/a.h5", "w") as file:
        file.create_dataset("x", data=numpy.arange(50_000).reshape(500, 100), chunks=(50, 50), compression="gzip")
    with h5py.File(f"{top}/a.h5", "r+") as file:
        file["x"][10:20] = 7
        file.create_group("g").attrs["name"] = "value"


def read_h5py(top: str) -> object:
    """Sums of parts."""
    with _module("h5py").File(f"{top}/a.h5", "r") as file:
        return int(file["x"][:].sum()), int(file["x"][5:15, 3].sum()), file["g"].attrs["name"]


def write_zarr(top: str) -> None:
    """A chunk a file."""
    array = _module("zarr").open(f"{top}/a.zarr", mode="w", shape=(200, 200), chunks=(50, 50), dtype="i4")
    array[:] = 3
    array[7, 9] = 11


def read_zarr(top: str) -> object:
    """Sums of parts."""
    array = _module("zarr").open(f"{top}/a.zarr", mode="r")
    return int(array[:].sum()), int(array[7, :20].sum())


def write_nibabel(top: str) -> None:
    """An image, compressed and not."""
    nibabel, numpy = _module("nibabel"), _module("numpy")
    image = nibabel.Nifti1Image(numpy.arange(20 * 20 * 20, dtype="f4").reshape(20, 20, 20), numpy.eye(4))
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(image, f"{top}/{name}")


def read_nibabel(top: str) -> object:
    """By a mapping, where it is not compressed."""
    nibabel = _module("nibabel")
    return [float(nibabel.load(f"{top}/{name}").dataobj[3, :, 4].sum()) for name in ("a.nii", "a.nii.gz")]


def write_duckdb(top: str) -> None:
    """A database that is changed in a second session."""
    duckdb = _module("duckdb")
    with duckdb.connect(f"{top}/a.duckdb") as database:
        database.execute("CREATE TABLE t AS SELECT range AS i, range % 7 AS j FROM range(20000)")
    with duckdb.connect(f"{top}/a.duckdb") as database:
        database.execute("DELETE FROM t WHERE i < 100")


def read_duckdb(top: str) -> object:
    """Sums by group."""
    with _module("duckdb").connect(f"{top}/a.duckdb", read_only=True) as database:
        return database.execute("SELECT j, sum(i)::BIGINT FROM t GROUP BY j ORDER BY j").fetchall()


WAYS: Mapping[str, tuple[Callable[[str], None], Callable[[str], object]]] = {
    "h5py": (write_h5py, read_h5py),
    "zarr": (write_zarr, read_zarr),
    "nibabel": (write_nibabel, read_nibabel),
    "duckdb": (write_duckdb, read_duckdb),
}


def _module(name: str) -> Any:
    return __import__(name)


def main(name: str, local: str, shown: str, *words: str) -> None:
    """Fails where something else is read."""
    write, read = WAYS[name]
    write(local)
    expected = read(local)
    if os.getuid() == 0:
        another_user()
    if not words:
        write(shown)
    found = read(shown)
    assert found == expected, f"{found} and not {expected}"


if __name__ == "__main__":
    main(*sys.argv[1:])
