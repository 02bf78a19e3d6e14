"""Checks for chapter 01: each typical mistake has a diagnosis of its own."""

import functools
import itertools
import random
from collections import Counter

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.show.pictures import color_tokens


def _differ(answer, args: tuple, got: list, expected: list, shown=str):
    "Point to the first place where the ids are not what they should be, without saying what should stand there."
    at = next((i for i, (a, b) in enumerate(itertools.zip_longest(got, expected)) if a != b), None)
    if at is None:
        return
    short = (
        f"ends too early: {len(expected) - len(got)} more should follow"
        if at >= len(got)
        else f"is wrong from index {at} on (counted from 0)"
    )
    raise Finding(
        f"{call(answer, *args)} returned {got}, which {short}.",
        color_tokens(map(shown, got), marked=min(at, len(got) - 1)) if got else None,
    )


@checks
def merge(answer):
    "Exercise 1: replace a pair by a new id, from left to right."

    def tried(*args):
        return attempt(answer, *args, expect=list)

    ids, pair = [7, 1, 2, 8, 1, 2, 9], (1, 2)
    got = tried(ids, pair, 50)
    if got == ids:
        raise Finding(
            f"{call(answer, ids, pair, 50)} gave the ids back as they were. Which ids does it compare with the pair?"
        )
    if got == [7, 50, 8, 1, 2, 9]:
        raise Finding(
            f"{call(answer, ids, pair, 50)} replaced the first pair and left the second.",
            color_tokens(map(str, got), marked=3),
        )
    if got == [7, 50, 8, 50]:
        raise Finding(
            "The last id is lost when it belongs to no pair. How far does your loop go?",
            color_tokens(map(str, ids), marked=6),
        )
    if got[:4] == [7, 50, 2, 8]:
        lost = "" if got[-1:] == [9] else " And the last id is lost."
        raise Finding(
            f"The second half of each pair is still there. Where does your loop go on after a merge?{lost}",
            color_tokens(map(str, got), marked=2),
        )
    _differ(answer, (ids, pair, 50), got, [7, 50, 8, 50, 9])

    for ids in [1, 3, 2], [3, 2, 1]:
        _differ(answer, (ids, (1, 2), 50), tried(ids, (1, 2), 50), ids)
    got = tried([1, 1, 1], (1, 1), 50)
    if got == [50, 50]:
        raise Finding(
            "In [1, 1, 1] the middle id went into two merges. Each id can be used once.",
            color_tokens(["1", "1", "1"], marked=1),
        )
    if got == [1, 50]:
        raise Finding(
            "In [1, 1, 1] the pair on the right was merged. Overlapping pairs are taken from left to right.",
            color_tokens(map(str, got), marked=1),
        )
    _differ(answer, ([1, 1, 1], (1, 1), 50), got, [50, 1])
    for ids in [3, 1, 2], [1, 2], [2, 1], [1], [], [1, 1, 2, 2], [1, 2, 1, 2, 1], [11, 2], [1, 21]:
        got = tried(ids, (1, 2), 50)
        _differ(answer, (ids, (1, 2), 50), got, _merged(ids, (1, 2), 50))
    return "Pairs at the end, overlapping pairs and lists without any are all treated as they should be."


def _merged(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    return [ord(c) for c in "".join(map(chr, ids)).replace("".join(map(chr, pair)), chr(new))]


def _learned(ids: list[int], n: int) -> list[tuple[int, int]]:
    merges = []
    while len(merges) < n and len(ids) > 1:
        counts = Counter(zip(ids, ids[1:]))
        merges.append(min(counts, key=lambda pair: (-counts[pair], pair)))
        ids = _merged(ids, merges[-1], 255 + len(merges))
    return merges


@checks
def learn(answer):
    "Exercise 2: the most frequent pair, ties by the lowest ids, and count again after each merge."

    def tried(text, n):
        got = attempt(answer, list(text), n, expect=list)
        if any(not isinstance(pair, tuple) or [type(id) for id in pair] != [int, int] for pair in got):
            raise Finding(
                f"{call(answer, list(text), n)} returned {got}. A list of pairs is wanted, such as [(97, 98)]."
            )
        if len(got) > n:
            raise Finding(f"{call(answer, list(text), n)} returned {len(got)} merges instead of {n}.")
        return got

    if (got := tried(b"xyaxybxyc", 1)) != [(120, 121)]:
        raise Finding(f'In "xyaxybxyc" it begins with {got}. Which pair stands there most often?')
    answers = {tuple(tried(b"bdaebc", 1)) for _ in range(30)}
    if len(answers) > 1:
        raise Finding(
            "Asked again and again, it does not always answer the same. With chance in it, no two people would get the "
            "same vocabulary from the same text."
        )
    (got,) = answers.pop() or [None]
    if got is None:
        raise Finding('In "bdaebc" it learned nothing. A pair that occurs once is a pair, too.')
    if got in [(98, 100), (98, 99)]:
        raise Finding(
            f"Of equally frequent pairs it takes the one that it met {'first' if got[1] == 100 else 'last'}. So the "
            "same words in another order would give another vocabulary. The chapter has a rule for ties."
        )
    if got != (97, 101):
        which = {(101, 98): "the one with the highest ids", (100, 97): "the one with the lowest second id"}.get(
            got, got
        )
        raise Finding(f'Of the equally frequent pairs in "bdaebc" it takes {which}. The chapter has a rule for ties.')
    got = tried(b"abcabcabd", 2)
    if got[1:] and 256 not in got[1] and max(got[1]) > 256:
        raise Finding(f"The second merge is {got[1]}. Which number does the first new token get?")
    if got == [(97, 98), (98, 99)] or got == [(97, 98), (97, 98)]:
        raise Finding(
            f'In "abcabcabd" it learned {got}. After the first merge other pairs stand there: has the text been '
            "changed, and counted again?"
        )
    if len(got) < 2:
        raise Finding(f"{call(answer, list(b'abcabcabd'), 2)} returned {len(got)} of the 2 merges.")
    if len(tried(b"aaaa", 9)) != 2 or tried(b"a", 3) or tried(b"", 3):
        raise Finding(
            'Where no pair is left, it should return the merges so far: "aaaa" has two, "a" and "" have none. '
            f"Yours: {tried(b'aaaa', 9)}, {tried(b'a', 3)}, {tried(b'', 3)}."
        )
    rng = random.Random(0)
    for _ in range(40):
        text = bytes(rng.choice(b"aab c") for _ in range(rng.randrange(16)))
        got, expected = tried(text, 6), _learned(list(text), 6)
        _differ(answer, (list(text), 6), got, expected)
    return "The most frequent pair, of equals always the same one, counted anew after each merge."


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
    "Exercise 3: replay the merges in the order in which they were learned."
    # a word for which every strategy below gives another result
    word, merges = list(b"bcadca"), {(98, 99): 256, (99, 97): 257, (100, 257): 258, (97, 258): 259, (100, 99): 260}
    got = attempt(answer, word, merges, expect=list)
    letters = {**{i: chr(i) for i in range(256)}, 256: "bc", 257: "ca", 258: "dca", 259: "adca", 260: "dc"}

    def shown(id):
        return letters.get(id, str(id))

    def drawn(ids):
        return color_tokens(map(shown, ids))

    right = _replayed(word, merges)
    mistakes = [
        (word, "Nothing was merged: the bytes came back as they were."),
        (_merged(word, (98, 99), 256), "Only one merge was applied. Which pairs stand side by side after it?"),
        (
            _present_once(word, merges),
            "Merges that the text has from the start were applied, but not those whose parts other merges have "
            "just made.",
        ),
        (
            _greedy(word, merges, lambda pairs: max(pairs, key=pairs.count)),
            "The pair that is most frequent in this text was merged first. Frequency counted while learning; "
            "now the order is fixed.",
        ),
        (
            _greedy(word, merges, lambda pairs: pairs[0]),
            "The first pair found from the left was merged first. The order in which the merges were learned "
            "decides, wherever the pair stands.",
        ),
        (
            _greedy(word, merges, lambda pairs: max(pairs, key=merges.get)),
            "The merge learned last was applied first. It is the other way round.",
        ),
    ]
    for wrong, diagnosis in mistakes:
        if got == wrong:
            raise Finding(f'{diagnosis} This is what came out of "bcadca":', drawn(got))
    _differ(answer, (word, merges), got, right, shown)
    long, others = list(b"adcacbacba"), {(98, 97): 300, (99, 300): 310, (300, 310): 320, (97, 99): 330, (99, 98): 340}
    got = attempt(answer, long, others, expect=list)
    if got == _longest(long, others):
        raise Finding(
            f"{call(answer, long, others)} took the longest token that fits at each place. Length does not decide."
        )
    again = attempt(answer, word * 2, merges, expect=list)
    if again == _leftmost_only(word * 2, merges):
        raise Finding("Each merge was applied to the first place where it fits, and to no other.", drawn(again))
    _differ(answer, (long, others), got, _replayed(long, others))
    rng = random.Random(1)
    for _ in range(50):
        ids = [rng.choice(b"abcd") for _ in range(rng.randrange(12))]
        got = attempt(answer, ids, merges, expect=list)
        _differ(answer, (ids, merges), got, _replayed(ids, merges), shown)
    return "The merges are replayed in the order in which they were learned."


@checks
def stream(answer):
    "Exercise 4: decode bytes when they make whole characters, not token by token."
    tokens = [b"light", b" ", b"\xf0\x9f", b"\x90\x9f", b"\xc3", b"\xa9", b"caf", b"caf\xc3", b"\xf0", b"\x9f"]

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
            raise Finding("It returns one text. A generator is wanted, which yields text again and again.")
        if wrong := [part for part, _ in got if not isinstance(part, str)]:
            raise Finding(f"It yields {wrong[0]!r}, of type {type(wrong[0]).__name__}. Text (str) is wanted.")
        return got

    def text(*ids):
        return "".join(part for part, _ in tried(*ids))

    if (got := text(0, 1, 0)) != "light light":
        what = (
            "the parts are there, but something stands between them"
            if got.replace(" ", "") == "lightlight"
            else "the text is another"
        )
        raise Finding(f'The ids of b"light", b" " and b"light" gave {got!r}: {what}.')
    if len(tried(0, 1, 0)) < 2 or tried(0, 1, 0)[0][1] > 1:
        raise Finding(
            'Nothing came out before all ids were in. A reader wants "light" as soon as its id is there.'
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
                    "until the rest comes?",
                    cut,
                ) from None
            raise
        if "�" in got:
            raise Finding(
                f"These tokens gave {got!r}. One of them ends in the middle of a character, and half a character "
                "decodes to �. What has to happen with such bytes until the rest comes?",
                cut,
            )
        if got != whole:
            raise Finding(
                f"These tokens gave {got!r}: "
                + (
                    "part of a character was thrown away."
                    if len(got) < len(whole)
                    else "bytes were read as if each were a character, or came twice."
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
    return "Whole characters come out at once, and halves are held back until the rest is there."
