"""Which processes are above a thread that asks for something, by ``/proc`` (proc(5))."""

_ATTEMPTS = 5
_DEEPEST = 10_000


def processes_above(thread: int) -> frozenset[int]:
    """Numbers of the processes above the one that `thread` is of, up to the first one; none where it has ended, or is
    not to be seen from here.
    """
    for _ in range(_ATTEMPTS):
        found = _climb(thread)
        if found is not None:
            return frozenset(found)
    return frozenset()


def _climb(process: int) -> list[int] | None:
    """None: one of them has ended on the way up, so that those below it have another parent now."""
    found: list[int] = []
    while len(found) < _DEEPEST:
        parent = _parent(process)
        if parent is None:
            return None if found else []
        if not parent:
            return found
        found.append(parent)
        process = parent
    return found


def _parent(process: int) -> int | None:
    """0 where there is none, None where there is no such process."""
    try:
        with open(f"/proc/{process}/stat", "rb", buffering=0) as file:
            text = file.read(4096)
    except OSError:
        return None
    fields = text.rpartition(b")")[2].split()  # a program's name may have blanks and parentheses
    return int(fields[1]) if len(fields) > 1 else None
