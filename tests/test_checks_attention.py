"""The checks of the chapter Attention."""

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


def without(weight, head, n):
    return blanked(weight, head_columns(weight, head, n))


def head_columns(weight, head, n):
    return torch.arange(len(weight)) // (len(weight) // n) == head


def blanked(weight, gone):
    return weight.masked_fill(gone, 0)


def without_in_place(weight, head, n):
    weight[:, head_columns(weight, head, n)] = 0
    return weight


def head_in_place(query, key, value):
    query /= query.shape[1] ** 0.5
    return hide(query @ key.T).softmax(1) @ value


def by_infinity(q, k, v):
    return (scores(q, k) + torch.ones(q.shape[-2], q.shape[-2]).triu(1) * -torch.inf).softmax(-1) @ v


def heads_by_infinity(q, k, v, n):
    return merge(by_infinity(*(split(y, n) for y in (q, k, v))))


RIGHT = {"one_head": head, "documents_mask": of_documents, "many_heads": heads, "without_head": without}
MISTAKES = [
    ("one_head", lambda q, k, v: hide(q @ k.T).softmax(1) @ v, "were not divided by the square root of D"),
    ("one_head", lambda q, k, v: hide(q @ k.T / q.shape[1]).softmax(1) @ v, "were divided by D itself"),
    ("one_head", lambda q, k, v: hide(q @ k.T * q.shape[1] ** 0.5).softmax(1) @ v, "multiplied by the square root"),
    ("one_head", lambda q, k, v: hide(q @ k.T / len(q) ** 0.5).softmax(1) @ v, "the square root of T"),
    ("one_head", lambda q, k, v: hide(q @ k.T).softmax(1) / q.shape[1] ** 0.5 @ v, "The weights were divided, not"),
    ("one_head", lambda q, k, v: scores(q, k).softmax(1) @ v, "There is no mask: row 0 attends to position 1"),
    ("one_head", lambda q, k, v: hide(scores(q, k), 2).softmax(1) @ v, "too late: row 0 attends to position 1"),
    ("one_head", lambda q, k, v: hide(scores(q, k), 0).softmax(1) @ v, "too early: row 1 does not attend"),
    (
        "one_head",
        lambda q, k, v: hide(scores(q, k), 0).softmax(1).nan_to_num() @ v,
        "too early: row 1 does not attend",
    ),
    (
        "one_head",
        lambda q, k, v: hide(scores(q, k), 0, -1e9).softmax(1) @ v,
        "too early: row 1 does not attend",
    ),
    ("one_head", lambda q, k, v: scores(q, k).softmax(1).tril() @ v, "The mask came after the softmax"),
    ("one_head", lambda q, k, v: hide(scores(q, k)).softmax(0) @ v, "ran down the columns: each column"),
    ("one_head", lambda q, k, v: scores(q, k).softmax(0) @ v, "down the columns, and there is no mask"),
    ("one_head", lambda q, k, v: scores(q, k).tril().softmax(1) @ v, "Masked scores were set to 0"),
    ("one_head", lambda q, k, v: hide(scores(q, k), 1, -1e-9).softmax(1) @ v, "Masked scores were set to 0"),
    ("one_head", lambda q, k, v: back(scores(q, k)).softmax(1) @ v, "the wrong way round"),
    ("one_head", lambda q, k, v: back(scores(q, k)).softmax(1).nan_to_num() @ v, "the wrong way round"),
    ("one_head", lambda q, k, v: hide(scores(q, k).T).T.softmax(1) @ v, "the wrong way round"),
    ("one_head", lambda q, k, v: head(k, q, v), "Queries and keys are exchanged"),
    ("one_head", lambda q, k, v: hide(scores(q, k)) @ v, "There is no softmax"),
    ("one_head", lambda q, k, v: scores(q, k).tril() @ v, "There is no softmax"),
    ("one_head", lambda q, k, v: hide(scores(q, k)).softmax(1).T @ v, "The weights are transposed"),
    ("one_head", lambda q, k, v: head(q, k, k), "The keys were averaged"),
    ("one_head", lambda q, k, v: head(q, k, q), "The queries were averaged"),
    ("one_head", lambda q, k, v: v, "the values themselves"),
    ("one_head", lambda q, k, v: hide(scores(q, k)).softmax(1), "Are these the weights?"),
    ("one_head", lambda q, k, v: hide(q @ k.T / 4).softmax(1) @ v, "is not the output of a causal head"),
    ("one_head", lambda q, k, v: hide(scores(q, k), 3).softmax(1) @ v, "Row 0 attends to position 1,"),
    ("one_head", lambda q, k, v: hide(scores(q, k)).softmax(1) / 2 @ v, "Row 0 of the weights sums to 0.5"),
    ("one_head", lambda q, k, v: hide(q @ k.T / 3**0.5).softmax(1) @ v, "right for D = 3 only"),
    ("documents_mask", lambda d: ~of_documents(d), "True and false are exchanged"),
    ("documents_mask", lambda d: d[:, None] == d, "Only the tales were compared"),
    ("documents_mask", past, "Only the future was hidden"),
    ("documents_mask", lambda d: of_documents(d).T, "The future is allowed and the past is hidden"),
    ("documents_mask", lambda d: of_documents(d).tril(-1), "No token can attend to itself"),
    ("documents_mask", lambda d: past(d) | (d[:, None] == d), "One condition was enough"),
    ("documents_mask", lambda d: past(d) & (d[:, None] >= d), "compared by size"),
    ("documents_mask", lambda d: past(d) & (d[:, None] != d), "attends to the other tales, but not"),
    ("documents_mask", lambda d: of_documents(d).float(), "numbers of torch.float32"),
    (
        "documents_mask",
        lambda d: (d[:, None] == d) & (torch.ones(len(d), len(d)).tril(1) > 0),
        "allows row 0 to attend to position 1, which comes later. The call was <lambda>([4, 4, 2,",
    ),
    (
        "documents_mask",
        lambda d: past(d) & ((d[:, None] == d) | (d < 3)),
        "allows row 5 to attend to position 2. That position belongs to tale 2, and row 5 to tale 7.",
    ),
    ("documents_mask", lambda d: torch.eye(len(d)) > 0, "hides position 0 from row 1. It is an earlier token"),
    (
        "documents_mask",
        lambda d: of_documents(d) & (torch.arange(len(d)) > 0),
        "Your mask hides position 0 from row 0. It is its own token and should be allowed.",
    ),
    ("one_head", head_in_place, "in place: query"),
    ("without_head", without_in_place, "in place: weight"),
    ("one_head", by_infinity, "0 × ∞ is nan"),
    ("many_heads", heads_by_infinity, "0 × ∞ is nan"),
    ("many_heads", lambda q, k, v, n: merge(head(*cut(n, q, k, v))), "The heads are mixed up"),
    ("many_heads", lambda q, k, v, n: head(*cut(n, q, k, v)).reshape(q.shape), "The heads are mixed up"),
    (
        "many_heads",
        lambda q, k, v, n: head(*(split(y, n) for y in (q, k, v))).reshape(q.shape),
        "put side by side wrongly",
    ),
    ("many_heads", lambda q, k, v, n: merge(head(*stripes(n, q, k, v))), "The heads are interleaved: head 0"),
    (
        "many_heads",
        lambda q, k, v, n: head(*stripes(n, q, k, v)).permute(0, 2, 3, 1).flatten(2),
        "The heads are interleaved: head 0",
    ),
    (
        "many_heads",
        lambda q, k, v, n: head(*(split(y, n) for y in (q, k, v))).permute(0, 2, 3, 1).flatten(2),
        "interleaved at the end",
    ),
    ("many_heads", across, "Heads attend to heads"),
    ("many_heads", lambda q, k, v, n: head(q, k, v), "one head of C numbers"),
    ("many_heads", scaled(lambda d, n: math.sqrt(d * n)), "it fits C numbers"),
    ("many_heads", scaled(lambda d, n: 1), "were not scaled"),
    ("many_heads", blind, "There is no mask: row 0 attends to position 1"),
    (
        "many_heads",
        lambda q, k, v, n: merge(head(*(split(y, n) for y in (q, k, v))).flip(1)),
        "in a different order",
    ),
    ("many_heads", lambda q, k, v, n: heads(q, k, v, n) + 0.1, "not the output of two causal heads"),
    ("many_heads", lambda q, k, v, n: heads(q, k, v, 2), "right for 2 heads, but not for 1"),
    ("many_heads", lambda q, k, v, n: head(*(split(y, n) for y in (q, k, v))), "heads are still separate"),
    ("without_head", lambda w, h, n: blanked(w, head_columns(w, h, n)[:, None]), "Rows were set to 0"),
    ("without_head", lambda w, h, n: blanked(w, ~head_columns(w, h, n)), "Only this head has an influence"),
    ("without_head", lambda w, h, n: w.clone(), "Nothing was changed"),
    ("without_head", lambda w, h, n: blanked(w, torch.arange(len(w)) % n == h), "belong to different heads"),
    ("without_head", lambda w, h, n: blanked(w, torch.arange(len(w)) == h), "One column was set to 0"),
    ("without_head", lambda w, h, n: 0 * w, "Everything was set to 0"),
    ("without_head", lambda w, h, n: without(w, (h + 1) % n, n), "is not the weight without this head"),
    ("without_head", lambda w, h, n: w[:, ~head_columns(w, h, n)], "of shape (6, 4), not (6, 6)"),
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
    assert "!" in str(mixed.picture) and "Outlined" in mixed.message
    rows = check.without_head(lambda w, h, n: blanked(w, head_columns(w, h, n)[:, None]))
    rows = [line.split()[2:] for line in str(rows.picture).splitlines()]
    assert [[cell.endswith("!") for cell in row] for row in rows] == [[(c in (2, 3)) != (r in (2, 3)) for c in range(6)]
                                                                     for r in range(6)]
