"""Which processes are above a thread."""

import os
import subprocess
import threading

from riafs.vfs.recording import processes_above


def test_a_process_is_below_those_that_started_it() -> None:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    try:
        assert {os.getpid(), os.getppid()} <= processes_above(child.pid)
        assert child.pid not in processes_above(child.pid)
    finally:
        child.communicate()
    assert processes_above(child.pid) == frozenset()


def test_a_thread_is_below_what_its_process_is_below() -> None:
    found: list[frozenset[int]] = []
    thread = threading.Thread(target=lambda: found.append(processes_above(threading.get_native_id())))
    thread.start()
    thread.join()
    assert found == [processes_above(os.getpid())]
    assert os.getppid() in found[0]


def test_the_first_process_has_none_above_it() -> None:
    assert processes_above(1) == frozenset()
