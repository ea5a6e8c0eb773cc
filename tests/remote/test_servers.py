"""The servers, the proxy and the liar do what other tests rely on: seen with ssh, sftp, urllib and git."""

import hashlib
import os
import ssl
import struct
import subprocess
import time
import urllib.error
import urllib.request
from http.client import IncompleteRead
from pathlib import Path

import pytest

from tests.remote.http_faults import FAULTS, http_faults
from tests.remote.lying_sftp import LIES, lying_ssh
from tests.remote.proxy import proxy
from tests.remote.servers import HOST
from tests.remote.ssh_server import SshServer, sshd
from tests.remote.web_servers import Authority, Nginx, Request, WebServer, WebSettings, apache, nginx, python_http
from tests.small import SmallStore, noise
from tests.waiting import eventually

CONTENT = noise(3_000_000)


@pytest.fixture(scope="module")
def served(served: Path) -> Path:
    """A file, a name that has to be quoted, a link, and a store."""
    (served / "file").write_bytes(CONTENT)
    (served / "a b%").write_bytes(b"quoted")
    (served / "link").symlink_to("file")
    SmallStore.make(served / "store").dataset("one", {b"text": b"in git"})
    return served


def ssh(server: SshServer, *words: str, command: tuple[str, ...] | None = None) -> subprocess.CompletedProcess[bytes]:
    """A command on the server."""
    line = (*(command or server.command), "-p", str(server.port), "-l", server.user, "--", HOST, *words)
    return subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)


def get(url: str, *, span: tuple[int, int] | None = None, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    """Status and body."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={span[0]}-{span[1]}"} if span else {})
    try:
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def logged(server: Nginx, count: int) -> list[Request]:
    """The last `count` requests: nginx logs one when its answer was sent."""
    return eventually(lambda: requests[-count:] if len(requests := server.requests()) >= count else [])


# -- ssh


def test_sshd_runs_commands_and_stops_with_its_connections(ssh_server: SshServer, served: Path) -> None:
    done = ssh(ssh_server, "cat", str(served / "file"))
    assert done.stdout == CONTENT
    line = (*ssh_server.command, "-p", str(ssh_server.port), "-l", ssh_server.user, "--", HOST, "cat")
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as open_one:
        assert open_one.stdin is not None
        assert open_one.stdout is not None
        open_one.stdin.write(b"x")
        open_one.stdin.flush()
        assert open_one.stdout.read(1) == b"x"
        port = ssh_server.port
        ssh_server.stop()
        assert open_one.wait(20) == 255
    assert ssh(ssh_server, "true").returncode == 255
    ssh_server.start()
    assert ssh_server.port == port
    assert ssh(ssh_server, "true").returncode == 0


def test_sftp_logs_what_is_read(ssh_server: SshServer, served: Path, tmp_path: Path) -> None:
    address = f"sftp://{ssh_server.user}@{HOST}:{ssh_server.port}/{served}/file"
    subprocess.run(["sftp", *ssh_server.command[1:], address, tmp_path / "got"], check=True, capture_output=True)
    assert (tmp_path / "got").read_bytes() == CONTENT
    reads = [(offset, length) for offset, length in ssh_server.reads("file") if offset < len(CONTENT)]
    assert sum(length for _, length in reads) >= len(CONTENT)
    assert (0, 32768) in reads or reads[0][0] == 0


@pytest.mark.parametrize("settings", [(), ("ForceCommand internal-sftp",)])
def test_server_with_nothing_but_sftp(tmp_path: Path, served: Path, settings: tuple[str, ...]) -> None:
    with sshd(tmp_path / "sshd", sftp="internal-sftp", settings=settings) as server:
        address = f"sftp://{server.user}@{HOST}:{server.port}/{served}/file"
        subprocess.run(["sftp", *server.command[1:], address, tmp_path / "got"], check=True, capture_output=True)
        assert (tmp_path / "got").read_bytes() == CONTENT
        if settings:
            assert b"sftp connections only" in ssh(server, "true").stdout


@pytest.mark.skipif(os.getuid() != 0, reason="only root starts sshd for another user")
def test_sshd_for_another_user(tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd", user="nobody", sftp="internal-sftp") as server:
        batch = tmp_path / "batch"
        batch.write_text("ls /\nls /root\n")
        address = f"{server.user}@{HOST}"
        words = ["sftp", *server.command[1:], "-P", str(server.port), "-b", batch, address]
        done = subprocess.run(words, capture_output=True, text=True)
        assert "/usr" in done.stdout
        assert "Permission denied" in done.stderr


# -- http


def test_nginx_serves_ranges_and_links_and_logs_them(web_server: Nginx) -> None:
    assert get(web_server.url("/file"), span=(10, 19)) == (206, CONTENT[10:20])
    assert get(web_server.url("/link")) == (200, CONTENT)
    assert get(web_server.url("/a%20b%25")) == (200, b"quoted")
    assert get(web_server.url("/"))[0] == 403
    first, second, _, refused = logged(web_server, 4)
    assert (first.target, first.status, first.range, first.sent) == ("/file", 206, "bytes=10-19", 10)
    assert (second.range, second.sent, refused.status) == ("", len(CONTENT), 403)


def test_nginx_with_a_certificate_password_and_listings(tmp_path: Path, served: Path) -> None:
    authority = Authority.make(tmp_path / "ca")
    settings = WebSettings(autoindex=True, ranges=False, tls=authority, password=("user", "secret"))
    with nginx(tmp_path / "nginx", served, settings) as server:
        context = ssl.create_default_context(cafile=authority.certificate)
        assert get(server.url("/"), context=context)[0] == 401
        manager = urllib.request.HTTPPasswordMgrWithPriorAuth()
        manager.add_password(None, server.url(), "user", "secret", is_authenticated=True)
        handlers = (urllib.request.HTTPSHandler(context=context), urllib.request.HTTPBasicAuthHandler(manager))
        opener = urllib.request.build_opener(*handlers)
        with opener.open(server.url("/"), timeout=20) as listing:
            assert b'<a href="a%20b%25">' in listing.read()
        request = urllib.request.Request(server.url("/file"), headers={"Range": "bytes=10-19"})
        with opener.open(request, timeout=20) as answer:
            assert (answer.status, answer.read()) == (200, CONTENT)


def test_nginx_wants_certificates_of_clients(tmp_path: Path, served: Path) -> None:
    authority = Authority.make(tmp_path / "ca")
    with nginx(tmp_path / "nginx", served, WebSettings(tls=authority, client_certificates=True)) as server:
        context = ssl.create_default_context(cafile=authority.certificate)
        assert get(server.url("/file"), context=context)[0] == 400
        context.load_cert_chain(*authority.issue("client"))
        assert get(server.url("/file"), context=context) == (200, CONTENT)


def test_nginx_as_a_cache_answers_itself_the_second_time(tmp_path: Path, web_server: Nginx) -> None:
    with nginx(tmp_path / "nginx", tmp_path, WebSettings(cache_of=web_server.port)) as server:

        def cached() -> bool:
            assert get(server.url("/file"), span=(10, 19)) == (206, CONTENT[10:20])
            return logged(server, 1)[-1].cache == "HIT"

        assert not cached()
        eventually(cached)  # it is kept once all of the slice has come


@pytest.mark.parametrize(("start", "status"), [(apache, 206), (python_http, 200)])
def test_other_web_servers(tmp_path: Path, served: Path, start: type[object], status: int) -> None:
    with start(tmp_path / "server", served) as server:
        body = CONTENT[10:20] if status == 206 else CONTENT
        assert get(server.url("/link"), span=(10, 19)) == (status, body)
        server.stop()
        with pytest.raises(urllib.error.URLError):
            get(server.url("/file"))
        server.start()
        assert get(server.url("/file")) == (200, CONTENT)


def test_git_fetches_through_nginx(web_server: Nginx, served: Path, tmp_path: Path) -> None:
    [alias] = os.listdir(served / "store" / "alias")
    url = web_server.url(f"/store/alias/{alias}")
    subprocess.run(["git", "clone", "-q", "--depth=1", url, tmp_path / "clone"], check=True)
    assert (tmp_path / "clone" / "text").read_bytes() == b"in git"
    assert {"info/refs?service=git-upload-pack", "git-upload-pack"} <= {
        request.target.split(f"{alias}/")[1] for request in web_server.requests(alias)
    }


# -- the proxy


def test_line_has_a_round_trip_and_a_rate(web_server: Nginx) -> None:
    with proxy(web_server.port) as line:
        url = f"http://{HOST}:{line.port}/file"

        def seconds() -> float:
            began = time.monotonic()
            assert get(url) == (200, CONTENT)
            return time.monotonic() - began

        seconds()
        line.set(round_trip=0.1)
        assert seconds() >= 0.2  # one to connect, one to ask
        line.set(round_trip=0.0, rate=10e6)
        assert 0.3 <= seconds() < 3
        assert line.connections == 3
        assert line.bytes_to_client >= 3 * len(CONTENT)


def test_connections_end_before_their_time(web_server: Nginx) -> None:
    with proxy(web_server.port) as line:
        url = f"http://{HOST}:{line.port}/file"
        line.set(truncate_after=100_000)
        with pytest.raises(IncompleteRead):
            get(url)
        line.heal()
        line.set(reset_after=100_000)
        with pytest.raises(ConnectionResetError):
            get(url)
        line.heal()
        line.set(corrupt_at=1_000_000)
        status, body = get(url)
        assert (status, len(body)) == (200, len(CONTENT))
        assert sum(one != other for one, other in zip(body, CONTENT, strict=True)) == 1
        line.set(refuse=True)
        with pytest.raises(urllib.error.URLError, match="refused"):
            get(url)
        line.heal()
        assert get(url) == (200, CONTENT)


def test_stalled_connections_go_on(ssh_server: SshServer) -> None:
    """Through ssh's ProxyCommand."""
    with proxy(ssh_server.port) as line:
        command = ssh_server.command_through(line.port)
        assert ssh(ssh_server, "echo", "there", command=command).stdout == b"there\n"
        assert line.connections == 1
        words = (*command, "-p", "1", "-l", ssh_server.user, "--", HOST, "cat")
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            for fault in ({"stall_after": 0}, {"half_open": True}):
                os.write(client.stdin.fileno(), b"x")
                assert os.read(client.stdout.fileno(), 1) == b"x"
                line.set(**fault)
                os.write(client.stdin.fileno(), b"y")
                os.set_blocking(client.stdout.fileno(), False)
                with pytest.raises(BlockingIOError):
                    os.read(client.stdout.fileno(), 1)
                line.heal()
                os.set_blocking(client.stdout.fileno(), True)
                assert os.read(client.stdout.fileno(), 1) == b"y"
            line.cut()
            assert client.wait(20) == 255


# -- spoiled answers of web servers


def test_faults_of_answers(web_server: Nginx) -> None:
    with http_faults(web_server.port) as layer:
        url = layer.url("/file")
        for name in FAULTS:
            layer.spoil(name, "/file")
            spoiled = _spoiled(url)
            layer.spoil(name, "/other")
            assert get(url, span=(10, 19)) == (206, CONTENT[10:20])
            assert name in {"other-content-range", "other-total", "nonsense-content-range", "other-versions"} or (
                spoiled != (206, CONTENT[10:20])
            ), name
        layer.spoil("503", times=1)
        assert [get(url)[0], get(url)[0]] == [503, 200]
        assert layer.seen[-1].target == "/file"


def _spoiled(url: str) -> object:
    try:
        return get(url, span=(10, 19))
    except Exception as error:  # noqa: BLE001  # whatever urllib makes of nonsense
        return type(error)


# -- the liar


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def packet(kind: int, body: bytes) -> bytes:
    return u32(len(body) + 1) + bytes([kind]) + body


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie != "trickle"])
def test_liar_answers_a_real_client_or_makes_it_fail(lie: str, tmp_path: Path) -> None:
    """OpenSSH's sftp is the witness that the honest part is right; it survives every lie."""
    content = noise(700_000)
    (tmp_path / "file").write_bytes(content)
    script = tmp_path / "ssh"
    script.write_text("#!/bin/sh\nexec " + " ".join(lying_ssh(lie)) + ' "$@"\n')
    script.chmod(0o755)
    words = ["sftp", "-q", "-S", script, "-b", "-", "host"]
    batch = f"get {tmp_path / 'file'} {tmp_path / 'got'}\n"
    try:
        done = subprocess.run(words, input=batch, capture_output=True, text=True, timeout=3)
    except subprocess.TimeoutExpired:
        assert lie in {"mute", "empty-data"}
        return
    got = tmp_path / "got"
    good = done.returncode == 0 and got.exists() and got.read_bytes() == content
    if lie in {"none", "short-reads", "no-limits", "slash-names", "endless-listing", "huge-limits"}:
        assert good, done.stderr
    if lie in {"other-requests", "twice", "other-kind", "oversized-data", "huge-packet", "flipped", "early-eof"}:
        assert not good


def test_liar_runs_git(tmp_path: Path) -> None:
    store = SmallStore.make(tmp_path / "store")
    dataset = store.dataset("one", {b"text": b"in git"})
    environment = {**os.environ, "GIT_SSH_COMMAND": " ".join(lying_ssh("none")), "GIT_SSH_VARIANT": "simple"}
    words = ["git", "ls-remote", f"host:{dataset.path}"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert "refs/heads/main" in done.stdout


def test_servers_leave_their_store_alone(web_server: WebServer, served: Path) -> None:
    assert web_server.port
    assert hashlib.sha256((served / "file").read_bytes()).digest() == hashlib.sha256(CONTENT).digest()
