"""Run a command over a slow line: what it reads and writes arrives later, and no faster than the line carries.

``python -m tests.remote.slow_line MILLISECONDS MEGABYTES_A_SECOND COMMAND…``: half of the round trip is added in each
direction; 0 for a bandwidth without a limit.
"""

import math
import subprocess
import sys
from functools import partial

import trio

_PIECE = 64 << 10
_ON_THE_WAY = 4096
"""Pieces in one direction; enough for 200 ms of any line that is tried."""


async def relay(source: trio.abc.ReceiveStream, target: trio.abc.SendStream, seconds: float, rate: float) -> None:
    """Copy everything, each byte `seconds` later and at most `rate` bytes a second; then close the target."""
    send, receive = trio.open_memory_channel[tuple[float, bytes]](_ON_THE_WAY)

    async def take() -> None:
        free = 0.0
        async with send:
            while data := await source.receive_some(_PIECE):
                free = max(free, trio.current_time()) + len(data) / rate
                await send.send((free + seconds, data))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take)
        async for due, data in receive:
            await trio.sleep_until(due)
            try:
                await target.send_all(data)
            except trio.BrokenResourceError:
                break
        nursery.cancel_scope.cancel()
    await target.aclose()


async def run(command: list[str], seconds: float, rate: float) -> int:
    """The exit status of the command."""
    process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    own_input, own_output = trio.lowlevel.FdStream(0), trio.lowlevel.FdStream(1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(relay, own_input, process.stdin, seconds, rate)
        await relay(process.stdout, own_output, seconds, rate)
        nursery.cancel_scope.cancel()
    return await process.wait()


def main() -> None:
    milliseconds, megabytes, *command = sys.argv[1:]
    rate = float(megabytes) * 1e6 or math.inf
    sys.exit(trio.run(partial(run, command, float(milliseconds) / 2000, rate)))


if __name__ == "__main__":
    main()
