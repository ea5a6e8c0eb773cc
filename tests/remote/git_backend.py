"""``python -m tests.remote.git_backend ROOT PORT``: git-http-backend for the repositories below ROOT, by CGI.

Only what git's clients send: requests whose bodies have a length or come in chunks, gzip left to the backend.
"""

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import IO
from urllib.parse import unquote


class Backend(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    root = ""

    def do_GET(self) -> None:  # as http.server calls it
        """Refs, and files of the dumb protocol."""
        self._run(b"")

    def do_POST(self) -> None:
        """A request to upload-pack."""
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        length = int(self.headers.get("Content-Length", 0))
        self._run(read_chunks(self.rfile) if chunked else self.rfile.read(length))

    def _run(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        given = {
            "GIT_PROJECT_ROOT": self.root,
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": unquote(path),
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": self.client_address[0],
        }
        done = subprocess.run(["git", "http-backend"], input=body, stdout=subprocess.PIPE, env=os.environ | given)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        fields = [line.split(": ", 1) for line in head.decode().split("\r\n") if line]
        status = dict(fields).get("Status", "200 OK").split()[0]
        self.send_response(int(status))
        for name, value in fields:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def read_chunks(source: IO[bytes]) -> bytes:
    """A body in chunks, as RFC 9112 has them, without trailers."""
    parts = []
    while size := int(source.readline().split(b";")[0], 16):
        parts.append(source.read(size))
        source.readline()
    source.readline()
    return b"".join(parts)


if __name__ == "__main__":
    Backend.root = sys.argv[1]
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Backend).serve_forever()
