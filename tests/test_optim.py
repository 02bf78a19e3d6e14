"""Chapter 09: Muon is what torch says it is, schedules end where they should, and each parameter gets its due."""

import copy
import io
import math
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tinygpt.gpt import GPT, GPTConfig
from tinygpt.optim import (
    Muon,
    build_optimizers,
    constant_linear,
    orthogonalize,
    parameter_groups,
    set_lr_scale,
    warmup_cosine,
)

SHAPES = [(8, 8), (12, 8), (8, 12), (8, 8), (1, 5), (5, 1), (12, 8)]
OPTIMIZERS = pytest.mark.parametrize("optimizer", ["muon", "adamw"])


@pytest.fixture
def in_float32(monkeypatch):
    "torch.optim.Muon in full precision: it would work in 16 bits."
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)


def small(preset="modern", **changes):
    "A tiny GPT with numbers everywhere, zeros nowhere."
    torch.manual_seed(0)
    sizes = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 8, "n_hidden": 12}
    model = GPT(GPTConfig.named(preset, **sizes | changes))
    for p in model.parameters():
        nn.init.normal_(p, mean=0.2, std=0.5)
    return model


def matrices(shapes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def push(params, optimizer, steps, start=0, absent=lambda step, i: False):
    "Steps along gradients that depend on where the parameters are; some of them get none."
    for step in range(start, start + steps):
        generator = torch.Generator().manual_seed(step)
        for i, p in enumerate(params):
            noise = torch.randn(p.shape, generator=generator).to(p.dtype)
            p.grad = None if absent(step, i) else p.detach() + 0.5 * noise
        optimizer.step()


def close(ours, theirs, **how):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), **how)


# orthogonalize


def quintic(s, rounds):
    for _ in range(rounds):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@given(
    st.lists(st.integers(1, 3), max_size=2), st.integers(1, 9), st.integers(1, 9), st.integers(0, 6), st.integers(0, 99)
)
@settings(deadline=None)
def test_orthogonalize_changes_singular_values_alone_and_as_its_polynomial_says(batch, rows, columns, rounds, seed):
    torch.manual_seed(seed)
    G = torch.randn(*batch, rows, columns, dtype=torch.float64) * 10 ** torch.randint(-3, 4, ()).double()
    U, s, Vt = torch.linalg.svd(G, full_matrices=False)
    s = quintic(s / s.norm(dim=-1, keepdim=True), rounds)
    torch.testing.assert_close(orthogonalize(G, rounds), U * s[..., None, :] @ Vt, rtol=1e-6, atol=1e-8)


def test_orthogonalize_makes_singular_values_nearly_equal_by_itself():
    torch.manual_seed(0)
    even = torch.linalg.svdvals(orthogonalize(torch.randn(4, 96, 32)))
    assert 0.65 < even.min() and even.max() < 1.25


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_orthogonalize_keeps_dtype_and_argument_and_survives_zeros(dtype):
    G = torch.randn(3, 4, 6).to(dtype)
    G[1] = 0
    before = G.clone()
    even = orthogonalize(G)
    assert even.dtype == dtype and even.shape == G.shape and G.equal(before)
    assert even.isfinite().all() and (even[1] == 0).all() and (even[0] != 0).any()


# Muon


def absent(step, i):
    return (step + 2 * i) % 5 == 0


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("without", [lambda step, i: False, absent], ids=["all", "some"])
def test_muon_is_that_of_torch(in_float32, momentum, decay, without):
    ours, theirs = matrices(SHAPES), matrices(SHAPES)
    start = [p.detach().clone() for p in ours]
    push(ours, Muon(ours, 0.05, momentum, decay), 12, absent=without)
    push(theirs, torch.optim.Muon(theirs, 0.05, decay, momentum), 12, absent=without)
    close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert all((p - q).abs().max() > 0.05 for p, q in zip(ours, start))


def test_muon_is_that_of_torch_in_16_bits_too():
    for dtype, tolerance in (torch.bfloat16, 0.03), (torch.float32, 0.03):
        ours, theirs = matrices(SHAPES, dtype), matrices(SHAPES, dtype)
        push(ours, Muon(ours, 0.02, weight_decay=0.1), 10)
        push(theirs, torch.optim.Muon(theirs, 0.02, weight_decay=0.1), 10)
        close(ours, theirs, rtol=0, atol=tolerance)
        assert ours[0].dtype == dtype


def test_each_group_goes_at_its_own_rate(in_float32):
    def groups(params):
        return [{"params": params[:3], "lr": 0.01, "weight_decay": 0.5}, {"params": params[3:], "momentum": 0.3}]

    ours, theirs = matrices(SHAPES), matrices(SHAPES)
    push(ours, Muon(groups(ours), 0.07), 8)
    push(theirs, torch.optim.Muon(groups(theirs), 0.07, weight_decay=0.0), 8)
    close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_stack_steps_as_each_matrix_alone():
    together, alone = matrices(SHAPES), matrices(SHAPES)
    push(together, Muon(together, 0.05), 10, absent=absent)
    optimizers = [Muon([p], 0.05) for p in alone]

    class All:
        def step(self):
            for optimizer in optimizers:
                optimizer.step()

    push(alone, All(), 10, absent=absent)
    close(together, alone, rtol=1e-5, atol=1e-5)


def test_equal_shapes_are_made_orthogonal_in_one_go(monkeypatch):
    import tinygpt.optim

    seen = []
    monkeypatch.setattr(tinygpt.optim, "orthogonalize", lambda x: seen.append(tuple(x.shape)) or x)
    params = matrices(SHAPES)
    push(params, Muon(params, 0.05), 1)
    assert sorted(seen) == [(1, 1, 5), (1, 5, 1), (1, 8, 12), (2, 8, 8), (2, 12, 8)]


def test_matrices_of_other_precision_stand_in_a_stack_of_their_own():
    params = [*matrices([(4, 4)]), *matrices([(4, 4)], torch.float64)]
    push(params, Muon(params, 0.05), 5)
    alone = matrices([(4, 4)])
    push(alone, Muon(alone, 0.05), 5)
    torch.testing.assert_close(params[0], alone[0])
    assert params[1].dtype == torch.float64 and not params[1].allclose(matrices([(4, 4)], torch.float64)[0], atol=0.01)


def saved(optimizer):
    "The state of an optimizer, through a file."
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("without", [lambda step, i: False, absent, lambda step, i: i == 2 and step < 7])
def test_a_resumed_muon_goes_on_to_the_bit(without):
    whole, parts = matrices(SHAPES), matrices(SHAPES)
    push(whole, Muon(whole, 0.05, weight_decay=0.1), 14, absent=without)
    first = Muon(parts, 0.05, weight_decay=0.1)
    push(parts, first, 6, absent=without)
    copies = [nn.Parameter(p.detach().clone()) for p in parts]
    again = Muon(copies, 0.9)  # the rate is part of the state
    again.load_state_dict(saved(first))
    push(copies, again, 8, start=6, absent=without)
    assert all(a.equal(b) for a, b in zip(whole, copies))


def test_muon_takes_over_the_state_of_torchs(in_float32):
    ours, theirs = matrices(SHAPES), matrices(SHAPES)
    other = torch.optim.Muon(theirs, 0.05, weight_decay=0.0)
    push(theirs, other, 5)
    ours = [nn.Parameter(p.detach().clone()) for p in theirs]
    mine = Muon(ours, 0.05)
    mine.load_state_dict(saved(other))
    push(theirs, other, 5, start=5)
    push(ours, mine, 5, start=5)
    close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "shape, options, said",
    [
        ((4,), {}, r"this parameter has shape \(4,\): give it to AdamW"),
        ((2, 3, 4), {}, r"this parameter has shape \(2, 3, 4\)"),
        ((2, 3), {"lr": -0.1}, "lr=-0.1 should be a number, 0 or more"),
        ((2, 3), {"lr": math.nan}, "lr=nan should be"),
        ((2, 3), {"lr": "0.1"}, r"lr=.0\.1. should be a number, 0 or more"),
        ((2, 3), {"momentum": -0.5}, "momentum=-0.5 should be a number, 0 or more and below 1"),
        ((2, 3), {"momentum": 1.0}, "momentum=1.0 should be a number, 0 or more and below 1"),
        ((2, 3), {"weight_decay": -1}, "weight_decay=-1 should be a number, 0 or more$"),
    ],
)
def test_muon_refuses_with_a_sentence(shape, options, said):
    with pytest.raises(ValueError, match=said):
        Muon([nn.Parameter(torch.ones(shape))], **{"lr": 0.1} | options)
    if "lr" not in options:
        optimizer = Muon(matrices([(2, 2)]), 0.1)
        with pytest.raises(ValueError, match=said):
            optimizer.add_param_group({"params": [nn.Parameter(torch.ones(shape))]} | options)


# which parameter gets which optimizer


@pytest.mark.parametrize("preset", ["modern", "gpt2"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_each_parameter_is_of_one_kind(preset, tied, bias):
    model = small(preset, tied=tied, bias=bias)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {kind: sorted(names[id(p)] for p in params) for kind, params in parameter_groups(model).items()}
    assert list(found) == ["matrices", "embeddings", "vectors"]
    assert sorted(chain.from_iterable(found.values())) == sorted(names.values())
    learned_positions, head = {"position_embedding.weight"}, {"lm_head.weight"}
    embeddings = {"embed.weight"} | (learned_positions if preset == "gpt2" else set()) | (set() if tied else head)
    assert set(found["embeddings"]) == embeddings
    parts = "query", "key", "value", "proj", "up", "down", "gate"
    assert all(name.split(".")[-2] in parts and name.endswith("weight") for name in found["matrices"])
    assert len(found["matrices"]) == 2 * (7 if preset == "modern" else 6)
    assert all("norm" in name or name.endswith(".bias") for name in found["vectors"])


def groups_of(model, optimizers):
    "Of each parameter, by name: its optimizer, rate and decay."
    names, found = {id(p): name for name, p in model.named_parameters()}, {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"]:
                assert names[id(p)] not in found
                found[names[id(p)]] = type(optimizer), group["lr"], group["weight_decay"]
    assert found.keys() == set(names.values())
    return found


def test_build_optimizers_gives_each_kind_its_own():
    model = small("gpt2", tied=False)
    rates = {"lr": 0.1, "embedding_lr": 0.2, "vector_lr": 0.3}
    optimizers = build_optimizers(model, **rates, betas=(0.7, 0.8), momentum=0.6, weight_decay=0.4)
    assert [type(one) for one in optimizers] == [Muon, torch.optim.AdamW]
    assert optimizers[0].param_groups[0]["momentum"] == 0.6
    assert all(group["betas"] == (0.7, 0.8) for group in optimizers[1].param_groups)
    found = groups_of(model, optimizers)
    assert found["blocks.1.mlp.up.weight"] == (Muon, 0.1, 0.4)
    for table in "embed.weight", "position_embedding.weight", "lm_head.weight":
        assert found[table] == (torch.optim.AdamW, 0.2, 0.4)
    for vector in "norm.weight", "norm.bias", "blocks.0.mlp.up.bias", "blocks.0.attention_norm.weight":
        assert found[vector] == (torch.optim.AdamW, 0.3, 0.0)
    optimizers = build_optimizers(model, "adamw", **rates, betas=(0.7, 0.8), weight_decay=0.4)
    assert [type(one) for one in optimizers] == [torch.optim.AdamW]
    assert all(group["betas"] == (0.7, 0.8) for group in optimizers[0].param_groups)
    found = groups_of(model, optimizers)
    assert found["blocks.1.mlp.up.weight"] == (torch.optim.AdamW, 0.1, 0.4)
    assert found["lm_head.weight"][1:] == (0.2, 0.4) and found["norm.weight"][1:] == (0.3, 0.0)


def test_what_is_left_open_is_filled_in():
    model = small()

    def rates(*args, **kwargs):
        found = groups_of(model, build_optimizers(model, *args, **kwargs))
        return [found[name][1] for name in ("blocks.0.mlp.up.weight", "embed.weight", "norm.weight")]

    assert rates() == [0.015, 0.02, 0.01] and rates("adamw") == [0.003, 0.01, 0.01]
    assert rates(lr=0.5) == [0.5, 0.02, 0.01] and rates("adamw", lr=0.5) == [0.5] * 3
    assert rates("adamw", lr=0.5, embedding_lr=0) == [0.5, 0, 0.5] and rates(vector_lr=0.5) == [0.015, 0.02, 0.5]


@OPTIMIZERS
def test_matrices_and_embeddings_decay_and_vectors_do_not(optimizer):
    model = small("gpt2", tied=False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for one in build_optimizers(model, optimizer, 0.1, 0.2, 0.3, weight_decay=0.5):
        one.step()
    for name, p in model.named_parameters():
        kept = 1 if p.dim() < 2 else 1 - 0.5 * (0.1 if name.startswith("blocks.") else 0.2)
        torch.testing.assert_close(p.detach(), kept * before[name])


@pytest.mark.parametrize(
    "options, said",
    [
        ({"optimizer": "adam"}, "optimizer='adam' should be 'muon' or 'adamw'"),
        ({"lr": -1}, "lr=-1 should be a number, 0 or more"),
        ({"embedding_lr": -0.1}, "embedding_lr=-0.1 should be"),
        ({"vector_lr": math.inf, "optimizer": "adamw"}, "vector_lr=inf should be"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 should be"),
        ({"weight_decay": -0.1, "optimizer": "adamw"}, "weight_decay=-0.1 should be"),
        ({"momentum": 1.5}, "momentum=1.5 should be"),
    ],
)
def test_build_optimizers_refuses_with_a_sentence(options, said):
    with pytest.raises(ValueError, match=said):
        build_optimizers(small(), **options)


# schedules

runs = st.tuples(st.integers(1, 60), st.integers(0, 80))


@given(runs, st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None)
def test_schedules_rise_to_the_full_rate_and_fall_and_waste_no_step(run, hold, least):
    steps, warmup = run
    for schedule in (
        lambda step: warmup_cosine(step, steps, warmup),
        lambda step: warmup_cosine(step, steps, warmup, least),
        lambda step: constant_linear(step, steps, warmup, hold),
    ):
        shares = [schedule(step) for step in range(steps)]
        assert all(0 < share <= 1 for share in shares)
        top = shares.index(max(shares))
        assert shares[: top + 1] == sorted(shares[: top + 1])
        assert all(a >= b - 1e-12 for a, b in zip(shares[top:], shares[top + 1 :]))
        assert all(share <= (step + 1) / max(1, warmup) for step, share in enumerate(shares))


@given(runs, st.floats(0, 1))
@settings(deadline=None)
def test_warmup_is_a_line_and_then_torchs_cosine(run, least):
    steps, warmup = run
    warmup = max(warmup, 1)
    shares = [warmup_cosine(step, steps, warmup, least) for step in range(steps)]
    assert shares[: warmup - 1] == pytest.approx([(step + 1) / warmup for step in range(min(steps, warmup - 1))])
    if warmup <= steps:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps + 1 - warmup, least)
        expected = []
        for _ in range(steps + 1 - warmup):
            expected.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            cosine.step()
        assert shares[warmup - 1 :] == pytest.approx(expected, abs=1e-6)
    assert warmup_cosine(steps, steps, 0, least) == pytest.approx(least)
    assert warmup_cosine(steps + 9, steps, 0, least) == pytest.approx(least)


def test_constant_linear_by_hand():
    shares = [constant_linear(step, 10, 4, 0.5) for step in range(12)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0])
    assert [constant_linear(step, 4, 0, 0.0) for step in range(4)] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert [constant_linear(step, 3, 0, 1.0) for step in range(3)] == [1, 1, 1]
    assert [constant_linear(step, 300) for step in (0, 18, 19, 150, 225, 299)] == pytest.approx(
        [1 / 20, 19 / 20, 1, 1, 0.5, 1 / 150]
    )


@pytest.mark.parametrize("schedule", [warmup_cosine, constant_linear])
def test_a_run_of_one_step_moves(schedule):
    assert schedule(0, 1) == 1 / 20 and schedule(0, 1, warmup=0) > 0 and schedule(0, 1, warmup=1) == 1


# set_lr_scale


@OPTIMIZERS
def test_set_lr_scale_is_a_fraction_of_the_first_rate_however_often(optimizer):
    model = small()
    optimizers = build_optimizers(model, optimizer, 0.1, 0.2, 0.3)
    names = "blocks.0.mlp.up.weight", "embed.weight", "norm.weight"
    for share in 0.5, 0.01, 0.0, 1.0, 0.25:
        set_lr_scale(optimizers, share)
        found = groups_of(model, optimizers)
        assert [found[name][1] for name in names] == pytest.approx([0.1 * share, 0.2 * share, 0.3 * share])


def train(model, optimizers, steps, of):
    for step in steps:
        set_lr_scale(optimizers, constant_linear(step, of, warmup=3))
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(11, (3, 9), generator=generator)
        model.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        for optimizer in optimizers:
            optimizer.step()


@OPTIMIZERS
def test_a_run_that_goes_on_later_is_the_same_to_the_bit(optimizer):
    whole, part = small(), small()
    train(whole, build_optimizers(whole, optimizer, weight_decay=0.1), range(12), 12)
    before = build_optimizers(part, optimizer, weight_decay=0.1)
    train(part, before, range(5), 12)
    later = copy.deepcopy(part)
    after = build_optimizers(later, optimizer, lr=0.5)  # the state knows the rates of before
    for one, old in zip(after, before):
        one.load_state_dict(saved(old))
    train(later, after, range(5, 12), 12)
    assert all(a.equal(b) for a, b in zip(whole.parameters(), later.parameters()))


@OPTIMIZERS
def test_a_model_learns(optimizer):
    model, ids = small(), torch.tensor([[1, 5, 2, 7, 3, 9, 0, 4, 6]])
    optimizers, first = build_optimizers(model, optimizer), model.loss(ids[:, :-1], ids[:, 1:]).item()
    for step in range(60):
        set_lr_scale(optimizers, constant_linear(step, 60, warmup=5))
        model.zero_grad()
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        for one in optimizers:
            one.step()
    assert loss < first / 2
