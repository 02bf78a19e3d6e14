"""The checks of the chapter Sample."""

import itertools
import math

import pytest
import torch

from conftest import pair_of_tests
from tinygpt.checks import sample as check
from tinygpt.sample import Sampler, keep_top_k, keep_top_p, scale_temperature


def normal(x):
    return x / x.sum(-1, keepdim=True)


def softmax(x, T):
    return (x / T).softmax(-1)


def top(probs, p, crossing=True, descending=True):
    "What top-p keeps, as a mask, from the ranks one by one."
    kept, total = torch.zeros(len(probs), dtype=torch.bool), 0.0
    for i in probs.argsort(descending=descending).tolist():
        if total >= p or not crossing and total + probs[i] > p:
            break
        kept[i] = True
        total += probs[i].item()
    return kept


def nucleus(probs, p):
    return normal(probs * top(probs, p))


def sorted_nucleus(probs, p):
    ranked = probs.sort(descending=True).values
    return normal(ranked * (torch.arange(len(ranked)) < top(probs, p).sum()))


def shifted(probs, p):
    "The mask moved by one place, without keeping the first word in any case."
    ranked, order = probs.sort(descending=True)
    remove = ranked.cumsum(0) > p
    remove[1:] = remove[:-1].clone()
    return normal(torch.zeros_like(probs).scatter(0, order, ranked * ~remove))


def running(probs, p):
    total = probs.cumsum(0)
    return normal(probs * (total - probs < p))


def cut(x, k, value=-torch.inf):
    return x.masked_fill(x < x.sort().values[-k], value)


def next_probs(x, T, k, p, crossing=True):
    probs = cut(x / T, k).softmax(-1)
    return normal(probs * top(probs, p, crossing))


def p_first(x, T, k, p):
    probs = x.softmax(-1)
    return cut((probs * top(probs, p)).log() / T, k).softmax(-1)


def temperature_last(x, T, k, p):
    return softmax(next_probs(x, 1, k, p).log(), T)


def p_before_k(x, T, k, p):
    probs = softmax(x, T)
    return cut((probs * top(probs, p)).log(), k).softmax(-1)


def from_before_top_k(x, T, k, p):
    probs = softmax(x, T) * (cut(x, k) > -torch.inf)
    return normal(probs * top(probs, p))


def zeros_for_infinity(x, T, k, p):
    probs = cut(x, k, 0).div(T).softmax(-1)
    return normal(probs * top(probs, p))


def unnormalised(x, T, k, p):
    probs = cut(x / T, k).softmax(-1)
    return probs * top(probs, p)


def share(p, T):
    return 1 / (1 + ((1 - p) / p) ** (1 / T))


def odds(p):
    return p / (1 - p)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def drawn(p, T):
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(3))
    return (u < share(p, T)).float().mean().item()


def in_place(logits, temperature):
    logits /= temperature
    return logits.softmax(-1)


RIGHT = {"probabilities": softmax, "nucleus": nucleus, "next_probs": next_probs, "share": share}
MISTAKES = [
    ("probabilities", lambda x, T: (x / T).softmax(0), "over the batch: each column sums to 1"),
    ("probabilities", lambda x, T: x.softmax(0), "over the batch, and the temperature has no effect"),
    ("probabilities", lambda x, T: (x * T).softmax(-1), "The logits were multiplied by the temperature"),
    ("probabilities", lambda x, T: normal(x.softmax(-1) / T), "The temperature has no effect. "),
    ("probabilities", lambda x, T: x.softmax(-1), "The temperature has no effect. "),
    ("probabilities", lambda x, T: x.softmax(-1) / T, "so that a row no longer sums to 1"),
    ("probabilities", lambda x, T: x.softmax(-1) * T, "The probabilities were multiplied by the temperature"),
    ("probabilities", lambda x, T: x.softmax(-1) ** (1 / T), "as a power, and the rows were not normalised"),
    ("probabilities", lambda x, T: (x.softmax(-1) / T).softmax(-1), "softmax was taken again"),
    ("probabilities", lambda x, T: x.softmax(-1).softmax(-1), "Softmax was taken twice"),
    ("probabilities", lambda x, T: x / T, "Those are logits"),
    ("probabilities", lambda x, T: (x / T).exp(), "Those are not normalised"),
    ("probabilities", lambda x, T: (x / T).log_softmax(-1), "Those are log-probabilities"),
    ("probabilities", lambda x, T: softmax(x, T).argmax(-1), "Are these the ids?"),
    ("probabilities", lambda x, T: softmax(x / T, T), "was applied twice"),
    ("probabilities", lambda x, T: softmax(x.flatten(), T).view_as(x), "over all rows together"),
    ("probabilities", lambda x, T: normal(x / T), "were divided by their sum"),
    ("probabilities", lambda x, T: softmax(x, T) + (x == 3), "is not the distribution at this temperature"),
    ("probabilities", lambda x, T: softmax(x, min(T, 1)), "right for one text at a temperature above 1"),
    ("probabilities", in_place, "in place: logits"),
    ("nucleus", lambda x, p: normal(x * top(x, p, crossing=False)), "was dropped: what is left sums to 0.54"),
    ("nucleus", lambda x, p: x * top(x, p, crossing=False), "was dropped, and the rest was not normalised"),
    ("nucleus", lambda x, p: x * top(x, p), "but not normalised: they sum to 0.72"),
    ("nucleus", lambda x, p: normal(x * top(x, p, descending=False)), "The least probable words were kept"),
    ("nucleus", lambda x, p: normal(x * ~top(x, p)), "and the others removed"),
    ("nucleus", running, "summed in the order given"),
    ("nucleus", sorted_nucleus, "They came back sorted"),
    ("nucleus", lambda x, p: sorted_nucleus(x, p)[x.argsort(descending=True)], "went back to wrong places"),
    ("nucleus", lambda x, p: normal(x * (torch.arange(len(x)) < top(x, p).sum())), "A sorted mask was used"),
    ("nucleus", lambda x, p: x.masked_fill(~top(x, p), -torch.inf).softmax(0), "Softmax was taken of probabilities"),
    ("nucleus", lambda x, p: normal(x * top(x, p + 0.2)), "One word too many"),
    ("nucleus", lambda x, p: torch.eye(len(x))[x.argmax()], "Only the most probable word was kept"),
    ("nucleus", lambda x, p: x.clone(), "Nothing was removed"),
    ("nucleus", lambda x, p: normal(x * (x >= p)), "Nothing was left"),
    ("nucleus", lambda x, p: nucleus(x, p)[top(x, p)], "Only what was kept came back"),
    ("nucleus", shifted, "Nothing was left"),
    ("nucleus", lambda x, p: nucleus(x, max(p, 0.4)), "right for other numbers"),
    ("next_probs", p_first, "Top-p came before the temperature"),
    ("next_probs", temperature_last, "Top-p came before the temperature"),
    ("next_probs", zeros_for_infinity, "were set to 0, but softmax"),
    ("next_probs", p_before_k, "from before top-k"),
    ("next_probs", from_before_top_k, "from before top-k"),
    ("next_probs", lambda x, T, k, p: next_probs(x, T, k - 1, p), "one word too few"),
    ("next_probs", lambda x, T, k, p: next_probs(x, T, k + 1, p), "one word too many"),
    ("next_probs", lambda x, T, k, p: next_probs(x, 1 / T, k, p), "multiplied by the temperature"),
    ("next_probs", lambda x, T, k, p: next_probs(x, T, k, p, False), "dropped the word that crosses p"),
    ("next_probs", lambda x, T, k, p: next_probs(x, 1, k, p), "The temperature has no effect"),
    ("next_probs", lambda x, T, k, p: next_probs(x, T, len(x), p), "Top-k has no effect"),
    ("next_probs", lambda x, T, k, p: next_probs(x, T, k, 1), "Top-p has no effect"),
    ("next_probs", unnormalised, "The result was not normalised"),
    ("next_probs", lambda x, T, k, p: next_probs(x, T, k, p).flip(0), "is not what these settings leave"),
    ("next_probs", lambda x, T, k, p: next_probs(x, T, k, p)[cut(x, k) > -torch.inf], "a number for each word"),
    ("share", lambda p, T: p / T, "itself was divided by"),
    ("share", lambda p, T: p * T, "itself was multiplied by"),
    ("share", lambda p, T: share(p, 1 / T), "The temperature is upside down"),
    ("share", lambda p, T: p**T, "The power is upside down"),
    ("share", lambda p, T: p ** (1 / T), "It was not normalised"),
    ("share", lambda p, T: p, "The temperature has no effect"),
    ("share", lambda p, T: softmax(torch.tensor([p, 1 - p]), T)[0], "Probabilities were taken for logits"),
    ("share", lambda p, T: sigmoid(p / T), "for the logit of the word"),
    ("share", lambda p, T: sigmoid(math.log(p) / T), "The other word has a logit too"),
    ("share", lambda p, T: 1 - share(p, T), "the share of the other word"),
    ("share", lambda p, T: 100 * share(p, T), "Those are percent"),
    ("share", lambda p, T: math.log(odds(p)) / T, "Those are log-odds"),
    ("share", lambda p, T: odds(p) ** (1 / T), "Those are odds"),
    ("share", lambda p, T: odds(p) / T / (1 + odds(p) / T), "not their logarithm"),
    ("share", drawn, "as if measured by draws"),
    ("share", lambda p, T: share(p, T) ** 2, "That is not the share"),
]

test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    check, RIGHT, MISTAKES
)


def test_answers_in_other_clothes_are_right():
    def as_powers(x, T):
        "After the softmax, but as a power and normalised again: the same."
        return normal(x.softmax(-1) ** (1 / T))

    def shifted_mask(probs, p):
        ranked, order = probs.sort(descending=True)
        remove = ranked.cumsum(0) > p
        remove[1:], remove[0] = remove[:-1].clone(), False
        probs = probs.clone()
        probs[order[remove]] = 0
        return probs / probs.sum()

    def k_first(x, T, k, p):
        "Top-k compares, so it may come before the temperature."
        return keep_top_p(cut(x, k) / T, p).softmax(-1)

    assert check.probabilities(as_powers) and check.nucleus(shifted_mask) and check.next_probs(k_first)
    assert check.probabilities(lambda x, T: softmax(x.double(), T))
    assert check.share(lambda p, T: softmax(torch.tensor([p, 1 - p]).log(), T)[0])


def test_the_package_answers_right():
    "The functions that the chapter exports solve its exercises."
    assert check.probabilities(lambda x, T: scale_temperature(x, T).softmax(-1))
    assert check.nucleus(lambda probs, p: keep_top_p(probs.log(), p).softmax(-1))
    assert check.next_probs(lambda x, T, k, p: keep_top_p(keep_top_k(x / T, k), p).softmax(-1))
    assert check.next_probs(lambda x, *settings: Sampler(*settings)(x[None], [[]])[0].softmax(-1))


@pytest.mark.parametrize("case", check.SHARES, ids=str)
def test_the_share_is_what_draws_measure(case):
    "Within five standard deviations of the closed form."
    wide = 5 * math.sqrt(share(*case) * (1 - share(*case)) / check.N_DRAWS)
    assert abs(check.measured(*case) - share(*case)) < wide
    message = check.share(lambda p, T: 2.0 if (p, T) == case else share(p, T)).message
    assert message.endswith(f"draws at this temperature {check.measured(*case):.1%} were this word.")


def test_no_two_orders_of_the_steps_give_the_same():
    "Over the three examples together, except where top-k only moves past a step that does not matter to it."
    steps = {"T": lambda x, T, k, p: x / T, "k": lambda x, T, k, p: cut(x, k), "p": lambda x, T, k, p: keep_top_p(x, p)}
    made = {}
    for order in itertools.permutations("Tkp"):
        results = []
        for x, *settings in check.STEPS:
            x = torch.tensor(x)
            for step in order:
                x = steps[step](x, *settings)
            results.append(x.softmax(-1))
        made["".join(order)] = torch.cat(results)
    same = {order for order, probs in made.items() if torch.allclose(probs, made["Tkp"])}
    assert same == {"Tkp", "kTp"}


def test_the_offending_words_are_drawn():
    drawn = str(check.nucleus(lambda x, p: normal(x * top(x, p, crossing=False))).picture).splitlines()
    cells = [line.split()[1:] for line in drawn]
    assert cells[0] == ["0.00", "0.59!", "0.00", "0.41!", "0.00", "0.00!"]
    assert cells[1] == ["0.00", "0.44", "0.00", "0.31", "0.00", "0.25"]
    rows = str(check.probabilities(lambda x, T: softmax(x, T) + torch.eye(3, 4)).picture).splitlines()
    assert [[cell.endswith("!") for cell in row.split()[2:]] for row in rows] == torch.eye(3, 4).bool().tolist()
