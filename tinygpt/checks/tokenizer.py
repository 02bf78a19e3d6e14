"""Checks for chapter 01: each typical mistake has a diagnosis of its own."""
import itertools
import random
from dataclasses import dataclass

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.pictures import color_tokens


def _differ(answer, args: tuple, got: list, expected: list, shown=str):
    "Point to the first place where the ids are not what they should be, without saying what should stand there."
    at = next((i for i, (a, b) in enumerate(itertools.zip_longest(got, expected)) if a != b), None)
    if at is None:
        return
    short = f"ends too early: {len(expected) - len(got)} more should follow" if at >= len(got) else f"is wrong from place {at} on"
    raise Finding(f"{call(answer, *args)} returned {got}, which {short}.",
                  color_tokens(map(shown, got), marked=min(at, len(got) - 1)) if got else None)


@checks
def merge(answer):
    "Exercise 1: replace a pair by a new id, from left to right."

    def tried(*args):
        return attempt(answer, *args, expect=list)

    ids, pair = [7, 1, 2, 8, 1, 2, 9], (1, 2)
    got = tried(ids, pair, 50)
    if got == ids:
        raise Finding(f"{call(answer, ids, pair, 50)} gave the ids back as they were. Which ids does it compare with the pair?")
    if got == [7, 50, 8, 1, 2, 9]:
        raise Finding(f"{call(answer, ids, pair, 50)} replaced the first pair and left the second.",
                      color_tokens(map(str, got), marked=3))
    if got == [7, 50, 8, 50]:
        raise Finding("The last id is lost when it belongs to no pair. How far does your loop go?", color_tokens(map(str, ids), marked=6))
    if got == [7, 50, 2, 8, 50, 2, 9]:
        raise Finding("The second half of each pair is still there: after a merge, go on behind both of its ids.",
                      color_tokens(map(str, got), marked=2))
    _differ(answer, (ids, pair, 50), got, [7, 50, 8, 50, 9])

    got = tried([1, 1, 1], (1, 1), 50)
    if got == [50, 50]:
        raise Finding("In [1, 1, 1] the middle id went into two merges. Each id can be used once: after a merge, go on behind it.",
                      color_tokens(["1", "1", "1"], marked=1))
    if got == [1, 50]:
        raise Finding("In [1, 1, 1] the pair on the right was merged. Overlapping pairs are taken from left to right.",
                      color_tokens(map(str, got), marked=1))
    _differ(answer, ([1, 1, 1], (1, 1), 50), got, [50, 1])
    for ids in [3, 1, 2], [1, 2], [2, 1], [1], [], [1, 1, 2, 2], [1, 2, 1, 2, 1]:
        got = tried(ids, (1, 2), 50)
        _differ(answer, (ids, (1, 2), 50), got, _merged(ids, (1, 2), 50))
    return "Pairs at the end, overlapping pairs and lists without any are all treated as they should be."


def _merged(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    return [ord(c) for c in "".join(map(chr, ids)).replace("".join(map(chr, pair)), chr(new))]


@checks
def next_pair(answer):
    "Exercise 2: the most frequent pair, ties by the lowest ids."

    def tried(counts):
        got = attempt(answer, counts, expect=tuple)
        if len(got) == 2 and got not in counts and got[0] in counts:
            raise Finding(f"{call(answer, counts)} returned {got}, a pair and its count. Return the pair alone.")
        if got not in counts:
            raise Finding(f"{call(answer, counts)} returned {got}, which is not one of the pairs it was given.")
        return got

    counts = {(5, 6): 2, (3, 8): 9, (1, 2): 1, (9, 4): 5}
    if (got := tried(counts)) != (3, 8):
        which = "the least frequent pair" if got == (1, 2) else "not the most frequent pair"
        raise Finding(f"{call(answer, counts)} returned {got}: that is {which}. What in the dictionary decides?")
    tie = {(9, 1): 4, (2, 8): 4, (2, 5): 4, (1, 1): 3, (7, 0): 4}
    if len({tried(tie) for _ in range(30)}) > 1:
        raise Finding("Asked again and again with the same counts, it does not always answer the same. "
                      "With chance in it, no two people would get the same vocabulary.")
    orders = random.Random(0)
    results = {tried(dict(orders.sample(list(tie.items()), len(tie)))) for _ in range(30)}
    if len(results) > 1:
        raise Finding("Where pairs are equally frequent, the answer depends on which of them was counted first, so the same text in "
                      "another order gives another vocabulary. The text above has a rule for ties.")
    if (got := results.pop()) != (2, 5):
        wrong = {(9, 1): "the highest ids", (7, 0): "the lowest second id"}.get(got, "not what the rule says")
        raise Finding(f"Of equally frequent pairs it takes {got}: {wrong}. The text above has a rule for ties.")
    return "The most frequent pair, and of equals always the same one."


def _by_frequency(ids, merges):
    while pairs := [pair for pair in zip(ids, ids[1:]) if pair in merges]:
        best = max(pairs, key=pairs.count)
        ids = _merged(ids, best, merges[best])
    return ids


def _left_to_right(ids, merges):
    while pairs := [pair for pair in zip(ids, ids[1:]) if pair in merges]:
        ids = _merged(ids, pairs[0], merges[pairs[0]])
    return ids


def _present_once(ids, merges):
    for pair in [pair for pair in merges if pair in list(zip(ids, ids[1:]))]:
        ids = _merged(ids, pair, merges[pair])
    return ids


def _newest_first(ids, merges):
    while pairs := [pair for pair in zip(ids, ids[1:]) if pair in merges]:
        best = max(pairs, key=merges.get)
        ids = _merged(ids, best, merges[best])
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
        (_present_once(word, merges), "Merges that the text has from the start were applied, but not those whose parts other merges have "
                                      "just made."),
        (_by_frequency(word, merges), "The pair that is most frequent in this text was merged first. Frequency counted while learning; "
                                      "now the order is fixed."),
        (_left_to_right(word, merges), "The first pair found from the left was merged first. The order in which the merges were learned "
                                       "decides, wherever the pair stands."),
        (_newest_first(word, merges), "The merge learned last was applied first. It is the other way round."),
    ]
    for wrong, diagnosis in mistakes:
        if got == wrong:
            raise Finding(f"{diagnosis} This is what came out of \"bcadca\":", drawn(got))
    _differ(answer, (word, merges), got, right, shown)
    rng = random.Random(1)
    for _ in range(50):
        ids = [rng.choice(b"abcd") for _ in range(rng.randrange(12))]
        got = attempt(answer, ids, merges, expect=list)
        _differ(answer, (ids, merges), got, _replayed(ids, merges), shown)
    return "The merges are replayed in the order in which they were learned."


@checks
def decode(answer):
    "Exercise 4: join bytes first, decode once."
    tokens = [b"light", b" ", b"\xf0\x9f", b"\x90\x9f", b"\xc3", b"\xa9", b"caf"]

    def tried(ids):
        return attempt(answer, ids, tokens, expect=str)

    if (got := tried([0, 1, 0])) != "light light":
        what = "the parts are there, but something stands between them" if got.replace(" ", "") == "lightlight" else "the text is another"
        raise Finding(f"{call(answer, [0, 1, 0], tokens)} returned {got!r}: {what}.")
    for ids in [6, 4, 5], [2, 3]:
        got = tried(ids)
        if "�" in got:
            raise Finding(f"{call(answer, ids, tokens)} returned {got!r}. Two of these tokens hold half a character each, and half a "
                          "character decodes to nothing. What must be whole before it is decoded?",
                          color_tokens([tokens[i] for i in ids], marked=len(ids) - 1))
        if got != b"".join(tokens[i] for i in ids).decode():
            lost = "the halves of a character were thrown away" if len(got) < 4 else "bytes were read as if each were a character"
            raise Finding(f"{call(answer, ids, tokens)} returned {got!r}: {lost}.")
    try:
        got = tried([6, 4])
    except Finding as finding:
        if "UnicodeDecodeError" in finding.verdict.message:
            raise Finding("It stops with an error when the ids end in the middle of a character, and a model may stop anywhere. "
                          "How can decoding be told to go on?", color_tokens([b"caf", b"\xc3"], marked=1)) from None
        raise
    if got != "caf�":
        raise Finding(f"{call(answer, [6, 4], tokens)} returned {got!r}. The half character at its end should show as �.")
    if attempt(answer, [], tokens, expect=str) != "":
        raise Finding("No ids at all should give the empty text.")
    return "Bytes are joined first and decoded once, whole characters and half ones."


@dataclass
class _Pairs:
    "A tokenizer with two bytes in each token, for checking."

    def encode(self, text: str) -> list[int]:
        return list(text.encode()[::2])

    def __repr__(self):
        return "tok"


@checks
def bytes_per_token(answer):
    "Exercise 5: compression in bytes per token."

    def tried(text):
        return attempt(answer, text, _Pairs(), expect=(int, float))

    got = tried("light!")
    if got == 0.5:
        raise Finding("Upside down: that is tokens per byte, which falls when the tokenizer gets better.")
    if got != 2:
        raise Finding(f"Six letters in three tokens gave {got}. What is divided by what?")
    got = tried("seas!")
    if got == 1 or got == 2:
        raise Finding(f"Five bytes in three tokens gave {got}: the fraction was cut off or rounded. Divide with /.")
    if abs(got - 5 / 3) > 1e-9:
        raise Finding(f"Five bytes in three tokens gave {got}.")
    got = tried("日本")
    if abs(got - 2 / 3) < 1e-9:
        raise Finding("Characters were counted, not bytes. For English that is the same; \"日本\" has two characters and six bytes.")
    if got != 2:
        raise Finding(f"\"日本\" has six bytes, and three tokens here; your function gave {got}.")
    if tried("") != 0:
        raise Finding("An empty text should give 0.")
    return "Bytes, not characters, over tokens."
