"""Checks for chapter 09: each typical mistake has a diagnosis of its own."""

import torch
from torch import Tensor, nn

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.checks.tensors import diagnose, grid, number, of_tensors, same, tensor
from tinygpt.gpt import GPT, GPTConfig
from tinygpt.show.pictures import Picture


def _averages(g: Tensor, m: Tensor, v: Tensor, beta1: float, beta2: float) -> tuple[Tensor, Tensor]:
    return beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2


def _direction(m: Tensor, v: Tensor, seen1: float, seen2: float, eps: float) -> Tensor:
    "The step before its rate, if the averages have seen these shares."
    return m / seen1 / ((v / seen2).sqrt() + eps)


def _rows(names: list[str], got: Tensor, right: Tensor) -> Picture:
    "What was returned over what is wanted, with the wrong numbers outlined."
    wrong = ~got.double().isclose(right.double(), rtol=1e-4, atol=1e-6)
    marked = torch.stack([wrong, torch.zeros_like(wrong)])
    return grid(torch.stack([got, right]) + 0.0, ["yours", "wanted"], names, marked)


@checks
def adamw_step(answer):
    "Exercise 1: both averages with the new gradient, both corrected, decay apart, eps beside the root."
    answer = of_tensors(answer, in_place=True)
    given = [1.0, -2.0, 4.0], [0.5, 2.0, -3.0], [0.3, -0.4, 1.0], [0.5, 1.5, 4.0]
    t, lr, beta1, beta2, eps, decay = 3, 0.25, 0.8, 0.95, 1e-8, 0.5
    p, g, old_m, old_v = map(torch.tensor, given)
    m, v = _averages(g, old_m, old_v, beta1, beta2)
    seen1, seen2 = 1 - beta1**t, 1 - beta2**t
    kept, step = (1 - lr * decay) * p, _direction(m, v, seen1, seen2, eps)

    def walked(m: Tensor, v: Tensor, power: int = t) -> Tensor:
        return kept - lr * _direction(m, v, 1 - beta1**power, 1 - beta2**power, eps)

    coupled = _direction(*_averages(g + decay * p, old_m, old_v, beta1, beta2), seen1, seen2, eps)
    turned_m, turned_v = (1 - beta1) * old_m + beta1 * g, (1 - beta2) * old_v + beta2 * g**2
    other_m, other_v = _averages(g, old_m, old_v, beta2, beta1)
    mistakes = [
        (
            kept - lr * _direction(m, v, 1, 1, eps),
            "Neither average is corrected: they began at zero and have seen only the share 1 - beta**t. Divide by it.",
        ),
        (kept - lr * _direction(m, v, seen1, 1, eps), "Only m is corrected. v began at zero, too."),
        (kept - lr * _direction(m, v, 1, seen2, eps), "Only v is corrected. m began at zero, too."),
        (
            kept - lr * _direction(m, v, 1 / seen1, 1 / seen2, eps),
            "The averages were multiplied by 1 - beta**t. They are too small at first: divide.",
        ),
        (walked(m, v, t - 1), "The correction is one step behind, as if t were counted from 0. Here the first t is 1."),
        (walked(m, v, t + 1), "The correction is one step ahead: t already counts this step."),
        (
            kept - lr * _direction(m, v, beta1**t, beta2**t, eps),
            "The averages were divided by beta**t, the share that they have *not* seen. They saw 1 - beta**t.",
        ),
        (
            kept - lr * _direction(m, v, 1 - beta1, 1 - beta2, eps),
            "The correction is that of the first step, whatever t is. It fades: 1 - beta**t.",
        ),
        (
            kept - lr * _direction(other_m, other_v, 1 - beta2**t, 1 - beta1**t, eps),
            "The betas are exchanged: beta1 is that of m, the average of g, and beta2 that of v, the average of g**2.",
        ),
        (
            walked(turned_m, turned_v),
            "beta and 1 - beta are exchanged: so the newest gradient counts most, and the past is nearly forgotten.",
        ),
        (walked(old_m, old_v), "The step was made with the averages from before. First let both see g."),
        (walked(m, old_v), "v has not seen the new gradient: only m was brought up to date."),
        (walked(old_m, v), "m has not seen the new gradient: only v was brought up to date."),
        (
            walked(m, beta2 * old_v + (1 - beta2) * g),
            "v was given g as it is. It is the average of its square, so that signs do not cancel.",
        ),
        (walked(old_m + g, old_v + g**2), "g was added to the averages whole. It counts 1 - beta, and the past beta."),
        (
            walked(beta1 * old_m + g, beta2 * old_v + g**2),
            "The past is multiplied by beta, but g counts whole. In an average it counts 1 - beta.",
        ),
        (
            kept - lr * g / ((v / seen2).sqrt() + eps),
            "The gradient itself was divided by the root of v. The step goes along its average, m.",
        ),
        (
            kept - lr * (m / seen1) / (v / seen2 + eps),
            "The root is missing: m was divided by v, so where gradients are large, steps get tiny.",
        ),
        (kept - lr * m / seen1, "Nothing was divided by the root of v: that is momentum, with one rate for all."),
        (kept - lr * g, "That is plain descent: neither of the averages was used."),
        (
            p - lr * coupled,
            "The decay was added to the gradient, so it was divided by the root of v with it. It stands apart.",
        ),
        (kept - lr * coupled, "The decay came twice: once in the gradient, and once apart from it. Only apart."),
        (p - lr * step, "The decay is missing: shrink p by the share lr * decay."),
        ((1 - decay) * p - lr * step, "The decay goes without the rate. The share that is lost is lr * decay."),
        ((1 - lr) * p - lr * step, "p was shrunk by lr alone. The share that is lost is lr * decay."),
        ((1 + lr * decay) * p - lr * step, "The decay has the wrong sign: the weights grow."),
        (lr * decay * p - lr * step, "p was multiplied by lr * decay. That is the share lost; 1 - lr * decay stays."),
        (
            (1 - lr * decay) * (p - lr * step),
            "The decay came after the step and shrank that, too. Shrink p as it was given.",
        ),
        (p - lr * decay - lr * step, "The same amount was taken from every weight. Decay takes a share of each."),
        (kept + lr * step, "The step goes uphill. Subtract it."),
        (kept - step, "The rate is missing from the step."),
        (-lr * step, "That is the step alone. Return the weights after it."),
        (lr * step, "That is the step alone, and without its sign. Return the weights after it."),
    ]
    args, right = (*given, t, lr, beta1, beta2, eps, decay), kept - lr * step
    got = tensor(answer, *args, shape=(3,))
    names = [f"weight {i}" for i in range(3)]
    diagnose(answer, args, got, right, mistakes, "what AdamW makes of p", _rows(names, got, right))
    _first_step(answer)
    _quiet_gradients(answer)
    return "Both averages, both corrected, and the decay apart from all that."


def _first_step(answer):
    "The first step, and weights that never had a gradient."
    args = [1.0, 1.0, 1.0], [3.0, -0.2, 0.0], [0.0] * 3, [0.0] * 3, 1, 0.5, 0.9, 0.99, 1e-8, 0.0
    got = tensor(answer, *args, shape=(3,))
    no_eps = [0.5, 1.5, torch.nan], "Without eps, a weight that never had a gradient is 0 / 0, as the last one here."
    diagnose(answer, args, got, [0.5, 1.5, 1.0], [no_eps], "the first step: by lr, against the sign of each gradient")


def _quiet_gradients(answer):
    "Where gradients are tiny, eps decides."
    given = [1.0, -1.0], [0.001, -0.002], [0.0, 0.0], [0.0, 0.0]
    t, lr, beta1, beta2, eps = 2, 0.5, 0.8, 0.95, 0.001
    p, g, m, v = map(torch.tensor, given)
    m, v = _averages(g, m, v, beta1, beta2)
    m, v, raw = m / (1 - beta1**t), v / (1 - beta2**t), v
    said = "Your step is right for ordinary gradients. But where they are tiny, eps decides: "
    mistakes = [
        (p - lr * m / (v + eps).sqrt(), said + "it stands beside the root, not under it."),
        (
            p - lr * m / (raw.sqrt() + eps) * (1 - beta2**t) ** 0.5,
            said + "it was added before v was corrected. First correct v, then take the root, then add eps.",
        ),
        (p - lr * m / (v.sqrt() + 1e-8), said + "take the eps that is given."),
        (p - lr * m / v.sqrt().clamp(min=eps), said + "it is added to the root, not put in place of a smaller one."),
    ]
    args, right = (*given, t, lr, beta1, beta2, eps, 0.0), p - lr * m / (v.sqrt() + eps)
    got = tensor(answer, *args, shape=(2,))
    diagnose(answer, args, got, right, mistakes, "what AdamW makes of tiny gradients")


@checks
def share(answer):
    "Exercise 2: up, flat, down, and no step at rate 0."
    steps, warmup, fall = 12, 4, 5

    def curve(up=lambda i: (i + 1) / warmup, down=lambda i: (steps - i) / fall, top: float = 1) -> list[float]:
        return [min(up(i), top, down(i)) for i in range(steps)]

    full, right = lambda i: 1.0, curve()
    mistakes = [
        (
            curve(up=lambda i: i / warmup),
            "The first step has the rate 0, so it is wasted, and the warm-up ends one step late. "
            "Steps are counted from 0: the first has done 1 of them, not 0.",
        ),
        (
            curve(up=lambda i: i / (warmup - 1)),
            "The first step has the rate 0, so it is wasted: begin with 1 / warmup.",
        ),
        (
            curve(up=lambda i: (i + 1) / (warmup + 1)),
            "The warm-up takes a step too many: its last step, number warmup - 1, should have the full rate.",
        ),
        (
            curve(down=lambda i: (steps - 1 - i) / fall),
            "The last step has the rate 0, so it is wasted, and the fall begins one step early. "
            "The last step is number steps - 1: one is left for it.",
        ),
        (
            curve(down=lambda i: (steps - 1 - i) / (fall - 1)),
            "The last step has the rate 0, so it is wasted: it is the step after it that would have 0.",
        ),
        (
            curve(down=lambda i: (steps - i) / (fall + 1)),
            "The fall begins one step early: its first step, number steps - fall, should still have the full rate.",
        ),
        (
            curve(down=lambda i: (steps + 1 - i) / (fall + 1)),
            "The fall ends one step late: its last step has 2 / (fall + 1), and should have 1 / fall.",
        ),
        (
            curve(down=lambda i: (steps + 1 - i) / fall),
            "The fall begins one step late. Of its fall steps the first is number steps - fall, and has 1 already.",
        ),
        (curve(up=full), "There is no warm-up: the first step has the full rate."),
        (curve(down=full), "It never falls: the last step still has the full rate."),
        (curve(up=full, down=full), "That is 1 at every step: it neither rises nor falls."),
        (
            curve(down=lambda i: (steps - i) / (steps - warmup)),
            "It falls from the end of the warm-up on. Only the last `fall` steps fall.",
        ),
        (
            curve(down=lambda i: (steps - i) / (steps - fall)),
            "It falls from step number `fall` on. It is the last `fall` steps that fall.",
        ),
        (curve(top=float("inf")), "In the middle it goes above 1. Nothing is faster than the full rate."),
        (
            [right[steps - 1 - i] for i in range(steps)],
            "It is the wrong way round: it rises over `fall` steps and falls over `warmup`.",
        ),
    ]
    got = torch.tensor([number(answer, i, steps, warmup, fall) for i in range(steps)], dtype=torch.float64)
    picture = _rows([str(i) for i in range(steps)], got, torch.tensor(right, dtype=torch.float64))
    if not same(got, torch.tensor(right)):
        for wrong, diagnosis in mistakes:
            if same(got, torch.tensor(wrong)):
                raise Finding(diagnosis, picture)
        i = (got - torch.tensor(right)).abs().nan_to_num(torch.inf).argmax().item()
        raise Finding(f"{call(answer, i, steps, warmup, fall)} returned {got[i]:.4g}, not {right[i]:.4g}.", picture)
    for args, wanted in ((0, 6, 0, 3), 1), ((5, 6, 2, 0), 1), ((0, 1, 1, 1), 1), ((7, 9, 3, 6), 1 / 3):
        got = number(answer, *args)
        if not same(torch.tensor(got), torch.tensor(wanted)):
            said = f"{call(answer, *args)} returned {got:.4g}, not {wanted:.4g}."
            raise Finding(f"{said} Where there is no warm-up, or no fall, it has the full rate.")
    return "No step is wasted, neither the first nor the last."


def _both(answer, *args) -> Tensor:
    "The two clipped gradients, as one row."
    got = attempt(answer, *args, expect=(tuple, list))
    shapes = [tuple(torch.tensor(arg).shape) for arg in args[:2]]
    if len(got) != 2 or not all(isinstance(g, Tensor) for g in got) or [tuple(g.shape) for g in got] != shapes:
        raise Finding(f"{call(answer, *args)} should return two tensors, of the shapes {shapes[0]} and {shapes[1]}.")
    return torch.cat([g.detach().flatten() for g in got])


@checks
def clipped(answer):
    "Exercise 3: one length for all, one factor for all, and never above 1."
    answer, given = of_tensors(answer, in_place=True), ([[3.0, 0.0], [0.0, -4.0]], [8.0, -4.0, 8.0])
    a, b = map(torch.tensor, given)
    both = torch.cat([a.flatten(), b])
    length, most = 13.0, 2.6
    each = [g * min(1, most / g.norm()) for g in (a, b)]
    mistakes = [
        (
            torch.cat([g.flatten() for g in each]),
            "Each was clipped by itself, so the gradient as a whole points elsewhere now. "
            "There is one length, that of all numbers together, and one factor.",
        ),
        (
            both.clamp(-most, most),
            "Each number was cut off by itself: what was large and what was small look alike now. "
            "Scale all of them by one factor.",
        ),
        (both * most / 17, "The lengths of the two were added. Add their squares, and take the root of the sum."),
        (both * most / 169, "The root is missing: that is the square of the length."),
        (both * most / 27, "That is the sum of the sizes of all numbers. A length is the root of the sum of squares."),
        (both * most / 5, "Only the length of `a` was measured. It is that of both together which counts."),
        (both * most / 12, "Only the length of `b` was measured. It is that of both together which counts."),
        (both * most / 8, "It was divided by the largest number. Divide by the length, of all numbers together."),
        (both / length, "It was made 1 long. It may be as long as `most`."),
        (both * most, "It was multiplied by `most`, whatever its length. The factor is most / length."),
        (both * length / most, "The factor is upside down: most / length makes shorter."),
        (both, "Nothing was clipped, although the gradient is 13 long and 2.6 is allowed."),
    ]
    args, right = (*given, most), both * most / length
    got = _both(answer, *args)
    names = ["a", "a", "a", "a", "b", "b", "b"]
    diagnose(answer, args, got, right, mistakes, "the clipped gradient", _rows(names, got, right))
    args = *given, 26.0
    longer = [
        (both * 2, "A gradient 13 long was made longer, up to `most`. What is short enough stays as it is."),
        (both / 2, "A gradient 13 long was halved, although 26 is allowed. What is short enough stays as it is."),
        (both / length, "A gradient 13 long was made 1 long, although 26 is allowed. What is short enough stays."),
    ]
    diagnose(answer, args, _both(answer, *args), both, longer, "a gradient that is short enough")
    args = [[0.0, 0.0]], [0.0], 1.0
    if not same(_both(answer, *args), torch.zeros(3)):
        raise Finding(f"{call(answer, *args)}: a gradient of zeros became something else. Mind 0 / 0.")
    return "One length, one factor, and the direction stays."


class _Given:
    "A parameter, as a message shows it."

    def __init__(self, p: nn.Parameter):
        self.p = p

    def __repr__(self):
        return f"a parameter of shape {tuple(self.p.shape)}"

    def __deepcopy__(self, memo):
        return self


def _why_not(name: str, p: Tensor, right: str) -> str:
    "What a parameter is, and why that matters."
    if name == "embed.weight":
        return "It is an embedding, a row for each token. Muon would mix the rows of all tokens, for it sees only a matrix."
    if name == "position_embedding.weight":
        return "It is an embedding as well, a row for each position."
    if name == "lm_head.weight":
        return "lm_head counts as an embedding: it has a row for each token, and stands outside of the blocks."
    if name.endswith(".bias"):
        return "It is a bias: one number for each output. Whatever belongs to a matrix is no matrix for that."
    if right == "vector" and name.startswith("blocks."):
        return "It is the gain of a norm. It stands in a block, but it is a vector, and decay would turn it down."
    if right == "vector":
        return "It is the gain of the last norm. It stands outside of the blocks, but it has no rows."
    return "It stands in a block, and every token passes through it."


@checks
def kind_of(answer):
    "Exercise 4: by dimensions and by place, of both shapes."
    small = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8}
    shapes = GPTConfig.modern(8, **small), GPTConfig.gpt2(16, tied=False, **small)
    asked = callable(answer) and (lambda name, given: answer(name, given.p))
    if asked:
        asked.__name__ = getattr(answer, "__name__", "your function")
    for config in shapes:
        with torch.random.fork_rng(devices=[]):
            model = GPT(config)
        for name, p in model.named_parameters():
            args = name, _Given(p)
            got = attempt(asked or answer, *args, expect=str)
            if got not in ("matrix", "embedding", "vector"):
                raise Finding(f"{call(answer, *args)} returned {got!r}, which is none of the three words.")
            right = "vector" if p.dim() < 2 else "matrix" if name.startswith("blocks.") else "embedding"
            if got != right:
                raise Finding(f"{call(answer, *args)} returned {got!r}. {_why_not(name, p, right)}")
    return "Its dimensions tell a vector, and its place tells matrices from embeddings."
