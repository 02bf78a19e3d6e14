"""The checks of the chapter Data."""

import random

import numpy as np
import pytest

from tinygpt.checks import data as check


def rows_right(step, n, size, seed, rank, world):
    first = (step * world + rank) * size
    places = [divmod(first + i, n) for i in range(size)]
    return [int(np.random.RandomState([seed, epoch]).permutation(n)[place]) for epoch, place in places]


RIGHT = {
    "shift": lambda ids, start, T: (ids[start : start + T], ids[start + 1 : start + T + 1]),
    "windows_of": lambda stories, T: [s[i : i + T + 1] for s in stories for i in range(0, len(s) - 1, T)],
    "mask_of": lambda lengths, T: [[t <= n for t in range(T)] for n in lengths],
    "rows_at": rows_right,
}
ALSO_RIGHT = [
    ("shift", lambda ids, start, T: [np.array(ids[start : start + T]), np.array(ids[start + 1 : start + T + 1])]),
    ("windows_of", lambda stories, T: [tuple(s[i : i + T + 1]) for s in stories for i in range(0, len(s) - 1, T)]),
    ("mask_of", lambda lengths, T: [np.arange(T) <= n for n in lengths]),
    # every second row for every second rank: the same big batch, dealt out otherwise
    ("rows_at", lambda step, n, size, seed, rank, world: rows_right(step, n, size * world, seed, 0, 1)[rank::world]),
]


def stream_windows(stories, T):
    stream = sum(stories, [])
    return [stream[i : i + T + 1] for i in range(0, len(stream) - 1, T)]


def order(n, *seed):
    return np.random.RandomState(list(seed)).permutation(n).tolist()


class Remembers:
    """Goes on from where it was: depends on the order of calls."""

    def __init__(self):
        self.rng, self.todo = random.Random(0), []

    def __call__(self, step, n, size, seed, rank, world):
        while len(self.todo) < size:
            self.todo += self.rng.sample(range(n), n)
        rows, self.todo = self.todo[:size], self.todo[size:]
        return rows


def global_numpy(step, n, size, seed, rank, world):
    return np.random.permutation(n)[:size]


def global_random(step, n, size, seed, rank, world):
    return random.sample(range(n), size)


def reseeds(step, n, size, seed, rank, world):
    np.random.seed(seed)
    orders = [np.random.permutation(n).tolist() for _ in range((step + 1) * size * world // n + 1)]
    return sum(orders, [])[(step * world + rank) * size :][:size]


def by_step(step, n, size, seed, rank, world):
    return order(n, seed, step, rank)[:size]


def ranks_alike(step, n, size, seed, rank, world):
    return rows_right(step, n, size, seed, 0, 1)


def ranks_overlap(step, n, size, seed, rank, world):
    return rows_right(step + rank, n, size, seed, 0, 1)


def ranks_apart(step, n, size, seed, rank, world):
    return rows_right(step, n, size, seed + rank, 0, 1)


def same_epochs(step, n, size, seed, rank, world):
    return [order(n, seed)[((step * world + rank) * size + i) % n] for i in range(size)]


def not_mixed(step, n, size, seed, rank, world):
    return [((step * world + rank) * size + i) % n for i in range(size)]


def no_seed(step, n, size, seed, rank, world):
    return rows_right(step, n, size, 0, rank, world)


def short_end(step, n, size, seed, rank, world):
    per_epoch = -(-n // (size * world))
    epoch, place = divmod(step, per_epoch)
    return order(n, seed, epoch)[(place * world + rank) * size :][:size]


def drops_rest(step, n, size, seed, rank, world):
    epoch, place = divmod(step, n // (size * world))
    return order(n, seed, epoch)[(place * world + rank) * size :][:size]


def one_epoch_only(step, n, size, seed, rank, world):
    place = (step * world + rank) * size
    return order(n, seed)[place : place + size] if place < n else order(n, seed, step)[:size]


MISTAKES = [
    ("shift", lambda ids, start, T: (ids[start : start + T], ids[start : start + T]), "repeat the token that it reads"),
    ("shift", lambda ids, start, T: (ids[start : start + T], ids[start - 1 : start + T - 1]), "the wrong direction"),
    ("shift", lambda ids, start, T: (ids[start : start + T], ids[start + 2 : start + T + 2]), "two positions ahead"),
    (
        "shift", lambda ids, start, T: (ids[start : start + T + 1], ids[start + 1 : start + T + 1]),
        "should only be a target",
    ),
    ("shift", lambda ids, start, T: (ids[start : start + T], ids[start + 1 : start + T]), "after the last input"),
    ("shift", lambda ids, start, T: (ids[start : start + T], ids[start + 1 :]), "but only 4 inputs"),
    ("shift", lambda ids, start, T: (ids[:T], ids[1 : T + 1]), "The window should begin at position"),
    ("shift", lambda ids, start, T: (ids[start + 1 : start + T + 1], ids[start : start + T]), "swapped"),
    ("shift", lambda ids, start, T: ids[start : start + T + 1], "5 values"),
    ("shift", lambda ids, start, T: (ids[start : start + T], [i + 1 for i in ids[start : start + T]]), "first wrong"),
    ("windows_of", stream_windows, "into the next story"),
    ("windows_of", lambda stories, T: stories, "it may have"),
    ("windows_of", lambda stories, T: [s[i : i + T + 1] for s in stories for i in range(0, len(s), T)], "a single id"),
    (
        "windows_of",
        lambda stories, T: [w for s in stories for i in range(0, len(s), T + 1) if len(w := s[i : i + T + 1]) > 1],
        "is never a target",
    ),
    (
        "windows_of",
        lambda stories, T: [s[i : i + T] for s in stories for i in range(0, len(s) - 1, T)],
        "is never a target",
    ),
    (
        "windows_of",
        lambda stories, T: [s[i : i + T + 1] for s in stories for i in range(0, len(s) - T, T)],
        "at the end of its story is lost",
    ),
    (
        "windows_of", lambda stories, T: [s[i : i + T + 1] for s in stories for i in range(len(s) - 1)],
        "times, not once",
    ),
    ("windows_of", lambda stories, T: [s[i : i + 2] for s in stories for i in range(len(s) - 1)], "are enough"),
    (
        "windows_of",
        lambda stories, T: [s[:-1][i : i + T + 1] for s in stories for i in range(0, len(s) - 2, T)],
        "needs its end as a target",
    ),
    (
        "windows_of",
        lambda stories, T: [s[i : i + T + 1][::-1] for s in stories for i in range(0, len(s) - 1, T)],
        "is not a run of ids",
    ),
    ("mask_of", lambda lengths, T: [[t < n for t in range(T)] for n in lengths], "learn to stop"),
    ("mask_of", lambda lengths, T: [[True] * T for _ in lengths], "learn to write zeros"),
    ("mask_of", lambda lengths, T: [[t > n for t in range(T)] for n in lengths], "inverted"),
    ("mask_of", lambda lengths, T: [[t <= n + 1 for t in range(T)] for n in lengths], "first zero of the padding"),
    ("mask_of", lambda lengths, T: [[T - t <= n + 1 for t in range(T)] for n in lengths], "on the left"),
    ("mask_of", lambda lengths, T: [[0 < t <= n for t in range(T)] for n in lengths], "not for inputs"),
    ("mask_of", lambda lengths, T: [[0 < t <= n + 1 for t in range(T)] for n in lengths], "of the end mark in front"),
    (
        "mask_of",
        lambda lengths, T: [[t <= max(lengths) for t in range(T)] for n in lengths],
        "is padding, but the mask",
    ),
    ("mask_of", lambda lengths, T: [[t <= n for n in lengths] for t in range(T)], "not 3 rows of 6"),
    ("rows_at", global_numpy, "other parts of the program"),
    ("rows_at", global_random, "other parts of the program"),
    ("rows_at", reseeds, "such as dropout"),
    ("rows_at", Remembers(), "remember earlier calls"),
    ("rows_at", lambda *args: np.random.RandomState().permutation(args[1])[: args[2]], "remember earlier calls"),
    ("rows_at", by_step, "With batches of 2 on one machine"),
    ("rows_at", ranks_alike, "should get different rows"),
    ("rows_at", ranks_overlap, "The ranks overlap"),
    ("rows_at", ranks_apart, "get the large batch"),
    ("rows_at", same_epochs, "the order of the first"),
    ("rows_at", not_mixed, "in the order of their numbers"),
    ("rows_at", no_seed, "Seed 7 and seed 8"),
    ("rows_at", short_end, "a batch has 4"),
    ("rows_at", drops_rest, "two stories are left over"),
    ("rows_at", one_epoch_only, "In the second epoch"),
    ("rows_at", lambda *args: [row + 1 for row in rows_right(*args)], "0 to 9"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass_and_blank_ones_are_no_mistake(name):
    assert getattr(check, name)(RIGHT[name])
    assert getattr(check, name)(lambda *_: None).state == "blank"


@pytest.mark.parametrize("name, answer", ALSO_RIGHT)
def test_other_right_answers_pass(name, answer):
    verdict = getattr(check, name)(answer)
    assert verdict, verdict


@pytest.mark.parametrize("name, answer, said", MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_each_mistake_has_its_own_diagnosis(name, answer, said):
    verdict = getattr(check, name)(answer)
    assert verdict.state == "wrong" and said in verdict.message, verdict
    others = [other for about, other, words in MISTAKES if about == name and words != said]
    assert all(said not in getattr(check, name)(other).message for other in others)


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("rubbish", [lambda *_: [["a"]], lambda *_: [None, None], lambda *_: [], lambda *_: 1 / 0])
def test_rubbish_gets_a_verdict(name, rubbish):
    assert getattr(check, name)(rubbish).state == "wrong"


def test_the_shared_generators_are_left_as_they_were():
    before = np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate()
    for answer in rows_right, global_numpy, global_random, reseeds:
        check.rows_at(answer)
    after = np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate()
    assert before[0][:5] == after[0][:5] and before == after
