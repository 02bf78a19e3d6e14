"""The whole model against PyTorch's own parts, closed forms, and what must hold for any shape."""

import copy
import math
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tinygpt.block import MLPS
from tinygpt.cache import KVCache
from tinygpt.engine.loss import linear_cross_entropy
from tinygpt.gpt import GPT, GPTConfig, count_flops, count_parameters
from tinygpt.io.checkpoints import load, save
from tinygpt.presets import SIZES
from tinygpt.tales import the_tokenizer

few = settings(max_examples=25, deadline=None)


@st.composite
def configs(draw):
    "Any shape that can be built, small."
    kv, group, layers = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    n_head = kv * group
    config = GPTConfig(
        vocab_size=draw(st.integers(2, 60)),
        block_size=draw(st.integers(6, 20)),
        n_layer=layers,
        n_head=n_head,
        n_kv_head=kv,
        n_embd=n_head * draw(st.sampled_from([2, 4, 8])),
        n_hidden=draw(st.one_of(st.none(), st.integers(1, 40))),
        head_dim=draw(st.one_of(st.none(), st.sampled_from([2, 6, 10]))),
        position=draw(st.sampled_from(["rope", "learned"])),
        norm=draw(st.sampled_from(["rms", "layer"])),
        mlp=draw(st.sampled_from(["swiglu", "gelu"])),
        qk_norm=draw(st.booleans()),
        bias=draw(st.booleans()),
        tied=draw(st.booleans()),
    )
    return config.resolve()


SHAPES = [
    GPTConfig.modern(70, n_layer=2, n_embd=32, n_kv_head=2),
    GPTConfig.gpt2(70, n_layer=2, n_embd=32, tied=False),
    GPTConfig(70, n_layer=2, n_embd=32, norm="layer", mlp="gelu", head_dim=12).resolve(),
]
each_shape = pytest.mark.parametrize("config", SHAPES, ids=["modern", "gpt2", "mixed"])


def build(config, seed=0, scale=0.1):
    "A model none of whose parts is idle: in a new one the blocks add nothing yet."
    torch.manual_seed(seed)
    model = GPT(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * scale)
    return model


def batch(config, length, rows=2, seed=1):
    rng = torch.Generator().manual_seed(seed)
    ids, targets = torch.randint(config.vocab_size, (2, rows, length), generator=rng)
    return ids, targets, torch.rand(rows, length, generator=rng) < 0.7


def by_hand(model, ids):
    "The forward pass again, in plain steps: no fused attention, no module called but for its weights."
    c = model.config
    B, T = ids.shape

    def norm(x, part):
        if c.norm == "rms":
            return x / (x.pow(2).mean(-1, keepdim=True) + c.norm_eps).sqrt() * part.weight
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + c.norm_eps).sqrt() * part.weight
        return x if part.bias is None else x + part.bias

    def linear(x, part):
        return x @ part.weight.T + (0 if part.bias is None else part.bias)

    def turn(x):
        pairs = torch.view_as_complex(torch.stack(x.chunk(2, -1), -1).contiguous())
        speed = c.rope_base ** (-torch.arange(0, c.head_dim, 2) / c.head_dim)
        turned = torch.view_as_real(pairs * torch.polar(torch.ones(T, 1), torch.arange(T)[:, None] * speed))
        return torch.cat([turned[..., 0], turned[..., 1]], -1)

    x = model.embed.weight[ids]
    if c.position == "learned":
        x = x + model.position_embedding.weight[:T]
    for block in model.blocks:
        at, y = block.attention, norm(x, block.attention_norm)
        q, k, v = (linear(y, p).view(B, T, -1, c.head_dim).transpose(1, 2) for p in (at.query, at.key, at.value))
        if c.qk_norm:
            q, k = norm(q, at.query_norm), norm(k, at.key_norm)
        if c.position == "rope":
            q, k = turn(q), turn(k)
        heads = []
        for h in range(c.n_head):
            shared = h // (c.n_head // c.n_kv_head)
            scores = q[:, h] @ k[:, shared].mT / c.head_dim**0.5
            scores = scores + torch.full((T, T), -torch.inf).triu(1)
            heads.append(scores.softmax(-1) @ v[:, shared])
        x = x + linear(torch.cat(heads, -1), at.proj)
        y, mlp = norm(x, block.mlp_norm), block.mlp
        if c.mlp == "swiglu":
            gate = linear(y, mlp.gate)
            hidden = gate * torch.sigmoid(gate) * linear(y, mlp.up)
        else:
            up = linear(y, mlp.up)
            hidden = up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3))) / 2
        x = x + linear(hidden, mlp.down)
    return norm(x, model.norm) @ (model.embed if c.tied else model.lm_head).weight.T


@few
@given(configs(), st.integers(1, 6))
def test_any_shape_computes_what_plain_steps_compute(config, length):
    model = build(config)
    ids, _, _ = batch(config, length)
    torch.testing.assert_close(model(ids), by_hand(model, ids), rtol=1e-4, atol=1e-4)


@few
@given(configs(), st.integers(1, 6))
def test_loss_is_the_average_surprise_and_has_its_gradient(config, length):
    model = build(config).double()
    ids, targets, mask = batch(config, length)
    mask[0, 0] = True
    wanted = F.cross_entropy(model(ids).flatten(0, 1), targets.masked_fill(~mask, -100).flatten())
    got = model.loss(ids, targets, mask)
    torch.testing.assert_close(got, wanted)
    parameters = list(model.parameters())
    given_, due = (torch.cat([g.flatten() for g in torch.autograd.grad(y, parameters)]) for y in (got, wanted))
    assert (given_ - due).norm() < 1e-9 * due.norm() + 1e-12
    plain = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model.loss(ids, targets), plain)


@few
@given(st.integers(1, 40), st.integers(1, 9), st.integers(2, 30), st.integers(1, 200), st.booleans())
def test_chunks_of_any_size_give_the_same_loss(n, width, size, n_logits, double):
    rng = torch.Generator().manual_seed(n)
    x = torch.randn(n, width, generator=rng, requires_grad=True)
    table = torch.randn(size, width, generator=rng, requires_grad=True)
    targets = torch.randint(-1, size, (n,), generator=rng)
    targets[-1] = 0
    wanted = F.cross_entropy(x @ table.T, targets, ignore_index=-1) * 3
    got = linear_cross_entropy(x, table, targets, n_logits) * 3
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    for a, b in zip(torch.autograd.grad(got, [x, table]), torch.autograd.grad(wanted, [x, table])):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(x, table, targets, n_logits) * 3, wanted)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    "How large the largest tensor is that comes up."

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_the_logits_of_all_rows_never_stand_in_memory_at_once():
    x, table = torch.randn(400, 8, requires_grad=True), torch.randn(500, 8, requires_grad=True)
    targets = torch.randint(500, (400,))
    with Largest() as largest:
        linear_cross_entropy(x, table, targets, n_logits=5000).backward()
    assert largest.numel == 5000  # ten rows of 400
    with Largest() as largest:
        F.cross_entropy(x @ table.T, targets).backward()
    assert largest.numel == 400 * 500  # the test would see them


def parameters_by_formula(c):
    "How many parameters a model has, from its resolved config alone."
    queries, keys = c.n_head * c.head_dim, c.n_kv_head * c.head_dim
    ups = 2 if c.mlp == "swiglu" else 1
    attention = 2 * c.n_embd * (queries + keys)
    mlp = (ups + 1) * c.n_embd * c.n_hidden
    biases = c.bias * (queries + 2 * keys + c.n_embd + ups * c.n_hidden + c.n_embd)
    gains = 1 + (c.norm == "layer" and c.bias)  # a gain, and perhaps a bias
    norms = gains * (2 * c.n_embd + 2 * c.qk_norm * c.head_dim)
    positions = c.block_size if c.position == "learned" else 0
    tables = c.n_embd * (c.vocab_size * (1 if c.tied else 2) + positions)
    return tables + c.n_layer * (attention + mlp + biases + norms) + gains * c.n_embd


@few
@given(configs())
def test_parameters_are_as_many_as_the_formula_says(config):
    built = sum(p.numel() for p in GPT(config).parameters())
    assert count_parameters(config) == built == parameters_by_formula(config.resolve())


@pytest.mark.parametrize(
    "name, count",
    [("gpt2-124m", 124_439_808), ("gpt2-355m", 354_823_168), ("gpt2-774m", 774_030_080), ("gpt2-1558m", 1_557_611_200)]
    + [("qwen3-0.6b", 596_049_920)],
)
def test_the_named_sizes_are_as_large_as_the_models_they_are_named_for(name, count):
    config = GPTConfig.named(name)
    assert count_parameters(config) == parameters_by_formula(config) == count


@few
@given(configs(), st.integers(1, 6))
def test_flops_are_as_many_as_the_formula_and_torch_say(config, length):
    model = GPT(config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(batch(config, length, rows=3)[0])
    assert counter.get_total_flops() == count_flops(config, length, batch_size=3)


def test_flops_of_a_step_are_three_times_those_of_the_way_forward():
    model = build(SHAPES[0])
    ids, targets, _ = batch(model.config, 12)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()).backward()
    assert counter.get_total_flops() == 3 * count_flops(model.config, 12, batch_size=2)


@each_shape
def test_the_first_loss_is_that_of_a_guess(config):
    config = replace(config, vocab_size=1000, n_embd=128, head_dim=32)
    ids, targets, _ = batch(config, 64, rows=8)
    for std, tied, most in (2.0, False, 0.2), (2.0, True, 0.5), (0.02, False, 0.1), (0.02, True, 0.1):
        torch.manual_seed(0)
        loss = GPT(replace(config, tied=tied, embedding_std=std)).loss(ids, targets).item()
        assert math.log(1000) < loss < math.log(1000) + most  # tied, a token fits itself best


@pytest.mark.parametrize("std", [0.5, 2.0, 8])
@pytest.mark.parametrize("width", [64, 128, 384, 1024])
def test_the_first_logits_are_equally_small_at_every_width(width, std):
    for shape in "modern", "gpt2":
        for tied in False, True:
            torch.manual_seed(width)
            c = GPTConfig.named(shape, vocab_size=500, n_embd=width, n_layer=1, tied=tied, embedding_std=std)
            model, ids = GPT(c), batch(c, 64)[0]
            logits, own = model(ids), ids[..., None]
            wanted = 0.5 * math.sqrt(width / (2 if shape == "gpt2" else 1))  # half of it are the positions
            if tied:
                assert logits.gather(-1, own).mean().item() == pytest.approx(wanted, rel=0.1)
                logits = logits.scatter(-1, own, torch.nan)
            assert logits[~logits.isnan()].std().item() == pytest.approx(0.5, rel=0.1)
            assert model.embed.weight.std().item() == pytest.approx(std, rel=0.05)


def test_a_gain_never_starts_above_one():
    assert GPT(GPTConfig(50, embedding_std=1e-3)).norm.weight.eq(1).all()


@each_shape
def test_it_can_learn_one_batch_by_heart(config):
    torch.manual_seed(0)
    model = GPT(config)
    ids, targets, _ = batch(config, 16)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model.loss(ids, targets)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05


@each_shape
def test_nothing_ever_looks_ahead(config):
    model = build(config)
    ids, _, _ = batch(config, 16)
    before = model(ids)
    for at in range(1, 16):
        changed = ids.clone()
        changed[:, at:] = (changed[:, at:] + 1) % config.vocab_size
        after = model(changed)
        torch.testing.assert_close(after[:, :at], before[:, :at], rtol=0, atol=1e-6)
        assert not torch.allclose(after[:, at], before[:, at])


@each_shape
def test_texts_of_one_batch_do_not_meet(config):
    model = build(config)
    ids, _, _ = batch(config, 9, rows=3)
    for row in range(3):
        torch.testing.assert_close(model(ids)[row : row + 1], model(ids[row : row + 1]), rtol=1e-4, atol=1e-5)


@each_shape
@pytest.mark.parametrize("pieces", [[16], [1] * 16, [5, 1, 7, 3]])
def test_a_text_in_pieces_gives_what_it_gives_whole(config, pieces):
    model = build(config)
    ids, _, _ = batch(config, 16)
    cache, got, at = [KVCache(16) for _ in model.blocks], [], 0
    for n in pieces:
        got.append(model(ids[:, at : at + n], positions=torch.arange(at, at + n), cache=cache))
        at += n
    torch.testing.assert_close(torch.cat(got, 1), model(ids), rtol=1e-4, atol=1e-5)


@each_shape
def test_documents_packed_in_one_row_do_not_see_each_other(config):
    model = build(config)
    ids, _, _ = batch(config, 12, rows=1)
    document = torch.tensor([0] * 5 + [1] * 7)
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None]
    packed = model(ids, positions=positions, attention_mask=(document[:, None] == document)[None, None])
    alone = torch.cat([model(ids[:, :5]), model(ids[:, 5:])], 1)
    torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-5)


@each_shape
def test_padding_on_the_left_changes_nothing(config):
    model = build(config)
    ids, _, _ = batch(config, 6, rows=1)
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.int64), ids], 1)
    positions = (torch.arange(10) - 4).clamp(min=0)[None]
    mask = (torch.arange(10) >= 4).expand(1, 1, 10, 10)
    out = model(padded, positions=positions, attention_mask=mask)
    assert out.isfinite().all()
    torch.testing.assert_close(out[:, 4:], model(ids), rtol=1e-4, atol=1e-5)


@each_shape
def test_weights_out_gets_the_weights_of_every_layer_and_changes_nothing(config):
    model, weights_out = build(config), []
    ids, _, _ = batch(config, 11)
    torch.testing.assert_close(model(ids, weights_out=weights_out), model(ids), rtol=1e-4, atol=1e-5)
    assert [w.shape for w in weights_out] == [(2, config.n_head, 11, 11)] * config.n_layer
    for weights in weights_out:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, config.n_head, 11))
        assert weights.triu(1).count_nonzero() == 0


@each_shape
def test_a_head_that_is_switched_off_is_as_if_its_part_of_the_matrix_were_zero(config):
    model = build(config)
    ids, _, _ = batch(config, 8)
    head_scale = torch.ones(config.n_layer, config.n_head)
    torch.testing.assert_close(model(ids, head_scale=head_scale), model(ids))
    head_scale[1, 2] = 0
    without = copy.deepcopy(model)
    with torch.no_grad():
        without.blocks[1].attention.proj.weight[:, 2 * config.head_dim : 3 * config.head_dim] = 0
    torch.testing.assert_close(model(ids, head_scale=head_scale), without(ids), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(ids, head_scale=head_scale), model(ids))


@each_shape
def test_checkpointing_gives_the_same_to_the_bit_with_dropout_too(config):
    model = build(replace(config, dropout=0.2))
    ids, targets, mask = batch(config, 12)
    grads = []
    for checkpointing in False, True:
        torch.manual_seed(5)
        loss = model.loss(ids, targets, mask, checkpointing=checkpointing)
        grads.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*grads))


def test_checkpointing_keeps_less_for_the_way_back():
    model = build(SHAPES[0])
    ids, targets, _ = batch(model.config, 64, rows=4)
    kept = {False: [], True: []}
    for checkpointing, sizes in kept.items():

        def keep(tensor, sizes=sizes):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.loss(ids, targets, checkpointing=checkpointing)
    assert sum(kept[True]) < sum(kept[False]) / 3


@each_shape
def test_dropout_works_while_learning_only(config):
    model = build(replace(config, dropout=0.3))
    ids, _, _ = batch(config, 8)
    assert not torch.equal(model(ids), model(ids))
    model.eval()
    torch.testing.assert_close(model(ids), build(config)(ids))


@each_shape
def test_dropout_of_attention_applies_although_the_weights_are_wanted(config):
    "Dropout of what the halves of a block add is switched off here, so that attention's alone is left."
    model = build(replace(config, dropout=0.5))
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    ids, _, _ = batch(config, 8)
    weights, again = [], []
    first, second = model(ids, weights_out=weights), model(ids, weights_out=again)
    assert not torch.allclose(first, second), "attention weights are dropped while training"
    assert weights[0].equal(again[0]), "the weights are shown before dropout"
    model.eval()
    torch.testing.assert_close(model(ids, weights_out=weights), model(ids, weights_out=again))


LENGTHS = 5, 7, 33, 1, 64  # the first compiled for this very length, later ones for any


@pytest.fixture
def breaks():
    "Graph breaks since the test began."
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    return torch._dynamo.utils.counters["graph_break"]


@pytest.mark.parametrize("shape, n_kv_head", [("modern", 4), ("modern", 2), ("gpt2", 4), ("gpt2", 1)])
def test_one_compiled_model_serves_varying_lengths(shape, n_kv_head, breaks):
    config = GPTConfig.named(shape, vocab_size=50, n_layer=1, n_embd=32, n_kv_head=n_kv_head, block_size=64)
    model = build(config).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for length in LENGTHS:
        ids, _, mask = batch(model.config, length)
        mask[:, 0] = True
        torch.testing.assert_close(compiled(ids), model(ids), rtol=1e-4, atol=1e-5)
        mask = mask[:, None, None]  # (B, 1, 1, T): as for padding
        given, due = compiled(ids, attention_mask=mask), model(ids, attention_mask=mask)
        torch.testing.assert_close(given, due, rtol=1e-4, atol=1e-5)
    assert not breaks


@pytest.mark.parametrize("shape", ["modern", "gpt2"])
def test_one_compiled_loss_serves_varying_lengths(shape, breaks):
    model = build(GPTConfig.named(shape, vocab_size=50, n_layer=1, n_embd=32, n_kv_head=2, block_size=64))
    compiled = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
    for length in LENGTHS:
        ids, targets, mask = batch(model.config, length)
        mask[0, 0] = True
        got, due = compiled(ids, targets, mask), model.loss(ids, targets, mask)
        torch.testing.assert_close(got, due)
        for a, b in zip(*(torch.autograd.grad(loss, list(model.parameters())) for loss in (got, due))):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert not breaks


@each_shape
def test_under_compile_forward_and_backward_are_the_same(config):
    model = build(config)
    ids, targets, mask = batch(config, 12)
    torch._dynamo.reset()
    compiled = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
    got, wanted = compiled(ids, targets, mask), model.loss(ids, targets, mask)
    torch.testing.assert_close(got, wanted)
    parameters = list(model.parameters())
    for a, b in zip(torch.autograd.grad(got, parameters), torch.autograd.grad(wanted, parameters)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(ids), model(ids))


@each_shape
@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_in_sixteen_bits_it_says_nearly_the_same(config):
    model = build(config, scale=0.02)
    ids, targets, mask = batch(config, 16, rows=4)
    exact = model.loss(ids, targets, mask)
    wanted = torch.autograd.grad(exact, list(model.parameters()))

    def check(loss, grads):
        assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), abs=0.02)
        size = torch.stack([g.norm() for g in wanted]).norm()
        off = torch.stack([(a.float() - b).norm() for a, b in zip(grads, wanted)]).norm()
        assert off < 0.05 * size

    short = copy.deepcopy(model).bfloat16()
    assert short(ids).dtype == torch.bfloat16
    loss = short.loss(ids, targets, mask)
    check(loss, torch.autograd.grad(loss, list(short.parameters())))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(ids, targets, mask)
    check(loss, torch.autograd.grad(loss, list(model.parameters())))


def test_the_tied_head_is_the_embedding():
    tied, untied = GPT(GPTConfig(50)), GPT(GPTConfig(50, tied=False))
    assert tied.unembedding is tied.embed.weight and untied.unembedding is not untied.embed.weight
    assert count_parameters(untied.config) - count_parameters(tied.config) == 50 * 128


def test_presets_are_what_the_contract_says():
    modern = GPTConfig.modern(vocab_size=1024, n_layer=4, n_head=4, n_embd=128, block_size=256)
    assert (modern.position, modern.norm, modern.mlp, modern.qk_norm, modern.bias) == (
        "rope",
        "rms",
        "swiglu",
        True,
        False,
    )
    gpt2 = GPTConfig.gpt2(vocab_size=1024)
    assert (gpt2.position, gpt2.norm, gpt2.mlp, gpt2.qk_norm, gpt2.bias) == ("learned", "layer", "gelu", False, True)
    assert gpt2.n_hidden == 4 * 128 and modern.n_kv_head == 4 and modern.head_dim == 32
    assert 0.9 < 3 * modern.n_hidden / (2 * gpt2.n_hidden) <= 1  # the gated network costs no more
    pico = GPTConfig.named("pico", block_size=512)
    assert (pico.n_layer, pico.n_head, pico.n_embd, pico.vocab_size, pico.block_size) == (8, 8, 512, 50257, 512)
    assert GPTConfig.named("modern", vocab_size=7) == GPTConfig.modern(7) == GPTConfig(7).resolve()
    for name, numbers in SIZES.items():
        shape, config = numbers["shape"], GPTConfig.named(name)
        assert asdict(config).items() >= {key: value for key, value in numbers.items() if key != "shape"}.items()
        assert config == getattr(GPTConfig, shape)(**asdict(config)), f"{name} is of the shape {shape}"


def test_numbers_of_numpy_become_plain_ones(tmp_path):
    sizes = dict(block_size=8, n_layer=1, n_head=2, n_kv_head=1, n_embd=8, n_hidden=12, head_dim=4)
    config = GPTConfig.modern(np.int64(2048), **{name: np.int32(size) for name, size in sizes.items()})
    assert config == GPTConfig.modern(2048, **sizes)
    loose = GPTConfig(np.int64(300), n_head=np.int64(2), n_embd=np.int64(8))
    for shape in config, loose.resolve(), GPT(loose).config:
        assert all(type(getattr(shape, name)) is int for name in (*sizes, "vocab_size"))
    save(tmp_path / "model", GPT(config), the_tokenizer())
    assert load(tmp_path / "model")[0].config == config
    with pytest.raises(ValueError, match="n_embd=np.float64"):
        GPTConfig(300, n_embd=np.float64(8))


def test_a_config_is_resolved_by_the_constructors_and_by_the_model():
    loose = GPTConfig(50, n_embd=64)
    assert (loose.n_kv_head, loose.head_dim, loose.n_hidden) == (None, None, None)
    assert loose.resolve() == GPT(loose).config == GPTConfig.modern(50, n_embd=64) != loose
    assert loose.resolve().resolve() == loose.resolve()
    wider = replace(loose, n_embd=128)  # what follows from other sizes still does
    assert wider.resolve().head_dim == 32 and wider.resolve().n_hidden == 336


class SquaredReLU(nn.Module):
    "A kind of MLP that the package does not have."

    def __init__(self, n_embd, n_hidden, bias=False):
        super().__init__()
        self.up, self.down = nn.Linear(n_embd, n_hidden, bias), nn.Linear(n_hidden, n_embd, bias)

    def forward(self, x):
        return self.down(F.relu(self.up(x)).square())


@pytest.mark.parametrize("shape", ["modern", "gpt2"])
def test_a_third_mlp_is_one_entry_of_a_table(shape, monkeypatch):
    with pytest.raises(ValueError, match="mlp='relu2' should be 'swiglu' or 'gelu'"):
        GPTConfig.named(shape, vocab_size=50, mlp="relu2")
    monkeypatch.setitem(MLPS, "relu2", (SquaredReLU, lambda n_embd: 5 * n_embd))
    config = GPTConfig.named(shape, vocab_size=50, mlp="relu2", n_layer=2, n_embd=32, block_size=16)
    assert config.n_hidden == 160
    new, model = GPT(config), build(config)
    assert all(isinstance(block.mlp, SquaredReLU) and not block.mlp.down.weight.any() for block in new.blocks)
    assert count_parameters(config) == parameters_by_formula(config) == sum(p.numel() for p in model.parameters())
    ids, targets, mask = batch(config, 12)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        assert model(ids).shape == (2, 12, 50)
    assert counter.get_total_flops() == count_flops(config, 12, batch_size=2)
    model.loss(ids, targets, mask).backward()
    assert all(p.grad.any() for p in model.blocks[0].mlp.parameters())


def test_a_config_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        GPTConfig(50).n_layer = 5


REFUSED = [
    ({"n_head": 3}, ["n_embd=128", "n_head=3", "multiple of 3", "head_dim"]),
    ({"n_kv_head": 3}, ["n_head=4", "n_kv_head=3", "divisor of 4"]),
    ({"n_head": 8, "n_kv_head": 16}, ["n_head=8", "n_kv_head=16"]),
    ({"n_embd": 12}, ["head_dim=3", "n_embd=12", "n_head=4", "odd", "learned"]),
    ({"head_dim": 7}, ["head_dim=7 is odd", "learned"]),
    ({"n_layer": 0}, ["n_layer=0"]),
    ({"n_layer": True}, ["n_layer=True"]),
    ({"n_head": 0}, ["n_head=0"]),
    ({"n_kv_head": 0}, ["n_kv_head=0"]),
    ({"n_hidden": -1}, ["n_hidden=-1"]),
    ({"vocab_size": 0}, ["vocab_size=0"]),
    ({"block_size": 2.5}, ["block_size=2.5"]),
    ({"n_embd": "128"}, ["n_embd='128'"]),
    ({"dropout": 1}, ["dropout=1", "below 1"]),
    ({"dropout": -0.1}, ["dropout=-0.1"]),
    ({"dropout": math.nan}, ["dropout=nan"]),
    ({"dropout": True}, ["dropout=True"]),
    ({"norm": "batch"}, ["norm='batch'", "'rms'", "'layer'"]),
    ({"position": None}, ["position=None", "'rope'", "'learned'"]),
    ({"mlp": "relu"}, ["mlp='relu'", "'swiglu'", "'gelu'"]),
    ({"bias": 1}, ["bias=1", "True", "False"]),
    ({"tied": "no"}, ["tied='no'"]),
    ({"rope_base": 0}, ["rope_base=0"]),
    ({"norm_eps": -1e-6}, ["norm_eps=-1e-06"]),
    ({"norm_eps": "1e-6"}, ["norm_eps='1e-6'", "0 or more and below 1"]),
    ({"embedding_std": 0}, ["embedding_std=0", "above 0"]),
    ({"embedding_std": -2.0}, ["embedding_std=-2.0", "above 0"]),
    ({"embedding_std": math.inf}, ["embedding_std=inf"]),
    ({"embedding_std": None}, ["embedding_std=None"]),
]


@pytest.mark.parametrize("wrong, words", REFUSED, ids=lambda case: str(case)[:40])
def test_impossible_shapes_are_refused_with_their_numbers(wrong, words):
    with pytest.raises(ValueError) as error:
        GPTConfig(**{"vocab_size": 50} | wrong)
    assert all(word in str(error.value) for word in words), error.value


def test_an_unknown_name_names_those_there_are():
    with pytest.raises(ValueError, match="'gpt3'.*modern.*pico.*gpt2-124m"):
        GPTConfig.named("gpt3")


def learned():
    "A small model whose positions are learned."
    return GPT(GPTConfig.gpt2(50, block_size=16, n_layer=1))


IDS = torch.zeros(2, 5, dtype=torch.int64)
BAD = [
    (lambda m: m(IDS[0]), ["(5,)", "(B, T)", "ids[None]"]),
    (lambda m: m(IDS[:, :0]), ["(2, 0)"]),
    (lambda m: m(IDS.float()), ["float32", "int64"]),
    (lambda m: m(IDS.bool()), ["bool", "int64"]),
    (lambda m: m(IDS + 50), ["50", "49", "tokenizer"]),
    (lambda m: m(IDS - 1), ["-1", "49"]),
    (lambda m: m(IDS.expand(2, 5).repeat(1, 4)), ["20 tokens", "block_size=16"]),
    (lambda m: m(IDS.tolist()), ["torch.Tensor", "list"]),
    (lambda m: m(IDS, cache=[None]), ["positions are required with a cache"]),
    (lambda m: m(IDS, positions=torch.tensor([5])), ["(1,)", "(5,) or (2, 5)"]),
    (lambda m: m(IDS, positions=torch.arange(5)[:, None]), ["(5, 1)", "(2, 5)"]),
    (lambda m: m(IDS, positions=torch.arange(5.0)), ["float32", "whole"]),
    (lambda m: m(IDS, attention_mask=torch.ones(2, 5).bool()), ["(2, 5)", "(B, 1, T, S)"]),
    (lambda m: m(IDS, attention_mask=torch.ones(2, 1, 5, 5)), ["float32", "torch.bool"]),
    (lambda m: m(IDS, head_scale=torch.ones(2, 4)), ["head_scale", "(2, 4)", "(1, 4)"]),
    (lambda m: m.hidden(IDS, weights_out=[], checkpointing=True), ["checkpointing", "weights_out"]),
    (lambda m: learned()(IDS, positions=torch.arange(12, 17)), ["12", "16", "block_size=16"]),
    (lambda m: learned()(IDS, positions=torch.arange(-1, 4)), ["-1", "block_size=16"]),
    (lambda m: linear_cross_entropy(torch.ones(3, 4), torch.ones(5, 4), IDS[0, :1]), ["3 rows", "(1,)"]),
    (lambda m: m.loss(IDS, IDS[:, 1:]), ["targets", "(2, 4)", "(2, 5)"]),
    (lambda m: m.loss(IDS, IDS, IDS[:1].bool()), ["mask", "(1, 5)", "(2, 5)"]),
    (lambda m: m.loss(IDS, IDS, IDS), ["mask", "int64", "bool"]),
    (lambda m: m.loss(IDS, IDS + 50), ["targets", "50", "49"]),
    (lambda m: m.loss(IDS, IDS.float()), ["targets", "float32"]),
]


@pytest.mark.parametrize("use, words", BAD)
def test_bad_input_is_refused_in_a_sentence(use, words):
    with pytest.raises(ValueError) as error:
        use(GPT(GPTConfig(50, block_size=16, n_layer=1)))
    assert all(word in str(error.value) for word in words), error.value


def test_masked_targets_may_be_anything():
    model = build(GPTConfig(50, n_layer=1))
    targets, mask = IDS.clone(), torch.ones_like(IDS, dtype=torch.bool)
    targets[:, -1], mask[:, -1] = -100, False
    torch.testing.assert_close(model.loss(IDS, targets, mask), model.loss(IDS, IDS, mask))


def test_where_no_target_counts_nothing_is_lost_and_nothing_learned():
    model = build(GPTConfig(50, n_layer=1))
    loss = model.loss(IDS, IDS, torch.zeros_like(IDS, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0 and all(p.grad.eq(0).all() for p in model.parameters())


def test_the_loss_says_that_it_has_no_second_derivative():
    x, table = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    loss = linear_cross_entropy(x, table, IDS[0, :3])
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_in_float64_its_gradient_is_exact():
    x, table = torch.randn(7, 4).double().requires_grad_(), torch.randn(5, 4).double().requires_grad_()
    targets = torch.tensor([0, 3, -1, 4, 4, -1, 2])
    assert torch.autograd.gradcheck(lambda a, b: linear_cross_entropy(a, b, targets, 10), (x, table))


@pytest.mark.parametrize("scale", [1, 65536])
def test_in_float16_small_gradients_do_not_vanish(scale):
    rng = torch.Generator().manual_seed(0)
    x, table = torch.randn(512, 16, generator=rng), torch.randn(20000, 16, generator=rng)
    targets = torch.randint(20000, (512,), generator=rng)
    x, table = x.half().requires_grad_(), (table * 0.1).half().requires_grad_()
    got = torch.autograd.grad(linear_cross_entropy(x, table, targets) * scale, (x, table))
    wide = [part.detach().float().requires_grad_() for part in (x, table)]
    due = torch.autograd.grad(F.cross_entropy(wide[0] @ wide[1].T, targets) * scale, wide)
    for a, b in zip(got, due):
        assert (a.float() - b).norm() < (0.2 if scale == 1 else 2e-3) * b.norm()


def test_a_length_left_open_can_be_exported():
    model = build(GPTConfig(50, n_layer=1)).eval()
    length = torch.export.Dim("length", min=2, max=200)
    program = torch.export.export(model, (IDS,), dynamic_shapes={"ids": {1: length}})
    longer = IDS.repeat(1, 3)
    torch.testing.assert_close(program.module()(longer), model(longer))


def test_ids_of_32_bits_do():
    model = build(GPTConfig(50, n_layer=1))
    torch.testing.assert_close(model(IDS.int()), model(IDS))
    torch.testing.assert_close(model.loss(IDS.int(), IDS.int()), model.loss(IDS, IDS))


def test_names_of_parts_are_the_contract():
    names = [name for name, _ in GPT(GPTConfig(50, n_layer=1)).named_parameters()]
    assert names == [
        "embed.weight",
        "blocks.0.attention_norm.weight",
        *(f"blocks.0.attention.{part}.weight" for part in ("query", "key", "value", "proj", "query_norm", "key_norm")),
        "blocks.0.mlp_norm.weight",
        *(f"blocks.0.mlp.{part}.weight" for part in ("up", "gate", "down")),
        "norm.weight",
    ]
    assert isinstance(GPT(GPTConfig(50, tied=False)).lm_head, nn.Linear)
