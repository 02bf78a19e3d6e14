"""The checks: right answers pass, and each typical mistake gets a diagnosis of its own."""

import codecs
import random
import sys
from collections import Counter

import pytest

from tinygpt.checks import tokenizer as check


# ---- exercise 1: merge


def merge(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        hit = tuple(ids[i : i + 2]) == tuple(pair)
        out.append(new if hit else ids[i])
        i += 2 if hit else 1
    return out


def merge_overlapping(ids, pair, new):
    hits = [i for i in range(len(ids) - 1) if (ids[i], ids[i + 1]) == pair]
    out = [new if i in hits else id for i, id in enumerate(ids) if i in hits or i - 1 not in hits]
    return out


def merge_from_right(ids, pair, new):
    return merge(ids[::-1], pair[::-1], new)[::-1]


def merge_first_only(ids, pair, new):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return ids[:i] + [new] + ids[i + 2 :]
    return ids


def merge_losing_the_last(ids, pair, new):
    out, i = [], 0
    while i < len(ids) - 1:
        hit = (ids[i], ids[i + 1]) == pair
        out.append(new if hit else ids[i])
        i += 2 if hit else 1
    return out


def merge_keeping_the_second(ids, pair, new):
    return [new if (ids[i], (ids + [None])[i + 1]) == pair else ids[i] for i in range(len(ids))]


def merge_past_the_end(ids, pair, new):
    return [new if (ids[i], ids[i + 1]) == pair else ids[i] for i in range(len(ids))]


def merge_without_end(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            out.append(new)
    return out


def merge_with_text(ids, pair, new):
    return [int(id) for id in " ".join(map(str, ids)).replace(f"{pair[0]} {pair[1]}", str(new)).split()]


def merge_by_the_first_id(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        out.append(new if ids[i] == pair[0] else ids[i])
        i += 2 if ids[i] == pair[0] else 1
    return out


def merge_swallowing(ids, pair, new):
    while True:
        try:
            ids = list(ids)
        except Exception:
            pass


def merge_in_place(ids, pair, new):
    merged = merge(ids, pair, new)
    ids[:] = merged
    return merged


# ---- exercise 2: learn


def learner(best, count_again=True, first_new=256):
    def learn(ids, n):
        merges, counts = [], None
        while len(merges) < n and len(ids) > 1:
            if counts is None or count_again:
                counts = Counter(zip(ids, ids[1:]))
            if not counts:
                break
            merges.append(best(counts))
            ids = merge(ids, merges[-1], first_new + len(merges) - 1)
        return merges

    return learn


learn = learner(lambda counts: min(counts, key=lambda pair: (-counts[pair], pair)))


def learn_and_fall_off(ids, n):
    merges = []
    for new in range(256, 256 + n):
        counts = Counter(zip(ids, ids[1:]))
        merges.append(min(counts, key=lambda pair: (-counts[pair], pair)))
        ids = merge(ids, merges[-1], new)
    return merges


# ---- exercise 3: encode


def encode(ids, merges):
    for pair, new in merges.items():
        ids = merge(ids, pair, new)
    return ids


def encode_by(choose):
    def encode(ids, merges):
        while pairs := [pair for pair in zip(ids, ids[1:]) if pair in merges]:
            best = choose(pairs, merges)
            ids = merge(ids, best, merges[best])
        return ids

    return encode


def encode_one_merge(ids, merges):
    best = next(pair for pair in merges if pair in list(zip(ids, ids[1:])))
    return merge(ids, best, merges[best])


def encode_what_was_there(ids, merges):
    there = set(zip(ids, ids[1:]))
    for pair, new in merges.items():
        if pair in there:
            ids = merge(ids, pair, new)
    return ids


def encode_longest(ids, merges):
    spelled = {id: [id] for id in range(256)}
    for (left, right), new in merges.items():
        spelled[new] = spelled[left] + spelled[right]
    out = []
    while ids:
        out.append(
            max((id for id in spelled if ids[: len(spelled[id])] == spelled[id]), key=lambda id: len(spelled[id]))
        )
        ids = ids[len(spelled[out[-1]]) :]
    return out


def encode_first_place_only(ids, merges):
    for pair, new in merges.items():
        ids = merge_first_only(ids, pair, new)
    return ids


# ---- exercise 4: stream


def stream(ids, tokens):
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for id in ids:
        yield decoder.decode(tokens[id])
    yield decoder.decode(b"", final=True)


def stream_by_token(ids, tokens):
    for id in ids:
        yield tokens[id].decode(errors="replace")


def stream_at_the_end(ids, tokens):
    yield b"".join(tokens[id] for id in ids).decode(errors="replace")


def stream_ignoring(ids, tokens):
    for id in ids:
        yield tokens[id].decode(errors="ignore")


def stream_latin(ids, tokens):
    for id in ids:
        yield tokens[id].decode("latin1")


def stream_strict(ids, tokens):
    for id in ids:
        yield tokens[id].decode()


def stream_forgetting_the_rest(ids, tokens):
    held = b""
    for id in ids:
        held += tokens[id]
        try:
            yield held.decode()
            held = b""
        except UnicodeDecodeError:
            pass


def stream_strict_at_the_end(ids, tokens):
    held = b""
    for id in ids:
        held += tokens[id]
        try:
            yield held.decode()
            held = b""
        except UnicodeDecodeError:
            pass
    yield held.decode()


def stream_without_end(ids, tokens):
    held = b""
    while True:
        held += b""
    yield held


def stream_keeping_only_the_last(ids, tokens):
    held = b""
    for id in ids:
        held += tokens[id]
        try:
            yield held.decode()
            held = b""
        except UnicodeDecodeError:
            held = tokens[id]
    if held:
        yield held.decode(errors="replace")


def stream_swallowing(ids, tokens):
    held = b""
    for id in ids:
        held += tokens[id]
        try:
            yield held.decode()
            held = b""
        except UnicodeDecodeError:
            pass
    if held:
        yield "�"


def stream_counting(ids, tokens):
    for i in range(len(ids)):
        yield tokens[ids[i]].decode(errors="replace")


def decoded(ids, tokens):
    return b"".join(tokens[id] for id in ids).decode(errors="replace")


def stream_bytes(ids, tokens):
    for id in ids:
        yield tokens[id]


def stream_spaced(ids, tokens):
    for id in ids:
        yield tokens[id].decode(errors="replace") + " "


@pytest.mark.parametrize("name", ["merge", "learn", "encode", "stream"])
def test_right_answers_pass_and_blank_ones_are_no_mistake(name):
    assert getattr(check, name)(globals()[name]), name
    for blank in (lambda *_: None), None, ...:
        verdict = getattr(check, name)(blank)
        assert verdict.state == "blank" and not verdict


MISTAKES = [
    ("merge", merge_overlapping, "went into two merges"),
    ("merge", merge_from_right, "from left to right"),
    ("merge", merge_first_only, "left the second"),
    ("merge", merge_losing_the_last, "last id is lost"),
    ("merge", merge_keeping_the_second, "second half of each pair is still there"),
    ("merge", merge_past_the_end, "IndexError: list index out of range in its line 2: return [new if"),
    ("merge", merge_without_end, "does not come to an end"),
    ("merge", merge_with_text, "is wrong from index 0"),
    ("merge", merge_in_place, "changed what it was given"),
    ("merge", lambda ids, pair, new: ids, "as they were"),
    ("merge", lambda ids, pair, new: tuple(merge(ids, pair, new)), "of type tuple, not list"),
    ("merge", lambda ids, pair: ids, "TypeError"),
    ("merge", [7, 50], "A function is wanted"),
    ("learn", learner(lambda counts: max(counts, key=counts.get)), "it met first"),
    ("learn", lambda ids, n: [pair for pair in learn(ids, n) if ids.count(pair[0]) > 1], "A pair that occurs once"),
    ("merge", merge_by_the_first_id, "is wrong from index 0"),
    ("learn", learner(lambda counts: max(reversed(counts), key=counts.get)), "it met last"),
    (
        "learn",
        learner(lambda counts: max(counts, key=lambda pair: (counts[pair], random.random()))),
        "does not always answer the same",
    ),
    ("learn", learner(lambda counts: max(counts, key=lambda pair: (counts[pair], pair))), "the highest ids"),
    ("learn", learner(lambda counts: min(counts, key=lambda pair: (-counts[pair], pair[1]))), "the lowest second id"),
    ("learn", learner(lambda counts: min(counts, key=counts.get)), "stands there most often"),
    (
        "learn",
        learner(lambda counts: min(counts, key=lambda pair: (-counts[pair], pair)), count_again=False),
        "counted again",
    ),
    (
        "learn",
        learner(lambda counts: min(counts, key=lambda pair: (-counts[pair], pair)), first_new=257),
        "does the first new token get",
    ),
    ("learn", learn_and_fall_off, "ValueError"),
    ("learn", lambda ids, n: learn(ids, n + 1), "instead of"),
    ("learn", lambda ids, n: Counter(zip(ids, ids[1:])), "of type Counter, not list"),
    ("learn", lambda ids, n: Counter(zip(ids, ids[1:])).most_common(n), "A list of pairs is wanted"),
    ("encode", encode_by(lambda pairs, merges: max(pairs, key=pairs.count)), "Frequency counted while learning"),
    ("encode", encode_by(lambda pairs, merges: pairs[0]), "first pair found from the left"),
    ("encode", encode_by(lambda pairs, merges: max(pairs, key=merges.get)), "learned last was applied first"),
    ("encode", encode_one_merge, "Only one merge"),
    ("encode", encode_what_was_there, "just made"),
    ("encode", lambda ids, merges: ids, "Nothing was merged"),
    ("encode", encode_longest, "Length does not decide"),
    ("encode", encode_first_place_only, "the first place where it fits"),
    ("stream", stream_by_token, "half a character decodes to"),
    ("stream", stream_at_the_end, "before all ids were in"),
    ("stream", stream_ignoring, "thrown away"),
    ("stream", stream_latin, "as if each were a character"),
    ("stream", stream_strict, "a token that holds half a character"),
    ("stream", stream_forgetting_the_rest, "left over at the end should show as"),
    ("stream", stream_strict_at_the_end, "a model may stop anywhere"),
    ("stream", stream_without_end, "does not come to an end"),
    ("stream", stream_keeping_only_the_last, "half a character decodes to"),
    ("stream", stream_swallowing, "One token that ends in half a character"),
    ("stream", stream_counting, "how many ids there are"),
    ("stream", lambda ids, tokens: decoded(ids, tokens), "It returns one text"),
    ("stream", stream_bytes, "of type bytes. Text"),
    ("stream", stream_spaced, "stands between them"),
]


@pytest.mark.parametrize("name, answer, said", MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_each_mistake_has_its_own_diagnosis(name, answer, said):
    verdict = getattr(check, name)(answer)
    assert verdict.state == "wrong" and said in verdict.message
    assert verdict.message in repr(verdict) and "border-left" in verdict._repr_html_()
    others = [other for about, other, words in MISTAKES if about == name and words != said]
    assert all(said not in getattr(check, name)(other).message for other in others)


def test_a_loop_that_catches_everything_is_stopped_too():
    assert "does not come to an end" in check.merge(merge_swallowing).message


def test_the_offending_token_is_outlined():
    verdict = check.merge(merge_overlapping)
    assert verdict._repr_html_().count("outline:") == 1


class Nasty:
    "Breaks whatever looks at it."

    def __repr__(self):
        raise RuntimeError("no")

    def __eq__(self, other):
        raise RuntimeError("no")

    def __bool__(self):
        raise RuntimeError("no")


class NastyList(list):
    __eq__ = __repr__ = lambda *_: 1 / 0


def leaves(*_):
    sys.exit("goodbye")


def nasty_list(*_):
    return NastyList([1])


@pytest.mark.parametrize("name", ["merge", "learn", "encode", "stream"])
@pytest.mark.parametrize(
    "answer",
    [
        leaves,
        nasty_list,
        lambda *_: Nasty(),
        Nasty(),
        int,
        lambda *_: 1 / 0,
        lambda *a: (_ for _ in ()).throw(RecursionError()),
    ],
)
def test_a_check_never_raises(name, answer):
    trace = sys.gettrace()
    verdict = getattr(check, name)(answer)
    assert not verdict and repr(verdict) and verdict._repr_html_()
    assert sys.gettrace() is trace


def test_a_verdict_shows_no_live_html():
    def answer(*_):
        return "<script>alert(1)</script>"

    assert "<script>" not in check.stream(answer)._repr_html_()
