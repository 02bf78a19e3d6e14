"""The checks of chapter 06."""

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


RIGHT = {
    "scores_with_places": scores,
    "angles_of": angles,
    "turned_by": turned,
    "look_turned": looking(),
    "packed_positions": packed,
}
MISTAKES = [
    ("scores_with_places", one_sided(True, False), "Only the queries know"),
    ("scores_with_places", one_sided(False, True), "Only the keys know"),
    ("scores_with_places", one_sided(False, False), "Nobody knows a place"),
    ("scores_with_places", placed(lambda table, B, T, C: table[1 : T + 1]), "The places start at 1"),
    ("scores_with_places", placed(lambda table, B, T, C: table[:B, None]), "along the wrong axis"),
    ("scores_with_places", placed(lambda table, B, T, C: table[T]), "the same place"),
    ("scores_with_places", placed(lambda table, B, T, C: table[0]), "the same place"),
    ("scores_with_places", placed(lambda table, B, T, C: table[:T].flip(0)), "run backwards"),
    ("scores_with_places", placed(lambda table, B, T, C: table), "stopped with RuntimeError"),
    ("scores_with_places", multiplied, "not multiplied"),
    ("scores_with_places", places_only, "The tokens themselves are gone"),
    ("scores_with_places", places_only_once, "Each of the two texts has scores of its own"),
    ("scores_with_places", late, "after these were made"),
    ("scores_with_places", lying, "lie the wrong way"),
    ("scores_with_places", lambda *args: scores(*args).mT, "Queries and keys are exchanged"),
    ("scores_with_places", lambda *args: scores(*args) / math.sqrt(3), "scaled already"),
    ("scores_with_places", lambda *args: scores(*args).softmax(-1), "shares of attention already"),
    ("scores_with_places", lambda *args: scores(*args).tril(), "masked already"),
    (
        "scores_with_places",
        lambda *args: scores(*args).masked_fill(~torch.ones(4, 4).tril().bool(), -torch.inf),
        "masked already",
    ),
    ("scores_with_places", nudged(scores, (1, 2, 3)), "in text 1, query 2, key 3 is"),
    ("angles_of", lambda p, D, b: angled(p, torch.arange(D // 2) / D, b), "the wrong power, i / D"),
    ("angles_of", lambda p, D, b: angled(p, 4 * torch.arange(D // 2) / D, b), "the wrong power, 4i / D"),
    ("angles_of", lambda p, D, b: angled(p, torch.arange(0, D, 2), b), "The power is 2i."),
    ("angles_of", lambda p, D, b: angled(p, torch.arange(D // 2), b), "The power is i."),
    ("angles_of", lambda p, D, b: angled(p, -torch.arange(0, D, 2) / D, b), "Multiplied, not divided"),
    ("angles_of", lambda p, D, b: angled(p, torch.arange(2, D + 2, 2) / D, b), "The pairs are counted from 1"),
    ("angles_of", lambda p, D, b: angles(p + 1, D, b), "The places are counted from 1"),
    ("angles_of", lambda p, D, b: angles(p, D, b).flip(1), "opposite order"),
    ("angles_of", lambda p, D, b: angles(p, D, b).rad2deg(), "Those are degrees"),
    ("angles_of", lambda p, D, b: angles(p, D, b).deg2rad(), "made radians once more"),
    ("angles_of", lambda p, D, b: 2 * math.pi * angles(p, D, b), "2π times too much"),
    ("angles_of", lambda p, D, b: angles(p, D, 10_000), "right for a base of 10,000"),
    ("angles_of", lambda p, D, b: angles(p, D, b).cos(), "Those are cosines"),
    ("angles_of", lambda p, D, b: angles(p, D, b).sin(), "Those are sines"),
    ("angles_of", lambda p, D, b: angles(p, D, b) % (2 * math.pi), "Whole rounds"),
    ("angles_of", lambda p, D, b: angles(torch.ones(len(p)), D, b), "Those are the speeds"),
    ("angles_of", lambda p, D, b: p[:, None].expand(-1, D // 2) * 1.0, "All pairs turn at the same speed"),
    ("angles_of", lambda p, D, b: p[:, None].expand(-1, D // 2) / b, "All pairs turn at the same speed"),
    ("angles_of", lambda p, D, b: angled(p, 2 * torch.arange(D // 2) // D, b), "All pairs turn at the same speed"),
    ("angles_of", lambda p, D, b: angles(p, D, b).repeat(1, 2), "D/2 of them"),
    ("angles_of", lambda p, D, b: angled(p, torch.arange(D) / D, b), "D/2 of them"),
    ("angles_of", lambda p, D, b: angles(p, D, b).T, "Rows and columns are exchanged"),
    ("angles_of", lambda p, D, b: angles(p, D, b)[1], "of shape (4,), not (5, 4). Each place has a row"),
    ("angles_of", nudged(angles, (2, 1)), "in row 2, pair 1 is 1.25, but should be 0.752"),
    ("angles_of", lambda p, D, b: angles(p.bfloat16().float(), D, b), "in row 2, pair 0 is"),
    ("turned_by", neighbours, "Neighbours were paired"),
    ("turned_by", lambda x, a: neighbours(x, a, weave=False), "Neighbours were paired"),
    ("turned_by", woven, "put back as neighbours"),
    ("turned_by", lambda x, a: turned(x, -a), "turns the other way"),
    ("turned_by", halves(lambda x, y, c, s: x * c - y * s, lambda x, y, c, s: y * c - x * s), "that is no turn"),
    ("turned_by", halves(lambda x, y, c, s: x * c + y * s, lambda x, y, c, s: y * c + x * s), "that is no turn"),
    ("turned_by", halves(lambda x, y, c, s: x * s - y * c, lambda x, y, c, s: x * c + y * s), "Cosine and sine are"),
    ("turned_by", overwritten, "The right half was made from the left half"),
    ("turned_by", overwritten_right, "The left half was made from the right half"),
    ("turned_by", lambda x, a: turned(x, a).roll(3, 1), "The two halves are exchanged"),
    ("turned_by", lambda x, a: turned(x, a.deg2rad()), "taken for degrees"),
    ("turned_by", lambda x, a: turned(x, a.rad2deg()), "were made degrees"),
    ("turned_by", repeated, "written twice in a row"),
    ("turned_by", halves(lambda x, y, c, s: x * c, lambda x, y, c, s: y * s), "mixes nothing"),
    ("turned_by", lambda x, a: x, "Nothing was turned"),
    ("turned_by", lambda x, a: turned(x, a)[:, :3], "Both numbers of each pair"),
    ("turned_by", nudged(turned, (2, 4)), "in row 2, column 4 is"),
    ("look_turned", looking(rope_value=at), "The values were turned"),
    ("look_turned", looking(rope_output=at), "What was seen was turned"),
    ("look_turned", looking(rope_key=leave), "Only the queries were turned"),
    ("look_turned", looking(rope_query=leave), "Only the keys were turned"),
    ("look_turned", looking(leave, leave), "does not know where anything is"),
    ("look_turned", looking(rope_key=after), "The keys stand one place further on"),
    ("look_turned", looking(rope_query=after), "The queries stand one place further on"),
    ("look_turned", across, "before it was split into heads"),
    ("look_turned", looking(twice, twice), "turned twice"),
    ("look_turned", looking(in_a_row, in_a_row), "0, 1, 2, 3 were taken"),
    ("look_turned", looking(split=reshaped), "heads got mixed up"),
    ("look_turned", looking(split=reshaped, merged=flat), "heads got mixed up"),
    ("look_turned", looking(merged=flat), "by reshape alone"),
    ("look_turned", unmasked, "row 0 looks at position 1"),
    ("look_turned", looking(scale=1 / math.sqrt(2)), "all heads together"),
    ("look_turned", looking(scale=2.0), "The scale is missing"),
    ("look_turned", looking(merged=same), "Put the heads side by side"),
    ("look_turned", looking(merged=lambda y: merged(y)[None]), "Put the heads side by side"),
    ("look_turned", nudged(looking(), (3, 6)), "in head 1, row 3, column 2 is"),
    ("packed_positions", lambda n: torch.arange(sum(n)), "go on through the whole row"),
    ("packed_positions", lambda n: packed(n) + 1, "The places start at 1"),
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
    ("packed_positions", lambda n: torch.arange(sum(n)) % n[0], "as long as the first"),
    ("packed_positions", lambda n: torch.tensor(n).repeat_interleave(torch.tensor(n)), "how long the text"),
    ("packed_positions", lambda n: [list(range(m)) for m in n], "Put them one after the other"),
    ("packed_positions", lambda n: [torch.arange(m) for m in n], "Put them one after the other"),
    ("packed_positions", lambda n: torch.arange(max(n)).repeat(len(n), 1), "All texts stand in one row"),
    ("packed_positions", lambda n: torch.arange(max(n)), "3 + 2 + 4 tokens"),
    ("packed_positions", lambda n: packed(n).float(), "places are whole numbers"),
    ("packed_positions", lambda n: packed([3, 2, 4]), "packed_positions([5, 1]) returned"),
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
    assert check.turned_by(lambda x, a: turned(x.double(), a.double()))

    def one_by_one(query, key, value, n_head, positions):
        D, out = query.shape[1] // n_head, torch.zeros(query.shape)
        for h in range(n_head):
            q, k, v = (y[:, h * D : (h + 1) * D] for y in (query, key, value))
            for t in range(len(q)):
                rope = rotation(positions, D)
                weights = (rope(q)[t] @ rope(k)[: t + 1].T / math.sqrt(D)).softmax(0)
                out[t, h * D : (h + 1) * D] = weights @ v[: t + 1]
        return out

    assert check.look_turned(one_by_one)


@pytest.mark.parametrize(
    "name, answer, marked",
    [
        ("scores_with_places", nudged(scores, (1, 2, 3)), [(2, 3)]),
        ("angles_of", nudged(angles, (2, 1)), [(2, 1)]),
        ("turned_by", nudged(turned, (2, 4)), [(2, 4)]),
        ("look_turned", nudged(looking(), (3, 6)), [(3, 2)]),
        ("look_turned", unmasked, [(t, s) for t in range(4) for s in range(4) if t < 3]),
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
