"""MLP and Block are what transformers and a few lines of arithmetic say, at any size."""

import copy
import csv
import inspect
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from transformers import GPT2Config, Qwen3Config
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP, GPT2Block
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3MLP, Qwen3RotaryEmbedding

from tests.block_runs import RATES, ROOT, SEEDS, Stack, post_norm, pre_norm
from tinygpt.attention import Attention
from tinygpt.block import MLP, MLPS, Block, SwiGLU
from tinygpt.cache import KVCache
from tinygpt.positions import rotation
from tinygpt.show.training import recorded_ladder

KINDS = pytest.mark.parametrize("kind", ["swiglu", "gelu"])
shapes = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 12), st.integers(1, 20))


def build(kind="swiglu", norm=nn.RMSNorm, dropout=0.0, bias=False, **attention):
    "A small block."
    parts = Attention(16, 4, bias=bias, **attention), MLPS[kind][0](16, 24, bias)
    return Block(*parts, lambda: norm(16), dropout)


def zero_last(block):
    "The same block with its last matrices zero, as a new model has them."
    nn.init.zeros_(block.attention.proj.weight)
    nn.init.zeros_(block.mlp.down.weight)
    return block


def loud(module, seed=0):
    "The same module with random weights everywhere, in gains and biases too."
    torch.manual_seed(seed)
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module


def fill(module, weights):
    "Put these weights into a module, which must have them all and no others."
    parameters = dict(module.named_parameters())
    assert parameters.keys() == weights.keys()
    for name, p in parameters.items():
        assert p.shape == weights[name].shape
        p.data = weights[name].detach().clone()
    return module


class Told(nn.Module):
    "Stands in for attention: keeps what it was called with, and returns what it is told to."

    def __init__(self, answer):
        super().__init__()
        self.proj, self.calls, self.answer = nn.Linear(1, 1), [], answer

    def forward(self, x, *arguments):
        self.calls.append((x, arguments))
        return self.answer(x)


class ToldMLP(Told):
    "Stands in for an MLP."

    def __init__(self, answer):
        super().__init__(answer)
        self.down = nn.Linear(1, 1)


# MLP


@given(shapes, st.integers(0, 10**6), st.booleans())
@settings(deadline=None)
def test_mlp_is_what_its_formula_says(shape, seed, bias):
    *batch, n_embd, n_hidden = shape
    torch.manual_seed(seed)
    x = torch.randn(*batch, n_embd)
    gated, gelu = loud(SwiGLU(n_embd, n_hidden, bias), seed), loud(MLP(n_embd, n_hidden, bias), seed)

    def through(layer, y):
        return y @ layer.weight.T + (layer.bias if bias else 0)

    gate = through(gated.gate, x)
    expected = through(gated.down, gate / (1 + (-gate).exp()) * through(gated.up, x))
    torch.testing.assert_close(gated(x), expected, rtol=1e-4, atol=1e-4)
    up = through(gelu.up, x)
    bent = up / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (up + 0.044715 * up**3)))
    torch.testing.assert_close(gelu(x), through(gelu.down, bent), rtol=1e-4, atol=1e-4)


@given(shapes)
@settings(deadline=None)
def test_mlp_has_the_parameters_it_should_and_treats_each_token_alike(shape):
    *batch, n_embd, n_hidden = shape
    for kind, ups in ("swiglu", 2), ("gelu", 1):
        for bias in False, True:
            mlp = MLPS[kind][0](n_embd, n_hidden, bias)
            biases = bias * (ups * n_hidden + n_embd)
            assert sum(p.numel() for p in mlp.parameters()) == (ups + 1) * n_embd * n_hidden + biases
    x = torch.randn(*batch, n_embd)
    one_by_one = torch.stack([mlp(x[:, t]) for t in range(x.shape[1])], 1)
    torch.testing.assert_close(mlp(x), one_by_one, rtol=1e-4, atol=1e-5)


def qwen3(**changes):
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2}
    return Qwen3Config(**sizes, head_dim=8, num_hidden_layers=1, rms_norm_eps=1e-6, **changes)


def gpt2(**changes):
    return GPT2Config(n_embd=16, n_head=4, n_inner=24, n_layer=1, n_positions=32, **changes)


def test_mlp_is_that_of_qwen3():
    theirs = loud(Qwen3MLP(qwen3()))
    ours = fill(SwiGLU(16, 24), {name.replace("_proj", ""): p for name, p in theirs.named_parameters()})
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(x), theirs(x))


def gpt2_mlp(theirs):
    "The weights of GPT-2's MLP by our names; it stores its matrices the other way round."
    names = {"up": theirs.c_fc, "down": theirs.c_proj}
    return {f"{name}.weight": layer.weight.T for name, layer in names.items()} | {
        f"{name}.bias": layer.bias for name, layer in names.items()
    }


def test_mlp_is_that_of_gpt2():
    theirs = loud(GPT2MLP(24, gpt2())).eval()
    ours = fill(MLP(16, 24, bias=True), gpt2_mlp(theirs))
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(ours(x), theirs(x))


# Block against other people's


def compare(ours, theirs, x, extra, **arguments):
    "What comes out, and the gradient that gets back to x."
    results = []
    for module, given_ in (ours, arguments), (theirs, extra):
        start = x.clone().requires_grad_()
        y = module(start, **given_)
        y = y[0] if isinstance(y, tuple) else y
        y.sin().sum().backward()
        results.append((y, start.grad))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("T", [1, 7])
def test_block_is_a_layer_of_qwen3(T):
    config = qwen3(attn_implementation="eager")
    theirs = loud(Qwen3DecoderLayer(config, 0)).eval()
    names = {"self_attn.": "attention.", "_proj": "", "q_norm": "query_norm", "k_norm": "key_norm"}
    names |= {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}
    short = {"attention.q.": "attention.query.", "attention.k.": "attention.key."}
    short |= {"attention.v.": "attention.value.", "attention.o.": "attention.proj."}
    weights = {}
    for name, p in theirs.named_parameters():
        for old, new in (names | short).items():
            name = name.replace(old, new)
        weights[name] = p
    norm = lambda size=16: nn.RMSNorm(size, eps=1e-6)  # noqa: E731
    ours = fill(Block(Attention(16, 4, 2, head_dim=8, qk_norm=norm), SwiGLU(16, 24), norm), weights)
    x, positions = torch.randn(2, T, 16), torch.arange(T)
    turns = Qwen3RotaryEmbedding(config)(x, positions[None])
    causal = torch.full((T, T), -torch.inf).triu(1)[None, None]
    base = config.rope_parameters["rope_theta"]
    extra = {"position_embeddings": turns, "attention_mask": causal}
    compare(ours, theirs, x, extra, rope=rotation(positions, 8, base))


@pytest.mark.parametrize("T", [1, 7])
def test_block_is_a_layer_of_gpt2(T):
    theirs = loud(GPT2Block(gpt2(attn_implementation="eager"), 0)).eval()
    weights = {f"mlp.{name}": p for name, p in gpt2_mlp(theirs.mlp).items()}
    for kind in "weight", "bias":
        thirds = getattr(theirs.attn.c_attn, kind).t().chunk(3)
        weights |= {f"attention.{name}.{kind}": p for name, p in zip(["query", "key", "value"], thirds)}
        weights[f"attention.proj.{kind}"] = getattr(theirs.attn.c_proj, kind).t()
        weights[f"attention_norm.{kind}"] = getattr(theirs.ln_1, kind)
        weights[f"mlp_norm.{kind}"] = getattr(theirs.ln_2, kind)
    ours = fill(build("gelu", nn.LayerNorm, bias=True), weights)
    causal = torch.full((T, T), -torch.inf).triu(1)[None, None]
    compare(ours, theirs, torch.randn(2, T, 16), {"attention_mask": causal})


# Block by itself


@given(shapes, st.integers(0, 10**6))
@settings(deadline=None)
def test_block_reads_norms_and_adds(shape, seed):
    B, T, C, _ = shape
    torch.manual_seed(seed)
    x, first, second = torch.randn(B, T, C), torch.randn(C, C), torch.randn(C, C)
    attention, mlp = Told(lambda y: y @ first), ToldMLP(lambda y: y @ second)
    norms = iter([nn.RMSNorm(C), nn.LayerNorm(C)])
    block = Block(attention, mlp, lambda: next(norms))
    for norm in block.attention_norm, block.mlp_norm:
        nn.init.normal_(norm.weight)
    y = block(x)
    between = x + block.attention_norm(x) @ first
    assert attention.calls[0][0].equal(block.attention_norm(x)) and isinstance(block.attention_norm, nn.RMSNorm)
    torch.testing.assert_close(mlp.calls[0][0], block.mlp_norm(between))
    torch.testing.assert_close(y, between + block.mlp_norm(between) @ second)


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [nn.RMSNorm, nn.LayerNorm])
def test_a_block_with_zeros_last_changes_nothing(kind, dtype, norm):
    for n_kv_head in 4, 2, 1:
        block = zero_last(build(kind, norm, n_kv_head=n_kv_head, qk_norm=nn.RMSNorm)).to(dtype)
        x = (100 * torch.randn(3, 6, 16)).to(dtype)
        assert block(x).equal(x) and block(x).dtype == dtype


@KINDS
def test_a_block_with_zeros_last_and_biases_adds_those_and_nothing_else(kind):
    block, x = zero_last(build(kind, bias=True)), torch.randn(2, 5, 16)
    torch.testing.assert_close(block(x), x + block.attention.proj.bias + block.mlp.down.bias)


@KINDS
@pytest.mark.parametrize("bias", [False, True])
def test_bias_gives_every_matrix_one_or_none(kind, bias):
    block = build(kind, bias=bias)
    matrices = [part for part in block.modules() if isinstance(part, nn.Linear)]
    assert len(matrices) == 4 + (3 if kind == "swiglu" else 2)
    assert {part.bias is not None for part in matrices} == {bias}


@KINDS
def test_the_gradient_reaches_the_zeros_at_once_and_everything_after_one_step(kind):
    torch.manual_seed(0)
    block, x = zero_last(build(kind, bias=True, qk_norm=nn.RMSNorm)), torch.randn(2, 5, 16)
    sgd = torch.optim.SGD(block.parameters(), lr=0.5)

    def step():
        sgd.zero_grad()
        block(x, rope=rotation(torch.arange(5), 4)).sin().sum().backward()

    step()
    assert all(last.weight.grad.abs().max() > 0.01 for last in (block.attention.proj, block.mlp.down))
    assert not block.mlp.up.weight.grad.any() and not block.attention.value.weight.grad.any()
    sgd.step()
    step()
    idle = [name for name, p in block.named_parameters() if not (p.grad.isfinite().all() and p.grad.any())]
    assert not idle


def test_each_norm_is_made_anew_and_the_parts_are_taken_as_they_are():
    attention, mlp = loud(Attention(16, 4)), loud(SwiGLU(16, 24))
    before = copy.deepcopy(attention), copy.deepcopy(mlp)
    block = Block(attention, mlp, lambda: nn.RMSNorm(16))
    assert block.attention is attention and block.mlp is mlp
    assert block.attention_norm is not block.mlp_norm
    for old, new in zip(before, (attention, mlp)):
        assert all(p.equal(q) for p, q in zip(old.parameters(), new.parameters()))


# Dropout


def spread(block, x, n=400):
    "How much of what the block adds is there, on average over many drops, and how often it is none."
    torch.manual_seed(0)
    added = torch.stack([block(x) - x for _ in range(n)])
    return added.mean(0), (added == 0).float().mean().item()


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_throws_away_that_share_of_each_part_and_keeps_the_average(p):
    x = torch.zeros(2, 8, 16)
    look, nothing = Told(lambda y: torch.ones_like(y)), ToldMLP(torch.zeros_like)
    silent, think = Told(torch.zeros_like), ToldMLP(lambda y: torch.ones_like(y))
    for parts in (look, nothing), (silent, think):
        mean, none = spread(Block(*parts, lambda: nn.RMSNorm(16), dropout=p), x)
        assert abs(none - p) < 0.01 and abs(mean.mean().item() - 1) < 0.02
    mean, none = spread(Block(look, think, lambda: nn.RMSNorm(16), dropout=p), x)
    assert abs(none - p * p) < 0.01 and abs(mean.mean().item() - 2) < 0.03  # each part by itself


def test_dropout_is_for_training_alone():
    block, x = loud(build(dropout=0.5)), torch.randn(2, 5, 16)
    plain = loud(build())
    assert not block(x).equal(block(x))
    assert block.eval()(x).equal(plain(x)) and plain.train()(x).equal(plain.eval()(x))
    assert zero_last(build(dropout=0.5))(x).equal(x)  # nothing is added, and the stream itself is never dropped


# What is handed on


def test_everything_else_reaches_the_attention():
    attention, names = Told(torch.zeros_like), ("rope", "attention_mask", "cache", "head_scale", "weights_out")
    given = {name: object() for name in names}
    Block(attention, ToldMLP(torch.zeros_like), lambda: nn.RMSNorm(16))(torch.randn(1, 3, 16), **given)
    (_, arguments), signature = attention.calls[0], inspect.signature(Attention.forward)
    assert signature.bind(None, None, *arguments).arguments.items() >= given.items()
    assert list(inspect.signature(Block.forward).parameters) == list(signature.parameters)


def test_each_argument_of_attention_does_its_work():
    block, x = loud(build()), torch.randn(2, 6, 16)
    plain, weights_out = block(x), []
    torch.testing.assert_close(block(x, weights_out=weights_out), plain)
    assert weights_out[0].shape == (2, 4, 6, 6)
    changes = {
        "rope": rotation(torch.arange(6), 4),
        "attention_mask": torch.eye(6) > 0,
        "head_scale": torch.tensor([1.0, 0, 1, 1]),
    }
    assert all(not block(x, **{name: change}).allclose(plain, atol=1e-3) for name, change in changes.items())
    torch.testing.assert_close(block(x, head_scale=torch.ones(4)), plain)
    cache = KVCache(6)
    piecewise = torch.cat([block(part, cache=cache) for part in x.split([3, 1, 2], 1)], 1)
    torch.testing.assert_close(piecewise, plain, rtol=1e-4, atol=1e-4)


@given(st.integers(2, 8), st.integers(0, 7), st.integers(0, 10**6))
@settings(deadline=None, max_examples=30)
def test_no_token_knows_what_comes_later(T, t, seed):
    block, t = loud(build(), seed), t % T
    x = torch.randn(1, T, 16)
    changed = x.clone()
    changed[:, t:] = torch.randn(1, T - t, 16)
    torch.testing.assert_close(block(x)[:, :t], block(changed)[:, :t])
    assert not block(x)[:, t].allclose(block(changed)[:, t])


# Compiled, and in bfloat16


@KINDS
def test_block_compiles_whole_forward_and_backward(kind):
    torch.compiler.reset()
    block = loud(build(kind, qk_norm=nn.RMSNorm))
    compiled = torch.compile(copy.deepcopy(block), fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 6, 16)
    rope = rotation(torch.arange(6), 4)
    for module in block, compiled:
        module(x, rope).sin().sum().backward()
    torch.testing.assert_close(compiled(x, rope), block(x, rope), rtol=1e-4, atol=1e-5)
    for p, q in zip(block.parameters(), compiled.parameters()):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4)


@KINDS
def test_bfloat16_is_near(kind):
    block, x = loud(build(kind)), torch.randn(2, 6, 16)
    rough = copy.deepcopy(block).bfloat16()
    difference = rough(x.bfloat16()).float() - block(x)
    assert difference.norm() < 0.03 * (block(x) - x).norm()
    rough(x.bfloat16()).sum().backward()
    assert all(p.grad.isfinite().all() for p in rough.parameters())


def test_silu_and_gelu_are_those_of_the_papers_at_a_few_points():
    "By hand, so that no library is asked: weights of one, a single number."
    for kind, expected in ("gelu", 0.841192), ("swiglu", 0.731059):
        mlp = MLPS[kind][0](1, 1)
        for p in mlp.parameters():
            nn.init.ones_(p)
        assert mlp(torch.ones(1)).item() == pytest.approx(expected, abs=1e-5)
    assert F.gelu(torch.ones(1)).item() != pytest.approx(0.841192, abs=1e-5)  # that is the other formula


def test_the_default_widths_give_about_eight_squares_of_weights():
    for kind, (make, width) in MLPS.items():
        for n_embd in 96, 128, 384, 768:
            weights = sum(p.numel() for p in make(n_embd, width(n_embd)).parameters())
            assert 0.9 < weights / (8 * n_embd**2) <= 1, kind
    assert MLPS["gelu"][1](128) == 512 and MLPS["swiglu"][1](128) == 336 and MLPS["swiglu"][1](4) == 16


# The sweep of the chapter


def test_the_recorded_sweep_is_that_of_the_command_and_says_what_the_chapter_says():
    with open(ROOT / "data" / "block-runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    losses = {(row["model"], float(row["lr"]), int(row["seed"])): float(row["val_loss"]) for row in rows}
    without = [("depth without MLP", 0.01, seed) for seed in SEEDS]
    assert list(losses) == without + list(product(["post-norm", "pre-norm"], RATES, SEEDS))
    middle = {key: sorted(losses[*key, seed] for seed in SEEDS)[1] for key in product(["post-norm", "pre-norm"], RATES)}
    best = {norm: min(RATES, key=lambda lr: middle[norm, lr]) for norm in ("pre-norm", "post-norm")}
    assert best == {"pre-norm": 0.01, "post-norm": 0.003}
    assert all(abs(middle["pre-norm", lr] - middle["post-norm", lr]) < 0.1 for lr in RATES if lr <= 0.003)
    assert middle["pre-norm", 0.01] < middle["post-norm", 0.003] - 0.3 and middle["post-norm", 0.01] > 5
    assert max(recorded_ladder()["depth"]) < min(losses[run] for run in without)


def test_both_stacks_of_the_sweep_begin_alike():
    stacks = []
    for layer in pre_norm, post_norm:
        torch.manual_seed(0)
        stacks.append(Stack(layer, 20, n_layer=2))
    pre, post = stacks
    assert all(p.equal(q) for p, q in zip(pre.parameters(), post.parameters()))
    ids = torch.randint(20, (2, 5))
    assert not pre(ids).allclose(post(ids))
    x, (attention, mlp, norm1, norm2) = torch.randn(2, 5, 64), pre.layers[0]
    block = Block(attention, mlp, lambda norms=iter([norm1, norm2]): next(norms))
    rope = rotation(torch.arange(5), 16)
    assert pre_norm(x, attention, mlp, norm1, norm2, rope).equal(block(x, rope))
