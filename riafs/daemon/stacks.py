"""Where every thread and every task of this process stands: for the log, when a mount seems stuck."""

import sys
import threading
import traceback
from collections.abc import Iterator

import trio


def describe_stacks() -> str:
    """The stacks of all threads and all trio tasks, as text."""
    return "\n".join((*_threads(), *_tasks()))


def _threads() -> Iterator[str]:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        yield f"thread {names.get(ident, '?')} ({ident})\n" + "".join(traceback.format_stack(frame))


def _tasks() -> Iterator[str]:
    root = trio.lowlevel.current_root_task()
    waiting = [root] if root is not None else []
    while waiting:
        task = waiting.pop()
        waiting.extend(child for nursery in task.child_nurseries for child in nursery.child_tasks)
        frames = traceback.StackSummary.extract(task.iter_await_frames())
        yield f"task {task.name}\n" + "".join(frames.format())
