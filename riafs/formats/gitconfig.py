"""Output of ``git config -z --list``, and the submodules that a ``.gitmodules`` read that way describes.

git parses the file, so that quoting, comments and continuation lines are its business. Values are whatever the file's
author wrote; a submodule's path is checked here, its URLs where they are used.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from riafs.formats.names import valid_name

Item = tuple[bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class Submodule:
    """One section of ``.gitmodules``; what a section does not say is None."""

    path: bytes
    """Relative to the dataset's root; every component is a valid name."""
    url: bytes | None
    datalad_id: bytes | None
    datalad_url: bytes | None


def parse_config_list(output: bytes) -> tuple[Item, ...]:
    """Name and value in the file's order; the value is None where a name stands alone.

    git writes section and variable in lower case and leaves the subsection as it is.
    """
    return tuple(_item(entry) for entry in output.split(b"\0") if entry)


def submodules(items: Iterable[Item]) -> Mapping[bytes, Submodule]:
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


def submodule_sections(items: Iterable[Item]) -> dict[bytes, bytes]:
    """Name of each submodule's section → its path, as it stands there; sections without one are left out."""
    found: dict[bytes, bytes] = {}
    for name, value in items:
        section, _, variable = name.rpartition(b".")
        if value and variable == b"path" and section.startswith(b"submodule."):
            found[section.removeprefix(b"submodule.")] = value.removesuffix(b"/")
    return found


def _item(entry: bytes) -> Item:
    name, newline, value = entry.partition(b"\n")
    return name, value if newline else None


def _submodule(values: Mapping[bytes, bytes]) -> Submodule:
    return Submodule(
        path=values.get(b"path", b"").removesuffix(b"/"),
        url=values.get(b"url"),
        datalad_id=values.get(b"datalad-id"),
        datalad_url=values.get(b"datalad-url"),
    )
