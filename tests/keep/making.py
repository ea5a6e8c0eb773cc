"""Collections for tests: files into blocks and manifests, as simply as can be."""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.keep.standin.keepstore import Volume

Put = Callable[[bytes], str]
"""Stores a block; its locator."""
EMPTY_BLOCK = "d41d8cd98f00b204e9800998ecf8427e+0"


def escaped(name: bytes) -> str:
    """A name as a manifest has it, whatever its bytes."""
    return re.sub(rb"[\x00-\x20\\:\x7f-\xff]", lambda match: b"\\%03o" % match[0][0], name).decode()


def manifest_of(files: Mapping[bytes, bytes], put: Put) -> str:
    """A manifest with a block for each file."""
    folders: dict[bytes, dict[bytes, bytes]] = {}
    for path, content in sorted(files.items()):
        folder, _, name = (b"./" + path).rpartition(b"/")
        folders.setdefault(folder, {})[name] = content
    return "".join(_stream(folder, inside, put) for folder, inside in sorted(folders.items()))


def _stream(folder: bytes, files: Mapping[bytes, bytes], put: Put) -> str:
    blocks, tokens, position = [], [], 0
    for name, content in files.items():
        if content:
            blocks.append(put(content))
        tokens.append(f"{position if content else 0}:{len(content)}:{escaped(name)}")
        position += len(content)
    return " ".join([escaped(folder), *(blocks or [EMPTY_BLOCK]), *tokens]) + "\n"


class KeptStore:
    """Volumes and a directory of manifests below `path`."""

    def __init__(self, path: Path, volumes: int = 1) -> None:
        self.volumes = [Volume(path / f"volume{number}") for number in range(volumes)]
        self.manifests = path / "manifests"
        self.manifests.mkdir()

    @property
    def source(self) -> str:
        """How it is mounted."""
        return f"keep+file://{','.join(str(each.root) for each in self.volumes)}?manifests={self.manifests}"

    def put(self, content: bytes) -> str:
        """Store a block in every volume."""
        return {each.put(content) for each in self.volumes}.pop()

    def write(self, name: str, files: Mapping[bytes, bytes]) -> str:
        """A manifest file. Returns its text."""
        return self.write_text(name, manifest_of(files, self.put))

    def write_text(self, name: str, text: str) -> str:
        """A manifest file with whatever in it, as if it had been there for long."""
        path = self.manifests / name
        temporary = path.with_name(f".{name}.new")
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
        settle(temporary)
        temporary.rename(path)
        return text


_times = iter(range(1_700_000_000, 1_800_000_000))


def settle(path: Path) -> None:
    """Give a file a time of its own in the past."""
    moment = next(_times)
    os.utime(path, (moment, moment))
