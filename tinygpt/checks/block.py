"""Checks of the chapter Block: each typical mistake has its own diagnosis."""

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
    got, size = tensor(answer, *args, shape=tuple(x.shape)), "standard deviation" if centered else "root mean square"
    y = got / gain - (got / gain).mean(-1, keepdim=True) if centered else got / gain
    sizes = y.square().mean(-1).sqrt()  # (B, T): each should be 1
    b, t = divmod((sizes - 1).abs().nan_to_num(torch.inf).argmax().item(), x.shape[1])
    where = f"Before the gain, token {t} of text {b} has the {size} {sizes[b, t]:.2f}; it should be 1."
    axes = [
        (-2, "You averaged over time (dim=-2), so each token depends on others, even on later ones."),
        (0, "You averaged over the batch (dim=0), so each text depends on the others in the batch."),
        ((-2, -1), "You averaged over each whole text. Each token is normalised on its own."),
        ((0, 1), "You averaged each column over all texts and tokens. Each token is normalised on its own."),
        (None, "You averaged over all numbers at once. Each token is normalised on its own."),
    ]
    axes = [(_norm(x, gain, eps, centered, dim), f"{words} {where}") for dim, words in axes]
    picture = _differing(got[0], right[0])
    if any(same(got, wrong) for wrong, _ in axes):
        picture = _differing(got[b], right[b])
    mistakes = [
        (plain, "The gain is missing."),
        (plain + gain, "The gain was added, but it is a factor."),
        (plain / gain, "The result was divided by the gain."),
        (seen / (square + eps) * gain, f"The root is missing: you divided by the mean square, not by the {size}."),
        (
            seen * (square + eps).sqrt() * gain,
            f"You multiplied by the {size}, so large numbers get larger.",
        ),
        (
            seen / (4 * square + eps).sqrt() * gain,
            "You used the sum of squares instead of their mean, so a longer vector gives smaller numbers.",
        ),
        (
            seen / (seen.abs().mean(-1, keepdim=True) + eps) * gain,
            "You divided by the mean of the absolute values. These norms use squares.",
        ),
    ]
    if centered:
        mistakes += [
            (_norm(x, gain, eps, False), "The mean was not subtracted, although `centered` is true."),
            (
                seen / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain,
                "The mean was subtracted, but the squares were taken before that.",
            ),
            (
                x / (square + eps).sqrt() * gain,
                "You divided by the right number, but the mean was not subtracted from x.",
            ),
            (
                _norm(x, gain, eps, True, correction=1),
                "That is the variance with n - 1 (the default of `var` and `std`). A norm divides by n.",
            ),
            (seen * gain, "The mean was subtracted, but nothing was divided."),
        ]
    else:
        mistakes += [
            (_norm(x, gain, eps, True), "The mean was subtracted although `centered` is false: that is a LayerNorm."),
            (
                x / (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).add(eps).sqrt() * gain,
                "You divided by the standard deviation. An RMSNorm does not use the mean at all.",
            ),
        ]
    kind = "LayerNorm" if centered else "RMSNorm"
    diagnose(answer, args, got, right, axes + mistakes, f"the {kind} of x", picture)


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
        said = "Your norm is right for ordinary numbers, but not for tiny ones, where eps matters. "
        mistakes = [
            (seen / (size + eps) * g, said + "You added eps to the root, not under it."),
            (seen / size * g, said + "Without eps, a token of zeros gives 0 / 0."),
            (
                seen / (size**2).clamp(min=eps).sqrt() * g,
                said + "eps is added to the mean square; it does not replace smaller values.",
            ),
            (seen / (size**2 + eps**2).sqrt() * g, said + "You added the square of eps."),
            (seen / (size + eps**0.5) * g, said + "You took the root of eps separately."),
            (seen / (size**2 + 1e-6).sqrt() * g, said + "Use the eps that is passed in, here 0.002."),
            (seen / (size**2 + 1e-5).sqrt() * g, said + "Use the eps that is passed in, here 0.002."),
        ]
        got = tensor(answer, *args, shape=(1, 1, 4))
        diagnose(answer, args, got, right, mistakes, "the norm of tiny numbers", _differing(got[0], right[0]))
    return "Each token is normalised on its own, and zeros are safe. The two norms differ in one line."


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
        (a * silu(b) @ back, "Gate and up are swapped: SiLU belongs to the gate."),
        (silu(a) * silu(b) @ back, "SiLU was applied to both. Only the gate has an activation function."),
        (a * b @ back, "There is no activation function: apply SiLU to the gate."),
        (a.sigmoid() * b @ back, "The gate has the sigmoid alone. SiLU multiplies it by the number itself."),
        (a * b.sigmoid() @ back, "The sigmoid was applied to x @ up.T. SiLU belongs to the gate."),
        (silu(a * b) @ back, "SiLU was applied to the product. It belongs to the gate, before the multiplication."),
        ((silu(a) + b) @ back, "The two were added, but a gate multiplies."),
        (silu(-a) * b @ back, "The gate has the wrong sign: SiLU(a) is positive where a is positive."),
        (-silu(-a) * b @ back, "The gate is open where it should be closed: check the sign of the exponent."),
        (a.relu() * b @ back, "The gate has ReLU, not SiLU."),
        (a.tanh() * b @ back, "The gate has tanh, not SiLU."),
        (F.gelu(a) * b @ back, "The gate has GELU, not SiLU."),
        (F.gelu(a, approximate="tanh") * b @ back, "The gate has GELU, not SiLU."),
        (silu(a) @ back, "x @ up.T is missing: the gate has nothing to multiply."),
        (b @ back, "The gate is missing."),
        (silu(b) @ back, "The gate is missing, and x @ up.T has SiLU: that is an MLP of two matrices."),
    ]
    right = silu(a) * b @ back
    got = tensor(answer, *args, shape=(2, 3))
    diagnose(answer, args, got, right, mistakes, "the output of SwiGLU", _differing(got, right))
    large = [[300.0, -200.0, 100.0]]
    got = tensor(answer, large, gate, up, down, shape=(1, 3))
    if not got.isfinite().all():
        numbers = ", ".join(f"{y:g}" for y in got[0].tolist())
        raise Finding(
            f"It returned {numbers} for numbers of a few hundred. exp(100) is too large for a float, and infinity "
            "divided by infinity is not a number. Write SiLU so that exp gets a negative number here."
        )
    wide = torch.tensor(large)
    a, b = (wide @ torch.tensor(matrix).T for matrix in (gate, up))
    diagnose(answer, (large, gate, up, down), got, silu(a) * b @ back, [], "the output for large numbers")
    return "One matrix computes the numbers, the other how much of each passes."


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
        (saw + think(n2(saw)), "The first skip connection is missing: attention's result replaced x."),
        (think(n2(both)), "The second skip connection is missing: the MLP's result replaced the stream."),
        (think(n2(saw)), "Both skip connections are missing: each part replaced the stream."),
        (
            x + think(n2(both)),
            "The MLP's result was added to the old x, so attention's result is lost.",
        ),
        (both + think(n2(x)), "The MLP read the old x. It should read the stream after attention's result was added."),
        (
            both + think(normed),
            "Both parts read the same norm1(x), side by side. The MLP comes after attention.",
        ),
        (
            both + think(n2(saw)),
            "The MLP read only attention's result, without x.",
        ),
        (x + both + think(n2(both)), "x was added twice: the sum after attention already contains it."),
        (
            n2(post + think(post)),
            "That is post-norm: each norm comes after an addition. In pre-norm it comes before a part.",
        ),
        (
            late + n2(think(late)),
            "The norms come after the parts. In pre-norm they come before.",
        ),
        (
            normed_twice + think(normed_twice),
            "The norms are in the residual stream: x itself was replaced by its norm. "
            "Only the copy that a part reads is normalised.",
        ),
        (
            normed + look(normed) + think(n2(normed + look(normed))),
            "The first norm is in the residual stream: attention's result was added to norm1(x).",
        ),
        (
            n2(both) + think(n2(both)),
            "The second norm is in the residual stream: the MLP's result was added to a normalised sum.",
        ),
        (both + think(n1(both)), "norm1 was used twice. The MLP has its own norm."),
        (
            x + look(n2(x)) + think(n2(x + look(n2(x)))),
            "norm2 was used twice. Attention has its own norm.",
        ),
        (x + look(n2(x)) + think(n1(x + look(n2(x)))), "The norms are swapped."),
        (unnormed + think(unnormed), "There are no norms: each part reads a normalised copy."),
        (unnormed + think(n2(unnormed)), "Attention read x without a norm."),
        (both + think(both), "The MLP read the stream without a norm."),
        (second + look(n1(second)), "The MLP came first. Attention comes before it."),
        (
            x + think(n1(x)) + look(n2(x + think(n1(x)))),
            "The parts are swapped: attention comes first.",
        ),
        (both, "The MLP was not used: only attention's result was added."),
        (second, "Attention was not used: only the MLP's result was added."),
        (n2(both + think(n2(both))), "There is one norm too many, after the last addition."),
        (x, "That is x itself: nothing was added to it."),
    ]
    right = both + think(n2(both))
    got = tensor(answer, *args, shape=(3, 2))
    diagnose(answer, args, got, right, mistakes, "the output of a pre-norm block", _differing(got, right))
    return "Two parts read, two results are added, and the residual stream has nothing else on it."


@checks
def drop(answer):
    "Exercise 4: dropped and divided by 1 - p in training, and unchanged otherwise."
    answer = of_tensors(answer)
    given, p, kept = [2.0, -1.0, 4.0, 3.0, -5.0], 0.2, [True, False, True, True, False]
    x, k = torch.tensor(given), torch.tensor(kept)
    training = [
        (x * k, "The output is smaller on average than without dropout: the numbers that stay are not scaled up."),
        (x * k * (1 - p), "You multiplied by 1 - p, which makes the output smaller still."),
        (x * k / p, "You divided by p, which is the probability to be dropped, not to stay."),
        (x * k * (1 + p), "You multiplied by 1 + p. That is nearly right for a small p, but not exact."),
        (x * k * 5 / 3, "You divided by the fraction that happened to stay, not by the probability."),
        (x * ~k / (1 - p), "`kept` is used the wrong way round: true means that the number stays."),
        (x * ~k / p, "`kept` is used the wrong way round, and so is p: true means that the number stays."),
        (x * ~k, "`kept` is used the wrong way round (true means that the number stays), and nothing was scaled up."),
        (x, "Nothing was dropped, although `training` is true."),
        (x / (1 - p), "Nothing was dropped, only divided: `kept` was not used."),
        (torch.where(k, x / (1 - p), x), "A dropped number becomes 0; here it stayed as it was."),
    ]
    resting = [
        (x * k / (1 - p), "Numbers were dropped although `training` is false."),
        (x * k, "Numbers were dropped although `training` is false."),
        (x * (1 - p), "When `training` is false, x was multiplied by 1 - p. Scaling in training makes that needless."),
        (x / (1 - p), "When `training` is false, nothing is dropped, so nothing needs to be scaled up."),
        (x * 0, "Everything was dropped, although `training` is false."),
    ]
    for on, right, mistakes in (True, x * k / (1 - p), training), (False, x, resting):
        args = given, p, kept, on
        got = tensor(answer, *args, shape=(5,))
        both = torch.stack([got, right]) + 0.0  # no -0.00 in the picture
        wrong = torch.stack([~got.double().isclose(right.double(), rtol=1e-4, atol=1e-6), torch.zeros(5).bool()])
        picture = grid(both, ["yours", "wanted"], [str(i) for i in range(5)], wrong)
        diagnose(answer, args, got, right, mistakes, "the output of dropout", picture)
    return "The average stays the same, and after training there is nothing to do."


@checks
def scale(answer):
    "Exercise 5: 1 / sqrt(2 n_layer)."
    n = 6
    mistakes = [
        (1 / n, "That is 1 / n_layer. A factor of s changes the variance by s², and a block has two parts."),
        (1 / math.sqrt(n), "That is right for one part in each block, but a block has two."),
        (1 / (2 * n), "That is the factor for the variance. Which factor for the numbers gives it?"),
        (math.sqrt(2 * n), "That makes each part larger instead of smaller."),
        (2 * n, "That makes each part larger, and it is a factor for the variance."),
        (1 / math.sqrt(2), "That does not depend on the depth. It is right for a single block only."),
        (math.sqrt(2 / n), "The 2 is on the wrong side of the fraction: how many parts are there?"),
        (1 / (math.sqrt(2) * n), "Only the 2 is under the root. How many parts share the variance?"),
        (1 / (2 * math.sqrt(n)), "Only n_layer is under the root. How many parts share the variance?"),
        (1.0, "With the factor 1 nothing changes, and all parts together add much more than v."),
        (0.0, "With 0 the parts add nothing, as in a new block of ours. Here they should add v in total."),
    ]
    for n_layer, known in (n, mistakes), (24, []):
        right = (2 * n_layer) ** -0.5
        diagnose(answer, (n_layer,), number(answer, n_layer), right, known, f"the factor for {n_layer} blocks")
    return "Variances add up, and 2 n_layer parts share v."
