"""The checks of the chapter Positions."""

import math

import pytest
import torch

from conftest import pair_of_tests
from tinygpt.attention import attention_weights
from tinygpt.checks import positions as check
from tinygpt.positions import rotation


def scores(x, table, to_query, to_key):
    x = x + table[: x.shape[1]]
    return raw(x, x, to_query, to_key)


def raw(for_query, for_key, to_query, to_key):
    return (for_query @ to_query.T) @ (for_key @ to_key.T).mT


def placed(place):
    "Scores with places found in some wrong way, from the table and the shape of x."

    def wrong(x, table, to_query, to_key):
        x = x + place(table, *x.shape)
        return raw(x, x, to_query, to_key)

    return wrong


def one_sided(query_too, key_too):
    def wrong(x, table, to_query, to_key):
        with_places = x + table[:4]
        return raw(with_places if query_too else x, with_places if key_too else x, to_query, to_key)

    return wrong


def late(x, table, to_query, to_key):
    return (x @ to_query.T + table[:4]) @ (x @ to_key.T + table[:4]).mT


def multiplied(x, table, to_query, to_key):
    return raw(x * table[:4], x * table[:4], to_query, to_key)


def places_only(x, table, to_query, to_key):
    return raw(table[:4], table[:4], to_query, to_key).expand(2, 4, 4)


def places_only_once(x, table, to_query, to_key):
    return raw(table[:4], table[:4], to_query, to_key)


def lying(x, table, to_query, to_key):
    x = x + table[:4]
    return (x @ to_query) @ (x @ to_key).mT


def angles(positions, head_dim, base):
    return angled(positions, 2 * torch.arange(head_dim // 2) / head_dim, base)


def angled(positions, power, base):
    return positions[:, None] / base**power


def turned(x, angles):
    left, right = x.chunk(2, 1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([left * cos - right * sin, left * sin + right * cos], 1)


def halves(left_part, right_part):
    "Turned by other formulas for the two halves."

    def wrong(x, angles):
        left, right = x.chunk(2, 1)
        return torch.cat([f(left, right, angles.cos(), angles.sin()) for f in (left_part, right_part)], 1)

    return wrong


def neighbours(x, angles, weave=True):
    even, odd, cos, sin = x[:, ::2], x[:, 1::2], angles.cos(), angles.sin()
    parts = even * cos - odd * sin, even * sin + odd * cos
    return torch.stack(parts, 2).flatten(1) if weave else torch.cat(parts, 1)


def woven(x, angles):
    return torch.stack(turned(x, angles).chunk(2, 1), 2).flatten(1)


def overwritten(x, angles):
    left, right = x.chunk(2, 1)
    left = left * angles.cos() - right * angles.sin()
    right = left * angles.sin() + right * angles.cos()
    return torch.cat([left, right], 1)


def overwritten_right(x, angles):
    left, right = x.chunk(2, 1)
    right = left * angles.sin() + right * angles.cos()
    left = left * angles.cos() - right * angles.sin()
    return torch.cat([left, right], 1)


def repeated(x, angles):
    left, right = x.chunk(2, 1)
    angles = angles.repeat_interleave(2, 1)
    return x * angles.cos() + torch.cat([-right, left], 1) * angles.sin()


def same(y):
    return y


def split(y, n_head):
    return y.unflatten(1, (n_head, -1)).transpose(0, 1)


def merged(y):
    return y.transpose(0, 1).flatten(1)


def looking(rope_query=None, rope_key=None, rope_value=None, rope_output=None, split=split, merged=merged, scale=1.0):
    "Attention that applies these functions of the positions; without one, queries and keys get the right one."

    def right(positions):
        return rotation(positions, 4)

    def wrong(query, key, value, n_head, positions):
        query, key, value = (split(y, n_head) for y in (query, key, value))
        query, key = (rope_query or right)(positions)(query), (rope_key or right)(positions)(key)
        if rope_value:
            value = rope_value(positions)(value)
        out = attention_weights(query[None] * scale, key[None])[0] @ value
        return merged(rope_output(positions)(out) if rope_output else out)

    return wrong


def leave(positions):
    return same


def at(positions):
    return rotation(positions, 4)


def after(positions):
    return rotation(positions + 1, 4)


def twice(positions):
    return rotation(2 * positions, 4)


def in_a_row(positions):
    return rotation(torch.arange(4), 4)


def across(query, key, value, n_head, positions):
    rope = rotation(positions, query.shape[1])
    return looking(leave, leave)(rope(query), rope(key), value, n_head, positions)


def unmasked(query, key, value, n_head, positions):
    query, key, value = (split(y, n_head) for y in (query, key, value))
    rope = rotation(positions, 4)
    return merged((rope(query) @ rope(key).mT / 2).softmax(-1) @ value)


def reshaped(y, n_head):
    return y.reshape(n_head, 4, 4)


def flat(y):
    return y.reshape(4, 8)


def packed(lengths):
    return torch.cat([torch.arange(length) for length in lengths])


def nudged(answer, place):
    "The same, but for one number."

    def wrong(*args):
        got = answer(*args).clone()
        got[place] += 0.5
        return got

    return wrong


def in_place(x, table, to_query, to_key):
    x += table[: x.shape[1]]
    return raw(x, x, to_query, to_key)


RIGHT = {
    "scores_with_positions": scores,
    "angles_of": angles,
    "rotate_halves": turned,
    "rotary_heads": looking(),
    "packed_positions": packed,
}
MISTAKES = [
    ("scores_with_positions", in_place, "in place: x"),
    ("scores_with_positions", one_sided(True, False), "Only the queries contain"),
    ("scores_with_positions", one_sided(False, True), "Only the keys contain"),
    ("scores_with_positions", one_sided(False, False), "contain no positions at all"),
    ("scores_with_positions", placed(lambda table, B, T, C: table[1 : T + 1]), "The positions start at 1"),
    ("scores_with_positions", placed(lambda table, B, T, C: table[:B, None]), "along the wrong dimension"),
    ("scores_with_positions", placed(lambda table, B, T, C: table[T]), "the same row of the table"),
    ("scores_with_positions", placed(lambda table, B, T, C: table[0]), "the same row of the table"),
    ("scores_with_positions", placed(lambda table, B, T, C: table[:T].flip(0)), "run backwards"),
    ("scores_with_positions", placed(lambda table, B, T, C: table), "stopped with RuntimeError"),
    ("scores_with_positions", multiplied, "were multiplied, not added"),
    ("scores_with_positions", places_only, "contain positions only"),
    ("scores_with_positions", places_only_once, "Each of the two texts has scores of its own"),
    ("scores_with_positions", late, "to the queries and keys, not to the tokens"),
    ("scores_with_positions", lying, "The matrices are transposed"),
    ("scores_with_positions", lambda *args: scores(*args).mT, "Queries and keys are exchanged"),
    ("scores_with_positions", lambda *args: scores(*args) / math.sqrt(3), "These scores are scaled"),
    ("scores_with_positions", lambda *args: scores(*args).softmax(-1), "after softmax"),
    ("scores_with_positions", lambda *args: scores(*args).tril(), "Later tokens were masked"),
    (
        "scores_with_positions",
        lambda *args: scores(*args).masked_fill(~torch.ones(4, 4).tril().bool(), -torch.inf),
        "Later tokens were masked",
    ),
    ("scores_with_positions", nudged(scores, (1, 2, 3)), "in text 1, query 2, key 3 is"),
    ("angles_of", lambda p, D, b: angled(p, torch.arange(D // 2) / D, b), "wrong, it is i / D"),
    ("angles_of", lambda p, D, b: angled(p, 4 * torch.arange(D // 2) / D, b), "wrong, it is 4i / D"),
    ("angles_of", lambda p, D, b: angled(p, torch.arange(0, D, 2), b), "is 2i: D is missing"),
    ("angles_of", lambda p, D, b: angled(p, torch.arange(D // 2), b), "is i, but it should"),
    ("angles_of", lambda p, D, b: angled(p, -torch.arange(0, D, 2) / D, b), "Multiplied, not divided"),
    ("angles_of", lambda p, D, b: angled(p, torch.arange(2, D + 2, 2) / D, b), "The pairs are counted from 1"),
    ("angles_of", lambda p, D, b: angles(p + 1, D, b), "The positions are counted from 1"),
    ("angles_of", lambda p, D, b: angles(p, D, b).flip(1), "opposite order"),
    ("angles_of", lambda p, D, b: angles(p, D, b).rad2deg(), "These are degrees"),
    ("angles_of", lambda p, D, b: angles(p, D, b).deg2rad(), "but they are radians already"),
    ("angles_of", lambda p, D, b: 2 * math.pi * angles(p, D, b), "2π times too much"),
    ("angles_of", lambda p, D, b: angles(p, D, 10_000), "right for a base of 10,000"),
    ("angles_of", lambda p, D, b: angles(p, D, b).cos(), "These are cosines"),
    ("angles_of", lambda p, D, b: angles(p, D, b).sin(), "These are sines"),
    ("angles_of", lambda p, D, b: angles(p, D, b) % (2 * math.pi), "Whole rounds"),
    ("angles_of", lambda p, D, b: angles(torch.ones(len(p)), D, b), "These are the speeds"),
    ("angles_of", lambda p, D, b: p[:, None].expand(-1, D // 2) * 1.0, "All pairs rotate at the same speed"),
    ("angles_of", lambda p, D, b: p[:, None].expand(-1, D // 2) / b, "All pairs rotate at the same speed"),
    ("angles_of", lambda p, D, b: angled(p, 2 * torch.arange(D // 2) // D, b), "All pairs rotate at the same speed"),
    ("angles_of", lambda p, D, b: angles(p, D, b).repeat(1, 2), "so there are D/2 angles"),
    ("angles_of", lambda p, D, b: angled(p, torch.arange(D) / D, b), "so there are D/2 angles"),
    ("angles_of", lambda p, D, b: angles(p, D, b).T, "Rows and columns are exchanged"),
    ("angles_of", lambda p, D, b: angles(p, D, b)[1], "of shape (4,), not (5, 4). Each position has a row"),
    ("angles_of", nudged(angles, (2, 1)), "in row 2, pair 1 is 1.25, but should be 0.752"),
    ("angles_of", lambda p, D, b: angles(p.bfloat16().float(), D, b), "in row 2, pair 0 is"),
    ("rotate_halves", neighbours, "Neighbours were paired"),
    ("rotate_halves", lambda x, a: neighbours(x, a, weave=False), "Neighbours were paired"),
    ("rotate_halves", woven, "put back as neighbours"),
    ("rotate_halves", lambda x, a: turned(x, -a), "rotates the other way"),
    ("rotate_halves", halves(lambda x, y, c, s: x * c - y * s, lambda x, y, c, s: y * c - x * s), "not a rotation"),
    ("rotate_halves", halves(lambda x, y, c, s: x * c + y * s, lambda x, y, c, s: y * c + x * s), "not a rotation"),
    (
        "rotate_halves",
        halves(lambda x, y, c, s: x * s - y * c, lambda x, y, c, s: x * c + y * s),
        "Cosine and sine are exchanged",
    ),
    ("rotate_halves", overwritten, "The right half was made from a left half"),
    ("rotate_halves", overwritten_right, "The left half was made from a right half"),
    ("rotate_halves", lambda x, a: turned(x, a).roll(3, 1), "The two halves are exchanged"),
    ("rotate_halves", lambda x, a: turned(x, a.deg2rad()), "converted from degrees"),
    ("rotate_halves", lambda x, a: turned(x, a.rad2deg()), "converted to degrees"),
    ("rotate_halves", repeated, "repeated for two neighbours"),
    ("rotate_halves", halves(lambda x, y, c, s: x * c, lambda x, y, c, s: y * s), "Nothing is mixed"),
    ("rotate_halves", lambda x, a: x, "Nothing was rotated"),
    ("rotate_halves", lambda x, a: turned(x, a)[:, :3], "Both numbers of each pair"),
    ("rotate_halves", nudged(turned, (2, 4)), "in row 2, column 4 is"),
    ("rotary_heads", lambda q, k, v, n, p: torch.full(q.shape, torch.nan), "0 × ∞"),
    ("rotary_heads", looking(rope_value=at), "The values were rotated"),
    ("rotary_heads", looking(rope_output=at), "The output was rotated"),
    ("rotary_heads", looking(rope_key=leave), "Only the queries were rotated"),
    ("rotary_heads", looking(rope_query=leave), "Only the keys were rotated"),
    ("rotary_heads", looking(leave, leave), "the positions have no effect"),
    ("rotary_heads", looking(rope_key=after), "The keys are rotated by one position more"),
    ("rotary_heads", looking(rope_query=after), "The queries are rotated by one position more"),
    ("rotary_heads", across, "before the split into heads"),
    ("rotary_heads", looking(twice, twice), "rotated twice"),
    ("rotary_heads", looking(in_a_row, in_a_row), "0, 1, 2, 3 were used"),
    ("rotary_heads", looking(split=reshaped), "The heads are mixed up"),
    ("rotary_heads", looking(split=reshaped, merged=flat), "The heads are mixed up"),
    ("rotary_heads", looking(merged=flat), "put side by side wrongly"),
    ("rotary_heads", unmasked, "row 0 attends to row 1"),
    ("rotary_heads", looking(scale=1 / math.sqrt(2)), "it fits C numbers"),
    ("rotary_heads", looking(scale=2.0), "The scores were not scaled"),
    ("rotary_heads", looking(merged=same), "The heads are still separate"),
    ("rotary_heads", looking(merged=lambda y: merged(y)[None]), "The heads are still separate"),
    ("rotary_heads", nudged(looking(), (3, 6)), "in head 1, row 3, column 2 is"),
    ("packed_positions", lambda n: torch.arange(sum(n)), "run through the whole row"),
    ("packed_positions", lambda n: packed(n) + 1, "The positions start at 1"),
    (
        "packed_positions",
        lambda n: torch.arange(len(n)).repeat_interleave(torch.tensor(n)),
        "which text each token is in",
    ),
    ("packed_positions", lambda n: torch.cat([torch.arange(m).flip(0) for m in n]), "run backwards"),
    (
        "packed_positions",
        lambda n: torch.cat([torch.full((m,), sum(n[:i])) for i, m in enumerate(n)]),
        "where the text of each token starts",
    ),
    (
        "packed_positions",
        lambda n: torch.cat([torch.arange(m) + (i > 0) for i, m in enumerate(n)]),
        "Only the first text starts at 0",
    ),
    ("packed_positions", lambda n: packed([4, 2, 4])[[0, 1, 2, 3, 5, 5, 7, 8, 9]] * 1, "is not what was asked for"),
    ("packed_positions", lambda n: torch.tensor([0, 1, 2, 3, 1, 2, 1, 2, 3]), "one token too late"),
    ("packed_positions", lambda n: torch.tensor([0, 1, 0, 1, 0, 1, 2, 3, 0]), "one token too early"),
    ("packed_positions", lambda n: torch.arange(sum(n)) % n[0], "the length of the first"),
    ("packed_positions", lambda n: torch.tensor(n).repeat_interleave(torch.tensor(n)), "the length of each token"),
    ("packed_positions", lambda n: [list(range(m)) for m in n], "One row is wanted"),
    ("packed_positions", lambda n: [torch.arange(m) for m in n], "One row is wanted"),
    ("packed_positions", lambda n: torch.arange(max(n)).repeat(len(n), 1), "All texts are in one row"),
    ("packed_positions", lambda n: torch.arange(max(n)), "3 + 2 + 4 tokens"),
    ("packed_positions", lambda n: packed(n).float(), "positions are whole numbers"),
    ("packed_positions", lambda n: packed([3, 2, 4]), "The call was packed_positions([5, 1])"),
]


for _, answer, _ in [m for m in MISTAKES if m[0] == "packed_positions"]:
    answer.__name__ = "packed_positions"

test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    check, RIGHT, MISTAKES
)


def test_answers_in_other_clothes_are_right():
    "Python lists, double precision, loops."
    assert check.packed_positions(lambda lengths: [place for length in lengths for place in range(length)])
    assert check.angles_of(lambda p, D, b: p.double().outer(b ** -(torch.arange(0, D, 2).double() / D)))
    assert check.rotate_halves(lambda x, a: turned(x.double(), a.double()))

    def one_by_one(query, key, value, n_head, positions):
        D, out = query.shape[1] // n_head, torch.zeros(query.shape)
        for h in range(n_head):
            q, k, v = (y[:, h * D : (h + 1) * D] for y in (query, key, value))
            for t in range(len(q)):
                rope = rotation(positions, D)
                weights = (rope(q)[t] @ rope(k)[: t + 1].T / math.sqrt(D)).softmax(0)
                out[t, h * D : (h + 1) * D] = weights @ v[: t + 1]
        return out

    assert check.rotary_heads(one_by_one)


@pytest.mark.parametrize(
    "name, answer, marked",
    [
        ("scores_with_positions", nudged(scores, (1, 2, 3)), [(2, 3)]),
        ("angles_of", nudged(angles, (2, 1)), [(2, 1)]),
        ("rotate_halves", nudged(turned, (2, 4)), [(2, 4)]),
        ("rotary_heads", nudged(looking(), (3, 6)), [(3, 2)]),
        ("rotary_heads", unmasked, [(t, s) for t in range(4) for s in range(4) if t < 3]),
    ],
)
def test_the_offending_cells_are_drawn(name, answer, marked):
    picture = getattr(check, name)(answer).picture
    rows = [line[9:] for line in str(picture).splitlines()]  # after the name of the row and a blank
    drawn = [(i, j) for i, row in enumerate(rows) for j, cell in enumerate(row.split()) if cell.endswith("!")]
    assert drawn == marked and picture.html.count("outline") == len(marked)


def test_places_that_differ_are_marked():
    drawn = str(check.packed_positions(lambda lengths: torch.arange(sum(lengths))).picture).splitlines()
    assert drawn[0].split()[1:] == list("012345678") and drawn[1].split()[1:] == list("012010123")
    assert drawn[2].count("differs") == 6
