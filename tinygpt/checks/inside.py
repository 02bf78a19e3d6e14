"""Checks of the chapter Inside: each typical mistake has its own diagnosis."""

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.checks.tensors import diagnose, grid, number, of_tensors, same, shaped
from tinygpt.inside import copy_accuracy, learn_to_copy, repeated_tokens
from tinygpt.show.pictures import Picture, table


def _weights(T: int, seed: int) -> Tensor:
    "Causal attention weights (T, T) at random."
    scores = torch.randn(T, T, generator=torch.Generator().manual_seed(seed)) * 2
    return scores.masked_fill(~torch.ones(T, T).bool().tril(), -torch.inf).softmax(-1)


def _score(weights: Tensor, distance: int) -> Tensor:
    return weights.diagonal(1 - distance)[1:].mean()  # its first element is in a row without an earlier occurrence


def _map(weights: Tensor, distance: int) -> Picture:
    "The weights; outlined are the ones that the score averages."
    T = len(weights)
    marked = torch.zeros(T, T, dtype=torch.bool)
    marked[range(distance, T), range(1, T - distance + 1)] = True
    letters = [chr(65 + t % distance) for t in range(T)]
    return grid(weights, letters, letters, marked)


@checks
def induction_score(answer):
    "Exercise 1: the mean attention to the token after the earlier occurrence."
    answer, (T, d) = of_tensors(answer), (8, 3)
    weights = _weights(T, 0)
    mistakes = [
        (
            weights.diagonal(-d).mean(),
            "That is the diagonal of the earlier occurrence itself: the same token again. An induction head attends to "
            "the token after it, one column to the right.",
        ),
        (weights.diagonal(-d - 1).mean(), "That is the token before the earlier occurrence, not the one after it."),
        (
            weights.diagonal(1 - d).mean(),
            f"One row too many: in row {d - 1} the piece is not over yet, so its token has no earlier occurrence.",
        ),
        (weights.diagonal(-1).mean(), "That is the score of a previous-token head."),
        (
            weights.T.diagonal(-d).mean(),
            "Rows and columns are swapped, so you read above the diagonal, where all is 0.",
        ),
        (weights[d:].amax(-1).mean(), "That is the largest weight in each row, wherever it is."),
        (weights.diagonal(1 - d)[1:].sum(), "Those are summed. The score is their mean, at most 1."),
        (weights.diagonal(1 - d)[1:].sum() / T, f"The sum was divided by all {T} rows. {T - d} of them count."),
        (weights.diagonal(1 - d)[1:].amax(), "That is the largest of them. The score is their mean."),
        (weights.diagonal(1 - d)[1:].median(), "That is their median. The score is their mean."),
    ]
    args = weights.tolist(), d
    got = number(answer, *args)
    diagnose(answer, args, got, _score(weights, d), mistakes, "the score of this head", _map(weights, d))
    args = _weights(9, 1).tolist(), 4
    if not same(torch.tensor(number(answer, *args)), _score(torch.tensor(args[0]), 4)):
        raise Finding(f"It is right for a distance of 3, but not for {call(answer, *args)}.", _map(_weights(9, 1), 4))
    return "The diagonal just right of the earlier occurrences, without the row that has none."


STREAM = [[2.0, -1.0, 0.5, 0.0], [3.0, 1.0, -2.0, 4.0], [6.0, -2.0, 8.0, 5.0]]  # it grows from layer to layer
GAIN = [0.5, 1.0, 1.5, 0.8]
UNEMBEDDING = [
    [1.0, 0.0, -1.0, 0.5],
    [0.0, 2.0, 0.5, -0.5],
    [-1.0, 0.5, 1.0, 0.0],
    [0.5, -0.5, 0.0, 1.5],
    [0.2, 0.1, 0.9, -1.0],
]


def _rms(x: Tensor, dim=-1) -> Tensor:
    return x / (x.square().mean(dim, keepdim=True) + 1e-6).sqrt()


def _lens(x: Tensor, gain: Tensor, matrix: Tensor) -> Tensor:
    return ((_rms(x) * gain) @ matrix.T).softmax(-1)


@checks
def lens(answer):
    "Exercise 2: the final norm, then the unembedding, then softmax."
    answer, args = of_tensors(answer), (STREAM, GAIN, UNEMBEDDING)
    x, gain, matrix = map(torch.tensor, args)
    logits = (_rms(x) * gain) @ matrix.T
    wrongs = [
        (
            (x @ matrix.T).softmax(-1),
            "The final norm is missing. The stream grows from layer to layer, so without the norm late layers look "
            "more certain than they are.",
        ),
        (((x * gain) @ matrix.T).softmax(-1), "The gain was applied, but the stream was not divided by its size."),
        ((_rms(x) @ matrix.T).softmax(-1), "The norm's gain is missing."),
        (
            (F.layer_norm(x, (4,), gain) @ matrix.T).softmax(-1),
            "That is LayerNorm. RMSNorm does not subtract the mean.",
        ),
        (
            ((F.normalize(x) * gain) @ matrix.T).softmax(-1),
            "It was divided by its length. RMSNorm divides by the root of the mean square, which is smaller by the "
            "root of C.",
        ),
        (
            ((_rms(x, 0) * gain) @ matrix.T).softmax(-1),
            "The norm ran over the layers. Each layer's stream is divided by its own size.",
        ),
        (((_rms(x, (0, 1)) * gain) @ matrix.T).softmax(-1), "All layers were divided by one number. Each has its own."),
        (_rms((x * gain) @ matrix.T).softmax(-1), "The logits were normalised, not the stream."),
        (((_rms(_rms(x) * gain) * gain) @ matrix.T).softmax(-1), "The norm was applied twice."),
        (logits, "Those are logits. The softmax is missing."),
        (logits.log_softmax(-1), "Those are log-probabilities."),
        (logits.softmax(0), "Softmax ran over the layers. Each row should sum to 1."),
        (
            _lens(x.cumsum(0), gain, matrix),
            "The streams were added up, but each already holds what the earlier layers have added.",
        ),
        (
            _lens(x.diff(dim=0, prepend=torch.zeros(1, 4)), gain, matrix),
            "That is what each layer adds. The lens reads the whole stream so far.",
        ),
    ]
    hints = {(5,): "Return a row for each layer.", (3,): "Are these ids? Return the probabilities."}
    got, right = shaped(answer, *args, shape=(3, 5), hints=hints), logits.softmax(-1)
    wrong = ~torch.isclose(got.float(), right, rtol=1e-4, atol=1e-6)
    picture = grid(got, [f"layer {i}" for i in range(3)], [f"token {i}" for i in range(5)], wrong)
    diagnose(answer, args, got, right, wrongs, "what the lens shows", picture)
    args = [[[-1.0, 2.0]], [1.0, 3.0], [[1.0, 1.0], [0.0, -1.0]]]
    if not same(shaped(answer, *args, shape=(1, 2), hints={}), _lens(*map(torch.tensor, args))):
        raise Finding(f"It is right for three layers of width 4, but not for {call(answer, *args)}.")
    return "Each layer's stream goes through the final norm, just as the last one does in the model."


def _with(outputs: Tensor, index: tuple, value) -> Tensor:
    changed = outputs.clone()
    changed[index] = value
    return changed


@checks
def mean_ablation(answer):
    "Exercise 3: one head's outputs, replaced by their mean over texts and positions."
    answer = of_tensors(answer)
    outputs, head = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0)).mul(100).round() / 100, 1
    x = outputs[:, head]
    put = lambda value: _with(outputs, (slice(None), head), value)
    mistakes = [
        (
            put(0.0),
            "That is ablation by zero. It also takes away what the head always adds, so a fall in accuracy does not "
            "show that what the head knows about this text matters.",
        ),
        (
            put(x.mean(0)),
            "That is the mean over the texts only: each position has its own, so it still tells positions apart.",
        ),
        (
            put(x.mean(1, keepdim=True)),
            "That is the mean over the positions only: each text has its own, so it still tells the texts apart.",
        ),
        (put(x.mean()), "The numbers of the output were averaged, too. Each of the D numbers has its own mean."),
        (put(x.mean(-1, keepdim=True)), "The mean ran over the D numbers of each output."),
        (put(outputs.mean((0, 1, 2))), "That is the mean of all heads. This head has its own."),
        (put(outputs.mean(1)), "That is the mean over the heads."),
        (put(x.median()), "That is a median."),
        (outputs.mean((0, 2), keepdim=True).expand_as(outputs), "All heads were replaced. The others should stay."),
        (
            _with(outputs, (slice(None), slice(None), head), outputs[:, :, head].mean((0, 1))),
            f"Position {head} of every head was replaced: the heads are the second dimension.",
        ),
        (
            _with(outputs, (head,), x.mean((0, 1))),
            f"Text {head} was replaced: the heads are the second dimension.",
        ),
        (put(x - x.mean((0, 1))), "The mean was subtracted. What remains should be the mean itself."),
        (outputs.clone(), "Nothing was replaced."),
    ]
    hints = {
        (2,): "That is the mean. Return all outputs, with the head's own replaced by it.",
        (2, 4, 2): "That is one head. Return the outputs of all heads.",
    }
    args = outputs.tolist(), head
    got, right = shaped(answer, *args, shape=(2, 3, 4, 2), hints=hints), put(x.mean((0, 1)))
    diagnose(answer, args, got, right, mistakes, "these outputs with the mean of head 1")
    args = outputs[:1, :2].tolist(), 0
    one = outputs[:1, :2]
    right = _with(one, (slice(None), 0), one[:, 0].mean((0, 1)))
    if not same(shaped(answer, *args, shape=(1, 2, 4, 2), hints={}), right):
        raise Finding(f"It is right for head 1 of 3, but not for {call(answer, *args)}.")
    return "The head now adds the same everywhere: what falls is due to what it knew about the place in the text."


LENGTH, DISTANCE, VOCAB, STEPS = 32, 8, 64, 150


def accuracy_of_one_layer(rows: Tensor, test: Tensor) -> float:
    "How often a model with a single layer copies right after training on these rows."
    batches = iter(rows.split(32))
    *_, model = learn_to_copy(0, STEPS, 1, lambda *_: next(batches))
    return copy_accuracy(model, test)


@cache
def at_random_distances() -> float:
    "The same for repeated_tokens."
    rows = repeated_tokens(32 * STEPS + 100, LENGTH, VOCAB, torch.Generator().manual_seed(0))
    return accuracy_of_one_layer(rows[100:], rows[:100])


def at_one_distance(rows: Tensor) -> float:
    "The same for these rows, tested on pieces without a token that occurs twice in them."
    pieces = torch.rand(100, VOCAB, generator=torch.Generator().manual_seed(0)).argsort(-1)[:, :DISTANCE]
    return accuracy_of_one_layer(rows, pieces[:, torch.arange(LENGTH) % DISTANCE])


@checks
def fixed_distance(answer):
    "Exercise 4: rows of random tokens that repeat at one distance, which a single layer can copy."
    ids, d = attempt(answer, *(args := (5, 11, 3, VOCAB)), expect=Tensor), 3
    asked = f" The call was {call(answer, *args)}."
    if tuple(ids.shape) != (5, 11):
        why = {(11,): "That is one row. ", (11, 5): "Rows and columns are swapped. ", (5, 3): "Those are the pieces. "}
        shape = tuple(ids.shape)
        raise Finding(f"It returned shape {shape}, not (5, 11). {why.get(shape, '')}The call was {call(answer, *args)}.")
    if ids.is_floating_point():
        raise Finding(f"It returned {ids.dtype}. Ids are whole numbers.{asked}")
    if ids.min() < 0 or ids.max() >= VOCAB:
        raise Finding(f"Ids go from {ids.min()} to {ids.max()}. They should be from 0 to vocab_size - 1.{asked}")
    if not ids[:, d:].equal(ids[:, :-d]):
        found = [other for other in range(1, 11) if ids[:, other:].equal(ids[:, :-other])]
        why = f"They repeat every {found[0]} tokens." if found else "Look at two of them: do they repeat at all?"
        if not found and all(any(row[k:].equal(row[:-k]) for k in range(1, 10)) for row in ids):
            why = "Each row has a distance of its own, as in repeated_tokens."
        if not found and ids[:, d : 2 * d].equal(ids[:, :d]):
            why = "The piece comes twice, and then something else. It should fill the row."
        raise Finding(f"The rows do not repeat every {d} tokens. {why}{asked}", _rows(ids))
    if ids[0].equal(ids[1]) and ids[1].equal(ids[2]):
        raise Finding(f"All rows have the same piece, so the model could learn it by heart.{asked}", _rows(ids))
    if (ids[:, :1] == ids).all():
        raise Finding(f"Each row is a single token, again and again.{asked}", _rows(ids))
    rows = attempt(answer, *(many := (32 * STEPS, LENGTH, DISTANCE, VOCAB)), expect=Tensor)
    if tuple(rows.shape) != many[:2] or not rows[:, DISTANCE:].equal(rows[:, :-DISTANCE]):
        raise Finding(f"It is right for {call(answer, *args)}, but not for {call(answer, *many)}.")
    if len(rows[:, :DISTANCE].unique(dim=0)) < 0.9 * len(rows):
        raise Finding(f"Of {len(rows):,} rows many have the same piece, so the model could learn them by heart.")
    if len(rows.unique()) < VOCAB:
        raise Finding(f"Only {len(rows.unique())} of {VOCAB} tokens occur. Draw from the whole vocabulary.")
    return (
        f"After {STEPS} steps a single layer copies {at_one_distance(rows):.0%} at one distance, and "
        f"{at_random_distances():.0%} at random ones. Was that what you predicted? At one distance it need not look at "
        f"the tokens at all: the answer is always {DISTANCE - 1} places back."
    )


def _rows(ids: Tensor) -> Picture:
    "The first rows of ids."
    return table([[str(id) for id in row] for row in ids[:4].tolist()])
