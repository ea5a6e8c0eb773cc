"""Rows of coders: right in pieces of any size, also where the library of one is particular about what it is fed."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from riafs.archive import methods
from riafs.archive.decompressors import Decompressor
from riafs.archive.methods import RestartingDecompressor, decompressor_of
from riafs.errors import DecodeFailed
from riafs.formats.sevenzip.cursor import Limits
from riafs.formats.sevenzip.folder import Folder
from riafs.formats.sevenzip.header import parse_header, parse_signature

ROWS = {
    "PPMd": ("-m0=PPMd:mem=64k",),
    "PPMd, Deflate": ("-m0=PPMd:mem=64k", "-m1=Deflate"),
    "BCJ, PPMd, LZMA": ("-m0=BCJ", "-m1=PPMd:mem=64k", "-m2=LZMA"),
    "RISC-V, BZip2": ("-m0=RISCV", "-m1=BZip2"),
    "ARM64, Deflate64": ("-m0=ARM64", "-m1=Deflate64"),
}


def packed(content: bytes, switches: tuple[str, ...], directory: Path) -> tuple[Folder, bytes]:
    """The folder that 7-Zip makes of a content, and its packed bytes."""
    (directory / "content").write_bytes(content)
    (directory / "a.7z").unlink(missing_ok=True)
    command = ["7z", "a", "-bd", "-mhc=off", *switches, "a.7z", "content"]
    subprocess.run(command, cwd=directory, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    data = (directory / "a.7z").read_bytes()
    folder = parse_header(data[parse_signature(data[:32]).offset :], Limits()).folder(0)
    return folder, data[folder.pack_offset :][: folder.pack_size]


def decoded(folder: Folder, data: bytes, fed: int, steps: list[Decompressor]) -> bytes:
    """All bytes of a folder; `steps` keeps what decoded them."""

    def make() -> Decompressor:
        steps.append(decompressor_of(folder))
        return steps[-1]

    chain, made = RestartingDecompressor(make, folder.size, "folder"), b""
    while len(made) < folder.size:
        made += chain.decode(data[chain.position :][:fed] if chain.needs_input else b"", 1000)
    return made


def check(row: str, directory: str) -> None:
    """Whole and cut contents. Ends the process as the child does: pyppmd does not survive a decoder given up."""
    steps: list[Decompressor] = []
    for size in (1, 2, 5, 100, 3000):
        content = random.Random(size).randbytes(size)
        folder, data = packed(content, ROWS[row], Path(directory))
        for methods._PIECE, fed in ((8192, 1 << 20), (7, 1 << 20), (1, 1 << 20), (8192, 3)):
            assert decoded(folder, data, fed, steps) == content
    try:
        decoded(folder, data[:-1500], 1 << 20, steps)
    except DecodeFailed:
        os._exit(0)


@pytest.mark.parametrize("row", ROWS)
def test_contents_of_any_size_are_decoded_in_pieces_of_any_size_and_cut_ones_are_failures(
    row: str, tmp_path: Path
) -> None:
    program = "import os, sys; from tests.archive.test_decompressors import check; check(*sys.argv[1:]); os._exit(1)"
    subprocess.run([sys.executable, "-c", program, row, tmp_path], check=True)
