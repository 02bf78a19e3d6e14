"""The checks of the chapter Block."""

import math

import torch
from torch.nn import functional as F

from conftest import pair_of_tests
from tinygpt.checks import block as check


def norm(x, gain, eps, centered, dim=-1, correction=0):
    if centered:
        return (x - x.mean(dim, keepdim=True)) / (x.var(dim, correction=correction, keepdim=True) + eps).sqrt() * gain
    return x / (x.square().mean(dim, keepdim=True) + eps).sqrt() * gain


def at(centered, wrong):
    "An answer that is wrong for one of the norms alone."
    return lambda x, gain, eps, c: wrong(x, gain, eps) if c == centered else norm(x, gain, eps, c)


def around(x, centered):
    return x - x.mean(-1, keepdim=True) if centered else x


def size(x, centered):
    return around(x, centered).square().mean(-1, keepdim=True).sqrt()


def gated(x, gate, up, down, bend=F.silu):
    return bend(x @ gate.T) * (x @ up.T) @ down.T


def silu_by_growth(a):
    return a * a.exp() / (1 + a.exp())


def whole(x, attention, mlp, norm1, norm2):
    x = x + attention(norm1(x))
    return x + mlp(norm2(x))


def replaced(x, attention, mlp, norm1, norm2):
    x = norm1(x)
    x = norm2(x + attention(x))
    return x + mlp(x)


def dropped(x, p, kept, training):
    return x * kept / (1 - p) if training else x


def while_training(wrong):
    return lambda x, p, kept, training: wrong(x, p, kept) if training else x


def at_rest(wrong):
    return lambda x, p, kept, training: dropped(x, p, kept, True) if training else wrong(x, p, kept)


def saw(x, attention, norm1):
    return x + attention(norm1(x))


RIGHT = {
    "normalize": norm,
    "swiglu": gated,
    "block": whole,
    "drop": dropped,
    "scale": lambda n_layer: 1 / math.sqrt(2 * n_layer),
}
MISTAKES = [
    ("normalize", lambda x, g, eps, c: norm(x, g, eps, c, dim=-2), "You averaged over time"),
    ("normalize", lambda x, g, eps, c: norm(x, g, eps, c, dim=0), "You averaged over the batch"),
    ("normalize", at(True, lambda x, g, eps: norm(x, g, eps, True, dim=-2)), "You averaged over time"),
    ("normalize", at(True, lambda x, g, eps: norm(x, g, eps, True, dim=0)), "You averaged over the batch"),
    ("normalize", lambda x, g, eps, c: norm(x, g, eps, c, dim=(1, 2)), "each whole text"),
    ("normalize", lambda x, g, eps, c: norm(x, g, eps, c, dim=(0, 1)), "each column over all"),
    ("normalize", lambda x, g, eps, c: norm(x, g, eps, c, dim=(0, 1, 2)), "all numbers at once"),
    ("normalize", lambda x, g, eps, c: norm(x, 1, eps, c), "The gain is missing"),
    ("normalize", lambda x, g, eps, c: norm(x, 1, eps, c) + g, "The gain was added"),
    ("normalize", at(True, lambda x, g, eps: norm(x, 1, eps, True) + g), "The gain was added"),
    ("normalize", lambda x, g, eps, c: norm(x, 1, eps, c) / g, "divided by the gain"),
    ("normalize", lambda x, g, eps, c: around(x, c) / (size(x, c) ** 2 + eps) * g, "The root is missing"),
    (
        "normalize",
        at(True, lambda x, g, eps: around(x, True) / (size(x, True) ** 2 + eps) * g),
        "The root is missing",
    ),
    ("normalize", lambda x, g, eps, c: around(x, c) * (size(x, c) ** 2 + eps).sqrt() * g, "You multiplied by the"),
    (
        "normalize",
        lambda x, g, eps, c: around(x, c) / (around(x, c).square().sum(-1, keepdim=True) + eps).sqrt() * g,
        "the sum of squares",
    ),
    (
        "normalize",
        lambda x, g, eps, c: around(x, c) / (around(x, c).abs().mean(-1, keepdim=True) + eps) * g,
        "mean of the absolute values",
    ),
    ("normalize", lambda x, g, eps, c: norm(x, g, eps, False), "although `centered` is true"),
    (
        "normalize",
        at(True, lambda x, g, eps: around(x, True) / (size(x, False) ** 2 + eps).sqrt() * g),
        "taken before that",
    ),
    (
        "normalize",
        at(True, lambda x, g, eps: x / (size(x, True) ** 2 + eps).sqrt() * g),
        "was not subtracted from x",
    ),
    ("normalize", at(True, lambda x, g, eps: norm(x, g, eps, True, correction=1)), "the variance with n - 1"),
    ("normalize", at(True, lambda x, g, eps: around(x, True) * g), "nothing was divided"),
    ("normalize", lambda x, g, eps, c: norm(x, g, eps, True), "that is a LayerNorm"),
    (
        "normalize",
        at(False, lambda x, g, eps: x / (size(x, True) ** 2 + eps).sqrt() * g),
        "does not use the mean at all",
    ),
    ("normalize", lambda x, g, eps, c: around(x, c) / (size(x, c) + eps) * g, "not under it"),
    ("normalize", at(True, lambda x, g, eps: around(x, True) / (size(x, True) + eps) * g), "not under it"),
    ("normalize", lambda x, g, eps, c: around(x, c) / size(x, c) * g, "0 / 0"),
    (
        "normalize",
        lambda x, g, eps, c: around(x, c) / (size(x, c) ** 2).clamp(min=eps).sqrt() * g,
        "does not replace smaller values",
    ),
    ("normalize", lambda x, g, eps, c: norm(x, g, eps**2, c), "the square of eps"),
    ("normalize", lambda x, g, eps, c: around(x, c) / (size(x, c) + eps**0.5) * g, "the root of eps separately"),
    ("normalize", lambda x, g, eps, c: norm(x, g, 1e-6, c), "the eps that is passed in"),
    ("normalize", lambda x, g, eps, c: norm(x, g, 1e-5, c), "the eps that is passed in"),
    ("normalize", lambda x, g, eps, c: norm(x, g, 1e-4, c), "is not the norm of tiny numbers"),
    ("normalize", lambda x, g, eps, c: norm(x, g, eps, c) + 0.1, "is not the RMSNorm of x"),
    ("normalize", at(True, lambda x, g, eps: norm(x, g, eps, True) + 0.1), "is not the LayerNorm of x"),
    ("normalize", lambda x, g, eps, c: norm(x, g, eps, c)[0], "of shape (3, 4), not (2, 3, 4)"),
    ("swiglu", lambda x, g, u, d: gated(x, u, g, d), "Gate and up are swapped"),
    ("swiglu", lambda x, g, u, d: F.silu(x @ g.T) * F.silu(x @ u.T) @ d.T, "applied to both"),
    ("swiglu", lambda x, g, u, d: gated(x, g, u, d, lambda a: a), "There is no activation function"),
    ("swiglu", lambda x, g, u, d: gated(x, g, u, d, torch.sigmoid), "the sigmoid alone"),
    ("swiglu", lambda x, g, u, d: gated(x, u, g, d, torch.sigmoid), "The sigmoid was applied to x @ up.T"),
    ("swiglu", lambda x, g, u, d: F.silu((x @ g.T) * (x @ u.T)) @ d.T, "applied to the product"),
    ("swiglu", lambda x, g, u, d: (F.silu(x @ g.T) + x @ u.T) @ d.T, "The two were added"),
    ("swiglu", lambda x, g, u, d: gated(x, -g, u, d), "has the wrong sign"),
    ("swiglu", lambda x, g, u, d: gated(x, g, u, d, lambda a: a / (1 + a.exp())), "the sign of the exponent"),
    ("swiglu", lambda x, g, u, d: gated(x, g, u, d, torch.relu), "The gate has ReLU"),
    ("swiglu", lambda x, g, u, d: gated(x, g, u, d, torch.tanh), "The gate has tanh"),
    ("swiglu", lambda x, g, u, d: gated(x, g, u, d, F.gelu), "The gate has GELU"),
    ("swiglu", lambda x, g, u, d: F.silu(x @ g.T) @ d.T, "x @ up.T is missing"),
    ("swiglu", lambda x, g, u, d: x @ u.T @ d.T, "The gate is missing."),
    ("swiglu", lambda x, g, u, d: F.silu(x @ u.T) @ d.T, "an MLP of two matrices"),
    ("swiglu", lambda x, g, u, d: gated(x, g, u, d, silu_by_growth), "too large for a float"),
    ("swiglu", lambda x, g, u, d: gated(x.clamp(max=50), g, u, d), "the output for large numbers"),
    ("swiglu", lambda x, g, u, d: gated(x, g, u, d) + 0.1, "is not the output of SwiGLU"),
    ("swiglu", lambda x, g, u, d: x @ g, "stopped with RuntimeError"),
    ("swiglu", lambda x, g, u, d: F.silu(x @ g.T) * (x @ u.T), "of shape (2, 4), not (2, 3)"),
    ("block", lambda x, a, m, n1, n2: a(n1(x)) + m(n2(a(n1(x)))), "The first skip connection"),
    ("block", lambda x, a, m, n1, n2: m(n2(saw(x, a, n1))), "The second skip connection"),
    ("block", lambda x, a, m, n1, n2: m(n2(a(n1(x)))), "Both skip connections"),
    ("block", lambda x, a, m, n1, n2: x + m(n2(saw(x, a, n1))), "attention's result is lost"),
    ("block", lambda x, a, m, n1, n2: x + a(n1(x)) + m(n2(x)), "read the old x"),
    ("block", lambda x, a, m, n1, n2: x + a(n1(x)) + m(n1(x)), "side by side"),
    ("block", lambda x, a, m, n1, n2: x + a(n1(x)) + m(n2(a(n1(x)))), "read only attention's result"),
    ("block", lambda x, a, m, n1, n2: x + whole(x, a, m, n1, n2), "x was added twice"),
    ("block", lambda x, a, m, n1, n2: n2(n1(x + a(x)) + m(n1(x + a(x)))), "That is post-norm"),
    ("block", lambda x, a, m, n1, n2: x + n1(a(x)) + n2(m(x + n1(a(x)))), "come after the parts"),
    ("block", replaced, "The norms are in the residual stream"),
    (
        "block",
        lambda x, a, m, n1, n2: saw(n1(x), a, lambda y: y) + m(n2(saw(n1(x), a, lambda y: y))),
        "The first norm is in",
    ),
    (
        "block",
        lambda x, a, m, n1, n2: n2(saw(x, a, n1)) + m(n2(saw(x, a, n1))),
        "The second norm is in",
    ),
    ("block", lambda x, a, m, n1, n2: whole(x, a, m, n1, n1), "norm1 was used twice"),
    ("block", lambda x, a, m, n1, n2: whole(x, a, m, n2, n2), "norm2 was used twice"),
    ("block", lambda x, a, m, n1, n2: whole(x, a, m, n2, n1), "The norms are swapped"),
    ("block", lambda x, a, m, n1, n2: whole(x, a, m, lambda y: y, lambda y: y), "There are no norms"),
    ("block", lambda x, a, m, n1, n2: whole(x, a, m, lambda y: y, n2), "Attention read x without"),
    ("block", lambda x, a, m, n1, n2: whole(x, a, m, n1, lambda y: y), "The MLP read the stream without"),
    ("block", lambda x, a, m, n1, n2: whole(x, m, a, n2, n1), "The MLP came first"),
    ("block", lambda x, a, m, n1, n2: whole(x, m, a, n1, n2), "The parts are swapped"),
    ("block", lambda x, a, m, n1, n2: saw(x, a, n1), "The MLP was not used"),
    ("block", lambda x, a, m, n1, n2: saw(x, m, n2), "Attention was not used"),
    ("block", lambda x, a, m, n1, n2: n2(whole(x, a, m, n1, n2)), "one norm too many"),
    ("block", lambda x, a, m, n1, n2: x, "nothing was added to it"),
    ("block", lambda x, a, m, n1, n2: whole(x, a, m, n1, n2) + 0.1, "is not the output of a pre-norm block"),
    ("drop", while_training(lambda x, p, kept: x * kept), "smaller on average"),
    ("drop", while_training(lambda x, p, kept: x * kept * (1 - p)), "makes the output smaller still"),
    ("drop", while_training(lambda x, p, kept: x * kept / p), "You divided by p, "),
    ("drop", while_training(lambda x, p, kept: x * kept * (1 + p)), "multiplied by 1 + p"),
    ("drop", while_training(lambda x, p, kept: x * kept / kept.float().mean()), "fraction that happened to stay"),
    ("drop", while_training(lambda x, p, kept: x * ~kept / (1 - p)), "round: true means that the number stays."),
    ("drop", while_training(lambda x, p, kept: x * ~kept / p), "and so is p"),
    ("drop", while_training(lambda x, p, kept: x * ~kept), "and nothing was scaled up"),
    ("drop", while_training(lambda x, p, kept: x), "although `training` is true"),
    ("drop", while_training(lambda x, p, kept: x / (1 - p)), "`kept` was not used"),
    ("drop", while_training(lambda x, p, kept: torch.where(kept, x / (1 - p), x)), "here it stayed as it was"),
    ("drop", lambda x, p, kept, training: dropped(x, p, kept, True), "Numbers were dropped although"),
    ("drop", at_rest(lambda x, p, kept: x * kept), "Numbers were dropped although"),
    ("drop", at_rest(lambda x, p, kept: x * (1 - p)), "makes that needless"),
    ("drop", at_rest(lambda x, p, kept: x / (1 - p)), "nothing needs to be scaled up"),
    ("drop", at_rest(lambda x, p, kept: x * 0), "Everything was dropped"),
    ("drop", lambda x, p, kept, training: dropped(x, p, kept, training) + 1, "is not the output of dropout"),
    ("drop", lambda x, p, kept, training: x[kept] / (1 - p), "of shape (3,), not (5,)"),
    ("scale", lambda n: 1 / n, "That is 1 / n_layer"),
    ("scale", lambda n: n**-0.5, "right for one part in each block"),
    ("scale", lambda n: 1 / (2 * n), "the factor for the variance"),
    ("scale", lambda n: math.sqrt(2 * n), "larger instead of smaller"),
    ("scale", lambda n: 2 * n, "a factor for the variance"),
    ("scale", lambda n: 0.5**0.5, "does not depend on the depth"),
    ("scale", lambda n: math.sqrt(2 / n), "The 2 is on the wrong side"),
    ("scale", lambda n: 1 / (math.sqrt(2) * n), "Only the 2 is under the root"),
    ("scale", lambda n: 1 / (2 * math.sqrt(n)), "Only n_layer is under the root"),
    ("scale", lambda n: 1, "With the factor 1"),
    ("scale", lambda n: 0, "add nothing, as in a new block"),
    ("scale", lambda n: 0.3, "is not the factor for 6 blocks"),
    ("scale", lambda n: 12**-0.5, "is not the factor for 24 blocks"),
]


test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    check, RIGHT, MISTAKES
)


def test_answers_in_other_clothes_are_right():
    "PyTorch's own functions, double precision, and changes in place."

    def library(x, gain, eps, centered):
        return F.layer_norm(x, (4,), gain, eps=eps) if centered else F.rms_norm(x, (4,), gain, eps)

    def in_place(x, attention, mlp, norm1, norm2):
        x += attention(norm1(x))
        x += mlp(norm2(x))
        return x

    assert check.normalize(library)
    assert check.normalize(lambda x, gain, eps, c: norm(x.double(), gain.double(), eps, c))
    assert check.swiglu(lambda x, g, u, d: F.linear(F.silu(F.linear(x, g)) * F.linear(x, u), d))
    assert "in place: x." in check.block(in_place).message
    assert check.drop(lambda x, p, kept, training: torch.where(kept, x / (1 - p), 0.0) if training else x.clone())
    assert check.scale(lambda n: torch.tensor(2 * n).rsqrt())


def test_a_wrong_axis_is_named_with_the_token_that_shows_it_and_every_wrong_cell_is_drawn():
    over_time = check.normalize(lambda x, g, eps, c: norm(x, g, eps, c, dim=-2))
    assert "token 2 of text 0 has the root mean square 0.68" in over_time.message
    assert [line.count("!") for line in str(over_time.picture).splitlines()] == [4, 3, 4]
    over_batch = check.normalize(at(True, lambda x, g, eps: norm(x, g, eps, True, dim=0)))
    assert "has the standard deviation" in over_batch.message and str(over_batch.picture).count("!") > 8


def test_only_the_cells_that_are_wrong_are_drawn():
    def last_token_alone(x, *parts):
        return torch.cat([whole(x, *parts)[:2], x[2:]])

    assert [line.count("!") for line in str(check.block(last_token_alone).picture).splitlines()] == [0, 0, 2]
    drawn = str(check.drop(while_training(lambda x, p, kept: x * kept)).picture)
    assert [line.count("!") for line in drawn.splitlines()] == [3, 0]
