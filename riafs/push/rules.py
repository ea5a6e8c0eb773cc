"""The rules for files of a dataset: annex or git, backend, locked or unlocked; the same as for git-annex and DataLad.

``annex.largefiles`` in ``.gitattributes`` comes before the same setting of the git-annex branch; without both, a
changed file stays in git or in the annex, and a new one is annexed. A changed annexed file stays locked or unlocked; a
new one is locked unless ``annex.addunlocked`` of the git-annex branch says otherwise. git's own files
(``.gitattributes``, ``.gitmodules``, …) are never annexed, as git does not follow links for them.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from riafs.children import run_again
from riafs.errors import MissingProgram, PushRefused, RiafsError
from riafs.formats import conversions
from riafs.formats.conversions import SET, UNSET, Conversion, conversion_of
from riafs.formats.digests import makes_keys
from riafs.formats.gitobjects import LINK
from riafs.formats.keys import DEFAULT_BACKEND, ExtensionRules, Key, parse_key
from riafs.formats.largefiles import LargeFiles, mime_encoding_of, parse_large_files
from riafs.overlay.changes import BaseEntry, Change

ATTRIBUTES = ("annex.largefiles", "annex.backend", *conversions.ATTRIBUTES)
_LARGE_FILES = b"annex.largefiles"
_BACKEND = b"annex.backend"
_UNLOCKED = b"annex.addunlocked"
_SWITCHES = {
    b"true": True,
    b"yes": True,
    b"on": True,
    b"1": True,
    b"false": False,
    b"no": False,
    b"off": False,
    b"0": False,
}
_SECONDS = 30.0


def annexed_key(base: BaseEntry) -> Key | None:
    """The key of annexed content of the base commit."""
    return parse_key(base.origin.content) if base.origin.content else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision for one file. `backend` is None for content in git; `unlocked`: a pointer instead of a link."""

    backend: bytes | None
    unlocked: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a dataset. `attributes`: path → attribute → value; `configured`: settings of the git-annex
    branch.
    """

    attributes: Mapping[bytes, Mapping[bytes, bytes]]
    configured: Mapping[bytes, bytes]
    has_annex: bool
    search_path: str

    @property
    def extensions(self) -> ExtensionRules:
        """The limits of file extensions that become part of a key."""
        default = ExtensionRules()
        return ExtensionRules(
            _number(self.configured.get(b"annex.maxextensionlength"), default.length),
            _number(self.configured.get(b"annex.maxextensions"), default.count),
        )

    def reads_content(self, change: Change) -> bool:
        """Whether `decide` needs the first bytes of the file."""
        expressions = self._expression(change.path), self._unlocking(change)
        return any(isinstance(each, LargeFiles) and each.reads_content for each in expressions)

    def decide(self, change: Change, size: int, head: bytes) -> Verdict:
        """The decision for a file of `size` bytes that begins with `head` (largefiles.LOOKED_AT bytes, or all).

        Raises PushRefused for a backend whose keys riafs cannot make, and MissingProgram, MalformedLog.
        """
        if not self.has_annex or change.path.rpartition(b"/")[2].startswith(b".git"):
            return Verdict(None)
        if not self._annexed(change, size, head):
            return Verdict(None)
        return Verdict(self._backend(change.path), self._unlocked(change, size, head))

    def _annexed(self, change: Change, size: int, head: bytes) -> bool:
        expression = self._expression(change.path)
        if expression is not None:
            return expression.matches(_File(change.path, size, head, self.search_path))
        base = change.base
        return base is None or bool(base.origin.content) or base.origin.mode == LINK

    def _unlocked(self, change: Change, size: int, head: bytes) -> bool:
        given = self._unlocking(change)
        return given if isinstance(given, bool) else given.matches(_File(change.path, size, head, self.search_path))

    def _unlocking(self, change: Change) -> LargeFiles | bool:
        """Whether an annexed file is unlocked, or the expression that decides it."""
        base = change.base
        if base is not None and base.origin.content:
            return base.origin.mode != LINK
        given = self.configured.get(_UNLOCKED, b"false")
        if given.lower() in _SWITCHES:
            return _SWITCHES[given.lower()]
        try:
            return _parsed(given)
        except RiafsError as problem:
            raise PushRefused(f"whether {os.fsdecode(change.path)} is unlocked is unknown: {problem}") from problem

    def conversion(self, path: bytes) -> Conversion:
        """The conversion that git applies to the bytes of a file."""
        return conversion_of(self.attributes.get(path, {}))

    def _value(self, path: bytes, name: bytes) -> bytes | None:
        """The value of an attribute, else of the setting with the same name."""
        value = self.attributes.get(path, {}).get(name)
        return self.configured.get(name) if value in (None, SET, UNSET) else value

    def _expression(self, path: bytes) -> LargeFiles | None:
        given = self._value(path, _LARGE_FILES)
        if given is None:
            return None
        try:
            return _parsed(given)
        except RiafsError as problem:
            raise PushRefused(f"whether {os.fsdecode(path)} goes to the annex is unknown: {problem}") from problem

    def _backend(self, path: bytes) -> bytes:
        backend = self._value(path, _BACKEND) or DEFAULT_BACKEND
        if not makes_keys(backend):
            raise PushRefused(
                f"{os.fsdecode(path)} is to get a key of the backend {backend.decode(errors='replace')}, "
                "which riafs cannot make; choose another one with annex.backend in .gitattributes"
            )
        return backend


@lru_cache(maxsize=64)
def _parsed(text: bytes) -> LargeFiles:
    return parse_large_files(text)


def _number(text: bytes | None, default: int) -> int:
    return int(text) if text is not None and text.isdigit() and len(text) <= 4 else default


@dataclass(frozen=True, slots=True)
class _File:
    """`Facts` of a file for an expression of git-annex."""

    path: bytes
    size: int
    head: bytes
    search_path: str

    def mime_encoding(self) -> bytes:
        """The encoding, from the first bytes."""
        return mime_encoding_of(self.head)

    def mime_type(self) -> bytes:
        """The type from file(1), whose library git-annex uses."""
        program = shutil.which("file", path=self.search_path)
        if program is None:
            raise MissingProgram("annex.largefiles asks for a mimetype; install the program file")
        environment = {"PATH": self.search_path, "LC_ALL": "C"}
        command = [program, "--brief", "--mime-type", "-"]
        done = run_again(command, environment=environment, seconds=_SECONDS, given=self.head)
        return done.stdout.strip()
