"""Checks of the chapter Sample: each typical mistake has its own diagnosis."""

import math

import torch
from torch import Tensor

from tinygpt.checks import Finding, call, checks
from tinygpt.checks.tensors import diagnose, grid, number, of_tensors, same, shaped
from tinygpt.sample import draw, scale_temperature
from tinygpt.show.pictures import Picture

EMPTY = "Nothing was left, but the most probable word always stays."
WORDS = ["kite", "boat", "hat", "drum", "owl", "bell"]


def _row(got: Tensor, right: Tensor) -> Picture:
    "The answer's probabilities above the right ones; outlined where they differ."
    both = torch.stack([got.float(), right.float()])
    wrong = ~torch.isclose(both[0], both[1], rtol=1e-4, atol=1e-6)
    marked = torch.stack([wrong, torch.zeros_like(wrong)])
    return grid(both, ["yours", "right"], WORDS[: len(got)], marked)


@checks
def probabilities(answer):
    "Exercise 1: logits divided by the temperature, then softmax along the vocabulary."
    answer = of_tensors(answer)
    logits, T = [[2.0, 1.0, 0.0, -1.0], [0.5, 3.0, 1.5, 0.0], [1.0, 1.5, -2.0, 0.5]], 0.5
    x = torch.tensor(logits)
    right, plain = (x / T).softmax(-1), x.softmax(-1)
    after = "The probabilities were divided by the temperature"
    mistakes = [
        (
            (x / T).softmax(0),
            "Softmax ran over the batch: each column sums to 1. But each row is a distribution over the vocabulary.",
        ),
        (x.softmax(0), "Softmax ran over the batch, and the temperature has no effect."),
        ((x * T).softmax(-1), "The logits were multiplied by the temperature: what should be sharper is flatter."),
        (plain, "The temperature has no effect. (Is it applied after the softmax, and taken back by normalising?)"),
        (plain / T, f"{after}, so that a row no longer sums to 1. Temperature divides the logits, before the softmax."),
        (plain * T, "The probabilities were multiplied by the temperature. It divides the logits, before the softmax."),
        (plain ** (1 / T), "The temperature came after the softmax, as a power, and the rows were not normalised."),
        ((plain / T).softmax(-1), f"{after}, and softmax was taken again. There is one softmax, at the end."),
        (plain.softmax(-1), "Softmax was taken twice, and the temperature has no effect."),
        (x / T, "Those are logits. The softmax is missing."),
        ((x / T).exp(), "Those are not normalised: a row does not sum to 1."),
        ((x / T).log_softmax(-1), "Those are log-probabilities."),
        ((x / T).softmax(-1).argmax(-1), "Those are ids. Return the probabilities to draw from."),
        ((x / T**2).softmax(-1), "The temperature was applied twice."),
        ((x / T).flatten().softmax(0).view_as(x), "Softmax ran over all rows together. Each row should sum to 1."),
        (x / x.sum(-1, keepdim=True), "The logits were divided by their sum. Softmax takes e to their power first."),
    ]
    hints = {(3,): "Are these the ids? Return the probabilities to draw from."}
    args = logits, T
    got = shaped(answer, *args, shape=(3, 4), hints=hints)
    wrong = ~torch.isclose(got.float(), right, rtol=1e-4, atol=1e-6)
    picture = grid(got, [f"text {i}" for i in range(3)], WORDS[:4], wrong)
    diagnose(answer, args, got, right, mistakes, "the distribution at this temperature", picture)
    args = [logits[0][:3]], 3.0
    what = "right for one text at a temperature above 1"
    diagnose(answer, args, shaped(answer, *args, shape=(1, 3), hints={}), (x[:1, :3] / 3).softmax(-1), [], what)
    return "Divided first, then softmax: below 1 the likely words gain, above 1 the unlikely ones."


def _top_p(probs: Tensor, p: float, crossing: bool = True, descending: bool = True) -> Tensor:
    "The probabilities that top-p keeps, each at its place, not normalised."
    ranked, order = probs.sort(descending=descending)
    total = ranked.cumsum(0)
    kept = total - ranked < p if crossing else total <= p
    return probs * torch.zeros_like(probs).scatter(0, order, kept.float())


def _normal(x: Tensor) -> Tensor:
    return x / x.sum()


@checks
def nucleus(answer):
    "Exercise 2: the fewest most probable whose sum reaches p, in their places, normalised."
    answer = of_tensors(answer)
    probs, p = [0.08, 0.32, 0.05, 0.22, 0.15, 0.18], 0.6
    x = torch.tensor(probs)
    kept, n = _top_p(x, p), 3
    right = _normal(kept)
    ranked, order = x.sort(descending=True)
    running = x * (x.cumsum(0) - x < p)
    mistakes = [
        (
            _normal(_top_p(x, p, crossing=False)),
            "The word that crosses p was dropped: what is left sums to 0.54 and does not reach 0.6.",
        ),
        (_top_p(x, p, crossing=False), "The word that crosses p was dropped, and the rest was not normalised."),
        (kept, "The right words were kept, but not normalised: they sum to 0.72, not to 1."),
        (_normal(_top_p(x, p, descending=False)), "The least probable words were kept. Begin with the most probable."),
        (_normal(x - kept), "The words that were to be removed were kept, and the others removed."),
        (_normal(running), "The words were summed in the order given, not the most probable first."),
        (_normal(ranked * (torch.arange(6) < n)), "They came back sorted, not at the places of their words."),
        (
            _normal(ranked * (torch.arange(6) < n))[order],
            "The probabilities went back to wrong places: `order` says where each came from, not where each goes.",
        ),
        (_normal(x * (torch.arange(6) < n)), "A sorted mask was used for unsorted words: the first three were kept."),
        (x.masked_fill(kept == 0, -torch.inf).softmax(0), "Softmax was taken of probabilities. It takes logits."),
        (_normal(_top_p(x, 0.8)), "One word too many was kept."),
        ((x >= ranked[0]).float(), "Only the most probable word was kept."),
        (x, "Nothing was removed."),
        (torch.full((6,), torch.nan), EMPTY),
        (torch.zeros(6), EMPTY),
    ]
    args = probs, p
    hints = {(n,): "Only what was kept came back. Return a number for each word, 0 for those that were removed."}
    got = shaped(answer, *args, shape=(6,), hints=hints)
    diagnose(answer, args, got, right, mistakes, "the distribution that top-p leaves", _row(got, right))
    for args in (probs, 0.2), (probs, 0.97), ([0.25, 0.35, 0.4], 0.5):
        right = _normal(_top_p(torch.tensor(args[0]), args[1]))
        got = shaped(answer, *args, shape=tuple(right.shape), hints={})
        mistakes = [(torch.full_like(right, torch.nan), EMPTY), (torch.zeros_like(right), EMPTY)]
        diagnose(answer, args, got, right, mistakes, "right for other numbers", _row(got, right))
    return "The fewest words that reach p, each at its place, and they sum to 1."


# logits, temperature, top_k, top_p: over all three, no two mistakes give the same
STEPS = [
    ([3.0, 1.5, 4.0, 1.0, 2.0, -1.0], 2.0, 3, 0.9),
    ([2.5, 2.0, 3.0, -1.0, 0.0, 1.5], 0.5, 4, 0.8),
    ([1.0, 2.5, -1.5, -1.0, 0.0, 2.0], 2.0, 3, 0.7),
]


def _below(logits: Tensor, k: int) -> Tensor:
    return logits < logits.topk(k).values[-1]


def _cut(logits: Tensor, k: int) -> Tensor:
    return logits.masked_fill(_below(logits, k), -torch.inf)


def _next(x: Tensor, T: float, k: int, p: float, crossing: bool = True) -> Tensor:
    return _normal(_top_p(_cut(x / T, k).softmax(0), p, crossing))


def _cold(probs: Tensor, T: float) -> Tensor:
    "The logits of these probabilities, divided by the temperature."
    return _normal(probs).log() / T


@checks
def next_probs(answer):
    "Exercise 3: temperature, top-k, top-p, in this order, each from what the one before it left."
    answer = of_tensors(answer)
    early = "Top-p came before the temperature: it cut a distribution that was then changed."
    wrongs = [
        (lambda x, T, k, p: _cut(_cold(_top_p(x.softmax(0), p), T), k).softmax(0), early),
        (lambda x, T, k, p: _cold(_top_p(_cut(x, k).softmax(0), p), T).softmax(0), early),
        (
            lambda x, T, k, p: _normal(_top_p((x / T).masked_fill(_below(x, k), 0).softmax(0), p)),
            "The logits that top-k removed were set to 0, but softmax takes e to the power of 0, which is 1.",
        ),
        (
            lambda x, T, k, p: _normal(_top_p((x / T).softmax(0) * ~_below(x, k), p)),
            "Top-p summed the probabilities from before top-k. What top-k keeps should sum to 1 before top-p cuts it.",
        ),
        (lambda x, T, k, p: _next(x, T, k - 1, p), "Top-k kept one word too few."),
        (lambda x, T, k, p: _next(x, T, k + 1, p), "Top-k kept one word too many."),
        (lambda x, T, k, p: _next(x * T, 1, k, p), "The logits were multiplied by the temperature."),
        (lambda x, T, k, p: _next(x, T, k, p, crossing=False), "Top-p dropped the word that crosses p."),
        (lambda x, T, k, p: _next(x, 1, k, p), "The temperature has no effect."),
        (lambda x, T, k, p: _next(x, T, len(x), p), "Top-k has no effect."),
        (lambda x, T, k, p: _next(x, T, k, 2), "Top-p has no effect."),
        (
            lambda x, T, k, p: _top_p(_cut(x / T, k).softmax(0), p),
            "The result was not normalised: after top-p it no longer sums to 1.",
        ),
    ]
    shape, hints = (6,), {(k,): "Return a number for each word, 0 for those that were removed." for k in range(1, 6)}
    right = [_next(torch.tensor(x), *rest) for x, *rest in STEPS]
    got = [shaped(answer, *args, shape=shape, hints=hints) for args in STEPS]
    place = next((i for i, (a, b) in enumerate(zip(got, right)) if not same(a, b)), None)
    if place is None:
        return "Temperature, top-k, top-p: each works on what the one before it left."
    every = torch.cat(got)
    made = [torch.cat([wrong(torch.tensor(x), *rest) for x, *rest in STEPS]) for wrong, _ in wrongs]
    found = [diagnosis for probs, (_, diagnosis) in zip(made, wrongs) if same(every, probs)]
    mistakes = [(got[place], found[0])] if found else []
    picture = _row(got[place], right[place])
    diagnose(answer, STEPS[place], got[place], right[place], mistakes, "what these settings leave", picture)


SHARES = [(0.8, 2.0), (0.8, 0.5), (0.3, 0.7), (0.95, 3.0), (0.6, 1.0)]  # p, temperature
N_DRAWS = 20_000


def measured(p: float, temperature: float) -> float:
    "The share of the first of two words in many draws."
    logits = torch.tensor([[p, 1 - p]]).log()
    u = torch.rand(N_DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (draw(scale_temperature(logits, temperature).expand(N_DRAWS, 2), u) == 0).double().mean().item()


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _odds(p: float, t: float) -> float:
    "The share, by dividing the log-odds."
    return _sigmoid(math.log(p / (1 - p)) / t)


@checks
def share(answer):
    "Exercise 4: the log-odds, divided by the temperature."
    right = [_odds(*case) for case in SHARES]
    got = [number(answer, *case) for case in SHARES]
    if same(torch.tensor(got), torch.tensor(right)):
        return f"As {N_DRAWS:,} draws say: the log-odds are divided by the temperature."
    wrongs = [
        (lambda p, t: p / t, "The probability itself was divided by the temperature."),
        (lambda p, t: p * t, "The probability itself was multiplied by the temperature."),
        (lambda p, t: _odds(p, 1 / t), "The temperature is upside down: above 1 a share should come nearer to a half."),
        (lambda p, t: p**t, "The power is upside down, and the shares of the two words do not sum to 1."),
        (lambda p, t: p ** (1 / t), "It was not normalised: the shares of the two words do not sum to 1."),
        (lambda p, t: p, "The temperature has no effect."),
        (lambda p, t: _sigmoid((2 * p - 1) / t), "Probabilities were taken for logits."),
        (lambda p, t: _sigmoid(p / t), "The probability was taken for the logit of the word."),
        (lambda p, t: _sigmoid(math.log(p) / t), "The other word has a logit too: log p alone is not the log-odds."),
        (lambda p, t: 1 - _odds(p, t), "That is the share of the other word."),
        (lambda p, t: 100 * _odds(p, t), "Those are percent. Return a number between 0 and 1."),
        (lambda p, t: math.log(p / (1 - p)) / t, "Those are log-odds. Turn them back into a probability."),
        (lambda p, t: (p / (1 - p)) ** (1 / t), "Those are odds, p to 1 - p. Turn them back into a probability."),
        (lambda p, t: p / (1 - p) / t / (1 + p / (1 - p) / t), "The odds were divided, not their logarithm."),
    ]
    made = [torch.tensor([wrong(*case) for case in SHARES]) for wrong, _ in wrongs]
    found = [why for shares, (_, why) in zip(made, wrongs) if same(torch.tensor(got), shares)]
    place = next(i for i, (a, b) in enumerate(zip(got, right)) if not math.isclose(a, b, rel_tol=1e-4))
    if not found and max(abs(a - b) for a, b in zip(got, right)) < 0.02:
        found = ["That is close, as if measured by draws, but a formula gives the share exactly."]
    case = SHARES[place]
    raise Finding(
        f"{(found or ['That is not the share.'])[0]} {call(answer, *case)} returned {got[place]:.4g}, but of "
        f"{N_DRAWS:,} draws at this temperature {measured(*case):.1%} were this word."
    )
