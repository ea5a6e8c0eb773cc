"""What went wrong in an HTTP exchange, in our own words: what urllib3 says may quote URLs and what a server sent."""

import http.client
import ssl

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from riafs.errors import CutOff, RiafsError, StoreError, StoreTimeout


def translated(error: HTTPError | OSError, name: str) -> RiafsError:
    """The failure class for `error`; `name` says in its message what was asked of whom."""
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError) and not isinstance(error, NewConnectionError):
        return StoreTimeout(f"{name}: the server did not answer in time")
    cause = _cause(error)
    if isinstance(cause, IncompleteRead | http.client.IncompleteRead):
        return CutOff(f"{name}: the connection was cut in the middle of the answer")
    return StoreError(f"{name}: {_reason(error, cause)}")


def _cause(error: BaseException) -> BaseException:
    """What is behind urllib3's wrappers."""
    inner = error.args[-1] if isinstance(error, ProtocolError | ProxyError | SSLError) and error.args else None
    inner = inner if isinstance(inner, BaseException) else error.__cause__
    return error if inner is None else _cause(inner)


def _reason(error: BaseException, cause: BaseException) -> str:
    prefix = "the proxy cannot be used: " if isinstance(error, ProxyError) else ""
    if isinstance(error, NameResolutionError):
        return prefix + "its name is not known here"
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = cause.verify_message
        return f"{prefix}its certificate is not trusted ({why}); SSL_CERT_FILE can name its authority"
    if isinstance(error, SSLError) or isinstance(cause, ssl.SSLError):
        return prefix + "no TLS connection can be made"
    if isinstance(cause, http.client.RemoteDisconnected):
        return prefix + "the connection was closed without an answer"
    if isinstance(cause, OSError) and cause.strerror:
        return prefix + cause.strerror[:1].lower() + cause.strerror[1:]
    return prefix + "the answer is not proper HTTP"
