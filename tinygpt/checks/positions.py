"""Checks for chapter 06: each typical mistake has a diagnosis of its own."""

import math

import torch
from torch import Tensor

from tinygpt.attention import attention_weights
from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.checks.tensors import Named, diagnose, grid, of_tensors, same, shaped, tensor
from tinygpt.positions import rotate, rotation
from tinygpt.show.pictures import Picture, table


def _numbers(name: str, *shape: int, seed: float) -> Named:
    "Some numbers of one decimal."
    wave = [round(2 * math.sin(seed * (i + 1) ** 2), 1) for i in range(math.prod(shape))]
    return Named(torch.tensor(wave).view(shape).tolist(), name)


def _differing(got: Tensor, right: Tensor) -> Tensor:
    return ~torch.isclose(got.double(), right.double(), rtol=1e-4, atol=1e-6, equal_nan=True)


def _first(got: Tensor, right: Tensor, row: str, column: str) -> str:
    "Where two matrices differ first, in words."
    where = _differing(got, right).nonzero().tolist()
    if not where:
        return ""
    i, j = where[0]
    return f": in {row} {i}, {column} {j} is {got[i, j].item():.3g}, but should be {right[i, j].item():.3g}"


@checks
def scores_with_places(answer):
    "Exercise 1: places added to what both are made from, along time, from 0 on."
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

    one = "All four tokens got the same place. Token t of each text gets row t of the table."
    right, every = scores(x + p, x + p), torch.ones(4, 4, dtype=torch.bool)
    mistakes = [
        (scores(x + p, x), "Only the queries know their places. Keys are made from tokens with places, too."),
        (scores(x, x + p), "Only the keys know their places. Queries are made from tokens with places, too."),
        (scores(x, x), "Nobody knows a place yet: add the table to x before queries and keys are made."),
        (scores(x + places[1:5], x + places[1:5]), "The places start at 1. The first token gets row 0 of the table."),
        (
            scores(x + places[:2, None], x + places[:2, None]),
            "The places went along the wrong axis: all of text 0 got row 0, all of text 1 row 1. "
            "Time is the second axis.",
        ),
        *((scores(x + place, x + place), one) for place in places),
        (scores(x + p.flip(0), x + p.flip(0)), "The places run backwards: the first token gets row 0 of the table."),
        (scores(x * p, x * p), "Places are added to the tokens, not multiplied with them."),
        (
            scores(p, p).expand(2, 4, 4),
            "The tokens themselves are gone: what stands at a place is the token plus the place.",
        ),
        (
            (x @ to_query.T + p) @ (x @ to_key.T + p).mT,
            "The places were added to queries and keys after these were made. Add them to x.",
        ),
        (
            ((x + p) @ to_query) @ ((x + p) @ to_key).mT,
            "The matrices lie the wrong way: a query is to_query @ (token + place), "
            "and for rows that is x @ to_query.T.",
        ),
        (right.mT, "Queries and keys are exchanged: row t is what the query of token t asks."),
        (right / math.sqrt(3), "These scores are scaled already. Here they are wanted as they are."),
        (right.softmax(-1), "These are shares of attention already. The scores before softmax are wanted."),
        (right.tril(), "What comes later was masked already. All scores are wanted."),
        (right.masked_fill(~every.tril(), -torch.inf), "What comes later was masked already. All scores are wanted."),
    ]
    got = shaped(answer, *args, shape=(2, 4, 4), hints={(4, 4): "Each of the two texts has scores of its own."})
    b = 0 if not same(got[0], right[0]) else 1
    names = [f"query {t}" for t in range(4)], [f"key {t}" for t in range(4)]
    picture = grid(got[b], *names, marked=_differing(got[b], right[b]))
    what = f"the scores{_first(got[b], right[b], f'text {b}, query', 'key')}"
    diagnose(answer, args, got, right, mistakes, what, picture)
    return "A place is part of what stands there, for who asks and for who answers."


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
        (angles(i / 8), "The base has the wrong power, i / D: the last pair should be slower. It is 2i / D."),
        (angles(4 * i / 8), "The base has the wrong power, 4i / D: the pairs slow down twice as fast. It is 2i / D."),
        (angles(2 * i), "The power is 2i. Divide it by D, or the pairs slow down far too fast."),
        (angles(i), "The power is i. It is 2i / D: from 0 to just below 1."),
        (p * 50.0 ** (2 * i / 8), "Multiplied, not divided: so each pair is faster than the one before, not slower."),
        (angles(2 * (i + 1) / 8), "The pairs are counted from 1: pair 0 turns by 1 a place."),
        (angles(2 * i / 8, start=1), "The places are counted from 1 again: at place 0 nothing is turned."),
        (right.flip(1), "The pairs are in the opposite order: pair 0 is the fastest."),
        (right.rad2deg(), "Those are degrees. Cosine and sine take radians."),
        (right.deg2rad(), "Those were taken for degrees and made radians once more. They are radians as they are."),
        (right * 2 * math.pi, "That is 2π times too much: pair 0 turns by 1 radian a place, not by a whole round."),
        (angles(2 * i / 8, base=10_000.0), "That is right for a base of 10,000. Here it is 50."),
        (right.cos(), "Those are cosines already. The angles themselves are wanted."),
        (right.sin(), "Those are sines already. The angles themselves are wanted."),
        (right % (2 * math.pi), "Whole rounds were taken off. That changes no cosine, but p / b^(2i/D) is asked for."),
        (50.0 ** (-2 * i / 8) + 0 * p, "Those are the speeds, for every place the same. The place multiplies them."),
    ]
    twice = "Both numbers of a pair turn by the same angle, so there are D/2 of them."
    hints = {
        (5, 8): twice,
        (4, 5): "Rows and columns are exchanged: each place has a row.",
        (4,): "Each place has a row.",
    }
    got = shaped(answer, *args, shape=(5, 4), hints=hints)
    rows, columns = [f"place {place}" for place in args[0]], [f"pair {pair}" for pair in range(4)]
    picture = grid(got, rows, columns, marked=_differing(got, right))
    if got[1:].any() and same(got, got[:, :1].expand(5, 4)):
        raise Finding(
            "All pairs turn at the same speed: after one round, far is like near. Slow down pair by pair.", picture
        )
    diagnose(answer, args, got, right, mistakes, f"p / b^(2i/D){_first(got, right, 'row', 'pair')}", picture)
    args = [7, 3, 100_000], 4, 10_000.0
    p, i = torch.tensor(args[0])[:, None], torch.arange(2)
    got, right = tensor(answer, *args, shape=(3, 2)), p / 10_000.0 ** (2 * i / 4)
    diagnose(answer, args, got, right, [], f"p / b^(2i/D){_first(got, right, 'row', 'pair')}")
    return "The first pair counts single places, and each next one thinks in longer stretches."


@checks
def turned_by(answer):
    "Exercise 3: halves, the right signs, nothing overwritten."
    answer = of_tensors(answer)
    args = _numbers("x", 3, 6, seed=0.9), Named([[0.0, 0.0, 0.0], [1.0, 0.5, 0.1], [2.0, 1.0, 0.2]], "angles")
    x, angles = map(torch.tensor, args)
    cos, sin, (left, right) = angles.cos(), angles.sin(), x.chunk(2, 1)
    even, odd = x[:, ::2], x[:, 1::2]
    first, second = left * cos - right * sin, left * sin + right * cos
    neighbours = even * cos - odd * sin, even * sin + odd * cos
    swapped = torch.cat([-right, left], 1)
    mirror = "The lengths changed: that is no turn. Of the two sines, exactly the one in the left half has a minus."
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
            "Turned by halves, but put back as neighbours: first all left halves, then all right ones.",
        ),
        (by(-angles), "It turns the other way: the sine has the wrong sign. The minus stands in the left half."),
        (joined(first, right * cos - left * sin), mirror),
        (joined(left * cos + right * sin, left * sin + right * cos), mirror),
        (joined(left * sin - right * cos, left * cos + right * sin), "Cosine and sine are exchanged."),
        (
            joined(first, first * sin + right * cos),
            "The right half was made from the left half that was turned already.",
        ),
        (
            joined(left * cos - second * sin, second),
            "The left half was made from the right half that was turned already.",
        ),
        (joined(second, first), "The two halves are exchanged in the result."),
        (by(angles.deg2rad()), "The angles were taken for degrees. They are radians."),
        (by(angles.rad2deg()), "The angles were made degrees. Cosine and sine take radians."),
        (
            x * cos.repeat_interleave(2, 1) + swapped * sin.repeat_interleave(2, 1),
            "Each angle was written twice in a row, as for neighbours. For halves, write all of them, and all again.",
        ),
        (
            joined(left * cos, right * sin),
            "That multiplies, and mixes nothing. In a turn each half gets a part of the other.",
        ),
        (x, "Nothing was turned."),
    ]
    hint = {(3, 3): "Both numbers of each pair are wanted, the left ones and then the right ones."}
    got = shaped(answer, *args, shape=(3, 6), hints=hint)
    columns = [f"x[{i}]" for i in range(6)]
    picture = grid(got, [f"row {t}" for t in range(3)], columns, marked=_differing(got, wanted))
    diagnose(answer, args, got, wanted, mistakes, f"x turned{_first(got, wanted, 'row', 'column')}", picture)
    return "Pair by pair, as long as before: a turn."


def _split(y: Tensor, n_head: int) -> Tensor:
    return y.unflatten(1, (n_head, -1)).transpose(0, 1)  # (T, C) -> (H, T, D)


def _merged(y: Tensor) -> Tensor:
    return y.transpose(0, 1).flatten(1)  # (H, T, D) -> (T, C)


@checks
def look_turned(answer):
    "Exercise 4: queries and keys, in each head, by the same positions; values never."
    answer = of_tensors(answer)
    one_hot = Named(torch.eye(4).repeat(1, 2).tolist(), "value")  # so that what a head sees is its weights
    args = _numbers("query", 4, 8, seed=0.5), _numbers("key", 4, 8, seed=1.1), one_hot, 2, [2, 3, 5, 9]
    query, key, value, positions = (torch.tensor(arg) for arg in args if isinstance(arg, list))
    q, k, v = (_split(y, 2) for y in (query, key, value))
    places, after, wide = rotation(positions, 4), rotation(positions + 1, 4), rotation(positions, 8)

    def look(q, k, v, scale=1.0, mask=True):
        if mask:
            return attention_weights(scale * q[None], k[None])[0] @ v
        return (q @ k.mT / 2).softmax(-1) @ v

    def across(turn_q, turn_k):
        return _merged(look(_split(turn_q(query), 2), _split(turn_k(key), 2), v))

    reshaped = [y.reshape(2, 4, 4) for y in (query, key, value)]
    turned = look(places(q), places(k), v)
    right, in_a_row = _merged(turned), rotation(torch.arange(4), 4)
    mixed = (
        "The heads got mixed up: reshaping (T, C) to (H, T, D) cuts across tokens. "
        "Split C first, then exchange T and H."
    )
    early = (
        "It was turned before it was split into heads: so pairs reach from one head into the other, and the heads "
        "turn at different speeds. Split first."
    )
    shifted = "stand one place further on than the {}: so each word takes {}. Both take the same positions."
    mistakes = [
        (
            _merged(look(places(q), places(k), places(v))),
            "The values were turned, too. Only queries and keys meet; a value is passed on as it is.",
        ),
        (_merged(places(turned)), "What was seen was turned. Only queries and keys are."),
        (
            _merged(look(places(q), k, v)),
            "Only the queries were turned: the places do not cancel. Turn the keys as well.",
        ),
        (
            _merged(look(q, places(k), v)),
            "Only the keys were turned: the places do not cancel. Turn the queries as well.",
        ),
        (_merged(look(q, k, v)), "Nothing was turned: it does not know where anything is."),
        (_merged(look(places(q), after(k), v)), f"The keys {shifted.format('queries', 'its neighbour for itself')}"),
        (_merged(look(after(q), places(k), v)), f"The queries {shifted.format('keys', 'itself for its neighbour')}"),
        (across(wide, wide), early),
        (
            _merged(look(places(places(q)), places(places(k)), v)),
            "Everything was turned twice: distances count double.",
        ),
        (
            _merged(look(in_a_row(q), in_a_row(k), v)),
            "The positions 0, 1, 2, 3 were taken. These words stand at the places that you were given: 2, 3, 5, 9.",
        ),
        (_merged(look(*map(places, reshaped[:2]), reshaped[2])), mixed),
        (look(*map(places, reshaped[:2]), reshaped[2]).reshape(4, 8), mixed),
        (turned.reshape(4, 8), "The heads were put side by side by reshape alone: exchange H and T first."),
        (
            _merged(look(places(q), places(k), v, mask=False)),
            "There is no mask: row 0 looks at position 1, which comes later.",
        ),
        (
            _merged(look(places(q), places(k), v, scale=1 / math.sqrt(2))),
            "The scale is that of all heads together. Each has D = C / n_head numbers, so divide by the root of that.",
        ),
        (
            _merged(look(places(q), places(k), v, scale=2.0)),
            "The scale is missing: divide the scores by the root of D.",
        ),
    ]
    hints = {size: "Put the heads side by side again." for size in [(2, 4, 4), (4, 2, 4), (1, 2, 4, 4), (1, 4, 8)]}
    got = shaped(answer, *args, shape=(4, 8), hints=hints)
    h = int(same(got[:, :4], right[:, :4]))
    mine, wanted = got[:, 4 * h : 4 * h + 4], right[:, 4 * h : 4 * h + 4]
    names = [f"at {place}" for place in args[4]]
    picture = grid(mine, names, names, marked=_differing(mine, wanted))
    where = _first(mine, wanted, f"head {h}, row", "column")
    what = f"what the heads see (the values are one-hot, so it is the weights){where}"
    diagnose(answer, args, got, right, mistakes, what, picture)
    return "Split, turn queries and keys, look, put together: that is attention that knows its places."


def _in_a_row(got: Tensor, right: Tensor) -> Picture:
    "Two rows of numbers, one above the other, and where they differ."
    rows = [["yours", *(str(n) for n in got.tolist())], ["wanted", *(str(n) for n in right.tolist())]]
    return table([*rows, ["", *("" if a == b else "differs" for a, b in zip(got.tolist(), right.tolist()))]])


@checks
def packed_positions(answer):
    "Exercise 5: from 0 in each text."
    lengths = [3, 2, 4]
    got = attempt(answer, lengths, expect=(Tensor, list))
    if isinstance(got, list) and all(isinstance(part, (list, Tensor)) for part in got):
        raise Finding(f"{call(answer, lengths)} returned {len(got)} parts. Put them one after the other, into one row.")
    got = torch.as_tensor(got)
    if got.dim() == 2:
        raise Finding(
            f"{call(answer, lengths)} returned a tensor of shape {tuple(got.shape)}. All texts stand in one row, with "
            "nothing between them."
        )
    if got.shape != (9,):
        raise Finding(
            f"{call(answer, lengths)} returned a tensor of shape {tuple(got.shape)}. "
            "Each of the 3 + 2 + 4 tokens has a place."
        )
    right = torch.tensor([0, 1, 2, 0, 1, 0, 1, 2, 3])
    mistakes = [
        (
            torch.arange(9),
            "The places go on through the whole row: token 3 begins a new text, and is at place 0 again, not at 3.",
        ),
        (right + 1, "The places start at 1. The first token of each text is at place 0."),
        (
            torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2]),
            "That says which text each token is in. Where in it does it stand?",
        ),
        (
            torch.tensor([2, 1, 0, 1, 0, 3, 2, 1, 0]),
            "The places run backwards: the first token of a text is at place 0.",
        ),
        (
            torch.tensor([0, 0, 0, 3, 3, 5, 5, 5, 5]),
            "That is where the text of each token starts. Take it from 0 to 8.",
        ),
        (torch.tensor([0, 1, 2, 1, 2, 1, 2, 3, 4]), "Only the first text starts at 0, the others at 1."),
        (torch.tensor([0, 1, 2, 3, 1, 2, 1, 2, 3]), "It starts anew one token too late."),
        (torch.tensor([0, 1, 0, 1, 0, 1, 2, 3, 0]), "It starts anew one token too early."),
        (
            torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2]),
            "Each text was taken to be as long as the first. They have 3, 2 and 4.",
        ),
        (torch.tensor([3, 3, 3, 2, 2, 4, 4, 4, 4]), "That is how long the text of each token is."),
    ]
    diagnose(answer, (lengths,), got, right, mistakes, "what was asked for", _in_a_row(got, right))
    if got.is_floating_point():
        raise Finding("The numbers are right, but places are whole numbers: an embedding takes no others.")
    for lengths in [5, 1], [4], [1, 1, 2]:
        right = torch.cat([torch.arange(length) for length in lengths])
        got = torch.as_tensor(attempt(answer, lengths, expect=(Tensor, list)))
        if not same(got, right):
            wrong = f"{call(answer, lengths)} returned {got.tolist()}, and {right.tolist()} is wanted."
            raise Finding(wrong, _in_a_row(got, right) if got.shape == right.shape else None)
    return "Every text begins at its own beginning. (A mask has to keep them apart as well.)"
