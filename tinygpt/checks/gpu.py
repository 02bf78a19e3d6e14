"""Checks for chapter 11: each typical mistake has a diagnosis of its own."""

import functools
import math
from statistics import mean, median

import torch
from torch import Tensor
from torch.nn import functional as F

from tinygpt.attention import attention_weights
from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.checks.tensors import diagnose, number, same


class _LossFunction:
    "The mean of squares of w * ids - targets, over the targets that count, with a weight w of its own for each column."

    def __init__(self):
        self.weights = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
        self.calls = 0

    def __call__(self, ids: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        self.calls += 1
        return self.errors(ids, targets)[mask].mean()

    def errors(self, ids: Tensor, targets: Tensor) -> Tensor:
        return (self.weights * ids - targets).square()

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        return "loss_function"


class _Batches(list):
    "A list of tensors that is passed as it is, and that a message calls by its name."

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        return "micro_batches"


def _micro_batches() -> _Batches:
    rng = torch.Generator().manual_seed(5)
    masks = [[[True, True, True], [True, True, False]], [[True, False, False]], [[True, True, False]]]
    made = _Batches()
    for rows in masks:
        mask = torch.tensor(rows)
        ids, targets = (torch.randint(1, 5, mask.shape, generator=rng).float() for _ in range(2))
        made.append((ids, targets, mask))
    return made


@checks
def accumulate(answer):
    "Exercise 1: each micro-batch counts by its share of the targets."
    function, batches = _LossFunction(), _micro_batches()
    counts = [int(mask.sum()) for _, _, mask in batches]
    rows = [len(mask) for _, _, mask in batches]
    losses = [function(*batch) for batch in batches]

    def weighted(weights: list[float]) -> tuple[Tensor, float]:
        total = sum(loss * weight for loss, weight in zip(losses, weights))
        return torch.autograd.grad(total, function.weights, retain_graph=True)[0], total.item()

    n = len(batches)
    shares = [count / sum(counts) for count in counts]
    right, right_loss = weighted(shares)
    function.calls = 0
    got = float(attempt(answer, function, batches, expect=(int, float, Tensor)))
    gradient, function.weights.grad = function.weights.grad, None
    asked = f" The call was {call(answer, function, batches)}."
    if not function.calls:
        raise Finding(f"loss_function was never called.{asked}")
    if gradient is None:
        raise Finding(f"The weights have no gradient: call backward on the loss of each micro-batch.{asked}")
    mistakes = [
        (
            weighted([1] * n)[0],
            "The losses were added up as they are, so the gradient is several times too large: that "
            "of a sum of means. Multiply each loss by its share.",
        ),
        (
            weighted([1 / n] * n)[0],
            "Each micro-batch counts alike, although they have different numbers of targets. "
            "This is the mean of the means.",
        ),
        (
            weighted([row / sum(rows) for row in rows])[0],
            "Each micro-batch counts by its rows. But rows have different numbers of targets; the mask says how many.",
        ),
        (
            weighted([1 / sum(counts)] * n)[0],
            "The losses were divided by the number of targets, but they are means "
            "already: multiply each by its own number of targets first.",
        ),
        (
            weighted([float(count) for count in counts])[0],
            "Each mean was multiplied by its number of targets, so the "
            "gradient is that of the sum. Divide by the number of targets of all micro-batches.",
        ),
        (weighted([0] * (n - 1) + [1])[0], "The gradient is that of the last micro-batch alone."),
        (
            weighted([0] * (n - 1) + [shares[-1]])[0],
            "Only the last micro-batch is in the gradient: was it set to zero "
            "in between, or backward called after the loop?",
        ),
        (weighted([shares[0]] + [0] * (n - 1))[0], "Only the first micro-batch is in the gradient."),
    ]
    if not same(gradient, right):
        found = [diagnosis for wrong, diagnosis in mistakes if same(gradient, wrong)]
        raise Finding(f"{(found or ['The gradient is not that of the mean over all targets.'])[0]}{asked}")
    sums = [
        (
            sum(loss.item() for loss in losses),
            "The gradient is right. But the number returned is the sum of the means.",
        ),
        (
            sum(loss.item() for loss in losses) / n,
            "The gradient is right. But the number returned is the mean of the means.",
        ),
        (
            losses[-1].item() * shares[-1],
            "The gradient is right. But only the last micro-batch is in the number returned.",
        ),
    ]
    diagnose(answer, (function, batches), got, right_loss, sums, "the mean over all targets")
    return "The gradient is that of the whole batch, whatever the micro-batches."


@checks
def unscale_and_clip(answer):
    "Exercise 2: divide first, then clip all gradients by one factor; None if one is not finite."
    scale, limit = 1024.0, 2.0
    true = [torch.tensor([3.0, 1.0]), torch.tensor([0.0, 4.0, 0.0])]
    scaled = [(g * scale).tolist() for g in true]

    def with_tensors(gradients: list[list[float]], *rest):
        return answer([torch.tensor(g) for g in gradients], *rest)

    def clipped(gradients: list[Tensor], limit: float) -> list[Tensor]:
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
        return [g * min(1.0, limit / norm) for g in gradients]

    def flat(gradients) -> Tensor:
        return torch.cat([torch.as_tensor(g, dtype=torch.float32).flatten() for g in gradients])

    def result(gradients: list, limit: float) -> list[Tensor]:
        args = [[g.tolist() if isinstance(g, Tensor) else g for g in gradients], scale, limit]
        got = attempt(
            functools.wraps(answer)(with_tensors) if callable(answer) else answer, *args, expect=(list, tuple)
        )
        if [tuple(torch.as_tensor(g).shape) for g in got] != [tuple(torch.as_tensor(g).shape) for g in gradients]:
            raise Finding(f"Return a list with a gradient for each that was given, of the same shapes, not {got}.")
        return got

    each = [g * min(1.0, limit / g.norm().item()) for g in true]
    largest = [g.clamp(-limit, limit) for g in true]
    asked = f" The call was unscale_and_clip({scaled}, {scale:g}, {limit:g})."
    got, right = flat(result(scaled, limit)), flat(clipped(true, limit))
    mistakes = [
        (
            flat([g / scale for g in clipped([g * scale for g in true], limit)]),
            "They were clipped before they were "
            "divided, so the limit was applied to the scaled gradients, and hardly anything is left.",
        ),
        (
            flat(clipped([g * scale for g in true], limit)),
            "Their norm is right, so they were clipped. But check the next call: were they divided by the scale?",
        ),
        (flat(true), "They were divided, but not clipped: their norm is 5.1, and the limit 2."),
        (flat([g * scale for g in true]), "These are the gradients as they were given."),
        (flat(clipped([g / scale for g in true], limit)), "They were divided by the scale twice."),
        (flat([g * scale * scale for g in true]), "They were multiplied by the scale once more. Divide by it."),
        (flat(each), "Each gradient was clipped alone, which changes the direction. The limit is for the norm of all."),
        (flat(largest), "Each number was clipped alone. The limit is for the norm of all gradients together."),
    ]
    if same(got, right):
        loose = 1e6  # larger than the norm, scaled or not
        free = flat(result(scaled, loose))
        norm = flat(true).norm().item()
        wrong = [
            (flat(true) * scale, "They were not divided by the scale."),
            (flat(true) * loose / norm, "They were made larger. Clipping only ever makes them smaller."),
        ]
        asked_loose = f"unscale_and_clip({scaled}, {scale:g}, {loose:g}), whose limit is not reached"
        if not same(free, flat(true)):
            found = [diagnosis for value, diagnosis in wrong if same(free, value)]
            raise Finding(
                f"{(found or ['These are not the gradients of the loss itself.'])[0]} The call was {asked_loose}."
            )
    if not same(got, right):
        found = [diagnosis for wrong, diagnosis in mistakes if same(got, wrong)]
        raise Finding(f"{(found or ['These are not the gradients of the loss, clipped to the limit.'])[0]}{asked}")
    for bad in math.inf, math.nan:
        try:
            answer([torch.tensor([bad, 1.0]), torch.tensor([2.0])], scale, limit)
        except Exception as error:
            raise Finding(f"With a gradient of {bad}, it stopped with {type(error).__name__}. Return None.") from None
        if answer([torch.tensor([bad, 1.0]), torch.tensor([2.0])], scale, limit) is not None:
            raise Finding(f"One gradient is {bad}, so the step is worthless: return None.")
    return "Divided, then clipped together, and a step that overflowed is recognized."


@checks
def mfu(answer):
    "Exercise 3: the FLOPs that training needs, over those that the device could do."
    n_weights, n_layer, n_embd, length, speed, peak = 85_000, 3, 64, 120, 2_000.0, 1e10
    attention = 2 * n_layer * n_embd * length  # multiplications: queries times keys, and weights times values

    def share(weights: float = n_weights, scores: float = attention, each: float = 2, passes: float = 3) -> float:
        return passes * each * (weights + scores) * speed / peak

    mistakes = [
        (share(passes=1), "That is the forward pass alone. Training also needs the backward pass."),
        (
            share(passes=2),
            "That is two passes' worth. The backward pass has two products for each one of the forward pass.",
        ),
        (share(passes=4), "The pass that checkpointing repeats was counted. It is work that is done, but not needed."),
        (share(each=1), "Each weight counts once. It is multiplied *and* added: two operations."),
        (share(each=1, passes=1), "That is one operation a weight, and the forward pass alone."),
        (share(scores=0), "Attention is missing: the scores and the averages, which grow with the length."),
        (
            share(scores=attention / 2),
            "Attention is counted once or by half: there are the scores *and* the averages "
            "of the values, and nothing is masked here.",
        ),
        (share(scores=attention / n_layer), "Attention is counted for one layer."),
        (share(scores=attention / length), "Attention is counted for one key. Each token attends to `length` keys."),
        (
            share(scores=attention * length),
            "Attention is counted for the whole row, but the weights for one token. Count both for one token.",
        ),
        (100 * share(), "That is in percent. Return a fraction."),
        (share() * length, "That is `length` times too much: tokens_per_second counts tokens, not rows."),
        (1 / share(), "That is the other way round: what is needed, divided by what is possible."),
        (share() * peak, "That is the FLOPs a second. Divide them by the peak."),
    ]
    args = n_weights, n_layer, n_embd, length, speed, peak
    diagnose(answer, args, number(answer, *args), share(), mistakes, "the utilisation")
    again = n_weights, 2, 32, 50, speed, peak
    diagnose(answer, again, number(answer, *again), share(scores=2 * 2 * 32 * 50), [], "the utilisation")
    return "Needed, not spent: three passes, two operations a weight, and attention."


class SimulatedDevice:
    "A device that works on its own: `submit` queues work, `wait` returns when all is done, `now` reads the clock."

    def __init__(self, durations: list[float], busy: float):
        self.durations, self.clock, self.free_at = list(durations), 0.0, busy
        self.submitted = 0

    def submit(self):
        self.clock += 0.001  # queueing takes time, too
        duration = self.durations[min(self.submitted, len(self.durations) - 1)]
        self.free_at = max(self.free_at, self.clock) + duration
        self.submitted += 1

    def wait(self):
        self.clock = max(self.clock, self.free_at)

    def now(self) -> float:
        return self.clock

    def __eq__(self, other):  # it is meant to be changed
        return isinstance(other, SimulatedDevice)

    def __repr__(self):
        return "device"


@checks
def time_on(answer):
    "Exercise 4: wait before and after, leave out the first, take the median."
    n, work = 5, [0.9, 2.0, 0.25, 0.26, 0.24, 0.2]  # a slow first piece, and one that was disturbed

    def measured(after=True, warm=1, pick=median) -> float:
        device, times = SimulatedDevice(work, busy=0.7), []
        for _ in range(n + warm):
            device.wait()
            start = device.now()
            device.submit()
            if after:
                device.wait()
            times.append(device.now() - start)
        return pick(times[warm:])

    def as_a_whole(warm: int, divisor: int) -> float:
        device = SimulatedDevice(work, busy=0.7)
        for _ in range(warm):
            device.submit()
        device.wait()
        start = device.now()
        for _ in range(n):
            device.submit()
        device.wait()
        return (device.now() - start) / divisor

    args = SimulatedDevice(work, busy=0.7), n
    mistakes = [
        (
            measured(after=False),
            "That is the time in which the work was *queued*. Wait until the device has done it "
            "before you read the clock.",
        ),
        (measured(warm=0), "The first piece counts, and it is slow: leave it out."),
        (measured(pick=mean), "That is the mean. One piece was disturbed; the median is not moved by it."),
        (measured(pick=min), "That is the fastest piece. The median is wanted."),
        (measured(pick=sum), "That is the sum of all pieces. The median of one piece is wanted."),
        (
            measured(warm=0, pick=mean),
            "That is the mean, with the slow first piece in it. Leave that out, and take the median.",
        ),
        (as_a_whole(1, n), "That is the mean of all pieces, timed as a whole. Time each, and take the median."),
        (as_a_whole(0, n), "That is the mean of all pieces, timed as a whole, without one to warm up."),
        (as_a_whole(1, 1), "That is the time of all pieces together."),
    ]
    diagnose(answer, args, number(answer, *args), measured(), mistakes, "the median time of a piece of work")
    mixed = [0.2, 0.3, 0.1, 0.5, 0.4, 0.6]
    again = SimulatedDevice(mixed, busy=3.0), n
    mistakes = [
        (0.501, "The device was still busy when the clock started, so earlier work counts. Wait before, too."),
        (0.601, "That is the last piece, not the median."),
    ]
    diagnose(answer, again, number(answer, *again), 0.401, mistakes, "the median time of a piece of work")
    return "Only the work itself was timed."


@checks
def growth(answer):
    "Exercise 5: the bytes that attention keeps grow with T * T, those of the fused kernel with T."

    def plain(query, key, value):
        return attention_weights(query, key) @ value

    def fused(query, key, value):
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)

    def linear(query, key, value):
        return query * 2.0 + (key * value).cumsum(-2)

    got = [number(answer, function) for function in (plain, fused, linear)]
    shown = f"plain attention {got[0]:.2f}, the fused kernel {got[1]:.2f}"
    if same(torch.tensor(got[:2]), torch.tensor([0.25, 0.5])) or (got[0] < 0.5 and got[1] < 0.6):
        raise Finding(f"It returned {shown}. That is the other way round: the bytes at 512, divided by those at 256.")
    if abs(got[0] - 1) < 0.01 and abs(got[1] - 1) < 0.01:
        raise Finding(f"It returned {shown}. The bytes do not depend on T: is T used for the shape?")
    if got[0] > 1000 or got[1] > 1000:
        raise Finding(f"It returned {shown}. Those are bytes. Return the ratio of those at 512 to those at 256.")
    if not 3.2 < got[0] < 4.01:
        raise Finding(
            f"It returned {shown}. Plain attention keeps its weights, (T, T) for each head: nearly four times."
        )
    if not 1.9 < got[1] < 2.1 or not 1.9 < got[2] < 2.1:
        raise Finding(f"It returned {shown}. What has T rows of fixed width doubles with T. Count each storage once.")
    return f"{shown[0].upper()}{shown[1:]}: whole weights grow with the square of T, the fused kernel keeps none."
