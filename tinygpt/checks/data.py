"""Checks for the chapter Data: each typical mistake has a diagnosis of its own."""

import random
from contextlib import contextmanager

import numpy as np

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.show.pictures import Picture, color_tokens, table

LIST = (list, tuple, np.ndarray)


def _asked(answer, args: tuple) -> str:
    return f" The call was {call(answer, *args)}."


def _plain(values, answer, args: tuple) -> list[int]:
    "A list of whole numbers, whatever kind of sequence and of integer they came as."
    try:
        return [int(value) for value in values]
    except (TypeError, ValueError):
        raise Finding(f"{values!r:.80} is not a list of whole numbers.{_asked(answer, args)}") from None


def _drawn(ids: list[int], marked: int | None = None) -> Picture:
    "Ids side by side, each in a colour of its own."
    return color_tokens([f" {id} " for id in ids], marked=marked)


@checks
def shift(answer):
    "Exercise 1: block_size inputs from `start` on, and the id after each as its target."
    ids = [52, 7, 31, 9, 18, 44, 3, 60, 25, 12]
    for start, T in (2, 4), (0, 3), (5, 4), (1, 1):
        args = ids, start, T
        got = attempt(answer, *args, expect=LIST)
        if len(got) != 2:
            raise Finding(f"It returned {len(got)} values. Return two: inputs and targets.{_asked(answer, args)}")
        inputs, targets = (_plain(part, answer, args) for part in got)
        right = ids[start : start + T], ids[start + 1 : start + T + 1]
        if (inputs, targets) == right:
            continue
        odd = [
            next((t for t, (a, b) in enumerate(zip(*pair)) if a != b), None) for pair in zip((inputs, targets), right)
        ]
        rows = [("inputs", _drawn(inputs, odd[0])), ("targets", _drawn(targets, odd[1]))]
        raise Finding(f"{_why_not_shifted(ids, start, T, inputs, targets)}{_asked(answer, args)}", table(rows))
    return "Each input has the id after it as its target, wherever the window begins."


def _why_not_shifted(ids: list, start: int, T: int, inputs: list, targets: list) -> str:
    after = ids[start + 1 : start + T + 1]
    if inputs == after and targets == ids[start : start + T]:
        return "Inputs and targets are swapped."
    if inputs == ids[start : start + T + 1]:
        return f"There are {T + 1} inputs. The last of them, {inputs[-1]}, should only be a target."
    if inputs == ids[:T] and start:
        return f"The inputs begin with {ids[0]}, at position 0. The window should begin at position {start}."
    if inputs != ids[start : start + T]:
        return f"The inputs should be the {T} ids from position {start} on."
    if targets == inputs:
        return "The targets are the inputs themselves. A model would learn to repeat the token that it reads."
    if targets == ids[start + 2 : start + 2 + len(targets)] and targets:
        return f"The targets are two positions ahead. After {inputs[0]} comes {after[0]}."
    if targets and targets[0] == ids[start - 1] and targets[1:] == inputs[: len(targets) - 1]:
        return "The targets are moved in the wrong direction: they are the ids before the inputs."
    if targets == after[: len(targets)] and len(targets) < T:
        return f"There are {len(targets)} targets for {T} inputs. The last target comes after the last input."
    if targets[:T] == after:
        return f"There are {len(targets)} targets, but only {T} inputs."
    return (
        "The first wrong target is at position "
        f"{next((t for t in range(T) if targets[t : t + 1] != after[t : t + 1]))}."
    )


STORIES = [[0, 11, 12, 13, 14, 15, 16, 0], [0, 21, 22, 0], [0, 31, 32, 33, 34, 35, 0], [0, 41, 42, 43, 0]]


@checks
def windows_of(answer):
    "Exercise 2: windows of block_size + 1 ids that never cross a story and leave nothing out."
    for T in 4, 2, 7:
        args = STORIES, T
        windows = [_plain(window, answer, args) for window in attempt(answer, *args, expect=LIST)]
        for i, window in enumerate(windows):
            _check_window(answer, args, i, window)
        _check_coverage(answer, args, windows)
    return "No window crosses a story, and each id but the first of a story is a target once."


def _check_window(answer, args: tuple, i: int, window: list[int]):
    T, ids = args[1], set(window) - {0}

    def wrong(message: str, position: int | None = None):
        raise Finding(f"Window {i} {message}{_asked(answer, args)}", _drawn(window, position))

    of = sorted({id // 10 for id in ids})
    if len(of) > 1 or 0 in window[1:-1]:
        first = next((id // 10 for id in window if id), None)
        after_end = (t for t in range(2, len(window)) if not window[t - 1])
        position = next(after_end, next((t for t, id in enumerate(window) if id and id // 10 != first), None))
        wrong("continues into the next story. The last window of a story should end with the story.", position)
    if len(window) > T + 1:
        wrong(f"has {len(window)} ids. With block_size = {T} it may have {T + 1}.", T + 1)
    if len(window) == 1:
        wrong("has a single id, an input without a target. Where should the last window of a story begin?", 0)
    if not any(window == s[k : k + len(window)] for s in STORIES for k in range(len(s))):
        wrong("is not a run of ids from any story.")


def _check_coverage(answer, args: tuple, windows: list[list[int]]):
    T = args[1]
    targets, firsts = [id for window in windows for id in window[1:]], {window[0] for window in windows}

    def wrong(message: str, marked: list[int], story: list[int]):
        position = next(t for t, id in enumerate(story) if id in marked)
        raise Finding(f"{message}{_asked(answer, args)}", _drawn(story, position))

    for story in STORIES:
        inner = story[1:-1]
        if twice := [id for id in inner if targets.count(id) > 1]:
            wrong(f"{twice[0]} is a target {targets.count(twice[0])} times, not once.", twice, story)
        if missing := [id for id in inner if id not in targets]:
            if not set(missing) <= firsts:
                wrong(f"{missing[0]} is in no window. The rest at the end of its story is lost.", missing, story)
            message = f"{missing[0]} is never a target: it begins a window, and no other window ends with it."
            wrong(f"{message} By how many ids should two windows overlap?", missing, story)
    if targets.count(0) < len(STORIES):
        raise Finding(
            f"There are {len(STORIES)} stories, but an end mark is a target {targets.count(0)} times. Each story "
            "needs its "
            f"end as a target, even if nothing else is left for its last window.{_asked(answer, args)}"
        )
    if len(windows) > (fewest := sum(-(-(len(story) - 1) // T) for story in STORIES)):
        raise Finding(
            f"There are {len(windows)} windows, and {fewest} are enough: fill each window with block_size = {T} "
            f"targets before you begin another.{_asked(answer, args)}"
        )


@checks
def mask_of(answer):
    "Exercise 3: what counts among the targets of padded stories."
    for lengths, T in ([2, 4, 1], 6), ([3, 5], 6), ([0, 2], 3):
        args = lengths, T
        rows = [_plain(row, answer, args) for row in attempt(answer, *args, expect=LIST)]
        if len(rows) != len(lengths) or any(len(row) != T for row in rows):
            sizes = f"{len(rows)} rows of {sorted({len(row) for row in rows})}"
            raise Finding(f"The mask has {sizes}, not {len(lengths)} rows of {T}.{_asked(answer, args)}")
        right = [[int(t <= n) for t in range(T)] for n in lengths]
        if rows == right:
            continue
        b = next(b for b in range(len(rows)) if rows[b] != right[b])
        position = next(t for t in range(T) if rows[b][t] != right[b][t])
        message = _why_not_masked(rows, right, lengths, b, position) + _asked(answer, args)
        words = [f" word{t + 1} " for t in range(lengths[b])] + [" <|end|> "] + [" pad "] * T
        verdicts = [f" {bool(value)} " for value in rows[b]]
        lines = [
            ("targets", color_tokens(words[:T], marked=position)),
            ("mask", color_tokens(verdicts, marked=position)),
        ]
        raise Finding(message, table(lines))
    return "Each word and the end of each story count; no padding does."


def _why_not_masked(rows: list, right: list, lengths: list[int], b: int, position: int) -> str:
    T = len(right[0])

    def all_like(rule) -> bool:
        return rows == [[int(rule(t, n)) for t in range(T)] for n in lengths]

    if all_like(lambda t, n: True):
        why = "a model would learn to write zeros."
        return f"Every target counts. But position {position} of row {b} is padding: {why}"
    if all_like(lambda t, n: t > n):
        return "The mask is inverted: True should mean that a target counts."
    if all_like(lambda t, n: t < n):
        return f"In row {b} the end mark, at position {position}, does not count. How would a model learn to stop?"
    if all_like(lambda t, n: t <= n + 1):
        return f"In row {b} the first zero of the padding, at position {position}, counts. Count the targets once more."
    if all_like(lambda t, n: T - t <= n + 1):
        return "The mask is for rows that are padded on the left. Here the padding comes after the words."
    if all_like(lambda t, n: 0 < t <= n):
        return f"In row {b} the first word and the end mark do not count. This is a mask for targets, not for inputs."
    if all_like(lambda t, n: 0 < t <= n + 1):
        return f"In row {b} the first word does not count. It is the target of the end mark in front of it."
    kind = "a word" if position < lengths[b] else "the end mark" if position == lengths[b] else "padding"
    return f"In row {b}, position {position} is {kind}, but the mask says {bool(rows[b][position])}."


@contextmanager
def _generators_kept():
    "Restore the global random generators afterwards."
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
                f"It returned {len(rows)} rows, but a batch has {size}. If an epoch ends in the middle of a "
                "batch, rows of "
                f"the next epoch fill it up.{_asked(answer, args)}"
            )
        if outside := [row for row in rows if not 0 <= row < n]:
            raise Finding(f"It returned {outside[0]}, but the {n} stories are 0 to {n - 1}.{_asked(answer, args)}")
        return rows

    with _generators_kept():
        _check_pure(answer, ask)
    epoch = [ask(step, seed=7) for step in range(5)]
    _check_epoch(epoch, "With batches of 2 on one machine,")
    later = [ask(step) for step in range(5, 10)]
    if later == epoch:
        if sum(epoch, []) == list(range(10)):
            raise Finding("The stories come in the order of their numbers, 0, 1, 2. Shuffle them anew in each epoch.")
        raise Finding(f"The second epoch has the order of the first: {sum(epoch, [])}. Each epoch should have its own.")
    if [ask(step, seed=8) for step in range(5)] == epoch:
        raise Finding("Seed 7 and seed 8 give the same stories. The order should depend on the seed.")
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
                "It uses the global random generator, and so changes the random numbers of the rest of the "
                "program, such as "
                "dropout and sampling. Make a generator of your own: np.random.RandomState(...)."
            )
        return
    found = []
    for _ in range(2):
        np.random.seed(0), random.seed(0)
        found.append(ask(0))
    if found[0] == found[1] and touched:
        raise Finding(
            "Two calls for the same step gave different rows. It draws from the global random generator, which "
            "other parts "
            "of the program use, too. Make a generator of your own from the seed and the epoch."
        )
    raise Finding(
        "Two calls for the same step gave different rows. Does it remember earlier calls, or use a generator "
        "without a seed?"
    )


def _check_epoch(batches: list[list[int]], where: str):
    rows = sum(batches, [])
    if twice := [row for row in rows if rows.count(row) > 1]:
        steps = [step for step, batch in enumerate(batches) for row in batch if row == twice[0]]
        missing = sorted(set(range(len(rows))) - set(rows))
        raise Finding(
            f"{where} story {twice[0]} comes at steps {steps[0]} and {steps[1]} of the same epoch, and story "
            f"{missing[0]} "
            "never comes. Make one order of all stories for the epoch, and cut it into batches."
        )


def _check_ends(ask):
    rows = sum((ask(step, size=4) for step in range(5)), [])
    halves = rows[:10], rows[10:]
    if any(sorted(half) != list(range(10)) for half in halves):
        raise Finding(
            "With 10 stories and batches of 4, two stories are left over at the end of the epoch. The first ten rows "
            f"should hold every story once, but are {rows[:10]}. Which epoch and position has row number step * 4 + i?"
        )


def _check_ranks(ask):
    for step in range(5):
        shares, big = [ask(step, rank=rank, world_size=2) for rank in range(2)], ask(step, size=4)
        if shares[0] == shares[1]:
            raise Finding(f"At step {step}, ranks 0 and 1 of 2 both got {shares[0]}. They should get different rows.")
        if sorted(shares[0] + shares[1]) == sorted(big):
            continue
        if step and set(shares[0]) & set(ask(step - 1, rank=1, world_size=2)):
            raise Finding(
                f"The ranks overlap: at step {step} rank 0 gets {shares[0]}, some of which rank 1 had a step before. "
                "By how many rows does each step advance if two machines take part?"
            )
        raise Finding(
            f"At step {step}, rank 0 of 2 gets {shares[0]} and rank 1 gets {shares[1]}. Together they should get "
            "the large "
            f"batch that a single machine gets with 4 rows: {big}."
        )
