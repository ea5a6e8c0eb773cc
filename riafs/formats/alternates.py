"""``objects/info/alternates``: further object directories that a git repository borrows from."""

MAX_ALTERNATES = 100


def parse_alternates(text: bytes) -> tuple[bytes, ...]:
    """The paths of the file, relative ones against the ``objects`` directory, at most MAX_ALTERNATES.

    Comments and lines in C quotes (git writes them for names with line ends only) are left out.
    """
    lines = (line for line in text.split(b"\n") if line and not line.startswith((b"#", b'"')) and b"\0" not in line)
    return tuple(line for line, _ in zip(lines, range(MAX_ALTERNATES), strict=False))
