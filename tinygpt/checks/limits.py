"""Stop code that does not end, by counting its lines and by timers."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence

HAS_TIMERS = hasattr(signal, "setitimer")  # Windows has none
AGAIN = 0.2  # seconds from one interruption to the next, for code that catches all exceptions
COST = {"line": 1, "opcode": 0.1}  # of the events that a trace function gets, in lines


class TooLong(BaseException):
    "Raised inside code that ran too long. (No Exception, so that `except Exception` lets it through.)"


class Limit:
    "A limit on one call: so many lines of the learner's modules, or so many seconds of computing or of waiting."

    def __init__(self, modules: Sequence[dict], lines: int, seconds: float):
        self.modules, self.lines, self.seconds = modules, lines, seconds  # each module by its global variables
        self.left, self.running, self.reason = lines, False, ""
        self.timers = {}
        if HAS_TIMERS and threading.current_thread() is threading.main_thread():
            self.timers = {signal.SIGVTALRM: signal.ITIMER_VIRTUAL, signal.SIGALRM: signal.ITIMER_REAL}

    def trace(self, frame, event, arg):
        "Trace function: count the lines of the learner's functions, and raise TooLong after the last one."
        if not any(frame.f_globals is module for module in self.modules):
            return None
        frame.f_trace_opcodes = not self.timers  # a loop on one line has no line events
        self.left -= COST.get(event, 0)
        if self.left < 0 and self.running and event in COST:
            self.reason = self.reason or f"{self.lines:,} lines"
            if self.timers:  # Python stops tracing when this function raises; if that is caught, a timer goes on
                signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
            raise TooLong
        return self.trace

    def interrupt(self, number, frame):
        "Signal handler: raise TooLong here and, if an `except:` catches it, at the next line, which is outside the try."
        used, self.used = time.process_time() - self.used, time.process_time()
        starved = number == signal.SIGALRM and used > 0.05 * self.seconds  # it waits for a busy machine
        if not self.running or starved and not self.reason:
            return
        self.left, self.reason = -1, self.reason or f"{self.seconds:g} seconds"
        signal.setitimer(signal.ITIMER_REAL, AGAIN, AGAIN)
        sys.settrace(self.trace)
        while frame:
            if any(frame.f_globals is module for module in self.modules):
                frame.f_trace = self.trace
            frame = frame.f_back
        raise TooLong

    def call(self, function: Callable, args: Sequence):
        self.running = True
        try:
            return function(*args)
        finally:
            self.running = False

    def run(self, function: Callable, *args):
        "Call the function; if it was stopped, `reason` says after how long. What was set up is taken back."
        traced, before, self.used = sys.gettrace(), [], time.process_time()
        for number, timer in self.timers.items():
            handler = signal.signal(number, self.interrupt)
            before.append((number, handler, timer, signal.setitimer(timer, self.seconds, self.seconds)))
        sys.settrace(self.trace)
        try:
            return self.call(function, args)
        finally:
            sys.settrace(traced)
            for number, handler, timer, rest in before:
                signal.setitimer(timer, *rest)
                signal.signal(number, handler or signal.SIG_DFL)
