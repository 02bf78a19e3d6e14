"""The checks: right answers pass, and each typical mistake gets a diagnosis of its own."""

import codecs
import functools
import random
import sys
from collections import Counter

import pytest

from tinygpt.checks import tokenizer as check
from tinygpt.engine.splitting import GPT4_SPLIT
from tinygpt.tokenizer import BPETokenizer


def merge(ids, pair, new):
    out, i = [], 0
    while i < len(ids):
        hit = tuple(ids[i : i + 2]) == tuple(pair)
        out.append(new if hit else ids[i])
        i += 2 if hit else 1
    return out


def merge_first_only(ids, pair, new):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return ids[:i] + [new] + ids[i + 2 :]
    return ids


# ---- exercise 1: learn


def lowest(pairs):
    return min(pairs, key=lambda pair: (-pairs[pair], pair))


def learner(best=lowest, count_again=True, first_new=256, weighted=True, joined=lambda counts: counts):
    def learn(counts, n):
        chunks, merges, pairs = list(joined(counts).items()), [], None
        while len(merges) < n:
            if pairs is None or count_again:
                pairs = Counter()
                for ids, times in chunks:
                    for pair in zip(ids, ids[1:]):
                        pairs[pair] += times if weighted else 1
            if not pairs:
                break
            merges.append(best(pairs))
            chunks = [(merge(ids, merges[-1], first_new + len(merges) - 1), times) for ids, times in chunks]
        return merges

    return learn


learn = learner()


def learn_and_fall_off(counts, n):
    return [lowest(Counter(zip(ids, ids[1:]))) for ids in counts][:n]


def learn_without_end(counts, n):
    merges = []
    while len(merges) < n:
        pass


def learn_swallowing(counts, n):
    while True:
        try:
            counts = dict(counts)
        except Exception:
            pass


def learn_in_place(counts, n):
    learned = learn(counts, n)
    counts.clear()
    return learned


# ---- exercise 2: encode


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


# ---- exercise 3: stream


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


def stream_until_it_decodes(ids, tokens):
    held = b""
    for id in ids:
        held += tokens[id]
        try:
            text = held.decode()
        except UnicodeDecodeError as error:
            text = held[: error.start].decode()
        yield text
        held = held[len(text.encode()) :]
    yield held.decode(errors="replace")


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


# ---- exercise 4: bytes per token


def cut(seen, text, vocab_size, pattern=GPT4_SPLIT):
    return BPETokenizer.train(seen, vocab_size, pattern=pattern).encode(text)


def bytes_per_token(seen, text, vocab_size, pattern=GPT4_SPLIT):
    return len(text.encode()) / len(cut(seen, text, vocab_size, pattern))


@pytest.mark.parametrize("name", ["learn", "encode", "stream", "bytes_per_token"])
def test_right_answers_pass_and_blank_ones_are_no_mistake(name):
    assert getattr(check, name)(globals()[name]), name
    for blank in (lambda *_: None), None, ...:
        verdict = getattr(check, name)(blank)
        assert verdict.state == "blank" and not verdict


MISTAKES = [
    ("learn", learner(lambda pairs: max(pairs, key=pairs.get)), "it met first"),
    ("learn", lambda counts, n: [pair for pair in learn(counts, n) if 120 in pair or n > 1], "A pair that occurs once"),
    ("learn", learner(lambda pairs: max(reversed(pairs), key=pairs.get)), "it met last"),
    (
        "learn",
        learner(lambda pairs: max(pairs, key=lambda pair: (pairs[pair], random.random()))),
        "got different answers",
    ),
    ("learn", learner(lambda pairs: max(pairs, key=lambda pair: (pairs[pair], pair))), "the highest ids"),
    ("learn", learner(lambda pairs: min(pairs, key=lambda pair: (-pairs[pair], pair[1]))), "the lowest second id"),
    ("learn", learner(lambda pairs: min(pairs, key=pairs.get)), "occurs there most often"),
    ("learn", learner(count_again=False), "counted again"),
    ("learn", learner(first_new=257), "does the first new token get"),
    ("learn", learner(weighted=False), "each chunk counted once"),
    ("learn", learner(joined=lambda counts: {sum(counts, ()): 1}), "two different chunks"),
    ("learn", learner(joined=lambda counts: {sum((c * n for c, n in counts.items()), ()): 1}), "two different chunks"),
    ("learn", learn_and_fall_off, "ValueError"),
    ("learn", lambda counts, n: learn(counts, n + 1), "instead of"),
    ("learn", lambda counts, n: learn(counts, n)[:1], "of the 2 merges"),
    ("learn", lambda counts, n: tuple(learn(counts, n)), "of type tuple, not list"),
    ("learn", lambda counts, n: Counter(), "of type Counter, not list"),
    ("learn", lambda counts, n: [[*pair] for pair in learn(counts, n)], "a list of pairs of ids"),
    ("learn", lambda counts, n: [(97, 98)] if not counts else learn(counts, n), "Without any chunk"),
    ("learn", lambda counts, n: learn(counts, n) if len(counts) < 3 else learn(counts, n)[:-1], "is missing"),
    ("learn", learn_without_end, "does not come to an end"),
    ("learn", learn_in_place, "changed what it was given"),
    ("learn", lambda counts: [], "TypeError"),
    ("learn", [7, 50], "A function is wanted"),
    ("encode", encode_by(lambda pairs, merges: max(pairs, key=pairs.count)), "Frequency mattered while learning"),
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
    ("stream", stream_until_it_decodes, "(255), nothing came out"),
    ("stream", stream_counting, "how many ids there are"),
    ("stream", lambda ids, tokens: decoded(ids, tokens), "It returns one text"),
    ("stream", stream_bytes, "of type bytes. It should yield"),
    ("stream", stream_spaced, "something stands between"),
    ("bytes_per_token", lambda *a: 1 / bytes_per_token(*a), "upside down"),
    ("bytes_per_token", lambda seen, text, *a: len(text) / len(cut(seen, text, *a)), "counts characters"),
    ("bytes_per_token", lambda seen, text, *a: bytes_per_token(seen, seen, *a), "that it has learned from"),
    ("bytes_per_token", lambda seen, text, *a: bytes_per_token(text, text, *a), "should learn from `seen`"),
    ("bytes_per_token", lambda s, t, size, pattern: bytes_per_token(s, t, size), "None is like GPT4_SPLIT"),
    ("bytes_per_token", lambda s, t, size, pattern: bytes_per_token(s, t, size, None), "GPT4_SPLIT is like None"),
    ("bytes_per_token", lambda s, t, size, pattern: bytes_per_token(s, t, 1024, pattern), "`vocab_size` has no"),
    ("bytes_per_token", lambda seen, text, *a: len(text.encode()), "bytes of the whole text"),
    ("bytes_per_token", lambda *a: len(cut(*a)), "tokens of the whole text"),
    ("bytes_per_token", lambda *a: bytes_per_token(*a) + 1, "not the bytes of the text per token"),
]


@functools.cache
def messages(name):
    "What each mistake should be told, and what it is told."
    return [(said, getattr(check, name)(answer).message) for about, answer, said in MISTAKES if about == name]


@pytest.mark.parametrize("name, answer, said", MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_each_mistake_has_its_own_diagnosis(name, answer, said):
    verdict = getattr(check, name)(answer)
    assert verdict.state == "wrong" and said in verdict.message
    assert verdict.message in repr(verdict) and "border-left" in verdict._repr_html_()
    assert all(said not in message for words, message in messages(name) if words != said)


def test_a_loop_that_catches_everything_is_stopped_too():
    assert "does not come to an end" in check.learn(learn_swallowing).message


def test_the_offending_token_is_outlined():
    verdict = check.encode(lambda ids, merges: encode(ids, merges)[:-1])
    assert verdict._repr_html_().count("outline:") == 1 and " bc " in repr(verdict)


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


@pytest.mark.parametrize("name", ["learn", "encode", "stream", "bytes_per_token"])
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
