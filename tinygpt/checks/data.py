"""Checks for chapter 03: each typical mistake has a diagnosis of its own."""

import random
from contextlib import contextmanager

import numpy as np

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.show.pictures import Picture, color_tokens, table

LIST = (list, tuple, np.ndarray)


def _plain(values, answer, args: tuple) -> list[int]:
    "A list of whole numbers, whatever kind of sequence and of integer they came as."
    try:
        return [int(value) for value in values]
    except (TypeError, ValueError):
        raise Finding(f"{call(answer, *args)}: {values!r:.80} is not a list of numbers.") from None


def _drawn(ids: list[int], marked: int | None = None) -> Picture:
    "Ids side by side, each in a colour of its own."
    return color_tokens([f" {id} " for id in ids], marked=marked)


@checks
def shift(answer):
    "Exercise 1: T inputs from `start` on, and the id after each as its target."
    ids = [52, 7, 31, 9, 18, 44, 3, 60, 25, 12]
    for start, T in (2, 4), (0, 3), (5, 4), (1, 1):
        args = ids, start, T
        got = attempt(answer, *args, expect=LIST)
        if len(got) != 2:
            raise Finding(f"{call(answer, *args)} returned {len(got)} things. Two are wanted: inputs and targets.")
        inputs, targets = (_plain(part, answer, args) for part in got)
        right = ids[start : start + T], ids[start + 1 : start + T + 1]
        if (inputs, targets) == right:
            continue
        odd = [
            next((t for t, (a, b) in enumerate(zip(*pair)) if a != b), None) for pair in zip((inputs, targets), right)
        ]
        rows = [("inputs", _drawn(inputs, odd[0])), ("targets", _drawn(targets, odd[1]))]
        raise Finding(f"{call(answer, *args)}: {_why_not_shifted(ids, start, T, inputs, targets)}", table(rows))
    return "Each input has the id after it as its target, wherever the window begins."


def _why_not_shifted(ids: list, start: int, T: int, inputs: list, targets: list) -> str:
    after = ids[start + 1 : start + T + 1]
    if inputs == after and targets == ids[start : start + T]:
        return "The two are swapped: what is to be foreseen was given as input."
    if inputs == ids[start : start + T + 1]:
        return f"There are {T + 1} inputs. The last of them, {inputs[-1]}, is the answer to the last question."
    if inputs == ids[:T] and start:
        return f"The inputs begin with {ids[0]}, at place 0. The window begins at place {start}."
    if inputs != ids[start : start + T]:
        return f"The inputs should be the {T} ids from place {start} on."
    if targets == inputs:
        return "The targets are the inputs themselves. A model would learn to repeat what it just saw."
    if targets == ids[start + 2 : start + 2 + len(targets)] and targets:
        return f"The targets are two places on: at {inputs[0]} the model should say {after[0]}, and not skip it."
    if targets and targets[0] == ids[start - 1] and targets[1:] == inputs[: len(targets) - 1]:
        return "The targets are moved the wrong way: they ask for the id before, which the model has seen."
    if targets == after[: len(targets)] and len(targets) < T:
        return f"There are {len(targets)} targets for {T} inputs. The last of a window lies one place behind it."
    if targets[:T] == after:
        return f"There are {len(targets)} targets, more than the {T} inputs."
    return (
        f"The first wrong target is at place {next((t for t in range(T) if targets[t : t + 1] != after[t : t + 1]))}."
    )


STORIES = [[0, 11, 12, 13, 14, 15, 16, 0], [0, 21, 22, 0], [0, 31, 32, 33, 34, 35, 0], [0, 41, 42, 43, 0]]


@checks
def windows_of(answer):
    "Exercise 2: windows of T + 1 ids that never cross a story and leave nothing out."
    for T in 4, 2, 7:
        args = STORIES, T
        windows = [_plain(window, answer, args) for window in attempt(answer, *args, expect=LIST)]
        for i, window in enumerate(windows):
            _check_window(answer, args, i, window)
        _check_coverage(answer, args, windows)
    return "No window crosses a story, and each id but the first of a story is a target once."


def _check_window(answer, args: tuple, i: int, window: list[int]):
    T, ids = args[1], set(window) - {0}

    def wrong(message: str, place: int | None = None):
        raise Finding(f"{call(answer, *args)}: window {i} {message}", _drawn(window, place))

    of = sorted({id // 10 for id in ids})
    if len(of) > 1 or 0 in window[1:-1]:
        first = next((id // 10 for id in window if id), None)
        after_end = (t for t in range(2, len(window)) if not window[t - 1])
        place = next(after_end, next((t for t, id in enumerate(window) if id and id // 10 != first), None))
        wrong("goes on into the next story. Where one story ends, its last window ends.", place)
    if len(window) > T + 1:
        wrong(f"has {len(window)} ids. For T = {T} targets there is room for {T + 1}.", T + 1)
    if len(window) == 1:
        wrong("has a single id: an input without any target. Where must the last window of a story begin?", 0)
    if not any(window == s[k : k + len(window)] for s in STORIES for k in range(len(s))):
        wrong("is not a part of any story as it stands there.")


def _check_coverage(answer, args: tuple, windows: list[list[int]]):
    T = args[1]
    targets, firsts = [id for window in windows for id in window[1:]], {window[0] for window in windows}

    def wrong(message: str, marked: list[int], story: list[int]):
        place = next(t for t, id in enumerate(story) if id in marked)
        raise Finding(f"{call(answer, *args)}: {message}", _drawn(story, place))

    for story in STORIES:
        inner = story[1:-1]
        if twice := [id for id in inner if targets.count(id) > 1]:
            message = f"{twice[0]} is a target {targets.count(twice[0])} times. Each should be one once an epoch."
            wrong(message, twice, story)
        if missing := [id for id in inner if id not in targets]:
            if not set(missing) <= firsts:
                wrong(f"{missing[0]} is in no window: what was left at the end of its story is lost.", missing, story)
            message = (
                f"{missing[0]} is never a target: it begins a window, and no other window ends with it. By how many"
            )
            wrong(f"{message} ids must two windows overlap?", missing, story)
    if targets.count(0) < len(STORIES):
        raise Finding(
            f"{call(answer, *args)}: there are {len(STORIES)} stories, and {targets.count(0)} times the end is a target. "
            "A model learns to stop from the end of every story, also where it is left over alone."
        )
    if len(windows) > (fewest := sum(-(-(len(story) - 1) // T) for story in STORIES)):
        raise Finding(
            f"{call(answer, *args)}: there are {len(windows)} windows where {fewest} would do: most of them have fewer "
            f"than T = {T} targets."
        )


@checks
def mask_of(answer):
    "Exercise 3: what counts among the targets of padded stories."
    for lengths, T in ([2, 4, 1], 6), ([3, 5], 6), ([0, 2], 3):
        args = lengths, T
        rows = [_plain(row, answer, args) for row in attempt(answer, *args, expect=LIST)]
        if len(rows) != len(lengths) or any(len(row) != T for row in rows):
            sizes = f"{len(rows)} rows of {sorted({len(row) for row in rows})}"
            raise Finding(f"{call(answer, *args)}: the mask has {sizes}; {len(lengths)} rows of {T} are wanted.")
        right = [[int(t <= n) for t in range(T)] for n in lengths]
        if rows == right:
            continue
        b = next(b for b in range(len(rows)) if rows[b] != right[b])
        place = next(t for t in range(T) if rows[b][t] != right[b][t])
        message = f"{call(answer, *args)}: {_why_not_masked(rows, right, lengths, b, place)}"
        words = [f" word{t + 1} " for t in range(lengths[b])] + [" <|end|> "] + [" pad "] * T
        verdicts = [f" {bool(value)} " for value in rows[b]]
        lines = [("targets", color_tokens(words[:T], marked=place)), ("mask", color_tokens(verdicts, marked=place))]
        raise Finding(message, table(lines))
    return "Each word and the end of each story count; no padding does."


def _why_not_masked(rows: list, right: list, lengths: list[int], b: int, place: int) -> str:
    T = len(right[0])

    def all_like(rule) -> bool:
        return rows == [[int(rule(t, n)) for t in range(T)] for n in lengths]

    if all_like(lambda t, n: True):
        return f"everything counts. In row {b}, place {place} is padding: a model would learn to write zeros."
    if all_like(lambda t, n: t > n):
        return "it is the wrong way round: True stands where a target counts."
    if all_like(lambda t, n: t < n):
        return f"in row {b} the end, at place {place}, does not count. How would a model learn to stop?"
    if all_like(lambda t, n: t <= n + 1):
        return f"in row {b} the first zero of the padding, at place {place}, still counts. Count the targets once more."
    if all_like(lambda t, n: T - t <= n + 1):
        return "the rows are padded on the left. Here the words stand on the left, and the padding after them."
    if all_like(lambda t, n: 0 < t <= n):
        return f"in row {b} the first word and the end do not count. This is a mask for targets, not for inputs."
    if all_like(lambda t, n: 0 < t <= n + 1):
        return f"in row {b} the first word does not count. It follows an end, which is all that a model needs to begin."
    kind = "a word" if place < lengths[b] else "the end" if place == lengths[b] else "padding"
    return f"in row {b}, place {place} is {kind}, and the mask says {bool(rows[b][place])}."


@contextmanager
def _generators_kept():
    "Leave the generators that the whole program shares as they were."
    before = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])


def _shared_state() -> str:
    return repr((np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate()))


@checks
def rows_at(answer):
    "Exercise 4: which stories come at a step, from nothing but the arguments."

    def ask(step: int, n=10, size=2, seed=7, rank=0, world_size=1) -> list[int]:
        args = step, n, size, seed, rank, world_size
        rows = _plain(attempt(answer, *args, expect=LIST), answer, args)
        if len(rows) != size:
            raise Finding(
                f"{call(answer, *args)} returned {len(rows)} rows; a batch has {size}. Where an epoch ends in the "
                "middle of a batch, the next one fills it up."
            )
        if outside := [row for row in rows if not 0 <= row < n]:
            raise Finding(f"{call(answer, *args)} returned {outside[0]}, but the {n} stories are 0 to {n - 1}.")
        return rows

    with _generators_kept():
        _check_pure(answer, ask)
    epoch = [ask(step, seed=7) for step in range(5)]
    _check_epoch(epoch, "With batches of 2 on one machine")
    later = [ask(step) for step in range(5, 10)]
    if later == epoch:
        if sum(epoch, []) == list(range(10)):
            raise Finding("The stories come as they are numbered, 0, 1, 2. Each epoch should mix them anew.")
        raise Finding(f"The second epoch has the order of the first: {sum(epoch, [])}. Each should have its own.")
    if [ask(step, seed=8) for step in range(5)] == epoch:
        raise Finding("With seed 7 and with seed 8 come the same stories. The seed should decide about the order.")
    _check_epoch(later, "In the second epoch, with batches of 2,")
    _check_ends(ask)
    _check_ranks(ask)
    return "The same arguments give the same rows, every story comes once an epoch, and the ranks share one big batch."


def _check_pure(answer, ask):
    before = _shared_state()
    far, near = ask(12), ask(0)
    touched = before != _shared_state()
    if (far, near) == (ask(12), ask(0)):
        if touched:
            raise Finding(
                "It seeds, or draws from, the generator that the whole program shares: from then on dropout, sampling and "
                "whatever else throws dice goes on from there. Make a generator of your own: np.random.RandomState(...)."
            )
        return
    found = []
    for _ in range(2):
        np.random.seed(0), random.seed(0)
        found.append(ask(0))
    if found[0] == found[1] and touched:
        raise Finding(
            "Asked twice for the same step, it gave different rows: it draws from the generator that the whole program "
            "shares, and whoever else draws from it changes your examples. Make one of your own, from the seed and the epoch."
        )
    raise Finding(
        "Asked twice for the same step, it gave different rows, although no shared generator was touched in between. "
        "Does it remember earlier calls, or use a generator without a seed?"
    )


def _check_epoch(batches: list[list[int]], where: str):
    rows = sum(batches, [])
    if twice := [row for row in rows if rows.count(row) > 1]:
        steps = [step for step, batch in enumerate(batches) for row in batch if row == twice[0]]
        missing = sorted(set(range(len(rows))) - set(rows))
        raise Finding(
            f"{where} story {twice[0]} comes at steps {steps[0]} and {steps[1]} of the same epoch, and story {missing[0]} "
            "never. One order of all stories, cut into batches, has each of them once."
        )


def _check_ends(ask):
    rows = sum((ask(step, size=4) for step in range(5)), [])
    halves = rows[:10], rows[10:]
    if any(sorted(half) != list(range(10)) for half in halves):
        raise Finding(
            "With 10 stories and batches of 4, two stories are left over at the end of the epoch. The first ten rows "
            f"should have every story once, but are {rows[:10]}. Which epoch and place has row number step * 4 + i?"
        )


def _check_ranks(ask):
    for step in range(5):
        shares, big = [ask(step, rank=rank, world_size=2) for rank in range(2)], ask(step, size=4)
        if shares[0] == shares[1]:
            raise Finding(f"At step {step}, ranks 0 and 1 of 2 both got {shares[0]}. They should do different work.")
        if sorted(shares[0] + shares[1]) == sorted(big):
            continue
        if step and set(shares[0]) & set(ask(step - 1, rank=1, world_size=2)):
            raise Finding(
                f"Rank 0 at step {step} gets {shares[0]}, of which rank 1 had its share a step before: the ranks overlap. "
                "By how many rows does a step move on if two machines take part?"
            )
        raise Finding(
            f"At step {step}, rank 0 of 2 has {shares[0]} and rank 1 has {shares[1]}. Together they should have the one "
            f"big batch that a single machine gets with 4 rows: {big}."
        )
