"""Checks for the chapter Tokenizer: each typical mistake has its own diagnosis."""

import functools
import itertools
import random
from collections import Counter

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.engine.splitting import GPT4_SPLIT
from tinygpt.show.pictures import color_tokens


def _drawn(ids, marked: int | None = None, shown=str):
    "The ids in coloured boxes with space between them, one of them outlined."
    return color_tokens((f" {shown(id)} " for id in ids), marked=marked)


def _differ(answer, args: tuple, got: list, expected: list, shown=str):
    "Point to the first place where the ids are not what they should be, without saying what should stand there."
    at = next((i for i, (a, b) in enumerate(itertools.zip_longest(got, expected)) if a != b), None)
    if at is None:
        return
    short = (
        f"The result ends too early: {len(expected) - len(got)} more should follow."
        if at >= len(got)
        else f"The result is wrong from index {at} on (counted from 0)."
    )
    raise Finding(
        f"{short} {call(answer, *args)} returned {got}.",
        _drawn(got, min(at, len(got) - 1), shown) if got else None,
    )


def _merged(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    return [ord(c) for c in "".join(map(chr, ids)).replace("".join(map(chr, pair)), chr(new))]


def _learned(counts: dict[tuple, int], n: int) -> list[tuple[int, int]]:
    chunks, merges = list(counts.items()), []
    while len(merges) < n:
        pairs = Counter()
        for ids, times in chunks:
            for pair in zip(ids, ids[1:]):
                pairs[pair] += times
        if not pairs:
            break
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        chunks = [(_merged(ids, merges[-1], 255 + len(merges)), times) for ids, times in chunks]
    return merges


@checks
def learn(answer):
    "Exercise 1: the most frequent pair of the counted chunks, ties by the lowest ids, counted again after each merge."

    def tried(counts, n):
        given = {tuple(chunk): times for chunk, times in counts.items()}
        got = attempt(answer, given, n, expect=list)
        if any(not isinstance(pair, tuple) or [type(id) for id in pair] != [int, int] for pair in got):
            raise Finding(
                f"It should return a list of pairs of ids, such as [(97, 98)]. {call(answer, given, n)} returned {got}."
            )
        if len(got) > n:
            raise Finding(f"It returned {len(got)} merges instead of {n}: {call(answer, given, n)}.")
        return got

    def words(counts):
        return ", ".join(f'"{chunk.decode()}" {times}' for chunk, times in counts.items())

    if (got := tried({b"xyaxybxyc": 1}, 1)) != [(120, 121)]:
        raise Finding(f'For the one chunk "xyaxybxyc" it begins with {got}. Which pair occurs there most often?')
    apart = {b"a": 5, b"bc": 2}
    if (got := tried(apart, 1)) in ([(97, 97)], [(97, 98)]):
        raise Finding(
            f"It paired ids of two different chunks: a merge never crosses a border. The chunks were {words(apart)}."
        )
    often = {b"ab": 5, b"cdcd": 1}
    if (got := tried(often, 1)) == [(99, 100)]:
        raise Finding(
            f"The numbers in `counts` were not used: each chunk counted once. The chunks were {words(often)}."
        )
    answers = {tuple(tried({b"bdaebc": 1}, 1)) for _ in range(30)}
    if len(answers) > 1:
        raise Finding(
            "The same question got different answers. If chance decides, two people cannot get the same vocabulary "
            "from the same text."
        )
    (got,) = answers.pop() or [None]
    if got is None:
        raise Finding('It learned nothing from the chunk "bdaebc". A pair that occurs once is a pair, too.')
    if got in [(98, 100), (98, 99)]:
        raise Finding(
            f"Of equally frequent pairs it takes the one that it met {'first' if got[1] == 100 else 'last'}. Then the "
            "same words in another order give another vocabulary. The chapter has a rule for ties."
        )
    if got != (97, 101):
        which = {(101, 98): "the one with the highest ids", (100, 97): "the one with the lowest second id"}.get(
            got, got
        )
        raise Finding(f'Of the equally frequent pairs in "bdaebc" it takes {which}. The chapter has a rule for ties.')
    got = tried({b"abcabcabd": 1}, 2)
    if got[1:] and 256 not in got[1] and max(got[1]) > 256:
        raise Finding(f"The second merge is {got[1]}. Which number does the first new token get?")
    if got == [(97, 98), (98, 99)] or got == [(97, 98), (97, 98)]:
        raise Finding(
            f'The second merge is wrong: "abcabcabd" gave {got}. The first merge changes the chunk. Was it counted '
            "again?"
        )
    if len(got) < 2:
        raise Finding(f'For the chunk "abcabcabd" it returned {len(got)} of the 2 merges.')
    short = {text: tried({text: 1}, 9) for text in (b"aaaa", b"a", b"")}
    if [len(got) for got in short.values()] != [2, 0, 0]:
        raise Finding(
            'Where no pair is left, it should return the merges so far: "aaaa" has two, "a" and "" have none. '
            f"It returned {', '.join(map(str, short.values()))}."
        )
    if tried({}, 3):
        raise Finding("Without any chunk there is nothing to learn: the list should be empty.")
    rng = random.Random(0)
    for _ in range(40):
        chunks = [bytes(rng.choice(b"aab c") for _ in range(rng.randrange(12))) for _ in range(3)]
        counts = {chunk: rng.randrange(1, 4) for chunk in chunks}
        got, expected = tried(counts, 6), _learned(counts, 6)
        at = next((i for i, (a, b) in enumerate(itertools.zip_longest(got, expected)) if a != b), None)
        if at is not None:
            raise Finding(
                f"Merge number {at + 1} is {'missing' if at >= len(got) else 'wrong'}. "
                f"The chunks were {words(counts)}; it returned {got}."
            )
    return "It takes the most frequent pair, breaks ties by a rule, and counts again after each merge."


def _greedy(ids, merges, choose):
    "Merge what `choose` picks of the pairs that are there, until none of them is a merge."
    while pairs := [pair for pair in zip(ids, ids[1:]) if pair in merges]:
        best = choose(pairs)
        ids = _merged(ids, best, merges[best])
    return ids


def _present_once(ids, merges):
    for pair in [pair for pair in merges if pair in list(zip(ids, ids[1:]))]:
        ids = _merged(ids, pair, merges[pair])
    return ids


def _longest(ids, merges):
    parts = {new: pair for pair, new in merges.items()}

    def spelled(id):
        return spelled(parts[id][0]) + spelled(parts[id][1]) if id in parts else [id]

    tokens, out = sorted(parts, key=lambda id: -len(spelled(id))), []
    while ids:
        id = next((id for id in tokens if ids[: len(spelled(id))] == spelled(id)), ids[0])
        out, ids = out + [id], ids[len(spelled(id)) :]
    return out


def _leftmost_only(ids, merges):
    for (a, b), new in merges.items():
        at = next((i for i, pair in enumerate(zip(ids, ids[1:])) if pair == (a, b)), None)
        ids = ids if at is None else ids[:at] + [new] + ids[at + 2 :]
    return ids


def _replayed(ids, merges):
    for pair, new in merges.items():
        ids = _merged(ids, pair, new)
    return ids


@checks
def encode(answer):
    "Exercise 2: apply the merges in the order in which they were learned."
    # a word for which every strategy below gives another result
    word, merges = list(b"bcadca"), {(98, 99): 256, (99, 97): 257, (100, 257): 258, (97, 258): 259, (100, 99): 260}
    got = attempt(answer, word, merges, expect=list)
    letters = {**{i: chr(i) for i in range(256)}, 256: "bc", 257: "ca", 258: "dca", 259: "adca", 260: "dc"}

    def shown(id):
        return letters.get(id, str(id))

    def drawn(ids):
        return _drawn(ids, shown=shown)

    right = _replayed(word, merges)
    mistakes = [
        (word, "Nothing was merged: the bytes came back as they were."),
        (_merged(word, (98, 99), 256), "Only one merge was applied. Which pairs stand side by side after it?"),
        (
            _present_once(word, merges),
            "Only pairs that the text has from the start were merged, not those that other merges have just made.",
        ),
        (
            _greedy(word, merges, lambda pairs: max(pairs, key=pairs.count)),
            "The pair that is most frequent in this text was merged first. Frequency mattered while learning; "
            "now the order is fixed.",
        ),
        (
            _greedy(word, merges, lambda pairs: pairs[0]),
            "The first pair found from the left was merged first. The order in which the merges were learned "
            "decides, wherever the pair stands.",
        ),
        (
            _greedy(word, merges, lambda pairs: max(pairs, key=merges.get)),
            "The merge that was learned last was applied first.",
        ),
    ]
    for wrong, diagnosis in mistakes:
        if got == wrong:
            raise Finding(f'{diagnosis} "bcadca" became:', drawn(got))
    _differ(answer, (word, merges), got, right, shown)
    long, others = list(b"adcacbacba"), {(98, 97): 300, (99, 300): 310, (300, 310): 320, (97, 99): 330, (99, 98): 340}
    got = attempt(answer, long, others, expect=list)
    if got == _longest(long, others):
        raise Finding("It takes the longest token that fits at each place. Length does not decide.")
    again = attempt(answer, word * 2, merges, expect=list)
    if again == _leftmost_only(word * 2, merges):
        raise Finding("Each merge was applied only at the first place where it fits.", drawn(again))
    _differ(answer, (long, others), got, _replayed(long, others))
    rng = random.Random(1)
    for _ in range(50):
        ids = [rng.choice(b"abcd") for _ in range(rng.randrange(12))]
        got = attempt(answer, ids, merges, expect=list)
        _differ(answer, (ids, merges), got, _replayed(ids, merges), shown)
    return "The merges are applied in the order in which they were learned."


@checks
def stream(answer):
    "Exercise 3: decode bytes when they make whole characters, not token by token."
    tokens = [b"light", b" ", b"\xf0\x9f", b"\x90\x9f", b"\xc3", b"\xa9", b"caf", b"caf\xc3", b"\xf0", b"\x9f", b"\xff"]

    def tried(*ids):
        "What came out, and how many ids had been taken when each part of it came."
        taken = 0

        def feed():
            nonlocal taken
            for taken, id in enumerate(ids, start=1):
                yield id

        @functools.wraps(answer if callable(answer) else feed)
        def collected(ids, tokens):
            out = answer(feed(), tokens)
            return out if isinstance(out, str) or out is None else [(part, taken) for part in out]

        try:
            got = attempt(
                collected if callable(answer) else answer, list(ids), tokens, expect=(list, str), give="yield"
            )
        except Finding as finding:
            if "has no len()" in finding.verdict.message:
                raise Finding(
                    "It asks how many ids there are. They come one at a time, so their number is not known yet."
                ) from None
            raise
        if isinstance(got, str):
            raise Finding("It returns one text. It should be a generator, which yields text again and again.")
        if wrong := [part for part, _ in got if not isinstance(part, str)]:
            raise Finding(f"It yields {wrong[0]!r}, of type {type(wrong[0]).__name__}. It should yield text (str).")
        return got

    def text(*ids):
        return "".join(part for part, _ in tried(*ids))

    if (got := text(0, 1, 0)) != "light light":
        what = (
            "something stands between the parts"
            if got.replace(" ", "") == "lightlight"
            else "this is a different text"
        )
        raise Finding(f'The ids of b"light", b" " and b"light" gave {got!r}: {what}.')
    if len(tried(0, 1, 0)) < 2 or tried(0, 1, 0)[0][1] > 1:
        raise Finding(
            'Nothing came out before all ids were in. We want to see "light" as soon as its id is there.'
        )
    for ids in (6, 4, 5), (2, 3), (7, 5, 1, 0), (8, 9, 3):
        whole, cut = (
            b"".join(tokens[i] for i in ids).decode(),
            color_tokens([tokens[i] for i in ids], marked=0 if ids[0] != 6 else 1),
        )
        try:
            got = text(*ids)
        except Finding as finding:
            if "UnicodeDecodeError" in finding.verdict.message:
                raise Finding(
                    "It stops with an error at a token that holds half a character. What has to happen with such bytes "
                    "until the rest arrives?",
                    cut,
                ) from None
            raise
        if "�" in got:
            raise Finding(
                f"These tokens gave {got!r}. One of them ends in the middle of a character, and half a character "
                "decodes to �. What has to happen with such bytes until the rest arrives?",
                cut,
            )
        if got != whole:
            raise Finding(
                f"These tokens gave {got!r}: "
                + (
                    "part of a character was thrown away."
                    if len(got) < len(whole)
                    else "bytes were decoded as if each were a character, or came twice."
                ),
                cut,
            )
    try:
        got = text(6, 4)
    except Finding as finding:
        if "UnicodeDecodeError" in finding.verdict.message:
            raise Finding(
                "It stops with an error where the ids end in the middle of a character, and a model may stop anywhere. "
                "How can decoding be told to go on?",
                color_tokens([b"caf", b"\xc3"], marked=1),
            ) from None
        raise
    if got != "caf�":
        raise Finding(
            f"Ids that end in the middle of a character gave {got!r}. What is left over at the end should show as �.",
            color_tokens([b"caf", b"\xc3"], marked=1),
        )
    if (got := text(7)) != "caf�":
        raise Finding(
            f"One token that ends in half a character gave {got!r}. Its whole characters are text, too.",
            color_tokens([tokens[7]], marked=0),
        )
    if text():
        raise Finding("No ids at all should give no text.")
    out = tried(10, 0, 1)
    late = not any(part and taken < 3 for part, taken in out)
    if late or text(10, 0, 1) != "�light ":
        raise Finding(
            f"After a byte that belongs to no character (255), {'nothing' if late else 'something else'} came out "
            "while the next ids came in. Such a byte should show as �, and the text after it should follow as usual.",
            color_tokens([tokens[10], b"light", b" "], marked=0),
        )
    return "Whole characters come out at once, and halves are held back until the rest arrives."


@checks
def bytes_per_token(answer):
    "Exercise 4: train with a split pattern or without one, and measure on another text."
    from tinygpt.tokenizer import BPETokenizer

    seen, text = "the lamp, the light, the lamp, the oil. " * 20, "An old lamp: the café, the lighthouse, the lamp."
    size = 264

    def ratio(seen, text, size, pattern, per=len):
        return per(text.encode()) / len(BPETokenizer.train(seen, size, pattern=pattern).encode(text))

    for pattern in GPT4_SPLIT, None:
        which = "GPT4_SPLIT" if pattern else "None"
        got = attempt(answer, seen, text, size, pattern, expect=(int, float), steps=1_000_000)
        right = ratio(seen, text, size, pattern)
        mistakes = [
            (1 / right, "It is upside down: these are tokens per byte."),
            (right * len(text) / len(text.encode()), "It counts characters. An é is one character and two bytes."),
            (ratio(seen, seen, size, pattern), "It measures on the text that it has learned from."),
            (ratio(text, text, size, pattern), "It learns from `text`. It should learn from `seen`."),
            (ratio(seen, text, size, GPT4_SPLIT), "The argument `pattern` has no effect: None is like GPT4_SPLIT."),
            (ratio(seen, text, size, None), "The argument `pattern` has no effect: GPT4_SPLIT is like None."),
            (ratio(seen, text, 1024, pattern), "The argument `vocab_size` has no effect."),
            (len(text.encode()), "These are the bytes of the whole text."),
            (len(text.encode()) / right, "These are the tokens of the whole text."),
        ]
        if abs(got - right) <= 1e-6 * right:
            continue
        for wrong, diagnosis in mistakes:
            if abs(got - wrong) <= 1e-6 * wrong:
                raise Finding(f"{diagnosis} With pattern={which} it returned {got:.3f}.")
        raise Finding(f"With pattern={which} it returned {got:.3f}, which is not the bytes of the text per token.")
    return "It learns from one text and counts bytes per token on another. Did you predict what you measured?"
