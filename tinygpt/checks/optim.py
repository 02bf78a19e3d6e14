"""Checks for chapter 09: each typical mistake has a diagnosis of its own."""

import torch
from torch import Tensor

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.checks.tensors import diagnose, grid, number, of_tensors, same, tensor
from tinygpt.show.pictures import Picture


def _averages(g: Tensor, m: Tensor, v: Tensor, beta1: float, beta2: float) -> tuple[Tensor, Tensor]:
    return beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2


def _direction(m: Tensor, v: Tensor, seen1: float, seen2: float, eps: float) -> Tensor:
    "The step before the learning rate, with averages that hold these fractions of their long-run value."
    return m / seen1 / ((v / seen2).sqrt() + eps)


def _rows(names: list[str], got: Tensor, right: Tensor) -> Picture:
    "What was returned above what is wanted, with the wrong numbers outlined."
    wrong = ~got.double().isclose(right.double(), rtol=1e-4, atol=1e-6)
    marked = torch.stack([wrong, torch.zeros_like(wrong)])
    return grid(torch.stack([got, right]) + 0.0, ["yours", "wanted"], names, marked)


@checks
def adamw_step(answer):
    "Exercise 1: both averages updated and corrected, decay kept separate, eps added to the root."
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
            "Neither average is corrected. Both started at zero, so they are too small in the first steps.",
        ),
        (kept - lr * _direction(m, v, seen1, 1, eps), "Only m is corrected. v started at zero, too."),
        (kept - lr * _direction(m, v, 1, seen2, eps), "Only v is corrected. m started at zero, too."),
        (
            kept - lr * _direction(m, v, 1 / seen1, 1 / seen2, eps),
            "The correction makes the averages smaller. But they are too small in the first steps.",
        ),
        (
            walked(m, v, t - 1),
            "The correction is one step behind, as if t were counted from 0. Here the first step has t = 1.",
        ),
        (walked(m, v, t + 1), "The correction is one step ahead: t already counts this step."),
        (
            kept - lr * _direction(m, v, beta1**t, beta2**t, eps),
            "The averages were divided by beta**t. That fraction is the one still missing from them.",
        ),
        (
            kept - lr * _direction(m, v, 1 - beta1, 1 - beta2, eps),
            "The correction is that of the first step, whatever t is. It should fade as t grows.",
        ),
        (
            kept - lr * _direction(other_m, other_v, 1 - beta2**t, 1 - beta1**t, eps),
            "The betas are swapped: beta1 belongs to m, the average of g, and beta2 to v, the average of g**2.",
        ),
        (
            walked(turned_m, turned_v),
            "beta and 1 - beta are swapped: the newest gradient counts most, and the past is nearly forgotten.",
        ),
        (walked(old_m, old_v), "The step uses the old averages. Update both with g first."),
        (walked(m, old_v), "v does not contain the new gradient: only m was updated."),
        (walked(old_m, v), "m does not contain the new gradient: only v was updated."),
        (
            walked(m, beta2 * old_v + (1 - beta2) * g),
            "v was updated with g itself. It is the average of squares, so that signs do not cancel.",
        ),
        (
            walked(old_m + g, old_v + g**2),
            "g was added to the averages in full. In a running average, old and new are weighted, and the "
            "weights sum to 1.",
        ),
        (
            walked(beta1 * old_m + g, beta2 * old_v + g**2),
            "The old average is multiplied by beta, but g counts in full. The two weights should sum to 1.",
        ),
        (
            kept - lr * g / ((v / seen2).sqrt() + eps),
            "The gradient itself was divided by the root of v. Adam divides its average, m.",
        ),
        (
            kept - lr * (m / seen1) / (v / seen2 + eps),
            "The root is missing: m was divided by v, so steps get tiny where gradients are large.",
        ),
        (
            kept - lr * m / seen1,
            "Nothing was divided by the root of v: this is momentum, with one step size for all weights.",
        ),
        (kept - lr * g, "This is plain gradient descent: neither average was used."),
        (
            p - lr * coupled,
            "The decay was added to the gradient, so it was divided by the root of v, too. In AdamW it is separate.",
        ),
        (
            kept - lr * coupled,
            "The decay was applied twice: in the gradient, and separately. AdamW applies it separately only.",
        ),
        (p - lr * step, "The decay is missing: p itself should shrink a little."),
        ((1 - decay) * p - lr * step, "The decay does not depend on lr. A smaller learning rate should decay less."),
        ((1 - lr) * p - lr * step, "p was shrunk by lr alone. What is `decay` for?"),
        ((1 + lr * decay) * p - lr * step, "The decay has the wrong sign: the weights grow."),
        (
            lr * decay * p - lr * step,
            "p was multiplied by lr * decay. That is the fraction to be lost, not the one that remains.",
        ),
        (
            (1 - lr * decay) * (p - lr * step),
            "The decay came after the step and shrank the step, too. Shrink the p that was given.",
        ),
        (p - lr * decay - lr * step, "The same amount was taken from every weight. Decay takes a fraction of each."),
        (kept + lr * step, "The step goes uphill: the sign is wrong."),
        (kept - step, "The learning rate is missing from the step."),
        (-lr * step, "This is only the step. Return the weights after it."),
        (lr * step, "This is only the step, without its sign. Return the weights after it."),
    ]
    args, right = (*given, t, lr, beta1, beta2, eps, decay), kept - lr * step
    got = tensor(answer, *args, shape=(3,))
    names = [f"weight {i}" for i in range(3)]
    diagnose(answer, args, got, right, mistakes, "what AdamW makes of p", _rows(names, got, right))
    _first_step(answer)
    _quiet_gradients(answer)
    return "Both averages updated and corrected, and the decay separate."


def _first_step(answer):
    "The first step, and weights that never had a gradient."
    args = [1.0, 1.0, 1.0], [3.0, -0.2, 0.0], [0.0] * 3, [0.0] * 3, 1, 0.5, 0.9, 0.99, 1e-8, 0.0
    got = tensor(answer, *args, shape=(3,))
    no_eps = [0.5, 1.5, torch.nan], "Without eps, a weight that never had a gradient becomes 0 / 0, as the last one."
    diagnose(
        answer,
        args,
        got,
        [0.5, 1.5, 1.0],
        [no_eps],
        "the first step: each weight moves by lr, against the sign of its gradient",
    )


def _quiet_gradients(answer):
    "Where gradients are tiny, eps matters."
    given = [1.0, -1.0], [0.001, -0.002], [0.0, 0.0], [0.0, 0.0]
    t, lr, beta1, beta2, eps = 2, 0.5, 0.8, 0.95, 0.001
    p, g, m, v = map(torch.tensor, given)
    m, v = _averages(g, m, v, beta1, beta2)
    m, v, raw = m / (1 - beta1**t), v / (1 - beta2**t), v
    said = "Your step is right for ordinary gradients. But where gradients are tiny, eps matters: "
    mistakes = [
        (p - lr * m / (v + eps).sqrt(), said + "it is added outside the root, not under it."),
        (
            p - lr * m / (raw.sqrt() + eps) * (1 - beta2**t) ** 0.5,
            said + "it was added before v was corrected, and should be added last.",
        ),
        (p - lr * m / (v.sqrt() + 1e-8), said + "use the eps that is given."),
        (p - lr * m / v.sqrt().clamp(min=eps), said + "it is added to the root; it does not replace a small root."),
    ]
    args, right = (*given, t, lr, beta1, beta2, eps, 0.0), p - lr * m / (v.sqrt() + eps)
    got = tensor(answer, *args, shape=(2,))
    diagnose(answer, args, got, right, mistakes, "what AdamW makes of tiny gradients")


@checks
def lr_scale(answer):
    "Exercise 2: up, flat, down, and no step with rate 0."
    steps, warmup, fall = 12, 4, 5

    def curve(up=lambda i: (i + 1) / warmup, down=lambda i: (steps - i) / fall, top: float = 1) -> list[float]:
        return [min(up(i), top, down(i)) for i in range(steps)]

    full, right = lambda i: 1.0, curve()
    mistakes = [
        (
            curve(up=lambda i: i / warmup),
            "The first step has rate 0, so it is wasted, and the warm-up ends one step late. Steps are counted from 0.",
        ),
        (
            curve(up=lambda i: i / (warmup - 1)),
            "The first step has rate 0, so it is wasted. The end of the warm-up is right.",
        ),
        (
            curve(up=lambda i: (i + 1) / (warmup + 1)),
            "The warm-up takes one step too many: step warmup - 1 should have the full rate.",
        ),
        (
            curve(down=lambda i: (steps - 1 - i) / fall),
            "The last step has rate 0, so it is wasted, and the fall begins one step early. "
            "The last step is number steps - 1.",
        ),
        (
            curve(down=lambda i: (steps - 1 - i) / (fall - 1)),
            "The last step has rate 0, so it is wasted: the step after it would have 0.",
        ),
        (
            curve(down=lambda i: (steps - i) / (fall + 1)),
            "The fall begins one step early: step steps - fall should still have the full rate.",
        ),
        (
            curve(down=lambda i: (steps + 1 - i) / (fall + 1)),
            "The fall ends one step late: the last step is still too high.",
        ),
        (
            curve(down=lambda i: (steps + 1 - i) / fall),
            "The fall begins one step late: step steps - fall is the first of the fall, and the next one is below 1.",
        ),
        (curve(up=full), "There is no warm-up: the first step has the full rate."),
        (curve(down=full), "It never falls: the last step still has the full rate."),
        (curve(up=full, down=full), "This is 1 at every step: it neither rises nor falls."),
        (
            curve(down=lambda i: (steps - i) / (steps - warmup)),
            "It falls from the end of the warm-up on. Only the last `fall` steps should fall.",
        ),
        (
            curve(down=lambda i: (steps - i) / (steps - fall)),
            "It falls from step number `fall` on. Only the last `fall` steps should fall.",
        ),
        (curve(top=float("inf")), "In the middle it goes above 1, the full rate."),
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
            raise Finding(f"{said} With no warm-up or no fall, that part is 1.")
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
    "Exercise 3: one norm for all, one factor for all, and never above 1."
    answer, given = of_tensors(answer, in_place=True), ([[3.0, 0.0], [0.0, -4.0]], [8.0, -4.0, 8.0])
    a, b = map(torch.tensor, given)
    both = torch.cat([a.flatten(), b])
    norm, limit = 13.0, 2.6
    each = [g * min(1, limit / g.norm()) for g in (a, b)]
    mistakes = [
        (
            torch.cat([g.flatten() for g in each]),
            "Each gradient was clipped separately, so the gradient as a whole changed its direction. "
            "The norm is that of all numbers together.",
        ),
        (
            both.clamp(-limit, limit),
            "Each number was cut off separately, so the direction of the gradient changed.",
        ),
        (both * limit / 17, "The norms of the two were added. The norm of both together is smaller than that sum."),
        (both * limit / 169, "The root is missing: this divides by the square of the norm."),
        (both * limit / 27, "This divides by the sum of all absolute values. A norm is made of squares."),
        (both * limit / 5, "Only the norm of `a` was measured. Measure both together."),
        (both * limit / 12, "Only the norm of `b` was measured. Measure both together."),
        (both * limit / 8, "This divides by the largest number, not by the norm of all numbers together."),
        (both / norm, "The gradient now has norm 1. It may be as long as `limit`."),
        (both * limit, "The gradient was multiplied by `limit`, whatever its norm."),
        (both * norm / limit, "The factor is upside down: it makes the gradient longer."),
        (both, "Nothing was clipped, although the norm is 13 and 2.6 is allowed."),
    ]
    args, right = (*given, limit), both * limit / norm
    got = _both(answer, *args)
    names = ["a", "a", "a", "a", "b", "b", "b"]
    diagnose(answer, args, got, right, mistakes, "the clipped gradient", _rows(names, got, right))
    args = *given, 26.0
    longer = [
        (
            both * 2,
            "A gradient of norm 13 was made longer, up to `limit`. A gradient below the limit should not change.",
        ),
        (both / 2, "A gradient of norm 13 was halved, although 26 is allowed. Below the limit it should not change."),
        (
            both / norm,
            "A gradient of norm 13 was shortened to 1, although 26 is allowed. Below the limit it should not change.",
        ),
    ]
    diagnose(answer, args, _both(answer, *args), both, longer, "a gradient that is short enough")
    args = [[0.0, 0.0]], [0.0], 1.0
    if not same(_both(answer, *args), torch.zeros(3)):
        raise Finding(f"{call(answer, *args)}: a gradient of zeros should stay zero. Is there a 0 / 0?")
    return "One norm, one factor, and the direction stays."


@checks
def largest_rate(answer):
    "Exercise 4: the limit, measured to 2 %; by theory it is 2 * (1 + momentum) / slope."
    for slope, momentum in (20.0, 0.0), (20.0, 0.6), (5.0, 0.9):
        got, right = number(answer, slope, momentum), 2 * (1 + momentum) / slope
        if abs(got - right) <= 0.02 * right:
            continue
        said = f"{call(answer, slope, momentum)} returned {got:.4g}. "
        if same(torch.tensor(got), torch.tensor(2 / slope)):
            raise Finding(f"{said}That is the limit without momentum. Measure again, with momentum.")
        if not 0 < got < right:
            raise Finding(f"{said}At that rate the run diverges.")
        raise Finding(f"{said}At a rate 2 % larger, the run still converges.")
    return "Momentum allows a larger learning rate: it cancels a part of each jump across the valley."
