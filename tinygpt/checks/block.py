"""Checks for chapter 07: each typical mistake has a diagnosis of its own."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tinygpt.checks import Finding, checks
from tinygpt.checks.tensors import diagnose, grid, number, of_tensors, same, tensor
from tinygpt.show.pictures import Picture


def _differing(got: Tensor, right: Tensor) -> Picture:
    "What was returned, (rows, columns), with the wrong cells outlined."
    wrong = ~got.double().isclose(right.double(), rtol=1e-4, atol=1e-6, equal_nan=True)
    return grid(got, [f"token {i}" for i in range(len(got))], [str(i) for i in range(got.shape[1])], wrong)


def _norm(x: Tensor, gain: Tensor, eps: float, centered: bool, dim=-1, correction: int = 0) -> Tensor:
    dims = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    n = math.prod(x.shape[d] for d in dims) - correction
    x = x - x.mean(dim, keepdim=True) if centered else x
    return x / ((x**2).sum(dim, keepdim=True) / n + eps).sqrt() * gain


def _of_one_norm(answer, args: tuple):
    "One call of exercise 1, with the mistakes that both norms share."
    centered = args[3]
    x, gain, eps = torch.tensor(args[0]), torch.tensor(args[1]), args[2]
    seen = x - x.mean(-1, keepdim=True) if centered else x  # what is squared
    right, plain = _norm(x, gain, eps, centered), _norm(x, torch.ones(4), eps, centered)
    square = seen.square().mean(-1, keepdim=True)
    got, size = tensor(answer, *args, shape=tuple(x.shape)), "spread" if centered else "size"
    y = got / gain - (got / gain).mean(-1, keepdim=True) if centered else got / gain
    sizes = y.square().mean(-1).sqrt()  # (B, T): each should be 1
    b, t = divmod((sizes - 1).abs().nan_to_num(torch.inf).argmax().item(), x.shape[1])
    where = f"token {t} of text {b} has the {size} {sizes[b, t]:.2f} before the gain, and each should have 1. "
    axes = [
        (-2, "You went over time, dim=-2: so a token is measured by others, even by those to come."),
        (0, "You went over the batch, dim=0: so a text is measured by others that happen to stand beside it."),
        ((-2, -1), "You measured each text as a whole. Each token is normalised by itself: dim=-1."),
        ((0, 1), "You measured each column over all texts and tokens. Each token is normalised by itself: dim=-1."),
        (None, "You took all numbers at once. Each token is normalised by itself: dim=-1."),
    ]
    axes = [(_norm(x, gain, eps, centered, dim), where.capitalize() + words) for dim, words in axes]
    picture = _differing(got[0], right[0])
    if any(same(got, wrong) for wrong, _ in axes):
        picture = _differing(got[b], right[b])
    mistakes = [
        (plain, "The gain is missing: multiply by it at the end."),
        (plain + gain, "The gain was added. It is a factor: multiply by it."),
        (plain / gain, "It was divided by the gain. Multiply by it."),
        (seen / (square + eps) * gain, f"The root is missing: it was divided by the mean square, not by the {size}."),
        (
            seen * (square + eps).sqrt() * gain,
            f"It was multiplied by the {size}, so what is large gets larger. Divide.",
        ),
        (
            seen / (4 * square + eps).sqrt() * gain,
            "Under the root stands the sum of squares, not their mean: the more numbers, the smaller they come out.",
        ),
        (seen / (seen.abs().mean(-1, keepdim=True) + eps) * gain, "That is the mean of absolute values. Square first."),
    ]
    if centered:
        mistakes += [
            (_norm(x, gain, eps, False), "The mean is still there: with `centered`, it is taken away first."),
            (
                seen / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain,
                "The mean was taken away, but the spread was measured with the mean still in it.",
            ),
            (
                x / (square + eps).sqrt() * gain,
                "The spread was measured around the mean, but the mean itself was left in the numbers.",
            ),
            (
                _norm(x, gain, eps, True, correction=1),
                "That is the variance with n - 1, which `var` and `std` take unless told otherwise. Divide by n.",
            ),
            (seen * gain, "The mean was taken away, and nothing was divided by the spread."),
        ]
    else:
        mistakes += [
            (_norm(x, gain, eps, True), "The mean was taken away: that is a LayerNorm. Without `centered`, leave it."),
            (
                x / (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).add(eps).sqrt() * gain,
                "It was divided by the spread around the mean. An RMSNorm knows no mean: take the squares of x itself.",
            ),
        ]
    kind = "LayerNorm" if centered else "RMSNorm"
    diagnose(answer, args, got, right, axes + mistakes, f"what {kind} makes of x", picture)


@checks
def normalize(answer):
    "Exercise 1: each token by itself, n and not n - 1, the gain a factor, epsilon under the root."
    answer = of_tensors(answer)
    texts = [
        [[1.0, 7.0, 7.0, 2.0], [2.0, 0.0, 1.0, 5.0], [-1.0, 1.0, 2.0, -4.0]],
        [[0.5, 3.0, -2.0, 1.0], [4.0, 1.0, 0.0, -3.0], [1.0, -3.0, 2.0, 6.0]],
    ]
    gain, eps = [1.0, 2.0, 0.5, -1.0], 1e-8
    for centered in False, True:
        _of_one_norm(answer, (texts, gain, eps, centered))
    tiny = [[[0.001, -0.001, 0.003, -0.002]]]
    eps = 0.002
    for centered in False, True:
        args = tiny, gain, eps, centered
        x, g = torch.tensor(tiny), torch.tensor(gain)
        seen, right = x - x.mean(-1, keepdim=True) if centered else x, _norm(x, g, eps, centered)
        size = seen.square().mean(-1, keepdim=True).sqrt()
        said = "Your norm is right for ordinary numbers. But where they are tiny, eps decides: "
        mistakes = [
            (seen / (size + eps) * g, said + "it belongs under the root, beside the mean square, not beside the root."),
            (seen / size * g, said + "without it, a token of zeros would be 0 / 0. Add it under the root."),
            (
                seen / (size**2).clamp(min=eps).sqrt() * g,
                said + "it is added under the root, not put in place of what is smaller.",
            ),
            (seen / (size**2 + eps**2).sqrt() * g, said + "it was squared. Add eps itself, under the root."),
            (seen / (size + eps**0.5) * g, said + "its root was added to the root. Add it first, then take the root."),
            (seen / (size**2 + 1e-6).sqrt() * g, said + "take the eps that is given, here 0.002, not one of your own."),
            (seen / (size**2 + 1e-5).sqrt() * g, said + "take the eps that is given, here 0.002, not one of your own."),
        ]
        got = tensor(answer, *args, shape=(1, 1, 4))
        diagnose(answer, args, got, right, mistakes, "what comes of tiny numbers", _differing(got[0], right[0]))
    return "Each token by itself, and safe with zeros. The two norms differ in one line."


@checks
def swiglu(answer):
    "Exercise 2: SiLU at the gate alone, times the rest."
    answer = of_tensors(answer)
    x = [[1.0, -2.0, 0.5], [0.5, 3.0, -1.0]]
    gate = [[1.0, 0.5, -1.0], [-0.5, 1.0, 0.5], [2.0, 0.0, 1.0], [0.0, -1.0, 1.5]]
    up = [[0.5, -1.0, 1.0], [1.0, 1.0, 0.0], [-1.0, 0.5, 2.0], [1.5, 0.0, -0.5]]
    down = [[1.0, -0.5, 0.5, 1.0], [0.5, 1.0, -1.0, 0.0], [-1.0, 0.5, 1.0, 0.5]]
    args = x, gate, up, down
    a, b = (torch.tensor(x) @ torch.tensor(matrix).T for matrix in (gate, up))  # (T, hidden)
    back, silu = torch.tensor(down).T, F.silu
    mistakes = [
        (a * silu(b) @ back, "Gate and up are exchanged: SiLU bends x @ gate.T, and x @ up.T stays straight."),
        (silu(a) * silu(b) @ back, "SiLU stands on both. It belongs to the gate alone: x @ up.T stays straight."),
        (a * b @ back, "Nothing is bent: SiLU belongs to the gate, before the two are multiplied."),
        (a.sigmoid() * b @ back, "That is the sigmoid at the gate. SiLU is the number itself times its sigmoid."),
        (a * b.sigmoid() @ back, "That is the sigmoid of x @ up.T. SiLU bends the gate, and is a * sigmoid(a)."),
        (silu(a * b) @ back, "SiLU bends the product. It belongs to the gate, before the two are multiplied."),
        ((silu(a) + b) @ back, "The two were added. A gate multiplies."),
        (silu(-a) * b @ back, "The sign is turned: SiLU(a) is a / (1 + exp(-a)), positive where a is."),
        (-silu(-a) * b @ back, "That is a / (1 + exp(a)), open where it should be closed. The exponent is -a."),
        (a.relu() * b @ back, "That is ReLU at the gate. SiLU is round: a / (1 + exp(-a))."),
        (a.tanh() * b @ back, "That is tanh at the gate. SiLU is a / (1 + exp(-a))."),
        (F.gelu(a) * b @ back, "That is GELU at the gate. SiLU is a / (1 + exp(-a))."),
        (F.gelu(a, approximate="tanh") * b @ back, "That is GELU at the gate. SiLU is a / (1 + exp(-a))."),
        (silu(a) @ back, "x @ up.T is missing: what the gate lets pass is what comes from there."),
        (b @ back, "The gate is missing: multiply by SiLU of x @ gate.T."),
        (silu(b) @ back, "The gate is missing, and x @ up.T is bent: that is a network of two matrices."),
    ]
    right = silu(a) * b @ back
    got = tensor(answer, *args, shape=(2, 3))
    diagnose(answer, args, got, right, mistakes, "what a gated network returns", _differing(got, right))
    large = [[300.0, -200.0, 100.0]]
    got = tensor(answer, large, gate, up, down, shape=(1, 3))
    if not got.isfinite().all():
        raise Finding(
            "For numbers of some hundred it returned "
            + ", ".join(f"{y:g}" for y in got[0].tolist())
            + ": e to the power "
            "of 100 is too large for a float, and divided by itself it is no number. Write a / (1 + exp(-a))."
        )
    wide = torch.tensor(large)
    a, b = (wide @ torch.tensor(matrix).T for matrix in (gate, up))
    diagnose(answer, (large, gate, up, down), got, silu(a) * b @ back, [], "what it returns for large numbers")
    return "One matrix makes, one decides, and only the second is bent."


class _Part:
    "A part of a block, as the learner's function gets it."

    def __init__(self, name: str, function):
        self.name, self.function = name, function

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)

    def __repr__(self):
        return self.name

    def __deepcopy__(self, memo):
        return self


def _toy_norm(name: str, *gain: float) -> _Part:
    return _Part(name, lambda x: x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * torch.tensor(gain))


def _toy_attention(x: Tensor) -> Tensor:
    past = torch.ones(len(x), len(x)).tril()
    return past / past.sum(1, keepdim=True) @ x @ torch.tensor([[0.5, 1.0], [-1.0, 0.5]])


def _toy_mlp(x: Tensor) -> Tensor:
    return (x @ torch.tensor([[1.0, -1.0, 0.5], [0.5, 1.0, -1.0]])).relu() @ torch.tensor(
        [[1.0, 0.5], [-0.5, 1.0], [1.0, -1.0]]
    )


@checks
def block(answer):
    "Exercise 3: two parts, each reads a normed copy and adds; the second reads the sum."
    answer = of_tensors(answer)
    look, think = _Part("attention", _toy_attention), _Part("mlp", _toy_mlp)
    n1, n2 = _toy_norm("norm1", 1.0, 2.0), _toy_norm("norm2", 1.5, 0.5)
    given = [[1.0, 2.0], [-3.0, 0.5], [0.5, -1.0]]
    args, x = (given, look, think, n1, n2), torch.tensor(given)
    saw = look(n1(x))
    both, normed, post = x + saw, n1(x), n1(x + look(x))
    second = x + think(n2(x))
    late = x + n1(look(x))
    normed_twice = n2(normed + look(normed))
    unnormed = x + look(x)
    mistakes = [
        (saw + think(n2(saw)), "The first residual is missing: attention replaced x. Add what it saw to x."),
        (think(n2(both)), "The second residual is missing: the MLP replaced the stream. Add what it made to it."),
        (think(n2(saw)), "Both residuals are missing: each part replaced what it got. Add what they return."),
        (
            x + think(n2(both)),
            "The MLP's part was added to x, so what attention saw is lost. Add it to the sum of the two.",
        ),
        (both + think(n2(x)), "The MLP read norm2(x), the old x. It should read the sum: norm2(x + what was seen)."),
        (
            both + think(normed),
            "Both parts read the same norm1(x), side by side. The MLP should read norm2 of the sum.",
        ),
        (
            both + think(n2(saw)),
            "The MLP read only what attention saw, without x. It reads the stream, which is their sum.",
        ),
        (x + both + think(n2(both)), "x was added twice: the second sum starts from the first, which has x in it."),
        (
            n2(post + think(post)),
            "That is post-norm: each norm stands after its addition. Put it in front of the part.",
        ),
        (
            late + n2(think(late)),
            "The norms stand behind the parts, in the branches. Each part should read a normed copy.",
        ),
        (
            normed_twice + think(normed_twice),
            "The norms stand in the residual stream: x was replaced by its norm. "
            "Only what a part reads is normed, not x itself.",
        ),
        (
            normed + look(normed) + think(n2(normed + look(normed))),
            "The first norm stands in the residual stream: attention's part was added to norm1(x). Add it to x.",
        ),
        (
            n2(both) + think(n2(both)),
            "The second norm stands in the residual stream: the MLP's part was added to norm2 of the sum. "
            "Add it to the sum.",
        ),
        (both + think(n1(both)), "norm1 was used twice. The second part has a norm of its own, norm2."),
        (
            x + look(n2(x)) + think(n2(x + look(n2(x)))),
            "norm2 was used twice. The first part has a norm of its own, norm1.",
        ),
        (x + look(n2(x)) + think(n1(x + look(n2(x)))), "The norms are exchanged: norm1 is that of attention."),
        (unnormed + think(unnormed), "There are no norms: each part should read a normed copy."),
        (unnormed + think(n2(unnormed)), "Attention read x as it is. It should read norm1(x)."),
        (both + think(both), "The MLP read the sum as it is. It should read norm2 of it."),
        (second + look(n1(second)), "The MLP came first. First look, then think."),
        (
            x + think(n1(x)) + look(n2(x + think(n1(x)))),
            "The parts are exchanged: attention comes first, and the MLP reads what it added to.",
        ),
        (both, "The MLP was not asked: only attention's part was added."),
        (second, "Attention was not asked: only the MLP's part was added."),
        (n2(both + think(n2(both))), "There is a norm too many, after the last addition: the stream itself stays raw."),
        (x, "That is x itself: nothing was added to it."),
    ]
    right = both + think(n2(both))
    got = tensor(answer, *args, shape=(3, 2))
    diagnose(answer, args, got, right, mistakes, "what a block returns", _differing(got, right))
    return "Two readings, two additions, and nothing else in the residual stream."


@checks
def drop(answer):
    "Exercise 4: thrown away and divided by 1 - p while training, and nothing else."
    answer = of_tensors(answer)
    given, p, kept = [2.0, -1.0, 4.0, 3.0, -5.0], 0.2, [True, False, True, True, False]
    x, k = torch.tensor(given), torch.tensor(kept)
    training = [
        (x * k, "Nothing was divided by 1 - p: so what comes out is smaller, on average, than without dropout."),
        (x * k * (1 - p), "It was multiplied by 1 - p, which makes it smaller still. Divide."),
        (x * k / p, "It was divided by p. What stays has the probability 1 - p: divide by that."),
        (x * k * (1 + p), "It was multiplied by 1 + p, which is nearly right for a small p. Divide by 1 - p."),
        (x * k * 5 / 3, "It was divided by the share that happened to stay. Divide by 1 - p, whatever happened."),
        (x * ~k / (1 - p), "It is the other way round: where `kept` is true, the number stays."),
        (x * ~k / p, "It is the other way round: where `kept` is true, the number stays, and 1 - p is its chance."),
        (x * ~k, "It is the other way round, and nothing was divided by 1 - p. Where `kept` is true, a number stays."),
        (x, "Nothing was thrown away, although `training` is true."),
        (x / (1 - p), "Nothing was thrown away, only divided: `kept` was not asked."),
        (torch.where(k, x / (1 - p), x), "What is thrown away becomes 0; here it stayed as it was."),
    ]
    resting = [
        (x * k / (1 - p), "Numbers were thrown away although `training` is false. Then x stays as it is."),
        (x * k, "Numbers were thrown away although `training` is false. Then x stays as it is."),
        (x * (1 - p), "Outside of training it was multiplied by 1 - p. The division in training saves us that."),
        (x / (1 - p), "Outside of training nothing is thrown away, so nothing is to be made up for: do not divide."),
        (x * 0, "Outside of training everything was thrown away. Then x stays as it is."),
    ]
    for on, right, mistakes in (True, x * k / (1 - p), training), (False, x, resting):
        args = given, p, kept, on
        got = tensor(answer, *args, shape=(5,))
        both = torch.stack([got, right]) + 0.0  # no -0.00 in the picture
        wrong = torch.stack([~got.double().isclose(right.double(), rtol=1e-4, atol=1e-6), torch.zeros(5).bool()])
        picture = grid(both, ["yours", "wanted"], [str(i) for i in range(5)], wrong)
        diagnose(answer, args, got, right, mistakes, "what dropout returns", picture)
    return "The same on average, and nothing to do when the learning is over."


@checks
def scale(answer):
    "Exercise 5: 1 / sqrt(2 n_layer)."
    n = 6
    mistakes = [
        (1 / n, "That is 1 / n_layer. Scaling by s makes the variance s² as large; and a block has two parts."),
        (1 / math.sqrt(n), "That would do for one part in each block. A block has two."),
        (1 / (2 * n), "That is the factor for the variance. For the numbers themselves, take its root."),
        (math.sqrt(2 * n), "That makes each part louder. One divided by it makes it quieter."),
        (2 * n, "That makes each part louder, and is a variance besides."),
        (1 / math.sqrt(2), "That does not depend on the depth: it would do for a single block."),
        (math.sqrt(2 / n), "The 2 stands on the wrong side: there are 2 n_layer parts to share the variance."),
        (1 / (math.sqrt(2) * n), "Only the 2 is under the root. Both are: there are 2 n_layer parts."),
        (1 / (2 * math.sqrt(n)), "Only n_layer is under the root. Both are: there are 2 n_layer parts."),
        (1.0, "Nothing is made quieter: so all parts together add 2 n_layer times v."),
        (0.0, "With zero the parts add nothing, as in a new `GPT`. Here they should add v, all together."),
    ]
    for n_layer, known in (n, mistakes), (24, []):
        right = (2 * n_layer) ** -0.5
        diagnose(answer, (n_layer,), number(answer, n_layer), right, known, f"the factor for {n_layer} blocks")
    return "Variances add up, and there are 2 n_layer of them to share v."
