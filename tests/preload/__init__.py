"""Libraries that stand between a program and the C library: LD_PRELOAD names them.

``dying.c`` kills a process group at the n-th call that changes a file.
"""

import subprocess
from pathlib import Path


def compiled(name: str, directory: Path) -> Path:
    """The library made of ``NAME.c``, in `directory`."""
    made = directory / f"{name}.so"
    source = Path(__file__).parent / f"{name}.c"
    command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", made, source, "-ldl"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return made
