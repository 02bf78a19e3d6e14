"""Checks of the chapter "Positions": each typical mistake has its own diagnosis."""

import math

import torch
from torch import Tensor

from tinygpt.attention import attention_weights
from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.checks.tensors import Named, diagnose, grid, of_tensors, same, shaped, tensor
from tinygpt.positions import rotate, rotation
from tinygpt.show.pictures import Picture, table


NAN = 'Every number is nan ("not a number"), as after 0 / 0 or 0 × ∞.'


def _asked(answer, *args) -> str:
    return f" The call was {call(answer, *args)}."


def _numbers(name: str, *shape: int, seed: float) -> Named:
    "Some numbers of one decimal."
    wave = [round(2 * math.sin(seed * (i + 1) ** 2), 1) for i in range(math.prod(shape))]
    return Named(torch.tensor(wave).view(shape).tolist(), name)


def _differing(got: Tensor, right: Tensor) -> Tensor:
    return ~torch.isclose(got.double(), right.double(), rtol=1e-4, atol=1e-6, equal_nan=True)


def _first(got: Tensor, right: Tensor, row: str, column: str) -> str:
    "Where two matrices first differ, in words."
    where = _differing(got, right).nonzero().tolist()
    if not where:
        return ""
    i, j = where[0]
    return f": in {row} {i}, {column} {j} is {got[i, j].item():.3g}, but should be {right[i, j].item():.3g}"


@checks
def scores_with_positions(answer):
    "Exercise 1: positions added to the tokens, before queries and keys, along time, from 0 on."
    answer = of_tensors(answer)
    args = (
        _numbers("x", 2, 4, 3, seed=0.7),
        _numbers("table", 6, 3, seed=1.3),
        _numbers("to_query", 3, 3, seed=2.1),
        _numbers("to_key", 3, 3, seed=0.4),
    )
    x, places, to_query, to_key = map(torch.tensor, args)
    p = places[:4]

    def scores(for_query, for_key):
        return (for_query @ to_query.T) @ (for_key @ to_key.T).mT

    one = "All four tokens got the same row of the table."
    right, every = scores(x + p, x + p), torch.ones(4, 4, dtype=torch.bool)
    mistakes = [
        (scores(x + p, x), "Only the queries contain positions, the keys do not."),
        (scores(x, x + p), "Only the keys contain positions, the queries do not."),
        (scores(x, x), "The scores contain no positions at all."),
        (scores(x + places[1:5], x + places[1:5]), "The positions start at 1, but the first token is at position 0."),
        (
            scores(x + places[:2, None], x + places[:2, None]),
            "The positions run along the wrong dimension: all of text 0 got row 0, all of text 1 got row 1.",
        ),
        *((scores(x + place, x + place), one) for place in places),
        (scores(x + p.flip(0), x + p.flip(0)), "The positions run backwards: the first token is at position 0."),
        (scores(x * p, x * p), "Tokens and positions were multiplied, not added."),
        (
            scores(p, p).expand(2, 4, 4),
            "The scores contain positions only, and no tokens.",
        ),
        (
            (x @ to_query.T + p) @ (x @ to_key.T + p).mT,
            "The positions were added to the queries and keys, not to the tokens.",
        ),
        (
            ((x + p) @ to_query) @ ((x + p) @ to_key).mT,
            "The matrices are transposed: a query is to_query @ vector, with the vector as a column.",
        ),
        (right.mT, "Queries and keys are exchanged: row t should hold the scores of query t."),
        (right / math.sqrt(3), "These scores are scaled. Here they are wanted without the scale."),
        (right.softmax(-1), "These are weights, after softmax. The scores are wanted."),
        (right.tril(), "Later tokens were masked. Here all scores are wanted."),
        (right.masked_fill(~every.tril(), -torch.inf), "Later tokens were masked. Here all scores are wanted."),
    ]
    got = shaped(answer, *args, shape=(2, 4, 4), hints={(4, 4): "Each of the two texts has scores of its own."})
    b = 0 if not same(got[0], right[0]) else 1
    names = [f"query {t}" for t in range(4)], [f"key {t}" for t in range(4)]
    picture = grid(got[b], *names, marked=_differing(got[b], right[b]))
    what = f"the scores{_first(got[b], right[b], f'text {b}, query', 'key')}"
    diagnose(answer, args, got, right, mistakes, what, picture)
    return "Queries and keys both contain the position of their token."


@checks
def angles_of(answer):
    "Exercise 2: p / b^(2i/D), in radians."
    answer = of_tensors(answer)
    args = [0, 1, 2, 5, 30], 8, 50.0
    p, i = torch.tensor(args[0])[:, None], torch.arange(4)

    def angles(power, start=0, base=50.0):
        return (p + start) / base**power

    right = angles(2 * i / 8)
    mistakes = [
        (angles(i / 8), "The power of the base is wrong, it is i / D: the last pair should be slower."),
        (angles(4 * i / 8), "The power of the base is wrong, it is 4i / D: the last pairs should be faster."),
        (angles(2 * i), "The power of the base is 2i: D is missing, and the pairs slow down far too much."),
        (angles(i), "The power of the base is i, but it should stay below 1."),
        (p * 50.0 ** (2 * i / 8), "Multiplied, not divided: each pair is faster than the one before, not slower."),
        (angles(2 * (i + 1) / 8), "The pairs are counted from 1, but the first is pair 0."),
        (angles(2 * i / 8, start=1), "The positions are counted from 1, but at position 0 nothing is rotated."),
        (right.flip(1), "The pairs are in the opposite order: pair 0 is the fastest."),
        (right.rad2deg(), "These are degrees. Radians are wanted."),
        (right.deg2rad(), "These were converted from degrees to radians, but they are radians already."),
        (right * 2 * math.pi, "That is 2π times too much: pair 0 rotates by 1 radian per position."),
        (angles(2 * i / 8, base=10_000.0), "That is right for a base of 10,000, but here it is 50."),
        (right.cos(), "These are cosines. The angles themselves are wanted."),
        (right.sin(), "These are sines. The angles themselves are wanted."),
        (right % (2 * math.pi), "Whole rounds were subtracted. The angles p / b^(2i/D) themselves are wanted."),
        (50.0 ** (-2 * i / 8) + 0 * p, "These are the speeds, the same at each position. They are not angles yet."),
    ]
    twice = "Both numbers of a pair rotate by the same angle, so there are D/2 angles."
    hints = {
        (5, 8): twice,
        (4, 5): "Rows and columns are exchanged: each position has a row.",
        (4,): "Each position has a row.",
    }
    got = shaped(answer, *args, shape=(5, 4), hints=hints)
    rows, columns = [f"at {place}" for place in args[0]], [f"pair {pair}" for pair in range(4)]
    picture = grid(got, rows, columns, marked=_differing(got, right))
    if got[1:].any() and same(got, got[:, :1].expand(5, 4)):
        raise Finding(
            "All pairs rotate at the same speed, but each pair should be slower than the one before.", picture
        )
    diagnose(answer, args, got, right, mistakes, f"p / b^(2i/D){_first(got, right, 'row', 'pair')}", picture)
    args = [7, 3, 100_000], 4, 10_000.0
    p, i = torch.tensor(args[0])[:, None], torch.arange(2)
    got, right = tensor(answer, *args, shape=(3, 2)), p / 10_000.0 ** (2 * i / 4)
    diagnose(answer, args, got, right, [], f"p / b^(2i/D){_first(got, right, 'row', 'pair')}")
    return "The first pair tells neighbours apart, the later ones larger distances."


@checks
def rotate_halves(answer):
    "Exercise 3: halves, the right signs, and nothing overwritten."
    answer = of_tensors(answer)
    args = _numbers("x", 3, 6, seed=0.9), Named([[0.0, 0.0, 0.0], [1.0, 0.5, 0.1], [2.0, 1.0, 0.2]], "angles")
    x, angles = map(torch.tensor, args)
    cos, sin, (left, right) = angles.cos(), angles.sin(), x.chunk(2, 1)
    even, odd = x[:, ::2], x[:, 1::2]
    first, second = left * cos - right * sin, left * sin + right * cos
    neighbours = even * cos - odd * sin, even * sin + odd * cos
    swapped = torch.cat([-right, left], 1)
    mirror = "The lengths changed, so that is not a rotation. Check the signs of the two sines."
    pairs = "Neighbours were paired, x[2i] and x[2i+1]. Here pair i is x[i] and x[i + D/2]."

    def joined(a, b):
        return torch.cat([a, b], 1)

    def woven(a, b):
        return torch.stack([a, b], 2).flatten(1)

    def by(angle):
        return rotate(x, angle.cos(), angle.sin())

    wanted = joined(first, second)
    mistakes = [
        (woven(*neighbours), pairs),
        (joined(*neighbours), pairs),
        (
            woven(first, second),
            "Halves were rotated, but put back as neighbours.",
        ),
        (by(-angles), "It rotates the other way: by the negative angle."),
        (joined(first, right * cos - left * sin), mirror),
        (joined(left * cos + right * sin, left * sin + right * cos), mirror),
        (joined(left * sin - right * cos, left * cos + right * sin), "Cosine and sine are exchanged."),
        (
            joined(first, first * sin + right * cos),
            "The right half was made from a left half that was already rotated.",
        ),
        (
            joined(left * cos - second * sin, second),
            "The left half was made from a right half that was already rotated.",
        ),
        (joined(second, first), "The two halves are exchanged in the result."),
        (by(angles.deg2rad()), "The angles were converted from degrees to radians, but they are radians already."),
        (by(angles.rad2deg()), "The angles were converted to degrees. Cosine and sine take radians."),
        (
            x * cos.repeat_interleave(2, 1) + swapped * sin.repeat_interleave(2, 1),
            "Each angle was repeated for two neighbours, but the pairs here are halves.",
        ),
        (
            joined(left * cos, right * sin),
            "Nothing is mixed: in a rotation each number of a pair depends on both.",
        ),
        (x, "Nothing was rotated."),
        (torch.full((3, 6), torch.nan), NAN),
    ]
    hint = {(3, 3): "Both numbers of each pair are wanted: the left half and then the right half."}
    got = shaped(answer, *args, shape=(3, 6), hints=hint)
    columns = [f"x[{i}]" for i in range(6)]
    picture = grid(got, [f"row {t}" for t in range(3)], columns, marked=_differing(got, wanted))
    diagnose(answer, args, got, wanted, mistakes, f"x, rotated{_first(got, wanted, 'row', 'column')}", picture)
    return "Each pair is rotated and keeps its length."


def _split(y: Tensor, n_head: int) -> Tensor:
    return y.unflatten(1, (n_head, -1)).transpose(0, 1)  # (T, C) -> (H, T, D)


def _merged(y: Tensor) -> Tensor:
    return y.transpose(0, 1).flatten(1)  # (H, T, D) -> (T, C)


@checks
def rotary_heads(answer):
    "Exercise 4: queries and keys rotated in each head, by the same positions; values never."
    answer = of_tensors(answer)
    one_hot = Named(torch.eye(4).repeat(1, 2).tolist(), "value")  # so that what a head sees is its weights
    args = _numbers("query", 4, 8, seed=0.5), _numbers("key", 4, 8, seed=1.1), one_hot, 2, [2, 3, 5, 9]
    query, key, value, positions = (torch.tensor(arg) for arg in args if isinstance(arg, list))
    q, k, v = (_split(y, 2) for y in (query, key, value))
    places, after, wide = rotation(positions, 4), rotation(positions + 1, 4), rotation(positions, 8)

    def attend(q, k, v, scale=1.0, mask=True):
        if mask:
            return attention_weights(scale * q[None], k[None])[0] @ v
        return (q @ k.mT / 2).softmax(-1) @ v

    def across(turn_q, turn_k):
        return _merged(attend(_split(turn_q(query), 2), _split(turn_k(key), 2), v))

    reshaped = [y.reshape(2, 4, 4) for y in (query, key, value)]
    turned = attend(places(q), places(k), v)
    right, in_a_row = _merged(turned), rotation(torch.arange(4), 4)
    mixed = (
        "The heads are mixed up: a head holds numbers of other heads, and not all tokens. The shape alone is right."
    )
    early = (
        "Queries and keys were rotated before the split into heads, so pairs reach from one head into another."
    )
    shifted = "are rotated by one position more than the {}, so each token takes {}."
    mistakes = [
        (
            _merged(attend(places(q), places(k), places(v))),
            "The values were rotated, too.",
        ),
        (_merged(places(turned)), "The output was rotated."),
        (
            _merged(attend(places(q), k, v)),
            "Only the queries were rotated, so the scores depend on the positions and not on the distance.",
        ),
        (
            _merged(attend(q, places(k), v)),
            "Only the keys were rotated, so the scores depend on the positions and not on the distance.",
        ),
        (torch.full((4, 8), torch.nan), NAN),
        (_merged(attend(q, k, v)), "Nothing was rotated, so the positions have no effect."),
        (_merged(attend(places(q), after(k), v)), f"The keys {shifted.format('queries', 'its neighbour for itself')}"),
        (_merged(attend(after(q), places(k), v)), f"The queries {shifted.format('keys', 'itself for its neighbour')}"),
        (across(wide, wide), early),
        (
            _merged(attend(places(places(q)), places(places(k)), v)),
            "Queries and keys were rotated twice: distances count double.",
        ),
        (
            _merged(attend(in_a_row(q), in_a_row(k), v)),
            "The positions 0, 1, 2, 3 were used, not the given positions 2, 3, 5, 9.",
        ),
        (_merged(attend(*map(places, reshaped[:2]), reshaped[2])), mixed),
        (attend(*map(places, reshaped[:2]), reshaped[2]).reshape(4, 8), mixed),
        (
            turned.reshape(4, 8),
            "The heads are right, but they were put side by side wrongly: tokens and heads are mixed up at the end.",
        ),
        (
            _merged(attend(places(q), places(k), v, mask=False)),
            "There is no mask: row 0 attends to row 1, which comes later.",
        ),
        (
            _merged(attend(places(q), places(k), v, scale=1 / math.sqrt(2))),
            "The scale is wrong: it fits C numbers, but a head has C / n_head.",
        ),
        (
            _merged(attend(places(q), places(k), v, scale=2.0)),
            "The scores were not scaled.",
        ),
    ]
    separate = "The heads are still separate. Side by side is wanted."
    hints = dict.fromkeys([(2, 4, 4), (4, 2, 4), (1, 2, 4, 4), (1, 4, 8)], separate)
    got = shaped(answer, *args, shape=(4, 8), hints=hints)
    h = int(same(got[:, :4], right[:, :4]))
    mine, wanted = got[:, 4 * h : 4 * h + 4], right[:, 4 * h : 4 * h + 4]
    names = [f"at {place}" for place in args[4]]
    picture = grid(mine, names, names, marked=_differing(mine, wanted))
    where = _first(mine, wanted, f"head {h}, row", "column")
    what = f"the output of the heads (the values are one-hot, so it is the weights){where}"
    diagnose(answer, args, got, right, mistakes, what, picture)
    return "Split, rotate queries and keys, attend, and put side by side: attention that knows distances."


def _in_a_row(got: Tensor, right: Tensor) -> Picture:
    "Two rows of numbers, one above the other, and where they differ."
    rows = [["yours", *(str(n) for n in got.tolist())], ["wanted", *(str(n) for n in right.tolist())]]
    return table([*rows, ["", *("" if a == b else "differs" for a, b in zip(got.tolist(), right.tolist()))]])


@checks
def packed_positions(answer):
    "Exercise 5: each text from 0 on."
    lengths = [3, 2, 4]
    got = attempt(answer, lengths, expect=(Tensor, list))
    if isinstance(got, list) and all(isinstance(part, (list, Tensor)) for part in got):
        raise Finding(f"It returned {len(got)} parts. One row is wanted.{_asked(answer, lengths)}")
    got = torch.as_tensor(got)
    if got.dim() == 2:
        raise Finding(
            f"It returned a tensor of shape {tuple(got.shape)}. All texts are in one row, with nothing between them."
            f"{_asked(answer, lengths)}"
        )
    if got.shape != (9,):
        raise Finding(
            f"It returned a tensor of shape {tuple(got.shape)}. Each of the 3 + 2 + 4 tokens has a position."
            f"{_asked(answer, lengths)}"
        )
    right = torch.tensor([0, 1, 2, 0, 1, 0, 1, 2, 3])
    mistakes = [
        (
            torch.arange(9),
            "The positions run through the whole row, but token 3 begins a new text: its position is 0, not 3.",
        ),
        (right + 1, "The positions start at 1, but the first token of each text is at position 0."),
        (
            torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2]),
            "These numbers say which text each token is in, not where in its text it stands.",
        ),
        (
            torch.tensor([2, 1, 0, 1, 0, 3, 2, 1, 0]),
            "The positions run backwards: the first token of a text is at position 0.",
        ),
        (
            torch.tensor([0, 0, 0, 3, 3, 5, 5, 5, 5]),
            "These numbers say where the text of each token starts in the row.",
        ),
        (torch.tensor([0, 1, 2, 1, 2, 1, 2, 3, 4]), "Only the first text starts at 0, the others at 1."),
        (torch.tensor([0, 1, 2, 3, 1, 2, 1, 2, 3]), "It starts anew one token too late."),
        (torch.tensor([0, 1, 0, 1, 0, 1, 2, 3, 0]), "It starts anew one token too early."),
        (
            torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2]),
            "Each text was given the length of the first, but the lengths are 3, 2 and 4.",
        ),
        (torch.tensor([3, 3, 3, 2, 2, 4, 4, 4, 4]), "These numbers are the length of each token's text."),
    ]
    diagnose(answer, (lengths,), got, right, mistakes, "what was asked for", _in_a_row(got, right))
    if got.is_floating_point():
        raise Finding("The numbers are right, but positions are whole numbers, and these are floating-point numbers.")
    for lengths in [5, 1], [4], [1, 1, 2]:
        right = torch.cat([torch.arange(length) for length in lengths])
        got = torch.as_tensor(attempt(answer, lengths, expect=(Tensor, list)))
        if not same(got, right):
            wrong = f"It returned {got.tolist()}, not {right.tolist()}.{_asked(answer, lengths)}"
            raise Finding(wrong, _in_a_row(got, right) if got.shape == right.shape else None)
    return "Each text starts at position 0. (A mask has to keep the texts apart as well.)"
