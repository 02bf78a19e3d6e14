"""Checks for chapter 04: each typical mistake has a diagnosis of its own."""

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from tinygpt.checks import Finding, call, checks
from tinygpt.checks.tensors import diagnose, number, of_tensors, same, tensor
from tinygpt.show.pictures import Picture, table


def _rows(got: Tensor, right: Tensor, names: tuple[str, str]) -> Picture:
    "The rows of two matrices side by side, those that differ marked."
    lines = [["row", *names, ""]]
    for i, (a, b) in enumerate(zip(got, right)):
        numbers = [" ".join(f"{x:.2f}" for x in row.tolist()) for row in (a, b)]
        lines.append([str(i), *numbers, "" if same(a, b) else "differs"])
    return table(lines)


@checks
def cross_entropy_of(answer):
    "Exercise 1: stable, over the right places, with the mask."
    answer = of_tensors(answer)
    logits = [[2.0, 0.0, 1.0], [0.0, 1.0, 3.0], [1.5, 1.0, 0.0], [-1.0, 2.0, 0.5]]
    targets, mask = [1, 2, 0, 2], [True, True, True, False]
    args = logits, targets, mask
    z, y, m = map(torch.tensor, args)
    logp, rows = z.log_softmax(1), torch.arange(4)
    surprise = -logp[rows, y]
    right = surprise[m].mean()
    shifted = -logp[:-1][rows[:-1], y[1:]]
    mistakes = [
        (-right, "Surprise is not negative: where is the minus?"),
        (surprise[m].sum(), "That is the sum. The average is wanted: divide by how many targets count."),
        (right / math.log(2), "That is in bits. For nats, use the natural logarithm."),
        (right / math.log(10), "That is a logarithm to the base of ten. For nats, use the natural one."),
        (surprise.mean(), "The mask was not asked: the last target does not count."),
        (surprise[m].sum() / 4, "Masked targets were left out of the sum, but still counted when you divided."),
        (surprise[~m].mean(), "The mask is upside down: where it is true, the target counts."),
        (-z[rows, y][m].mean(), "Those are the logits themselves. Softmax makes chances of them first."),
        (logp.exp()[rows, y][m].mean(), "That is the average chance. Take the logarithm of each."),
        (
            -logp.exp()[rows, y][m].mean().log(),
            "The chances were averaged before the logarithm. Average the surprises.",
        ),
        (-z.log_softmax(0)[rows, y][m].mean(), "Softmax went down the columns. Each row has its own chances: dim=1."),
        (shifted.mean(), "The targets are one place off: row i belongs to target i."),
        (shifted[m[1:]].mean(), "The targets are one place off: row i belongs to target i."),
        (shifted[m[:-1]].mean(), "The targets are one place off: row i belongs to target i."),
        (
            -logp[:, y][m].mean(),
            "logits[:, targets] takes every target in every row. Row i wants its own target alone.",
        ),
        (-logp[m].mean(), "That is the average over all ids. Only the one that came counts, in each row."),
        (right.exp(), "That is the perplexity. The loss is its logarithm."),
    ]
    diagnose(answer, args, number(answer, *args), right, mistakes, "the average surprise of the first three rows")
    args = [[1000.0, 0.0], [0.0, 0.0]], [1, 0], [True, True]
    got = number(answer, *args)
    if not math.isfinite(got):
        raise Finding(
            f"{call(answer, *args)} returned {got}: e to the power of 1000 is too large for a float, and e to the power "
            "of -1000 is 0. Subtract from each row its own largest logit, which changes no chance."
        )
    diagnose(answer, args, got, (1000 + math.log(2)) / 2, [], "the loss for large logits, which is 500.3")
    return "Stable, natural, averaged over what counts: that is the loss of every model in this course."


@checks
def perplexity_of(answer):
    "Exercise 2: average nats, weighted by tokens, then the exponential."
    losses, sizes = [1.0, 3.0, 2.0], [6, 1, 3]
    each = [math.exp(loss) for loss in losses]
    mistakes = [
        (sum(each) / 3, "Perplexities were averaged. Average the nats, and take the exponential at the end."),
        (
            sum(p * n for p, n in zip(each, sizes)) / 10,
            "The perplexities were weighted, but still averaged: the hard text rules. Average the nats.",
        ),
        (math.exp(2.0), "Each text counted the same. Each token should: the first text has six of the ten."),
        (1.5, "That is the loss of all texts together, in nats. Which perplexity does it mean?"),
        (2**1.5, "That is a power of two. The losses are in nats: e is the base."),
        (math.exp(6 / 10), "A loss is nats per token already. The nats of a text are its loss times its tokens."),
        (math.exp(15), "Those are the nats of all ten tokens. Perplexity is made of the nats of one."),
        (math.exp(15 / 3), "The nats were divided by how many texts there are, not by how many tokens."),
        (math.exp(-1.5), "That is the chance of an average token. Perplexity is one divided by it."),
    ]
    args = losses, sizes
    diagnose(answer, args, number(answer, *args), math.exp(1.5), mistakes, "the perplexity of these ten tokens")
    args = [2.0], [7]
    diagnose(answer, args, number(answer, *args), math.exp(2.0), [], "the perplexity of a single text")
    return "Nats add up, perplexities do not."


def _counted(pairs, size: int) -> Tensor:
    counts = torch.zeros(size, size)
    for a, b in pairs:
        counts[a, b] += 1
    return counts


@checks
def bigram_probs(answer):
    "Exercise 3: pairs within stories, k above and k V below, rows that sum to one."
    stories, size, k = [[0, 1, 2, 1, 0], [2, 1, 1, 0], [3], [0, 2]], 4, 0.5
    args = stories, size, k
    n = _counted([pair for story in stories for pair in zip(story, story[1:])], size)

    def chances(counts):
        return (counts + k) / (counts + k).sum(1, keepdim=True)

    right, plain, joined = chances(n), n / n.sum(1, keepdim=True), sum(stories, [])
    halves = [pair for story in stories for pair in zip(story[::2], story[1::2])]
    early = [pair for story in stories for pair in zip(story[:-1], story[1:-1])]
    late = [pair for story in stories for pair in zip(story[1:], story[2:])]
    unigram = chances(_counted([(a, story[i]) for a in range(4) for story in stories for i in range(1, len(story))], 4))
    across = "A pair was counted across two stories: the last id of one and the first of the next are no neighbours."
    mistakes = [
        (chances(_counted(zip(joined, joined[1:]), size)), across),
        (plain + k, "k was added after dividing, so the rows no longer sum to one. Add it to the counts."),
        (plain.nan_to_num() + k, "k was added after dividing, so the rows no longer sum to one. Add it to the counts."),
        (
            (plain.nan_to_num() + k) / (plain.nan_to_num() + k).sum(1, keepdim=True),
            "k was added to chances, not to counts: so a row that was seen often is smoothed as much as a rare one.",
        ),
        ((n + k) / n.sum(1, keepdim=True), "k was added above the line and not below, so the rows do not sum to one."),
        (
            (n + k) / (n.sum(1, keepdim=True) + k),
            "Below the line k was added once. Above, it was added to each of the V counts of a row.",
        ),
        (plain, "Nothing was smoothed: pairs that never came have no chance, and row 3 is 0 / 0."),
        (plain.nan_to_num(), "Nothing was smoothed: pairs that never came have no chance."),
        (right.T, "Rows and columns are exchanged: row a should say what comes after a."),
        (chances(n.T), "Rows and columns are exchanged: row a should say what comes after a."),
        ((n + k) / (n + k).sum(), "All of it sums to one: those are chances of pairs. Each row should."),
        ((n + k) / (n + k).sum(0), "The columns sum to one: divided by the wrong sum. Each row should."),
        (n + k, "Those are counts. Divide each row by its sum."),
        (n, "Those are counts, without k. Add it, and divide each row by its sum."),
        ((n + 1) / (n + 1).sum(1, keepdim=True), "That is right for k = 1. Here k is 0.5."),
        (chances(_counted(halves, size)), "Pairs overlap: the second id of one pair is the first of the next."),
        (chances(_counted(early, size)), "The last pair of each story is missing."),
        (chances(_counted(late, size)), "The first pair of each story is missing."),
        (unigram, "All rows are alike: whatever comes first has no say. Count pairs."),
        (right.log(), "Those are logarithms. The chances themselves are wanted."),
    ]
    got = tensor(answer, *args, shape=(4, 4))
    picture = _rows(got, right, ("yours", "wanted"))
    off = [i for i, total in enumerate(got.sum(1).tolist()) if not abs(total - 1) < 1e-4]
    what = "the table of these stories"
    if off:
        what += f": row {off[0]} sums to {got[off[0]].sum().item():.3g}, not to one"
    diagnose(answer, args, got, right, mistakes, what, picture)
    return "Only true neighbours, nothing impossible, and each row shares out exactly one."


class _Toy:
    "A bigram of five tokens, whose logits are not normalised."

    def __call__(self, ids: Tensor) -> Tensor:
        if ids.dim() != 2:
            raise ValueError(f"this model takes ids of shape (B, T), and got {tuple(ids.shape)}")
        return torch.sin(torch.arange(25.0) ** 2).view(5, 5)[ids] * 2 + 1

    def __repr__(self):
        return "model"

    def __deepcopy__(self, memo):
        return self


@checks
def nats_of(answer):
    "Exercise 4: targets one ahead of the inputs, all of them, summed."
    answer, model, story = of_tensors(answer), _Toy(), [4, 0, 2, 1, 1, 3, 0, 4]
    ids = torch.tensor(story)
    n = len(ids) - 1

    def nats(inputs, targets, dim=-1):
        logp = model(inputs[None]).log_softmax(dim)[0]
        return -logp[torch.arange(len(targets)), targets].sum()

    leaked = (
        "The answers leaked into the inputs: each prediction was compared with the token it was made from. "
        "The target is the next one."
    )
    right = nats(ids[:-1], ids[1:])
    logp = model(ids[None, :-1])[0].log_softmax(-1)
    mistakes = [
        (nats(ids[1:], ids[1:]), leaked),
        (nats(ids, ids), leaked),
        (nats(ids[:-2], ids[2:]), "The targets are one too far: what follows a token is the very next one."),
        (nats(ids[1:], ids[:-1]), "That asks the model for the token before. Inputs and targets are exchanged."),
        (right / n, "That is the average of the tokens. The surprise at the whole story is wanted."),
        (right / (n + 1), "That is an average, and over one token too many. The sum is wanted."),
        (-right, "Surprise is not negative: where is the minus?"),
        (right / math.log(2), "That is in bits. For nats, use the natural logarithm."),
        (nats(ids[:-2], ids[1:-1]), "The end mark was not asked for. That a story ends has to be predicted too."),
        (nats(ids[1:-1], ids[2:]), "The first token was not asked for. It is predicted from the end mark before it."),
        (-model(ids[None, :-1])[0][torch.arange(n), ids[1:]].sum(), "Logits are no log chances: softmax first."),
        (nats(ids[:-1], ids[1:], dim=1), "Softmax went along time. It belongs to the last dimension, the vocabulary."),
        (-logp[:, ids[1:]].sum(), "logits[:, ids] takes every target at every place. Each place wants its own alone."),
        ((-right).exp(), "That is the probability of the story. Surprise is made of its logarithm."),
    ]
    args = model, story
    diagnose(answer, args, number(answer, *args), right, mistakes, "the surprise at this story")
    long = [4] + [2, 1, 3, 0] * 200 + [4]
    got, ids = number(answer, model, long), torch.tensor(long)
    if not math.isfinite(got):
        raise Finding(
            f"For a story of {len(long)} tokens it returned {got}: the product of so many chances is too small "
            "for a float. Add up logarithms."
        )
    if not math.isclose(got, nats(ids[:-1], ids[1:]).item(), rel_tol=1e-3):
        raise Finding(f"For a story of {len(long)} tokens it returned {got:.5g}, which is not its surprise.")
    return "Every token from those before it, the end included: any model of this course can be judged so."


@checks
def gradient_of(answer):
    "Exercise 5: (p - y) / N."
    answer = of_tensors(answer)
    logits, targets = [[2.0, 0.0, 1.0, -1.0], [0.5, 1.0, 3.0, 0.0], [0.0, 1.0, -0.5, 0.2]], [1, 2, 0]
    args = logits, targets
    z, y = torch.tensor(logits), one_hot(torch.tensor(targets), 4).float()
    p, n = z.softmax(1), 3
    right = (p - y) / n
    mistakes = [
        (-right, "The sign is wrong: that is the way downhill. The gradient points uphill, p - y."),
        (p - y, "That is the gradient of the sum. Of the average, each row has one part in N: divide."),
        (y - p, "The sign is wrong, and nothing is divided by N: the average has the gradient (p - y) / N."),
        ((p - y) / 4, "It was divided by V, the size of a row. Divide by N, how many rows there are."),
        ((p - y) / 12, "It was divided by all entries. Divide by N alone: the loss is an average over rows."),
        (p / n, "The target was not subtracted: p alone says what was expected, not what came."),
        (p, "The target was not subtracted: p alone says what was expected, not what came."),
        (-y / n, "The chances are missing: the sum over all logits in the loss has a gradient too."),
        (-y, "The chances are missing: the sum over all logits in the loss has a gradient too."),
        ((z.softmax(0) - y) / n, "Softmax went down the columns. Each row has its own chances: dim=1."),
        (z.softmax(0) - y, "Softmax went down the columns. Each row has its own chances: dim=1."),
        ((z - y) / n, "Those are logits minus y. Softmax makes chances of them first."),
        (z - y, "Those are logits minus y. Softmax makes chances of them first."),
        ((z.log_softmax(1) - y) / n, "Those are logarithms of chances minus y. Take the chances themselves."),
        (z.log_softmax(1) - y, "Those are logarithms of chances minus y. Take the chances themselves."),
    ]
    got = tensor(answer, *args, shape=(3, 4))
    picture = _rows(got, right, ("yours", "autograd"))
    diagnose(answer, args, got, right, mistakes, "what autograd finds", picture)
    return "What was expected minus what came, shared by all rows."
