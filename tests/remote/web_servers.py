"""Real web servers for the files in a directory: nginx, Apache, ``python -m http.server``, git-http-backend."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.remote.servers import HOST, Server, program, running


@dataclass(frozen=True, slots=True)
class Request:
    """A request in a server's log."""

    method: str
    target: str
    """Path and query as they were sent."""
    status: int
    range: str
    """The Range header, empty without one."""
    sent: int
    """Bytes of the answer's body."""
    connection: int
    authorization: str
    cache: str = ""
    """Where nginx is a cache: HIT, MISS, …"""


class WebServer(Server):
    """A server of static files."""

    secure = False

    def url(self, path: str = "", *, scheme: str = "", credentials: str = "") -> str:
        """The URL of `path`; `scheme` ``ria+`` makes it a RIA URL, `credentials` are ``user:password``."""
        host = f"{credentials}@{HOST}" if credentials else HOST
        return f"{scheme}http{'s' if self.secure else ''}://{host}:{self.port}{path}"

    def requests(self, part: str = "") -> list[Request]:
        """The requests so far whose targets have `part` in them, in the order in which they ended."""
        return [request for request in self._log() if part in request.target]

    def _log(self) -> list[Request]:
        return []


class Nginx(WebServer):
    """nginx, which logs its requests."""

    def _log(self) -> list[Request]:
        log = self.directory / "access.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return [_request(json.loads(line)) for line in lines]


def _request(fields: dict[str, str]) -> Request:
    return Request(
        fields["method"],
        fields["target"],
        int(fields["status"]),
        fields["range"],
        int(fields["sent"]),
        int(fields["connection"]),
        fields["authorization"],
        fields["cache"],
    )


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority of the tests' own, below `directory`."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> "Authority":
        """A new one. Skips the test without openssl."""
        directory.mkdir(parents=True, exist_ok=True)
        made = cls(directory)
        made._request("ca", "/CN=riafs tests", "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign")
        return made

    @property
    def certificate(self) -> Path:
        """The file with which clients verify servers."""
        return self.directory / "ca.pem"

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1 and its key, for a server or for a client."""
        signed = ("-CA", self.certificate, "-CAkey", self.directory / "ca.key")
        names = f"subjectAltName=IP:{HOST},DNS:localhost"
        self._request(name, f"/CN={name}", names, "basicConstraints=critical,CA:FALSE", signed=signed)
        return self.directory / f"{name}.pem", self.directory / f"{name}.key"

    def _request(self, name: str, subject: str, *extensions: str, signed: Sequence[str | Path] = ()) -> None:
        added = [word for extension in extensions for word in ("-addext", extension)]
        files = ("-keyout", self.directory / f"{name}.key", "-out", self.directory / f"{name}.pem")
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
        command = [program("openssl"), "req", "-x509", *curve, "-subj", subject, *added, *files, *signed]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)


@dataclass(frozen=True, slots=True)
class WebSettings:
    """How a web server serves files."""

    autoindex: bool = False
    ranges: bool = True
    tls: Authority | None = None
    client_certificates: bool = False
    """Whether clients have to show one of the same authority."""
    password: tuple[str, str] | None = None
    """(user, password) that has to be given."""
    git_backend: int | None = None
    """The port of git-http-backend, which then answers git's smart requests."""
    cache_of: int | None = None
    """The port of a server whose answers are cached and passed on, instead of files."""
    lines: Sequence[str] = field(default=())
    """Further lines of nginx's ``server`` block."""


@contextmanager
def nginx(directory: Path, root: Path, settings: WebSettings | None = None) -> Iterator[Nginx]:
    """nginx, which serves the files below `root`."""
    found = program("nginx")
    directory.mkdir(parents=True, exist_ok=True)
    chosen = settings or WebSettings()
    config = directory / "nginx.conf"

    def command(port: int) -> Sequence[str | Path]:
        config.write_text(_nginx_config(directory, root, chosen, port))
        return found, "-p", directory, "-c", config, "-e", "output"

    server = Nginx(directory, command)
    server.secure = chosen.tls is not None
    with running(server):
        yield server


_LOGGED = {
    "method": "$request_method",
    "target": "$request_uri",
    "status": "$status",
    "range": "$http_range",
    "sent": "$body_bytes_sent",
    "connection": "$connection",
    "authorization": "$http_authorization",
    "cache": "$upstream_cache_status",
}


def _nginx_config(directory: Path, root: Path, settings: WebSettings, port: int) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    logged = ",".join(f'"{name}":"{variable}"' for name, variable in _LOGGED.items())
    lines = [
        "user root;" if os.getuid() == 0 else "",  # the directories of tests are closed to others
        "daemon off; worker_processes 1; pid nginx.pid; error_log output warn;",
        "events { worker_connections 1000; }",
        "http {",
        *(f"{kind}_temp_path temporary-{kind};" for kind in kinds),
        "default_type application/octet-stream; sendfile on; keepalive_requests 1000000;",
        f"log_format tests escape=json '{{{logged}}}';",
        "access_log access.log tests;",
        "proxy_cache_path cached keys_zone=cached:1m;",
        "server {",
        f'root "{root}";',
        *_nginx_server(directory, settings, port),
        *settings.lines,
        "} }",
    ]
    return "\n".join([*lines, ""])


def _nginx_server(directory: Path, settings: WebSettings, port: int) -> Iterator[str]:
    yield f"listen {HOST}:{port}{' ssl' if settings.tls else ''};"
    yield f"autoindex {'on' if settings.autoindex else 'off'};"
    if not settings.ranges:
        yield "max_ranges 0;"
    if settings.tls:
        certificate, key = settings.tls.issue(f"server-{port}")
        yield f'ssl_certificate "{certificate}"; ssl_certificate_key "{key}";'
        if settings.client_certificates:
            yield f'ssl_client_certificate "{settings.tls.certificate}"; ssl_verify_client on;'
    if settings.password:
        (directory / "passwords").write_text(_password_line(*settings.password))
        yield f'auth_basic tests; auth_basic_user_file "{directory / "passwords"}";'
    if settings.git_backend:
        yield f"location ~ /(info/refs|git-upload-pack)$ {{ proxy_pass http://{HOST}:{settings.git_backend}; }}"
    if settings.cache_of:
        yield f"location / {{ proxy_pass http://{HOST}:{settings.cache_of}; proxy_cache cached;"
        yield "slice 1m; proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range;"
        yield "proxy_http_version 1.1; proxy_cache_valid 200 206 1h; }"


def _password_line(user: str, password: str) -> str:
    command = [program("openssl"), "passwd", "-apr1", password]
    hashed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return f"{user}:{hashed}\n"


_APACHE_MODULES = ("mpm_event", "authz_core", "dir", "autoindex", "mime")


@contextmanager
def apache(directory: Path, root: Path, *, autoindex: bool = False) -> Iterator[WebServer]:
    """Apache, which serves the files below `root`."""
    found = program("apache2")
    directory.mkdir(parents=True, exist_ok=True)
    modules = [f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in _APACHE_MODULES]

    def command(port: int) -> Sequence[str | Path]:
        lines = [
            *modules,
            f"ServerRoot {directory}",
            f"DefaultRuntimeDir {directory}",
            "ServerName localhost",
            f"PidFile {directory / 'apache.pid'}",
            f"ErrorLog {directory / 'error.log'}",
            f"Listen {HOST}:{port}",
            f"DocumentRoot {root}",
            "TypesConfig /dev/null",
            f"<Directory {root}>",
            f"Options +FollowSymLinks {'+' if autoindex else '-'}Indexes",
            "Require all granted",
            "</Directory>",
        ]
        (directory / "apache.conf").write_text("\n".join([*lines, ""]))
        return *_as_nobody(), found, "-D", "FOREGROUND", "-f", directory / "apache.conf"

    server = WebServer(directory, command)
    with running(server):
        yield server


def _as_nobody() -> Sequence[str]:
    """Apache refuses to serve as root: it becomes another user, who may read and write everything."""
    if os.getuid():
        return ()
    capabilities = ("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")
    return (program("setpriv"), "--reuid", "65534", "--regid", "65534", "--clear-groups", *capabilities)


@contextmanager
def python_http(directory: Path, root: Path) -> Iterator[WebServer]:
    """``python -m http.server``, which lists directories and ignores ranges."""
    directory.mkdir(parents=True, exist_ok=True)
    python = (sys.executable, "-u", "-m", "http.server", "--bind", HOST, "--directory", root)
    server = WebServer(directory, lambda port: (*python, str(port)))
    with running(server):
        yield server


@contextmanager
def git_http_backend(directory: Path, root: Path) -> Iterator[WebServer]:
    """git-http-backend for all repositories below `root`, behind a small server. See `WebSettings.git_backend`."""
    directory.mkdir(parents=True, exist_ok=True)
    python = (sys.executable, "-m", "tests.remote.git_backend", root)
    server = WebServer(directory, lambda port: (*python, str(port)))
    with running(server):
        yield server
