"""Ctrl-C and SIGTERM: once this module is imported, they end a command with one line and exit code 130."""

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_said: list[int] = []  # not empty after the line was written

def take_signals(handler: Callable) -> dict:
    "Install a handler for Ctrl-C and SIGTERM, unless they are ignored; returns the previous handlers, by signal."
    taken = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    return {number: signal.signal(number, handler) for number in taken}

def say_stopped() -> int:
    "Write the one line, the first time; returns the exit code."
    if not _said:
        _said.append(os.write(2, b"\n" * os.isatty(2) + b"tinygpt: stopped\n"))  # a terminal shows ^C before it
    return 130

def end(*_):
    "End the process at once."
    try:
        say_stopped()
    finally:
        os._exit(130)

def interrupt(number: int, _):
    "Raise KeyboardInterrupt with the signal's number; the next signal ends the process at once."
    take_signals(end)
    raise KeyboardInterrupt(number)

def raise_interrupts():
    "Let the next signal raise KeyboardInterrupt again."
    take_signals(interrupt)

@contextmanager
def raise_interrupt() -> Iterator[None]:
    "Ctrl-C and SIGTERM raise KeyboardInterrupt, and end the process where Python would ignore that (in a __del__)."
    before, hook = take_signals(interrupt), sys.unraisablehook
    sys.unraisablehook = lambda ignored: end() if ignored.exc_type is KeyboardInterrupt else hook(ignored)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)

_words = sys.orig_argv[-len(sys.argv) :]  # the script or module that Python runs, and its arguments
if _words and os.path.basename(_words[0]) in ("tinygpt", "-mtinygpt", "tinygpt.exe"):
    take_signals(end)
    atexit.register(take_signals, signal.SIG_IGN)  # or Python restores handlers that a signal kills
