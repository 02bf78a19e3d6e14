"""The checks of chapter 10."""

import copy
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch

from conftest import pair_of_tests
from tinygpt.checks import training as check


def learner(
    choose=lambda batches: batches,
    mode=lambda model: model.train(),
    look=lambda model, batch: model.loss(*batch),
    acts="zero backward step",
    keep=lambda model, batch, loss: loss.item(),
    give=list,
    back=lambda loss: loss.backward(),
):
    "A loop that learns, with a switch for each thing that can go wrong."

    def learn(model, optimizer, batches):
        losses = []
        if mode:
            mode(model)
        for batch in choose(batches):
            loss = look(model, batch)
            for act in acts.split():
                if act == "zero":
                    optimizer.zero_grad()
                if act == "backward":
                    back(loss)
                if act == "step":
                    optimizer.step()
            losses.append(keep(model, batch, loss))
        return give(losses)

    return learn


def cut_by(factor):
    return learner(look=lambda model, batch: model.loss(*batch) * factor)


def running(losses, how):
    return how(torch.tensor(losses)).tolist()


def one_for_all(model, optimizer, batches):
    batch = next(iter(batches))
    return learner(choose=lambda _: [batch] * len(batches))(model, optimizer, batches)


def returns_at_once(model, optimizer, batches):
    return learner(choose=lambda b: b[:1])(model, optimizer, batches)


def all_in_one(model, optimizer, batches):
    model.train()
    total = sum(model.loss(*batch) for batch in batches)
    total.backward()
    optimizer.step()
    return [total.item()]


def looks_ahead(model, optimizer, batches):
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
    def learn(model, optimizer, batches):
        model.train()
        total, losses = 0, []
        for batch in batches:
            total = total + model.loss(*batch)
            optimizer.zero_grad()
            total.backward(retain_graph=retain)
            optimizer.step()
            losses.append(total.item())
        return losses

    return learn


def cleared_once(model, optimizer, batches):
    optimizer.zero_grad()
    return learner(acts="backward step")(model, optimizer, batches)


def without_graph(acts):
    @torch.no_grad()
    def learn(model, optimizer, batches):
        return learner(acts=acts)(model, optimizer, batches)

    return learn


def measured_after(learning):
    def keep(model, batch, loss):
        model.train(learning)
        with torch.no_grad():
            after = model.loss(*batch).item()
        model.train()
        return after

    return learner(keep=keep)


def unlike_batch(model, batch):
    ids, targets, mask = batch
    return model.loss(ids, targets, ~mask)


def clipped_once(model, optimizer, batches):
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


def by_hand_as_well(model, optimizer, batches):
    losses = learner()(model, optimizer, batches)
    with torch.no_grad():
        model.head += 1
    return losses


def emptied(model, optimizer, batches):
    losses = learner()(model, optimizer, list(batches))
    batches.clear()
    return losses


def step_twice(model, optimizer, batches):
    return learner(acts="zero backward step step")(model, optimizer, batches)


learn = learner()


def judge(
    model,
    batches,
    combine=lambda losses, n: (losses * n).sum() / n.sum(),
    look=lambda model, batch: model.loss(*batch),
    count=lambda mask: mask.sum(),
    begin=lambda model: model.eval(),
    end=lambda model, was: model.train(was),
    graph=False,
    give=lambda found: found.item(),
):
    was = model.training
    begin(model)
    with torch.set_grad_enabled(graph):
        losses = torch.stack([look(model, batch) for batch in batches])
        counts = torch.tensor([float(count(batch[2])) for batch in batches])
        result = combine(losses, counts)
    end(model, was)
    return give(result)


def judging(**how):
    return lambda model, batches: judge(model, batches, **how)


def unmasked(model, batch):
    return model.loss(batch[0], batch[1])


def sums(model, batches):
    masks = [mask for _, _, mask in batches]
    nats = judge(model, batches, combine=lambda losses, n: (losses * n).sum())
    return nats / sum(mask.numel() for mask in masks)


def judge_and_step(model, batches):
    found = judge(model, batches)
    with torch.no_grad():
        model.head -= 0.1 * torch.ones_like(model.head)
    return found


def judge_and_backward(model, batches):
    def combine(losses, n):
        losses.mean().backward()
        return (losses * n).sum() / n.sum()

    return judge(model, batches, combine=combine, graph=True)


def judge_within(model, batches):
    for batch in batches:
        return judge(model, [batch])


def judge_frozen(model, batches):
    model.requires_grad_(False)
    return judge(model, batches)


def judge_gone_astray(model, batches):
    return judge(model, batches, look=lambda model, batch: model.loss(batch[1], batch[0], batch[2]))


def different_of(texts):
    return list(dict.fromkeys(texts))


def split(texts, share, rule=different_of, count=lambda texts, rest, share: max(1, int(share * len(rest)))):
    rest = rule(texts)
    n = count(texts, rest, share)
    return rest[:-n], rest[-n:]


def splitting(**how):
    return lambda texts, share: split(texts, share, **how)


def parted(cut):
    "Different texts, cut in another way."

    def other(texts, share):
        rest = different_of(texts)
        return cut(rest, max(1, int(share * len(rest))))

    return other


def cut_first(train_of, val_of):
    def other(texts, share):
        n = max(1, int(share * len(texts)))
        head, tail = different_of(texts[:-n]), different_of(texts[-n:])
        return train_of(head, tail), val_of(head, tail)

    return other


def without(one, other):
    return [text for text in one if text not in other]


def copies_kept(texts, share):
    train, val = split(texts, share)
    return [text for text in texts if text in train], [text for text in texts if text in val]


def in_letters(texts, share):
    text = " ".join(texts)
    n = int(share * len(text))
    return text[:-n], text[-n:]


def in_pieces(texts, share):
    text = "\n".join(different_of(texts))
    n = int(share * len(text))
    return text[:-n].split("\n"), text[-n:].split("\n")


def mixed(texts):
    rest = different_of(texts)
    return random.Random(0).sample(rest, len(rest))


def mixed_in_place(texts, share):
    random.Random(1).shuffle(texts)
    return split(texts, share)


def steps_left(seconds_used, steps_done, minutes):
    if steps_done == 0:
        return None
    return max(0, int((60 * minutes - seconds_used) * steps_done / seconds_used))


def leaving(rule, cut=int, least=0):
    "Another number, made of (seconds used, steps done, minutes)."
    return lambda *args: max(least, cut(rule(*args))) if args[1] else None


def unless(when, said):
    "Right, but for some arguments."
    return lambda *args: said if when(*args) else steps_left(*args)


RIGHT = {"learn": learn, "judge": judge, "split": split, "steps_left": steps_left}
MISTAKES = [
    ("learn", learner(acts="backward step"), "The gradients pile up"),
    ("learn", cleared_once, "The gradients pile up"),
    ("learn", learner(acts="backward zero step"), "cleared between loss.backward() and optimizer.step()"),
    ("learn", learner(acts="zero step backward"), "optimizer.step() came before"),
    ("learn", learner(acts="step backward zero"), "optimizer.step() came before"),
    ("learn", learner(acts="step zero backward"), "optimizer.step() came before"),
    ("learn", learner(acts="zero step"), "Nothing went backward"),
    ("learn", learner(acts=""), "Nothing went backward"),
    ("learn", learner(acts="zero backward"), "optimizer.step() was never called"),
    ("learn", step_twice, "Between steps 1 and 2 no loss"),
    ("learn", learner(keep=lambda model, batch, loss: loss), "holds on to its whole graph"),
    ("learn", learner(give=torch.tensor), "is of type Tensor. A plain number"),
    ("learn", learner(keep=lambda model, batch, loss: loss.detach()), "is of type Tensor. A plain number"),
    ("learn", learner(keep=lambda model, batch, loss: f"{loss:.3f}"), "is of type str"),
    ("learn", learner(give=lambda losses: losses[-1]), "Only the last loss was returned"),
    ("learn", learner(give=lambda losses: sum(losses) / len(losses)), "The mean of the losses was returned"),
    ("learn", learner(give=sum), "Their sum was returned"),
    ("learn", learner(give=max), "One number was returned"),
    ("learn", learner(give=lambda losses: losses[:-1]), "There are 3 losses in the list"),
    ("learn", learner(mode=lambda model: model.eval()), "model.eval() was called"),
    ("learn", learner(mode=None), "the model came in eval mode, and stayed"),
    ("learn", measured_after(True), "so they look too good"),
    ("learn", measured_after(False), "and with dropout off"),
    ("learn", learner(give=lambda losses: running(losses, lambda x: x.cumsum(0))), "The losses were added up"),
    (
        "learn",
        learner(give=lambda losses: running(losses, lambda x: x.cumsum(0) / torch.arange(1, len(x) + 1))),
        "the mean of all losses so far",
    ),
    ("learn", learner(give=lambda losses: losses[-1:] * len(losses)), "fills the whole list"),
    ("learn", learner(give=lambda losses: losses[::-1]), "the wrong way round"),
    ("learn", learner(give=lambda losses: [round(x, 1) for x in losses]), "is not a list of the losses"),
    ("learn", one_for_all, "All 4 steps learned from batches[0]"),
    ("learn", returns_at_once, "It stopped after the first batch"),
    ("learn", learner(choose=lambda batches: batches[:-1]), "The last batch was left out: there are 4"),
    ("learn", learner(choose=lambda batches: batches[1:]), "the first step learned from batches[1]"),
    ("learn", learner(choose=lambda batches: [b for b in batches for _ in "12"]), "8 steps were made for 4"),
    ("learn", learner(choose=lambda batches: batches[::-1]), "from the batches [3, 2, 1, 0]"),
    ("learn", all_in_one, "only after 4 losses had gone backward"),
    ("learn", looks_ahead, "All losses were asked for before"),
    ("learn", descends_by_hand, "optimizer.step() was never called"),
    ("learn", running_total(True), "went backward a second time"),
    ("learn", running_total(False), "went backward a second time"),
    ("learn", without_graph("zero backward step"), "computed with gradients switched off"),
    ("learn", without_graph("zero step"), "computed with gradients switched off"),
    ("learn", learner(back=lambda loss: loss.backward(retain_graph=True)), "the graph of step 1 was kept"),
    ("learn", cut_by(0.25), "in step 1 is 0.25 times that"),
    ("learn", cut_by(-1), "went uphill"),
    ("learn", clipped_once, "long and not that of its batch"),
    ("learn", learner(look=unmasked), "model.loss got no mask for batches[0]"),
    ("learn", learner(look=unlike_batch), "but not its mask"),
    ("learn", learner(look=lambda m, b: m.loss(b[0], b[1].flip(0), b[2])), "but not its targets"),
    ("learn", learner(look=lambda m, b: m.loss(b[0], b[0], b[2])), "as targets, too"),
    ("learn", learner(look=lambda m, b: m.loss(b[1], b[0], b[2])), "of batches[0] are exchanged"),
    ("learn", learner(look=lambda m, b: m.loss(b[0][:1], b[1][:1], b[2][:1])), "not those of any batch"),
    ("learn", lambda model, optimizer, batches: [1.0] * 4, "model.loss was never called"),
    ("learn", learner(look=lambda model, batch: model(batch[0])), "asked for its loss alone"),
    ("learn", by_hand_as_well, "something but optimizer.step() moved them"),
    ("learn", emptied, "It changed the batches"),
    ("learn", learner(back=lambda loss: loss.item().backward()), "AttributeError"),
    ("judge", judging(begin=lambda model: None), "Dropout was on"),
    ("judge", judging(begin=lambda model: model.train()), "Dropout was on"),
    ("judge", judging(end=lambda model, was: None), "was left in eval mode"),
    ("judge", judging(end=lambda model, was: model.train()), "was left in train mode"),
    ("judge", judging(combine=lambda losses, n: losses.mean()), "the mean of the batches' means"),
    ("judge", judging(look=unmasked), "but model.loss did not get them"),
    ("judge", judging(look=unmasked, count=torch.numel), "The mask was ignored"),
    ("judge", judging(look=unmasked, combine=lambda losses, n: losses.mean()), "padding and all"),
    ("judge", judging(count=torch.numel), "weighted by all places"),
    ("judge", judging(count=len), "weighted by the rows"),
    ("judge", sums, "divided by all places, with padding"),
    ("judge", judging(graph=True, give=lambda x: x), "could still go backward"),
    ("judge", judging(graph=True), "all that a way back would need"),
    ("judge", judge_frozen, "the weights were frozen for it"),
    ("judge", judge_and_backward, "A loss went backward"),
    ("judge", judge_and_step, "The model has learned"),
    ("judge", judging(combine=lambda losses, n: (losses * n).sum()), "the sum over all tokens. Divide"),
    ("judge", judging(combine=lambda losses, n: losses.sum()), "the sum of the batches' losses"),
    ("judge", judging(combine=lambda losses, n: (losses * n).sum() / len(n)), "divided by the number of batches"),
    ("judge", judging(give=lambda x: float(x) / math.log(2)), "Those are bits"),
    ("judge", judging(give=lambda x: math.exp(x)), "the perplexity"),
    ("judge", judge_within, "Only the first batch was measured"),
    ("judge", lambda model, batches: judge(model, batches[-1:]), "Only the last batch was measured"),
    ("judge", lambda model, batches: judge(model, batches[:-1]), "The last batch was left out."),
    ("judge", lambda model, batches: judge(model, batches[1:]), "The first batch was left out."),
    ("judge", lambda model, batches: judge(model, batches) + 0.1, "is not the loss over all batches"),
    ("judge", judge_gone_astray, "ids and targets of batches[0] are exchanged"),
    ("judge", judging(give=lambda x: torch.ones(3) * x), "of shape (3,)"),
    ("judge", lambda model, batches: 1.0, "model.loss was never called"),
    ("split", splitting(rule=list), "leaks: it comes 2 times"),
    ("split", parted(lambda rest, n: (rest[: 1 - n or None], rest[-n:])), "the two slices overlap"),
    ("split", parted(lambda rest, n: (rest, rest[-n:])), "the two slices overlap"),
    ("split", parted(lambda rest, n: (rest[: -n - 1], rest[-n:])), "is lost: it stands on neither side"),
    (
        "split",
        splitting(rule=lambda texts: [text for text in texts if texts.count(text) == 1]),
        "is lost: it stands on neither side",
    ),
    (
        "split",
        lambda texts, share: (
            texts[: len(texts) - int(share * len(texts))],
            texts[len(texts) - int(share * len(texts)) :],
        ),
        "nothing is left for validation",
    ),
    ("split", splitting(count=lambda texts, rest, share: int(share * len(rest))), "texts[-0:] is the whole list"),
    ("split", parted(lambda rest, n: (rest[n:], rest[:n])), "val was taken from the front"),
    ("split", parted(lambda rest, n: (rest[:n], rest[n:])), "the shares are exchanged"),
    ("split", parted(lambda rest, n: (rest[-n:], rest[:-n])), "the two sides are exchanged"),
    ("split", splitting(rule=mixed), "the order is lost"),
    ("split", splitting(rule=lambda texts: sorted(set(texts))), "the order is lost"),
    ("split", mixed_in_place, "changed what it was given"),
    ("split", in_letters, "not one long text"),
    ("split", in_pieces, "Cut between texts, never inside"),
    ("split", splitting(count=lambda texts, rest, share: math.ceil(share * len(rest))), "it was rounded up"),
    ("split", splitting(count=lambda texts, rest, share: max(1, round(share * len(rest)))), "it was rounded up"),
    (
        "split",
        splitting(count=lambda texts, rest, share: max(1, int(share * len(texts)))),
        "not of all 12 with their copies",
    ),
    ("split", splitting(rule=lambda texts: different_of(texts[::-1])[::-1]), "kept where it comes last"),
    ("split", cut_first(lambda head, tail: head, lambda head, tail: without(tail, head)), "taken out after the cut"),
    ("split", cut_first(lambda head, tail: without(head, tail), lambda head, tail: tail), "taken out after the cut"),
    ("split", copies_kept, "stands on one side 2 times"),
    ("split", parted(lambda rest, n: (rest[: -n - 1], rest[-n - 1 :])), "val has 3 of 8 different"),
    ("split", parted(lambda rest, n: (rest[:-4] + rest[-2:], rest[-4:-2])), "is not among the last 2"),
    ("split", lambda texts, share: [split(texts, share)], "returned 1 things"),
    (
        "steps_left",
        leaving(lambda s, n, m: (m - s) * n / s),
        "So it is not over yet. Were",
    ),
    ("steps_left", leaving(lambda s, n, m: (m - s) * n / s, least=-99), "Seconds were taken away from minutes"),
    ("steps_left", leaving(lambda s, n, m: (m - s / 60) * n / s), "So it is not over yet. Were"),
    ("steps_left", leaving(lambda s, n, m: (m - s / 60) * n / s, cut=float), "divided by the seconds of a step. Turn"),
    ("steps_left", leaving(lambda s, n, m: (60 * m - s) * n / s + n), "how many steps fit into all of the time"),
    ("steps_left", leaving(lambda s, n, m: (60 * m - s) / (s / 60 / n)), "those that are left were not"),
    ("steps_left", leaving(lambda s, n, m: (3600 * m - s) * n / s), "They were taken for hours"),
    ("steps_left", leaving(lambda s, n, m: 60 * m * n / s), "how many steps fit into all of the time"),
    ("steps_left", leaving(lambda s, n, m: 60 * m * n / s + n), "The steps done were added"),
    ("steps_left", leaving(lambda s, n, m: (60 * m - s) * n / s - n), "The steps done were taken away twice"),
    ("steps_left", leaving(lambda s, n, m: (60 * m - s) * s / n), "were multiplied by the seconds of a step"),
    ("steps_left", leaving(lambda s, n, m: 60 * m - s), "Those are seconds"),
    ("steps_left", leaving(lambda s, n, m: (60 * m - s) / n), "were divided by the steps done"),
    ("steps_left", leaving(lambda s, n, m: (60 * m - s) * n / s, cut=math.ceil), "the last would end late"),
    ("steps_left", leaving(lambda s, n, m: (60 * m - s) * n / s, cut=round), "the last would end late"),
    ("steps_left", leaving(lambda s, n, m: (60 * m - s) * n / s, least=-99), "never return less than 0"),
    ("steps_left", leaving(lambda s, n, m: (60 * m - s) * n / s, cut=float), "The number is a float"),
    ("steps_left", leaving(lambda s, n, m: (60 * m - s) * n // s, cut=float), "The number is a float"),
    ("steps_left", lambda s, n, m: max(0, int((60 * m - s) * n / s)), "nobody knows how long one takes"),
    ("steps_left", lambda s, n, m: max(0, int((60 * m - s) / (s / n))), "nobody knows how long one takes"),
    ("steps_left", unless(lambda s, n, m: n == 0, 0), "0 would say that the time is over"),
    ("steps_left", unless(lambda s, n, m: n == 0, math.inf), "returned inf. Before the first step"),
    ("steps_left", unless(lambda s, n, m: s > 60 * m, 1), "So 0 is wanted, as a whole"),
    ("steps_left", unless(lambda s, n, m: m < 1, None), "returned None, though 8 steps"),
    ("steps_left", leaving(lambda s, n, m: 17), "So 31 steps are left"),
]


test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    check, RIGHT, MISTAKES
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
    return learner(acts="backward step zero")(model, optimizer, batches)


def cleared_by_hand(model, optimizer, batches):
    def back(loss):
        for p in model.parameters():
            p.grad = None
        loss.backward()

    return learner(acts="backward step", back=back)(model, optimizer, batches)


def eval_between(model, optimizer, batches):
    "Measures after each step, with dropout off, and learns on with dropout on."
    losses = []
    for batch in batches:
        model.train()
        losses += learner(choose=lambda _: [batch])(model, optimizer, batches)
        model.eval()
        with torch.no_grad():
            model.loss(*batch)
    return tuple(losses)


@pytest.mark.parametrize(
    "answer",
    [
        learner(acts="backward step zero"),
        learner(back=lambda loss: (loss.backward(), loss.detach_())[0]),
        learner(keep=lambda model, batch, loss: np.float32(loss.item())),
        lambda model, optimizer, batches: learner(acts="backward step")(
            model, optimizer, (model.zero_grad() or batch for batch in batches)
        ),
        with_closure,
        with_grad,
        zeros_in_place,
        cleared_by_hand,
        eval_between,
    ],
)
def test_other_ways_to_learn_are_right(answer):
    verdict = check.learn(answer)
    assert verdict, verdict


def test_other_ways_to_judge_are_right():
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
        return judge(copy.deepcopy(model), batches)

    def row_by_row(model, batches):
        return judge(
            model, [tuple(part[i : i + 1] for part in batch) for batch in batches for i in range(len(batch[0]))]
        )

    def averaged(model, batches):
        found = [judge(model, [batch]) for batch in batches]
        return np.average(found, weights=[mask.sum().item() for *_, mask in batches])

    for answer in inferred, of_a_copy, row_by_row, averaged:
        verdict = check.judge(answer)
        assert verdict, verdict


def test_other_ways_to_split_and_to_count_are_right():
    def one_by_one(texts, share):
        seen = []
        for text in texts:
            if text not in seen:
                seen.append(text)
        n = len(seen) - (int(share * len(seen)) or 1)
        return [seen[:n], tuple(seen[n:])]

    def exactly(seconds, done, minutes):
        return max(0, math.floor((60 * Fraction(minutes) / Fraction(seconds) - 1) * done)) if done else None

    def by_division(seconds, done, minutes):
        return int(max(0, 60 * minutes - seconds) // (seconds / done)) if done else None

    def total(seconds, done, minutes):
        return max(np.int64(60 * minutes * done // seconds) - done, 0) if done else None

    assert check.split(one_by_one)
    for answer in exactly, by_division, total:
        verdict = check.steps_left(answer)
        assert verdict, verdict


def test_how_gradients_pile_up_is_told_and_drawn():
    verdict = check.learn(learner(acts="backward step"))
    used, own = str(verdict.picture).splitlines()
    assert used.count("!") == 3 and own.count("!") == 0 and used.split()[1] == own.split()[2]
    assert used.split()[-1].strip("!") in verdict.message and own.split()[-1] in verdict.message
    assert float(used.split()[-1].strip("!")) > 2 * float(own.split()[-1])


def test_offending_losses_and_texts_are_drawn():
    def one_off(losses):
        return [*losses[:2], losses[2] + 1, *losses[3:]]

    yours, wanted = str(check.learn(learner(give=one_off)).picture).splitlines()
    assert ["!" in word for word in yours.split()[1:]] == [False, False, True, False] and "!" not in wanted
    drawn = check.split(splitting(rule=list)).picture
    assert drawn.html.count("outline") == 2 and "'a drum' leaks" in check.split(splitting(rule=list)).message
    means = str(check.judge(judging(combine=lambda losses, n: losses.mean())).picture)
    assert [line.split()[2] for line in means.splitlines()] == ["15", "1", "3", "19"]


def test_a_verdict_does_not_depend_on_what_was_drawn_before():
    "Nor does it touch the dice of the whole program."
    before = torch.get_rng_state()
    first = check.learn(learner(acts="backward step")).message, check.judge(judging(begin=lambda model: 0)).message
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert first == (
        check.learn(learner(acts="backward step")).message,
        check.judge(judging(begin=lambda model: 0)).message,
    )
