"""Whether those who open files go on to read them, as far as the last ones tell.

What is opened to be read is best verified at once: damage then is told by `open`, and small content is put into the
kernel's cache with the answer, which saves a request. What is opened to be looked at, as backups and ``lsattr`` do with
each file, should cost no digest. Nothing in an `open` says which it is, so each `PROBE`th is answered without, and
the others go by what came of it.
"""

from riafs.content.unread import Unread
from riafs.storage.bytesource import RangedBytes

PROBE = 8


class Readers:
    """Of one mount."""

    def __init__(self) -> None:
        self._opens = 0
        self._do_read = True

    async def prepare(self, content: RangedBytes) -> None:
        """Verify what was opened, if it is likely to be read. Raises what verifying does."""
        if not isinstance(content, Unread):
            return
        self._opens += 1
        if self._do_read and self._opens % PROBE:
            try:
                await content.begun()
            except BaseException:
                content.close()
                raise
        else:
            content.on_end = self._note

    def _note(self, was_read: bool) -> None:  # noqa: FBT001  # as it is called
        self._do_read = was_read
