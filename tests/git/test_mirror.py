"""Git objects of another machine: what is fetched, when, and what a server's refusals and lies come to."""

import os
import shlex
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio

from riafs.counters import Counters
from riafs.errors import MissingObject, NotInStore, RiafsError, StoreDenied, StoreTimeout, StoreUnreachable
from riafs.formats.sources import RiaUrl
from riafs.git import mirror
from riafs.git.catfile import GitPool
from riafs.git.environment import PrivateGitDirs
from riafs.git.history import newest
from riafs.git.kept_repositories import remove_unused
from riafs.git.mirror import GitAccess, RemoteRepositories
from riafs.git.repository import Repository
from riafs.storage.deadline import Deadline
from riafs.storage.local import LocalStorage
from riafs.storage.ssh import SshOptions
from tests.remote.here import SshHere
from tests.small import SmallDataset, SmallStore

Open = Callable[[SmallDataset], "Opened"]

FILES = {b"d%d/file%d" % (number % 10, number): b"content %d" % number for number in range(300)}
LARGE = b"large enough not to come with the small ones\n" * 100


class Opened:
    """One mount's view of a dataset of the store."""

    def __init__(self, store: SmallStore, dataset: SmallDataset, place: Path, command: tuple[str, ...]) -> None:
        self.store = store
        self.dataset = dataset
        self.counters = Counters()
        source = RiaUrl("ssh", "server", os.fsencode(store.path), None, None, None)
        access = GitAccess("git", os.environ["PATH"], SshOptions(command), os.environ)
        self.mirror = RemoteRepositories(source, str(place / "mirror"), access, 5, self.counters)
        self.pool = GitPool(PrivateGitDirs("git", os.environ["PATH"], os.fsencode(place)), 10, self.counters)

    async def repository(self) -> Repository:
        # refs are read from the store itself; here it is near
        storage = await LocalStorage.open_root(os.fsencode(self.store.path), Deadline("the store", 10, self.counters))
        path = os.fsencode(self.dataset.path.relative_to(self.store.path))
        return Repository(await self.mirror.repository(storage, path), self.pool, "dataset one", 10)

    def close(self) -> None:
        self.pool.close()
        self.mirror.close()


@pytest.fixture
def ssh(tmp_path: Path) -> SshHere:
    return SshHere.make(tmp_path / "ssh")


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


@pytest.fixture
async def opened(store: SmallStore, ssh: SshHere, tmp_path: Path) -> AsyncIterator[Open]:
    made: list[Opened] = []

    def open_it(dataset: SmallDataset) -> Opened:
        place = tmp_path / "place"
        place.mkdir(exist_ok=True)
        made.append(Opened(store, dataset, place, (ssh.command,)))
        return made[-1]

    yield open_it
    for each in made:
        each.close()


def packed(tmp_path: Path) -> int:
    """Bytes of all packs that were fetched."""
    return sum(file.stat().st_size for file in (tmp_path / "place").rglob("*.pack"))


async def test_trees_then_small_files_then_others(
    store: SmallStore, ssh: SshHere, opened: Open, tmp_path: Path
) -> None:
    dataset = store.dataset("one", FILES | {b"large": os.urandom(500_000), b"text": LARGE})
    dataset.git("gc", "--quiet")
    repository = await opened(dataset).repository()
    found = await repository.find(None)
    commit = await repository.commit(found.oid)
    tree = await repository.tree(commit.tree)
    trees = await repository.trees(
        [oid.hex().encode() for name, oid in zip(tree.names, tree.oids, strict=True) if name[0] == ord("d")]
    )
    assert None not in trees
    assert ssh.calls("upload-pack") == 1
    assert packed(tmp_path) < 30_000
    oids = [oid.hex().encode() for each in trees if each is not None for oid in each.oids]
    blobs = await repository.objects([b"contents " + oid for oid in oids])
    assert sorted(blob.data for blob in blobs if blob is not None) == sorted(FILES.values())
    assert ssh.calls("upload-pack") == 2
    assert packed(tmp_path) < 100_000
    assert await repository.blob_at(found.oid, b"text", 1 << 20) == LARGE
    assert ssh.calls("upload-pack") == 3
    assert packed(tmp_path) < 110_000


async def test_a_second_mount_fetches_nothing(store: SmallStore, ssh: SshHere, opened: Open) -> None:
    dataset = store.dataset("one", FILES)
    for _ in range(2):
        repository = await opened(dataset).repository()
        found = await repository.find(None)
        assert await repository.blob_at(found.oid, b"d3/file3", 100) == b"content 3"
    assert ssh.calls("upload-pack") <= 2


async def test_a_new_commit_and_an_older_one(store: SmallStore, ssh: SshHere, opened: Open) -> None:
    dataset = store.dataset("one", FILES)
    older = dataset.git("rev-parse", "main").encode()
    repository = await opened(dataset).repository()
    assert (await repository.find(None)).oid == older
    assert await repository.blob_at(older, b"d3/file3", 100) == b"content 3"
    dataset.commit({b"d3/file3": b"newer"})
    newer = (await repository.find(None)).oid
    assert await repository.blob_at(newer, b"d3/file3", 100) == b"newer"
    assert await repository.blob_at(older, b"d3/file3", 100) == b"content 3"


async def test_history_comes_without_trees(store: SmallStore, ssh: SshHere, opened: Open, tmp_path: Path) -> None:
    dataset = store.dataset("one", FILES)
    for number in range(30):
        dataset.commit({b"d3/file3": b"%d" % number})
    repository = await opened(dataset).repository()
    found = await repository.find(None)
    await repository.commit(found.oid)
    calls = ssh.calls("upload-pack")
    versions = await newest(repository, found.oid, 100)
    assert len(versions) == 31
    assert ssh.calls("upload-pack") == calls + 1


async def test_many_tasks_that_need_objects_share_a_fetch(store: SmallStore, ssh: SshHere, opened: Open) -> None:
    dataset = store.dataset("one", {b"file%d" % number: os.urandom(3000) for number in range(40)})
    repository = await opened(dataset).repository()
    found = await repository.find(None)
    tree = await repository.tree((await repository.commit(found.oid)).tree)
    calls = ssh.calls("upload-pack")
    sizes = []

    async def read(oid: bytes) -> None:
        [blob] = await repository.objects([b"contents " + oid])
        sizes.append(None if blob is None else blob.size)

    async with trio.open_nursery() as nursery:
        for oid in tree.oids:
            nursery.start_soon(read, oid.hex().encode())
    assert sizes == [3000] * 40
    assert ssh.calls("upload-pack") - calls <= 3


async def test_many_objects_after_single_ones(store: SmallStore, opened: Open) -> None:
    dataset = store.dataset("one", {b"file%d" % number: os.urandom(3000) for number in range(40)})
    repository = await opened(dataset).repository()
    tree = await repository.tree((await repository.commit((await repository.find(None)).oid)).tree)
    oids = [oid.hex().encode() for oid in tree.oids]
    for oid in oids[:3]:
        assert None not in await repository.objects([b"contents " + oid])
    assert None not in await repository.objects([b"contents " + oid for oid in oids])


@pytest.mark.parametrize("size", [30, 3000])
async def test_one_object_that_the_store_lacks_costs_no_other(store: SmallStore, opened: Open, size: int) -> None:
    dataset = store.dataset("one", {b"file%d" % number: os.urandom(size) for number in range(40)})
    repository = await opened(dataset).repository()
    tree = await repository.tree((await repository.commit((await repository.find(None)).oid)).tree)
    oids = [oid.hex() for oid in tree.oids]
    for lost in (oids[3], oids[30]):
        (dataset.path / "objects" / lost[:2] / lost[2:]).unlink()
    blobs = await repository.objects([b"contents " + oid.encode() for oid in oids])
    assert [index for index, blob in enumerate(blobs) if blob is None] == [3, 30]


async def test_files_of_the_first_of_several_versions(store: SmallStore, opened: Open) -> None:
    dataset = store.dataset("one", {b"file%d" % number: os.urandom(3000) for number in range(40)})
    first = dataset.git("rev-parse", "main").encode()
    others = [dataset.commit({b"file%d" % number: b"%d" % number}).encode() for number in range(4)]
    repository = await opened(dataset).repository()
    tree = await repository.tree((await repository.commit(first)).tree)
    for each in others:
        await repository.commit(each)
    assert None not in await repository.objects([b"contents " + oid.hex().encode() for oid in tree.oids])


async def test_a_repository_with_sha256(store: SmallStore, opened: Open) -> None:
    dataset = store.dataset("one", FILES, object_format="sha256")
    repository = await opened(dataset).repository()
    assert await repository.blob_at((await repository.find(None)).oid, b"d3/file3", 100) == b"content 3"


async def test_what_the_store_does_not_have(store: SmallStore, ssh: SshHere, opened: Open) -> None:
    """It is asked for once in a while, not each time."""
    dataset = store.dataset("one", FILES)
    repository = await opened(dataset).repository()
    for _ in range(5):
        with pytest.raises(MissingObject):
            await repository.tree(b"12" * 20)
    assert ssh.calls("upload-pack") == 1


async def test_an_outage_is_not_taken_for_missing_objects(
    store: SmallStore, ssh: SshHere, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does everybody wait for it; and the objects come when it is over."""
    monkeypatch.setattr(mirror, "_AWAY_SECONDS", 0.5)
    dataset = store.dataset("one", FILES)
    repository = await opened(dataset).repository()
    commit = (await repository.find(None)).oid
    ssh.go_down()
    for _ in range(3):
        with pytest.raises(StoreUnreachable, match="No route to host"):
            await repository.commit(commit)
    assert ssh.calls("upload-pack") <= 2
    ssh.come_up()
    await trio.sleep(0.6)
    assert await repository.blob_at(commit, b"d3/file3", 100) == b"content 3"


async def test_objects_that_were_removed_meanwhile_are_fetched_again(
    store: SmallStore, opened: Open, tmp_path: Path
) -> None:
    dataset = store.dataset("one", FILES)
    made = opened(dataset)
    repository = await made.repository()
    commit = (await repository.find(None)).oid
    await repository.commit(commit)
    made.mirror._kept[0].close()
    remove_unused(str(tmp_path / "place"), 0)
    assert list((tmp_path / "place/mirror").iterdir()) == []
    newer = dataset.commit({b"new": b"file"}).encode()
    assert await repository.blob_at(newer, b"new", 100) == b"file"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
async def test_a_store_of_another_user(store: SmallStore, opened: Open) -> None:
    """As a shared one is; git serves repositories of others only where it is told to."""
    dataset = store.dataset("one", FILES)
    for above, directories, names in os.walk(dataset.path):
        for name in (".", *directories, *names):
            os.chown(f"{above}/{name}", 65534, 65534)
    repository = await opened(dataset).repository()
    commit = (dataset.path / "refs/heads/main").read_bytes().strip()
    assert await repository.blob_at(commit, b"d3/file3", 100) == b"content 3"


# -- servers that refuse ----------------------------------------------------------------------------------------------


async def test_a_server_that_runs_only_git_upload_pack(
    store: SmallStore, tmp_path: Path, expected_warnings: Callable[..., None]
) -> None:
    """Like git-shell, or a forced command: whole commits are fetched then."""
    expected_warnings("runs only git-upload-pack")
    (tmp_path / "place").mkdir()
    script = tmp_path / "strict"
    script.write_text(
        '#!/bin/sh\nfor last; do :; done\ncase $last in\n"git-upload-pack "*) exec sh -c "$last" ;;\n'
        "*) echo \"fatal: unrecognized command '$last'\" >&2; exit 128 ;;\nesac\n"
    )
    script.chmod(0o755)
    dataset = store.dataset("one", FILES)
    opened = Opened(store, dataset, tmp_path / "place", (str(script),))
    repository = await opened.repository()
    found = await repository.find(None)
    assert await repository.blob_at(found.oid, b"d3/file3", 100) == b"content 3"
    opened.close()


async def fails(store: SmallStore, tmp_path: Path, command: str, kind: type[RiafsError], text: str) -> None:
    (tmp_path / "place").mkdir()
    opened = Opened(store, store.dataset("one", FILES), tmp_path / "place", ("sh", "-c", command, "ssh"))
    repository = await opened.repository()
    with pytest.raises(kind, match=text), trio.fail_after(8):
        await repository.commit((await repository.find(None)).oid)
    opened.close()


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        ("ssh: connect to host server port 22: No route to host", StoreUnreachable, "server: ssh: connect.*No route"),
        ("fatal: '/x' does not appear to be a git repository", NotInStore, "no git repository"),
        ("fatal: detected dubious ownership in repository at '/x'", StoreDenied, "safe.directory"),
    ],
)
async def test_reasons(
    store: SmallStore, tmp_path: Path, said: str, kind: type[RiafsError], text: str,
    expected_warnings: Callable[..., None],
) -> None:  # fmt: skip
    expected_warnings("runs only git-upload-pack")
    await fails(store, tmp_path, f"echo {shlex.quote(said)} >&2; exit 255", kind, text)


async def test_a_server_that_says_nothing(store: SmallStore, tmp_path: Path) -> None:
    await fails(store, tmp_path, "exec sleep 60", StoreTimeout, "sent no git objects for 5 s")


async def test_the_ssh_of_a_fetch_that_is_given_up_ends(store: SmallStore, tmp_path: Path) -> None:
    await fails(store, tmp_path, f"echo $$ >{tmp_path}/pid; exec sleep 60", StoreTimeout, "sent no git objects for 5 s")
    process = Path("/proc") / (tmp_path / "pid").read_text().strip() / "stat"
    with trio.fail_after(5):
        while process.exists() and " Z " not in process.read_text():  # noqa: ASYNC110  # nobody tells
            await trio.sleep(0.05)


async def test_nothing_of_the_store_configures_git_here(
    store: SmallStore, opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the store's configuration and hooks nor the user's own, nor variables of git."""
    dataset = store.dataset("one", FILES)
    trap = f"touch {tmp_path}/trapped"
    for name in ("core.fsmonitor", "core.sshCommand"):
        dataset.git("config", name, trap)
    hooks = dataset.path / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("reference-transaction", "post-update"):
        (hooks / name).write_text(f"#!/bin/sh\n{trap}\n")
        (hooks / name).chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", trap)
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", f"'core.sshcommand={trap}'")
    repository = await opened(dataset).repository()
    assert await repository.blob_at((await repository.find(None)).oid, b"d3/file3", 100) == b"content 3"
    assert not (tmp_path / "trapped").exists()
