"""Work on all cores."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain, islice


def worker(job):
    "Do one job in another process, which was told beforehand how."
    return worker.work(job)


def on_all_cores(work: Callable, jobs: Iterable, enough: int = 4) -> Iterator:
    "The result of each job, in order: on all cores if there are `enough` jobs (and fork exists), otherwise on one."
    jobs, running, cores = iter(jobs), deque(), os.cpu_count() or 1
    first = list(islice(jobs, enough))
    can_fork = "fork" in multiprocessing.get_all_start_methods()
    can_fork = can_fork and not multiprocessing.current_process().daemon
    if len(first) < enough or cores == 1 or not can_fork:
        yield from map(work, chain(first, jobs))
        return
    fork, told = multiprocessing.get_context("fork"), (worker, "work", work)
    with ProcessPoolExecutor(cores, fork, initializer=setattr, initargs=told) as pool:
        for job in chain(first, jobs):
            running.append(pool.submit(worker, job))
            if len(running) > 2 * cores:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
