"""Configuration and attributes of a repository, read by git itself.

A store's configuration is parsed by ``git config --file -`` from bytes that riafs reads, without includes, and only
ever as data: no git runs with it as its configuration. What the ``.gitattributes`` of a tree say about paths, git reads
from an index that holds nothing else, in a private repository; neither the user's nor the store's own attributes count,
so that a push does the same for every user.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from riafs.children import first_line
from riafs.errors import GitError, StoreTimeout
from riafs.formats.gitrepository import parse_config_list
from riafs.git.environment import PrivateGitDirs, run_git
from riafs.storage.temporary import temporary_directory

MAX_CONFIG = 8 << 20
"""Bytes of a ``config`` or ``.gitmodules`` that are looked at; 10,000 subdatasets need about 3 MB."""
_CONFIG_SECONDS = 5.0


async def parse_config(gits: PrivateGitDirs, text: bytes) -> tuple[tuple[bytes, bytes | None], ...]:
    """(key in lower case but for the subsection, value) for each line of `text`. Raises GitError for malformed text,
    ProgramKilled."""
    with trio.move_on_after(_CONFIG_SECONDS):
        command = [gits.program, "config", "--file", "-", "--no-includes", "-z", "--list"]
        done = await run_git(command, gits.environment(b"/nonexistent", b"sha1"), text)
        if done.returncode:
            raise GitError(f"git cannot parse the configuration: {first_line(done.stderr)}")
        return parse_config_list(done.stdout)
    raise GitError(f"git config took longer than {_CONFIG_SECONDS:g} s")


async def change_config(gits: PrivateGitDirs, text: bytes, commands: Sequence[Sequence[bytes]]) -> bytes:
    """A configuration after ``git config`` with each of `commands`, which leaves the rest as it is.

    Raises GitError, ProgramKilled.
    """
    with tempfile.NamedTemporaryFile(dir=gits.scratch) as file:
        file.write(text)
        file.flush()
        path = os.fsdecode(file.name)
        for command in commands:
            words = [gits.program, "config", "--file", path, *map(os.fsdecode, command)]
            environment = gits.environment(b"/nonexistent", b"sha1")
            done = await run_git(words, environment, b"", lock=os.fsencode(path) + b".lock")
            if done.returncode:
                raise GitError(f"git cannot change the configuration: {first_line(done.stderr)}")
        return Path(path).read_bytes()


# -- attributes -------------------------------------------------------------------------------------------------------

ATTRIBUTES_FILE = b".gitattributes"
_ATTRIBUTES_SECONDS = 60.0
_PATHS_AT_ONCE = 5000
"""Paths that git is asked about in one run: its answer is parsed in a thread in the meantime."""
_UNSPECIFIED = b"unspecified"

AttributeValues = Mapping[bytes, bytes]
"""Attribute → value, of those that are specified; ``set`` and ``unset`` stand for those without a value."""


@dataclass(frozen=True, slots=True)
class AttributeFiles:
    """The ``.gitattributes`` of a tree: path → content."""

    files: Mapping[bytes, bytes]

    async def of(self, paths: Sequence[bytes], names: Sequence[str], gits: PrivateGitDirs) -> list[AttributeValues]:
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
    ) -> list[AttributeValues]:
        environment = dict(gits.environment(directory + b"/objects", b"sha1"))
        environment["GIT_INDEX_FILE"] = os.fsdecode(directory + b"/index")
        entries = []
        for path, content in self.files.items():
            oid = await _run([gits.program, "hash-object", "-w", "--no-filters", "--stdin"], content, environment)
            entries.append(b"100644 %b\t%b\0" % (oid.strip(), path))
        lock = directory + b"/index.lock"
        await _run([gits.program, "update-index", "-z", "--index-info"], b"".join(entries), environment, lock)
        command = [gits.program, "check-attr", "--cached", "-z", "--stdin", *names]
        found: list[AttributeValues] = []
        for start in range(0, len(paths), _PATHS_AT_ONCE):
            part = paths[start : start + _PATHS_AT_ONCE]
            answer = await _run(command, b"".join(path + b"\0" for path in part), environment)
            found += await trio.to_thread.run_sync(_attribute_values, answer, len(part), len(names))
        return found


async def _run(command: list[str], given: bytes, environment: Mapping[str, str], lock: bytes | None = None) -> bytes:
    with trio.move_on_after(_ATTRIBUTES_SECONDS):
        done = await run_git(command, environment, given, lock)
        if done.returncode:
            raise GitError(f"git cannot read attributes: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout
    raise StoreTimeout(f"git did not read attributes within {_ATTRIBUTES_SECONDS:g} s")


def _attribute_values(answer: bytes, paths: int, names: int) -> list[AttributeValues]:
    """From path, attribute and value, each ended by a NUL, all attributes of one path after the other."""
    fields = answer.split(b"\0")[:-1]
    if len(fields) != 3 * paths * names:
        raise GitError(f"git told {len(fields) // 3} attributes of {paths} paths instead of {paths * names}")
    found: list[AttributeValues] = []
    for start in range(0, len(fields), 3 * names):
        triples = [fields[start + at : start + at + 3] for at in range(0, 3 * names, 3)]
        found.append({name: value for _, name, value in triples if value != _UNSPECIFIED})
    return found
