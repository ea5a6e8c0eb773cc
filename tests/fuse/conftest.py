"""Mounts for the tests of what only the kernel can ask."""

from tests.behaviour.conftest import shown, shown_mount

__all__ = ["shown", "shown_mount"]
