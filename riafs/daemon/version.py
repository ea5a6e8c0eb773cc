"""The version of riafs that is installed."""

from importlib import metadata


def version() -> str:
    """The version from the package's metadata, or ``unknown`` where it runs without having been installed."""
    try:
        return metadata.version("riafs")
    except metadata.PackageNotFoundError:
        return "unknown"
