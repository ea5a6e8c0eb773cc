"""Telling systemd how a mount is doing: the datagrams of sd_notify(3).

Owns the protocol only; with no NOTIFY_SOCKET in the environment nothing is sent.
"""

import contextlib
import socket
from collections.abc import Mapping


class Notifier:
    """Sends states; a supervisor that does not listen is no reason to fail."""

    __slots__ = ("_address", "watchdog_seconds")

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        interval = environment.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(interval) / 1e6 if self._address and interval.isdecimal() else 0.0
        """How often WATCHDOG=1 has to come, in seconds; 0 if nobody waits for it."""

    def send(self, *states: str) -> None:
        """Send ``NAME=value`` states in one datagram, without waiting."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.setblocking(False)
            notify.sendto("\n".join(states).encode(errors="replace"), self._address)
