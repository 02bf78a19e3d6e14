"""Run many jobs in parallel, on all CPU cores."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice
from multiprocessing.connection import Connection, wait

SIGNALS = {signal.SIGINT, signal.SIGTERM}

def _start(work: Callable, end: Connection, others: Connection):
    "Set up a worker process: what to do with each job, and to exit when `end` can be read or its writer is closed."
    global _work
    _work = work
    others.close()  # the writer's copy in this process
    def watch():
        wait([end])
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes, and the parent handles it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

def _run(job):
    return _work(job)

def on_all_cores(work: Callable, jobs: Iterable, enough: int = 4) -> Iterator:
    "The result of each job, in order. They run on one core if there are fewer than `enough`, or processes cannot fork."
    jobs, running, cores = iter(jobs), deque(), os.cpu_count() or 1
    first = list(islice(jobs, enough))
    daemon = multiprocessing.current_process().daemon  # a daemon process may not start others
    can_fork = "fork" in multiprocessing.get_all_start_methods() and not daemon
    if len(first) < enough or cores == 1 or not can_fork:
        yield from map(work, chain(first, jobs))
        return
    fork = multiprocessing.get_context("fork")  # so that `work` need not be pickled
    end, writer = fork.Pipe(duplex=False)
    with end, writer, ProcessPoolExecutor(cores, fork, initializer=_start, initargs=(work, end, writer)) as pool:
        try:
            signals = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until the workers have set their own handlers
            try:
                running.append(pool.submit(_run, first.pop(0)))  # this starts all processes
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, signals)
            for job in chain(first, jobs):
                running.append(pool.submit(_run, job))
                if len(running) > 2 * cores:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BaseException:
            writer.send_bytes(b"end")  # stop the jobs that are still running
            raise
