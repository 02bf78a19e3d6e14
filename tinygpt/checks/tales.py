"""Checks for chapter 02: each typical mistake has a diagnosis of its own."""

import math

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.world.skills import tokens_in


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(1, abs(b))


def _diagnose(answer, args: tuple, right: float, mistakes: list[tuple[float, str]], what: str):
    "Compare a number with what typical mistakes would give."
    got = attempt(answer, *args, expect=(int, float))
    if _near(got, right):
        return
    for wrong, diagnosis in mistakes:
        if _near(got, wrong):
            raise Finding(f"{call(answer, *args)} returned {got:.4g}. {diagnosis}")
    raise Finding(f"{call(answer, *args)} returned {got:.4g}, which is not {what}.")


@checks
def surprise_of(answer):
    "Exercise 1: the sum of the logarithms."
    options = [2, 3, 8]
    mistakes = [
        (-math.log(48), "Surprise is not negative: the rarer, the more of it."),
        (math.log2(48), "That is in bits. For nats, use the natural logarithm."),
        (math.log10(48), "That is a logarithm to the base of ten. For nats, use the natural one."),
        (math.log(13), "The numbers were added before the logarithm. Chances of several choices are multiplied."),
        (1 / 48, "That is the probability itself. Surprise is made of its logarithm."),
        (48, "That is how many tales there are. What is the chance of one of them, and its logarithm?"),
        (sum(-math.log(1 - 1 / n) for n in options), "That is the surprise of not choosing each of the words."),
        (math.log(48) / 3, "That is the average of the choices. The surprise of the whole tale is wanted."),
    ]
    _diagnose(answer, (options,), math.log(48), mistakes, "the surprise of three choices")
    try:
        got = attempt(answer, [50] * 1000, expect=(int, float))
    except Finding as finding:
        if any(name in finding.verdict.message for name in ("OverflowError", "ZeroDivisionError", "ValueError")):
            got = math.inf
        else:
            raise
    if not math.isfinite(got):
        raise Finding(
            "With a thousand choices it breaks: the product is too small (or too large) for a float. "
            "What becomes of a product when you take logarithms?"
        )
    if not _near(got, 1000 * math.log(50)):
        raise Finding(f"For a thousand choices among 50 it returned {got:.6g}.")
    if attempt(answer, [], expect=(int, float)) != 0 or attempt(answer, [1, 1], expect=(int, float)) != 0:
        raise Finding("Where there is nothing to choose, there should be no surprise: 0.")
    return "A product of chances is a sum of logarithms, however long the tale."


@checks
def bits_per_byte(answer):
    "Exercise 2: nats to bits, and bytes for characters."
    mistakes = [
        (2.0, "Those are nats for each byte. How many bits is a nat?"),
        (2 * math.log(2), "One nat is more than one bit, not less: divide by ln 2."),
        (20 / math.log(2), "Those are the bits of the whole text."),
        (10 / 20 / math.log(2), "Upside down: that is bytes for each nat."),
    ]
    _diagnose(answer, (20.0, "ten bytes."), 2 / math.log(2), mistakes, "the bits for each of ten bytes")
    mistakes = [(6 / 2 / math.log(2), 'Characters were counted. "日本" has two of them, and six bytes.')]
    _diagnose(answer, (6.0, "日本"), 1 / math.log(2), mistakes, "the bits for each of six bytes")
    return "Nats become bits, and bytes are counted, not characters."


@checks
def floor_of(answer):
    "Exercise 3: the sum of the nats over the sum of the tokens."
    tales = [(60.0, 100), (90.0, 60), (10.0, 40)]
    mistakes = [
        (
            sum(n / t for n, t in tales) / 3,
            "The rate of each tale was taken, and then their average: so tokens of short tales count for more.",
        ),
        (160 / 3, "Those are nats for each tale."),
        (200 / 160, "Upside down: those are tokens for each nat."),
        (160.0, "That is the surprise of all tales together."),
        (math.exp(160 / 200), "That is a perplexity. The floor is its logarithm."),
        (160 / 200 / math.log(2), "Those are bits. Nats are wanted."),
    ]
    _diagnose(answer, (tales,), 160 / 200, mistakes, "the floor of these tales")
    return "Every token counts the same, whichever tale it is from."


@checks
def share_right(answer):
    "Exercise 4: a place is right if all of its tokens are."
    hits = [False, True, True, True, False, False, True, False, False]
    edges = [0, 3, 7, 12, 15, 20, 25, 31, 34, 37]
    places = [(2, 6), (4, 9), (15, 21), (22, 27), (28, 33), (32, 34)]
    held = [tokens_in(edges, *place) for place in places]
    inside = [
        [i for i in tokens if edges[i] >= start and edges[i + 1] <= end] for tokens, (start, end) in zip(held, places)
    ]

    def share(right) -> float:
        return sum(right) / len(places)

    def by(judge, tokens=held) -> float:
        return share([judge([hits[i] for i in found]) for found in tokens])

    flat = [hits[i] for tokens in held for i in tokens]
    mistakes = [
        (by(any), "A place was counted where only some of its tokens are right: half a name is not a name."),
        (sum(flat) / len(flat), "Tokens were counted. A place of three tokens counts once, like a place of one."),
        (by(lambda found: found[0]), "Only the first token of each place was looked at."),
        (by(lambda found: found[-1]), "Only the last token of each place was looked at."),
        (by(all, inside), "Tokens that reach beyond a place were left out, and so a place may have no token at all."),
        (sum(hits) / len(hits), "That is the share of all tokens, wherever they stand."),
        (by(all) * len(places), "That is how many places are right. Which share of them is it?"),
        (by(all) * len(places) / len(hits), "The right places were divided by the number of tokens."),
    ]
    _diagnose(answer, (hits, edges, places), by(all), mistakes, "the share of places that are right")
    return "A skill counts where it is needed, and only whole."
