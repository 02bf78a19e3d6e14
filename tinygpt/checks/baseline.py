"""Checks for the chapter Baseline: each typical mistake has a diagnosis of its own."""

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
    "Exercise 1: stable, over the right positions, with the mask."
    answer = of_tensors(answer)
    logits = [[2.0, 0.0, 1.0], [0.0, 1.0, 3.0], [1.5, 1.0, 0.0], [-1.0, 2.0, 0.5]]
    targets, mask = [1, 2, 0, 2], [True, True, True, False]
    args = logits, targets, mask
    z, y, m = map(torch.tensor, args)
    logp, rows = z.log_softmax(1), torch.arange(4)
    surprisals = -logp[rows, y]
    right = surprisals[m].mean()
    shifted = -logp[:-1][rows[:-1], y[1:]]
    mistakes = [
        (-right, "A surprisal is never negative: where is the minus?"),
        (surprisals[m].sum(), "That is the sum. For the average, divide by the number of targets that count."),
        (right / math.log(2), "That is in bits. For nats, use the natural logarithm."),
        (right / math.log(10), "That is a logarithm to the base of ten. For nats, use the natural one."),
        (surprisals.mean(), "The mask was not used: the last target does not count."),
        (
            surprisals[m].sum() / 4,
            "The sum leaves out the masked target, but the number that you divide by includes it.",
        ),
        (surprisals[~m].mean(), "The mask is inverted: where it is true, the target counts."),
        (-z[rows, y][m].mean(), "Those are the logits themselves. First turn them into probabilities with softmax."),
        (logp.exp()[rows, y][m].mean(), "That is the average probability. Take the logarithm of each."),
        (
            -logp.exp()[rows, y][m].mean().log(),
            "The probabilities were averaged before the logarithm. Average the surprisals.",
        ),
        (
            -z.log_softmax(0)[rows, y][m].mean(),
            "Softmax was taken over the columns. Each row has its own probabilities: dim=1.",
        ),
        (shifted.mean(), "The targets are shifted by one position: row i belongs to target i."),
        (shifted[m[1:]].mean(), "The targets are shifted by one position: row i belongs to target i."),
        (shifted[m[:-1]].mean(), "The targets are shifted by one position: row i belongs to target i."),
        (
            -logp[:, y][m].mean(),
            "logits[:, targets] takes every target in every row. Row i needs only its own target.",
        ),
        (-logp[m].mean(), "That is the average over all ids. In each row, only the id that came counts."),
        (right.exp(), "That is the perplexity. The loss is its logarithm."),
    ]
    diagnose(answer, args, number(answer, *args), right, mistakes, "the average surprisal of the first three rows")
    args = [[1000.0, 0.0], [0.0, 0.0]], [1, 0], [True, True]
    got = number(answer, *args)
    if not math.isfinite(got):
        raise Finding(
            f"It returned {got}: e to the power of 1000 is too large for a float, and e to the power of -1000 is 0. "
            "Subtract from each row its own largest logit, which changes no probability. "
            f"The call was {call(answer, *args)}."
        )
    diagnose(answer, args, got, (1000 + math.log(2)) / 2, [], "the loss for large logits, which is 500.3")
    return "This is the loss of every model in this course: stable, in nats, averaged over the targets that count."


@checks
def perplexity_of(answer):
    "Exercise 2: average nats, weighted by tokens, then the exponential."
    losses, sizes = [1.0, 3.0, 2.0], [6, 1, 3]
    each = [math.exp(loss) for loss in losses]
    mistakes = [
        (sum(each) / 3, "Perplexities were averaged. Average the nats, and take the exponential at the end."),
        (
            sum(p * n for p, n in zip(each, sizes)) / 10,
            "The perplexities were weighted, but still averaged. Average the nats, and take the exponential at "
            "the end.",
        ),
        (math.exp(2.0), "Each text has the same weight. Each token should: the first text has six of the ten."),
        (1.5, "That is the loss of all texts together, in nats. What is its perplexity?"),
        (2**1.5, "That is a power of two. The losses are in nats, so the base is e."),
        (math.exp(6 / 10), "A loss is in nats per token. The nats of a text are its loss times its number of tokens."),
        (math.exp(15), "That is the exponential of the nats of all ten tokens. Perplexity uses the nats per token."),
        (math.exp(15 / 3), "The nats were divided by the number of texts, not by the number of tokens."),
        (math.exp(-1.5), "That is one divided by the perplexity: a minus too many."),
    ]
    args = losses, sizes
    diagnose(answer, args, number(answer, *args), math.exp(1.5), mistakes, "the perplexity of these ten tokens")
    args = [2.0], [7]
    diagnose(answer, args, number(answer, *args), math.exp(2.0), [], "the perplexity of a single text")
    return "Nats can be added and averaged, perplexities cannot."


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

    def normalized(counts):
        return (counts + k) / (counts + k).sum(1, keepdim=True)

    right, plain, joined = normalized(n), n / n.sum(1, keepdim=True), sum(stories, [])
    halves = [pair for story in stories for pair in zip(story[::2], story[1::2])]
    early = [pair for story in stories for pair in zip(story[:-1], story[1:-1])]
    late = [pair for story in stories for pair in zip(story[1:], story[2:])]
    anything = [(a, b) for a in range(4) for story in stories for b in story[1:]]
    unigram = normalized(_counted(anything, 4))
    across = "A pair was counted across two stories: the last id of one story and the first of the next."
    mistakes = [
        (normalized(_counted(zip(joined, joined[1:]), size)), across),
        (plain + k, "k was added after dividing, so the rows no longer sum to one. Add it to the counts."),
        (plain.nan_to_num() + k, "k was added after dividing, so the rows no longer sum to one. Add it to the counts."),
        (
            (plain.nan_to_num() + k) / (plain.nan_to_num() + k).sum(1, keepdim=True),
            "k was added to probabilities, not to counts. So a frequent row is smoothed as much as a rare one.",
        ),
        (
            (n + k) / n.sum(1, keepdim=True),
            "k was added to the counts, but not to their sum, so the rows do not sum to one.",
        ),
        (
            (n + k) / (n.sum(1, keepdim=True) + k),
            "k was added once to the sum of the row. But it was added to each of the V counts in it.",
        ),
        (plain, "k was not used: pairs that were never seen have probability 0, and row 3 is 0 / 0."),
        (plain.nan_to_num(), "k was not used: pairs that were never seen have probability 0."),
        (right.T, "Rows and columns are swapped: row a should say what comes after a."),
        (normalized(n.T), "Rows and columns are swapped: row a should say what comes after a."),
        (
            (n + k) / (n + k).sum(),
            "The whole table sums to one: these are probabilities of pairs. Each row should sum to one.",
        ),
        ((n + k) / (n + k).sum(0), "The columns sum to one. Each row should: divide by the sum of the row."),
        (n + k, "Those are counts. Divide each row by its sum."),
        (n, "Those are counts, without k. Add it, and divide each row by its sum."),
        ((n + 1) / (n + 1).sum(1, keepdim=True), "That is right for k = 1. Here k is 0.5."),
        (normalized(_counted(halves, size)), "Pairs overlap: the second id of one pair is the first of the next."),
        (normalized(_counted(early, size)), "The last pair of each story is missing."),
        (normalized(_counted(late, size)), "The first pair of each story is missing."),
        (unigram, "All rows are the same, whatever the first id of a pair is. Count pairs."),
        (right.log(), "Those are logarithms. Return the probabilities themselves."),
    ]
    got = tensor(answer, *args, shape=(4, 4))
    picture = _rows(got, right, ("yours", "expected"))
    off = [i for i, total in enumerate(got.sum(1).tolist()) if not abs(total - 1) < 1e-4]
    what = "the table of these stories"
    if off:
        what += f": row {off[0]} sums to {got[off[0]].sum().item():.3g}, not to one"
    diagnose(answer, args, got, right, mistakes, what, picture)
    return "Only pairs within a story, no probability of 0, and each row sums to one."


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
        "Each prediction was compared with the token that the model had just read. The target is the next token."
    )
    right = nats(ids[:-1], ids[1:])
    logp = model(ids[None, :-1])[0].log_softmax(-1)
    mistakes = [
        (nats(ids[1:], ids[1:]), leaked),
        (nats(ids, ids), leaked),
        (nats(ids[:-2], ids[2:]), "The targets are one position too far: the target is the very next token."),
        (nats(ids[1:], ids[:-1]), "Inputs and targets are swapped: that asks for the token before."),
        (right / n, "That is the average over the tokens. For the whole story, return the sum."),
        (right / (n + 1), "That is an average, and over one token too many. Return the sum."),
        (-right, "A surprisal is never negative: where is the minus?"),
        (right / math.log(2), "That is in bits. For nats, use the natural logarithm."),
        (nats(ids[:-2], ids[1:-1]), "The last token, the end mark, is missing. It must be predicted, too."),
        (
            nats(ids[1:-1], ids[2:]),
            "The first token of the story is missing. It is predicted from the end mark before it.",
        ),
        (
            -model(ids[None, :-1])[0][torch.arange(n), ids[1:]].sum(),
            "Logits are not log probabilities: take log_softmax first.",
        ),
        (
            nats(ids[:-1], ids[1:], dim=1),
            "Softmax was taken over time. Take it over the last dimension, the vocabulary.",
        ),
        (
            -logp[:, ids[1:]].sum(),
            "logits[:, ids] takes every target at every position. Each position needs only its own target.",
        ),
        ((-right).exp(), "That is the probability of the story. The surprisal is its negative logarithm."),
    ]
    args = model, story
    diagnose(answer, args, number(answer, *args), right, mistakes, "the surprisal of this story")
    long = [4] + [2, 1, 3, 0] * 200 + [4]
    got, ids = number(answer, model, long), torch.tensor(long)
    if not math.isfinite(got):
        raise Finding(
            f"For a story of {len(long)} tokens it returned {got}: the product of so many probabilities is too "
            "small for a float. Add logarithms instead."
        )
    if not math.isclose(got, nats(ids[:-1], ids[1:]).item(), rel_tol=1e-3):
        raise Finding(f"For a story of {len(long)} tokens it returned {got:.5g}, which is not its surprisal.")
    return "Every token is predicted from those before it, the end mark included. This works for every model here."


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
        (-right, "The sign is wrong: that direction makes the loss smaller. The gradient points to where it grows."),
        (p - y, "That is the gradient of the sum over the rows. The loss is their average."),
        (y - p, "The sign is wrong, and that is for the sum over the rows. The loss is their average."),
        ((p - y) / 4, "It was divided by V, the size of a row. Divide by N, the number of rows."),
        ((p - y) / 12, "It was divided by the number of all entries. Divide by N: the loss is an average over rows."),
        (p / n, "The target is missing: p alone says what was predicted, not what came."),
        (p, "The target is missing: p alone says what was predicted, not what came."),
        (
            -y / n,
            "The probabilities are missing: the first part of the loss, the sum over all logits, has a gradient, too.",
        ),
        (
            -y,
            "The probabilities are missing: the first part of the loss, the sum over all logits, has a gradient, too.",
        ),
        ((z.softmax(0) - y) / n, "Softmax was taken over the columns. Each row has its own probabilities: dim=1."),
        (z.softmax(0) - y, "Softmax was taken over the columns. Each row has its own probabilities: dim=1."),
        ((z - y) / n, "Those are logits minus y. First turn the logits into probabilities."),
        (z - y, "Those are logits minus y. First turn the logits into probabilities."),
        ((z.log_softmax(1) - y) / n, "Those are log probabilities minus y. Use the probabilities themselves."),
        (z.log_softmax(1) - y, "Those are log probabilities minus y. Use the probabilities themselves."),
    ]
    got = tensor(answer, *args, shape=(3, 4))
    picture = _rows(got, right, ("yours", "autograd"))
    diagnose(answer, args, got, right, mistakes, "what autograd finds", picture)
    return "What was predicted minus what came, averaged over the rows."
