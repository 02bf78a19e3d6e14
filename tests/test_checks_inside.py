"""The checks of the chapter Inside."""

import re

import pytest
import torch
from conftest import pair_of_tests
from torch.nn import functional as F

from tinygpt.checks import inside as check
from tinygpt.gpt import GPT, GPTConfig
from tinygpt.inside import Trace, induction_scores, logit_lens, repeated_tokens


def induction_score(weights, distance):
    rows = range(distance, len(weights))
    return sum(weights[t, t - distance + 1] for t in rows) / len(rows)


def diagonal(weights, offset):
    return weights.diagonal(offset).mean()


def norm(x, gain):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * gain


def lens(stream, gain, unembedding):
    return (norm(stream, gain) @ unembedding.T).softmax(-1)


def replaced(outputs, head, value):
    outputs = outputs.clone()
    outputs[:, head] = value
    return outputs


def mean_ablation(outputs, head):
    return replaced(outputs, head, outputs[:, head].mean((0, 1)))


def in_place(outputs, head):
    outputs[:, head] = outputs[:, head].mean((0, 1))
    return outputs


def wrong_dimension(outputs, head):
    outputs = outputs.clone()
    outputs[:, :, head] = outputs[:, :, head].mean((0, 1))
    return outputs


def wrong_text(outputs, head):
    outputs = outputs.clone()
    outputs[head] = outputs[:, head].mean((0, 1))
    return outputs


def places(length, distance):
    return torch.arange(length) % distance


def fixed_distance(n, length, distance, vocab_size):
    return torch.randint(vocab_size, (n, distance))[:, places(length, distance)]


def two_copies(n, length, distance, vocab_size):
    ids = torch.randint(vocab_size, (n, length))
    ids[:, distance : 2 * distance] = ids[:, :distance]
    return ids


def few_pieces(n, length, distance, vocab_size):
    return fixed_distance(n, length, distance, vocab_size)[torch.arange(n) % 20]


RIGHT = {
    "induction_score": induction_score,
    "lens": lens,
    "mean_ablation": mean_ablation,
    "fixed_distance": fixed_distance,
}
MISTAKES = [
    ("induction_score", lambda w, d: diagonal(w, -d), "the earlier occurrence itself"),
    ("induction_score", lambda w, d: diagonal(w, -d - 1), "That is the token before the earlier occurrence"),
    ("induction_score", lambda w, d: diagonal(w, 1 - d), "One row too many: in row 2"),
    ("induction_score", lambda w, d: diagonal(w, -1), "a previous-token head"),
    ("induction_score", lambda w, d: diagonal(w, d), "Rows and columns are swapped"),
    ("induction_score", lambda w, d: w[d:].max(-1).values.mean(), "the largest weight in each row"),
    ("induction_score", lambda w, d: w.diagonal(1 - d)[1:].sum(), "Those are summed"),
    ("induction_score", lambda w, d: w.diagonal(1 - d)[1:].sum() / len(w), "divided by all 8 rows. 5 of them count"),
    ("induction_score", lambda w, d: w.diagonal(1 - d)[1:].max(), "That is the largest of them"),
    ("induction_score", lambda w, d: w.diagonal(1 - d)[1:].median(), "That is their median"),
    ("induction_score", lambda w, d: w.diagonal(1 - d)[1:], "One number is wanted"),
    ("induction_score", lambda w, d: induction_score(w, 3), "right for a distance of 3"),
    ("induction_score", lambda w, d: induction_score(w, d) + 0.1, "is not the score of this head"),
    ("lens", lambda x, g, u: (x @ u.T).softmax(-1), "The final norm is missing"),
    ("lens", lambda x, g, u: (x * g @ u.T).softmax(-1), "was not divided by its size"),
    ("lens", lambda x, g, u: (norm(x, 1) @ u.T).softmax(-1), "The norm's gain is missing"),
    ("lens", lambda x, g, u: (F.layer_norm(x, x.shape[-1:], g) @ u.T).softmax(-1), "That is LayerNorm"),
    ("lens", lambda x, g, u: (x / x.norm(dim=-1, keepdim=True) * g @ u.T).softmax(-1), "divided by its length"),
    ("lens", lambda x, g, u: (norm(x.T, 1).T * g @ u.T).softmax(-1), "The norm ran over the layers"),
    ("lens", lambda x, g, u: (norm(x.flatten(), 1).view_as(x) * g @ u.T).softmax(-1), "divided by one number"),
    ("lens", lambda x, g, u: norm(x * g @ u.T, 1).softmax(-1), "The logits were normalised"),
    ("lens", lambda x, g, u: (norm(norm(x, g), g) @ u.T).softmax(-1), "The norm was applied twice"),
    ("lens", lambda x, g, u: norm(x, g) @ u.T, "The softmax is missing"),
    ("lens", lambda x, g, u: (norm(x, g) @ u.T).log_softmax(-1), "Those are log-probabilities"),
    ("lens", lambda x, g, u: (norm(x, g) @ u.T).softmax(0), "Softmax ran over the layers"),
    ("lens", lambda x, g, u: lens(x.cumsum(0), g, u), "The streams were added up"),
    ("lens", lambda x, g, u: lens(torch.cat([x[:1], x[1:] - x[:-1]]), g, u), "That is what each layer adds"),
    ("lens", lambda x, g, u: lens(x, g, u)[-1], "Return a row for each layer"),
    ("lens", lambda x, g, u: lens(x, g, u).argmax(-1), "Are these ids?"),
    ("lens", lambda x, g, u: lens(x, g, u) if len(x) > 1 else lens(x, 1, u), "right for three layers of width 4"),
    ("lens", lambda x, g, u: lens(x, g, u).flip(-1), "is not what the lens shows"),
    ("mean_ablation", lambda x, h: replaced(x, h, 0), "ablation by zero"),
    ("mean_ablation", lambda x, h: replaced(x, h, x[:, h].mean(0)), "the mean over the texts only"),
    ("mean_ablation", lambda x, h: replaced(x, h, x[:, h].mean(1, True)), "the mean over the positions only"),
    ("mean_ablation", lambda x, h: replaced(x, h, x[:, h].mean()), "The numbers of the output were averaged, too"),
    ("mean_ablation", lambda x, h: replaced(x, h, x[:, h].mean(-1, True)), "The mean ran over the D numbers"),
    ("mean_ablation", lambda x, h: replaced(x, h, x.mean((0, 1, 2))), "the mean of all heads"),
    ("mean_ablation", lambda x, h: replaced(x, h, x.mean(1)), "the mean over the heads"),
    ("mean_ablation", lambda x, h: replaced(x, h, x[:, h].median()), "That is a median"),
    ("mean_ablation", lambda x, h: x.mean((0, 2), True).expand_as(x), "All heads were replaced"),
    ("mean_ablation", wrong_dimension, "Position 1 of every head was replaced"),
    ("mean_ablation", wrong_text, "Text 1 was replaced"),
    ("mean_ablation", lambda x, h: replaced(x, h, x[:, h] - x[:, h].mean((0, 1))), "The mean was subtracted"),
    ("mean_ablation", lambda x, h: x.clone(), "Nothing was replaced"),
    ("mean_ablation", lambda x, h: x[:, h].mean((0, 1)), "That is the mean. Return all outputs"),
    ("mean_ablation", lambda x, h: mean_ablation(x, h)[:, h], "That is one head"),
    ("mean_ablation", lambda x, h: mean_ablation(x, 1), "right for head 1 of 3"),
    ("mean_ablation", lambda x, h: replaced(x, h, 0.5), "is not these outputs with the mean of head 1"),
    ("mean_ablation", in_place, "in place: outputs"),
    ("fixed_distance", lambda n, T, d, V: fixed_distance(1, T, d, V)[0], "That is one row"),
    ("fixed_distance", lambda n, T, d, V: fixed_distance(n, T, d, V).T, "Rows and columns are swapped"),
    ("fixed_distance", lambda n, T, d, V: torch.randint(V, (n, d)), "Those are the pieces"),
    ("fixed_distance", lambda n, T, d, V: fixed_distance(n, T, d, V).float(), "Ids are whole numbers"),
    ("fixed_distance", lambda n, T, d, V: fixed_distance(n, T, d, V) + V, "They should be from 0 to vocab_size - 1"),
    ("fixed_distance", lambda n, T, d, V: fixed_distance(n, T, d + 1, V), "They repeat every 4 tokens"),
    ("fixed_distance", lambda n, T, d, V: torch.randint(V, (n, T)), "do they repeat at all?"),
    ("fixed_distance", lambda n, T, d, V: repeated_tokens(n, 16, V)[:, :T], "a distance of its own"),
    ("fixed_distance", two_copies, "The piece comes twice, and then something else"),
    ("fixed_distance", lambda n, T, d, V: fixed_distance(1, T, d, V).repeat(n, 1), "All rows have the same piece"),
    ("fixed_distance", lambda n, T, d, V: fixed_distance(n, T, 1, V), "a single token, again and again"),
    ("fixed_distance", lambda n, T, d, V: fixed_distance(n, T, 3, V), "It is right for <lambda>(5, 11, 3, 64), but"),
    ("fixed_distance", few_pieces, "rows many have the same piece"),
    ("fixed_distance", lambda n, T, d, V: fixed_distance(n, T, d, 20), "Only 20 of 64 tokens occur"),
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    check, RIGHT, MISTAKES
)


def test_the_package_answers_right():
    "The functions that the chapter exports solve its exercises."

    def by_package(weights, distance):
        ids = torch.arange(len(weights))[None] % distance
        latest = weights * (torch.arange(len(weights))[:, None] - torch.arange(len(weights)) < distance)
        return induction_scores(Trace(ids, latest[None, None, None], *[torch.empty(0)] * 4))

    def lens_of_package(stream, gain, unembedding):
        (n, C), V = stream.shape, len(unembedding)
        model = GPT(GPTConfig.modern(V, n_layer=1, n_head=1, n_embd=C, head_dim=2))
        model.norm.weight.data, model.embed.weight.data = gain, unembedding
        doubled = stream.repeat_interleave(2, 0)[:, None, None]
        return logit_lens(model, Trace(*[torch.empty(0)] * 4, doubled, torch.empty(0)))[:, 0, 0].softmax(-1)

    assert check.induction_score(by_package) and check.lens(lens_of_package)


def test_what_the_check_of_exercise_4_measures():
    "A single layer copies at one distance, and at random ones it hardly does."
    verdict = check.fixed_distance(fixed_distance)
    found, at_random = re.findall(r"(\d+)%", verdict.message)
    assert verdict and int(found) > 70 and int(at_random) == round(100 * check.at_random_distances()) < 40


def test_the_cells_that_count_are_outlined():
    drawn = str(check.induction_score(lambda w, d: diagonal(w, -d)).picture).splitlines()
    marked = [[cell.endswith("!") for cell in line.split()[1:]] for line in drawn]
    assert [(r, c) for r in range(8) for c in range(8) if marked[r][c]] == [(3, 1), (4, 2), (5, 3), (6, 4), (7, 5)]
