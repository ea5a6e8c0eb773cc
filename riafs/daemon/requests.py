"""What is in the requests of the control socket."""

from riafs.daemon.control import Request
from riafs.errors import UsageError


def text(request: Request, name: str) -> str:
    """A text that a request must have. Raises UsageError."""
    value = request.get(name)
    if not isinstance(value, str):
        raise UsageError(f"a request {request['command']} needs {name}, which is text")
    return value


def texts(request: Request, name: str) -> list[str]:
    """A list of texts that a request must have. Raises UsageError."""
    value = request.get(name)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise UsageError(f"a request {request['command']} needs {name}, which is a list of texts")
    return value


def number(request: Request, name: str) -> int:
    """A number that a request must have. Raises UsageError."""
    value = request.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UsageError(f"a request {request['command']} needs {name}, which is a number")
    return value
