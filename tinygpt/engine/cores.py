"""Many jobs on all cores of the machine."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice

def _start(work: Callable):
    "Tell a new process what to do with each job."
    global _work
    _work = work

def _run(job):
    return _work(job)

def on_all_cores(work: Callable, jobs: Iterable, enough: int = 4) -> Iterator:
    "The result of each job, in order. They run on one core if there are fewer than `enough`, or processes cannot fork."
    jobs, running, cores = iter(jobs), deque(), os.cpu_count() or 1
    first = list(islice(jobs, enough))
    daemon = multiprocessing.current_process().daemon  # it may not start processes
    can_fork = "fork" in multiprocessing.get_all_start_methods() and not daemon
    if len(first) < enough or cores == 1 or not can_fork:
        yield from map(work, chain(first, jobs))
        return
    fork = multiprocessing.get_context("fork")  # so that `work` need not be pickled
    with ProcessPoolExecutor(cores, fork, initializer=_start, initargs=(work,)) as pool:
        for job in chain(first, jobs):
            running.append(pool.submit(_run, job))
            if len(running) > 2 * cores:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
