"""Pieces of the packing that can be told without a store: sampling, LZMA2, sharing, locking, batches, order."""

import errno
import lzma
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from riafs.errors import Busy, NotOurs, ReadOnly, StoreDenied, StoreError
from riafs.formats.keys import parse_key
from riafs.packing.archive_writer import END, Compressor
from riafs.packing.dataset import PackedDataset, workspace
from riafs.packing.loose_objects import PIECE, ContentCheck, LooseObject, expected_size
from riafs.packing.selection import WORTH, Candidate, in_batches, in_tree_order, share_of_samples
from riafs.storage.permissions import parse_sharing, with_executable
from riafs.storage.posix import writing_to
from tests.packing.conftest import CONTENTS, held, with_dataset
from tests.small import Locked, SmallDataset, key_of, noise


def found(key: bytes, size: int = 0) -> LooseObject:
    return LooseObject(parse_key(key), b"path/" + key, b"path/" + key, size, 0, 0, 0o444)


# -- compression ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, PIECE, PIECE + 1, 5 * PIECE])
def test_compressed_pieces_are_one_stream_that_decodes_from_every_reset(size: int) -> None:
    content = (b"some text, again and again " * (size // 20 + 1))[:size]
    with Compressor() as compressor:
        parts = list(compressor.compress(content[start : start + PIECE] for start in range(0, size, PIECE)))
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": PIECE}]
    for first in range(len(parts)):
        stream = b"".join(parts[first:]) + END
        assert lzma.decompress(stream, lzma.FORMAT_RAW, filters=filters) == content[first * PIECE :]


@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_text_is_worth_compressing_and_noise_is_not(size: int) -> None:
    assert share(b"text of some kind\n" * (size // 18)) <= WORTH
    assert share(noise(size)) > WORTH


def share(content: bytes) -> float:
    def read(offset: int, length: int) -> bytes:
        return content[offset : offset + length]

    return share_of_samples(len(content), read)


def test_nothing_is_not_worth_compressing() -> None:
    assert share(b"") > WORTH


@given(st.lists(st.tuples(st.integers(0, 300), st.booleans())), st.integers(1, 500))
def test_batches_hold_every_candidate_once_and_bounded(sizes: list[tuple[int, bool]], bound: int) -> None:
    candidates = [
        Candidate(found(b"WORM-s%d--%d" % (size, number), size), 0.1 if text else 1.0)
        for number, (size, text) in enumerate(sizes)
    ]
    batches = list(in_batches(candidates, bound))
    assert sorted(each.object.path for batch in batches for each in batch) == sorted(
        each.object.path for each in candidates
    )
    for batch in batches:
        assert len(batch) == 1 or all(each.compressed for each in batch)
        assert len(batch) == 1 or sum(each.object.size for each in batch) <= bound


# -- content ----------------------------------------------------------------------------------------------------------


def test_a_chunk_has_the_size_of_a_chunk() -> None:
    assert expected_size(parse_key(b"MD5E-s25-S10-C3--x")) == 5
    assert expected_size(parse_key(b"MD5E-s25-S10-C1--x")) == 10
    assert expected_size(parse_key(b"MD5E-s25--x")) == 25
    assert expected_size(parse_key(b"URL--x")) is None


def test_content_without_digest_is_told_by_its_sha256() -> None:
    one, other = ContentCheck(parse_key(b"WORM-s3--a")), ContentCheck(parse_key(b"WORM-s3--a"))
    one.update(b"abc")
    other.update(b"abd")
    assert one.result().problem == other.result().problem == ""
    assert one.result() != other.result()


# -- sharing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "file", "directory", "object_"),
    [
        (b"umask", 0o640, 0o750, 0o440),
        (b"false", 0o640, 0o750, 0o440),
        (b"nonsense", 0o640, 0o750, 0o440),
        (b"group", 0o660, 0o2770, 0o440),
        (None, 0o660, 0o2770, 0o440),
        (b"TRUE", 0o660, 0o2770, 0o440),
        (b"1", 0o660, 0o2770, 0o440),
        (b"all", 0o664, 0o2775, 0o444),
        (b"2", 0o664, 0o2775, 0o444),
        (b"0600", 0o600, 0o700, 0o400),
        (b"0644", 0o644, 0o2755, 0o444),
        (b"664", 0o664, 0o2775, 0o444),
    ],
)
def test_modes_are_those_that_git_would_give(value: bytes | None, file: int, directory: int, object_: int) -> None:
    sharing = parse_sharing([(b"core.bare", b"true"), (b"core.sharedrepository", value)])
    made = [stat.S_IFREG | 0o640, stat.S_IFDIR | 0o750, stat.S_IFREG | 0o440, stat.S_IFREG | 0o550]  # umask 027
    executable = object_ | object_ >> 2
    assert [stat.S_IMODE(sharing.adjusted(mode)) for mode in made] == [file, directory, object_, executable]


@pytest.mark.parametrize(
    ("mode", "executable", "changed"),
    [(0o444, True, 0o555), (0o440, True, 0o550), (0o664, True, 0o775), (0o555, False, 0o444), (0o400, True, 0o500)],
)
def test_only_executable_bits_change_where_only_they_are_meant(mode: int, executable: bool, changed: int) -> None:
    assert with_executable(stat.S_IFREG | mode, executable=executable) == changed


# -- locking ----------------------------------------------------------------------------------------------------------


def test_the_workspace_is_for_one_at_a_time_and_leaves_nothing(tmp_path: Path) -> None:
    with held(tmp_path) as archives:
        with workspace(archives) as made:
            (tmp_path / os.path.basename(os.fsdecode(made.path)) / "file").write_bytes(b"")
            with pytest.raises(Busy), workspace(archives):
                pass
        assert list(tmp_path.iterdir()) == []
        with workspace(archives):
            pass


STRANGE = [
    ("link", "is a link"),
    ("fifo", "is no directory"),
    ("open to others", "mode 777, not to this user alone"),
    ("files without a lock", "files in it but no lock"),
    ("lock is a link", "lock is left alone: it is a link"),
    ("lock is a fifo", "lock is left alone: it is no regular file"),
    ("lock has two names", "lock is left alone: it is no lock of this user"),
    pytest.param("foreign", "belongs to user 1234", marks=pytest.mark.skipif(os.getuid() != 0, reason="needs root")),
]


@pytest.mark.parametrize(("what", "message"), STRANGE)
def test_what_is_no_workspace_of_ours_is_named_and_left_alone(tmp_path: Path, what: str, message: str) -> None:
    (archives := tmp_path / "archives").mkdir()
    (documents := tmp_path / "documents").mkdir(mode=0o700)
    (documents / "thesis").write_bytes(b"precious")
    place = archives / ".riafs-packing"
    lock = place / "lock"
    if what == "link":
        (documents / "lock").touch()
        place.symlink_to(documents)
    elif what == "fifo":
        os.mkfifo(place)
    else:
        documents.rename(place)
        documents = place
    match what:
        case "open to others":
            lock.touch()
            place.chmod(0o777)
        case "lock is a link":
            lock.symlink_to(tmp_path / "elsewhere")
        case "lock is a fifo":
            os.mkfifo(lock)
        case "lock has two names":
            lock.touch()
            os.link(lock, tmp_path / "another")
        case "foreign":
            lock.touch()
            os.chown(place, 1234, 1234)
    with held(archives) as directory, pytest.raises(NotOurs, match=message), workspace(directory):
        pass
    assert (documents / "thesis").read_bytes() == b"precious"
    assert not (tmp_path / "elsewhere").exists()
    assert os.path.lexists(place)


def _count_up(directory: str) -> None:
    for _ in range(40):
        while True:
            try:
                with held(Path(directory)) as archives, workspace(archives):
                    counter = Path(directory, "counter")
                    counter.write_text(str(int(counter.read_text()) + 1))
                    break
            except Busy:
                continue


def test_many_processes_never_have_the_workspace_together(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_count_up, args=(str(tmp_path),)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert (tmp_path / "counter").read_text() == "160"


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        (errno.ENOSPC, StoreError),
        (errno.EDQUOT, StoreError),
        (errno.EROFS, ReadOnly),
        (errno.EACCES, StoreDenied),
        (errno.EPERM, StoreDenied),
        (errno.EIO, StoreError),
    ],
)
def test_failures_of_writing_have_their_class(code: int, failure: type[Exception]) -> None:
    with pytest.raises(failure), writing_to(b"/some/path"):
        raise OSError(code, os.strerror(code))


# -- order ------------------------------------------------------------------------------------------------------------


async def test_keys_come_in_the_order_of_the_paths_that_use_them(dataset: SmallDataset) -> None:
    unused = found(key_of(b"unused"))
    keys = sorted(CONTENTS, reverse=True)
    paths = {b"dir%d/file%d" % (n % 3, n): key for n, key in enumerate(keys)}

    async def job(opened: PackedDataset) -> None:
        ordered = await in_tree_order([unused, *map(found, keys)], opened.repository)
        assert [each.key.serialised for each in ordered] == [
            *(paths[path] for path in sorted(paths)),
            key_of(b"unused"),
        ]

    await with_dataset(dataset, job)


async def test_keys_of_any_depth_have_their_place_in_the_order(dataset: SmallDataset) -> None:
    keys = [key_of(b"%d" % number) for number in range(3)]
    deep = b"b/" * 1_100
    dataset.commit({b"a": Locked(keys[0]), deep + b"c": Locked(keys[1]), b"d": Locked(keys[2])})

    async def job(opened: PackedDataset) -> None:
        ordered = await in_tree_order([found(key) for key in reversed(keys)], opened.repository)
        assert [each.key.serialised for each in ordered] == keys

    await with_dataset(dataset, job)
