"""Checks of the chapter "Attention": each typical mistake has its own diagnosis, and a map of where it happened."""

import math

import torch
from torch import Tensor

from tinygpt.checks import Finding, call, checks
from tinygpt.checks.tensors import Named, diagnose, grid, of_tensors, same, shaped, tensor
from tinygpt.show.pictures import Picture

QUERY = [[1.0, 0.0, 2.0], [0.0, 2.0, 1.0], [2.0, 1.0, 0.0], [1.0, 2.0, -1.0]]
KEY = [[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [2.0, 0.0, 1.0], [1.0, 0.0, 2.0]]
NAN = 'Every number is nan ("not a number"). Does a mask multiply by infinity? 0 × ∞ is nan, not 0.'
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


def _asked(answer, args: tuple) -> str:
    return f" The call was {call(answer, *args)}."


def _what_is_wrong(weights: Tensor) -> str:
    "What is wrong with these weights, as far as the weights alone can tell."
    future = (weights.triu(1).abs() > 1e-6).nonzero().tolist()
    if future:
        row, column = future[0]
        return f"Row {row} attends to position {column}, which comes later."
    for row, total in enumerate(weights.sum(1).tolist()):
        if not math.isclose(total, 1, abs_tol=1e-4):
            return f"Row {row} of the weights sums to {total:.4g}, not to 1."
    return ""


@checks
def one_head(answer):
    "Exercise 1: scale, mask, softmax, in this order and along the right axis; then the values."
    answer = of_tensors(answer)
    args = QUERY, KEY, VALUE
    q, k, v = map(torch.tensor, args)
    dots, r = q @ k.T, math.sqrt(3)
    scores = dots / r
    weights = _hide(scores).softmax(1)
    past = torch.ones(4, 4).tril() > 0
    after = "The mask came after the softmax: the rest of row 0 sums to {:.2f}, not to 1."
    late = "The mask begins one position too late: row 0 attends to position 1, which it should predict."
    early = "The mask begins one position too early: row 1 does not attend to position 1, its own token"
    around = "The mask is the wrong way round: row 0 attends to position 1, and row 3 to nothing in the past."
    maps = [
        (_hide(dots).softmax(1), "The scores were not divided by the square root of D, which is 3 here."),
        (_hide(dots / 3).softmax(1), "The scores were divided by D itself, which is 3 here."),
        (_hide(dots * r).softmax(1), "The scores were multiplied by the square root of D."),
        (
            _hide(dots / 2).softmax(1),
            "The scores were divided by the square root of T, the number of tokens.",
        ),
        (_hide(dots).softmax(1) / r, "The weights were divided, not the scores, so that no row sums to 1."),
        (scores.softmax(1), "There is no mask: row 0 attends to position 1, which comes later."),
        (_hide(scores, 2).softmax(1), late),
        (_hide(scores, 0).softmax(1), early + ". Row 0 is left with no position at all, and 0 / 0 is nan."),
        (_hide(scores, 0).softmax(1).nan_to_num(), early + ". Row 0 is left with no position at all."),
        (scores.masked_fill(~past.tril(-1), -1e9).softmax(1), early + "."),
        (scores.softmax(1).tril(), after.format(scores.softmax(1)[0, 0])),
        (_hide(scores).softmax(0), "Softmax ran down the columns: each column sums to 1. But each row is one query."),
        (scores.softmax(0), "Softmax ran down the columns, and there is no mask. Each row is one query."),
        (
            scores.tril().softmax(1),
            "Masked scores were set to 0, but softmax takes e to the power of 0, which is 1: "
            "row 0 attends to position 1.",
        ),
        (scores.masked_fill(past, -torch.inf).softmax(1), around),
        (scores.masked_fill(past, -torch.inf).softmax(1).nan_to_num(), around),
        (scores.masked_fill(past.tril(-1), -torch.inf).softmax(1), around),
        (
            _hide(scores.T).softmax(1),
            "Queries and keys are exchanged: row 2 holds the scores of key 2, not those of query 2.",
        ),
        (_hide(scores), "There is no softmax: the values were multiplied by scores."),
        (scores.tril(), "There is no softmax: the values were multiplied by scores."),
        (weights.T, "The weights are transposed: the weights of query i should be row i."),
        (torch.full((4, 4), torch.nan), NAN),
    ]
    mistakes = [(w @ v, diagnosis) for w, diagnosis in maps]
    mistakes += [
        (weights @ k, "The keys were averaged, not the values."),
        (weights @ q, "The queries were averaged, not the values."),
        (v, "These are the values themselves, without any weights."),
    ]
    picture = None
    try:
        got = tensor(answer, *args, shape=(4, 3))
    except Finding as finding:
        if f"shape {(4, 4)}" in finding.verdict.message:
            words = " Are these the weights? The output of the head is wanted."
            raise Finding(finding.verdict.message + words) from None
        raise
    if not same(got, weights @ v):
        seen, picture = _map(answer, QUERY, KEY, weights)
        if seen is not None and not any(same(got, wrong) for wrong, _ in mistakes) and _what_is_wrong(seen):
            raise Finding(f"{_what_is_wrong(seen)}{_asked(answer, args)}", picture)
    diagnose(answer, args, got, weights @ v, mistakes, "the output of a causal head", picture)
    args = [row[:2] for row in QUERY[:3]], [row[:2] for row in KEY[:3]], [row[:2] for row in VALUE[:3]]
    q, k, v = map(torch.tensor, args)
    right = _hide(q @ k.T / math.sqrt(2)).softmax(1)
    got = tensor(answer, *args, shape=(3, 2))
    unscaled = "It is right for D = 3 only. Here a query has 2 numbers."
    diagnose(answer, args, got, right @ v, [(_hide(q @ k.T / r).softmax(1) @ v, unscaled)], "right for D = 2")
    return "Every row sums to 1, no token sees the future, and the scale fits the length of a query."


def _wrong_place(got: Tensor, right: Tensor, documents: list[int]) -> str:
    "The first wrong place of a mask, and why it is wrong."
    row, column = (got != right).nonzero()[0].tolist()
    if right[row, column]:
        which = "its own token" if row == column else "an earlier token of the same tale"
        return f"Your mask hides position {column} from row {row}. It is {which} and should be allowed."
    if column > row:
        return f"Your mask allows row {row} to attend to position {column}, which comes later."
    other = f"tale {documents[column]}, and row {row} to tale {documents[row]}"
    return f"Your mask allows row {row} to attend to position {column}. That position belongs to {other}."


@checks
def documents_mask(answer):
    "Exercise 2: only the same tale, and never the future."
    answer = of_tensors(answer)
    for documents in [4, 4, 2, 2, 2, 7, 7], [0, 0, 0, 1, 1, 2], [3]:
        n, d = len(documents), torch.tensor(documents)
        past, equal = torch.ones(n, n).tril() > 0, d[:, None] == d
        right = equal & past
        got = tensor(answer, documents, shape=(n, n))
        if got.dtype != torch.bool:
            raise Finding(f"It returned numbers of {got.dtype}. Booleans are wanted.{_asked(answer, (documents,))}")
        if got.equal(right):
            continue
        whole = [
            (~right, "True and false are exchanged: true means that attention is allowed."),
            (equal, "Only the tales were compared, so a token can attend to later tokens of its own tale."),
            (past, "Only the future was hidden, so a token can attend to earlier tales."),
            (equal & past.T, "The future is allowed and the past is hidden. A row is the token that attends."),
            (equal & past.tril(-1), "No token can attend to itself, but it should."),
            (past | equal, "One condition was enough: the same tale, or earlier. Both must hold."),
            ((d[:, None] >= d) & past, "Tales were compared by size, not by equality."),
            (~equal & past, "Each token attends to the other tales, but not to its own."),
        ]
        found = [diagnosis for wrong, diagnosis in whole if got.equal(wrong)]
        picture = grid(got.float(), _places("row", n), [f"tale {i}" for i in documents], got != right)
        point = found[0] if found else _wrong_place(got, right, documents)
        raise Finding(f"{point}{_asked(answer, (documents,))}", picture)
    return "Several tales in one row, and each is read as if it stood alone."


def _split(y: Tensor, n_head: int) -> Tensor:
    return y.unflatten(-1, (n_head, -1)).transpose(1, 2)


def _merge(y: Tensor) -> Tensor:
    return y.transpose(1, 2).flatten(2)


def _heads(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: int = 1) -> Tensor:
    return _hide(q @ k.mT / scale, causal).softmax(-1) @ v


def _trial(answer, n_head: int, shape: tuple[int, int, int]) -> tuple[str, Picture | None]:
    "Where values go if all weights of a row are equal and only head 1 of token 1 has values other than 0."
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
        " The picture shows a trial: only head 1 of token 1 has values, and all weights of a row are equal. "
        "Outlined numbers are wrong.",
        picture,
    )


@checks
def many_heads(answer):
    "Exercise 3: heads separated, each attends, and put side by side again."
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
    mixed = "The heads are mixed up: a head holds numbers of other heads, and not all tokens. The shape alone is right."
    stripes = "The heads are interleaved: head 0 should have the first D numbers of a token, not every second one."
    mistakes = [
        (_merge(wrong_cut), mixed),
        (wrong_cut.reshape(shape), mixed),
        (
            _heads(*parts, r).reshape(shape),
            "The heads are right, but they were put side by side wrongly: tokens and heads are mixed up at the end.",
        ),
        (_heads(*striped, r).permute(0, 2, 3, 1).flatten(2), stripes),
        (_merge(_heads(*striped, r)), stripes),
        (
            _heads(*parts, r).permute(0, 2, 3, 1).flatten(2),
            "The heads were interleaved at the end: the D numbers of a head should stand next to each other.",
        ),
        (
            _heads(*across, r).flatten(2),
            "Heads attend to heads here, not tokens to tokens: in which dimension are the tokens?",
        ),
        (_heads(*whole, 2), "That is one head of C numbers. The heads were not separated before the scores."),
        (_heads(*whole, r), "That is one head of C numbers. The heads were not separated before the scores."),
        (_merge(_heads(*parts, 2)), "The scale is wrong: it fits C numbers, but a head has D."),
        (_merge(_heads(*parts, 1)), "The scores of the heads were not scaled."),
        (_merge(_heads(*parts, r, causal=T)), "There is no mask: row 0 attends to position 1, which comes later."),
        (torch.full(shape, torch.nan), NAN),
        (_merge(_heads(*parts, r).flip(1)), "The heads came back in a different order."),
    ]
    given = *args, n_head
    hints = {
        (2, 2, 3, 2): "The heads are still separate. Side by side is wanted.",
        (2, 3, 2, 2): "The heads are still separate. Side by side is wanted.",
        (2, 2, 3, 3): "Are these the weights? The output of the heads is wanted.",
    }
    got = shaped(answer, *given, shape=shape, hints=hints)
    if not same(got, right):
        hint, picture = _trial(answer, n_head, shape)
        for wrong, diagnosis in mistakes:
            if same(got, wrong):
                raise Finding(diagnosis + hint, picture)
        raise Finding(f"That is not the output of two causal heads.{hint}", picture)
    for n_head in 1, 4:
        right = _merge(_heads(*(_split(y, n_head) for y in whole), math.sqrt(C / n_head)))
        if not same(tensor(answer, *args, n_head, shape=shape), right):
            raise Finding(f"It is right for 2 heads, but not for {n_head}.")
    return "Separated, computed together, and side by side again: all heads at once."


@checks
def without_head(answer):
    "Exercise 4: the columns of proj that read one head, set to 0 in a copy."
    answer = of_tensors(answer)
    weight = torch.arange(1.0, 37).view(6, 6)
    for head, n_head in (1, 3), (0, 2), (5, 6):
        given = Named(weight.tolist(), "weight"), head, n_head
        D = 6 // n_head
        read = torch.arange(6) // D == head  # of the columns: those of this head
        got, right = tensor(answer, *given, shape=(6, 6)), weight.masked_fill(read, 0)
        if same(got, right):
            continue
        mistakes = [
            (weight.masked_fill(read[:, None], 0), "Rows were set to 0. A row makes one output, from all heads."),
            (weight.masked_fill(~read, 0), "Only this head has an influence now, and the others have none."),
            (weight, "Nothing was changed: the head still has its influence."),
            (
                weight.masked_fill(torch.arange(6) % n_head == head, 0),
                "The numbers of a head stand next to each other: these columns belong to different heads.",
            ),
            (weight.masked_fill(torch.arange(6) == head, 0), "One column was set to 0, but a head has D numbers."),
            (torch.zeros(6, 6), "Everything was set to 0, so that no head has an influence."),
        ]
        changed = [f"head {column // D}" for column in range(6)]
        picture = grid((got != 0).float(), _places("row", 6), changed, ~got.isclose(right))
        diagnose(answer, given, got, right, mistakes, "the weight without this head", picture)
    return "The other heads keep their influence, and the weight that was given is unchanged."
