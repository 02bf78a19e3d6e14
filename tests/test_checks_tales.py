"""The checks of the chapter Tales."""

import functools
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


def rates(nats, texts, ids, end=1):
    total, n_tokens = sum(nats), sum(len(one) + end for one in ids)
    return total / len(texts), total / n_tokens, total / math.log(2) / sum(len(text.encode()) for text in texts)


def rates_but(which, wrong):
    "Right, but for one of the three numbers, which is `wrong(total, nats, texts, tokens of each text)`."

    def answer(nats, texts, ids):
        out = list(rates(nats, texts, ids))
        out[which] = wrong(sum(nats), nats, texts, [len(one) + 1 for one in ids])
        return out

    return answer


def n_bytes(texts):
    return sum(len(text.encode()) for text in texts)


RULE = """
Tale =
  3* The king slept.
  The king {Did}.
Did =
  sang
  danced
  wept
"""
INNER = math.log(3)
OUTER = -3 / 4 * math.log(3 / 4) - 1 / 4 * math.log(1 / 4)
FLOOR = OUTER + INNER / 4
RIGHT = {
    "own_rule": lambda: (RULE, FLOOR),
    "rates": lambda: (rates,),
    "share_right": lambda: (judged(all),),
}
MISTAKES = [
    ("own_rule", (RULE, FLOOR / math.log(2)), "in bits"),
    ("own_rule", (RULE, -FLOOR), "not negative"),
    ("own_rule", (RULE, math.log(2) + INNER / 2), "The weights are missing"),
    ("own_rule", (RULE, math.log(4)), "if all texts were equally likely"),
    ("own_rule", (RULE, OUTER + INNER), "counts in full"),
    ("own_rule", (RULE, OUTER), "only the choices of the rule Tale"),
    ("own_rule", (RULE, (math.log(4 / 3) + 3 * math.log(12)) / 4), "All texts count the same"),
    ("own_rule", (RULE, math.log(4 / 3)), "the likeliest text"),
    ("own_rule", (RULE, math.exp(FLOOR)), "exponential"),
    ("own_rule", (RULE, 17.0), "which is not right"),
    ("own_rule", (RULE, "one"), "should be a number"),
    ("own_rule", (7, 1.0), "should be a text"),
    ("own_rule", (RULE.replace("Tale", "Story"), FLOOR), "no rule called Tale"),
    ("own_rule", (RULE.replace("  sang", "sang"), FLOOR), "neither a rule (Name =)"),
    ("own_rule", (RULE.replace("{Did}", "{Dit}"), FLOOR), "nor a word that was picked"),
    ("own_rule", (RULE.replace("{Did}", "{d:verb}"), FLOOR), "no list of words called verb"),
    ("own_rule", (RULE.replace("{Did}", "{}"), FLOOR), "cannot be read"),
    ("own_rule", (RULE + "Empty =\n", FLOOR), "has no lines"),
    ("own_rule", (RULE.replace("sang", "{Tale}"), FLOOR), "leads back to itself"),
    ("own_rule", ("Tale =\n  2* one\n  two\n", FLOOR), "Only the rule Tale"),
    ("own_rule", (RULE.replace("3* ", ""), FLOOR), "equally likely. Give"),
    ("own_rule", (RULE.replace("danced", "sang"), FLOOR), "There are 2 ways"),
    ("own_rule", (RULE.replace("{Did}", "{Did} {Did}").replace("sang", "{m:~}"), FLOOR), "too many different texts"),
    ("own_rule", (RULE.replace("3* ", "200* ") + "".join(f"  {n}\n" for n in range(40)), FLOOR), "too rare"),
    ("own_rule", ("verb: ran sat\n" + RULE.replace("{Did}", "{Did} {v} {v:verb}"), FLOOR), "while it writes"),
    ("rates", rates_but(0, lambda total, *_: total), "the sum over all texts"),
    ("rates", lambda *given: rates(*given)[1::-1] + rates(*given)[2:], "belongs in second place"),
    ("rates", lambda *given: rates(*given, end=0), "one more token, for its end. ("),
    ("rates", rates_but(1, lambda total, n, texts, counts: total / (sum(counts) - 2)), "not only one of them"),
    (
        "rates",
        rates_but(1, lambda total, nats, texts, counts: sum(n / c for n, c in zip(nats, counts)) / 3),
        "the average of a rate",
    ),
    ("rates", rates_but(1, lambda total, n, texts, counts: sum(counts) / total), "tokens per nat"),
    ("rates", rates_but(1, lambda total, n, texts, counts: total / n_bytes(texts)), "nats per byte. ("),
    ("rates", rates_but(2, lambda total, n, texts, counts: total / n_bytes(texts)), "How many bits is a nat"),
    ("rates", rates_but(2, lambda total, n, texts, c: total * math.log(2) / n_bytes(texts)), "more than one bit"),
    ("rates", rates_but(2, lambda total, n, texts, c: total / math.log(2) / sum(map(len, texts))), "counts characters"),
    ("rates", rates_but(2, lambda total, n, texts, counts: total / math.log(2)), "bits of all texts together"),
    ("rates", rates_but(2, lambda total, n, texts, c: n_bytes(texts) / total * math.log(2)), "bytes per bit"),
    ("rates", rates_but(2, lambda total, n, texts, counts: total / math.log(2) / sum(counts)), "bits per token"),
    ("rates", lambda *given: rates(*given)[:2], "three numbers"),
    ("share_right", judged(any), "half a name"),
    ("share_right", tokens_alike, "It counts tokens"),
    ("share_right", judged(lambda found: found[0]), "only the first"),
    ("share_right", judged(lambda found: found[-1]), "only the last"),
    ("share_right", tokens_inside, "leaves out tokens"),
    ("share_right", lambda hits, edges, places: sum(hits) / len(hits), "fraction of all tokens"),
    ("share_right", lambda *given: judged(all)(*given) * len(given[2]), "the number of places that are right"),
    (
        "share_right",
        lambda *given: judged(all)(*given) * len(given[2]) / len(given[0]),
        "divides by the number of tokens",
    ),
]


def given(answer):
    return answer if isinstance(answer, tuple) else (answer,)


@functools.cache
def messages(name):
    "What each mistake should be told, and what it is told."
    return [(said, getattr(check, name)(*given(answer)).message) for about, answer, said in MISTAKES if about == name]


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass_and_blank_ones_are_no_mistake(name):
    assert getattr(check, name)(*RIGHT[name]())
    blank = ("", ...) if name == "own_rule" else (lambda *_: None,)
    assert getattr(check, name)(*blank).state == "blank"


@pytest.mark.parametrize("name, answer, said", MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_each_mistake_has_its_own_diagnosis(name, answer, said):
    verdict = getattr(check, name)(*given(answer))
    assert verdict.state == "wrong" and said in verdict.message
    assert all(said not in message for words, message in messages(name) if words != said)
