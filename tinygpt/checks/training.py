"""Checks for chapter 10: each typical mistake has a diagnosis of its own."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.checks.tensors import diagnose, grid, same
from tinygpt.show.pictures import Picture, color_tokens, table

NUMBER = int, float, np.number, Tensor
Batch = tuple[Tensor, Tensor, Tensor]  # ids, targets, mask: each (B, T)


class _Given:
    "Something that is handed over as it is, and that a message calls by its name."

    def __init__(self, value, name: str):
        self.value, self.name = value, name

    def __repr__(self):
        return self.name

    def __deepcopy__(self, memo):
        return self


def _of_given(answer):
    "The same function, called with things by their names."
    if not callable(answer):
        return answer

    @functools.wraps(answer)
    def with_things(*args):
        return answer(*(arg.value for arg in args))

    return with_things


def _batches(lengths: list[list[int]]) -> list[Batch]:
    "Batches of which so many tokens count in each row."
    made, dice = [], torch.Generator().manual_seed(1)
    for rows in lengths:
        tokens = torch.randint(6, (len(rows), max(rows) + 3), generator=dice)
        mask = torch.arange(tokens.shape[1] - 1) < torch.tensor(rows)[:, None]
        made.append((tokens[:, :-1].clone(), tokens[:, 1:].clone(), mask))
    return made


@dataclass(eq=False)
class _Look:
    "A loss that was asked for."

    batch: int | None  # which of the batches it was, if one of them
    odd: str | None  # what is wrong with what the model was given
    learning: bool  # whether dropout was on
    graph: bool  # whether gradients could be computed from it
    loss: Tensor = field(default_factory=lambda: torch.tensor(math.nan))
    probe: Tensor | None = None


@dataclass(eq=False)
class _Step:
    "A step that was made."

    used: Tensor  # the gradient, all numbers in a row
    own: list[Tensor]  # what each batch would have given
    after: Tensor = field(default_factory=lambda: torch.empty(0))  # the loss of each batch then: dropout on, and off


class _Notes(list):
    "What was done, in order; a copy of the model notes into the same list."

    def __deepcopy__(self, memo):
        return self


class _Model(nn.Module):
    "A small model that notes what is done with it. What its dropout drops depends on the batch alone."

    def __init__(self, batches: list[Batch], learning: bool):
        super().__init__()
        dice = torch.Generator().manual_seed(0)
        self.embed = nn.Parameter(torch.randn(6, 4, generator=dice))
        self.head = nn.Parameter(torch.randn(4, 6, generator=dice))
        self.batches = [tuple(part.clone() for part in batch) for batch in batches]
        self.came_learning, self.notes = learning, _Notes()
        self.train(learning)

    def forward(self, *_):
        raise ValueError("this model is asked for its loss alone: model.loss(ids, targets, mask)")

    def surprise(self, ids: Tensor, targets: Tensor, mask: Tensor | None, learning: bool) -> Tensor:
        x = self.embed[ids]  # (B, T) -> (B, T, C)
        if learning:
            dice = torch.Generator().manual_seed(int(ids.sum()) * 7 + ids.numel())
            x = x * (torch.rand(x.shape, generator=dice) < 0.5) * 2
        nats = F.cross_entropy((x @ self.head).flatten(0, 1), targets.flatten(), reduction="none")
        counts = torch.ones_like(nats) if mask is None else mask.flatten().to(nats)
        return (nats * counts).sum() / counts.sum()

    def loss(self, ids, targets, mask=None) -> Tensor:
        look = _Look(*self.recognized(ids, targets, mask), self.training, torch.is_grad_enabled())
        self.notes.append(look)
        look.loss = self.surprise(ids, targets, mask, self.training)
        if look.loss.requires_grad:
            look.probe = torch.ones((), requires_grad=True)
            look.loss = look.loss * look.probe
            look.loss.register_hook(lambda _: self.notes.append(("back", look)))
        return look.loss

    def recognized(self, *given) -> tuple[int | None, str | None]:
        "Which batch this is, and what is wrong with it."

        def alike(part: int, other: int, batch: Batch) -> bool:
            return isinstance(given[part], Tensor) and given[part].equal(batch[other].to(given[part].dtype))

        for i, batch in enumerate(self.batches):
            if alike(0, 1, batch) and alike(1, 0, batch):
                return i, f"ids and targets of batches[{i}] are exchanged: model.loss takes ids, targets, mask."
            if not alike(0, 0, batch):
                continue
            if alike(1, 0, batch):
                return i, f"model.loss got the ids of batches[{i}] as targets, too: it would learn to repeat."
            if given[2] is None:
                return i, f"model.loss got no mask for batches[{i}]: so padding counts as if it were text."
            if not alike(1, 1, batch) or not alike(2, 2, batch):
                part = "mask" if alike(1, 1, batch) else "targets"
                return i, f"model.loss got the ids of batches[{i}], but not its {part}."
            return i, None
        return None, "model.loss got ids that are not those of any batch."

    def flat(self, parts) -> Tensor:
        return torch.cat([part.detach().flatten() for part in parts])

    def gradient(self, batch: Batch) -> Tensor:
        return self.flat(torch.autograd.grad(self.surprise(*batch, learning=True), list(self.parameters())))

    def noted(self) -> tuple[list[_Look], list[_Look], list[_Step]]:
        "All losses, those that went backward, and all steps."
        backs = [note[1] for note in self.notes if isinstance(note, tuple)]
        looks, steps = ([note for note in self.notes if isinstance(note, kind)] for kind in (_Look, _Step))
        return looks, backs, steps


class _Noting:
    "An optimizer that notes with which gradients it made a step."

    def step(self, closure=None):
        model = self.model
        with torch.enable_grad():
            loss = closure() if closure else None
            used = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
            step = _Step(model.flat(used), [model.gradient(batch) for batch in model.batches])
        super().step()
        with torch.no_grad():
            step.after = torch.tensor([[model.surprise(*batch, on) for batch in model.batches] for on in (True, False)])
        model.notes.append(step)
        return loss


def _returned(answer, model: _Model, *others: _Given, expect: tuple[type, ...]):
    "What the answer returns; where it stopped with an error, what led to that."
    batches = [tuple(part.clone() for part in batch) for batch in model.batches]
    try:
        got = attempt(answer, _Given(model, "model"), *others, _Given(batches, "batches"), expect=expect)
    except Finding as finding:
        if finding.verdict.state == "wrong" and (why := _why_stopped(model, bool(others))):
            raise Finding(f"{why} {finding.verdict.message}") from None
        raise
    if len(batches) != len(model.batches) or not all(
        a.equal(b) for pair in zip(batches, model.batches) for a, b in zip(*pair)
    ):
        raise Finding("It changed the batches that it was given. Whoever calls it may still need them.")
    return got


def _why_stopped(model: _Model, learns: bool) -> str | None:
    "What was done before that leads to an error."
    looks, backs, steps = model.noted()
    again = next((look for i, look in enumerate(backs) if any(look is other for other in backs[:i])), None)
    if again:
        return _twice(again)
    if looks and looks[-1].odd:
        return looks[-1].odd
    if looks and learns and not backs and not looks[-1].graph:
        return NO_GRAPH
    first = next((note for note in model.notes if not isinstance(note, _Look)), None)
    if backs and isinstance(first, _Step):
        return TOO_SOON
    if steps and len(looks) > 1 and not any(note is looks[-1] for note in model.notes[model.notes.index(steps[0]) :]):
        return "All losses were asked for before the first step, and that step moved the weights they were made with."
    return None


NO_GRAPH = (
    "The loss was computed with gradients switched off, as under torch.no_grad(): so there is nothing to go "
    "backward through, and nothing to learn from. That is for measuring alone."
)


TOO_SOON = (
    "optimizer.step() came before loss.backward(): the first step had no gradient, and each later one can only "
    "have that of the batch before. First backward, then step."
)


def _twice(look: _Look) -> str:
    return (
        f"The loss of batches[{look.batch}] went backward a second time. Each loss goes backward once, by itself: "
        "a sum of losses takes all steps before along."
    )


@checks
def learn(answer):
    "Exercise 1: for each batch a loss, its gradient alone, one step, and a number kept."
    answer = _of_given(answer)
    batches = _batches([[4, 2], [3, 4], [1, 3], [5, 2]])
    for kind, rate, learning in (torch.optim.SGD, 0.5, True), (torch.optim.AdamW, 0.1, False):
        model = _Model(batches, learning)
        optimizer = type(kind.__name__, (_Noting, kind), {"model": model})(model.parameters(), lr=rate)
        expect = (list, tuple, *NUMBER)
        got = _returned(answer, model, _Given(optimizer, "optimizer"), expect=expect)
        learned, steps = _followed(model)
        _check_losses(answer, got, learned, steps)
        _check_graphs(learned)
        _check_weights(model, kind, rate)
    return "One loss, one gradient and one step for each batch, and a list of plain numbers."


def _followed(model: _Model) -> tuple[list[_Look], list[_Step]]:
    "The loss that each step learned from, and the steps; a Finding if they do not go together."
    looks, backs, steps = model.noted()
    if not looks:
        raise Finding("model.loss was never called. Ask it for the loss of each batch: model.loss(ids, targets, mask).")
    if not backs:
        if not any(look.graph for look in looks):
            raise Finding(NO_GRAPH)
        raise Finding(
            "Nothing went backward: without loss.backward() there is no gradient, and no step moves a weight."
        )
    if not steps:
        raise Finding(
            "optimizer.step() was never called: gradients were computed, and the optimizer makes nothing of them."
        )
    learned, waiting = [], []
    for note in model.notes:
        if isinstance(note, tuple):
            waiting.append(note[1])
        if isinstance(note, _Step):
            _check_step(model, len(learned) + 1, waiting, note)
            learned.append(waiting[-1])
            waiting = []
    _check_gradients(learned, steps)
    _check_order([look.batch for look in learned], len(model.batches))
    return learned, steps


def _check_step(model: _Model, number: int, backs: list[_Look], step: _Step):
    if not backs and number == 1:
        raise Finding(TOO_SOON)
    if not backs:
        raise Finding(
            f"Between steps {number - 1} and {number} no loss went backward: one gradient was used twice, or none. "
            "One loss.backward(), one optimizer.step()."
        )
    if len({look.batch for look in backs}) > 1:
        raise Finding(
            f"Step {number} came only after {len(backs)} losses had gone backward. One step for each batch is wanted."
        )
    if odd := next((look.odd for look in backs if look.odd), None):
        raise Finding(f"In step {number} {odd}")
    if not step.used.any():
        raise Finding(
            f"Step {number} had a gradient of zeros: it was cleared between loss.backward() and optimizer.step(), so "
            "nothing was learned. Clear it after the step, or before backward."
        )
    if not backs[-1].learning:
        came = "model.eval() was called" if model.came_learning else "the model came in eval mode, and stayed there"
        raise Finding(
            f"In step {number} dropout was off: {came}. Learning begins with model.train(), whatever was before."
        )


def _check_gradients(learned: list[_Look], steps: list[_Step]):
    owns = [step.own[look.batch] for look, step in zip(learned, steps)]
    for i, (own, step) in enumerate(zip(owns, steps)):
        if same(step.used, own):
            continue
        lengths = torch.stack([torch.stack([s.used, o]).norm(dim=1) for o, s in zip(owns, steps)], 1)
        wrong = torch.tensor([not same(s.used, o) for o, s in zip(owns, steps)])
        names = [f"step {k + 1}" for k in range(len(steps))]
        picture = grid(lengths, ["used", "its own"], names, torch.stack([wrong, torch.zeros_like(wrong)]))
        used_length, own_length = lengths[:, i].tolist()
        if i and same(step.used, own + steps[i - 1].used):
            used_length, own_length = lengths[:, -1].tolist()
            raise Finding(
                f"The gradients pile up: step {i + 1} still had that of step {i} in it, to which its own was added. "
                f"In step {len(steps)} the gradient is {used_length:.2f} long, where that of its batch alone is "
                f"{own_length:.2f} long (below, all lengths). Clear it once a step, with optimizer.zero_grad().",
                picture,
            )
        factor = (step.used @ own / (own @ own)).item()
        if same(step.used, factor * own):
            if factor < 0:
                raise Finding(
                    f"Step {i + 1} went uphill: its gradient has the wrong sign. The loss goes down.", picture
                )
            raise Finding(
                f"The gradient in step {i + 1} is {factor:.3g} times that of its batch. "
                "The loss should go backward as it is, once, and nothing be clipped.",
                picture,
            )
        raise Finding(
            f"The gradient in step {i + 1} is {used_length:.2f} long and not that of its batch, {own_length:.2f} long.",
            picture,
        )


def _check_order(got: list[int], n: int):
    right = list(range(n))
    if got == right:
        return
    if got == [0]:
        raise Finding(
            f"It stopped after the first batch. Does `return` stand inside of the loop? There are {n} batches."
        )
    if len(set(got)) == 1:
        raise Finding(f"All {len(got)} steps learned from batches[{got[0]}]. Each batch is for one step.")
    if got == right[:-1]:
        raise Finding(f"The last batch was left out: there are {n}, and {n - 1} steps were made.")
    if got == right[1:]:
        raise Finding("The first batch was left out: the first step learned from batches[1].")
    if len(got) > n:
        raise Finding(f"{len(got)} steps were made for {n} batches. Each batch is for one step.")
    raise Finding(f"The steps learned from the batches {got}, in this order, where {right} is wanted.")


def _check_losses(answer, got, learned: list[_Look], steps: list[_Step]):
    right = torch.stack([look.loss.detach() for look in learned])
    if isinstance(got, Real) or isinstance(got, Tensor) and got.dim() == 0:
        whole = {"Only the last loss": right[-1], "The mean of the losses": right.mean(), "Their sum": right.sum()}
        what = next((words for words, value in whole.items() if same(torch.tensor(float(got)), value)), "One number")
        raise Finding(
            f"{what} was returned, {float(got):.4g}. A list is wanted, with a loss for each of {len(right)} steps."
        )
    for i, loss in enumerate(got := list(got)):
        if isinstance(loss, Tensor) and loss.requires_grad:
            raise Finding(
                f"Loss {i} of the list is a tensor that holds on to its whole graph, all that its step computed: "
                "over thousands of steps memory fills with them. Keep the number alone, loss.item()."
            )
        if not isinstance(loss, Real):
            raise Finding(
                f"Loss {i} of the list is of type {type(loss).__name__}. A plain number is wanted: loss.item()."
            )
    if len(got) != len(right):
        raise Finding(f"There are {len(got)} losses in the list, for {len(right)} steps. Each step has one.")
    got, counts = torch.tensor([float(loss) for loss in got]), torch.arange(1.0, len(right) + 1)
    after = torch.stack([step.after[:, look.batch] for look, step in zip(learned, steps)], 1)
    what = "a list of the losses that the steps learned from"
    wrong = ~got.isclose(right, rtol=1e-4, atol=1e-6)
    names = [f"step {i + 1}" for i in range(len(right))]
    picture = grid(torch.stack([got, right]), ["yours", "wanted"], names, torch.stack([wrong, torch.zeros_like(wrong)]))
    mistakes = [
        (
            after[0],
            "The losses were measured after the step. The batch had been learned from by then, so they look too good.",
        ),
        (
            after[1],
            "The losses were measured after the step, and with dropout off. Wanted are those that went backward.",
        ),
        (right.cumsum(0), "The losses were added up: each number of the list has all before it in it."),
        (
            right.cumsum(0) / counts,
            "Each number of the list is the mean of all losses so far. That of its step is wanted.",
        ),
        (right[-1].expand_as(right), "The loss of the last step fills the whole list."),
        (right.flip(0), "The list is the wrong way round: the first step comes first."),
    ]
    diagnose(answer, (), got, right, mistakes, what, picture)


def _check_graphs(learned: list[_Look]):
    for i, look in enumerate(learned):
        try:
            torch.autograd.grad(look.loss, look.probe)
        except RuntimeError:
            continue
        raise Finding(
            f"All weights are right, but the graph of step {i + 1} was kept after it had gone backward, as with "
            "retain_graph=True. Nothing needs it again, and it fills the memory: loss.backward() lets go of it."
        )


def _check_weights(model: _Model, kind: Callable, rate: float):
    twin = _Model(model.batches, True)
    twin_optimizer = kind(twin.parameters(), lr=rate)
    for batch in twin.batches:
        twin_optimizer.zero_grad()
        twin.surprise(*batch, learning=True).backward()
        twin_optimizer.step()
    got, right = model.flat(model.parameters()), twin.flat(twin.parameters())
    if not same(got, right):
        far = (got - right).abs().max().item()
        raise Finding(
            f"Each step had the right gradient, yet in the end the weights are off by up to {far:.3g}: something but "
            "optimizer.step() moved them, or changed the optimizer. The optimizer knows its rate."
        )


@checks
def judge(answer):
    "Exercise 2: dropout off, every counted token alike, nothing changed."
    answer = _of_given(answer)
    batches = _batches([[5, 4, 6], [1], [2, 1]])
    for learning in True, False:
        model = _Model(batches, learning)
        before = model.flat(model.parameters()).clone()
        got = _returned(answer, model, expect=NUMBER)
        if isinstance(got, Tensor) and got.numel() != 1:
            raise Finding(f"judge returned a tensor of shape {tuple(got.shape)}. One number is wanted.")
        looks, backs, _ = model.noted()
        if not looks:
            raise Finding(
                "model.loss was never called. Ask it for the loss of each batch: model.loss(ids, targets, mask)."
            )
        if not model.flat(model.parameters()).equal(before):
            raise Finding(
                "The model has learned: its weights are not what they were. These batches are to stay unseen, or the "
                "measure says no longer how well it does on what is new."
            )
        if backs or any(p.grad is not None for p in model.parameters()):
            raise Finding(
                "A loss went backward: the gradients that it left behind would go into the next step. "
                "Measuring needs no gradient."
            )
        _check_measure(answer, model, looks, float(got.detach() if isinstance(got, Tensor) else got))
        if isinstance(got, Tensor) and got.requires_grad:
            raise Finding(
                "The number is right, but it is a tensor that could still go backward, and holds on to all that was "
                "computed for it. Measure under torch.no_grad(), and return a number."
            )
        if not all(p.requires_grad for p in model.parameters()):
            raise Finding(
                "The number is right, but the weights were frozen for it, and stay so: the model cannot learn again. "
                "torch.no_grad() ends by itself."
            )
        if any(look.graph for look in looks):
            raise Finding(
                "The number is right, but all that a way back would need was kept while it was computed: "
                "measure under torch.no_grad(), and it takes less memory and time."
            )
        if model.training != learning:
            raise Finding(
                "The model came in train mode, and was left in eval mode: if it learns on, dropout stays off."
                if learning
                else "The model came in eval mode, and was left in train mode: dropout would disturb what it writes "
                "next. Note model.training first, and end with model.train(...) of that."
            )
    return "Dropout off, every token alike, and the model as it was."


def _check_measure(answer, model: _Model, looks: list[_Look], got: float):
    def measured(masked: bool, learning: bool) -> Tensor:
        with torch.no_grad():
            found = [model.surprise(i, t, m if masked else None, learning) for i, t, m in model.batches]
        return torch.stack(found).double()

    counted, places, rows = (
        torch.tensor([float(count(mask)) for _, _, mask in model.batches], dtype=torch.float64)
        for count in (torch.sum, torch.numel, len)
    )
    losses, every, dropped = measured(True, False), measured(False, False), measured(True, True)

    def weighted(losses: Tensor, weights: Tensor) -> float:
        return ((losses * weights).sum() / weights.sum()).item()

    right, n = weighted(losses, counted), len(losses)
    if any(look.learning for look in looks):
        raise Finding(
            f"Dropout was on: some of the model was switched off at random, and its loss came out as {got:.4g}, where "
            f"the whole model has {right:.4g}. Begin with model.eval()."
        )
    lines = [(f"batches[{i}]", f"counted: {counted[i]:.0f}", f"loss: {losses[i]:.3f}") for i in range(n)]
    picture = table([*lines, ("together", f"counted: {counted.sum():.0f}", f"loss: {right:.3f}")])
    mistakes = [
        (
            losses.mean(),
            "That is the mean of the batches' means: so the one token of batches[1] counts as much as all "
            f"{counted[0]:.0f} of batches[0]. Weight each loss by how many tokens count in it.",
        ),
        (weighted(every, places), "The mask was ignored: padding was measured as if it were text."),
        (every.mean(), "That is the mean over the batches, padding and all: no mask was looked at."),
        (
            weighted(every, counted),
            "The batches were weighted by their masks, but model.loss did not get them: so padding was measured, too.",
        ),
        (
            weighted(losses, places),
            "The losses were weighted by all places of a batch. Only those that the mask counts matter: mask.sum().",
        ),
        (weighted(losses, rows), "The losses were weighted by the rows of a batch. Weight them by tokens: mask.sum()."),
        (
            (losses * counted).sum() / places.sum(),
            "The nats of the tokens that count were divided by all places, with padding. Divide by mask.sum().",
        ),
        ((losses * counted).sum(), "That is the sum over all tokens. Divide it by how many they are."),
        (losses.sum(), "That is the sum of the batches' losses. Each is a mean of its own: weight it, and divide."),
        (
            (losses * counted).sum() / n,
            "The sum over all tokens was divided by the number of batches. Divide it by the number of tokens.",
        ),
        (right / math.log(2), "Those are bits. For nats, take the loss as the model gives it."),
        (math.exp(right), "That is the perplexity. The loss is wanted, in nats a token."),
        (losses[0], "Only the first batch was measured. Does `return` stand inside of the loop?"),
        (losses[-1], "Only the last batch was measured: is each loss overwritten by the next?"),
        (weighted(losses[:-1], counted[:-1]), "The last batch was left out."),
        (weighted(losses[1:], counted[1:]), "The first batch was left out."),
        (weighted(dropped, counted), "That is the loss with dropout."),
    ]
    mistakes += [(got, look.odd) for look in looks if look.odd]
    what = f"the loss over all batches, which is {right:.4g} nats a token"
    diagnose(answer, (_Given(model, "model"), _Given(model.batches, "batches")), got, right, mistakes, what, picture)


TEXTS = [f"a {word}" for word in "kite boat drum lamp ring bell coin shoe comb fork sock".split()]


def _parted(texts: list[str], share: float) -> tuple[list[str], list[str]]:
    different = list(dict.fromkeys(texts))
    n = max(1, int(share * len(different)))
    return different[:-n], different[-n:]


@checks
def split(answer):
    "Exercise 3: the last of the different texts are for validation."
    copies = [TEXTS[i] for i in (0, 1, 2, 0, 3, 4, 1, 5, 6, 4, 7, 2)]
    for texts, share in (TEXTS[:8], 0.25), (TEXTS[:3], 0.25), (TEXTS, 0.25), (copies, 0.25), (TEXTS[:2], 0.5):
        args = texts, share
        got = attempt(answer, *args, expect=(list, tuple))
        if len(got) != 2:
            raise Finding(f"{call(answer, *args)} returned {len(got)} things. Two are wanted: train and val.")
        if not all(isinstance(side, list | tuple) for side in got):
            raise Finding(
                f"{call(answer, *args)} returned {got!r:.80}. Two lists are wanted, of whole texts: not one long text "
                "that was cut somewhere."
            )
        train, val = (list(side) for side in got)
        if (train, val) != _parted(texts, share):
            raise Finding(*_why_not_split(call(answer, *args), texts, share, train, val))
    return "Nothing that is judged by was ever learned from, not even as a copy."


def _sides(train: list, val: list, bad) -> Picture:
    "Both sides, with the first text outlined that is wrong."

    def drawn(side: list) -> Picture:
        marked = next((i for i, text in enumerate(side) if text == bad), None)
        return color_tokens([f" {text} " for text in side], marked=marked)

    return table([("train", drawn(train)), ("val", drawn(val))])


def _why_not_split(asked: str, texts: list[str], share: float, train: list, val: list) -> tuple[str, Picture]:
    different, n = list(dict.fromkeys(texts)), len(_parted(texts, share)[1])

    def wrong(message: str, bad=None) -> tuple[str, Picture]:
        return f"{asked}: {message}", _sides(train, val, bad)

    foreign = next((text for text in train + val if text not in texts), None)
    if foreign is not None:
        return wrong(f"{foreign!r} is none of the texts. Cut between texts, never inside of one.", foreign)
    if not val:
        return wrong("nothing is left for validation. However few texts there are, one is for that.")
    if (train, val) == ([], different):
        return wrong("all texts went to val. texts[-0:] is the whole list: with few texts, 0 of them came out.")
    for (one, other), message in _mistakes(texts, different, n, share):
        if (train, val) == (list(one), list(other)):
            return wrong(message)
    if both := [text for text in different if text in train and text in val]:
        text, times = both[0], texts.count(both[0])
        if times == 1:
            return wrong(
                f"{text!r} stands on both sides, though it comes once in the list: the two slices overlap.", text
            )
        return wrong(
            f"{text!r} leaks: it comes {times} times in the list, and stands on both sides. What was learned by heart "
            "would be judged as if it were new. Make the texts different first, then cut.",
            text,
        )
    if lost := [text for text in different if text not in train and text not in val]:
        return wrong(f"{lost[0]!r} is lost: it stands on neither side.")
    if again := [text for side in (train, val) for text in side if side.count(text) > 1]:
        return wrong(f"{again[0]!r} stands on one side {(train + val).count(again[0])} times. Keep it once.", again[0])
    for side in train, val:
        places = [different.index(text) for text in side]
        if places != sorted(places):
            at = next(i for i in range(1, len(places)) if places[i] < places[i - 1])
            return wrong(f"the order is lost: in the list {side[at]!r} first comes before {side[at - 1]!r}.", side[at])
    if len(val) != n:
        return wrong(f"val has {len(val)} of {len(different)} different texts, where {n} is wanted.")
    bad = next(text for text in val if text not in different[-n:])
    return wrong(f"{bad!r} is not among the last {n} different texts, which are for val.", bad)


def _mistakes(texts: list[str], different: list[str], n: int, share: float):
    "What typical mistakes would give; none of them leaks or loses a text."
    up, of_all = math.ceil(share * len(different)), max(1, int(share * len(texts)))
    last = list(dict.fromkeys(texts[::-1]))[::-1]
    head, tail = (list(dict.fromkeys(part)) for part in (texts[:-of_all], texts[-of_all:]))
    after = "the copies were taken out after the cut: so val has fewer or other texts than its share. First"
    return [
        ((different[-n:], different[:-n]), "the two sides are exchanged: train comes first."),
        ((different[n:], different[:n]), "val was taken from the front. It is the last texts that are for val."),
        ((different[:n], different[n:]), f"the shares are exchanged: {share} is that of val, and train has the rest."),
        ((different[:-up], different[-up:]), f"it was rounded up: {share * len(different):g} becomes {n}, not {up}."),
        (
            (different[:-of_all], different[-of_all:]),
            f"the share is one of the {len(different)} different texts, not of all {len(texts)} with their copies.",
        ),
        ((last[:-n], last[-n:]), "each text was kept where it comes last. Keep it where it comes first."),
        ((head, [text for text in tail if text not in head]), f"{after} make them different."),
        (([text for text in head if text not in tail], tail), f"{after} make them different."),
    ]


@checks
def steps_left(answer):
    "Exercise 4: time that is left, through the time that a step takes, rounded down."
    _check_left(answer, (50.0, 12, 3), lambda *args: attempt(answer, *args, expect=NUMBER))

    @functools.wraps(answer)
    def in_a_box(*args):
        return [answer(*args)]

    def ask(*args):
        return attempt(in_a_box, *args, expect=list)[0]

    for args in (40.0, 15, 1), (21.0, 8, 0.5), (7.0, 100, 10), (59.0, 10, 1):
        _check_left(answer, args, ask)
    for args in (130.0, 26, 2), (500.0, 11, 1), (121.0, 1, 2):
        got = ask(*args)
        over = (
            f"{call(answer, *args)} returned {got!r:.80}: the {args[2]} minutes were over after {60 * args[2]} seconds."
        )
        if isinstance(got, Real) and got < 0:
            raise Finding(f"{over} No step can be taken back: never return less than 0.")
        if not isinstance(got, Integral) or isinstance(got, bool) or got != 0:
            raise Finding(f"{over} So 0 is wanted, as a whole number.")
    for args in (0.0, 0, 5), (3.0, 0, 5), (400.0, 0, 5):
        try:
            got = ask(*args)
        except Finding as finding:
            if "ZeroDivisionError" not in finding.verdict.message:
                raise
            said = "As long as no step was done, nobody knows how long one takes. Return None then."
            raise Finding(f"{finding.verdict.message}. {said}") from None
        if got is not None:
            said = "0 would say that the time is over. " if isinstance(got, Real) and got == 0 else ""
            raise Finding(
                f"{call(answer, *args)} returned {got!r:.80}. {said}Before the first step nobody can tell: return None."
            )
    return "What is left, at the pace so far, and never a step that would end late."


def _check_left(answer, args: tuple[float, int, float], ask: Callable):
    used, done, minutes = args
    got, each, left = ask(*args), used / done, 60 * minutes - used
    asked, right = call(answer, *args), left / each
    if got is None:
        raise Finding(f"{asked} returned None, though {done} steps were done: {each:.3g} seconds each.")
    if isinstance(got, Tensor) and got.numel() == 1:
        got = got.item()
    if not isinstance(got, Real) or isinstance(got, bool):
        raise Finding(f"{asked} returned {got!r:.80}. A whole number is wanted.")
    if isinstance(got, Integral) and got == int(right):
        return
    took = f"{asked} returned {got:.6g}. {left:g} seconds are left, and a step took {each:.3g}. "
    if not isinstance(got, Integral) and abs(got - right) < 1:
        raise Finding(f"{took}The number is a float: cut off what stands behind the point, with int(...).")
    if got == int(right) + 1:
        raise Finding(
            f"{took}{got} steps take {got * each:.4g} seconds, so the last would end late. Round down, never up."
        )
    if got == 0:
        raise Finding(f"{took}So it is not over yet. Were minutes taken for seconds? A minute has 60.")
    mistakes = [
        (
            60 * minutes / each,
            "That is how many steps fit into all of the time, with those done. How many are left is wanted.",
        ),
        (60 * minutes / each + done, "The steps done were added. Those that are left are wanted."),
        (right - done, "The steps done were taken away twice: the time they took is gone already."),
        (left * each, "Seconds left were multiplied by the seconds of a step. Divide them."),
        (left / (each / 60), "The seconds of a step were divided by 60, those that are left were not."),
        (left, "Those are seconds. Divide by what a step takes."),
        (left / done, "The seconds left were divided by the steps done. Divide by what one step took."),
        ((minutes - used) / each, "Seconds were taken away from minutes. A minute has 60 seconds."),
        ((minutes - used / 60) / each, "Minutes were divided by the seconds of a step. Turn both into seconds."),
        ((3600 * minutes - used) / each, "They were taken for hours: a minute has 60 seconds."),
    ]
    for wrong, diagnosis in mistakes:
        if abs(got - wrong) < 1:
            raise Finding(took + diagnosis)
    raise Finding(f"{took}So {int(right)} steps are left.")
