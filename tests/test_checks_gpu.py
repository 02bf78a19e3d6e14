"""The checks of chapter 11."""

import math
from statistics import mean, median

import torch

from conftest import pair_of_tests
from tinygpt.checks import gpu as check


def accumulate(function, batches):
    n_targets = sum(mask.sum() for _, _, mask in batches)
    total = 0.0
    for ids, targets, mask in batches:
        loss = function(ids, targets, mask) * mask.sum() / n_targets
        loss.backward()
        total += loss.item()
    return total


def weighted(weight, returned=None, only=None):
    "Another weight for each micro-batch: weight(mask, all masks)."

    def answer(function, batches):
        masks, total, losses = [mask for _, _, mask in batches], 0.0, []
        for i, batch in enumerate(batches):
            loss = function(*batch)
            losses.append(loss.item())
            share = loss * weight(batch[2], masks)
            if only is None or i in (only, len(batches) + only):
                share.backward()
            total += share.item()
        return total if returned is None else returned(losses)

    return answer


def share(mask, masks):
    return mask.sum() / sum(m.sum() for m in masks)


def cleared(function, batches):
    for batch in batches:
        if function.weights.grad is not None:
            function.weights.grad = None
        (function(*batch) * share(batch[2], [mask for _, _, mask in batches])).backward()
    return 1.0


def unscale_and_clip(gradients, scale, limit):
    gradients = [g / scale for g in gradients]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return [g * min(1.0, limit / norm) for g in gradients] if norm.isfinite() else None


def clipped(gradients, limit):
    norm = torch.stack([g.norm() for g in gradients]).norm()
    return [g * min(1.0, limit / norm) for g in gradients]


def mfu(n_weights, n_layer, n_embd, length, speed, peak, each=2, passes=3, scores=None):
    scores = 2 * n_layer * n_embd * length if scores is None else scores(n_layer, n_embd, length)
    return passes * each * (n_weights + scores) * speed / peak


def other_mfu(**how):
    return lambda *args: mfu(*args, **how)


def time_on(device, n, after=True, warm=1, pick=median):
    times = []
    for _ in range(n + warm):
        device.wait()
        start = device.now()
        device.submit()
        if after:
            device.wait()
        times.append(device.now() - start)
    return pick(times[warm:])


def other_time(**how):
    return lambda device, n: time_on(device, n, **how)


def as_a_whole(device, n, warm=1, divide=True):
    for _ in range(warm):
        device.submit()
    device.wait()
    start = device.now()
    for _ in range(n):
        device.submit()
    device.wait()
    return (device.now() - start) / (n if divide else 1)


def busy_at_first(device, n):
    device.submit()
    times = []
    for _ in range(n):
        start = device.now()
        device.submit()
        device.wait()
        times.append(device.now() - start)
    return median(times)


def kept_bytes(attend, T):
    query, key, value = torch.randn(3, 1, 4, T, 32, requires_grad=True)
    kept = []

    def keep(tensor):
        kept.append((tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend(query, key, value)
    return sum(dict(kept).values())


def growth(attend):
    return kept_bytes(attend, 512) / kept_bytes(attend, 256)


RIGHT = {
    "accumulate": accumulate,
    "unscale_and_clip": unscale_and_clip,
    "mfu": mfu,
    "time_on": time_on,
    "growth": growth,
}

MISTAKES = [
    ("accumulate", weighted(lambda mask, masks: 1.0), "added up as they are"),
    ("accumulate", weighted(lambda mask, masks: 1 / len(masks)), "counts alike"),
    ("accumulate", weighted(lambda mask, masks: len(mask) / sum(map(len, masks))), "counts by its rows"),
    ("accumulate", weighted(lambda mask, masks: 1 / sum(m.sum() for m in masks)), "they are means already"),
    ("accumulate", weighted(lambda mask, masks: mask.sum()), "that of the sum"),
    ("accumulate", weighted(lambda mask, masks: 1.0, only=-1), "the last micro-batch alone"),
    ("accumulate", cleared, "set to zero in between"),
    ("accumulate", weighted(share, only=0), "Only the first micro-batch"),
    ("accumulate", weighted(share, returned=sum), "the sum of the means"),
    ("accumulate", weighted(share, returned=mean), "number returned is the mean of the means"),
    ("accumulate", lambda function, batches: 1.0, "never called"),
    ("accumulate", lambda function, batches: sum(function(*b).item() for b in batches), "have no gradient"),
    ("accumulate", weighted(lambda mask, masks: 0.3), "not that of the mean over all targets"),
    (
        "unscale_and_clip",
        lambda g, scale, limit: [x / scale for x in clipped(g, limit)],
        "before they were divided",
    ),
    ("unscale_and_clip", lambda g, scale, limit: clipped(g, limit), "not divided by the scale"),
    ("unscale_and_clip", lambda g, scale, limit: [x / scale for x in g], "not clipped"),
    ("unscale_and_clip", lambda g, scale, limit: [x * 1 for x in g], "as they were given"),
    (
        "unscale_and_clip",
        lambda g, scale, limit: clipped([x / scale**2 for x in g], limit),
        "divided by the scale twice",
    ),
    ("unscale_and_clip", lambda g, scale, limit: [x * scale for x in g], "once more"),
    (
        "unscale_and_clip",
        lambda g, scale, limit: [x / scale * min(1, limit / (x / scale).norm()) for x in g],
        "clipped alone, which changes the direction",
    ),
    ("unscale_and_clip", lambda g, scale, limit: [(x / scale).clamp(-limit, limit) for x in g], "Each number"),
    (
        "unscale_and_clip",
        lambda g, scale, limit: [x / scale * limit / torch.cat(g).div(scale).norm() for x in g],
        "ever makes them smaller",
    ),
    ("unscale_and_clip", lambda g, scale, limit: clipped([x / scale for x in g], limit), "return None"),
    ("unscale_and_clip", lambda g, scale, limit: clipped([x / scale for x in g], limit)[:1], "a gradient for each"),
    ("mfu", other_mfu(passes=1), "forward pass alone"),
    ("mfu", other_mfu(passes=2), "two passes' worth"),
    ("mfu", other_mfu(passes=4), "checkpointing repeats"),
    ("mfu", other_mfu(each=1), "two operations"),
    ("mfu", other_mfu(scores=lambda *_: 0), "Attention is missing"),
    ("mfu", other_mfu(scores=lambda layers, width, length: layers * width * length), "once or by half"),
    ("mfu", other_mfu(scores=lambda layers, width, length: 2 * width * length), "for one layer"),
    ("mfu", other_mfu(scores=lambda layers, width, length: 2 * layers * width), "for one key"),
    ("mfu", lambda *args: 100 * mfu(*args), "in percent"),
    ("mfu", lambda *args: 1 / mfu(*args), "other way round"),
    ("mfu", lambda *args: mfu(*args) * args[-1], "Divide them by the peak"),
    ("mfu", lambda *args: mfu(*args) * args[3], "tokens, not rows"),
    ("mfu", lambda *args: 0.1234, "That is not the utilisation"),
    ("time_on", other_time(after=False), "*queued*"),
    ("time_on", other_time(warm=0), "leave it out"),
    ("time_on", other_time(pick=mean), "That is the mean."),
    ("time_on", other_time(pick=min), "fastest"),
    ("time_on", other_time(pick=sum), "sum of all pieces"),
    ("time_on", as_a_whole, "timed as a whole. Time each"),
    ("time_on", lambda device, n: as_a_whole(device, n, divide=False), "all pieces together"),
    ("time_on", busy_at_first, "still busy when the clock started"),
    ("growth", lambda attend: 1 / growth(attend), "other way round"),
    ("growth", lambda attend: 1.0, "do not depend on T"),
    ("growth", lambda attend: kept_bytes(attend, 512), "Those are bytes"),
    ("growth", lambda attend: 2.0, "nearly four times"),
    ("growth", lambda attend: 3.6, "doubles with T"),
]

test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    check, RIGHT, MISTAKES
)


def test_answers_in_other_clothes_are_right():
    def in_place(gradients, scale, limit):
        params = [torch.nn.Parameter(g) for g in gradients]
        for p, g in zip(params, gradients):
            p.grad = g / scale
        norm = torch.nn.utils.clip_grad_norm_(params, limit)
        return tuple(p.grad for p in params) if norm.isfinite() else None

    def by_sums(function, batches):
        n_targets = sum(int(mask.sum()) for _, _, mask in batches)
        total = sum(function(*batch) * int(batch[2].sum()) for batch in batches) / n_targets
        total.backward()
        return total

    assert check.unscale_and_clip(in_place)
    assert check.accumulate(by_sums)
    assert check.mfu(lambda *args: torch.tensor(mfu(*args)))


def test_a_step_that_overflowed_is_recognized():
    def forgets_nan(gradients, scale, limit):
        result = unscale_and_clip(gradients, scale, limit)
        return clipped(gradients, limit) if any(math.isnan(x) for g in gradients for x in g.tolist()) else result

    assert "nan" in check.unscale_and_clip(forgets_nan).message
