"""The chapter Baseline: measures agree with PyTorch and closed forms, counting is exact, a network finds the counts."""

import math
import random
import subprocess
import sys
from collections import Counter

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tinygpt import baseline
from tinygpt.baseline import (
    Bigram,
    LookupModel,
    bigram,
    count_pairs,
    cross_entropy,
    evaluate,
    fit,
    ngram,
    sample,
    unigram,
)
from tinygpt.show.training import ladder

matplotlib.use("Agg")
shapes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 8))
texts = st.integers(1, 6).flatmap(lambda v: st.tuples(st.just(v), st.lists(st.integers(0, v - 1), min_size=2)))


def uniform(vocab_size):
    "A model to which every token is as likely as any other."
    return LookupModel(torch.full((vocab_size, vocab_size), 1 / vocab_size))


def example(ids):
    "One row that asks for each token but the first."
    ids = torch.tensor([ids])
    return ids[:, :-1], ids[:, 1:], torch.ones(1, ids.shape[1] - 1, dtype=torch.bool)


WALK = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25], [0.05, 0.05, 0.3, 0.6]])


def walk(n, seed=0):
    "A text of four tokens in which each depends on the one before it."
    ids, rng = [0], random.Random(seed)
    for _ in range(n):
        ids += rng.choices(range(4), WALK[ids[-1]].tolist())
    return ids


# Measures


@given(shapes, st.integers(0, 10**6), st.sampled_from([1.0, 100.0]))
@settings(deadline=None)
def test_cross_entropy_is_that_of_pytorch_over_the_counted_targets(shape, seed, scale):
    torch.manual_seed(seed)
    logits, targets = scale * torch.randn(shape), torch.randint(shape[2], shape[:2])
    mask = torch.rand(shape[:2]) < 0.6
    mask[0, 0] = True
    expected = F.cross_entropy(logits[mask], targets[mask])
    assert cross_entropy(logits, targets, mask).allclose(expected, rtol=1e-5)
    everything = F.cross_entropy(logits.transpose(1, 2), targets)
    assert cross_entropy(logits, targets).allclose(everything, rtol=1e-5)


def test_cross_entropy_leaves_its_arguments_alone_and_never_reads_what_is_masked():
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    mask, before = torch.tensor([[True, True, False], [True, False, False]]), targets.clone()
    loss = cross_entropy(logits, targets, mask)
    assert targets.equal(before)
    targets[~mask], logits[~mask] = 4, 1e6
    assert cross_entropy(logits, targets, mask) == loss


def test_the_gradient_of_cross_entropy_is_p_minus_y():
    logits, targets = torch.randn(3, 4, 7, requires_grad=True), torch.randint(7, (3, 4))
    mask = torch.rand(3, 4) < 0.5
    mask[0, 0] = True
    cross_entropy(logits, targets, mask).backward()
    expected = (logits.softmax(-1) - F.one_hot(targets, 7)) * mask[..., None] / mask.sum()
    assert logits.grad.allclose(expected, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 50, 1024])
def test_the_uniform_model_is_as_unsure_as_its_vocabulary_is_large(size):
    ids = torch.randint(size, (200,)).tolist()
    loss = evaluate(uniform(size), [example(ids)])
    assert math.isclose(baseline.perplexity(loss), size, rel_tol=1e-5)


def test_bits_per_byte_by_hand():
    assert baseline.bits_per_byte(math.log(2), 1) == 1
    assert math.isclose(baseline.bits_per_byte(80 * math.log(2), 10), 8)


def test_every_byte_at_random_is_eight_bits():
    ids = torch.randint(256, (1000,)).tolist()
    nats = evaluate(uniform(256), [example(ids)]) * 999
    assert math.isclose(baseline.bits_per_byte(nats, 999), 8, rel_tol=1e-5)


def test_evaluate_weights_tokens_and_not_batches():
    table, long, short = LookupModel(torch.tensor([[0.9, 0.1], [0.5, 0.5]])), [0, 0, 0, 0, 0, 0, 1, 1], [0, 1]
    nats = -(5 * math.log(0.9) + math.log(0.1) + math.log(0.5)) - math.log(0.1)
    assert math.isclose(evaluate(table, [example(long), example(short)]), nats / 8, rel_tol=1e-6)
    ids, targets, mask = example(long)
    mask[:, 3:] = False
    assert math.isclose(
        evaluate(table, [(ids, targets, mask), example(short)]), -(3 * math.log(0.9) + math.log(0.1)) / 4, rel_tol=1e-6
    )


def test_evaluate_leaves_out_a_batch_in_which_no_token_counts():
    table, (ids, targets, mask) = LookupModel(torch.tensor([[0.9, 0.1], [0.5, 0.5]])), example([0, 0, 1])
    nothing = ids, targets, torch.zeros_like(mask)
    loss = evaluate(table, [(ids, targets, mask)])
    assert evaluate(table, [nothing, (ids, targets, mask), nothing]) == loss
    assert math.isclose(loss, -(math.log(0.9) + math.log(0.1)) / 2, rel_tol=1e-6)


def test_evaluate_asks_a_network_not_to_act_as_in_training():
    class Noisy(Bigram):
        def forward(self, ids):
            assert not torch.is_grad_enabled()
            return F.dropout(super().forward(ids), 0.5, self.training)

    network = Noisy(4)
    nn.init.normal_(network.rows.weight)
    loss = evaluate(network, [example([0, 1, 2, 3, 2, 1])])
    assert network.training and loss == evaluate(network.eval(), [example([0, 1, 2, 3, 2, 1])])
    assert not network.training


# Counting


@given(texts, st.integers(1, 7))
@settings(deadline=None)
def test_pairs_are_counted_as_by_a_counter(text, size):
    vocab_size, ids = text
    expected = Counter(zip(ids, ids[1:]))
    for counts in (
        count_pairs(ids, vocab_size),
        count_pairs(ids, vocab_size, size),
        count_pairs(np.array(ids, np.uint16), vocab_size, size),
    ):
        assert counts.shape == (vocab_size, vocab_size) and counts.dtype == torch.int64
        assert {(a, b): n for a, row in enumerate(counts.tolist()) for b, n in enumerate(row) if n} == expected


def test_a_pair_of_large_ids_does_not_overflow():
    counts = count_pairs(np.array([999, 998, 999, 998], np.uint16), 1000)
    assert counts[999, 998] == 2 and counts[998, 999] == 1 and counts.sum() == 3


@given(texts, st.floats(0.01, 10))
@settings(deadline=None)
def test_smoothed_rows_are_probabilities_by_the_formula(text, k):
    vocab_size, ids = text
    pairs, firsts, seconds = Counter(zip(ids, ids[1:])), Counter(ids[:-1]), Counter(ids[1:])
    counts, every, total = count_pairs(ids, vocab_size), range(vocab_size), len(ids) - 1 + k * vocab_size
    p = [[(pairs[a, b] + k) / (firsts[a] + k * vocab_size) for b in every] for a in every]
    q = [[(seconds[b] + k) / total for b in every] for a in every]
    for model, expected in (bigram(counts, k), p), (unigram(counts, k), q):
        assert model(torch.arange(vocab_size)[None])[0].softmax(-1).allclose(torch.tensor(expected), rtol=1e-4)


def test_without_smoothing_the_loss_on_its_own_text_is_the_conditional_entropy():
    ids = walk(3000)
    pairs, firsts, seconds = Counter(zip(ids, ids[1:])), Counter(ids[:-1]), Counter(ids[1:])
    n, counts = len(ids) - 1, count_pairs(ids, 4)
    conditional = -sum(count / n * math.log(count / firsts[a]) for (a, _), count in pairs.items())
    entropy = -sum(count / n * math.log(count / n) for count in seconds.values())
    assert math.isclose(evaluate(bigram(counts, 0), [example(ids)]), conditional, rel_tol=1e-5)
    assert math.isclose(evaluate(unigram(counts, 0), [example(ids)]), entropy, rel_tol=1e-5)
    assert conditional < entropy < math.log(4)


def test_what_never_came_is_infinitely_surprising_unless_smoothed():
    counts = count_pairs([0, 1, 0, 1, 2], 3)
    assert evaluate(bigram(counts, 0), [example([0, 2])]) == math.inf
    assert evaluate(bigram(counts, 1), [example([0, 2])]) < 2


class Documents:
    "Tokens of documents, as encode_corpus makes them: an end (the last id) in front, between and after them."

    def __init__(self, documents, vocab_size):
        end = [vocab_size - 1]
        self.ids = np.array(end + [i for document in documents for i in [*document, *end]], np.uint16)
        self.starts = np.cumsum([1, *(len(document) + 1 for document in documents)])[:-1]
        self.bounds, self.vocab_size = np.append(self.starts, len(self.ids)), vocab_size

    def spans(self, documents):
        return np.stack([self.bounds[documents] - 1, self.bounds[documents + 1]], axis=1)


def witten_bell(tokens, context):
    "The probabilities after a context, straight from the formula, by reading through the whole text."
    if context is None:
        return [1 / tokens.vocab_size] * tokens.vocab_size
    shorter = witten_bell(tokens, context[1:] if context else None)
    ids, end, n = tokens.ids.tolist(), tokens.vocab_size - 1, len(context)
    runs = [ids[i : i + n + 1] for i in range(0 if n else 1, len(ids) - n)]
    came = Counter(run[-1] for run in runs if tuple(run[:-1]) == context and end not in run[1:-1])
    total, kinds = sum(came.values()), len(came)
    return [(came[token] + kinds * p) / (total + kinds) if total else p for token, p in enumerate(shorter)]


several_documents = st.lists(st.lists(st.integers(0, 2), max_size=8), min_size=1, max_size=5)


@given(several_documents, st.integers(1, 5), st.lists(st.integers(0, 3), min_size=1, max_size=6))
@settings(deadline=None)
def test_ngrams_are_what_the_formula_says_and_never_cross_an_end(documents, n, asked):
    tokens = Documents(documents, 4)
    probs = ngram(tokens, n)(torch.tensor([asked, asked[::-1]])).softmax(-1)
    for row, ids in zip(probs, (asked, asked[::-1])):
        for t in range(len(ids)):
            context = tuple(ids[max(0, t - n + 2) : t + 1]) if n > 1 else ()
            assert row[t].allclose(torch.tensor(witten_bell(tokens, context)), atol=1e-5)


def test_a_longer_context_tells_apart_what_a_shorter_one_cannot():
    tokens = Documents([[0, 1, 2], [2, 1, 0]] * 50, 4)
    batches = [example([3, 0, 1, 2, 3]), example([3, 2, 1, 0, 3])]
    losses = [evaluate(ngram(tokens, n), batches) for n in (1, 2, 3)]
    assert losses[0] > losses[1] + 0.3 and losses[1] > losses[2] + 0.15


@pytest.mark.parametrize("make", [lambda c: uniform(4), unigram, bigram, lambda c: Bigram(4)])
def test_every_model_takes_ids_and_gives_logits(make):
    logits = make(count_pairs([0, 1, 2, 3, 0], 4))(torch.randint(4, (2, 5)))
    assert logits.shape == (2, 5, 4) and logits.dtype == torch.float32


# The network


def test_the_network_looks_rows_up_as_a_one_hot_row_times_the_matrix():
    network, ids = Bigram(6), torch.randint(6, (2, 3))
    assert not network(ids).any()
    nn.init.normal_(network.rows.weight)
    assert network(ids).allclose(F.one_hot(ids, 6).float() @ network.rows.weight)


def test_fit_finds_the_counts():
    ids = walk(4000)
    network, batches = Bigram(4), [example(ids)] * 150
    losses = fit(network, batches, steps=150, lr=0.1)
    counted = bigram(count_pairs(ids, 4), 0)
    assert len(losses) == 150 and math.isclose(losses[0], math.log(4), rel_tol=1e-5)
    assert math.isclose(evaluate(network, batches[:1]), evaluate(counted, batches[:1]), rel_tol=1e-4)
    assert network.rows.weight.softmax(1).allclose(counted.logits.exp(), atol=0.01)


def test_fit_takes_each_batch_once_in_order_and_heeds_its_mask():
    class Recorder(list):
        def __getitem__(self, step):
            seen.append(step)
            return super().__getitem__(step)

    seen, (ids, targets, mask) = [], example([0, 1, 2, 0, 1, 3])
    mask[:, -1] = False
    network = Bigram(4)
    fit(network, Recorder([(ids, targets, mask)] * 30), steps=30, lr=0.5)
    assert seen == list(range(30))
    probs = network.rows.weight.softmax(1)
    assert probs[1].argmax() == 2 and probs[1, 3] < 0.05


def test_fit_does_the_same_from_the_same_seed():
    def run(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Embedding(4, 8), nn.Linear(8, 4))
        batches = [example(walk(50, seed=step)) for step in range(25)]
        return fit(model, batches, steps=25), [p.detach().clone() for p in model.parameters()]

    (losses, weights), (again, same), (others, _) = run(1), run(1), run(2)
    assert losses == again and losses != others and losses[-1] < losses[0]
    assert all(a.equal(b) for a, b in zip(weights, same))


def test_fit_ends_with_small_steps():
    ids = walk(300)
    network, moves = Bigram(4), []

    class Watched(list):
        def __getitem__(self, step):
            moves.append(network.rows.weight.detach().clone())
            return super().__getitem__(step)

    fit(network, Watched([example(ids)] * 60), steps=60, lr=0.1)
    steps = [(b - a).abs().max().item() for a, b in zip(moves, moves[1:])]
    assert steps[0] < 0.02 and max(steps) > 0.05 and steps[-1] < 0.02


# Writing


def test_sampled_frequencies_are_the_probabilities():
    model, counts = LookupModel(WALK), torch.zeros(4, 4, dtype=torch.int64)
    for seed in range(300):
        counts += count_pairs(sample(model, [0], 40, seed=seed), 4)
    expected = counts.sum(1, keepdim=True) * WALK
    chi_square, freedom = ((counts - expected) ** 2 / expected).sum().item(), 4 * 3
    assert counts.sum() == 12_000 and chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_sampling_goes_on_from_what_is_given_and_stops():
    cycle = LookupModel(torch.eye(4).roll(1, 1))
    given_ids = [2, 3]
    assert sample(cycle, given_ids, 5) == [2, 3, 0, 1, 2, 3, 0] and given_ids == [2, 3]
    assert sample(cycle, [2], 50, stop=1) == [2, 3, 0, 1]
    assert sample(cycle, [1], 3, stop=1) == [1, 2, 3, 0]


def test_sampling_is_decided_by_the_seed_alone():
    model, state = uniform(50), torch.get_rng_state()
    assert sample(model, [0], 20, seed=3) == sample(model, [0], 20, seed=3) != sample(model, [0], 20, seed=4)
    assert torch.get_rng_state().equal(state)


# The ladder


def words(fig):
    fig.canvas.draw()
    return [text.get_text().strip() for text in fig.findobj(matplotlib.text.Text) if text.get_text().strip()]


def test_the_ladder_shows_every_rung_in_order_and_the_floor():
    rungs = {"uniform": 6.931, "bigram": 2.689, "worse": 3.5, "stack": 0.512, "tuned": 0.4551}
    fig = ladder(rungs, floor=0.427)
    (ax,) = fig.axes
    shown = words(fig)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(rungs)
    assert [f"{loss:.2f}" in shown for loss in rungs.values()] == [True] * 5
    assert any("floor" in word and "0.427" in word for word in shown)
    bars = [bar for bar in ax.patches if bar.get_height() < 1][:5]
    ends = [(bar.get_x() + bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in bars]
    assert np.allclose(ends, [(loss, row) for row, loss in enumerate(rungs.values())])
    assert ax.yaxis_inverted() and any(np.allclose(line.get_xdata(), 0.427) for line in ax.lines)


def test_the_ladder_without_a_floor_has_none():
    fig = ladder({"uniform": 6.931})
    assert not any("floor" in word for word in words(fig)) and not fig.axes[0].lines


@pytest.mark.parametrize("n", [1, 3, 12])
def test_nothing_on_the_ladder_overlaps(n):
    fig = ladder({f"a model of number {i}": 7 * 0.8**i for i in range(n)}, floor=0.427)
    words(fig)
    ax, renderer = fig.axes[0], fig.canvas.get_renderer()
    labels = [text for text in [*ax.texts, *ax.get_yticklabels()] if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in labels]
    assert len(boxes) == 2 * n + 1
    assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_the_package_is_imported_without_matplotlib():
    code = "import sys, tinygpt.baseline; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
