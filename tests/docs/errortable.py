"""The table of failures in docs/use/errors.md, made from riafs/errors.py: ``python -m tests.docs.errortable``."""

import errno
import inspect
from collections.abc import Iterator
from pathlib import Path

from riafs import errors
from riafs.errors import RiafsError

PAGE = Path(__file__).parents[2] / "docs" / "use" / "errors.md"
_HEAD = """\
# Errors

What to do about the common ones: [troubleshooting](troubleshooting.md). This table is made from `riafs/errors.py` by
`python -m tests.docs.errortable`.

A program that uses a mount gets the errno. A command ends with the exit status, whose values are mount(8)'s: 1 usage or
permission, 2 system, 4 a bug in riafs, 8 interrupted, 16 a conflict, 32 mount failed. `riafs umount` of several
directories adds 64 if some succeeded; `riafs doctor` ends with 1 if a check failed. The last column marks failures that
may be gone when the operation is repeated.

| class | meaning | errno | exit | temporary |
|---|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(_row(kind) for kind in kinds())


def kinds() -> Iterator[type[RiafsError]]:
    """All classes of failures but the base, in the order in which they are written."""
    for kind in vars(errors).values():
        if inspect.isclass(kind) and issubclass(kind, RiafsError) and kind is not RiafsError:
            yield kind


def _row(kind: type[RiafsError]) -> str:
    meaning = " ".join(inspect.cleandoc(kind.__doc__ or "").split()).replace("``", "`").replace("|", "\\|")
    passes = "yes" if kind.retryable else ""
    return f"| {kind.__name__} | {meaning} | {errno.errorcode[kind.errno]} | {kind.exit_code} | {passes} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
