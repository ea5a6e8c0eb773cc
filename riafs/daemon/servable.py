"""What the life of a mount needs to know about the thing that is mounted."""

from collections.abc import Mapping
from typing import Any, Protocol

from trio import TaskStatus

from riafs.daemon.control import Command


class Servable(Protocol):
    """A source that is open and can be mounted once."""

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Mount, call ``task_status.started()`` when requests are served, return after an unmount.

        Cancelling it unmounts. Raises MountFailed.
        """

    async def refresh(self) -> None:
        """Look now for what has changed in the store, instead of when the refresh time has passed."""

    @property
    def commands(self) -> Mapping[str, Command]:
        """What it can be asked for over the control socket, beside what every mount can."""

    async def status(self) -> Mapping[str, Any]:
        """What there is to say of it beside what every mount has, for ``riafs status``."""

    def close(self) -> None:
        """Give back what was opened; called after `serve` has ended, or instead of it."""
