"""Servers of the files in a directory, for the tests of remote stores."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.remote.ssh_server import SshServer, sshd
from tests.remote.web_servers import Nginx, WebServer, WebSettings, git_http_backend, nginx


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that the servers of a module serve."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    """sshd, which logs every request to read."""
    with sshd(tmp_path_factory.mktemp("sshd"), requests_logged=True) as server:
        yield server


@pytest.fixture(scope="module")
def git_server(tmp_path_factory: pytest.TempPathFactory, served: Path) -> Iterator[WebServer]:
    """git-http-backend for the repositories below `served`."""
    with git_http_backend(tmp_path_factory.mktemp("git"), served) as server:
        yield server


@pytest.fixture(scope="module")
def web_server(tmp_path_factory: pytest.TempPathFactory, served: Path, git_server: WebServer) -> Iterator[Nginx]:
    """nginx without listings, with git-http-backend behind it."""
    with nginx(tmp_path_factory.mktemp("nginx"), served, WebSettings(git_backend=git_server.port)) as server:
        yield server
