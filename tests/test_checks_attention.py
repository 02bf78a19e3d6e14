"""The checks of chapter 05."""

import math

import torch

from conftest import pair_of_tests
from tinygpt.checks import attention as check


def hide(scores, diagonal=1, value=-torch.inf):
    return scores.masked_fill(torch.ones(scores.shape[-2:]).triu(diagonal) > 0, value)


def scores(q, k):
    return q @ k.mT / math.sqrt(q.shape[-1])


def head(q, k, v):
    return hide(scores(q, k)).softmax(-1) @ v


def back(s):
    "The past hidden instead of the future."
    return s.masked_fill(torch.ones(s.shape).tril() > 0, -torch.inf)


def of_documents(d):
    return (d[:, None] == d) & past(d)


def past(d):
    return torch.ones(len(d), len(d)).tril() > 0


def split(y, n):
    return y.unflatten(-1, (n, -1)).transpose(1, 2)


def merge(y):
    return y.transpose(1, 2).flatten(2)


def heads(q, k, v, n):
    return merge(head(*(split(y, n) for y in (q, k, v))))


def cut(n, *parts):
    return [y.view(y.shape[0], n, y.shape[1], -1) for y in parts]


def stripes(n, *parts):
    return [y.unflatten(-1, (-1, n)).permute(0, 3, 1, 2) for y in parts]


def scaled(size):
    "Heads with the scale of another size."

    def answer(q, k, v, n):
        q, k, v = (split(y, n) for y in (q, k, v))
        return merge(hide(q @ k.mT / size(q.shape[-1], n)).softmax(-1) @ v)

    return answer


def blind(q, k, v, n):
    q, k, v = (split(y, n) for y in (q, k, v))
    return merge(scores(q, k).softmax(-1) @ v)


def across(q, k, v, n):
    return head(*(y.unflatten(-1, (n, -1)) for y in (q, k, v))).flatten(2)


def share(key, n):
    return key.repeat_interleave(n // len(key), 0)


def one_of_two(key, n):
    return key[:1].expand(n, -1, -1) if len(key) > 1 else share(key, n)


RIGHT = {"one_head": head, "documents_mask": of_documents, "many_heads": heads, "shared": share}
MISTAKES = [
    ("one_head", lambda q, k, v: hide(q @ k.T).softmax(1) @ v, "were not divided by the square root of D"),
    ("one_head", lambda q, k, v: hide(q @ k.T / q.shape[1]).softmax(1) @ v, "were divided by D."),
    ("one_head", lambda q, k, v: hide(q @ k.T * q.shape[1] ** 0.5).softmax(1) @ v, "were multiplied by"),
    ("one_head", lambda q, k, v: hide(q @ k.T / len(q) ** 0.5).softmax(1) @ v, "the square root of T"),
    ("one_head", lambda q, k, v: hide(q @ k.T).softmax(1) / q.shape[1] ** 0.5 @ v, "scale before the softmax"),
    ("one_head", lambda q, k, v: scores(q, k).softmax(1) @ v, "Nothing is masked: row 0 looks at position 1"),
    ("one_head", lambda q, k, v: hide(scores(q, k), 2).softmax(1) @ v, "too late: row 0 looks at position 1"),
    ("one_head", lambda q, k, v: hide(scores(q, k), 0).softmax(1) @ v, "too early: row 1 does not look at position 1"),
    (
        "one_head",
        lambda q, k, v: hide(scores(q, k), 0).softmax(1).nan_to_num() @ v,
        "too early: row 1 does not look at position 1",
    ),
    (
        "one_head",
        lambda q, k, v: hide(scores(q, k), 0, -1e9).softmax(1) @ v,
        "too early: row 1 does not look at position 1",
    ),
    ("one_head", lambda q, k, v: scores(q, k).softmax(1).tril() @ v, "The mask came after the softmax"),
    ("one_head", lambda q, k, v: hide(scores(q, k)).softmax(0) @ v, "went down the columns. Each row"),
    ("one_head", lambda q, k, v: scores(q, k).softmax(0) @ v, "down the columns, and nothing is masked"),
    ("one_head", lambda q, k, v: scores(q, k).tril().softmax(1) @ v, "Masked scores were set to 0"),
    ("one_head", lambda q, k, v: hide(scores(q, k), 1, -1e-9).softmax(1) @ v, "Masked scores were set to 0"),
    ("one_head", lambda q, k, v: back(scores(q, k)).softmax(1) @ v, "the wrong way round"),
    ("one_head", lambda q, k, v: back(scores(q, k)).softmax(1).nan_to_num() @ v, "the wrong way round"),
    ("one_head", lambda q, k, v: hide(scores(q, k).T).T.softmax(1) @ v, "the wrong way round"),
    ("one_head", lambda q, k, v: head(k, q, v), "Queries and keys are exchanged"),
    ("one_head", lambda q, k, v: hide(scores(q, k)) @ v, "There is no softmax"),
    ("one_head", lambda q, k, v: scores(q, k).tril() @ v, "There is no softmax"),
    ("one_head", lambda q, k, v: hide(scores(q, k)).softmax(1).T @ v, "The weights are transposed"),
    ("one_head", lambda q, k, v: head(q, k, k), "The keys were used as values"),
    ("one_head", lambda q, k, v: head(q, k, q), "The queries were used as values"),
    ("one_head", lambda q, k, v: v, "the values themselves"),
    ("one_head", lambda q, k, v: hide(scores(q, k)).softmax(1), "Those look like weights"),
    ("one_head", lambda q, k, v: hide(q @ k.T / 4).softmax(1) @ v, "is not what a causal head finds"),
    ("one_head", lambda q, k, v: hide(scores(q, k), 3).softmax(1) @ v, "row 0 looks at position 1: the mask lets"),
    ("one_head", lambda q, k, v: hide(scores(q, k)).softmax(1) / 2 @ v, "row 0 sums to 0.5"),
    ("one_head", lambda q, k, v: hide(q @ k.T / 3**0.5).softmax(1) @ v, "right for D = 3 alone"),
    ("documents_mask", lambda d: ~of_documents(d), "upside down"),
    ("documents_mask", lambda d: d[:, None] == d, "Only the tales were compared"),
    ("documents_mask", past, "Only the future was hidden"),
    ("documents_mask", lambda d: of_documents(d).T, "The future is allowed and the past is hidden"),
    ("documents_mask", lambda d: of_documents(d).tril(-1), "Nobody may look at itself"),
    ("documents_mask", lambda d: past(d) | (d[:, None] == d), "Either condition"),
    ("documents_mask", lambda d: past(d) & (d[:, None] >= d), "compared by size"),
    ("documents_mask", lambda d: past(d) & (d[:, None] != d), "looks at the other tales, and not"),
    ("documents_mask", lambda d: of_documents(d).float(), "numbers of torch.float32"),
    (
        "documents_mask",
        lambda d: (d[:, None] == d) & (torch.ones(len(d), len(d)).tril(1) > 0),
        "In <lambda>([4, 4, 2, 2, 2, 7, 7]): row 0 looks at position 1: the mask lets the future in",
    ),
    (
        "documents_mask",
        lambda d: past(d) & ((d[:, None] == d) | (d < 3)),
        "In <lambda>([4, 4, 2, 2, 2, 7, 7]): row 5 looks at position 2: that is another tale, 2 and not 7",
    ),
    ("documents_mask", lambda d: torch.eye(len(d)) > 0, "row 1 may not look at position 0, which came before"),
    ("many_heads", lambda q, k, v, n: merge(head(*cut(n, q, k, v))), "The heads are mixed up"),
    ("many_heads", lambda q, k, v, n: head(*cut(n, q, k, v)).reshape(q.shape), "The heads are mixed up"),
    (
        "many_heads",
        lambda q, k, v, n: head(*(split(y, n) for y in (q, k, v))).reshape(q.shape),
        "were not transposed back",
    ),
    ("many_heads", lambda q, k, v, n: merge(head(*stripes(n, q, k, v))), "cut like stripes"),
    (
        "many_heads",
        lambda q, k, v, n: head(*stripes(n, q, k, v)).permute(0, 2, 3, 1).flatten(2),
        "cut like stripes",
    ),
    (
        "many_heads",
        lambda q, k, v, n: head(*(split(y, n) for y in (q, k, v))).permute(0, 2, 3, 1).flatten(2),
        "woven together",
    ),
    ("many_heads", across, "Heads looked at heads"),
    ("many_heads", lambda q, k, v, n: head(q, k, v), "one head of C numbers"),
    ("many_heads", scaled(lambda d, n: math.sqrt(d * n)), "The scale is that of C"),
    ("many_heads", scaled(lambda d, n: 1), "were not scaled"),
    ("many_heads", blind, "see the future: row 0 looks at position 1"),
    (
        "many_heads",
        lambda q, k, v, n: merge(head(*(split(y, n) for y in (q, k, v))).flip(1)),
        "in another order than",
    ),
    ("many_heads", lambda q, k, v, n: heads(q, k, v, n) + 0.1, "not what two causal heads find"),
    ("many_heads", lambda q, k, v, n: heads(q, k, v, 2), "right for 2 heads, and not for 1"),
    ("many_heads", lambda q, k, v, n: head(*(split(y, n) for y in (q, k, v))), "heads still stand apart"),
    ("shared", lambda key, n: key.repeat(n // len(key), 1, 1), "They go round in turn"),
    ("shared", lambda key, n: share(key, n).flip(0), "turned round"),
    ("shared", one_of_two, "All heads use the same keys"),
    ("shared", lambda key, n: key.repeat_interleave(n // len(key), 1).view(n, 2, 2), "Tokens were repeated"),
    ("shared", lambda key, n: torch.cat([key, torch.zeros(n - len(key), 2, 2)]), "Only the first heads have keys"),
    ("shared", lambda key, n: key[[0, 0, 0, 1, 1, 0]], "head 5 uses keys 0, not keys 1"),
    ("shared", lambda key, n: key.repeat_interleave(3, 0)[:n], "head 2 uses keys 0, not keys 1"),
    ("shared", lambda key, n: key, "of shape (2, 2, 2), not (6, 2, 2)"),
]


test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    check, RIGHT, MISTAKES
)


def test_answers_in_other_clothes_are_right():
    def normed_later(q, k, v):
        "Masking after the softmax is right if the rows are made to sum to 1 again."
        weights = scores(q, k).softmax(1).tril()
        return weights / weights.sum(1, keepdim=True) @ v

    def by_loop(q, k, v):
        return torch.stack([(k[: t + 1] @ q[t] / q.shape[1] ** 0.5).softmax(0) @ v[: t + 1] for t in range(len(q))])

    assert check.one_head(normed_later) and check.one_head(by_loop)
    assert check.one_head(lambda q, k, v: hide(scores(q, k), 1, -1e9).softmax(1) @ v)
    assert check.one_head(lambda q, k, v: head(q.double(), k.double(), v.double()))
    assert check.many_heads(
        lambda q, k, v, n: torch.cat([head(*t) for t in zip(*(y.chunk(n, -1) for y in (q, k, v)))], -1)
    )
    assert check.shared(lambda key, n: torch.stack([key[i * len(key) // n] for i in range(n)]))


def test_the_offending_places_are_drawn():
    "Weights that look ahead, masks that hide too much, heads that went astray: these cells, and no others."
    late = check.one_head(lambda q, k, v: hide(scores(q, k), 2).softmax(1) @ v)
    rows = [line.split()[2:] for line in str(late.picture).splitlines()]
    assert [row[i + 1].endswith("!") for i, row in enumerate(rows[:3])] == [True] * 3
    assert not any(cell.endswith("!") for cell in rows[3])
    itself = check.documents_mask(lambda d: of_documents(d).tril(-1))
    rows = [line.split()[2:] for line in str(itself.picture).splitlines()]
    assert [[cell.endswith("!") for cell in row] for row in rows] == torch.eye(7).bool().tolist()
    mixed = check.many_heads(lambda q, k, v, n: merge(head(*cut(n, q, k, v))))
    assert "!" in str(mixed.picture) and "outlined" in mixed.message
    turns = check.shared(lambda key, n: key.repeat(n // len(key), 1, 1))
    rows = [line.split()[2:] for line in str(turns.picture).splitlines()]
    assert [any(cell.endswith("!") for cell in row) for row in rows] == [False, True, False, False, True, False]
