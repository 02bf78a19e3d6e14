"""Checks for the exercises of the chapter Training: each typical mistake has a diagnosis of its own."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.checks.tensors import diagnose, grid, number, same
from tinygpt.show.pictures import Picture, color_tokens, table

NUMBER = int, float, np.number, Tensor
Batch = tuple[Tensor, Tensor, Tensor]  # ids, targets, mask: each (B, T)


class _Named:
    "A value that is passed as it is, without a copy, and that a message calls by its name."

    def __init__(self, value, name: str):
        self.value, self.name = value, name

    def __repr__(self):
        return self.name

    def __deepcopy__(self, memo):
        return self


def _of_named(answer):
    "The same function, called with named values, of which it gets the values."
    if not callable(answer):
        return answer

    @functools.wraps(answer)
    def with_values(*args):
        return answer(*(arg.value if isinstance(arg, _Named) else arg for arg in args))

    return with_values


def _compared(got: Tensor, right: Tensor, names: list[str], rows: tuple[str, str]) -> Picture:
    "Two rows of numbers, with those outlined in the first that are wrong."
    wrong = ~got.isclose(right, rtol=1e-4, atol=1e-6)
    return grid(torch.stack([got, right]), rows, names, torch.stack([wrong, torch.zeros_like(wrong)]))


def _make_batches(lengths: list[list[int]]) -> list[Batch]:
    "Random batches; `lengths` says how many tokens count in each row of each batch."
    batches, generator = [], torch.Generator().manual_seed(1)
    for rows in lengths:
        tokens = torch.randint(6, (len(rows), max(rows) + 3), generator=generator)
        mask = torch.arange(tokens.shape[1] - 1) < torch.tensor(rows)[:, None]
        batches.append((tokens[:, :-1].clone(), tokens[:, 1:].clone(), mask))
    return batches


@dataclass(eq=False)
class _LossCall:
    "One call of model.loss."

    batch: int | None  # which of the batches it was, if one of them
    problem: str | None  # what is wrong with its arguments
    training: bool  # whether dropout was on
    has_graph: bool  # whether gradients could be computed from it
    loss: Tensor | None = None


@dataclass(eq=False)
class _Step:
    "One call of optimizer.step."

    gradient: Tensor  # the gradient that was used, as one vector
    of_batches: list[Tensor]  # the gradient of each batch at this time
    losses_after: Tensor  # of each batch: with dropout, and without


class _Events(list):
    "Everything that was done, in order. A copy of the model writes into the same list."

    def __deepcopy__(self, memo):
        return self


class _Model(nn.Module):
    "A small model that records what is done with it. What its dropout drops depends only on the batch."

    def __init__(self, batches: list[Batch], training: bool):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Parameter(torch.randn(6, 4, generator=generator))
        self.head = nn.Parameter(torch.randn(4, 6, generator=generator))
        self.batches = [tuple(part.clone() for part in batch) for batch in batches]
        self.was_training, self.events = training, _Events()
        self.train(training)

    def forward(self, *_):
        raise ValueError("this model has no logits, only a loss: model.loss(ids, targets, mask)")

    def masked_loss(self, ids: Tensor, targets: Tensor, mask: Tensor | None, training: bool) -> Tensor:
        x = self.embed[ids]  # (B, T) -> (B, T, C)
        if training:
            generator = torch.Generator().manual_seed(int(ids.sum()) * 7 + ids.numel())
            x = x * (torch.rand(x.shape, generator=generator) < 0.5) * 2
        nats = F.cross_entropy((x @ self.head).flatten(0, 1), targets.flatten(), reduction="none")
        counts = torch.ones_like(nats) if mask is None else mask.flatten().to(nats)
        return (nats * counts).sum() / counts.sum()

    def loss(self, ids, targets, mask=None) -> Tensor:
        event = _LossCall(*self.recognized(ids, targets, mask), self.training, torch.is_grad_enabled())
        self.events.append(event)
        event.loss = self.masked_loss(ids, targets, mask, self.training)
        if event.loss.requires_grad:
            event.loss.register_hook(lambda _: self.events.append(("backward", event)))
        return event.loss

    def recognized(self, *args) -> tuple[int | None, str | None]:
        "Which batch this is, and what is wrong with it."

        def is_part(arg: int, part: int, batch: Batch) -> bool:
            return isinstance(args[arg], Tensor) and args[arg].equal(batch[part].to(args[arg].dtype))

        for i, batch in enumerate(self.batches):
            if is_part(0, 1, batch) and is_part(1, 0, batch):
                return i, f"ids and targets of batches[{i}] are exchanged: model.loss takes ids, targets, mask."
            if not is_part(0, 0, batch):
                continue
            if is_part(1, 0, batch):
                return i, f"model.loss got the ids of batches[{i}] as targets too, so it would learn to repeat."
            if args[2] is None:
                return i, f"model.loss got no mask for batches[{i}], so padding counts as if it were text."
            if not is_part(1, 1, batch) or not is_part(2, 2, batch):
                part = "mask" if is_part(1, 1, batch) else "targets"
                return i, f"model.loss got the ids of batches[{i}], but not its {part}."
            return i, None
        return None, "model.loss got ids that do not belong to any batch."

    def flat(self, parts) -> Tensor:
        return torch.cat([part.detach().flatten() for part in parts])

    def gradient(self, batch: Batch) -> Tensor:
        return self.flat(torch.autograd.grad(self.masked_loss(*batch, training=True), list(self.parameters())))

    def recorded(self) -> tuple[list[_LossCall], list[_LossCall], list[_Step]]:
        "All calls of model.loss, those that were backpropagated, and all steps."
        backward = [event[1] for event in self.events if isinstance(event, tuple)]
        calls, steps = ([event for event in self.events if isinstance(event, kind)] for kind in (_LossCall, _Step))
        return calls, backward, steps


class _RecordingOptimizer:
    "An optimizer that records the gradient of each step."

    def step(self, closure=None):
        model = self.model
        with torch.enable_grad():
            loss = closure() if closure else None
            used = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]
            of_batches = [model.gradient(batch) for batch in model.batches]
        super().step()
        with torch.no_grad():
            after = [[model.masked_loss(*batch, on) for batch in model.batches] for on in (True, False)]
        model.events.append(_Step(model.flat(used), of_batches, torch.tensor(after)))
        return loss


def _returned(answer, model: _Model, *others: _Named, expect: tuple[type, ...]):
    "What the answer returns; where it stopped with an error, what led to the error."
    batches = [tuple(part.clone() for part in batch) for batch in model.batches]
    try:
        got = attempt(answer, _Named(model, "model"), *others, _Named(batches, "batches"), expect=expect)
    except Finding as finding:
        if finding.verdict.state == "wrong" and (why := _why_stopped(model, bool(others))):
            raise Finding(f"{why} {finding.verdict.message}") from None
        raise
    unchanged = all(a.equal(b) for pair in zip(batches, model.batches) for a, b in zip(*pair))
    if len(batches) != len(model.batches) or not unchanged:
        raise Finding("It changed the batches that it was given. The caller may still need them.")
    return got


def _why_stopped(model: _Model, trains: bool) -> str | None:
    "The mistake that led to an error."
    calls, backward, steps = model.recorded()
    again = next((event for i, event in enumerate(backward) if any(event is other for other in backward[:i])), None)
    if again:
        return (
            f"The loss of batches[{again.batch}] was backpropagated a second time. Backpropagate the loss of each "
            "batch once, alone: a sum of losses still contains the graphs of all earlier steps."
        )
    if calls and calls[-1].problem:
        return calls[-1].problem
    if calls and trains and not backward and not calls[-1].has_graph:
        return NO_GRAPH
    first = next((event for event in model.events if not isinstance(event, _LossCall)), None)
    if backward and isinstance(first, _Step):
        return TOO_SOON
    if steps and len(calls) > 1 and not any(e is calls[-1] for e in model.events[model.events.index(steps[0]) :]):
        return "All losses were computed before the first step, and that step changed the weights they depend on."
    return None


NO_GRAPH = (
    "The loss was computed without gradients, as under torch.no_grad(), so it cannot be backpropagated. "
    "That is right for validation, but not for training."
)
TOO_SOON = (
    "optimizer.step() came before loss.backward(): the first step has no gradient, and each later step uses the "
    "gradient of the batch before. Call backward first, then step."
)
NEVER_CALLED = "model.loss was never called. It gives the loss of each batch: model.loss(ids, targets, mask)."


@checks
def train_steps(answer):
    "Exercise 1: for each batch its loss, its gradient alone, one step, and the loss as a number."
    answer = _of_named(answer)
    batches = _make_batches([[4, 2], [3, 4], [1, 3], [5, 2]])
    for kind, lr, training in (torch.optim.SGD, 0.5, True), (torch.optim.AdamW, 0.1, False):
        model = _Model(batches, training)
        optimizer = type(kind.__name__, (_RecordingOptimizer, kind), {"model": model})(model.parameters(), lr=lr)
        expect = (list, tuple, *NUMBER)
        got = _returned(answer, model, _Named(optimizer, "optimizer"), expect=expect)
        trained, steps = _matched(model)
        _check_losses(answer, got, trained, steps)
        _check_weights(model, kind, lr)
    return "One loss, one gradient and one step for each batch, and a list of plain numbers."


def _matched(model: _Model) -> tuple[list[_LossCall], list[_Step]]:
    "The loss that each step was made with, and the steps; a Finding if they do not match."
    calls, backward, steps = model.recorded()
    if not calls:
        raise Finding(NEVER_CALLED)
    if not backward:
        if not any(event.has_graph for event in calls):
            raise Finding(NO_GRAPH)
        raise Finding("loss.backward() was never called: without a gradient, no step changes a weight.")
    if not steps:
        raise Finding("optimizer.step() was never called: gradients were computed, but nothing uses them.")
    trained, waiting = [], []
    for event in model.events:
        if isinstance(event, tuple):
            waiting.append(event[1])
        if isinstance(event, _Step):
            _check_step(model, len(trained) + 1, waiting, event)
            trained.append(waiting[-1])
            waiting = []
    _check_gradients(trained, steps)
    _check_order([event.batch for event in trained], len(model.batches))
    return trained, steps


def _check_step(model: _Model, i: int, backward: list[_LossCall], step: _Step):
    if not backward and i == 1:
        raise Finding(TOO_SOON)
    if not backward:
        raise Finding(f"Between steps {i - 1} and {i} no loss was backpropagated. Each step needs its own gradient.")
    if len({event.batch for event in backward}) > 1:
        raise Finding(f"Step {i} came only after {len(backward)} losses were backpropagated. Make one for each batch.")
    if problem := next((event.problem for event in backward if event.problem), None):
        raise Finding(f"In step {i} {problem}")
    if not step.gradient.any():
        raise Finding(
            f"Step {i} had a gradient of zeros: it was cleared between loss.backward() and optimizer.step(), so the "
            "model learned nothing. Clear it after the step, or before backward."
        )
    if not backward[-1].training:
        how = "model.eval() was called" if model.was_training else "the model came in eval mode, and stayed in it"
        raise Finding(f"In step {i} dropout was off: {how}. Train in train mode.")


def _check_gradients(trained: list[_LossCall], steps: list[_Step]):
    expected = [step.of_batches[event.batch] for event, step in zip(trained, steps)]
    used_norms, norms = (torch.stack([g.norm() for g in gs]) for gs in ([s.gradient for s in steps], expected))
    picture = _compared(used_norms, norms, [f"step {k + 1}" for k in range(len(steps))], ("used", "expected"))
    for i, (own, step) in enumerate(zip(expected, steps)):
        if same(step.gradient, own):
            continue
        if i and same(step.gradient, own + steps[i - 1].gradient):
            raise Finding(
                f"The gradients add up: step {i + 1} used the gradient of step {i} plus its own. By step {len(steps)} "
                f"the gradient has length {used_norms[-1]:.2f}; that of its batch alone has length {norms[-1]:.2f}. "
                "The lengths in all steps are below. Clear the gradient once per step.",
                picture,
            )
        factor = (step.gradient @ own / (own @ own)).item()
        if same(step.gradient, factor * own):
            what = "points uphill, with the wrong sign" if factor < 0 else f"is {factor:.3g} times that of its batch"
            raise Finding(f"The gradient in step {i + 1} {what}. Backpropagate the loss as it is, once.", picture)
        raise Finding(
            f"The gradient in step {i + 1} is not that of its batch. It has length {used_norms[i]:.2f}, where "
            f"{norms[i]:.2f} is expected.",
            picture,
        )


def _check_order(got: list[int], n: int):
    right = list(range(n))
    if got == right:
        return
    if got == [0]:
        raise Finding(f"It stopped after the first of {n} batches. Is `return` inside the loop?")
    if got == right[:-1] or got == right[1:]:
        raise Finding(f"The {'last' if got[0] == 0 else 'first'} of the {n} batches was left out.")
    shown, wanted = (", ".join(map(str, order)) for order in (got, right))
    raise Finding(f"The steps were made with the batches {shown}. Expected is one step with each: {wanted}.")


def _check_losses(answer, got, trained: list[_LossCall], steps: list[_Step]):
    right = torch.stack([event.loss.detach() for event in trained])
    if isinstance(got, Real) or isinstance(got, Tensor) and got.dim() == 0:
        known = {"only the last loss": right[-1], "the mean of the losses": right.mean(), "their sum": right.sum()}
        what = next((words for words, value in known.items() if same(torch.tensor(float(got)), value)), "one number")
        raise Finding(f"It returned {what}, {float(got):.4g}, not a list with a loss for each of {len(right)} steps.")
    for i, loss in enumerate(got := list(got)):
        if isinstance(loss, Tensor) and loss.requires_grad:
            raise Finding(f"Item {i} of the list is a tensor with its whole graph, which fills the memory.")
        if not isinstance(loss, Real):
            raise Finding(f"Item {i} of the list is of type {type(loss).__name__}, not a plain number.")
    if len(got) != len(right):
        raise Finding(f"The list has {len(got)} losses, for {len(right)} steps. Each step has one.")
    got, counts = torch.tensor([float(loss) for loss in got]), torch.arange(1.0, len(right) + 1)
    after = torch.stack([step.losses_after[:, event.batch] for event, step in zip(trained, steps)], 1)
    picture = _compared(got, right, [f"step {i + 1}" for i in range(len(right))], ("yours", "expected"))
    mistakes = [
        (after[0], "The losses were computed after the step: the model has learned from the batch, so they are lower."),
        (after[1], "The losses were computed after the step and without dropout. Return those you backpropagated."),
        (right.cumsum(0), "The losses were added up: each number in the list includes all before it."),
        (right.cumsum(0) / counts, "Each number in the list is the mean of all losses so far."),
        (right[-1].expand_as(right), "All numbers in the list are the loss of the last step."),
        (right.flip(0), "The list is in reverse order: the first step comes first."),
    ]
    diagnose(answer, (), got, right, mistakes, "a list of the losses that were backpropagated", picture)


def _check_weights(model: _Model, kind: Callable, lr: float):
    twin = _Model(model.batches, True)
    twin_optimizer = kind(twin.parameters(), lr=lr)
    for batch in twin.batches:
        twin_optimizer.zero_grad()
        twin.masked_loss(*batch, training=True).backward()
        twin_optimizer.step()
    got, right = model.flat(model.parameters()), twin.flat(twin.parameters())
    if not same(got, right):
        raise Finding(
            f"Each gradient was right, but the final weights are off by up to {(got - right).abs().max():.3g}: "
            "something other than optimizer.step() changed them, or changed the optimizer."
        )


@checks
def validation_loss(answer):
    "Exercise 2: dropout off, the same weight for every counted token, and nothing changed."
    answer = _of_named(answer)
    batches = _make_batches([[5, 4, 6], [1], [2, 1]])
    for training in True, False:
        model = _Model(batches, training)
        before = model.flat(model.parameters()).clone()
        got = _returned(answer, model, expect=NUMBER)
        if isinstance(got, Tensor) and got.numel() != 1:
            raise Finding(f"It returned a tensor of shape {tuple(got.shape)}, not one number.")
        calls, backward, _ = model.recorded()
        if not calls:
            raise Finding(NEVER_CALLED)
        if not model.flat(model.parameters()).equal(before):
            raise Finding("It changed the weights. The model must not learn from the validation batches.")
        if backward or any(p.grad is not None for p in model.parameters()):
            raise Finding("A loss was backpropagated: its gradients stay in the model and would go into the next step.")
        _check_mean(answer, model, calls, float(got.detach() if isinstance(got, Tensor) else got))
        if isinstance(got, Tensor) and got.requires_grad:
            raise Finding("The number is right, but it is a tensor that keeps its graph. Compute it without gradients.")
        if not all(p.requires_grad for p in model.parameters()):
            raise Finding("The number is right, but the weights no longer require gradients: training cannot go on.")
        if any(event.has_graph for event in calls):
            raise Finding("The number is right, but a graph for gradients was built on the way, which takes memory.")
        if model.training != training:
            raise Finding(
                "The model came in train mode and was left in eval mode: from now on it would train without dropout."
                if training
                else "The model came in eval mode and was left in train mode: dropout would disturb what it generates "
                "next. Remember model.training at the start, and restore it."
            )
    return "Dropout off, the same weight for every token, and the model as it was."


def _check_mean(answer, model: _Model, calls: list[_LossCall], got: float):
    def computed(masked: bool, training: bool) -> Tensor:
        with torch.no_grad():
            found = [model.masked_loss(i, t, m if masked else None, training) for i, t, m in model.batches]
        return torch.stack(found).double()

    counted, positions, rows = (
        torch.tensor([float(count(mask)) for _, _, mask in model.batches], dtype=torch.float64)
        for count in (torch.sum, torch.numel, len)
    )
    losses, unmasked, dropped = computed(True, False), computed(False, False), computed(True, True)

    def weighted(losses: Tensor, weights: Tensor) -> float:
        return ((losses * weights).sum() / weights.sum()).item()

    right, n = weighted(losses, counted), len(losses)
    if any(event.training for event in calls):
        raise Finding(
            f"Dropout was on: a part of the model was switched off at random, and its loss is {got:.4g} instead of "
            f"{right:.4g}. Validate in eval mode."
        )
    lines = [(f"batches[{i}]", f"counted tokens: {counted[i]:.0f}", f"loss: {losses[i]:.3f}") for i in range(n)]
    picture = table([*lines, ("all", f"counted tokens: {counted.sum():.0f}", f"loss: {right:.3f}")])
    mistakes = [
        (
            losses.mean(),
            "That is the mean of the batches' losses, so the one token of batches[1] counts as much as all "
            f"{counted[0]:.0f} of batches[0]. Weight each loss by its number of counted tokens.",
        ),
        (weighted(unmasked, positions), "The mask was ignored: padding counts as if it were text."),
        (unmasked.mean(), "That is the mean of the batches' losses, padding included: no mask was used."),
        (weighted(unmasked, counted), "The masks were used as weights, but not passed to model.loss: padding counts."),
        (weighted(losses, positions), "The losses were weighted by all positions of a batch, padding included."),
        (weighted(losses, rows), "The losses were weighted by the number of rows. Weight them by counted tokens."),
        ((losses * counted).sum() / positions.sum(), "The sum was divided by all positions, padding included."),
        ((losses * counted).sum(), "That is the sum over all tokens. Divide it by the number of tokens."),
        (losses.sum(), "That is the sum of the batches' losses. Each is a mean: weight it, add up, and divide."),
        ((losses * counted).sum() / n, "The sum over all tokens was divided by the number of batches, not of tokens."),
        (right / math.log(2), "That is in bits. The loss of the model is in nats already."),
        (math.exp(right), "That is the perplexity, exp(loss). Return the loss, in nats per token."),
        (losses[0], "Only the first batch was used. Is `return` inside the loop?"),
        (losses[-1], "Only the last batch was used: does each loss overwrite the one before?"),
        (weighted(losses[:-1], counted[:-1]), "The last batch was left out."),
        (weighted(losses[1:], counted[1:]), "The first batch was left out."),
        (weighted(dropped, counted), "That is the loss with dropout."),
    ]
    mistakes += [(got, event.problem) for event in calls if event.problem]
    what = f"the loss over all batches, which is {right:.4g} nats per token"
    diagnose(answer, (_Named(model, "model"), _Named(model.batches, "batches")), got, right, mistakes, what, picture)


TEXTS = [f"a {word}" for word in "kite boat drum lamp ring bell coin shoe comb fork sock".split()]


def _split(texts: list[str], fraction: float) -> tuple[list[str], list[str]]:
    distinct = list(dict.fromkeys(texts))
    n = max(1, int(fraction * len(distinct)))
    return distinct[:-n], distinct[-n:]


@checks
def train_val_split(answer):
    "Exercise 3: the last of the distinct texts are for validation."
    copies = [TEXTS[i] for i in (0, 1, 2, 0, 3, 4, 1, 5, 6, 4, 7, 2)]
    for texts, fraction in (TEXTS[:8], 0.25), (TEXTS[:3], 0.25), (TEXTS, 0.25), (copies, 0.25), (TEXTS[:2], 0.5):
        got = attempt(answer, texts, fraction, expect=(list, tuple))
        asked = f"The call was {call(answer, texts, fraction)}."
        if len(got) != 2:
            raise Finding(f"Two lists are expected, train and val, but it returned {len(got)}. {asked}")
        if not all(isinstance(side, list | tuple) for side in got):
            raise Finding(f"It returned {got!r:.80}, not two lists of texts: cut the list, not one long text. {asked}")
        train, val = (list(side) for side in got)
        if (train, val) != _split(texts, fraction):
            message, marked = _why_not_split(texts, fraction, train, val)
            raise Finding(f"{message} {asked}", _two_sides(train, val, marked))
    return "No validation text was trained on, not even as a copy."


def _two_sides(train: list, val: list, marked) -> Picture:
    "Both lists, with the first text outlined that is wrong."

    def drawn(side: list) -> Picture:
        at = next((i for i, text in enumerate(side) if text == marked), None)
        return color_tokens([f" {text} " for text in side], marked=at)

    return table([("train", drawn(train)), ("val", drawn(val))])


def _why_not_split(texts: list[str], fraction: float, train: list, val: list) -> tuple[str, str | None]:
    "What is wrong, and the text that shows it."
    distinct, n = list(dict.fromkeys(texts)), len(_split(texts, fraction)[1])
    foreign = next((text for text in train + val if text not in texts), None)
    if foreign is not None:
        return f"{foreign!r} is not one of the texts. Cut between texts, never inside one.", foreign
    if not val:
        return "val is empty. However few texts there are, at least one is for validation.", None
    for wrong, message in _wrong_splits(texts, distinct, n, fraction):
        if (train, val) == wrong:
            return message, None
    for text in sorted(distinct, key=lambda text: text not in train or text not in val):  # leaks first
        times = texts.count(text)
        if text in train and text in val and times == 1:
            return f"{text!r} is in both lists, though it comes once in the texts: the two slices overlap.", text
        if text in train and text in val:
            return (
                f"{text!r} leaks: it comes {times} times in the texts and is in both lists. The model could know it by "
                "heart, and validation would count it as new. Remove the copies first, then cut."
            ), text
        if text not in train + val:
            return f"{text!r} is lost: it is in neither list.", None
        if (train + val).count(text) > 1:
            return f"{text!r} is in one list {(train + val).count(text)} times. Keep it once.", text
    for side in train, val:
        for before, text in zip(side, side[1:]):
            if distinct.index(text) < distinct.index(before):
                return f"The order has changed: {text!r} comes before {before!r} in the texts.", text
    if len(val) != n:
        return f"val has {len(val)} of {len(distinct)} distinct texts. Expected are {n}.", None
    bad = next(text for text in val if text not in distinct[-n:])
    return f"{bad!r} is not among the last {n} distinct texts, which are for val.", bad


def _wrong_splits(texts: list[str], distinct: list[str], n: int, fraction: float) -> list[tuple[tuple, str]]:
    "What typical mistakes give; in none of these a text leaks or is lost."
    up, of_all = math.ceil(fraction * len(distinct)), max(1, int(fraction * len(texts)))
    last = list(dict.fromkeys(texts[::-1]))[::-1]
    return [
        (([], distinct), "All texts are in val: the number came out as 0, and texts[-0:] is the whole list."),
        ((distinct[-n:], distinct[:-n]), "The two lists are exchanged: train comes first."),
        ((distinct[n:], distinct[:n]), "val was taken from the front. The last texts are for validation."),
        ((distinct[:n], distinct[n:]), f"The sizes are exchanged: {fraction} is the fraction of val, not of train."),
        ((distinct[:-up], distinct[-up:]), f"{fraction * len(distinct):g} texts were rounded up to {up}. Round down."),
        (
            (distinct[:-of_all], distinct[-of_all:]),
            f"Take the fraction of the {len(distinct)} distinct texts, not of all {len(texts)} with their copies.",
        ),
        ((last[:-n], last[-n:]), "Each text was kept where it comes last. Keep it where it comes first."),
    ]


STEPS, SAVED_AT = 8, (3, 5)


class _TinyModel(nn.Module):
    "Two parameters, another start for each seed."

    def __init__(self, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3, generator=generator))
        self.bias = nn.Parameter(torch.randn(1, generator=generator))


def _new_run(seed: int) -> tuple[_TinyModel, torch.optim.Optimizer]:
    model = _TinyModel(seed)
    return model, torch.optim.Adam(model.parameters(), lr=0.3)


def _train(model: _TinyModel, optimizer: torch.optim.Optimizer, first: int, last: int) -> list[float]:
    "Make these steps, each with the batch of its number; returns their losses."
    generator = torch.Generator().manual_seed(2)
    batches = torch.randn(STEPS, 32, 3, generator=generator)
    losses = []
    for batch in batches[first:last]:
        loss = (batch @ model.weight + model.bias).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _leaves(value, path: str = "state") -> dict[str, object]:
    "Copies of all values inside nested dicts and lists, by their path, such as state['model']['bias']."
    if isinstance(value, Tensor | np.ndarray):
        return {path: value.tolist()}
    if not isinstance(value, Mapping | list | tuple):
        return {path: value}
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    parts = (_leaves(part, f"{path}[{key if isinstance(key, Tensor) else repr(key)}]") for key, part in items)
    return functools.reduce(dict.__or__, parts, {})


def _difference(before: dict[str, object], now: dict[str, object]) -> str | None:
    "The first path whose value is not the same."
    return next((path for path in before | now if before.get(path) != now.get(path)), None)


class _Saved:
    "What save_state returned after some steps, and what should be in it."

    def __init__(self, answer, model: _TinyModel, optimizer: torch.optim.Optimizer, step: int):
        self.step, self.weights, self.averages = step, *_run_state(model, optimizer)
        args = _Named(model, "model"), _Named(optimizer, "optimizer"), step
        self.state = attempt(_of_named(answer), *args, expect=dict)
        self.leaves = _leaves(self.state)
        for path, value in self.leaves.items():
            if not isinstance(value, int | float | str | bytes | list | np.generic | None):
                raise Finding(
                    f"{path} is an object of type {type(value).__name__}. Save what it contains: tensors, numbers and "
                    "strings, in dicts and lists. A file with objects in it runs code when it is loaded."
                )

    def change(self) -> str | None:
        "The first path in the state that has changed since."
        return _difference(self.leaves, _leaves(self.state))


def _run_state(model: _TinyModel, optimizer: torch.optim.Optimizer) -> tuple[dict, dict]:
    "The weights, and the averages that the optimizer keeps."
    return _leaves(model.state_dict(), ""), _leaves(optimizer.state_dict()["state"], "")


@checks
def resume(save_state, load_state):
    "Exercise 4: a run that is saved and resumed with new objects continues like one that was never interrupted."
    model, optimizer = _new_run(0)
    saves, losses = [], []
    for step in range(STEPS):
        if step in SAVED_AT:
            saves.append(_Saved(save_state, model, optimizer, step))
        losses += _train(model, optimizer, step, step + 1)
    for saved in saves:
        if path := saved.change():
            raise Finding(
                f"Training after save_state changed the saved state: {path} is not what it was. Each step changes the "
                "tensors of model and optimizer in place, and the state holds these same tensors. A new dict around "
                "them is not enough."
            )
    for saved in saves:
        _check_resumed(load_state, saved, losses, _run_state(model, optimizer))
    return "The resumed run has the same losses and weights as the uninterrupted one, to the last bit."


def _check_resumed(load_state, saved: _Saved, losses: list[float], final: tuple[dict, dict]):
    "Load the state into a new model and optimizer, and train to the end."
    model, optimizer = _new_run(saved.step)
    start = _run_state(model, optimizer)
    got = _loaded(load_state, model, optimizer, saved.state)
    now = _run_state(model, optimizer)
    if got is None and now == start:
        raise Finding("load_state returned None. Is its body written?", state="blank")
    if path := saved.change():
        raise Finding(f"load_state changed the saved state, at {path}. A run can resume from it only once.")
    if {id(p) for p in model.parameters()} != {id(p) for group in optimizer.param_groups for p in group["params"]}:
        raise Finding(
            "load_state gave the model new parameters, but the optimizer still updates the old ones, so training has "
            "no effect. Load the numbers into the parameters that are there."
        )
    resumed = _train(model, optimizer, saved.step, STEPS)
    names = [f"step {i + 1}" for i in range(saved.step, STEPS)]
    picture = _compared(torch.tensor(resumed), torch.tensor(losses[saved.step :]), names, ("resumed", "expected"))
    whose = ("weights", "model", saved.weights), ("averages that Adam keeps", "optimizer", saved.averages)
    for (what, owner, expected), loaded in zip(whose, now):
        if _difference(expected, loaded):
            kept = all(value in saved.leaves.values() for value in expected.values())
            where = f"are in the state, but not loaded into {owner}" if kept else "are not all in the state"
            raise Finding(f"The {what} {where}. So the resumed run has other losses:", picture)
    _check_step_number(got, saved)
    if resumed != losses[saved.step :] or _run_state(model, optimizer) != final:
        raise Finding("The resumed run has other losses or weights than the uninterrupted one:", picture)
    if path := saved.change():
        raise Finding(
            f"Training after load_state changed the saved state: {path} is not what it was. The run continues with the "
            "tensors of the state itself (the load_state_dict of an optimizer does not copy them), so a second "
            "run could not resume from it."
        )


def _loaded(load_state, model: _TinyModel, optimizer: torch.optim.Optimizer, state: dict):
    "What load_state returns, which may be None."
    if not callable(load_state):
        attempt(load_state, expect=int)
    answer = _of_named(load_state)

    @functools.wraps(load_state)
    def in_a_list(*args):
        return [answer(*args)]

    args = _Named(model, "model"), _Named(optimizer, "optimizer"), _Named(state, "state")
    return attempt(in_a_list, *args, expect=list)[0]


def _check_step_number(got, saved: _Saved):
    step = saved.step
    if got is None:
        raise Finding("load_state restores weights and optimizer, but returns None. The caller needs the step.")
    if not isinstance(got, Integral) or isinstance(got, bool):
        raise Finding(f"load_state returned {got!r:.80}, of type {type(got).__name__}. The step is a whole number.")
    if got != step:
        told = {step + 1: f"the batch of step {step + 1} is skipped", step - 1: f"the batch of step {step} comes twice"}
        where = "" if step in saved.leaves.values() else " The state does not contain the step."
        raise Finding(
            f"load_state returned {got}, but {step} steps were done when the state was saved, so "
            f"{told.get(got, 'the run continues with the wrong batches')}.{where}"
        )


@checks
def nats_above_floor(answer):
    "Exercise 5: the model's nats minus the grammar's, per tale."
    for args in (1.25, [-60.0, -45.5, -80.25], 160), (0.5, [-70.0, -81.0, -64.0, -75.5], 620), (0.75, [-112.5], 160):
        loss, logprobs, n_tokens = args
        model, floor, n = loss * n_tokens, -sum(logprobs), len(logprobs)
        right = (model - floor) / n
        mistakes = [
            (-right, "The sign is wrong: the floor lies below the loss, so the difference is positive."),
            ((model + floor) / n, "The two were added up. Log-probabilities are negative: mind the sign."),
            (right * n / n_tokens, "That is per token. Return the nats per tale."),
            (right * n, "That is for all tales together. Return the nats per tale."),
            (loss - floor / n, "It subtracts nats per tale from nats per token. Convert to one unit first."),
            (loss + floor / n, "It mixes nats per tale and nats per token. Convert to one unit first."),
            (model - floor / n, "It subtracts the floor of one tale from the nats of all tales."),
            (model / n - floor, "It subtracts the floor of all tales from the nats of one tale."),
            (n_tokens * (loss - floor / n), "The mean log-probability is per tale: do not multiply it by n_tokens."),
            (model / n, "That is the model's loss per tale. The floor was not subtracted."),
            (floor / n, "That is the floor per tale. The model's loss is missing."),
            ((math.exp(loss) * n_tokens - floor) / n, "The perplexity, exp(loss), was used in place of the loss."),
            (right / math.log(2), "That is in bits. Loss and log-probabilities are in nats already."),
            ((model - floor) // n, "The fraction was cut off. Divide with /, not with //."),
        ]
        diagnose(answer, args, number(answer, *args), right, mistakes, "the nats per tale above the floor")
    return "The nats of all tales, minus the floor of all tales, divided by their number."
