"""What the ``.gitattributes`` of a tree say about paths, by git itself.

git reads them from an index that holds nothing else, in a private repository; neither the user's nor the store's own
attributes count, so that a push does the same for everybody.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from riafs.errors import GitError, StoreTimeout
from riafs.git.environment import PrivateGitDirs, run_git
from riafs.storage.temporary import temporary_directory

NAME = b".gitattributes"
_SECONDS = 60.0
_AT_ONCE = 5000
"""Paths that git is asked about in one go, so that nobody waits for what it says to be taken apart."""
_UNSPECIFIED = b"unspecified"

Values = Mapping[bytes, bytes]
"""Attribute → value, of those that are specified; ``set`` and ``unset`` stand for those without a value."""


@dataclass(frozen=True, slots=True)
class AttributeFiles:
    """The ``.gitattributes`` of a tree: path → content."""

    files: Mapping[bytes, bytes]

    async def of(self, paths: Sequence[bytes], names: Sequence[str], gits: PrivateGitDirs) -> list[Values]:
        """The values of the attributes `names` for each path. Raises GitError, StoreTimeout, ProgramKilled."""
        if not self.files or not paths:
            return [{} for _ in paths]
        directory, _ = temporary_directory(
            gits.scratch, b"attributes-", lambda path: os.mkdir(path + b"/objects", 0o700)
        )
        try:
            return await self._ask(directory, paths, names, gits)
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    async def _ask(
        self, directory: bytes, paths: Sequence[bytes], names: Sequence[str], gits: PrivateGitDirs
    ) -> list[Values]:
        environment = dict(gits.environment(directory + b"/objects", b"sha1"))
        environment["GIT_INDEX_FILE"] = os.fsdecode(directory + b"/index")
        entries = []
        for path, content in self.files.items():
            oid = await _run([gits.program, "hash-object", "-w", "--no-filters", "--stdin"], content, environment)
            entries.append(b"100644 %b\t%b\0" % (oid.strip(), path))
        lock = directory + b"/index.lock"
        await _run([gits.program, "update-index", "-z", "--index-info"], b"".join(entries), environment, lock)
        command = [gits.program, "check-attr", "--cached", "-z", "--stdin", *names]
        found: list[Values] = []
        for start in range(0, len(paths), _AT_ONCE):
            part = paths[start : start + _AT_ONCE]
            said = await _run(command, b"".join(path + b"\0" for path in part), environment)
            found += await trio.to_thread.run_sync(_values, said, len(part), len(names))
        return found


async def _run(command: list[str], given: bytes, environment: Mapping[str, str], lock: bytes | None = None) -> bytes:
    with trio.move_on_after(_SECONDS):
        done = await run_git(command, environment, given, lock)
        if done.returncode:
            raise GitError(f"git cannot read attributes: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout
    raise StoreTimeout(f"git did not read attributes within {_SECONDS:g} s")


def _values(said: bytes, paths: int, names: int) -> list[Values]:
    """From path, attribute and value, each ended by a NUL, all attributes of one path after the other."""
    fields = said.split(b"\0")[:-1]
    if len(fields) != 3 * paths * names:
        raise GitError(f"git told {len(fields) // 3} attributes of {paths} paths instead of {paths * names}")
    found: list[Values] = []
    for start in range(0, len(fields), 3 * names):
        triples = [fields[start + at : start + at + 3] for at in range(0, 3 * names, 3)]
        found.append({name: value for _, name, value in triples if value != _UNSPECIFIED})
    return found
