"""OpenPGP messages encrypted with a passphrase, as git-annex writes them for ``encryption=shared``: decrypted by gpg.

gpg runs with a home directory of its own that is empty, reads the passphrase from a pipe and the message from another,
and cannot ask for anything. Its output goes to an unlinked temporary file of bounded size.
"""

import os
import shutil
import subprocess

import trio

from riafs.children import ATTEMPTS, cause, ended_by_others, killed
from riafs.errors import DecodeFailed, MissingProgram, ShortRead, StoreTimeout
from riafs.storage.bytesource import RangedBytes
from riafs.storage.local_file import FileBytes
from riafs.storage.temporary import temporary_directory, temporary_file

_CHUNK = 1 << 20
_EXPANSION = 1032  # bytes that deflate can make of one, at most
_SLOWEST = 1 << 20  # bytes a second, on top of the deadline


class Decryptor:
    """Runs gpg; one per mount. `scratch`: directory for temporary files; `seconds`: for a small message."""

    def __init__(self, search_path: str, scratch: bytes, seconds: float) -> None:
        self._search_path = search_path
        self._scratch = scratch
        self._seconds = seconds

    async def decrypt(self, message: RangedBytes, passphrase: bytes) -> RangedBytes:
        """The plain bytes of `message`. Raises DecodeFailed, MissingProgram, StoreTimeout, ProgramKilled, …"""
        program = shutil.which("gpg", path=self._search_path)
        if program is None:
            raise MissingProgram("gpg is needed to read encrypted content; install the package gnupg")
        home, _ = temporary_directory(
            self._scratch, b"gpg-", lambda path: os.mkdir(path + b"/private-keys-v1.d", 0o700)
        )
        try:
            with temporary_file(self._scratch, 2 * message.size) as plain:
                for _ in range(ATTEMPTS):
                    status = await self._run(program, home, message, passphrase, plain.fileno())
                    if not ended_by_others(status):
                        break
                    plain.seek(0)
                    plain.truncate()
                else:
                    raise killed("gpg, decrypting content,", status)
                if status:
                    raise DecodeFailed(f"gpg cannot decrypt the content ({cause(status)}); it may be damaged")
                size = os.fstat(plain.fileno()).st_size
                return FileBytes(os.dup(plain.fileno()), size, "decrypted content")
        finally:
            shutil.rmtree(home, ignore_errors=True)

    async def _run(self, program: str, home: bytes, message: RangedBytes, passphrase: bytes, output: int) -> int:
        """The exit status of gpg. Raises DecodeFailed if there is more output than possible, StoreTimeout."""
        secret, secret_end = os.pipe()
        try:
            os.write(secret_end, passphrase + b"\n")  # 429 bytes fit into a pipe
        finally:
            os.close(secret_end)
        command = [program, *_OPTIONS, "--passphrase-fd", str(secret), "--decrypt"]
        environment = {"PATH": self._search_path, "GNUPGHOME": os.fsdecode(home), "LC_ALL": "C"}
        try:
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.DEVNULL, pass_fds=[secret],
                env=environment, cwd="/",
            )  # fmt: skip
        finally:
            os.close(secret)
        with trio.move_on_after(self._seconds + message.size / _SLOWEST):
            status = await _feed(process, message)
            if os.fstat(output).st_size > message.size * _EXPANSION + _CHUNK:
                raise DecodeFailed("decrypted content is larger than its message can be")
            return status
        raise StoreTimeout("gpg did not finish in time")


_OPTIONS = ("--batch", "--no-tty", "--quiet", "--no-options", "--no-autostart", "--pinentry-mode", "loopback")


async def _feed(process: trio.Process, message: RangedBytes) -> int:
    """Write the message to gpg and wait for its end; it is killed if we are cancelled. Returns its exit status."""
    assert process.stdin is not None
    try:
        async with process.stdin:
            for offset in range(0, message.size, _CHUNK):
                try:
                    await process.stdin.send_all(await message.read(offset, _CHUNK))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    break
        return await process.wait()
    except (trio.Cancelled, ShortRead):
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        raise
