"""Checks for chapter 05: each typical mistake has a diagnosis of its own, and a map where it happened."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from tinygpt.checks import Finding, call, checks
from tinygpt.checks.tensors import Named, diagnose, grid, of_tensors, same, shaped, tensor
from tinygpt.show.pictures import Picture

QUERY = [[1.0, 0.0, 2.0], [0.0, 2.0, 1.0], [2.0, 1.0, 0.0], [1.0, 2.0, -1.0]]
KEY = [[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [2.0, 0.0, 1.0], [1.0, 0.0, 2.0]]
VALUE = [[1.0, 0.0, 0.0], [0.0, 2.0, 1.0], [3.0, 1.0, 0.0], [0.0, 1.0, 4.0]]


def _places(names: str, n: int) -> list[str]:
    return [f"{names} {i}" for i in range(n)]


def _hide(scores: Tensor, diagonal: int = 1) -> Tensor:
    "Minus infinity from this diagonal on."
    return scores.masked_fill(torch.ones(scores.shape[-2:]).triu(diagonal) > 0, -torch.inf)


def _map(answer, query: list, key: list, right: Tensor) -> tuple[Tensor, Picture] | tuple[None, None]:
    "The answer's weights and where they are wrong: with one-hot values, what a token finds are its weights."
    try:
        weights = tensor(answer, query, key, torch.eye(len(key)).tolist(), shape=tuple(right.shape))
    except Finding:
        return None, None
    names = [str(i) for i in range(len(key))]
    future = weights.triu(1).abs() > 1e-6
    wrong = future if future.any() else ~weights.isclose(right, rtol=1e-4, atol=1e-6)
    return weights, grid(weights, _places("row", len(query)), names, wrong)


def _looks(weights: Tensor) -> str:
    "What is wrong with these weights, as far as one can tell without knowing how they came about."
    future = (weights.triu(1).abs() > 1e-6).nonzero().tolist()
    if future:
        row, column = future[0]
        return f"row {row} looks at position {column}: the mask lets the future in."
    for row, total in enumerate(weights.sum(1).tolist()):
        if not math.isclose(total, 1, abs_tol=1e-4):
            return f"row {row} sums to {total:.4g}, not to 1."
    return ""


@checks
def one_head(answer):
    "Exercise 1: scale, mask, softmax, in this order and along the right axis, then the values."
    answer = of_tensors(answer)
    args = QUERY, KEY, VALUE
    q, k, v = map(torch.tensor, args)
    dots, r = q @ k.T, math.sqrt(3)
    scores = dots / r
    weights = _hide(scores).softmax(1)
    past = torch.ones(4, 4).tril() > 0
    after = "The mask came after the softmax: what is left of row 0 sums to {:.2f}, not to 1. Mask the scores."
    late = "The mask begins one place too late: row 0 looks at position 1, which is the answer it should predict."
    early = "The mask begins one place too early: row 1 does not look at position 1, at itself"
    around = "The mask is the wrong way round: row 0 looks at position 1, and row 3 sees nothing of the past."
    maps = [
        (_hide(dots).softmax(1), "The scores were not divided by the square root of D, which is 3 here."),
        (_hide(dots / 3).softmax(1), "The scores were divided by D. Divide them by its square root."),
        (_hide(dots * r).softmax(1), "The scores were multiplied by the square root of D. Divide them by it."),
        (
            _hide(dots / 2).softmax(1),
            "The scores were divided by the square root of T. The length of a vector, D, counts.",
        ),
        (_hide(dots).softmax(1) / r, "The weights were divided, and not the scores: scale before the softmax."),
        (scores.softmax(1), "Nothing is masked: row 0 looks at position 1, and the mask should keep the future out."),
        (_hide(scores, 2).softmax(1), late),
        (_hide(scores, 0).softmax(1), early + ". And row 0 is left with nothing, so it is 0 / 0."),
        (_hide(scores, 0).softmax(1).nan_to_num(), early + ". And row 0 is left with nothing."),
        (scores.masked_fill(~past.tril(-1), -1e9).softmax(1), early + "."),
        (scores.softmax(1).tril(), after.format(scores.softmax(1)[0, 0])),
        (_hide(scores).softmax(0), "Softmax went down the columns. Each row is one query, and its weights sum to 1."),
        (scores.softmax(0), "Softmax went down the columns, and nothing is masked. Each row is one query."),
        (
            scores.tril().softmax(1),
            "Masked scores were set to 0, and e to the power of 0 is 1: row 0 looks at position 1. "
            "Minus infinity makes it 0.",
        ),
        (scores.masked_fill(past, -torch.inf).softmax(1), around),
        (scores.masked_fill(past, -torch.inf).softmax(1).nan_to_num(), around),
        (scores.masked_fill(past.tril(-1), -torch.inf).softmax(1), around),
        (
            _hide(scores.T).softmax(1),
            "Queries and keys are exchanged: row 2 should hold the scores of query 2, and has those of key 2.",
        ),
        (_hide(scores), "There is no softmax: those are scores."),
        (scores.tril(), "There is no softmax: those are scores."),
        (weights.T, "The weights are transposed: those of query i stand in row i, and multiply the values."),
    ]
    mistakes = [(w @ v, diagnosis) for w, diagnosis in maps]
    mistakes += [
        (weights @ k, "The keys were used as values: what is handed over is the third argument."),
        (weights @ q, "The queries were used as values: what is handed over is the third argument."),
        (v, "Those are the values themselves, without any weights."),
    ]
    picture = None
    try:
        got = tensor(answer, *args, shape=(4, 3))
    except Finding as finding:
        if f"shape {(4, 4)}" in finding.verdict.message:
            words = " Those look like weights: multiply them by the values."
            raise Finding(finding.verdict.message + words) from None
        raise
    if not same(got, weights @ v):
        seen, picture = _map(answer, QUERY, KEY, weights)
        if seen is not None and not any(same(got, wrong) for wrong, _ in mistakes) and _looks(seen):
            raise Finding(f"In {call(answer, *args)} {_looks(seen)}", picture)
    diagnose(answer, args, got, weights @ v, mistakes, "what a causal head finds", picture)
    args = [row[:2] for row in QUERY[:3]], [row[:2] for row in KEY[:3]], [row[:2] for row in VALUE[:3]]
    q, k, v = map(torch.tensor, args)
    right = _hide(q @ k.T / math.sqrt(2)).softmax(1)
    got = tensor(answer, *args, shape=(3, 2))
    unscaled = "It is right for D = 3 alone: divide by the square root of however many numbers a query has."
    diagnose(answer, args, got, right @ v, [(_hide(q @ k.T / r).softmax(1) @ v, unscaled)], "right for D = 2")
    return "Every row sums to 1, nobody sees the future, and the scale fits the length of a query."


def _wrong_place(got: Tensor, right: Tensor, documents: list[int]) -> str:
    "The first wrong place of a mask, and why it is wrong."
    row, column = (got != right).nonzero()[0].tolist()
    if not right[row, column]:
        other = f"that is another tale, {documents[column]} and not {documents[row]}."
        why = "the mask lets the future in." if column > row else other
        return f"row {row} looks at position {column}: {why}"
    whom = "itself" if row == column else f"position {column}, which came before in the same tale"
    return f"row {row} may not look at {whom}."


@checks
def documents_mask(answer):
    "Exercise 2: the same tale, and not the future."
    answer = of_tensors(answer)
    for documents in [4, 4, 2, 2, 2, 7, 7], [0, 0, 0, 1, 1, 2], [3]:
        n, d = len(documents), torch.tensor(documents)
        past, equal = torch.ones(n, n).tril() > 0, d[:, None] == d
        right = equal & past
        got = tensor(answer, documents, shape=(n, n))
        if got.dtype != torch.bool:
            raise Finding(f"{call(answer, documents)} returned numbers of {got.dtype}. A mask is made of booleans.")
        if got.equal(right):
            continue
        whole = [
            (~right, "The mask is upside down: true is where a token may look."),
            (equal, "Only the tales were compared. A token may not look at its own future either."),
            (past, "Only the future was hidden. What came before may belong to another tale."),
            (equal & past.T, "The future is allowed and the past is hidden: rows look, columns are looked at."),
            (equal & past.tril(-1), "Nobody may look at itself. A token knows itself."),
            (past | equal, "Either condition was enough. Both must hold."),
            ((d[:, None] >= d) & past, "Tales were compared by size. Only the same number is the same tale."),
            (~equal & past, "Each token looks at the other tales, and not at its own."),
        ]
        found = [diagnosis for wrong, diagnosis in whole if got.equal(wrong)]
        words = " ".join([*found[:1], "See"]) if found else "In"
        picture = grid(got.float(), _places("row", n), [str(i) for i in documents], got != right)
        place = _wrong_place(got, right, documents)
        raise Finding(f"{words} {call(answer, documents)}: {place}", picture)
    return "Many tales in one row, and each as if it stood alone."


def _split(y: Tensor, n_head: int) -> Tensor:
    return y.unflatten(-1, (n_head, -1)).transpose(1, 2)


def _merge(y: Tensor) -> Tensor:
    return y.transpose(1, 2).flatten(2)


def _heads(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: int = 1) -> Tensor:
    return _hide(q @ k.mT / scale, causal).softmax(-1) @ v


def _routes(answer, n_head: int, shape: tuple[int, int, int]) -> tuple[str, Picture | None]:
    "Where values go if all weights in a row are alike, and only head 1 of token 1 has values that are not 0."
    B, T, C = shape
    value = torch.zeros(B, T, C)
    value[0, 1, C // n_head : 2 * C // n_head] = 1
    right = value.cumsum(1) / torch.arange(1, T + 1)[:, None]
    nothing = torch.zeros(B, T, C).tolist()
    try:
        got = tensor(answer, nothing, nothing, value.tolist(), n_head, shape=shape)
    except Finding:
        return "", None
    if same(got, right):
        return "", None
    names = [f"head {c * n_head // C}" for c in range(C)]
    picture = grid(got[0], _places("token", T), names, ~got[0].isclose(right[0], rtol=1e-4, atol=1e-6))
    return (
        " Below, a trial in which only token 1 has values, in head 1, and all weights of a row are alike: "
        "what is outlined is wrong.",
        picture,
    )


@checks
def many_heads(answer):
    "Exercise 3: heads told apart, looked through and put together again."
    answer = of_tensors(answer)
    shape, n_head = (2, 3, 4), 2
    B, T, C = shape
    rng = torch.Generator().manual_seed(5)
    numbers = [((torch.rand(shape, generator=rng) * 8 - 4).round() / 2).tolist() for _ in range(3)]
    args = [Named(values, name) for values, name in zip(numbers, ("query", "key", "value"))]
    whole = [torch.tensor(y) for y in args]
    parts, r = [_split(y, n_head) for y in whole], math.sqrt(2)
    cut = [y.view(B, n_head, T, 2) for y in whole]
    striped = [y.unflatten(-1, (2, n_head)).permute(0, 3, 1, 2) for y in whole]  # number by number
    across = [y.view(B, T, n_head, 2) for y in whole]
    right, wrong_cut = _merge(_heads(*parts, r)), _heads(*cut, r)
    mixed = (
        "The heads are mixed up: view(B, H, T, D) cuts a text into pieces. Use view(B, T, H, D), then transpose(1, 2)."
    )
    stripes = "The heads were cut like stripes: head 0 has the first D numbers of a token, and not every second one."
    mistakes = [
        (_merge(wrong_cut), mixed),
        (wrong_cut.reshape(shape), mixed),
        (
            _heads(*parts, r).reshape(shape),
            "The heads were not transposed back before they were merged: (B, H, T, D) must become (B, T, H, D) first.",
        ),
        (_heads(*striped, r).permute(0, 2, 3, 1).flatten(2), stripes),
        (_merge(_heads(*striped, r)), stripes),
        (
            _heads(*parts, r).permute(0, 2, 3, 1).flatten(2),
            "The heads were woven together at the end: each has its D numbers in a row. Transpose 1 and 2 only.",
        ),
        (
            _heads(*across, r).flatten(2),
            "Heads looked at heads, and not tokens at tokens: "
            "transpose (B, T, H, D) to (B, H, T, D) before the product.",
        ),
        (_heads(*whole, 2), "That is one head of C numbers. Tell the heads apart before the scores are made."),
        (_heads(*whole, r), "That is one head of C numbers. Tell the heads apart before the scores are made."),
        (_merge(_heads(*parts, 2)), "The scale is that of C. A head has D numbers: divide by the square root of D."),
        (_merge(_heads(*parts, 1)), "The scores of the heads were not scaled: divide by the square root of D."),
        (_merge(_heads(*parts, r, causal=T)), "These heads see the future: row 0 looks at position 1. Mask each."),
        (_merge(_heads(*parts, r).flip(1)), "The heads came back in another order than the one they went in."),
    ]
    given = *args, n_head
    hints = {
        (2, 2, 3, 2): "The heads still stand apart: put them side by side again.",
        (2, 3, 2, 2): "The heads still stand apart: put them side by side again.",
        (2, 2, 3, 3): "Those may be the weights: multiply them by the values.",
    }
    got = shaped(answer, *given, shape=shape, hints=hints)
    if not same(got, right):
        hint, picture = _routes(answer, n_head, shape)
        for wrong, diagnosis in mistakes:
            if same(got, wrong):
                raise Finding(diagnosis + hint, picture)
        raise Finding(f"That is not what two causal heads find.{hint}", picture)
    for n_head in 1, 4:
        right = _merge(_heads(*(_split(y, n_head) for y in whole), math.sqrt(C / n_head)))
        if not same(tensor(answer, *args, n_head, shape=shape), right):
            raise Finding(f"It is right for 2 heads, and not for {n_head}: make the shapes of what is given.")
    return "Told apart, looked through, put together: all heads at once."


@checks
def shared(answer):
    "Exercise 4: neighbours share."
    answer = of_tensors(answer)
    for n_kv, n_head in (2, 6), (3, 6), (1, 3), (2, 2):
        key = torch.arange(1.0, 1 + n_kv * 4).view(n_kv, 2, 2)
        each = n_head // n_kv
        given = key.tolist(), n_head
        got, right = tensor(answer, *given, shape=(n_head, 2, 2)), key.repeat_interleave(each, 0)
        if same(got, right):
            continue
        whose = torch.tensor([[float(same(a, b)) for b in key] for a in got])  # (H, H_kv)
        wanted = torch.arange(n_kv).repeat_interleave(each)
        wrong = whose != torch.eye(n_kv)[wanted]
        picture = grid(whose, _places("head", n_head), _places("keys", n_kv), wrong)
        head = wrong.any(1).nonzero()[0].item()
        uses = whose[head].nonzero().flatten().tolist()
        place = f"head {head} uses {f'keys {uses[0]}' if uses else 'keys that nobody has'}, not keys {wanted[head]}."
        several = [
            (key.repeat(each, 1, 1), "They go round in turn, as repeat does. Neighbours share: repeat_interleave."),
            (right.flip(0), "The order is turned round."),
            (key[:1].expand(n_head, -1, -1), "All heads use the same keys."),
            (
                key.repeat_interleave(each, 1).view(n_head, 2, 2),
                "Tokens were repeated, and not heads: the heads are the first dimension.",
            ),
            (pad(key, (0, 0, 0, 0, 0, n_head - n_kv)), "Only the first heads have keys, the others zeros."),
        ]
        found = [diagnosis + " " for rows, diagnosis in several if same(got, rows)]
        raise Finding(f"{''.join(found[:1])}In {call(answer, *given)} {place}", picture)
    return "Neighbours share, and where every head has keys of its own, nothing changes."
