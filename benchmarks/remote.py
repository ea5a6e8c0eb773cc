"""A store on another machine, over lines with a round trip of 0, 10 or 20, and 200 ms.

The other machine is this one: an ssh that runs its command here, behind a program that delays both directions. So
figures at 0 ms say what riafs itself costs, and the others what the line does to it. Peers use the same line.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import large_object, listing, measure, mounts, small_files, stores
from benchmarks.bench import Bench
from benchmarks.measure import Times
from benchmarks.report import Row, Target
from tests.remote.here import SFTP_SERVER, SshHere

_LINES = ((0, 0), (10, 0), (200, 100))
"""Round trip in milliseconds, megabytes a second (0: no limit)."""


def rows(bench: Bench) -> Iterator[Row]:
    """The measurements."""
    if not os.path.exists(SFTP_SERVER):
        yield Row(f"stores over ssh: {SFTP_SERVER} is not installed", "s", ())
        return
    yield from _large(bench)
    yield from _listing(bench)
    yield from _small(bench)


@contextmanager
def _line(bench: Bench, milliseconds: float, megabytes: float = 0) -> Iterator[SshHere]:
    place = Path(tempfile.mkdtemp(prefix="ssh-", dir=bench.data))
    try:
        yield SshHere.make(place, milliseconds, megabytes)
    finally:
        shutil.rmtree(place)


def _url(store: Path, alias: str) -> str:
    return f"ria+ssh://here{store}#~{alias}"


def _large(bench: Bench) -> Iterator[Row]:
    """Reading a large file in order, beside cat on the other machine."""
    store, mib = large_object.store(bench)
    [native] = (store / stores.dataset_path(1) / "annex/objects").glob("*/*/*/*")
    for milliseconds, megabytes in _LINES:
        with _line(bench, milliseconds, megabytes) as ssh:

            def ours(ssh: SshHere = ssh) -> Times:
                with mounts.riafs_mount(bench.data, _url(store, "large"), *ssh.options) as directory:
                    return {"riafs": measure.seconds("cat", directory / "large.dat")}

            def cat(ssh: SshHere = ssh) -> Times:
                return {"cat": measure.seconds(ssh.command, "here", f"cat {native}")}

            samples = measure.in_turns(bench.rounds, ours, cat)
        speeds = {
            name: measure.each(taken, lambda seconds: mib * (1 << 20) / 1e6 / seconds)
            for name, taken in samples.items()
        }
        limit = f", line of {megabytes} MB/s" if megabytes else ""
        name = f"{mib} MiB over ssh, round trip {milliseconds} ms{limit}"
        yield Row(name, "MB/s", speeds["riafs"], Target(at_least=0.75), "ssh HOST cat", speeds["cat"])


def _listing(bench: Bench) -> Iterator[Row]:
    """The first listing and a walk of a dataset, beside a clone without files."""
    store = listing.spread(bench)
    with _line(bench, 20) as ssh:
        git = {**os.environ, "GIT_SSH_COMMAND": ssh.command, "GIT_SSH_VARIANT": "ssh"}

        def ours(*, remembered: bool) -> Times:
            began = time.perf_counter()
            source = _url(store, "wide")
            with mounts.riafs_mount(bench.data, source, *ssh.options, remembered=remembered) as directory:
                mounted = time.perf_counter() - began
                first = measure.seconds("ls", directory)
                found = measure.seconds("find", directory, "-ls")
            again = "again " if remembered else ""
            return {f"{again}mount": mounted, f"{again}ls": mounted + first, f"{again}find": mounted + first + found}

        def clone() -> Times:
            target = bench.data / "clone.git"
            shutil.rmtree(target, ignore_errors=True)
            url = f"ssh://here{store / stores.dataset_path(1)}"
            began = time.perf_counter()
            subprocess.run(["git", "clone", "--quiet", "--bare", url, target], env=git, check=True)
            taken = time.perf_counter() - began
            shutil.rmtree(target)
            return {"clone": taken}

        samples = measure.in_turns(bench.rounds, lambda: ours(remembered=False), lambda: ours(remembered=True), clone)
    kind = f"{bench.sized(100_000, 20_000)} files over ssh, round trip 20 ms"
    yield Row(f"{kind}: mount and first ls", "s", samples["ls"], Target(at_most=2, of_ratio=False))
    yield Row(f"{kind}: mount and find -ls", "s", samples["find"], None, "git clone --bare", samples["clone"])
    yield Row(f"{kind}: the same by a second mount", "s", samples["again find"], None, "first mount", samples["find"])


def _small(bench: Bench) -> Iterator[Row]:
    """Many small files, beside tar on the other machine, and once more by a second mount."""
    store, count = small_files.store(bench)
    for milliseconds in (0, 10):
        with _line(bench, milliseconds) as ssh:

            def ours(*, remembered: bool, ssh: SshHere = ssh) -> Times:
                source = _url(store, "small")
                with mounts.riafs_mount(bench.data, source, *ssh.options, remembered=remembered) as directory:
                    name = "again" if remembered else "first"
                    return {name: measure.seconds_piped("tar", "-C", directory, "-cf", "-", ".")}

            def tar(ssh: SshHere = ssh) -> Times:
                return {"tar": measure.seconds_piped(ssh.command, "here", f"tar -C {store} -cf - .")}

            samples = measure.in_turns(
                bench.rounds,
                lambda ours=ours: ours(remembered=False),  # type: ignore[misc]
                lambda ours=ours: ours(remembered=True),  # type: ignore[misc]
                tar,
            )
        kind = f"tar c of {count} files of 4000 bytes over ssh, round trip {milliseconds} ms"
        target = Target(at_most=10, of_ratio=False)
        yield Row(f"{kind}, first time", "s", samples["first"], target, "ssh HOST tar c of the store", samples["tar"])
        yield Row(f"{kind}, by a second mount", "s", samples["again"], None, "first time", samples["first"])
