"""Settings on the git-annex branch that concern a writer: ``config.log`` and ``trust.log``, newest line first of all.

Both are hints written by anyone who ever pushed; lines that do not parse are skipped (git-annex's internals
documentation).
"""

import re
from collections.abc import Mapping
from decimal import Decimal

from riafs.formats.presence import CLOCK

_CONFIG_LINE = re.compile(rb"^" + CLOCK + rb" (\S+) ?([^\n]*)$", re.MULTILINE)
_TRUST_LINE = re.compile(rb"^(\S+) ([01?X])(?: timestamp=" + CLOCK + rb")?$", re.MULTILINE)
_DEAD = b"X"


def parse_config_log(text: bytes) -> Mapping[bytes, bytes]:
    """Name → value of the settings that hold for all clones; an empty value unsets."""
    newest: dict[bytes, tuple[Decimal, bytes]] = {}
    for match in _CONFIG_LINE.finditer(text):
        clock = Decimal(match[1].decode())
        if match[2] not in newest or clock >= newest[match[2]][0]:
            newest[match[2]] = (clock, match[3].strip())
    return {name: value for name, (_, value) in newest.items() if value}


def dead_repositories(text: bytes) -> frozenset[bytes]:
    """The UUIDs of a ``trust.log`` that are marked as dead."""
    newest: dict[bytes, tuple[Decimal, bytes]] = {}
    for match in _TRUST_LINE.finditer(text):
        clock = Decimal((match[3] or b"0").decode())
        if match[1] not in newest or clock >= newest[match[1]][0]:
            newest[match[1]] = (clock, match[2])
    return frozenset(uuid for uuid, (_, trust) in newest.items() if trust == _DEAD)
