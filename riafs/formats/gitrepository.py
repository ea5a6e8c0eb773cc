"""Files and output of a git repository: references, alternates, configuration, submodules, history.

References are ``HEAD``, the files below ``refs`` and ``packed-refs`` (gitrepository-layout(5)). A name becomes part of
a path, so no name passes `valid_ref_name` that leads out of ``refs/``. Names and object names are bytes; object names
are 40 or 64 lower-case hex digits.

Configuration is the output of ``git config -z --list``: git parses the file, so quoting, comments and continuation
lines are its business. Values are those of the file's author; a submodule's path is checked here, its URLs where they
are used.

History is the output of ``git log --name-status -z --format=HISTORY_FORMAT``, seen with git 2.39 and 2.47: a commit's
line ends with a zero byte; where paths follow, a line feed does first, then status and path of each, both ended by
zero bytes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from riafs.errors import MalformedObject
from riafs.formats.names import valid_name
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
    """A reference to another reference."""

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
    """The content of ``HEAD`` or of a file below ``refs``. Raises MalformedObject."""
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


# -- alternates -------------------------------------------------------------------------------------------------------

MAX_ALTERNATES = 100


def parse_alternates(text: bytes) -> tuple[bytes, ...]:
    """The paths of the file, relative ones against the ``objects`` directory, at most MAX_ALTERNATES.

    Comments and lines in C quotes (git writes them for names with line ends only) are left out.
    """
    lines = (line for line in text.split(b"\n") if line and not line.startswith((b"#", b'"')) and b"\0" not in line)
    return tuple(line for line, _ in zip(lines, range(MAX_ALTERNATES), strict=False))


# -- configuration and submodules -------------------------------------------------------------------------------------

ConfigEntry = tuple[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class Submodule:
    """One section of ``.gitmodules``; what a section does not say is None."""

    path: bytes
    """Relative to the dataset's root; every component is a valid name."""
    url: bytes | None
    datalad_id: bytes | None
    datalad_url: bytes | None


def parse_config_list(output: bytes) -> tuple[ConfigEntry, ...]:
    """Name and value in the file's order; the value is None for a name without one.

    git writes section and variable in lower case and leaves the subsection as it is.
    """
    return tuple(_item(entry) for entry in output.split(b"\0") if entry)


def submodules(items: Iterable[ConfigEntry]) -> Mapping[bytes, Submodule]:
    """Path → submodule. The section's name is arbitrary; of two sections with one path the last counts, as for git.

    Sections without a path, or with one that is absolute or has a component like ``..`` or ``.git``, are left out.
    """
    sections: dict[bytes, dict[bytes, bytes]] = {}
    for name, value in items:
        section, _, variable = name.rpartition(b".")
        if value is not None and section.startswith(b"submodule."):
            values = sections.setdefault(section, {})
            if variable == b"path":  # the order of these lines is what counts
                sections[section] = sections.pop(section)
            values[variable] = value
    found: dict[bytes, Submodule] = {}
    for section_values in sections.values():
        submodule = _submodule(section_values)
        if all(map(valid_name, submodule.path.split(b"/"))):
            found[submodule.path] = submodule
    return found


def submodule_sections(items: Iterable[ConfigEntry]) -> dict[bytes, bytes]:
    """Name of each submodule's section → its path, unchanged; sections without a path are left out."""
    found: dict[bytes, bytes] = {}
    for name, value in items:
        section, _, variable = name.rpartition(b".")
        if value and variable == b"path" and section.startswith(b"submodule."):
            found[section.removeprefix(b"submodule.")] = value.removesuffix(b"/")
    return found


def _item(entry: bytes) -> ConfigEntry:
    name, newline, value = entry.partition(b"\n")
    return name, value if newline else None


def _submodule(values: Mapping[bytes, bytes]) -> Submodule:
    return Submodule(
        path=values.get(b"path", b"").removesuffix(b"/"),
        url=values.get(b"url"),
        datalad_id=values.get(b"datalad-id"),
        datalad_url=values.get(b"datalad-url"),
    )


# -- history ----------------------------------------------------------------------------------------------------------

HISTORY_FORMAT = "%H %ct %P"
_HEADER = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) (-?\d+) ?([0-9a-f ]*)")
_STATUS = re.compile(rb"\n?([A-Z])\d*")
_DELETED = b"D"
_MAX_TIME = 2**33


@dataclass(slots=True)
class ChangedCommit:
    """A commit and the paths that it changed against its first parent."""

    oid: bytes
    """Hex digits."""
    parent: bytes | None
    """The first one, None for a first commit."""
    time: int
    """When it was committed, in seconds since the epoch; 0 where the commit gives no usable time."""
    paths: list[bytes] = field(default_factory=list)
    """Paths that were added or changed; not those that were deleted."""


def parse_history(pieces: Iterable[bytes]) -> Iterator[ChangedCommit]:
    """The commits in output that comes in `pieces`. Raises MalformedObject where it ends in the middle of something."""
    commit: ChangedCommit | None = None
    status: bytes | None = None
    for text in _fields(pieces):
        if status is not None:
            if commit is not None and status != _DELETED:
                commit.paths.append(text)
            status = None
        elif (found := _STATUS.fullmatch(text)) is not None:
            status = found[1]
        elif (header := _HEADER.fullmatch(text)) is not None:
            if commit is not None:
                yield commit
            parents, time = header[3].split(), int(header[2])
            commit = ChangedCommit(header[1], parents[0] if parents else None, time if 0 <= time <= _MAX_TIME else 0)
        else:
            raise MalformedObject(f"git wrote {text[:80]!r} among the changes of a history")
    if status is not None:
        raise MalformedObject("the changes of a history end within a commit")
    if commit is not None:
        yield commit


def _fields(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\0")
        yield from whole
    if rest:
        raise MalformedObject("the changes of a history are cut off")
