"""The checks of the chapter Baseline."""

import math

import torch
from torch.nn import functional as F

from conftest import pair_of_tests
from tinygpt.checks import baseline as check


def loss(logits, targets, mask):
    return F.cross_entropy(logits[mask], targets[mask])


def surprises(logits, targets):
    return -logits.log_softmax(1)[torch.arange(len(targets)), targets]


def perplexity(losses, sizes):
    return math.exp(sum(loss * n for loss, n in zip(losses, sizes)) / sum(sizes))


def pairs(stories, size):
    counts = torch.zeros(size, size)
    for story in stories:
        for a, b in zip(story, story[1:]):
            counts[a, b] += 1
    return counts


def rows(counts):
    return counts / counts.sum(1, keepdim=True)


def probs(stories, size, k):
    return rows(pairs(stories, size) + k)


def nats(model, inputs, targets, dim=-1):
    logp = model(inputs[None]).log_softmax(dim)[0]
    return -logp[torch.arange(len(targets)), targets].sum()


def story_nats(model, ids):
    return nats(model, ids[:-1], ids[1:])


def product(model, ids):
    p = model(ids[None, :-1])[0].softmax(-1)
    return -p[torch.arange(len(ids) - 1), ids[1:]].prod().log()


def gradient(logits, targets):
    return (logits.softmax(1) - F.one_hot(targets, logits.shape[1])) / len(targets)


def naive(z, y, m):
    p = z.exp() / z.exp().sum(1, keepdim=True)
    return -p[torch.arange(len(y)), y][m].log().mean()


def joined(stories, size, k):
    return probs([sum(stories, [])], size, k)


RIGHT = {
    "cross_entropy_of": loss,
    "perplexity_of": perplexity,
    "bigram_probs": probs,
    "nats_of": story_nats,
    "gradient_of": gradient,
}
MISTAKES = [
    ("cross_entropy_of", lambda z, y, m: -loss(z, y, m), "where is the minus"),
    ("cross_entropy_of", lambda z, y, m: surprises(z, y)[m].sum(), "That is the sum"),
    ("cross_entropy_of", lambda z, y, m: loss(z, y, m) / math.log(2), "in bits"),
    ("cross_entropy_of", lambda z, y, m: loss(z, y, m) / math.log(10), "base of ten"),
    ("cross_entropy_of", lambda z, y, m: surprises(z, y).mean(), "The mask was not used"),
    ("cross_entropy_of", lambda z, y, m: (surprises(z, y) * m).mean(), "that you divide by includes it"),
    ("cross_entropy_of", lambda z, y, m: surprises(z, y)[~m].mean(), "inverted"),
    ("cross_entropy_of", lambda z, y, m: -z[torch.arange(len(y)), y][m].mean(), "logits themselves"),
    ("cross_entropy_of", lambda z, y, m: (-surprises(z, y)).exp()[m].mean(), "the average probability"),
    ("cross_entropy_of", lambda z, y, m: -(-surprises(z, y)).exp()[m].mean().log(), "averaged before the logarithm"),
    ("cross_entropy_of", lambda z, y, m: -z.log_softmax(0)[torch.arange(len(y)), y][m].mean(), "over the columns"),
    ("cross_entropy_of", lambda z, y, m: surprises(z[:-1], y[1:])[m[1:]].mean(), "shifted by one position"),
    ("cross_entropy_of", lambda z, y, m: surprises(z[:-1], y[1:])[m[:-1]].mean(), "shifted by one position"),
    ("cross_entropy_of", lambda z, y, m: -z.log_softmax(1)[:, y][m].mean(), "every target in every row"),
    ("cross_entropy_of", lambda z, y, m: -z.log_softmax(1)[m].mean(), "over all ids"),
    ("cross_entropy_of", lambda z, y, m: loss(z, y, m).exp(), "the perplexity"),
    ("cross_entropy_of", lambda z, y, m: surprises(z, y)[m], "of shape (3,). One number"),
    ("cross_entropy_of", naive, "too large for a float"),
    ("cross_entropy_of", lambda z, y, m: loss(z, y, m) + 0.1, "is not the average surprisal"),
    ("cross_entropy_of", lambda z, y, m: loss(z.clamp(max=50), y, m), "is not the loss for large logits"),
    ("perplexity_of", lambda losses, n: sum(map(math.exp, losses)) / len(n), "Perplexities were averaged"),
    (
        "perplexity_of",
        lambda losses, n: sum(math.exp(x) * m for x, m in zip(losses, n)) / sum(n),
        "weighted, but still averaged",
    ),
    ("perplexity_of", lambda losses, n: math.exp(sum(losses) / len(n)), "Each text has the same weight"),
    ("perplexity_of", lambda losses, n: math.log(perplexity(losses, n)), "is the loss of all texts"),
    ("perplexity_of", lambda losses, n: 2 ** math.log(perplexity(losses, n)), "power of two"),
    ("perplexity_of", lambda losses, n: math.exp(sum(losses) / sum(n)), "its loss times its number of tokens"),
    ("perplexity_of", lambda losses, n: math.exp(sum(map(math.prod, zip(losses, n)))), "nats of all ten tokens"),
    (
        "perplexity_of",
        lambda losses, n: math.exp(sum(map(math.prod, zip(losses, n))) / len(n)),
        "divided by the number of texts",
    ),
    ("perplexity_of", lambda losses, n: 1 / perplexity(losses, n), "one divided by the perplexity"),
    ("perplexity_of", lambda losses, n: 3.0, "is not the perplexity of these ten"),
    ("perplexity_of", lambda losses, n: math.exp(1.5), "of a single text"),
    ("bigram_probs", joined, "across two stories"),
    ("bigram_probs", lambda s, v, k: rows(pairs(s, v)) + k, "added after dividing"),
    ("bigram_probs", lambda s, v, k: rows(pairs(s, v)).nan_to_num() + k, "added after dividing"),
    ("bigram_probs", lambda s, v, k: rows(rows(pairs(s, v)).nan_to_num() + k), "added to probabilities"),
    (
        "bigram_probs",
        lambda s, v, k: (pairs(s, v) + k) / pairs(s, v).sum(1, keepdim=True),
        "but not to their sum",
    ),
    (
        "bigram_probs",
        lambda s, v, k: (pairs(s, v) + k) / (pairs(s, v).sum(1, keepdim=True) + k),
        "added once to the sum of the row",
    ),
    ("bigram_probs", lambda s, v, k: rows(pairs(s, v)), "row 3 is 0 / 0"),
    ("bigram_probs", lambda s, v, k: rows(pairs(s, v)).nan_to_num(), "have probability 0."),
    ("bigram_probs", lambda s, v, k: probs(s, v, k).T, "Rows and columns are swapped"),
    ("bigram_probs", lambda s, v, k: rows(pairs(s, v).T + k), "Rows and columns are swapped"),
    ("bigram_probs", lambda s, v, k: (pairs(s, v) + k) / (pairs(s, v) + k).sum(), "The whole table sums to one"),
    ("bigram_probs", lambda s, v, k: (pairs(s, v) + k) / (pairs(s, v) + k).sum(0), "The columns sum to one"),
    ("bigram_probs", lambda s, v, k: pairs(s, v) + k, "Those are counts. Divide"),
    ("bigram_probs", lambda s, v, k: pairs(s, v), "Those are counts, without k"),
    ("bigram_probs", lambda s, v, k: probs(s, v, 1), "right for k = 1"),
    ("bigram_probs", lambda s, v, k: probs([p for x in s for p in zip(x[::2], x[1::2])], v, k), "Pairs overlap"),
    ("bigram_probs", lambda s, v, k: probs([x[:-1] for x in s], v, k), "The last pair of each story"),
    ("bigram_probs", lambda s, v, k: probs([x[1:] for x in s], v, k), "The first pair of each story"),
    (
        "bigram_probs",
        lambda s, v, k: rows(pairs([[a, b] for a in range(v) for x in s for b in x[1:]], v) + k),
        "All rows are the same",
    ),
    ("bigram_probs", lambda s, v, k: probs(s, v, k).log(), "Those are logarithms"),
    ("bigram_probs", lambda s, v, k: probs(s, 1 + max(map(max, s[:2])), k), "of shape (3, 3)"),
    ("bigram_probs", lambda s, v, k: probs(s, v, k) * 0.9, "sums to 0.9, not to one"),
    ("nats_of", lambda model, ids: nats(model, ids[1:], ids[1:]), "the model had just read"),
    ("nats_of", lambda model, ids: nats(model, ids, ids), "the model had just read"),
    ("nats_of", lambda model, ids: nats(model, ids[:-1], ids[:-1]), "the model had just read"),
    ("nats_of", lambda model, ids: nats(model, ids[:-2], ids[2:]), "one position too far"),
    ("nats_of", lambda model, ids: nats(model, ids[1:], ids[:-1]), "asks for the token before"),
    ("nats_of", lambda model, ids: story_nats(model, ids) / (len(ids) - 1), "the average over the tokens"),
    ("nats_of", lambda model, ids: story_nats(model, ids) / len(ids), "one token too many"),
    ("nats_of", lambda model, ids: -story_nats(model, ids), "where is the minus"),
    ("nats_of", lambda model, ids: story_nats(model, ids) / math.log(2), "in bits"),
    ("nats_of", lambda model, ids: nats(model, ids[:-2], ids[1:-1]), "the end mark, is missing"),
    ("nats_of", lambda model, ids: nats(model, ids[1:-1], ids[2:]), "The first token of the story is missing"),
    (
        "nats_of",
        lambda model, ids: -model(ids[None, :-1])[0][torch.arange(len(ids) - 1), ids[1:]].sum(),
        "Logits are not log probabilities",
    ),
    ("nats_of", lambda model, ids: nats(model, ids[:-1], ids[1:], dim=1), "taken over time"),
    (
        "nats_of",
        lambda model, ids: -model(ids[None, :-1])[0].log_softmax(-1)[:, ids[1:]].sum(),
        "every target at every",
    ),
    ("nats_of", lambda model, ids: (-story_nats(model, ids)).exp(), "the probability of the story"),
    ("nats_of", product, "too small for a float"),
    ("nats_of", lambda model, ids: model(ids[:-1]), "takes ids of shape (B, T), and got (7,)"),
    ("nats_of", lambda model, ids: story_nats(model, ids[:100]), "which is not its surprisal"),
    ("gradient_of", lambda z, y: -gradient(z, y), "makes the loss smaller"),
    ("gradient_of", lambda z, y: gradient(z, y) * 3, "the gradient of the sum over the rows"),
    ("gradient_of", lambda z, y: gradient(z, y) * -3, "is for the sum over the rows"),
    ("gradient_of", lambda z, y: gradient(z, y) * 3 / 4, "divided by V"),
    ("gradient_of", lambda z, y: gradient(z, y) / 4, "divided by the number of all entries"),
    ("gradient_of", lambda z, y: z.softmax(1) / 3, "The target is missing"),
    ("gradient_of", lambda z, y: z.softmax(1), "The target is missing"),
    ("gradient_of", lambda z, y: -F.one_hot(y, 4) / 3, "The probabilities are missing"),
    ("gradient_of", lambda z, y: -F.one_hot(y, 4), "The probabilities are missing"),
    ("gradient_of", lambda z, y: (z.softmax(0) - F.one_hot(y, 4)) / 3, "over the columns"),
    ("gradient_of", lambda z, y: z.softmax(0) - F.one_hot(y, 4), "over the columns"),
    ("gradient_of", lambda z, y: (z - F.one_hot(y, 4)) / 3, "Those are logits minus y"),
    ("gradient_of", lambda z, y: z - F.one_hot(y, 4), "Those are logits minus y"),
    ("gradient_of", lambda z, y: (z.log_softmax(1) - F.one_hot(y, 4)) / 3, "log probabilities minus y"),
    ("gradient_of", lambda z, y: z.log_softmax(1) - F.one_hot(y, 4), "log probabilities minus y"),
    ("gradient_of", lambda z, y: gradient(z, y).sum(0), "of shape (4,), not (3, 4)"),
    ("gradient_of", lambda z, y: gradient(z, y) + 0.01, "is not what autograd finds"),
]


test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    check, RIGHT, MISTAKES
)


def test_answers_in_other_clothes_are_right():
    "Python floats and other ways to the same number."
    assert check.cross_entropy_of(lambda z, y, m: loss(z.double(), y, m).item())
    assert check.nats_of(lambda model, ids: F.cross_entropy(model(ids[None])[0, :-1], ids[1:], reduction="sum").item())
    assert check.perplexity_of(lambda losses, n: torch.tensor(perplexity(losses, n)))

    def by_autograd(logits, targets):
        logits.requires_grad_()
        F.cross_entropy(logits, targets).backward()
        return logits.grad

    assert check.gradient_of(by_autograd)


def test_the_rows_that_differ_are_drawn():
    drawn = str(check.bigram_probs(joined).picture)
    assert [line for line in drawn.splitlines() if "differs" in line] and drawn.count("\n") == 4
    assert (
        str(check.gradient_of(lambda z, y: gradient(z, y) * torch.tensor([[1], [2], [1]])).picture).count("differs")
        == 1
    )
