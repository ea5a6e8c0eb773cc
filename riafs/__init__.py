"""riafs: DataLad RIA stores and Keep collections as file systems."""


def version() -> str:
    """The version from the package's metadata, or ``unknown`` where it runs without having been installed."""
    from importlib import metadata  # a tenth of a command's start-up time

    try:
        return metadata.version("riafs")
    except metadata.PackageNotFoundError:
        return "unknown"
