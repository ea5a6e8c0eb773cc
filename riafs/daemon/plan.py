"""A source as a command line names it, and a mount of it: everything that is decided before something is opened."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from riafs.errors import BadSource
from riafs.formats.sources import RiaUrl, Source, parse_source, rewrite
from riafs.git.user import instead_of_rules
from riafs.settings import Directories, Given, Settings, complete_environment, load

if TYPE_CHECKING:
    from riafs.storage.temporary import (
        SpilledText,  # imports trio, which the process that starts a mount can do without
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSource:
    """A source, and what decides how it is opened. All paths are absolute: the working directory no longer matters."""

    source: Source
    settings: Settings
    environment: Mapping[str, str]
    """As `riafs.settings.complete_environment` gives it."""
    instead_of: tuple[tuple[str, str], ...]
    """(base, prefix) of the user's ``url.<base>.insteadOf`` rules; already applied to `source`."""
    manifest: "SpilledText | None" = field(default=None, repr=False)
    """The manifest that came on standard input, where `source` has its manifest from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPlan(NamedSource):
    """What is mounted where, and how."""

    mountpoint: str
    """A directory without symbolic links in its path, or ``/dev/fd/N`` for a FUSE device that is open already."""
    directories: Directories
    by_mount: bool = False
    """Whether mount(8) asks, for a line of /etc/fstab or a person."""


def named_source(text: str, given: Iterable[Given] = (), environment: Mapping[str, str] | None = None) -> NamedSource:
    """The source that `text` names, with the options `given` over those of configuration files and variables.

    `environment`: that of this process unless given. Raises BadSource, UsageError.
    """
    environment = complete_environment() if environment is None else environment
    rules = instead_of_rules(environment)
    settings = load(environment, given).settings
    return NamedSource(
        source=absolute_source(text, rules), settings=settings, environment=environment, instead_of=rules
    )


def absolute_source(text: str, rules: Iterable[tuple[str, str]]) -> Source:
    """The source `text` names after git's ``insteadOf`` `rules`; a relative path is one from here. Raises BadSource."""
    if "#" in text and "://" not in text and os.path.isdir(text):
        url = quote(os.path.abspath(os.fsencode(text)))
        raise BadSource(
            f"{text} is a directory, but what follows a # in a source names a dataset: write ria+file://{url} for the "
            "store, and #~ALIAS behind it for a dataset"
        )
    source = parse_source(rewrite(text, tuple(rules)).url)
    if not isinstance(source, RiaUrl):
        return source.from_here(os.getcwdb())
    if source.scheme == "file" and not source.path.startswith(b"/"):
        return replace(source, path=os.path.abspath(source.path))
    return source
