"""The checks: right answers pass, and each typical mistake gets a diagnosis of its own."""
import random
import sys

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


def merge_in_place(ids, pair, new):
    merged = merge(ids, pair, new)
    ids[:] = merged
    return merged


# ---- exercise 2: next_pair

def next_pair(counts):
    return min(counts, key=lambda pair: (-counts[pair], pair))


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


# ---- exercises 4 and 5

def decode(ids, tokens):
    return b"".join(tokens[i] for i in ids).decode(errors="replace")


def bytes_per_token(text, tok):
    return len(text.encode()) / len(tok.encode(text)) if text else 0


@pytest.mark.parametrize("name", ["merge", "next_pair", "encode", "decode", "bytes_per_token"])
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
    ("merge", merge_past_the_end, "in its line 2 with IndexError"),
    ("merge", merge_without_end, "does not come to an end"),
    ("merge", merge_in_place, "changed what it was given"),
    ("merge", lambda ids, pair, new: ids, "as they were"),
    ("merge", lambda ids, pair, new: tuple(merge(ids, pair, new)), "of type tuple, not list"),
    ("merge", lambda ids, pair: ids, "TypeError"),
    ("merge", [7, 50], "A function is wanted"),
    ("next_pair", lambda counts: max(counts, key=counts.get), "counted first"),
    ("next_pair", lambda counts: max(counts, key=lambda pair: (counts[pair], random.random())), "does not always answer the same"),
    ("next_pair", lambda counts: max(counts, key=lambda pair: (counts[pair], pair)), "the highest ids"),
    ("next_pair", lambda counts: min(counts, key=lambda pair: (-counts[pair], pair[1])), "the lowest second id"),
    ("next_pair", lambda counts: min(counts, key=counts.get), "least frequent"),
    ("next_pair", lambda counts: max(counts), "not the most frequent pair"),
    ("next_pair", lambda counts: max(counts.items(), key=lambda item: item[1]), "Return the pair alone"),
    ("next_pair", lambda counts: (0, 0), "not one of the pairs"),
    ("encode", encode_by(lambda pairs, merges: max(pairs, key=pairs.count)), "Frequency counted while learning"),
    ("encode", encode_by(lambda pairs, merges: pairs[0]), "first pair found from the left"),
    ("encode", encode_by(lambda pairs, merges: max(pairs, key=merges.get)), "learned last was applied first"),
    ("encode", encode_one_merge, "Only one merge"),
    ("encode", encode_what_was_there, "just made"),
    ("encode", lambda ids, merges: ids, "Nothing was merged"),
    ("decode", lambda ids, tokens: "".join(tokens[i].decode(errors="replace") for i in ids), "half a character each"),
    ("decode", lambda ids, tokens: "".join(tokens[i].decode(errors="ignore") for i in ids), "thrown away"),
    ("decode", lambda ids, tokens: b"".join(tokens[i] for i in ids).decode("latin1"), "as if each were a character"),
    ("decode", lambda ids, tokens: b"".join(tokens[i] for i in ids).decode(), "may stop anywhere"),
    ("decode", lambda ids, tokens: b"".join(tokens[i] for i in ids).decode(errors="ignore"), "should show as"),
    ("decode", lambda ids, tokens: b"".join(tokens[i] for i in ids), "of type bytes, not str"),
    ("decode", lambda ids, tokens: " ".join(tokens[i].decode(errors="replace") for i in ids), "between them"),
    ("bytes_per_token", lambda text, tok: len(text) / len(tok.encode(text)) if text else 0, "Characters were counted"),
    ("bytes_per_token", lambda text, tok: len(tok.encode(text)) / len(text.encode()) if text else 0, "Upside down"),
    ("bytes_per_token", lambda text, tok: len(text.encode()) // len(tok.encode(text)) if text else 0, "cut off"),
    ("bytes_per_token", lambda text, tok: len(text.encode()) / len(tok.encode(text)), "ZeroDivisionError"),
]


@pytest.mark.parametrize("name, answer, said", MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_each_mistake_has_its_own_diagnosis(name, answer, said):
    verdict = getattr(check, name)(answer)
    assert verdict.state == "wrong" and said in verdict.message
    assert verdict.message in repr(verdict) and "border-left" in verdict._repr_html_()
    others = [other for about, other, words in MISTAKES if about == name and words != said]
    assert all(said not in getattr(check, name)(other).message for other in others)


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


@pytest.mark.parametrize("name", ["merge", "next_pair", "encode", "decode", "bytes_per_token"])
@pytest.mark.parametrize("answer", [leaves, nasty_list, lambda *_: Nasty(), Nasty(), int, lambda *_: 1 / 0,
                                    lambda *a: (_ for _ in ()).throw(RecursionError())])
def test_a_check_never_raises(name, answer):
    trace = sys.gettrace()
    verdict = getattr(check, name)(answer)
    assert not verdict and repr(verdict) and verdict._repr_html_()
    assert sys.gettrace() is trace


def test_a_verdict_shows_no_live_html():
    def answer(*_):
        return "<script>alert(1)</script>"

    assert "<script>" not in check.decode(answer)._repr_html_()
