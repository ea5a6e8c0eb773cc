"""The real Arvados SDK over a stand-in cluster, in processes of its own: it has threads and warnings."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.keep.standin.cluster import Cluster

PROGRAM = Path(__file__).with_name("sdk_program.py")


def sdk(cluster: Cluster, home: Path, *words: str | Path) -> Any:
    """What the SDK answers. `home`: a directory for its caches."""
    environment = {**os.environ, **cluster.environment, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    done = subprocess.run(
        [sys.executable, PROGRAM, *words], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
