"""Real servers on 127.0.0.1, each with a configuration, keys and logs of its own below a directory of the test.

Every server is a context manager that yields it ready to answer, or skips the test where its program is missing. It is
ended by its process number with all processes that it started, and can be stopped and started again at the same port.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fuse.mounting import PROJECT
from tests.waiting import eventually

HOST = "127.0.0.1"
_ATTEMPTS = 3
"""A port that was free a moment ago may be another program's."""


def program(name: str) -> str:
    """The path of a program, also of those that only root has in PATH. Skips the test where it is missing."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin:/usr/lib/openssh")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether connections to the port are accepted."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=5):
        return True
    return False


def descendants(process: int) -> list[int]:
    """The processes that `process` started and that they started, as far as they live."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{process}/task"):
            children = Path(f"/proc/{process}/task/{thread}/children").read_text().split()
            found += [number for child in map(int, children) for number in (child, *descendants(child))]
    return found


class Server:
    """A program that listens on a port of 127.0.0.1. `command` gives its command line for a port."""

    def __init__(self, directory: Path, command: Callable[[int], Sequence[str | Path]]) -> None:
        self.directory = directory
        self.output = directory / "output"
        """What the program writes to its standard output and error."""
        self.port = 0
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, the first time at a free port and then at the same one, and wait until it answers.

        Raises AssertionError with its output where it does not.
        """
        assert self._process is None
        for attempt in range(_ATTEMPTS):
            port = self.port or free_port()
            with open(self.output, "ab") as output:
                self._process = process = subprocess.Popen(
                    [os.fspath(word) for word in self._command(port)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=self.directory,
                    env={**os.environ, "PYTHONPATH": str(PROJECT)},
                )
            eventually(lambda port=port, process=process: process.poll() is not None or answers(port))
            if process.poll() is None:
                self.port = port
                return
            self._process = None
            assert not self.port, self.logged()
            assert attempt < _ATTEMPTS - 1, self.logged()

    def stop(self) -> None:
        """End it and what it started: connections are closed, and new ones refused."""
        process, self._process = self._process, None
        if process is None:
            return
        everything = [*descendants(process.pid), process.pid]
        ends = [end for number in everything if (end := _pidfd(number)) is not None]
        for end in ends:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(end, signal.SIGKILL)
            os.close(end)
        process.wait()

    def pause(self) -> None:
        """Let it and what it started hang: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        for process in (self._process.pid, *descendants(self._process.pid)):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def logged(self) -> str:
        """All that it wrote so far."""
        return self.output.read_text(errors="replace")


def _pidfd(process: int) -> int | None:
    try:
        return os.pidfd_open(process)
    except ProcessLookupError:
        return None


@contextmanager
def running(server: Server) -> Iterator[None]:
    """The server while the block lasts."""
    try:
        server.start()
        yield
    finally:
        server.stop()


# -- ssh --------------------------------------------------------------------------------------------------------------


class SshServer(Server):
    """sshd, which lets in whoever has the key that `command` uses, as `user`."""

    user = "root"
    sftp_log: Path
    """What its sftp-server was asked for, request by request where it was started so."""

    @property
    def command(self) -> tuple[str, ...]:
        """The user's ssh, which reads nothing of ~/.ssh. Host, port and user come from the URL."""
        return ("ssh", "-F", str(self.directory / "ssh_config"))

    def command_through(self, port: int) -> tuple[str, ...]:
        """The same through a proxy at another port, as ssh's ProxyCommand, whatever port the URL has."""
        config = self.directory / f"ssh_config-{port}"
        connect = f"{sys.executable} -I {PROJECT / 'tests/remote/connect.py'} {HOST} {port}"
        config.write_text(
            (self.directory / "ssh_config").read_text() + f" ProxyCommand {connect}\n ProxyUseFdpass yes\n"
        )
        return ("ssh", "-F", str(config))

    def url(self, path: Path | str) -> str:
        """The RIA URL of a directory."""
        return f"ria+ssh://{self.user}@{HOST}:{self.port}{path}"

    def reads(self, name: str) -> list[tuple[int, int]]:
        """(offset, length) of each request to read files of that name, where it was started with `requests_logged`."""
        lines = [line for line in self.sftp_log.read_text(errors="replace").splitlines() if ": read " in line]
        words = [line.rsplit(" ", 4) for line in lines if f'{name}" (handle' in line]
        return [(int(offset), int(length)) for *_, offset, _, length in words]


@contextmanager
def sshd(
    directory: Path,
    *,
    user: str | None = None,
    sftp: str | None = None,
    requests_logged: bool = False,
    settings: Sequence[str] = (),
) -> Iterator[SshServer]:
    """sshd for this user; root may let it serve another `user`. Its key, known hosts and client's configuration are
    made below `directory`.

    `sftp` is the command of the subsystem, sftp-server with its log unless given, ``internal-sftp`` for one without a
    program; `settings` are further lines of its configuration, which come first and so win.
    """
    daemon, sftp_server = program("sshd"), program("sftp-server")
    directory.mkdir(parents=True, exist_ok=True)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as Debian's own unit does; sshd insists on it
    for name in ("host", "user", "authority"):
        _ssh_keygen("-q", "-t", "ed25519", "-N", "", "-f", directory / name)
    server = SshServer(directory, lambda port: (daemon, "-D", "-e", "-f", directory / "sshd_config", "-p", str(port)))
    server.user = user or _own_name()
    server.sftp_log = directory / "sftp.log"
    server.sftp_log.touch()
    server.sftp_log.chmod(0o666)
    # Signed instead of authorised: the list of authorised keys is read with the user's own rights.
    _ssh_keygen("-q", "-s", directory / "authority", "-I", "tests", "-n", server.user, directory / "user.pub")
    level = "DEBUG1" if requests_logged else "VERBOSE"
    subsystem = sftp or f"{sftp_server} -e -l {level} 2>>{server.sftp_log}"
    _write_ssh_configurations(directory, subsystem, settings)
    with running(server):
        yield server


def _ssh_keygen(*words: str | Path) -> None:
    subprocess.run([program("ssh-keygen"), *words], check=True, stdin=subprocess.DEVNULL, capture_output=True)


def _own_name() -> str:
    return subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()


def _write_ssh_configurations(directory: Path, subsystem: str, settings: Sequence[str]) -> None:
    server = [
        *settings,
        f"ListenAddress {HOST}",
        f"HostKey {directory / 'host'}",
        "PidFile none",
        f"TrustedUserCAKeys {directory / 'authority.pub'}",
        "AuthorizedKeysFile none",
        "StrictModes no",
        "UsePAM no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "PermitRootLogin prohibit-password",
        "PrintMotd no",
        "UseDNS no",
        "MaxStartups 100",
        "MaxSessions 100",
        "AcceptEnv GIT_PROTOCOL",
        "LogLevel VERBOSE",
        f"Subsystem sftp {subsystem}",
    ]
    (directory / "sshd_config").write_text("\n".join([*server, ""]))
    (directory / "known_hosts").write_text(f"riafs-tests {(directory / 'host.pub').read_text()}")
    client = {
        "IdentityFile": directory / "user",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": directory / "known_hosts",
        "GlobalKnownHostsFile": "none",
        "HostKeyAlias": "riafs-tests",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "SendEnv": "GIT_PROTOCOL",
    }
    lines = [f" {name} {value}\n" for name, value in client.items()]
    (directory / "ssh_config").write_text("".join(["Host *\n", *lines]))


# -- http -------------------------------------------------------------------------------------------------------------


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
