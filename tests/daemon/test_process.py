"""What a mount's process asks of the system for itself."""

import subprocess
import sys

ARENAS = """
import ctypes, sys, threading
from riafs.daemon.process import settle
settle()
library = ctypes.CDLL(None)
library.malloc.restype = library.open_memstream.restype = ctypes.c_void_p
began = threading.Barrier(12)
def work():
    began.wait()
    library.malloc(ctypes.c_size_t(1 << 16))
    began.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
text, size = ctypes.c_char_p(), ctypes.c_size_t()
stream = ctypes.c_void_p(library.open_memstream(ctypes.byref(text), ctypes.byref(size)))
library.malloc_info(0, stream)
library.fclose(stream)
print(text.value.count(b"<heap nr="))
"""


def test_threads_share_few_arenas() -> None:
    done = subprocess.run([sys.executable, "-c", ARENAS], capture_output=True, text=True, check=True, timeout=30)
    assert 1 <= int(done.stdout) <= 2
