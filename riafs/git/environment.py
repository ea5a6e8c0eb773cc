"""The environment in which git reads objects that other people wrote.

git does not get the store's repository, only its object directory: GIT_DIR is an empty private repository, so that no
configuration, hook, filter or ref of the store is read. (With ``extensions.partialClone`` and ``core.sshCommand`` in
its configuration, ``git --git-dir=STORE cat-file`` ran that command when an object was missing; seen with git 2.39.5.)
Lazy fetching and all transports are switched off as well; each of these measures is enough by itself.

The only file of an object directory that leads git elsewhere is ``info/alternates``. If a store's alternates lead out
of the store, git gets a directory of links to the store's loose objects and packs instead, without that file.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence

import trio

from riafs.children import ATTEMPTS, ended_by_others, killed, remove_lock
from riafs.errors import GitError
from riafs.storage.temporary import private_opener, temporary_directory

# fan-out directories of loose objects
_INDEX_OF_PACKS = b"multi-pack-index"
_FAN_OUT = tuple(b"%02x" % number for number in range(256))


class PrivateGitDirs:
    """The empty private repositories of one mount, in the directory `scratch`."""

    def __init__(self, program: str, search_path: str, scratch: bytes) -> None:
        self.program = program
        self._search_path = search_path
        self.scratch = scratch
        self._made: dict[bytes, bytes] = {}
        self._directories: list[bytes] = []

    def close(self) -> None:
        """Remove the repositories."""
        for path in self._directories:
            shutil.rmtree(path, ignore_errors=True)

    def _git_dir(self, object_format: bytes) -> bytes:
        if object_format not in self._made:

            def fill(path: bytes) -> None:
                for part in (b"/objects", b"/refs"):
                    os.mkdir(path + part, 0o700)
                _write(path + b"/HEAD", b"ref: refs/heads/none\n")
                _write(path + b"/config", _CONFIG[object_format])

            self._made[object_format] = self._directory(fill)
        return self._made[object_format]

    def _directory(self, fill: Callable[[bytes], None]) -> bytes:
        path, _ = temporary_directory(self.scratch, b"git-", fill)
        self._directories.append(path)
        return path

    def environment(self, objects: bytes, object_format: bytes) -> Mapping[str, str]:
        """All environment variables for a git that reads the object directory `objects` (``sha1`` or ``sha256``)."""
        return {
            "GIT_DIR": os.fsdecode(self._git_dir(object_format)),
            "GIT_OBJECT_DIRECTORY": os.fsdecode(objects),
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_ALLOW_PROTOCOL": "none",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
            "HOME": "/nonexistent",
            "PATH": self._search_path,
        }

    def linked_objects(
        self, objects: bytes, parts: Mapping[bytes, Sequence[bytes]], alternates: Sequence[bytes]
    ) -> bytes:
        """A new object directory with links to the directories of `objects`, and with the given `alternates`. Each
        directory in `parts` has links to the given names only.
        """

        def fill(path: bytes) -> None:
            os.mkdir(path + b"/info", 0o700)
            for part in (*_FAN_OUT, b"pack"):
                if part not in parts:
                    os.symlink(objects + b"/" + part, path + b"/" + part)
                elif parts[part]:
                    os.mkdir(path + b"/" + part, 0o700)
                    for name in parts[part]:
                        if not name.startswith(_INDEX_OF_PACKS):  # it may list packs that are left out
                            os.symlink(b"/".join((objects, part, name)), b"/".join((path, part, name)))
            if alternates:
                _write(path + b"/info/alternates", b"".join(line + b"\n" for line in alternates))

        return self._directory(fill)


_CORE = b"\tbare = true\n\tcommitGraph = false\n"
_CONFIG = {
    b"sha1": b"[core]\n\trepositoryformatversion = 0\n" + _CORE,
    b"sha256": b"[core]\n\trepositoryformatversion = 1\n" + _CORE + b"[extensions]\n\tobjectformat = sha256\n",
}


def _write(path: bytes, text: bytes) -> None:
    with open(path, "wb", opener=private_opener) as file:
        file.write(text)


async def run_git(
    command: Sequence[str], environment: Mapping[str, str], given: bytes, lock: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run git to its end, with `given` on standard input. If another process kills it, it is started again, after its
    lock file `lock` was removed.

    Raises GitError if it cannot be started, ProgramKilled.
    """
    for _ in range(ATTEMPTS):
        try:
            done = await trio.run_process(
                list(command), stdin=given, capture_stdout=True, capture_stderr=True, check=False, env=dict(environment)
            )
        except OSError as error:
            raise GitError(f"git cannot be started: {error.strerror}") from error
        if not ended_by_others(done.returncode):
            return done
        remove_lock(lock)
    raise killed(f"git {next(word for word in command[1:] if not word.startswith('-'))}", done.returncode)
