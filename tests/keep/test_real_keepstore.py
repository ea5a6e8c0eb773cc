"""Reading from real keepstore processes; skipped where RIAFS_KEEPSTORE does not name the program."""

import random
import time
from pathlib import Path

import pytest

from riafs.content.copies import CopyState
from riafs.content.keep_copies import copies
from riafs.errors import CorruptContent, MissingContent, ShortRead, StoreDenied
from riafs.formats.locators import Locator
from tests.keep.blocks import Setting, keep_blocks, locator_of, no_renewal
from tests.keep.keepstore import PROGRAM, TOKEN, keepstores, signed
from tests.plugins.log_hygiene import Announce

pytestmark = pytest.mark.skipif(PROGRAM == "", reason="RIAFS_KEEPSTORE names no keepstore program")

SIZES = {"small": 40_000, "large": 5_000_000}
LATER = 0x7FFFFFFF


def block_of(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", [1, 64 << 10, (64 << 10) + 1, 5_000_000, 1 << 26])
async def test_blocks_of_any_size_are_read(tmp_path: Path, size: int) -> None:
    block = block_of(size)
    with keepstores(tmp_path, 1, signing=False) as servers:
        locator = servers[0].put(block)
        async with keep_blocks(Setting(servers, token=TOKEN)) as blocks:
            assert await blocks.read(locator, 0, size, no_renewal) == block


async def test_a_signature_from_a_put_and_one_of_ours_are_accepted(tmp_path: Path) -> None:
    with keepstores(tmp_path, 1, signing=True) as servers:
        for number, locator in enumerate((servers[0].put(b"one"), signed(b"one", LATER))):
            async with keep_blocks(Setting(servers, token=TOKEN)) as blocks:
                assert await blocks.read(locator, 0, 3, no_renewal) == b"one", number


@pytest.mark.parametrize("bad", ["expired", "of another token", "none"])
async def test_a_signature_that_is_refused_is_renewed(tmp_path: Path, bad: str) -> None:
    renewals = []

    async def renew(used: Locator) -> Locator:
        renewals.append(used)
        return signed(b"one", LATER)

    refused = {
        "expired": signed(b"one", int(time.time()) - 5),
        "of another token": signed(b"one", LATER, "another"),
        "none": locator_of(b"one"),
    }
    with keepstores(tmp_path, 1, signing=True) as servers:
        servers[0].put(b"one")
        async with keep_blocks(Setting(servers, token=TOKEN)) as blocks:
            assert await blocks.read(refused[bad], 0, 3, renew) == b"one"
    assert len(renewals) == 1


async def test_no_token_is_denied(tmp_path: Path, expected_warnings: Announce) -> None:
    expected_warnings("check the token")
    with keepstores(tmp_path, 1, signing=True) as servers:
        locator = servers[0].put(b"one")
        async with keep_blocks(Setting(servers)) as blocks:
            with pytest.raises(StoreDenied):
                await blocks.read(locator, 0, 3, no_renewal)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_a_corrupt_file_gives_the_other_copy_or_an_error(
    tmp_path: Path, size: int, expected_warnings: Announce
) -> None:
    expected_warnings("damaged|ends early|bytes come", "cannot be read")
    block = block_of(size)
    with keepstores(tmp_path, 2, signing=False) as servers:
        locator, _ = (server.put(block) for server in servers)
        path = servers[0].file(locator)
        path.chmod(0o600)
        path.write_bytes(block[:-1] + bytes([block[-1] ^ 1]))
        async with keep_blocks(Setting(servers, token=TOKEN)) as blocks:
            assert await blocks.read(locator, 0, size, no_renewal) == block
            states = [copy.state for copy in await copies(blocks, locator, no_renewal)]
            assert states == [CopyState.DAMAGED, CopyState.GOOD]
        async with keep_blocks(Setting(servers[:1], token=TOKEN, deadline=2)) as blocks:
            with pytest.raises((CorruptContent, ShortRead)):
                await blocks.read(locator, 0, size, no_renewal)


@pytest.mark.parametrize("wrong", [-1, 1])
async def test_a_size_that_is_not_the_blocks_gives_an_error(
    tmp_path: Path, wrong: int, expected_warnings: Announce
) -> None:
    expected_warnings("damaged|ends early|bytes come", "cannot be read")
    block = block_of(5_000_000)
    with keepstores(tmp_path, 1, signing=False) as servers:
        locator = servers[0].put(block)
        async with keep_blocks(Setting(servers, token=TOKEN, deadline=2)) as blocks:
            with pytest.raises((CorruptContent, ShortRead)):
                await blocks.read(Locator(locator.digest, locator.size + wrong), 0, 10, no_renewal)


async def test_a_block_that_is_not_there_is_missing_at_once(tmp_path: Path, expected_warnings: Announce) -> None:
    expected_warnings("is not there")
    with keepstores(tmp_path, 2, signing=False) as servers:
        async with keep_blocks(Setting(servers, token=TOKEN)) as blocks:
            began = time.monotonic()
            with pytest.raises(MissingContent):
                await blocks.read(locator_of(b"nobody has it"), 0, 3, no_renewal)
            assert time.monotonic() - began < 1


async def test_the_volume_is_read_without_the_server(tmp_path: Path) -> None:
    block = block_of(5_000_000)
    with keepstores(tmp_path, 1, signing=False) as servers:
        locator = servers[0].put(block)
        root = servers[0].root
    async with keep_blocks(Setting(volumes=[root])) as blocks:
        assert await blocks.read(locator, 0, len(block), no_renewal) == block
