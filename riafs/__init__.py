"""riafs: DataLad RIA stores and Keep collections as file systems, and as trees for Python programs.

`open_source` is the way in; see ``docs/use/python.md``. Names are imported when they are used, as the command ``riafs``
needs none of them.
"""

from riafs.errors import RiafsError

TYPE_CHECKING = False
if TYPE_CHECKING:  # without importing typing
    from riafs.api import AsyncFile, AsyncTree, Info, OpenedSource, Tree, Version, open_source

__all__ = [
    "AsyncFile",
    "AsyncTree",
    "Info",
    "OpenedSource",
    "RiafsError",
    "Tree",
    "Version",
    "errors",
    "open_source",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import riafs.api

    return getattr(riafs.api, name)


def __dir__() -> list[str]:
    return __all__
