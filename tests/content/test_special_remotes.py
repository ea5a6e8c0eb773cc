"""Keys stored in chunks or encrypted, as the git-annex branch says."""

import base64
import errno
import hashlib
import hmac
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from riafs.errors import CorruptContent, EncryptedContent, MissingContent, RiafsError
from riafs.formats.annex import hash_lower, hash_mixed
from riafs.formats.keys import escape
from tests.behaviour.drivers import opened
from tests.small import Locked, SmallDataset, SmallStore, key_of, noise

Announce = Callable[..., None]

CONTENT = noise(2500)
KEY = key_of(CONTENT)
UUID = b"aaaaaaaa-0000-4000-8000-000000000000"
OTHER = b"bbbbbbbb-0000-4000-8000-000000000000"
SECRET = base64.b64encode(noise(513, "cipher")) + b"\n"
"""What git-annex makes for encryption=shared: 685 bytes, the first 256 for names, the others for content."""


@pytest.fixture
def store(tmp_path: Path) -> SmallStore:
    return SmallStore.make(tmp_path / "store")


def with_remote(store: SmallStore, *fields: bytes, log: bytes = b"", content: bytes = CONTENT) -> SmallDataset:
    """A dataset with one annexed file, a storage remote with more `fields`, and a chunk log."""
    key = key_of(content)
    dataset = store.dataset("one", {b"file": Locked(key)})
    line = b" ".join([UUID, b"archive-id=" + dataset.id.encode(), b"externaltype=ora", b"name=s", *fields])
    logs = {b"remote.log": line + b" timestamp=1700000000s\n"}
    if log:
        logs[b"%b/%b.log.cnk" % (hash_lower(key), escape(key))] = log
    dataset.annex_branch(logs)
    return dataset


def chunk_key(key: bytes, size: int, number: int) -> bytes:
    backend, name = key.split(b"--", 1)
    return b"%b-S%d-C%d--%b" % (backend, size, number, name)


def put_chunks(dataset: SmallDataset, size: int, content: bytes = CONTENT) -> None:
    key = key_of(content)
    for number in range(1, max(1, -(-len(content) // size)) + 1):
        part = content[(number - 1) * size :][:size]
        dataset.put(chunk_key(key, size, number), part, hash_mixed(key))


@pytest.fixture
def gpg_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for gpg, whose agent does not outlive the test."""
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    yield home
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)


def put_encrypted(dataset: SmallDataset, plain_key: bytes, content: bytes, home: Path) -> Path:
    """Store content as git-annex does with encryption=shared."""
    digest = hmac.new(SECRET[:256], plain_key, hashlib.sha256).hexdigest().encode()
    message = home / "message"
    message.write_bytes(content)
    command = ["gpg", "--batch", "--quiet", "--no-options", "--homedir", home, "--pinentry-mode", "loopback"]
    command += ["--passphrase-fd", "0", "--symmetric", "--cipher-algo", "AES256", "--output", "-", message]
    done = subprocess.run(command, input=SECRET[256:], stdout=subprocess.PIPE, check=True)
    return dataset.put(b"GPGHMACSHA256--" + digest, done.stdout)


SHARED = (b"encryption=shared", b"mac=HMACSHA256", b"cipher=" + base64.b64encode(SECRET))
PLAIN = b"encryption=none"


async def content_of(store: SmallStore) -> bytes:
    async with opened(store.path) as shown:
        return await shown.read(b"one/file")


@pytest.mark.parametrize("size", [1, 1000, 1250, 2499, 2500, 2501])
async def test_chunks_are_put_together(store: SmallStore, size: int) -> None:
    content = CONTENT if size > 1 else b"abc"
    count = max(1, -(-len(content) // size))
    log = b"1700000000s %b:%d %d\n" % (UUID, size, count)
    put_chunks(with_remote(store, PLAIN, log=log, content=content), size, content)
    assert await content_of(store) == content


async def test_chunk_size_of_the_configuration_counts_where_the_log_is_silent(store: SmallStore) -> None:
    put_chunks(with_remote(store, PLAIN, b"chunk=1000B"), 1000)
    assert await content_of(store) == CONTENT


async def test_log_wins_over_the_configuration(store: SmallStore) -> None:
    log = b"1700000000s %b:700 4\n" % UUID
    put_chunks(with_remote(store, PLAIN, b"chunk=1000B", log=log), 700)
    assert await content_of(store) == CONTENT


async def test_log_of_a_former_chunk_size_in_one_level_of_directories(store: SmallStore) -> None:
    dataset = with_remote(store, PLAIN, b"chunk=1000B")
    put_chunks(dataset, 700)
    line = b"%b archive-id=%b externaltype=ora name=s chunk=1000B timestamp=1s\n" % (UUID, dataset.id.encode())
    dataset.annex_branch(
        {
            b"difference.log": b"40ad46ba fromList [OneLevelBranchHash] timestamp=1s\n",
            b"remote.log": line,
            b"%b/%b.log.cnk" % (hash_lower(KEY)[:3], escape(KEY)): b"1700000000s %b:700 4\n" % UUID,
        }
    )
    assert await content_of(store) == CONTENT


async def test_empty_content_is_one_empty_chunk(store: SmallStore) -> None:
    put_chunks(with_remote(store, PLAIN, b"chunk=1000B", content=b""), 1000, b"")
    assert await content_of(store) == b""


async def test_chunks_in_an_archive(store: SmallStore) -> None:
    dataset = with_remote(store, PLAIN, b"chunk=1500B")
    parts = {}
    for number, start in ((1, 0), (2, 1500)):
        name = chunk_key(KEY, 1500, number)
        parts[hash_mixed(KEY) + b"/" + name + b"/" + name] = CONTENT[start:][:1500]
    dataset.archive(parts, paths=True)
    assert await content_of(store) == CONTENT


async def test_missing_chunk_is_missing_content(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("is not in the store")
    dataset = with_remote(store, PLAIN, b"chunk=1000B")
    put_chunks(dataset, 1000)
    dataset.object_path(chunk_key(KEY, 1000, 2), hash_mixed(KEY)).unlink()
    with pytest.raises(MissingContent, match="in chunks of 1000 bytes"):
        await content_of(store)


async def test_damaged_chunk_is_damaged_content(store: SmallStore, expected_warnings: Announce) -> None:
    expected_warnings("riafs.content")
    dataset = with_remote(store, PLAIN, b"chunk=1000B")
    put_chunks(dataset, 1000)
    dataset.put(chunk_key(KEY, 1000, 2), bytes(1000), hash_mixed(KEY))
    with pytest.raises(CorruptContent):
        await content_of(store)


@pytest.mark.parametrize("count", [0, 10**6 + 1, 10**18])
async def test_absurd_counts_of_chunks_are_refused(store: SmallStore, count: int, expected_warnings: Announce) -> None:
    expected_warnings("riafs.content")
    put_chunks(with_remote(store, PLAIN, log=b"1700000000s %b:1000 %d\n" % (UUID, count)), 1000)
    with pytest.raises(RiafsError) as caught:
        await content_of(store)
    assert caught.value.errno == errno.EIO


async def test_chunks_of_another_dataset_s_remote_are_not_looked_for(
    store: SmallStore, expected_warnings: Announce
) -> None:
    expected_warnings("is not in the store")
    dataset = with_remote(store, PLAIN, log=b"1700000000s %b:1000 3\n" % OTHER)
    put_chunks(dataset, 1000)
    with pytest.raises(MissingContent):
        await content_of(store)


async def test_shared_encryption_is_decrypted(store: SmallStore, gpg_home: Path) -> None:
    put_encrypted(with_remote(store, *SHARED), KEY, CONTENT, gpg_home)
    async with opened(store.path) as shown:
        assert await shown.read(b"one/file") == CONTENT
        assert shown.counters.keys_verified == 1


async def test_shared_encryption_in_chunks(store: SmallStore, gpg_home: Path) -> None:
    dataset = with_remote(store, *SHARED, b"chunk=1500B")
    for number, start in ((1, 0), (2, 1500)):
        put_encrypted(dataset, chunk_key(KEY, 1500, number), CONTENT[start:][:1500], gpg_home)
    assert await content_of(store) == CONTENT


async def test_damaged_message_is_an_error(store: SmallStore, gpg_home: Path, expected_warnings: Announce) -> None:
    expected_warnings("riafs.content")
    path = put_encrypted(with_remote(store, *SHARED), KEY, CONTENT, gpg_home)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(RiafsError) as caught:
        await content_of(store)
    assert caught.value.errno == errno.EIO


@pytest.mark.parametrize("kind", [b"hybrid", b"pubkey", b"sharedpubkey", b"invented"])
async def test_other_encryption_is_permission_denied_and_says_why(
    store: SmallStore, kind: bytes, expected_warnings: Announce
) -> None:
    expected_warnings("riafs.content")
    with_remote(store, b"encryption=" + kind, b"cipher=" + base64.b64encode(SECRET))
    with pytest.raises(EncryptedContent, match=f"encryption={kind.decode()}, which needs a secret key") as caught:
        await content_of(store)
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize("cipher", [b"", b"AAAA", b"%%%", base64.b64encode(bytes(10_000))])
async def test_unusable_cipher_is_an_error_of_that_key(
    store: SmallStore, cipher: bytes, expected_warnings: Announce
) -> None:
    expected_warnings("riafs.content")
    dataset = with_remote(store, b"encryption=shared", b"cipher=" + cipher)
    dataset.commit({b"file": Locked(KEY), b"neighbour": b"fine"})
    async with opened(store.path) as shown:
        with pytest.raises(RiafsError):
            await shown.read(b"one/file")
        assert await shown.read(b"one/neighbour") == b"fine"


async def test_plain_copy_goes_before_special_forms(store: SmallStore) -> None:
    dataset = with_remote(store, b"encryption=pubkey", b"cipher=x")
    dataset.put(KEY, CONTENT)
    assert await content_of(store) == CONTENT


@pytest.mark.parametrize("log", [b"nonsense", b"\xff" * 1000, b" =\n" * 100, b"a b=c timestamp=\n"])
async def test_unreadable_branch_leaves_plain_copies_readable(store: SmallStore, log: bytes) -> None:
    dataset = store.dataset("one", {b"file": Locked(KEY)})
    dataset.annex_branch({b"remote.log": log})
    dataset.put(KEY, CONTENT)
    assert await content_of(store) == CONTENT


# -- other remotes ----------------------------------------------------------------------------------------------------

MASK = b"cccccccc-0000-4000-8000-000000000000"


def storage_line(dataset: SmallDataset, *fields: bytes, uuid: bytes = UUID, archive_id: bytes | None = None) -> bytes:
    """A line of ``remote.log`` about an ORA remote."""
    name = archive_id or dataset.id.encode()
    words = [uuid, b"archive-id=" + name, b"externaltype=ora", b"name=s", b"type=external", *fields]
    return b" ".join(words) + b" timestamp=1700000000s\n"


def mask_line(*fields: bytes, behind: bytes = UUID) -> bytes:
    words = [MASK, b"name=m", b"remote=s", b"remoteuuid=" + behind, b"type=mask", *SHARED, *fields]
    return b" ".join(words) + b" timestamp=1700000000s\n"


async def test_content_behind_a_mask(store: SmallStore, gpg_home: Path) -> None:
    dataset = store.dataset("one", {b"file": Locked(KEY)})
    dataset.annex_branch({b"remote.log": storage_line(dataset, PLAIN) + mask_line()})
    put_encrypted(dataset, KEY, CONTENT, gpg_home)
    async with opened(store.path) as shown:
        assert await shown.read(b"one/file") == CONTENT
        assert await shown.getxattr(b"one/file", "user.riafs.where") == b"storage m, encryption shared"


async def test_chunks_behind_a_mask(store: SmallStore, gpg_home: Path) -> None:
    dataset = store.dataset("one", {b"file": Locked(KEY)})
    log = b"1700000000s %b:1000 3\n" % MASK
    dataset.annex_branch(
        {
            b"remote.log": storage_line(dataset, PLAIN) + mask_line(b"chunk=1000B"),
            b"%b/%b.log.cnk" % (hash_lower(KEY), escape(KEY)): log,
        }
    )
    for number in (1, 2, 3):
        put_encrypted(dataset, chunk_key(KEY, 1000, number), CONTENT[1000 * (number - 1) :][:1000], gpg_home)
    assert await content_of(store) == CONTENT


async def test_mask_of_an_encrypted_remote(store: SmallStore, gpg_home: Path, tmp_path: Path) -> None:
    dataset = store.dataset("one", {b"file": Locked(KEY)})
    dataset.annex_branch({b"remote.log": storage_line(dataset, *SHARED) + mask_line()})
    inner = put_encrypted(dataset, KEY, CONTENT, gpg_home)
    message, name = inner.read_bytes(), inner.name.encode()
    inner.unlink()
    put_encrypted(dataset, name, message, gpg_home)
    assert await content_of(store) == CONTENT


@pytest.mark.parametrize("behind", [OTHER, MASK, b""])
async def test_mask_of_nothing_or_itself(store: SmallStore, behind: bytes, expected_warnings: Announce) -> None:
    expected_warnings("is not in the store")
    dataset = store.dataset("one", {b"file": Locked(KEY)})
    dataset.annex_branch({b"remote.log": storage_line(dataset, PLAIN) + mask_line(behind=behind)})
    with pytest.raises(MissingContent):
        await content_of(store)


async def test_storage_that_the_configuration_names(store: SmallStore) -> None:
    """Its archive id is another one, while a remote with the directory's id is something else."""
    dataset = store.dataset("one", {b"file": Locked(KEY)})
    lines = storage_line(dataset, PLAIN, b"chunk=1000B", archive_id=b"former")
    dataset.annex_branch({b"remote.log": lines + storage_line(dataset, PLAIN, uuid=OTHER)})
    put_chunks(dataset, 1000)
    with (dataset.path / "config").open("a") as config:
        config.write(f'[datalad "other"]\n\tuuid = x\n[datalad "ora-remote"]\n\tx = y\n\tuuid = {UUID.decode()}\n')
    assert await content_of(store) == CONTENT


@pytest.mark.parametrize("archive_id", [b"archive-id=former", b"base-path=/former/store"])
async def test_storage_of_which_nothing_tells_the_directory(store: SmallStore, archive_id: bytes) -> None:
    dataset = store.dataset("one", {b"file": Locked(KEY)})
    line = b" ".join([UUID, archive_id, b"externaltype=ria", b"name=s", b"type=external", PLAIN, b"chunk=1000B"])
    dataset.annex_branch({b"remote.log": line + b" timestamp=1s\n"})
    put_chunks(dataset, 1000)
    assert await content_of(store) == CONTENT


@pytest.mark.parametrize("form", ["plain", "archive", "chunks"])
async def test_storage_in_another_directory_of_the_store(store: SmallStore, form: str) -> None:
    dataset, other = store.dataset("one", {b"file": Locked(KEY)}), store.dataset("other")
    dataset.annex_branch({b"remote.log": storage_line(dataset, PLAIN, b"chunk=1000B", archive_id=other.id.encode())})
    if form == "plain":
        other.put(KEY, CONTENT)
    elif form == "archive":
        other.archive({KEY: CONTENT})
    else:
        put_chunks(other, 1000)
    async with opened(store.path) as shown:
        assert await shown.read(b"one/file") == CONTENT
        where = await shown.getxattr(b"one/file", "user.riafs.where")
        assert (other.id.encode() in where) is (form != "chunks")


@pytest.mark.parametrize("archive_id", [b"../../x", b"a\0b", b"..", b"abc" + b"x" * 300])
async def test_archive_id_that_is_no_name(store: SmallStore, archive_id: bytes, expected_warnings: Announce) -> None:
    expected_warnings("is not in the store")
    dataset = store.dataset("one", {b"file": Locked(KEY)})
    dataset.annex_branch({b"remote.log": storage_line(dataset, PLAIN, archive_id=archive_id)})
    with pytest.raises(MissingContent):
        await content_of(store)
