"""Private copies of the git objects of a store on another machine: what is read, fetched by git when it is needed.

For each dataset there is an object directory of our own. git fetches into it from the store, with a repository of our
own beside it that has no refs, so that nothing in the store configures anything here. Refs are read from the store
itself (`references`), as they change; objects never change, and are kept from mount to mount.

Of a commit its trees come first, which is one small pack (``--filter=blob:none``). A store on a plain ssh server
refuses filters unless asked with the right configuration, which the client can give it in the command that it runs
there; a server that runs nothing but ``git-upload-pack`` sends whole commits instead. When the first files of a listing
are needed, all small ones (links, pointers) of the commit come together; others by their names.
"""

import hashlib
import logging
import os
import re
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import quote

import trio
from cachetools import TTLCache

from riafs.counters import Counters
from riafs.errors import GitError, NotInStore, RiafsError, StoreDenied, StoreTimeout, StoreUnreachable
from riafs.formats.sources import RiaUrl
from riafs.git.environment import run_git
from riafs.git.kept_repositories import KeptRepository
from riafs.git.object_source import RepositoryPlace
from riafs.storage.deadline import Deadline, leave_request
from riafs.storage.local import LocalStorage
from riafs.storage.protocol import Storage
from riafs.storage.ssh import SshHost, SshOptions, last_line
from riafs.storage.temporary import private_directory

log = logging.getLogger(__name__)

DIRECTORY = "git"
_SMALL = "1k"
_MAX_STDERR = 64 << 10
_FORGOTTEN = 30.0
"""Seconds after which an object that the store does not have is asked for again."""
_GATHERING = 0.005
"""Seconds in which tasks that need objects at the same time come together for one fetch."""
_AWAY_SECONDS = 5.0
_MOST_LACKING = 20
"""Objects of one batch that the store may lack before all of it is given up."""
_NOT_OURS = re.compile(r"not our ref ([0-9a-f]{40,64})")
_LOCKS = 512
"""Repositories that are kept from removal; of more, those that were opened last."""
_MANY = 65_536
_NAME = re.compile(rb"(?:contents|info) ([0-9a-f]{64}|[0-9a-f]{40})(?![0-9a-f])")
_UPLOAD_PACK = (
    "git -c 'safe.directory=*' -c uploadpack.allowFilter=true -c uploadpack.allowAnySHA1InWant=true upload-pack"
)
"""A shared store mostly belongs to another user, for whose repositories git wants safe.directory; upload-pack itself is
made to serve repositories of others (git(1), SECURITY)."""
_LENIENT = ("zeroPaddedFilemode", "missingSpaceBeforeDate", "badTimezone", "badDate", "missingEmail", "badEmail",
            "missingSpaceBeforeEmail", "missingNameBeforeEmail", "extraHeaderEntry")  # fmt: skip
"""Faults of old commits that git itself has made."""
_GENERAL = ("Please make sure", "and the repository", "fatal: Could not read from remote", "remote: ")
"""Lines that say that something went wrong, but not what."""
_CONFIG = """[core]
	repositoryformatversion = 1
	bare = true
	hooksPath = /dev/null
[extensions]
	partialClone = store
{format}[fetch]
	fsckObjects = true
	unpackLimit = 1
	writeCommitGraph = false
[fetch "fsck"]
{lenient}[gc]
	auto = 0
[maintenance]
	auto = false
[submodule]
	recurse = false
"""


@dataclass(frozen=True, slots=True)
class GitAccess:
    """How git is run. `environment`: that of the user, for ssh."""

    program: str
    search_path: str
    ssh: SshOptions
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class RemoteRepositories:
    """The repositories of the store `source`, with private copies in the directory `place`. Implements
    `RepositoryMirror`.
    """

    def __init__(self, source: RiaUrl, place: str, access: GitAccess, seconds: float, counters: Counters) -> None:
        self._source = source
        self._host = SshHost.of(source)
        self._place = place
        self._access = access
        self._seconds = seconds
        self._deadline = Deadline("the directory of git objects", seconds, counters, ours=True)
        self._storage: LocalStorage | None = None
        self._steps = _Steps()
        self._kept: deque[KeptRepository] = deque()

    async def repository(self, storage: Storage, path: bytes) -> RepositoryPlace:
        """As RepositoryMirror. Nothing is fetched yet."""
        if self._storage is None:
            os.makedirs(private_directory(self._place), exist_ok=True)
            self._storage = await LocalStorage.open_root(os.fsencode(self._place), self._deadline)
        url = self._url(path)
        name = hashlib.sha256(url.encode()).hexdigest()
        kept = KeptRepository(f"{self._place}/{name}")
        await self._deadline.run(kept.open)
        self._kept.append(kept)
        if len(self._kept) > _LOCKS:
            self._kept.popleft().close()
        fetcher = _Fetcher(kept, url, str(self._host), self._access, self._seconds, self._steps)
        return RepositoryPlace(self._storage, name.encode(), (storage, path), fetcher)

    def _url(self, path: bytes) -> str:
        return f"ssh://{self._source.host}{quote(self._source.path + b'/' + path)}"

    def close(self) -> None:
        """From now on, what was fetched may be removed."""
        for each in self._kept:
            each.close()
        if self._storage is not None:
            self._storage.close()


@dataclass(slots=True)
class _Steps:
    """What the server was found to refuse, for all datasets of a store."""

    filters: bool = True


class _Fetcher:
    """Fetches objects of the repository at `url` into ``objects`` of `kept`. Implements `MissingObjects`."""

    def __init__(
        self, kept: KeptRepository, url: str, host: str, access: GitAccess, seconds: float, steps: _Steps
    ) -> None:
        self._kept = kept
        self._place = kept.place
        self._url = url
        self._host = host
        self._access = access
        self._seconds = seconds
        self._steps = steps
        self._lock = trio.Lock()
        self._commits: list[bytes] = []
        """Those whose trees are here, but not their small files; the newest last."""
        self._asked: TTLCache[bytes, None] = TTLCache(_MANY, _FORGOTTEN, timer=trio.current_time)
        """Objects that were asked for by name: if they are not here now, the store does not have them."""
        self._away: StoreUnreachable | StoreTimeout | None = None
        """The last failure to reach the store; others do not wait for the same again at once."""
        self._away_until = 0.0
        self._lacking = b""
        """The object for which the server refused the last fetch."""
        self._pending: dict[bytes, bool] = {}
        """Objects that tasks wait for, and whether all commits before them are wanted, but no trees."""

    def _configure(self, oid: bytes) -> None:
        form = "\tobjectFormat = sha256\n" if len(oid) == 64 else ""
        text = _CONFIG.format(format=form, lenient="".join(f"\t{name} = warn\n" for name in _LENIENT))
        for name, content in (("HEAD", "ref: refs/heads/none\n"), ("config", text)):
            with open(f"{self._place}/fetch/{name}", "w") as file:
                file.write(content)

    async def fetch(self, requests: Sequence[bytes]) -> bool:
        """As MissingObjects."""
        names = [match[1] for each in requests if (match := _NAME.match(each))]
        wanted = [name for name in dict.fromkeys(names) if name not in self._asked]
        if not wanted:
            return False
        history = any(each.endswith(b"^{commit}") for each in requests)
        self._pending |= dict.fromkeys(wanted, history)
        async with self._lock:
            if all(name not in self._pending for name in wanted):
                return True  # another task has fetched them together with its own
            if self._away is not None and trio.current_time() < self._away_until:
                raise type(self._away)(*self._away.args)
            leave_request()
            await trio.sleep(_GATHERING)
            try:
                async with self._kept.fetching(self._seconds):
                    await self._fetch_pending()
            except (StoreUnreachable, StoreTimeout) as problem:
                self._away, self._away_until = problem, trio.current_time() + _AWAY_SECONDS
                raise
        return True

    async def _fetch_pending(self) -> None:
        """Fetch what all tasks wait for: small files of a commit, else objects by their names."""
        pending, self._pending = self._pending, {}
        self._configure(next(iter(pending)))
        objects = [oid for oid, history in pending.items() if not history]
        commits = [oid for oid, history in pending.items() if history]
        if len(objects) > 1 and self._commits and self._steps.filters:
            some, self._commits = self._commits, []
            try:
                await self._git(["--depth=1", f"--filter=blob:limit={_SMALL}"], some)
                objects = []
            except GitError as problem:  # the store lacks one of them: those that it has come by their names
                log.info("%s", problem)
        if objects and await self._by_name(["--depth=1", "--filter=blob:none"], objects) and len(objects) == 1:
            self._commits += await self._commit_of(objects[0])
        if commits:
            shallow = ["--unshallow"] if os.path.exists(f"{self._place}/fetch/shallow") else []
            await self._by_name([*shallow, "--filter=tree:0"], commits)

    async def _commit_of(self, oid: bytes) -> Sequence[bytes]:
        """The commit that an object which has just come is, or is a tag of; none for others."""
        done = await run_git(
            [self._access.program, "rev-parse", "--verify", "--quiet", oid.decode() + "^{commit}"],
            self._environment(),
            b"",
        )
        return [done.stdout.strip()] if done.returncode == 0 else []

    async def _by_name(self, options: Sequence[str], wanted: Sequence[bytes]) -> bool:
        came, left = False, list(wanted)
        for _ in range(_MOST_LACKING):
            self._lacking = b""
            came = await self._git(options if self._steps.filters else options[:-1], left)
            if came or self._lacking not in left or len(left) == 1:
                break
            left.remove(self._lacking)  # the server refuses all for one that it lacks
        self._asked.update(dict.fromkeys(wanted))
        return came

    async def _git(self, options: Sequence[str], wanted: Sequence[bytes]) -> bool:
        """Fetch; False where the server does not have, or does not send, what is wanted.

        Raises StoreTimeout, StoreUnreachable, NotInStore, GitError.
        """
        given = b"".join(oid + b"\n" for oid in wanted)
        with_filter = self._steps.filters and any(each.startswith("--filter") for each in options)
        plain = [each for each in options if not each.startswith("--filter")]
        status, said = await self._run(["--upload-pack", _UPLOAD_PACK, *options] if with_filter else plain, given)
        if status and with_filter and _refused(said):
            status, said = await self._run(plain, given)
            if status == 0:
                log.warning("%s runs only git-upload-pack, so whole commits are fetched", self._host)
                self._steps.filters = False
        if status == 0:
            return True
        if "not our ref" in said or "bad object" in said:
            refused = _NOT_OURS.search(said)
            self._lacking = b"" if refused is None else refused[1].encode()
            return False
        if "unadvertised object" in said:
            log.info("%s sends no objects by their names, only the newest commits", self._host)
            return False
        if "does not appear to be a git repository" in said or "not a git repository" in said:
            raise NotInStore(f"{self._host} has no git repository at {self._url}")
        if "dubious ownership" in said:
            raise StoreDenied(
                f"git on {self._host} does not serve repositories of other users; its administrator can allow it: "
                "git config --system --add safe.directory '*'"
            )
        raise self._failure(said)

    def _failure(self, said: str) -> RiafsError:
        reason = last_line("\n".join(_telling(said)).encode()) or last_line(said.encode())
        if "Could not read from remote repository" in said or "remote end hung up" in said:
            return StoreUnreachable(f"git cannot fetch from {self._host}: {reason}")
        return GitError(f"git cannot fetch from {self._host}: {reason}")

    async def _run(self, options: Sequence[str], given: bytes) -> tuple[int, str]:
        """The exit status of a fetch, and what it said on standard error, whose growth is progress.

        Raises StoreTimeout, GitError.
        """
        command = [self._access.program, "fetch", "--progress", "--no-tags", "--no-write-fetch-head", "--no-auto-gc",
                   *options, "--stdin", "store"]  # fmt: skip
        try:
            process = await trio.lowlevel.open_process(
                command, env=self._environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise GitError(f"git cannot be started: {error.strerror}") from error
        assert process.stdin is not None
        assert process.stderr is not None
        said = b""
        try:
            await process.stdin.send_all(given)
            await process.stdin.aclose()
            while True:
                with trio.move_on_after(self._seconds) as silence:
                    more = await process.stderr.receive_some(4096)
                if silence.cancelled_caught:
                    raise StoreTimeout(f"{self._host} sent no git objects for {self._seconds:g} s")
                if not more:
                    break
                said = (said + more)[-_MAX_STDERR:]
            return await process.wait(), said.decode(errors="replace")
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # it leads a session of its own, with its ssh
                with trio.CancelScope(shield=True):
                    await process.wait()
            await trio.aclose_forcefully(process.stderr)

    def _environment(self) -> Mapping[str, str]:
        settings = {
            "remote.store.url": self._url,
            "remote.store.promisor": "true",
            "remote.store.partialclonefilter": "blob:none",
        }
        named: dict[str, str] = {"GIT_CONFIG_COUNT": str(len(settings))}
        for number, (name, value) in enumerate(settings.items()):
            named |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        kept = {name: value for name, value in self._access.environment.items() if not name.startswith("GIT_")}
        return (
            kept
            | named
            | {
                "GIT_DIR": f"{self._place}/fetch",
                "GIT_OBJECT_DIRECTORY": f"{self._place}/objects",
                "GIT_CONFIG_GLOBAL": "/dev/null",
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_ATTR_NOSYSTEM": "1",
                "GIT_NO_LAZY_FETCH": "1",
                "GIT_NO_REPLACE_OBJECTS": "1",
                "GIT_ALLOW_PROTOCOL": "ssh",
                "GIT_TERMINAL_PROMPT": "0",
                "GIT_SSH_COMMAND": shlex.join(self._access.ssh.with_options()),
                "GIT_SSH_VARIANT": "ssh",
                "LC_ALL": "C",
                "PATH": self._access.search_path,
            }
        )


def _refused(text: str) -> bool:
    """Whether the server did not run the command, which has more words than ``git-upload-pack``."""
    return any(
        words in text for words in ("unrecognized command", "not allowed", "command not found", "is not a git command")
    )


def _telling(text: str) -> list[str]:
    """The lines in which git and ssh say what went wrong, without those that say that something did."""
    lines = [line for line in re.split("[\r\n]+", text) if line.strip()]
    return [line for line in lines if not line.startswith(_GENERAL)]
