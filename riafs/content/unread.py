"""Content that was found, but is verified no sooner than it is read.

Programs open what they do not read: a backup opens each file to see that it has not changed. What is found for them is
where the bytes lie and how many there are, which costs no digest and no git child; the first read does the rest, before
any byte is delivered.
"""

from collections.abc import Awaitable, Callable

import trio

from riafs.storage.bytesource import PROVEN, Buffer, RangedBytes, is_provisional, shown_version_of

Begin = Callable[[], Awaitable[RangedBytes]]
"""Finds out that the bytes are right, and gives them. Asked again where it failed."""


class Unread:
    """RangedBytes of `size` bytes, which `begin` makes when they are wanted, for content that is proven as a whole
    before it is served. `leave` gives back what was found where nobody has asked for it.
    """

    __slots__ = ("_begin", "_content", "_leave", "_turn", "on_end", "size")

    def __init__(self, size: int, begin: Begin, leave: Callable[[], None] = lambda: None) -> None:
        self.size = size
        self._begin = begin
        self._leave = leave
        self._content: RangedBytes | None = None
        self._turn = trio.Lock()
        self.on_end: Callable[[bool], None] = lambda _: None
        """Hears once whether it was read, at the first read or when it is closed."""

    @property
    def content(self) -> RangedBytes | None:
        """What is there once it is verified."""
        return self._content

    async def begun(self) -> RangedBytes:
        """The verified content. Raises what verifying does; then it may be asked again."""
        if self._content is None:
            async with self._turn:
                if self._content is None:
                    self._content = await self._begin()
        return self._content

    async def read(self, offset: int, length: int) -> Buffer:
        """See RangedBytes. Raises also what verifying does."""
        content = self._content
        if content is None:
            self._tell(was_read=True)
            content = await self.begun()
        return await content.read(offset, length)

    @property
    def provisional(self) -> bool:
        """See Provisional."""
        return self._content is not None and is_provisional(self._content)

    @property
    def shown_version(self) -> object:
        """See Provisional. Nothing but what was proven will be read."""
        return PROVEN if self._content is None else shown_version_of(self._content)

    def close(self) -> None:
        """Close the content, or give back what was found."""
        self._tell(was_read=False)
        if self._content is not None:
            self._content.close()
        else:
            self._leave()

    def _tell(self, *, was_read: bool) -> None:
        on_end, self.on_end = self.on_end, lambda _: None
        on_end(was_read)
