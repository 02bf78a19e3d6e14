"""The checks of chapter 02."""

import math

import pytest

from tinygpt.checks import tales as check
from tinygpt.world.skills import tokens_in


def judged(judge):
    "Shares of the places whose tokens this function finds right."
    return lambda hits, edges, places: (
        sum(judge([hits[i] for i in tokens_in(edges, *place)]) for place in places) / len(places)
    )


def tokens_inside(hits, edges, places):
    "The mistake of leaving out a token that begins before its place."
    within = [[i for i in range(len(hits)) if edges[i] >= a and edges[i + 1] <= b] for a, b in places]
    return sum(all(hits[i] for i in tokens) for tokens in within) / len(places)


def tokens_alike(hits, edges, places):
    "The mistake of counting tokens."
    found = [hits[i] for place in places for i in tokens_in(edges, *place)]
    return sum(found) / len(found)


RIGHT = {
    "surprise_of": lambda options: sum(math.log(n) for n in options),
    "bits_per_byte": lambda nats, text: nats / math.log(2) / len(text.encode()),
    "floor_of": lambda tales: sum(nats for nats, _ in tales) / sum(tokens for _, tokens in tales),
    "share_right": judged(all),
}
MISTAKES = [
    ("surprise_of", lambda options: sum(math.log(1 / n) for n in options), "not negative"),
    ("surprise_of", lambda options: sum(math.log2(n) for n in options), "in bits"),
    ("surprise_of", lambda options: sum(math.log10(n) for n in options), "base of ten"),
    ("surprise_of", lambda options: math.log(sum(options)), "added before the logarithm"),
    ("surprise_of", lambda options: math.prod(1 / n for n in options), "the probability itself"),
    ("surprise_of", lambda options: math.prod(options), "how many tales there are"),
    ("surprise_of", lambda options: -math.log(math.prod(1 / n for n in options)), "it breaks"),
    ("surprise_of", lambda options: sum(math.log(n) for n in options) / len(options), "the average of the choices"),
    ("surprise_of", lambda options: math.fsum(map(math.log, options)) or 1, "no surprise"),
    ("bits_per_byte", lambda nats, text: nats / len(text.encode()), "How many bits is a nat"),
    ("bits_per_byte", lambda nats, text: nats * math.log(2) / len(text.encode()), "divide by ln 2"),
    ("bits_per_byte", lambda nats, text: nats / math.log(2) / len(text), "Characters were counted"),
    ("bits_per_byte", lambda nats, text: nats / math.log(2), "the whole text"),
    ("bits_per_byte", lambda nats, text: len(text.encode()) / nats / math.log(2), "Upside down"),
    ("floor_of", lambda tales: sum(n / t for n, t in tales) / len(tales), "average: so tokens"),
    ("floor_of", lambda tales: sum(n for n, _ in tales) / len(tales), "for each tale"),
    ("floor_of", lambda tales: sum(t for _, t in tales) / sum(n for n, _ in tales), "Upside down"),
    ("floor_of", lambda tales: sum(n for n, _ in tales), "of all tales together"),
    ("floor_of", lambda tales: math.exp(RIGHT["floor_of"](tales)), "perplexity"),
    ("floor_of", lambda tales: RIGHT["floor_of"](tales) / math.log(2), "Those are bits"),
    ("share_right", judged(any), "half a name"),
    ("share_right", tokens_alike, "Tokens were counted"),
    ("share_right", judged(lambda found: found[0]), "Only the first"),
    ("share_right", judged(lambda found: found[-1]), "Only the last"),
    ("share_right", tokens_inside, "were left out"),
    ("share_right", lambda hits, edges, places: sum(hits) / len(hits), "share of all tokens"),
    ("share_right", lambda *given: judged(all)(*given) * len(given[2]), "how many places are right"),
    (
        "share_right",
        lambda *given: judged(all)(*given) * len(given[2]) / len(given[0]),
        "divided by the number of tokens",
    ),
]


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass_and_blank_ones_are_no_mistake(name):
    assert getattr(check, name)(RIGHT[name])
    assert getattr(check, name)(lambda *_: None).state == "blank"


@pytest.mark.parametrize("name, answer, said", MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_each_mistake_has_its_own_diagnosis(name, answer, said):
    verdict = getattr(check, name)(answer)
    assert verdict.state == "wrong" and said in verdict.message
    others = [other for about, other, words in MISTAKES if about == name and words != said]
    assert all(said not in getattr(check, name)(other).message for other in others)
