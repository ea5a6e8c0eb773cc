"""References of a git repository: the files below ``refs``, ``packed-refs``, and what a user's ``@version`` may name.

A reference's name becomes part of a path, so that no name passes `valid_ref_name` that leads out of ``refs/``. Names
and object names are bytes; object names are 40 or 64 lower-case hex digits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from riafs.errors import MalformedObject
from riafs.formats.text import shown

MAX_REF_NAME = 1024
_MAX_COMPONENT = 255
_MAX_REF_FILE = 4096
_SHOWN = 80
_OID = rb"[0-9a-f]{40}(?:[0-9a-f]{24})?"
_PACKED_LINE = re.compile(rb"(?:(" + _OID + rb") ([^\n]+)|\^" + _OID + rb"|#[^\n]*|)\n")
_LOOSE_OID = re.compile(rb"(" + _OID + rb")(?:\s|\Z)")
_SYMBOLIC = re.compile(rb"ref:\s*(\S.*?)\s*\Z", re.DOTALL)
_FORBIDDEN = re.compile(rb"[\0-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|\Z)|[./]\Z").search
_ADJUSTED = re.compile(rb"refs/heads/adjusted/(.+)\([a-z]+(?:-[a-z]+)?\)", re.DOTALL).fullmatch
_COMMIT = re.compile(rb"[0-9a-fA-F]{7,64}").fullmatch


@dataclass(frozen=True, slots=True)
class SymbolicRef:
    """A reference that stands for another one."""

    target: bytes
    """A name that passes `valid_ref_name`."""


@dataclass(frozen=True, slots=True)
class Oid:
    """A reference that names an object."""

    hex: bytes


def valid_ref_name(name: bytes) -> bool:
    """Whether `name` begins with ``refs/`` and follows the rules of ``git check-ref-format``."""
    if not name.startswith(b"refs/") or len(name) > MAX_REF_NAME or _FORBIDDEN(name):
        return False
    return all(len(component) <= _MAX_COMPONENT for component in name.split(b"/"))


def parse_packed_refs(text: bytes) -> Mapping[bytes, bytes]:
    """Name → object name (hex) of a ``packed-refs`` file.

    Names that git refuses are left out; of two lines with one name the first counts. Raises MalformedObject where a
    line is anything but a ref, a peeled tag or a comment, or has no end, as git does: a ref that is left out for that
    would be taken for one that does not exist.
    """
    refs: dict[bytes, bytes] = {}
    end = 0
    for match in _PACKED_LINE.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        if match[2] is not None and valid_ref_name(match[2]):
            refs.setdefault(match[2], match[1])
    if end != len(text):
        raise MalformedObject(f"packed-refs is damaged at byte {end}: {shown(text[end : end + _SHOWN])}")
    return refs


def parse_ref(text: bytes) -> SymbolicRef | Oid:
    """What ``HEAD`` or a file below ``refs`` says. Raises MalformedObject."""
    if len(text) > _MAX_REF_FILE:
        raise MalformedObject(f"a reference of {len(text)} bytes")
    if match := _LOOSE_OID.match(text):
        return Oid(match[1])
    symbolic = _SYMBOLIC.match(text)
    if symbolic is None or not valid_ref_name(symbolic[1]):
        raise MalformedObject(f"not a reference: {shown(text)}")
    return SymbolicRef(symbolic[1])


def candidates(version: bytes) -> tuple[bytes, ...]:
    """The references that ``@version`` may mean, first wins: a branch before a tag as in ``git clone --branch`` (which
    DataLad calls), then a full name. Empty for what can be no reference.
    """
    names = (b"refs/heads/" + version, b"refs/tags/" + version, version)
    return tuple(name for name in names if valid_ref_name(name))


def adjusted_branch(ref: bytes) -> bytes | None:
    """The branch that git-annex adjusted to make the branch `ref`, None where it did not.

    ``adjusted/main(unlocked)`` is one of ``main``; so are those of ``git annex adjust`` for ``locked``, ``fixed``,
    ``hidemissing``, ``hidemissing-unlocked`` and so on (Annex/AdjustedBranch/Name.hs).
    """
    match = _ADJUSTED(ref)
    return b"refs/heads/" + match[1] if match else None


def looks_like_commit(version: bytes) -> bool:
    """Whether `version` may be an object name or the beginning of one: 7 to 64 hex digits."""
    return _COMMIT(version) is not None
