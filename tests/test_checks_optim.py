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


def share(step, steps, warmup, fall):
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
    return share(step, steps, fall, warmup)


def length(*gradients):
    return torch.cat([g.flatten() for g in gradients]).norm()


def clipped(a, b, most):
    factor = min(1, most / length(a, b))
    return a * factor, b * factor


def by(measure):
    "Clipping that measures something else."

    def other(a, b, most):
        factor = min(1, most / measure(a, b))
        return a * factor, b * factor

    return other


def scaled(factor):
    return lambda a, b, most: (a * factor(length(a, b), most), b * factor(length(a, b), most))


def kind(name, p):
    return "vector" if p.dim() < 2 else "matrix" if name.startswith("blocks.") else "embedding"


def unless(part, said):
    "Right, but for names with this part."
    return lambda name, p: said if part in name else kind(name, p)


RIGHT = {"adamw_step": adamw, "share": share, "clipped": clipped, "kind_of": kind}
MISTAKES = [
    ("adamw_step", corrected(lambda m, v, t, b1, b2: (m, v)), "Neither average is corrected"),
    ("adamw_step", corrected(lambda m, v, t, b1, b2: (m / (1 - b1**t), v)), "Only m is corrected"),
    ("adamw_step", corrected(lambda m, v, t, b1, b2: (m, v / (1 - b2**t))), "Only v is corrected"),
    (
        "adamw_step",
        corrected(lambda m, v, t, b1, b2: (m * (1 - b1**t), v * (1 - b2**t))),
        "They are too small at first",
    ),
    ("adamw_step", later(-1), "one step behind"),
    ("adamw_step", later(1), "one step ahead"),
    ("adamw_step", corrected(lambda m, v, t, b1, b2: (m / b1**t, v / b2**t)), "divided by beta**t"),
    ("adamw_step", corrected(lambda m, v, t, b1, b2: (m / (1 - b1), v / (1 - b2))), "that of the first step"),
    ("adamw_step", exchanged, "The betas are exchanged"),
    (
        "adamw_step",
        averaged(lambda g, m, v, b1, b2: averages(g, m, v, 1 - b1, 1 - b2)),
        "beta and 1 - beta are exchanged",
    ),
    ("adamw_step", averaged(lambda g, m, v, b1, b2: (m, v)), "with the averages from before"),
    (
        "adamw_step",
        averaged(lambda g, m, v, b1, b2: (averages(g, m, v, b1, b2)[0], v)),
        "v has not seen the new gradient",
    ),
    (
        "adamw_step",
        averaged(lambda g, m, v, b1, b2: (m, averages(g, m, v, b1, b2)[1])),
        "m has not seen the new gradient",
    ),
    (
        "adamw_step",
        averaged(lambda g, m, v, b1, b2: (averages(g, m, v, b1, b2)[0], b2 * v + (1 - b2) * g)),
        "v was given g as it is",
    ),
    ("adamw_step", averaged(lambda g, m, v, b1, b2: (m + g, v + g**2)), "added to the averages whole"),
    ("adamw_step", averaged(lambda g, m, v, b1, b2: (b1 * m + g, b2 * v + g**2)), "but g counts whole"),
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
    ("adamw_step", stepped(lambda p, m, v, g, lr, eps, decay: (1 - lr * decay) * p - lr * m), "that is momentum"),
    ("adamw_step", stepped(lambda p, m, v, g, lr, eps, decay: (1 - lr * decay) * p - lr * g), "plain descent"),
    ("adamw_step", coupled, "The decay was added to the gradient"),
    ("adamw_step", coupled_twice, "The decay came twice"),
    ("adamw_step", decayed(lambda p, u, lr, decay: p - lr * u), "The decay is missing"),
    ("adamw_step", decayed(lambda p, u, lr, decay: (1 - decay) * p - lr * u), "The decay goes without the rate"),
    ("adamw_step", decayed(lambda p, u, lr, decay: (1 - lr) * p - lr * u), "shrunk by lr alone"),
    ("adamw_step", decayed(lambda p, u, lr, decay: (1 + lr * decay) * p - lr * u), "The decay has the wrong sign"),
    ("adamw_step", decayed(lambda p, u, lr, decay: lr * decay * p - lr * u), "1 - lr * decay stays"),
    ("adamw_step", decayed(lambda p, u, lr, decay: (1 - lr * decay) * (p - lr * u)), "came after the step"),
    ("adamw_step", decayed(lambda p, u, lr, decay: p - lr * decay - lr * u), "The same amount was taken"),
    ("adamw_step", decayed(lambda p, u, lr, decay: (1 - lr * decay) * p + lr * u), "The step goes uphill"),
    ("adamw_step", decayed(lambda p, u, lr, decay: (1 - lr * decay) * p - u), "The rate is missing from the step"),
    ("adamw_step", decayed(lambda p, u, lr, decay: -lr * u), "That is the step alone. Return"),
    ("adamw_step", decayed(lambda p, u, lr, decay: lr * u), "and without its sign"),
    (
        "adamw_step",
        stepped(lambda p, m, v, g, lr, eps, decay: (1 - lr * decay) * p - lr * m / (v + eps).sqrt()),
        "not under it",
    ),
    (
        "adamw_step",
        stepped(lambda p, m, v, g, lr, eps, decay: (1 - lr * decay) * p - lr * m / v.sqrt()),
        "never had a gradient is 0 / 0",
    ),
    ("adamw_step", early_eps, "before v was corrected"),
    ("adamw_step", lambda *args: adamw(*args[:8], 1e-8, args[9]), "take the eps that is given"),
    (
        "adamw_step",
        stepped(lambda p, m, v, g, lr, eps, decay: (1 - lr * decay) * p - lr * m / v.sqrt().clamp(min=eps)),
        "not put in place of a smaller one",
    ),
    ("adamw_step", first_unlike, "is not the first step"),
    ("adamw_step", lambda *args: adamw(*args) + 0.1, "is not what AdamW makes of p"),
    (
        "adamw_step",
        lambda *args: adamw(*args[:8], min(args[8], 0.0005), args[9]),
        "is not what AdamW makes of tiny gradients",
    ),
    ("adamw_step", lambda *args: adamw(*args)[:1], "of shape (1,), not (3,)"),
    ("share", curve(up=lambda i, n, w, f: i / max(1, w)), "the warm-up ends one step late"),
    ("share", curve(up=lambda i, n, w, f: i / max(1, w - 1)), "begin with 1 / warmup"),
    ("share", curve(up=lambda i, n, w, f: (i + 1) / (w + 1)), "The warm-up takes a step too many"),
    ("share", curve(down=lambda i, n, w, f: (n - 1 - i) / max(1, f)), "the fall begins one step early. The last"),
    ("share", curve(down=lambda i, n, w, f: (n - 1 - i) / max(1, f - 1)), "the step after it that would have 0"),
    ("share", curve(down=lambda i, n, w, f: (n - i) / (f + 1)), "should still have the full rate"),
    ("share", curve(down=lambda i, n, w, f: (n + 1 - i) / (f + 1)), "The fall ends one step late"),
    ("share", curve(down=lambda i, n, w, f: (n + 1 - i) / max(1, f)), "The fall begins one step late"),
    ("share", curve(up=lambda *_: 1), "There is no warm-up"),
    ("share", curve(down=lambda *_: 1), "It never falls"),
    ("share", lambda *_: 1, "neither rises nor falls"),
    ("share", curve(down=lambda i, n, w, f: (n - i) / (n - w)), "from the end of the warm-up on"),
    ("share", curve(down=lambda i, n, w, f: (n - i) / (n - f)), "from step number `fall` on"),
    ("share", curve(top=math.inf), "it goes above 1"),
    ("share", turned_round, "the wrong way round"),
    ("share", lambda i, n, w, f: min((i + 1) / w, 1, (n - i) / max(1, f)), "ZeroDivisionError"),
    ("share", lambda i, n, w, f: share(i, n, w, f) * (0.9 if i == 6 else 1), "(6, 12, 4, 5) returned 0.9, not 1"),
    ("share", lambda i, n, w, f: share(i, n, w, f) if f else 0.5, "no warm-up, or no fall"),
    (
        "clipped",
        lambda a, b, most: (a * min(1, most / a.norm()), b * min(1, most / b.norm())),
        "Each was clipped by itself",
    ),
    ("clipped", lambda a, b, most: (a.clamp(-most, most), b.clamp(-most, most)), "Each number was cut off"),
    ("clipped", by(lambda a, b: a.norm() + b.norm()), "The lengths of the two were added"),
    ("clipped", by(lambda a, b: length(a, b) ** 2), "The root is missing: that"),
    ("clipped", by(lambda a, b: a.abs().sum() + b.abs().sum()), "the sum of the sizes"),
    ("clipped", by(lambda a, b: a.norm()), "Only the length of `a`"),
    ("clipped", by(lambda a, b: b.norm()), "Only the length of `b`"),
    ("clipped", by(lambda a, b: max(a.abs().max(), b.abs().max())), "the largest number"),
    ("clipped", scaled(lambda size, most: 1 / size if size > most else 1), "It was made 1 long"),
    ("clipped", scaled(lambda size, most: most), "multiplied by `most`, whatever"),
    ("clipped", scaled(lambda size, most: max(1, size / most)), "upside down"),
    ("clipped", scaled(lambda size, most: 1), "Nothing was clipped"),
    ("clipped", scaled(lambda size, most: most / size), "was made longer, up to `most`"),
    ("clipped", scaled(lambda size, most: most / size if size > most else 0.5), "was halved"),
    (
        "clipped",
        scaled(lambda size, most: most / size if size > most else 1 / size),
        "was made 1 long, although 26",
    ),
    ("clipped", scaled(lambda size, most: torch.clamp(size, max=most) / size), "Mind 0 / 0"),
    ("clipped", scaled(lambda size, most: min(1, most / size) + 0.01), "is not the clipped gradient"),
    ("clipped", lambda a, b, most: clipped(a, b, most)[:1], "should return two tensors"),
    ("kind_of", lambda name, p: "matrix" if p.dim() > 1 else "vector", "for it sees only a matrix"),
    ("kind_of", unless("position_embedding", "matrix"), "a row for each position"),
    ("kind_of", unless("head", "matrix"), "lm_head counts as an embedding"),
    (
        "kind_of",
        lambda name, p: "matrix" if name.startswith("blocks.") else kind(name, p),
        "It stands in a block, but it is a vector",
    ),
    ("kind_of", unless("bias", "matrix"), "It is a bias"),
    (
        "kind_of",
        lambda name, p: kind(name, p) if name.startswith("blocks.") else "embedding",
        "It is the gain of the last norm",
    ),
    ("kind_of", unless("mlp.up.weight", "embedding"), "every token passes through it"),
    ("kind_of", lambda name, p: kind(name, p).upper(), "none of the three words"),
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

    def in_place(a, b, most):
        params = [torch.nn.Parameter(g) for g in (a, b)]
        for p, g in zip(params, (a, b)):
            p.grad = g.clone()
        torch.nn.utils.clip_grad_norm_(params, most)
        return [p.grad for p in params]

    assert check.adamw_step(library)
    assert check.adamw_step(lambda p, g, m, v, *rest: adamw(p.double(), g.double(), m.double(), v.double(), *rest))
    assert check.clipped(in_place)
    assert check.share(lambda i, n, w, f: torch.tensor(share(i, n, w, f)))
    assert check.kind_of(lambda name, p: "vector" if p.ndim == 1 else "matrix" if "blocks" in name else "embedding")


def test_the_offending_steps_are_drawn():
    drawn = str(check.share(curve(up=lambda i, n, w, f: i / max(1, w))).picture)
    assert [line.count("!") for line in drawn.splitlines()] == [4, 0]
    drawn = str(check.clipped(lambda a, b, most: (clipped(a, b, most)[0], b)).picture)
    assert [line.count("!") for line in drawn.splitlines()] == [3, 0]


def test_the_parameter_is_named():
    assert "'lm_head.weight', a parameter of shape (16, 8)" in check.kind_of(unless("head", "matrix")).message
