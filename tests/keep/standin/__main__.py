"""``python -m tests.keep.standin --state DIR --env-file FILE``: a stand-in cluster in a process of its own.

FILE is written when it answers: ``ARVADOS_…`` settings as a shell reads them, the keepstores' addresses in
``STANDIN_KEEPSTORES`` and the certificate in ``STANDIN_CERTIFICATE``. It ends on SIGTERM.
"""

import argparse
import signal
import threading
from pathlib import Path

from tests.keep.standin.cluster import Cluster


def main() -> None:
    """Run until told to end."""
    parser = argparse.ArgumentParser(prog="python -m tests.keep.standin", description="A stand-in Arvados cluster.")
    parser.add_argument("--state", type=Path, required=True, help="directory for blocks and the certificate")
    parser.add_argument("--env-file", type=Path, required=True, help="written when the cluster answers")
    parser.add_argument("--keepstores", type=int, default=2)
    parser.add_argument("--ttl", type=int, default=336 * 3600, help="lifetime of signatures in seconds")
    parser.add_argument("--no-signing", action="store_true")
    parser.add_argument("--latency", type=float, default=0, help="seconds before each answer")
    parser.add_argument("--bandwidth", type=float, default=0, help="bytes a second of each answer")
    arguments = parser.parse_args()
    cluster = Cluster(arguments.state, arguments.keepstores, ttl=arguments.ttl, signing=not arguments.no_signing)
    for server in (cluster.api, *cluster.keepstores):
        server.shape.latency, server.shape.bandwidth = arguments.latency, arguments.bandwidth
    cluster.start()
    _write_environment(cluster, arguments.env_file)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    cluster.stop()


def _write_environment(cluster: Cluster, path: Path) -> None:
    own = {"STANDIN_KEEPSTORES": " ".join(each.url for each in cluster.keepstores)}
    settings = {**cluster.environment, **own, "STANDIN_CERTIFICATE": str(cluster.certificate)}
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(f"export {name}='{value}'\n" for name, value in settings.items()))
    temporary.rename(path)


if __name__ == "__main__":
    main()
