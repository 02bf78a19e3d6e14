"""The checks of chapter 09."""

import math

import torch

from conftest import pair_of_tests
from tinygpt.checks import optim as check


def averages(g, m, v, beta1, beta2):
    return beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2


def adamw(p, g, m, v, t, lr, beta1, beta2, eps, decay):
    m, v = averages(g, m, v, beta1, beta2)
    m, v = m / (1 - beta1**t), v / (1 - beta2**t)
    return (1 - lr * decay) * p - lr * m / (v.sqrt() + eps)


def corrected(how):
    "A step whose averages are corrected in another way."

    def step(p, g, m, v, t, lr, beta1, beta2, eps, decay):
        m, v = how(*averages(g, m, v, beta1, beta2), t, beta1, beta2)
        return (1 - lr * decay) * p - lr * m / (v.sqrt() + eps)

    return step


def averaged(how):
    "A step whose averages are made in another way."

    def step(p, g, m, v, t, lr, beta1, beta2, eps, decay):
        m, v = how(g, m, v, beta1, beta2)
        return (1 - lr * decay) * p - lr * m / (1 - beta1**t) / ((v / (1 - beta2**t)).sqrt() + eps)

    return step


def stepped(how):
    "A step that is made of its parts in another way: how(p, m, v, g, lr, eps, decay), with m and v corrected."

    def step(p, g, m, v, t, lr, beta1, beta2, eps, decay):
        m, v = averages(g, m, v, beta1, beta2)
        return how(p, m / (1 - beta1**t), v / (1 - beta2**t), g, lr, eps, decay)

    return step


def decayed(how):
    "A step that is joined with the decay in another way: how(p, u, lr, decay)."
    return stepped(lambda p, m, v, g, lr, eps, decay: how(p, m / (v.sqrt() + eps), lr, decay))


def coupled(p, g, m, v, t, lr, beta1, beta2, eps, decay):
    return adamw(p, g + decay * p, m, v, t, lr, beta1, beta2, eps, 0)


def coupled_twice(p, g, m, v, t, lr, beta1, beta2, eps, decay):
    return adamw(p, g + decay * p, m, v, t, lr, beta1, beta2, eps, decay)


def early_eps(p, g, m, v, t, lr, beta1, beta2, eps, decay):
    m, v = averages(g, m, v, beta1, beta2)
    return (1 - lr * decay) * p - lr * m / (1 - beta1**t) * (1 - beta2**t) ** 0.5 / (v.sqrt() + eps)


def exchanged(p, g, m, v, t, lr, beta1, beta2, eps, decay):
    return adamw(p, g, m, v, t, lr, beta2, beta1, eps, decay)


def later(change):
    return lambda p, g, m, v, t, *rest: adamw(p, g, m, v, t + change, *rest)


def first_unlike(p, g, m, v, t, *rest):
    return p if t == 1 else adamw(p, g, m, v, t, *rest)


def lr_scale(step, steps, warmup, fall):
    return min((step + 1) / max(1, warmup), 1, (steps - step) / max(1, fall))


def curve(up=None, down=None, top=1):
    "A schedule that rises or falls in another way: each a function of (step, steps, warmup, fall)."

    def other(*args):
        step, steps, warmup, fall = args
        rising = up(*args) if up else (step + 1) / max(1, warmup)
        falling = down(*args) if down else (steps - step) / max(1, fall)
        return min(rising, top, falling)

    return other


def turned_round(step, steps, warmup, fall):
    return lr_scale(step, steps, fall, warmup)


def length(*gradients):
    return torch.cat([g.flatten() for g in gradients]).norm()


def clipped(a, b, limit):
    factor = min(1, limit / length(a, b))
    return a * factor, b * factor


def by(measure):
    "Clipping that measures something else."

    def other(a, b, limit):
        factor = min(1, limit / measure(a, b))
        return a * factor, b * factor

    return other


def scaled(factor):
    return lambda a, b, limit: (a * factor(length(a, b), limit), b * factor(length(a, b), limit))


def largest_rate(slope, momentum):
    return 2 * (1 + momentum) / slope


RIGHT = {"adamw_step": adamw, "lr_scale": lr_scale, "clipped": clipped, "largest_rate": largest_rate}
MISTAKES = [
    ("adamw_step", corrected(lambda m, v, t, b1, b2: (m, v)), "Neither average is corrected"),
    ("adamw_step", corrected(lambda m, v, t, b1, b2: (m / (1 - b1**t), v)), "Only m is corrected"),
    ("adamw_step", corrected(lambda m, v, t, b1, b2: (m, v / (1 - b2**t))), "Only v is corrected"),
    (
        "adamw_step",
        corrected(lambda m, v, t, b1, b2: (m * (1 - b1**t), v * (1 - b2**t))),
        "The correction makes the averages smaller",
    ),
    ("adamw_step", later(-1), "one step behind"),
    ("adamw_step", later(1), "one step ahead"),
    ("adamw_step", corrected(lambda m, v, t, b1, b2: (m / b1**t, v / b2**t)), "divided by beta**t"),
    ("adamw_step", corrected(lambda m, v, t, b1, b2: (m / (1 - b1), v / (1 - b2))), "that of the first step"),
    ("adamw_step", exchanged, "The betas are swapped"),
    (
        "adamw_step",
        averaged(lambda g, m, v, b1, b2: averages(g, m, v, 1 - b1, 1 - b2)),
        "beta and 1 - beta are swapped",
    ),
    ("adamw_step", averaged(lambda g, m, v, b1, b2: (m, v)), "uses the old averages"),
    (
        "adamw_step",
        averaged(lambda g, m, v, b1, b2: (averages(g, m, v, b1, b2)[0], v)),
        "v does not contain the new gradient",
    ),
    (
        "adamw_step",
        averaged(lambda g, m, v, b1, b2: (m, averages(g, m, v, b1, b2)[1])),
        "m does not contain the new gradient",
    ),
    (
        "adamw_step",
        averaged(lambda g, m, v, b1, b2: (averages(g, m, v, b1, b2)[0], b2 * v + (1 - b2) * g)),
        "v was updated with g itself",
    ),
    ("adamw_step", averaged(lambda g, m, v, b1, b2: (m + g, v + g**2)), "added to the averages in full"),
    ("adamw_step", averaged(lambda g, m, v, b1, b2: (b1 * m + g, b2 * v + g**2)), "but g counts in full"),
    (
        "adamw_step",
        stepped(lambda p, m, v, g, lr, eps, decay: (1 - lr * decay) * p - lr * g / (v.sqrt() + eps)),
        "The gradient itself was divided",
    ),
    (
        "adamw_step",
        stepped(lambda p, m, v, g, lr, eps, decay: (1 - lr * decay) * p - lr * m / (v + eps)),
        "The root is missing: m",
    ),
    ("adamw_step", stepped(lambda p, m, v, g, lr, eps, decay: (1 - lr * decay) * p - lr * m), "this is momentum"),
    ("adamw_step", stepped(lambda p, m, v, g, lr, eps, decay: (1 - lr * decay) * p - lr * g), "plain gradient descent"),
    ("adamw_step", coupled, "The decay was added to the gradient"),
    ("adamw_step", coupled_twice, "The decay was applied twice"),
    ("adamw_step", decayed(lambda p, u, lr, decay: p - lr * u), "The decay is missing"),
    ("adamw_step", decayed(lambda p, u, lr, decay: (1 - decay) * p - lr * u), "The decay does not depend on lr"),
    ("adamw_step", decayed(lambda p, u, lr, decay: (1 - lr) * p - lr * u), "shrunk by lr alone"),
    ("adamw_step", decayed(lambda p, u, lr, decay: (1 + lr * decay) * p - lr * u), "The decay has the wrong sign"),
    ("adamw_step", decayed(lambda p, u, lr, decay: lr * decay * p - lr * u), "not the one that remains"),
    ("adamw_step", decayed(lambda p, u, lr, decay: (1 - lr * decay) * (p - lr * u)), "came after the step"),
    ("adamw_step", decayed(lambda p, u, lr, decay: p - lr * decay - lr * u), "The same amount was taken"),
    ("adamw_step", decayed(lambda p, u, lr, decay: (1 - lr * decay) * p + lr * u), "The step goes uphill"),
    (
        "adamw_step",
        decayed(lambda p, u, lr, decay: (1 - lr * decay) * p - u),
        "The learning rate is missing from the step",
    ),
    ("adamw_step", decayed(lambda p, u, lr, decay: -lr * u), "This is only the step. Return"),
    ("adamw_step", decayed(lambda p, u, lr, decay: lr * u), "without its sign"),
    (
        "adamw_step",
        stepped(lambda p, m, v, g, lr, eps, decay: (1 - lr * decay) * p - lr * m / (v + eps).sqrt()),
        "not under it",
    ),
    (
        "adamw_step",
        stepped(lambda p, m, v, g, lr, eps, decay: (1 - lr * decay) * p - lr * m / v.sqrt()),
        "never had a gradient becomes 0 / 0",
    ),
    ("adamw_step", early_eps, "before v was corrected"),
    ("adamw_step", lambda *args: adamw(*args[:8], 1e-8, args[9]), "use the eps that is given"),
    (
        "adamw_step",
        stepped(lambda p, m, v, g, lr, eps, decay: (1 - lr * decay) * p - lr * m / v.sqrt().clamp(min=eps)),
        "it does not replace a small root",
    ),
    ("adamw_step", first_unlike, "is not the first step"),
    ("adamw_step", lambda *args: adamw(*args) + 0.1, "is not what AdamW makes of p"),
    (
        "adamw_step",
        lambda *args: adamw(*args[:8], min(args[8], 0.0005), args[9]),
        "is not what AdamW makes of tiny gradients",
    ),
    ("adamw_step", lambda *args: adamw(*args)[:1], "of shape (1,), not (3,)"),
    ("lr_scale", curve(up=lambda i, n, w, f: i / max(1, w)), "the warm-up ends one step late"),
    ("lr_scale", curve(up=lambda i, n, w, f: i / max(1, w - 1)), "The end of the warm-up is right"),
    ("lr_scale", curve(up=lambda i, n, w, f: (i + 1) / (w + 1)), "The warm-up takes one step too many"),
    ("lr_scale", curve(down=lambda i, n, w, f: (n - 1 - i) / max(1, f)), "the fall begins one step early. The last"),
    ("lr_scale", curve(down=lambda i, n, w, f: (n - 1 - i) / max(1, f - 1)), "the step after it would have 0"),
    ("lr_scale", curve(down=lambda i, n, w, f: (n - i) / (f + 1)), "should still have the full rate"),
    ("lr_scale", curve(down=lambda i, n, w, f: (n + 1 - i) / (f + 1)), "The fall ends one step late"),
    ("lr_scale", curve(down=lambda i, n, w, f: (n + 1 - i) / max(1, f)), "The fall begins one step late"),
    ("lr_scale", curve(up=lambda *_: 1), "There is no warm-up"),
    ("lr_scale", curve(down=lambda *_: 1), "It never falls"),
    ("lr_scale", lambda *_: 1, "neither rises nor falls"),
    ("lr_scale", curve(down=lambda i, n, w, f: (n - i) / (n - w)), "from the end of the warm-up on"),
    ("lr_scale", curve(down=lambda i, n, w, f: (n - i) / (n - f)), "from step number `fall` on"),
    ("lr_scale", curve(top=math.inf), "it goes above 1"),
    ("lr_scale", turned_round, "the wrong way round"),
    ("lr_scale", lambda i, n, w, f: min((i + 1) / w, 1, (n - i) / max(1, f)), "ZeroDivisionError"),
    ("lr_scale", lambda i, n, w, f: lr_scale(i, n, w, f) * (0.9 if i == 6 else 1), "(6, 12, 4, 5) returned 0.9, not 1"),
    ("lr_scale", lambda i, n, w, f: lr_scale(i, n, w, f) if f else 0.5, "no warm-up or no fall"),
    (
        "clipped",
        lambda a, b, limit: (a * min(1, limit / a.norm()), b * min(1, limit / b.norm())),
        "Each gradient was clipped separately",
    ),
    (
        "clipped",
        lambda a, b, limit: (a.clamp(-limit, limit), b.clamp(-limit, limit)),
        "Each number was cut off separately",
    ),
    ("clipped", by(lambda a, b: a.norm() + b.norm()), "The norms of the two were added"),
    ("clipped", by(lambda a, b: length(a, b) ** 2), "The root is missing: this divides"),
    ("clipped", by(lambda a, b: a.abs().sum() + b.abs().sum()), "the sum of all absolute values"),
    ("clipped", by(lambda a, b: a.norm()), "Only the norm of `a`"),
    ("clipped", by(lambda a, b: b.norm()), "Only the norm of `b`"),
    ("clipped", by(lambda a, b: max(a.abs().max(), b.abs().max())), "the largest number"),
    ("clipped", scaled(lambda size, limit: 1 / size if size > limit else 1), "The gradient now has norm 1"),
    ("clipped", scaled(lambda size, limit: limit), "multiplied by `limit`, whatever"),
    ("clipped", scaled(lambda size, limit: max(1, size / limit)), "upside down"),
    ("clipped", scaled(lambda size, limit: 1), "Nothing was clipped"),
    ("clipped", scaled(lambda size, limit: limit / size), "was made longer, up to `limit`"),
    ("clipped", scaled(lambda size, limit: limit / size if size > limit else 0.5), "was halved"),
    (
        "clipped",
        scaled(lambda size, limit: limit / size if size > limit else 1 / size),
        "shortened to 1, although 26",
    ),
    ("clipped", scaled(lambda size, limit: torch.clamp(size, max=limit) / size), "Is there a 0 / 0"),
    ("clipped", scaled(lambda size, limit: min(1, limit / size) + 0.01), "is not the clipped gradient"),
    ("clipped", lambda a, b, limit: clipped(a, b, limit)[:1], "should return two tensors"),
    ("largest_rate", lambda slope, momentum: 2 / slope, "the limit without momentum"),
    ("largest_rate", lambda slope, momentum: 2 * (1 - momentum) / slope, "the run still converges"),
    ("largest_rate", lambda slope, momentum: 2 / slope / (1 - momentum), "the run diverges"),
]


test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    check, RIGHT, MISTAKES
)


def test_answers_in_other_clothes_are_right():
    "PyTorch's own optimizer and clipping, double precision, changes in place."

    def library(p, g, m, v, t, lr, beta1, beta2, eps, decay):
        p = torch.nn.Parameter(p)
        optimizer = torch.optim.AdamW([p], lr, (beta1, beta2), eps, decay)
        p.grad = g
        optimizer.state[p] = {"step": torch.tensor(t - 1.0), "exp_avg": m, "exp_avg_sq": v}
        optimizer.step()
        return p

    def in_place(a, b, limit):
        params = [torch.nn.Parameter(g) for g in (a, b)]
        for p, g in zip(params, (a, b)):
            p.grad = g.clone()
        torch.nn.utils.clip_grad_norm_(params, limit)
        return [p.grad for p in params]

    assert check.adamw_step(library)
    assert check.adamw_step(lambda p, g, m, v, *rest: adamw(p.double(), g.double(), m.double(), v.double(), *rest))
    assert check.clipped(in_place)
    assert check.lr_scale(lambda i, n, w, f: torch.tensor(lr_scale(i, n, w, f)))
    assert check.largest_rate(lambda slope, momentum: torch.tensor(1.01 * largest_rate(slope, momentum)))


def test_the_offending_steps_are_drawn():
    drawn = str(check.lr_scale(curve(up=lambda i, n, w, f: i / max(1, w))).picture)
    assert [line.count("!") for line in drawn.splitlines()] == [4, 0]
    drawn = str(check.clipped(lambda a, b, limit: (clipped(a, b, limit)[0], b)).picture)
    assert [line.count("!") for line in drawn.splitlines()] == [3, 0]
