"""The checks of the chapter Training."""

import copy
import io
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from conftest import pair_of_tests
from tinygpt.checks import training as check


def trainer(
    choose=lambda batches: batches,
    mode=lambda model: model.train(),
    loss_of=lambda model, batch: model.loss(*batch),
    acts="zero backward step",
    keep=lambda model, batch, loss: loss.item(),
    give=list,
    back=lambda loss: loss.backward(),
):
    "A training loop, with a switch for each thing that can go wrong."

    def train_steps(model, optimizer, batches):
        losses = []
        if mode:
            mode(model)
        for batch in choose(batches):
            loss = loss_of(model, batch)
            for act in acts.split():
                if act == "zero":
                    optimizer.zero_grad()
                if act == "backward":
                    back(loss)
                if act == "step":
                    optimizer.step()
            losses.append(keep(model, batch, loss))
        return give(losses)

    return train_steps


def scaled_by(factor):
    return trainer(loss_of=lambda model, batch: model.loss(*batch) * factor)


def running(losses, how):
    return how(torch.tensor(losses)).tolist()


def one_for_all(model, optimizer, batches):
    batch = next(iter(batches))
    return trainer(choose=lambda _: [batch] * len(batches))(model, optimizer, batches)


def all_in_one(model, optimizer, batches):
    model.train()
    total = sum(model.loss(*batch) for batch in batches)
    total.backward()
    optimizer.step()
    return [total.item()]


def all_losses_first(model, optimizer, batches):
    model.train()
    losses = [model.loss(*batch) for batch in batches]
    for loss in losses:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [loss.item() for loss in losses]


def descends_by_hand(model, optimizer, batches):
    model.train()
    losses = []
    for batch in batches:
        model.zero_grad()
        loss = model.loss(*batch)
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.5 * p.grad
        losses.append(loss.item())
    return losses


def running_total(retain):
    def train_steps(model, optimizer, batches):
        model.train()
        total, losses = 0, []
        for batch in batches:
            total = total + model.loss(*batch)
            optimizer.zero_grad()
            total.backward(retain_graph=retain)
            optimizer.step()
            losses.append(total.item())
        return losses

    return train_steps


def cleared_once(model, optimizer, batches):
    optimizer.zero_grad()
    return trainer(acts="backward step")(model, optimizer, batches)


def without_graph(acts):
    @torch.no_grad()
    def train_steps(model, optimizer, batches):
        return trainer(acts=acts)(model, optimizer, batches)

    return train_steps


def measured_after(training):
    def keep(model, batch, loss):
        model.train(training)
        with torch.no_grad():
            after = model.loss(*batch).item()
        model.train()
        return after

    return trainer(keep=keep)


def other_mask(model, batch):
    ids, targets, mask = batch
    return model.loss(ids, targets, ~mask)


def changes_a_gradient(model, optimizer, batches):
    model.train()
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = model.loss(*batch)
        loss.backward()
        if losses:
            model.head.grad[0] += 1
        optimizer.step()
        losses.append(loss.item())
    return losses


def changes_weights_as_well(model, optimizer, batches):
    losses = train_steps(model, optimizer, batches)
    with torch.no_grad():
        model.head += 1
    return losses


def empties_batches(model, optimizer, batches):
    losses = train_steps(model, optimizer, list(batches))
    batches.clear()
    return losses


train_steps = trainer()


def validation_loss(
    model,
    batches,
    combine=lambda losses, n: (losses * n).sum() / n.sum(),
    loss_of=lambda model, batch: model.loss(*batch),
    count=lambda mask: mask.sum(),
    begin=lambda model: model.eval(),
    end=lambda model, was: model.train(was),
    graph=False,
    give=lambda found: found.item(),
):
    was = model.training
    begin(model)
    with torch.set_grad_enabled(graph):
        losses = torch.stack([loss_of(model, batch) for batch in batches])
        counts = torch.tensor([float(count(batch[2])) for batch in batches])
        result = combine(losses, counts)
    end(model, was)
    return give(result)


def validating(**how):
    return lambda model, batches: validation_loss(model, batches, **how)


def unmasked(model, batch):
    return model.loss(batch[0], batch[1])


def divided_by_positions(model, batches):
    nats = validation_loss(model, batches, combine=lambda losses, n: (losses * n).sum())
    return nats / sum(mask.numel() for _, _, mask in batches)


def validate_and_step(model, batches):
    found = validation_loss(model, batches)
    with torch.no_grad():
        model.head -= 0.1 * torch.ones_like(model.head)
    return found


def validate_and_backward(model, batches):
    def combine(losses, n):
        losses.mean().backward()
        return (losses * n).sum() / n.sum()

    return validation_loss(model, batches, combine=combine, graph=True)


def return_in_the_loop(model, batches):
    for batch in batches:
        return validation_loss(model, [batch])


def frozen(model, batches):
    model.requires_grad_(False)
    return validation_loss(model, batches)


def distinct_of(texts):
    return list(dict.fromkeys(texts))


def number_of(texts, rest, fraction):
    return max(1, int(fraction * len(rest)))


def train_val_split(texts, fraction, rule=distinct_of, count=number_of):
    rest = rule(texts)
    n = count(texts, rest, fraction)
    return rest[:-n], rest[-n:]


def splitting(**how):
    return lambda texts, fraction: train_val_split(texts, fraction, **how)


def parted(cut):
    "Distinct texts, cut in another way."

    def other(texts, fraction):
        rest = distinct_of(texts)
        return cut(rest, max(1, int(fraction * len(rest))))

    return other


def without_minimum(texts, fraction):
    n = int(fraction * len(texts))
    return texts[: len(texts) - n], texts[len(texts) - n :]


def copies_kept(texts, fraction):
    train, val = train_val_split(texts, fraction)
    return [text for text in texts if text in train], [text for text in texts if text in val]


def in_letters(texts, fraction):
    text = " ".join(texts)
    n = int(fraction * len(text))
    return text[:-n], text[-n:]


def in_pieces(texts, fraction):
    text = "\n".join(distinct_of(texts))
    n = int(fraction * len(text))
    return text[:-n].split("\n"), text[-n:].split("\n")


def mixed(texts):
    rest = distinct_of(texts)
    return random.Random(0).sample(rest, len(rest))


def mixed_in_place(texts, fraction):
    random.Random(1).shuffle(texts)
    return train_val_split(texts, fraction)


def save_state(model, optimizer, step):
    return copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step})


def load_state(model, optimizer, state):
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    return state["step"]


def references(model, optimizer, step):
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}


def saving(rule):
    "Saves something else, made of (model, optimizer, step), and loads what is there."

    def load(model, optimizer, state):
        if "model" in state:
            model.load_state_dict(state["model"])
        if "optimizer" in state:
            optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        return state.get("step", 0)

    return rule, load


def loading(rule):
    return save_state, rule


def without(key):
    return saving(lambda *args: {name: part for name, part in save_state(*args).items() if name != key})


def load_by_name(model, optimizer, state):
    "Gives the local name another model, and changes nothing."
    model = copy.deepcopy(model)
    return load_state(model, optimizer, state)


def load_with_new_parameters(model, optimizer, state):
    model.load_state_dict(copy.deepcopy(state["model"]), assign=True)
    optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    return state["step"]


def load_without_copies(model, optimizer, state):
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def load_and_pop(model, optimizer, state):
    return load_state(model, optimizer, {name: state.pop(name) for name in list(state)})


def load_only(key):
    def load(model, optimizer, state):
        {"model": model, "optimizer": optimizer}[key].load_state_dict(copy.deepcopy(state[key]))
        return state["step"]

    return load


def load_and_change_rate(model, optimizer, state):
    step = load_state(model, optimizer, state)
    optimizer.param_groups[0]["lr"] /= 2
    return step


def above(rule):
    "Another number, made of the model's nats, the grammar's nats, and the number of tales."
    return lambda loss, logprobs, n_tokens: rule(loss * n_tokens, -sum(logprobs), len(logprobs))


def nats_above_floor(loss, logprobs, n_tokens):
    return (loss * n_tokens + sum(logprobs)) / len(logprobs)


RIGHT = {
    "train_steps": train_steps,
    "validation_loss": validation_loss,
    "train_val_split": train_val_split,
    "resume": (save_state, load_state),
    "nats_above_floor": nats_above_floor,
}
MISTAKES = {
    "train_steps": [
        (trainer(acts="backward step"), "The gradients add up"),
        (cleared_once, "The gradients add up"),
        (trainer(acts="backward zero step"), "cleared between loss.backward() and optimizer.step()"),
        (trainer(acts="zero step backward"), "optimizer.step() came before"),
        (trainer(acts="step backward zero"), "optimizer.step() came before"),
        (trainer(acts="step zero backward"), "optimizer.step() came before"),
        (trainer(acts="zero step"), "loss.backward() was never called"),
        (trainer(acts=""), "loss.backward() was never called"),
        (trainer(acts="zero backward"), "optimizer.step() was never called"),
        (descends_by_hand, "optimizer.step() was never called"),
        (trainer(acts="zero backward step step"), "Between steps 1 and 2 no loss"),
        (trainer(keep=lambda model, batch, loss: loss), "a tensor with its whole graph"),
        (trainer(give=torch.tensor), "is of type Tensor, not a plain number"),
        (trainer(keep=lambda model, batch, loss: loss.detach()), "is of type Tensor, not a plain number"),
        (trainer(keep=lambda model, batch, loss: f"{loss:.3f}"), "is of type str"),
        (trainer(give=lambda losses: losses[-1]), "It returned only the last loss"),
        (trainer(give=lambda losses: sum(losses) / len(losses)), "It returned the mean of the losses"),
        (trainer(give=sum), "It returned their sum"),
        (trainer(give=max), "It returned one number"),
        (trainer(give=lambda losses: losses[:-1]), "The list has 3 losses"),
        (trainer(mode=lambda model: model.eval()), "model.eval() was called"),
        (trainer(mode=None), "the model came in eval mode, and stayed"),
        (measured_after(True), "the model has learned from the batch, so they are lower"),
        (measured_after(False), "after the step and without dropout"),
        (trainer(give=lambda losses: running(losses, lambda x: x.cumsum(0))), "The losses were added up"),
        (
            trainer(give=lambda losses: running(losses, lambda x: x.cumsum(0) / torch.arange(1, len(x) + 1))),
            "the mean of all losses so far",
        ),
        (trainer(give=lambda losses: losses[-1:] * len(losses)), "All numbers in the list are the loss of the last"),
        (trainer(give=lambda losses: losses[::-1]), "in reverse order"),
        (trainer(give=lambda losses: [round(x, 1) for x in losses]), "is not a list of the losses"),
        (one_for_all, "with the batches 0, 0, 0, 0."),
        (trainer(choose=lambda batches: batches[:1]), "It stopped after the first of 4 batches"),
        (trainer(choose=lambda batches: batches[:-1]), "The last of the 4 batches was left out"),
        (trainer(choose=lambda batches: batches[1:]), "The first of the 4 batches was left out"),
        (trainer(choose=lambda batches: [b for b in batches for _ in "12"]), "with the batches 0, 0, 1, 1, 2, 2"),
        (trainer(choose=lambda batches: batches[::-1]), "with the batches 3, 2, 1, 0."),
        (all_in_one, "only after 4 losses were backpropagated"),
        (all_losses_first, "All losses were computed before"),
        (running_total(True), "was backpropagated a second time"),
        (running_total(False), "was backpropagated a second time"),
        (without_graph("zero backward step"), "computed without gradients"),
        (without_graph("zero step"), "computed without gradients"),
        (scaled_by(0.25), "in step 1 is 0.25 times that"),
        (scaled_by(-1), "points uphill"),
        (changes_a_gradient, "in step 2 is not that of its batch"),
        (trainer(loss_of=unmasked), "model.loss got no mask for batches[0]"),
        (trainer(loss_of=other_mask), "but not its mask"),
        (trainer(loss_of=lambda m, b: m.loss(b[0], b[1].flip(0), b[2])), "but not its targets"),
        (trainer(loss_of=lambda m, b: m.loss(b[0], b[0], b[2])), "as targets too"),
        (trainer(loss_of=lambda m, b: m.loss(b[1], b[0], b[2])), "of batches[0] are exchanged"),
        (trainer(loss_of=lambda m, b: m.loss(b[0][:1], b[1][:1], b[2][:1])), "do not belong to any batch"),
        (lambda model, optimizer, batches: [1.0] * 4, "model.loss was never called"),
        (trainer(loss_of=lambda model, batch: model(batch[0])), "has no logits, only a loss"),
        (changes_weights_as_well, "something other than optimizer.step()"),
        (empties_batches, "It changed the batches"),
        (trainer(back=lambda loss: loss.item().backward()), "AttributeError"),
    ],
    "validation_loss": [
        (validating(begin=lambda model: None), "Dropout was on"),
        (validating(begin=lambda model: model.train()), "Dropout was on"),
        (validating(end=lambda model, was: None), "was left in eval mode"),
        (validating(end=lambda model, was: model.train()), "was left in train mode"),
        (validating(combine=lambda losses, n: losses.mean()), "so the one token of batches[1] counts as much"),
        (validating(loss_of=unmasked), "but not passed to model.loss"),
        (validating(loss_of=unmasked, count=torch.numel), "The mask was ignored"),
        (validating(loss_of=unmasked, combine=lambda losses, n: losses.mean()), "no mask was used"),
        (validating(count=torch.numel), "weighted by all positions"),
        (validating(count=len), "weighted by the number of rows"),
        (divided_by_positions, "divided by all positions"),
        (validating(graph=True, give=lambda x: x), "a tensor that keeps its graph"),
        (validating(graph=True), "a graph for gradients was built"),
        (frozen, "no longer require gradients"),
        (validate_and_backward, "A loss was backpropagated"),
        (validate_and_step, "It changed the weights"),
        (validating(combine=lambda losses, n: (losses * n).sum()), "the sum over all tokens. Divide"),
        (validating(combine=lambda losses, n: losses.sum()), "the sum of the batches' losses"),
        (validating(combine=lambda losses, n: (losses * n).sum() / len(n)), "divided by the number of batches"),
        (validating(give=lambda x: float(x) / math.log(2)), "in bits"),
        (validating(give=lambda x: math.exp(x)), "the perplexity"),
        (return_in_the_loop, "Only the first batch was used"),
        (lambda model, batches: validation_loss(model, batches[-1:]), "Only the last batch was used"),
        (lambda model, batches: validation_loss(model, batches[:-1]), "The last batch was left out."),
        (lambda model, batches: validation_loss(model, batches[1:]), "The first batch was left out."),
        (lambda model, batches: validation_loss(model, batches) + 0.1, "is not the loss over all batches"),
        (validating(loss_of=lambda m, b: m.loss(b[1], b[0], b[2])), "ids and targets of batches[0] are exchanged"),
        (validating(give=lambda x: torch.ones(3) * x), "of shape (3,)"),
        (lambda model, batches: 1.0, "model.loss was never called"),
    ],
    "train_val_split": [
        (splitting(rule=list), "leaks: it comes 2 times"),
        (parted(lambda rest, n: (rest[: 1 - n or None], rest[-n:])), "the two slices overlap"),
        (parted(lambda rest, n: (rest, rest[-n:])), "the two slices overlap"),
        (parted(lambda rest, n: (rest[: -n - 1], rest[-n:])), "is lost: it is in neither list"),
        (splitting(rule=lambda texts: [t for t in texts if texts.count(t) == 1]), "is lost: it is in neither list"),
        (without_minimum, "val is empty"),
        (splitting(count=lambda texts, rest, fraction: int(fraction * len(rest))), "texts[-0:] is the whole list"),
        (parted(lambda rest, n: (rest[n:], rest[:n])), "val was taken from the front"),
        (parted(lambda rest, n: (rest[:n], rest[n:])), "The sizes are exchanged"),
        (parted(lambda rest, n: (rest[-n:], rest[:-n])), "The two lists are exchanged"),
        (splitting(rule=mixed), "The order has changed"),
        (splitting(rule=lambda texts: sorted(set(texts))), "The order has changed"),
        (mixed_in_place, "changed what it was given"),
        (in_letters, "not one long text"),
        (in_pieces, "Cut between texts, never inside"),
        (splitting(count=lambda texts, rest, fraction: math.ceil(fraction * len(rest))), "were rounded up"),
        (splitting(count=lambda texts, rest, fraction: max(1, round(fraction * len(rest)))), "were rounded up"),
        (splitting(count=lambda texts, rest, fraction: number_of(texts, texts, fraction)), "not of all 12 with their"),
        (splitting(rule=lambda texts: distinct_of(texts[::-1])[::-1]), "kept where it comes last"),
        (copies_kept, "is in one list 2 times"),
        (parted(lambda rest, n: (rest[: -n - 1], rest[-n - 1 :])), "val has 3 of 8 distinct"),
        (parted(lambda rest, n: (rest[:-4] + rest[-2:], rest[-4:-2])), "is not among the last 2"),
        (lambda texts, fraction: [train_val_split(texts, fraction)], "but it returned 1."),
    ],
    "resume": [
        (without("optimizer"), "The averages that Adam keeps are not all in the state"),
        (without("model"), "The weights are not all in the state"),
        (without("step"), "returned 0, but 3 steps were done"),
        (saving(lambda model, optimizer, step: save_state(model, optimizer, step + 1)), "step 4 is skipped"),
        (saving(lambda model, optimizer, step: save_state(model, optimizer, step - 1)), "step 3 comes twice"),
        (loading(lambda *args: load_state(*args) + 1), "step 4 is skipped"),
        (loading(lambda *args: float(load_state(*args))), "of type float. The step is a whole number"),
        (loading(lambda *args: load_state(*args) and None), "but returns None"),
        (loading(lambda *args: load_state(*args) and args[2]), "of type dict. The step is a whole number"),
        (saving(references), "save_state changed the saved state: state['model']['weight']"),
        (
            saving(lambda *args: references(*args) | {"model": save_state(*args)["model"]}),
            "save_state changed the saved state: state['optimizer']['state'][0]['step']",
        ),
        (
            saving(lambda model, *args: references(model, *args) | {"model": list(model.parameters())}),
            "save_state changed the saved state: state['model'][0]",
        ),
        (saving(lambda m, o, step: {"model": m, "step": step}), "state['model'] is an object of type _TinyModel"),
        (saving(lambda m, o, step: {"optimizer": copy.copy(o), "step": step}), "state['optimizer'] is an object of type"),
        (saving(lambda m, o, step: {"model": m.parameters()}), "is an object of type generator"),
        (saving(lambda *args: list(save_state(*args).values())), "of type list, not dict"),
        (loading(load_by_name), "The weights are in the state, but not loaded into model"),
        (loading(load_only("optimizer")), "The weights are in the state, but not loaded into model"),
        (loading(load_only("model")), "The averages that Adam keeps are in the state, but not loaded into optimizer"),
        (loading(load_with_new_parameters), "load_state gave the model new parameters"),
        (loading(load_without_copies), "Training after load_state changed the saved state"),
        (loading(load_and_pop), "load_state changed the saved state, at"),
        (loading(load_and_change_rate), "other losses or weights than the uninterrupted one"),
        (loading(lambda *args: 3), "The weights are in the state, but not loaded into model"),
        (loading(lambda model, optimizer, state: state["weights"]), "KeyError"),
    ],
    "nats_above_floor": [
        (above(lambda model, floor, n: (floor - model) / n), "The sign is wrong"),
        (above(lambda model, floor, n: (model + floor) / n), "The two were added up"),
        (lambda loss, logprobs, n: (loss * n + sum(logprobs)) / n, "That is per token"),
        (above(lambda model, floor, n: model - floor), "for all tales together"),
        (lambda loss, logprobs, n: loss + sum(logprobs) / len(logprobs), "subtracts nats per tale from nats per token"),
        (lambda loss, logprobs, n: loss - np.mean(logprobs), "mixes nats per tale and nats per token"),
        (above(lambda model, floor, n: model - floor / n), "the floor of one tale from the nats of all"),
        (above(lambda model, floor, n: model / n - floor), "the floor of all tales from the nats of one"),
        (lambda loss, logprobs, n: (loss + np.mean(logprobs)) * n, "do not multiply it by n_tokens"),
        (above(lambda model, floor, n: model / n), "The floor was not subtracted"),
        (above(lambda model, floor, n: floor / n), "The model's loss is missing"),
        (lambda loss, logprobs, n: nats_above_floor(math.exp(loss), logprobs, n), "The perplexity"),
        (lambda *args: nats_above_floor(*args) / math.log(2), "in bits"),
        (above(lambda model, floor, n: (model - floor) // n), "The fraction was cut off"),
        (lambda *args: nats_above_floor(*args) + 1, "is not the nats per tale above the floor"),
        (lambda *args: torch.ones(2), "of shape (2,)"),
    ],
}


def resume(answers):
    "The check of two functions, for tests that pass one answer."
    return check.resume(*(answers if isinstance(answers, tuple) else (answers, answers)))


test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    SimpleNamespace(**{name: getattr(check, name) for name in RIGHT} | {"resume": resume}),
    RIGHT,
    [(name, answer, said) for name, planted in MISTAKES.items() for answer, said in planted],
)


def with_closure(model, optimizer, batches):
    model.train()
    losses = []
    for batch in batches:

        def closure():
            optimizer.zero_grad()
            loss = model.loss(*batch)
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    return losses


def with_grad(model, optimizer, batches):
    for batch in batches:
        model.train()
        loss, params = model.loss(*batch), list(model.parameters())
        for p, g in zip(params, torch.autograd.grad(loss, params)):
            p.grad = g
        optimizer.step()
        yield loss.item()


def zeros_in_place(model, optimizer, batches):
    optimizer.zero_grad(set_to_none=False)
    return trainer(acts="backward step zero")(model, optimizer, batches)


def cleared_by_hand(model, optimizer, batches):
    def back(loss):
        for p in model.parameters():
            p.grad = None
        loss.backward()

    return trainer(acts="backward step", back=back)(model, optimizer, batches)


def eval_between(model, optimizer, batches):
    "Measures after each step without dropout, and trains on with it."
    losses = []
    for batch in batches:
        model.train()
        losses += trainer(choose=lambda _: [batch])(model, optimizer, batches)
        model.eval()
        with torch.no_grad():
            model.loss(*batch)
    return tuple(losses)


@pytest.mark.parametrize(
    "answer",
    [
        trainer(acts="backward step zero"),
        trainer(back=lambda loss: (loss.backward(), loss.detach_())[0]),
        trainer(keep=lambda model, batch, loss: np.float32(loss.item())),
        lambda model, optimizer, batches: trainer(acts="backward step")(
            model, optimizer, (model.zero_grad() or batch for batch in batches)
        ),
        with_closure,
        with_grad,
        zeros_in_place,
        cleared_by_hand,
        eval_between,
    ],
)
def test_other_training_loops_are_right(answer):
    verdict = check.train_steps(answer)
    assert verdict, verdict


def test_other_ways_to_validate_are_right():
    @torch.inference_mode()
    def inferred(model, batches):
        was, nats, n = model.training, 0.0, 0
        model.train(False)
        for ids, targets, mask in batches:
            nats += model.loss(ids, targets, mask=mask.float()).double() * mask.sum()
            n += mask.sum()
        model.train(was)
        return nats / n

    def of_a_copy(model, batches):
        return validation_loss(copy.deepcopy(model), batches)

    def row_by_row(model, batches):
        rows = [tuple(part[i : i + 1] for part in batch) for batch in batches for i in range(len(batch[0]))]
        return validation_loss(model, rows)

    def averaged(model, batches):
        found = [validation_loss(model, [batch]) for batch in batches]
        return np.average(found, weights=[mask.sum().item() for *_, mask in batches])

    for answer in inferred, of_a_copy, row_by_row, averaged:
        verdict = check.validation_loss(answer)
        assert verdict, verdict


def save_bytes(model, optimizer, step):
    buffer = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict(), step), buffer)
    return {"file": buffer.getvalue()}


def load_bytes(model, optimizer, state):
    weights, averages, step = torch.load(io.BytesIO(state["file"]))
    model.load_state_dict(weights)
    optimizer.load_state_dict(averages)
    return np.int64(step)


def save_by_hand(model, optimizer, step):
    averages = [{name: x.tolist() for name, x in optimizer.state[p].items()} for p in model.parameters()]
    return {"weights": [p.detach().numpy().copy() for p in model.parameters()], "averages": averages, "step": step}


def load_by_hand(model, optimizer, state):
    with torch.no_grad():
        for p, weights, averages in zip(model.parameters(), state["weights"], state["averages"]):
            p.copy_(torch.from_numpy(weights))
            optimizer.state[p] = {name: torch.tensor(x) for name, x in averages.items()}
    return state["step"]


@pytest.mark.parametrize("answers", [(save_bytes, load_bytes), (save_by_hand, load_by_hand)])
def test_other_ways_to_resume_are_right(answers):
    verdict = check.resume(*answers)
    assert verdict, verdict


def test_a_half_that_is_blank_is_no_mistake():
    for blank in (lambda *_: None), ..., None:
        assert check.resume(save_state, blank).state == check.resume(blank, load_state).state == "blank"


def test_other_ways_to_split_and_to_subtract_are_right():
    def one_by_one(texts, fraction):
        seen = []
        for text in texts:
            if text not in seen:
                seen.append(text)
        n = len(seen) - (int(fraction * len(seen)) or 1)
        return [seen[:n], tuple(seen[n:])]

    def per_token(loss, logprobs, n_tokens):
        logprobs = torch.tensor(logprobs)
        return (loss + logprobs.sum() / n_tokens) * n_tokens / len(logprobs)

    assert check.train_val_split(one_by_one) and check.nats_above_floor(per_token)


def test_pictures_show_the_wrong_numbers_and_texts():
    def one_off(losses):
        return [*losses[:2], losses[2] + 1, *losses[3:]]

    verdict = check.train_steps(trainer(acts="backward step"))
    used, own = str(verdict.picture).splitlines()
    assert used.count("!") == 3 and own.count("!") == 0 and used.split()[1] == own.split()[1]
    assert used.split()[-1].strip("!") in verdict.message and own.split()[-1] in verdict.message
    assert float(used.split()[-1].strip("!")) > 2 * float(own.split()[-1])

    yours, wanted = str(check.train_steps(trainer(give=one_off)).picture).splitlines()
    assert ["!" in word for word in yours.split()[1:]] == [False, False, True, False] and "!" not in wanted
    verdict = check.train_val_split(splitting(rule=list))
    assert verdict.picture.html.count("outline") == 2 and "'a drum' leaks" in verdict.message
    means = str(check.validation_loss(validating(combine=lambda losses, n: losses.mean())).picture)
    assert [line.split()[3] for line in means.splitlines()] == ["15", "1", "3", "19"]

    resumed, wanted = str(check.resume(*without("optimizer")).picture).splitlines()
    assert resumed.count("!") == 4 and resumed.split()[1] == wanted.split()[1] and "!" not in wanted


def test_a_verdict_does_not_depend_on_random_numbers_drawn_before():
    "And it draws none from the program's own generator."

    def messages():
        gradients, dropout = trainer(acts="backward step"), validating(begin=lambda model: 0)
        return check.train_steps(gradients).message, check.validation_loss(dropout).message, resume(RIGHT["resume"])

    before = torch.get_rng_state()
    first = list(map(str, messages()))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert first == list(map(str, messages()))
