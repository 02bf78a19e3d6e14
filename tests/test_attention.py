"""Chapter 05: attention is what PyTorch and transformers say, nothing leaks, and the maps show what they are given."""

import math

import matplotlib.pyplot
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tinygpt.attention import Attention, attention_weights, causal_mask, repeat_kv
from tinygpt.cache import KVCache
from tinygpt.show.attention import attention_map, by_word

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    "Leave no figure behind."
    yield
    matplotlib.pyplot.close("all")


@st.composite
def looks(draw, masks=("none", "keys", "square", "own")):
    "Queries, keys and values of any shape, perhaps more keys than queries, and perhaps a mask."
    B, H_kv, group, T, D = (draw(st.integers(1, n)) for n in (3, 3, 3, 6, 9))
    S, seed, kind = T + draw(st.sampled_from([0, 0, 1, 3])), draw(st.integers(0, 10**6)), draw(st.sampled_from(masks))
    torch.manual_seed(seed)
    query, key, value = torch.randn(B, H_kv * group, T, D), torch.randn(B, H_kv, S, D), torch.randn(B, H_kv, S, D)
    shape = {"none": None, "keys": (B, 1, 1, S), "square": (T, S), "own": (B, 1, T, S)}[kind]
    return query, key, value, None if shape is None else torch.rand(shape) < 0.6


def by_hand(query, key, value, mask):
    "Weights and output by loops over single numbers' formulas."
    B, H, T, D = query.shape
    S, group = key.shape[2], H // key.shape[1]
    weights, out = torch.zeros(B, H, T, S), torch.zeros(B, H, T, value.shape[3])
    allowed = torch.ones(B, 1, T, S, dtype=torch.bool) if mask is None else mask.expand(B, 1, T, S)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                places = [s for s in range(S) if s <= t + S - T and allowed[b, 0, t, s]]
                scores = [math.exp(query[b, h, t].dot(key[b, h // group, s]).item() / math.sqrt(D)) for s in places]
                for s, score in zip(places, scores):
                    weights[b, h, t, s] = score / sum(scores)
                    out[b, h, t] += score / sum(scores) * value[b, h // group, s]
    return weights, out


def close(a, b, tolerance=1e-5):
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def attend(query, key, value, attention_mask=None, weights_out=None):
    """What the heads of an Attention return, (B, H, T, D), for these queries, keys and values.

    Its matrices only pick them out of x; keys and values before those of the T queries come from its cache.
    """
    (B, H, T, D), (H_kv, S) = query.shape, key.shape[1:3]
    new = [query, key[:, :, S - T :], value[:, :, S - T :]]
    x = torch.cat([part.transpose(1, 2).flatten(2) for part in new], -1)
    module, pick = Attention(x.shape[-1], H, H_kv, D), torch.eye(x.shape[-1])
    for matrix, rows in zip((module.query, module.key, module.value), pick.split([H * D, H_kv * D, H_kv * D])):
        matrix.weight.data = rows
    module.proj.weight.data = pick[:, : H * D]
    cache = KVCache(S) if S > T else None
    if cache is not None:
        cache.update(key[:, :, : S - T], value[:, :, : S - T])
    out = module(x, attention_mask=attention_mask, cache=cache, weights_out=weights_out)
    return out[..., : H * D].view(B, T, H, D).transpose(1, 2)


# Weights and what they see


def test_causal_mask_by_hand():
    assert causal_mask(2, 4).tolist() == [[True, True, True, False], [True, True, True, True]]
    assert causal_mask(3, 3, torch.tensor([False, True, True])).int().tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert causal_mask(3, 3, torch.ones(3, 3, dtype=torch.bool)).equal(causal_mask(3, 3))


@given(looks())
@settings(deadline=None)
def test_weights_and_outputs_are_those_of_the_formula(given_look):
    query, key, value, mask = given_look
    weights, out = by_hand(query, key, value, mask)
    assert close(attention_weights(query, key, mask), weights)
    assert close(attend(query, key, value, mask), out)


@given(looks())
@settings(deadline=None)
def test_rows_sum_to_one_or_to_nothing_and_the_future_gets_exactly_nothing(given_look):
    query, key, _, mask = given_look
    weights, allowed = attention_weights(100 * query, key, mask), causal_mask(query.shape[2], key.shape[2], mask)
    allowed = allowed.expand(weights.shape)
    assert (weights[~allowed] == 0).all() and (weights >= 0).all()
    assert close(weights.sum(-1), allowed.any(-1).float())


@given(looks())
@settings(deadline=None)
def test_pytorch_agrees(given_look):
    query, key, value, mask = given_look
    group, (T, S) = query.shape[1] // key.shape[1], (query.shape[2], key.shape[2])
    allowed = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    if mask is not None:
        allowed = (allowed & mask).expand(len(query), 1, T, S)
    repeated = [y.repeat_interleave(group, 1) for y in (key, value)]
    expected = F.scaled_dot_product_attention(query, *repeated, allowed)
    assert close(attend(query, key, value, mask), expected)


@given(looks())
@settings(deadline=None)
def test_both_ways_give_the_same_output_and_gradients_and_the_weights_belong_to_it(given_look):
    *inputs, mask = given_look
    pull, found = torch.randn(inputs[0].shape), []
    for weights_out in None, []:
        inputs = [y.detach().requires_grad_() for y in inputs]
        out = attend(*inputs, mask, weights_out)
        found.append([out, *torch.autograd.grad((out * pull).sum(), inputs)])
    assert all(close(a, b) and a.isfinite().all() for a, b in zip(*found))
    assert len(weights_out) == 1 and close(weights_out[0], attention_weights(*inputs[:2], mask))


@pytest.mark.parametrize("weights_out", [None, []])
def test_a_fully_masked_row_is_zero_and_so_are_its_gradients(weights_out):
    query, key, value = (torch.randn(2, 2, 5, 4, requires_grad=True) for _ in range(3))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[0, :, 3], mask[1, ..., :2] = False, False
    out = attend(query, key, value, mask, weights_out)
    assert (out[0, :, 3] == 0).all() and (out[1, :, :2] == 0).all() and (out[0, :, 4] != 0).all()
    out.square().sum().backward()
    assert all(y.grad.isfinite().all() for y in (query, key, value))
    assert (query.grad[0, :, 3] == 0).all() and (query.grad[0, :, 4] != 0).any()
    assert (key.grad[1, :, :2] == 0).all() and (value.grad[1, :, :2] == 0).all()


def test_one_query_sees_all_keys():
    query, key, value = torch.randn(1, 2, 1, 4), torch.randn(1, 2, 7, 4), torch.randn(1, 2, 7, 4)
    assert close(attend(query, key, value), F.scaled_dot_product_attention(query, key, value))
    assert (attention_weights(query, key) > 0).all()


def test_neighbouring_heads_share_keys():
    key = torch.arange(2.0).view(1, 2, 1, 1)
    assert repeat_kv(key, 6).flatten().tolist() == [0, 0, 0, 1, 1, 1]
    assert repeat_kv(key, 2).equal(key)


@given(looks(masks=("none", "own")), st.integers(0, 5))
@settings(deadline=None)
def test_no_gradient_comes_from_the_future_or_from_behind_the_mask(given_look, t):
    query, key, value, mask = given_look
    T, S = query.shape[2], key.shape[2]
    t %= T
    for weights_out in None, []:
        key, value = key.detach().requires_grad_(), value.detach().requires_grad_()
        attend(query, key, value, mask, weights_out)[:, :, t].square().sum().backward()
        hidden = ~causal_mask(T, S, mask).expand(len(query), 1, T, S)[:, 0, t]  # (B, S)
        for y in key, value:
            assert (y.grad.transpose(1, 2)[hidden] == 0).all()


# The module


def made(n_embd=12, n_head=3, **options):
    torch.manual_seed(0)
    return Attention(n_embd, n_head, **options)


@given(st.integers(1, 3), st.integers(1, 8), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 9999))
@settings(deadline=None)
def test_the_module_is_pytorchs_with_the_same_weights(B, T, n_head, size, bias, seed):
    C = n_head * size
    torch.manual_seed(seed)
    ours, theirs = Attention(C, n_head, bias=bias), nn.MultiheadAttention(C, n_head, bias=bias, batch_first=True)
    parts, x = (ours.query, ours.key, ours.value), torch.randn(B, T, C)
    theirs.in_proj_weight.data = torch.cat([part.weight for part in parts])
    theirs.out_proj.weight.data = ours.proj.weight
    if bias:
        theirs.in_proj_bias.data = torch.cat([part.bias for part in parts])
        theirs.out_proj.bias.data = ours.proj.bias
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    expected, weights = theirs(x, x, x, attn_mask=future, average_attn_weights=False)
    assert close(ours(x), expected)
    assert close(ours(x, weights_out=(found := [])), expected) and close(found[0], weights)


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_the_module_is_that_of_qwen3_with_the_same_weights(n_kv_head):
    from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3Config

    config = Qwen3Config(
        hidden_size=24, num_attention_heads=4, num_key_value_heads=n_kv_head, head_dim=10, attn_implementation="eager"
    )
    theirs = Qwen3Attention(config, layer_idx=0).eval()
    ours = made(24, 4, n_kv_head=n_kv_head, head_dim=10, qk_norm=lambda size: nn.RMSNorm(size, config.rms_norm_eps))
    pairs = {"q_proj": ours.query, "k_proj": ours.key, "v_proj": ours.value, "o_proj": ours.proj}
    for name, part in (pairs | {"q_norm": ours.query_norm, "k_norm": ours.key_norm}).items():
        part.weight.data = torch.randn_like(part.weight)
        getattr(theirs, name).weight.data = part.weight.data
    x, angles = torch.randn(2, 7, 24), torch.rand(1, 7, 5).repeat(1, 1, 2)
    mask = torch.full((7, 7), -torch.inf).triu(1)[None, None]
    expected, weights = theirs(x, (angles.cos(), angles.sin()), mask)

    def rope(y):
        left, right = y.chunk(2, -1)
        return y * angles.cos() + torch.cat([-right, left], -1) * angles.sin()

    assert close(ours(x, rope), expected, 1e-4)
    assert close(ours(x, rope, weights_out=(found := [])), expected, 1e-4) and close(found[0], weights)


def test_shapes_of_the_parameters():
    shapes = {name: tuple(p.shape) for name, p in made(16, 4, n_kv_head=2, head_dim=6, bias=True).named_parameters()}
    parts = [("query", 24, 16), ("key", 12, 16), ("value", 12, 16), ("proj", 16, 24)]
    expected = {f"{name}.weight": (rows, columns) for name, rows, columns in parts}
    assert shapes == expected | {f"{name}.bias": (rows,) for name, rows, _ in parts}
    assert len(list(made().parameters())) == 4 and made().query.weight.shape == (12, 12)


@given(st.integers(1, 9), st.integers(0, 8), st.integers(0, 9999), st.booleans())
@settings(deadline=None)
def test_a_changed_token_changes_nothing_before_it(T, place, seed, masked):
    place %= T
    attention = made(n_kv_head=1)
    torch.manual_seed(seed)
    x, mask = torch.randn(2, T, 12), (torch.rand(T, T) < 0.7) | torch.eye(T, dtype=torch.bool) if masked else None
    other = x.clone()
    other[:, place] += 100 * torch.randn(12)
    for options in {}, {"weights_out": []}:
        before, after = (attention(text, attention_mask=mask, **options) for text in (x, other))
        change = (after - before).abs().amax((0, 2))
        assert (change[:place] < 1e-6).all() and change[place] > 1e-3


def test_no_gradient_comes_from_a_later_token():
    attention, x = made(), torch.randn(1, 6, 12, requires_grad=True)
    for t in range(6):
        (gradient,) = torch.autograd.grad(attention(x)[0, t].square().sum(), x)
        assert (gradient[0, t + 1 :] == 0).all() and (gradient[0, : t + 1].abs().amax(1) > 0).all()


def test_texts_of_a_batch_know_nothing_of_each_other():
    attention, x = made(n_kv_head=1), torch.randn(3, 5, 12)
    assert close(attention(x), torch.cat([attention(text[None]) for text in x]))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.booleans(), st.booleans())
@settings(deadline=None)
def test_a_text_in_pieces_is_the_text_as_a_whole(sizes, look, masked):
    attention, T = made(n_head=4, n_kv_head=2), sum(sizes)
    x, cache, out, start = torch.randn(2, T, 12), KVCache(T), [], 0
    mask = torch.rand(T) < 0.7 if masked else None
    for size in sizes:
        end = start + size
        part = None if mask is None else mask[:end]
        out.append(attention(x[:, start:end], attention_mask=part, cache=cache, weights_out=[] if look else None))
        assert cache.length == end and cache.key.shape == cache.value.shape == (2, 2, T, 3)
        start = end
    assert close(torch.cat(out, 1), attention(x, attention_mask=mask))


@pytest.mark.parametrize("head", range(3))
def test_a_head_switched_off_is_a_head_without_its_part_of_proj(head):
    attention, x = made(), torch.randn(2, 5, 12)
    keep = torch.arange(3) != head
    off, gone = attention(x, head_scale=keep.float()), made()
    gone.proj.weight.data[:, 4 * head : 4 * head + 4] = 0
    assert close(off, gone(x)) and not close(off, attention(x))
    parts = sum(attention(x, head_scale=one) for one in torch.eye(3))
    assert close(parts, attention(x)) and close(attention(x, head_scale=torch.ones(3)), attention(x))
    for weights_out in None, []:
        strength = torch.ones(3, requires_grad=True)
        attention(x, head_scale=strength, weights_out=weights_out).square().sum().backward()
        assert (strength.grad != 0).all()


def test_rope_gets_queries_and_keys_after_the_norms_and_the_cache_gets_rotated_keys():
    attention, x, got, cache = made(n_head=4, n_kv_head=2, qk_norm=nn.RMSNorm), torch.randn(2, 5, 12), [], KVCache(5)

    def rope(y):
        got.append(y)
        return 3 * y

    attention(x, rope, cache=cache)
    query, key, value = (
        make(x).view(2, 5, -1, 3).transpose(1, 2) for make in (attention.query, attention.key, attention.value)
    )
    assert len(got) == 2 and close(got[0], F.rms_norm(query, (3,))) and close(got[1], F.rms_norm(key, (3,)))
    assert close(cache.key, 3 * F.rms_norm(key, (3,))) and cache.value.equal(value)
    expected = attend(3 * got[0], 3 * got[1], value).transpose(1, 2).flatten(2)
    assert close(attention(x, rope), attention.proj(expected))


def test_each_norm_is_applied_to_its_own():
    attention, x = made(qk_norm=nn.RMSNorm), torch.randn(2, 5, 12)
    assert attention.query_norm.weight.shape == (4,) and attention.query_norm is not attention.key_norm
    before = attention(x)
    attention.query_norm.weight.data *= 2
    assert not close(attention(x), before)
    attention.key_norm.weight.data /= 2
    assert close(attention(x), before)  # what one makes longer, the other makes shorter
    attention.query.weight.data *= 7
    assert close(attention(x), before)  # and the norm takes away any length


@pytest.mark.parametrize("wanted", [False, True])
def test_dropout_is_for_training_alone_whether_or_not_the_weights_are_wanted(wanted):
    attention, plain, x = made(dropout=0.5), made(), torch.randn(2, 8, 12)

    def run(module):
        return module(x, weights_out=[] if wanted else None)

    attention.eval()
    assert run(attention).equal(run(attention)) and close(run(attention), plain(x))
    attention.train()
    assert not close(run(attention), run(attention)) and not close(run(attention), plain(x))
    average = torch.stack([run(attention) for _ in range(4000)]).mean(0)
    assert (average - plain(x)).abs().max() < 0.06


@pytest.mark.parametrize("train", [False, True])
def test_weights_out_gets_the_weights_before_dropout(train):
    x, weights_out, expected = torch.randn(2, 8, 12), [], []
    made(dropout=0.5).train(train)(x, weights_out=weights_out)
    made()(x, weights_out=expected)
    assert len(weights_out) == 1 and weights_out[0].equal(expected[0])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("wanted", [False, True])
def test_it_compiles_as_one_graph_forward_and_backward(masked, wanted):
    attention, x = made(n_head=4, n_kv_head=2, qk_norm=nn.RMSNorm), torch.randn(2, 6, 12)
    mask = (torch.arange(6) < torch.tensor([[6], [4]]))[:, None, None] if masked else None
    head_scale = torch.tensor([1.0, 0.5, 0.0, 1.0])
    found = []
    for run in attention, torch.compile(attention, fullgraph=True, backend="aot_eager"):
        attention.zero_grad()
        weights_out = [] if wanted else None
        out = run(x, lambda y: 1.5 * y, attention_mask=mask, head_scale=head_scale, weights_out=weights_out)
        out.square().sum().backward()
        found.append([out, *(p.grad for p in attention.parameters())])
    assert all(close(a, b) for a, b in zip(*found))


@pytest.mark.parametrize("masked", [False, True])
def test_it_compiles_for_varying_lengths_without_a_graph_break(masked):
    torch.compiler.reset()
    attention, graphs = made(n_head=4, n_kv_head=2), []

    def eager(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(attention, fullgraph=True, backend=eager)
    for T in 5, 9, 4, 17, 12, 2, 1:
        x, mask = torch.randn(2, T, 12), torch.rand(2, 1, 1, T) < 0.7 if masked else None
        assert close(compiled(x, attention_mask=mask), attention(x, attention_mask=mask))
    assert len(graphs) <= 3  # for the first length, for any, and for a single token


@pytest.mark.parametrize("weights_out", [None, []])
def test_bfloat16_is_close_and_stays_bfloat16(weights_out):
    attention, x = made(n_head=4, n_kv_head=2), torch.randn(2, 9, 12)
    exact = attention(x)
    rough = attention.bfloat16()(x.bfloat16(), weights_out=weights_out)
    assert rough.dtype == torch.bfloat16 and (rough.float() - exact).abs().max() < 0.03 * exact.abs().max()
    assert weights_out is None or weights_out[0].dtype == torch.bfloat16


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="n_head=6 is not a multiple of n_kv_head=4"):
        Attention(12, 6, n_kv_head=4)
    with pytest.raises(ValueError, match="n_head=2 is not a multiple of n_kv_head=4"):
        Attention(12, 2, n_kv_head=4)
    with pytest.raises(ValueError, match="n_embd=13 .* n_head=4"):
        Attention(13, 4)
    with pytest.raises(RuntimeError):
        made()(torch.randn(2, 5, 11))
    with pytest.raises(ValueError):
        made()(torch.randn(2, 5))
    with pytest.raises(RuntimeError):
        made()(torch.randn(2, 5, 12), attention_mask=torch.ones(5, 4, dtype=torch.bool))
    with pytest.raises(RuntimeError):
        made()(torch.randn(2, 5, 12), head_scale=torch.ones(4))


# Maps

WORDS = ["Once", " upon", " a", "\n", "b$c$", b"\xe2\x82", "incomprehensibilities", " "]


def drawn(*shape, tokens=None):
    "A map of weights (..., T, S), its panels as a grid and the weights."
    *heads, T, S = shape
    torch.manual_seed(0)
    scores = torch.randn(shape).masked_fill(~causal_mask(T, S), -torch.inf)
    weights = scores.softmax(-1)
    if tokens is None:
        tokens = [WORDS[i % len(WORDS)] for i in range(S)]
    fig = attention_map(weights, tokens)
    fig.canvas.draw()
    return fig, [ax for ax in fig.axes if ax.images], weights


def texts(labels):
    return [label.get_text() for label in labels]


@pytest.mark.parametrize("shape", [(8, 8), (1, 1), (1, 5), (3, 6, 6), (2, 3, 4, 4), (2, 2, 2, 5), (1, 4, 3, 3)])
def test_each_panel_draws_its_head_and_nothing_of_the_future(shape):
    fig, panels, weights = drawn(*shape)
    heads = weights.view(-1, *shape[-2:])
    assert len(panels) == len(heads) and len(fig.axes) == len(heads) + 1
    allowed = causal_mask(*shape[-2:])
    for ax, head in zip(panels, heads):
        (image,) = ax.images
        data = image.get_array()
        assert np.array_equal(np.ma.getmaskarray(data), ~allowed.numpy())
        assert np.allclose(data[allowed.numpy()], head[allowed].numpy())
        assert (image.norm.vmin, image.norm.vmax) == (0, 1)
        colors = image.to_rgba(data)
        assert (colors[~allowed.numpy(), 3] == 0).all() and (colors[allowed.numpy(), 3] > 0).all()


def test_where_much_is_given_it_is_darker():
    image = drawn(4, 4)[1][0].images[0]
    alphas = image.to_rgba(np.array([[0, 0.01, 0.1, 0.5, 1]]))[0, :, 3]
    assert (np.diff(alphas) > 0.05).all() and alphas[-1] == 1


def test_weights_that_look_ahead_are_not_hidden():
    image = attention_map(torch.full((3, 3), 1 / 3), ["a", "b", "c"]).axes[0].images[0]
    assert not np.ma.getmaskarray(image.get_array()).any()


def test_who_could_be_looked_at_and_is_not_has_a_faint_field():
    image = attention_map(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), ["a", "b"]).axes[0].images[0]
    alphas = image.to_rgba(image.get_array())[..., 3]
    assert alphas[0, 1] == 0 and 0 < alphas[1, 0] < 0.2 and alphas[0, 0] == alphas[1, 1] == 1


def test_names_are_those_of_the_tokens():
    names = ["Once", "·upon", "·a", "⏎", "b$c$", r"\xe2\x82", "incomprehen…", "·"]
    _, (ax,), _ = drawn(8, 8)
    assert texts(ax.get_xticklabels()) == texts(ax.get_yticklabels()) == names
    assert list(ax.get_xticks()) == list(ax.get_yticks()) == list(range(8))
    assert ax.yaxis_inverted() and not any(label.get_parse_math() for label in ax.get_xticklabels())
    _, (ax,), _ = drawn(2, 8)  # only the last two look
    assert texts(ax.get_yticklabels()) == names[-2:] and texts(ax.get_xticklabels()) == names


def test_only_the_outer_panels_carry_names_and_each_head_and_layer_its_own():
    fig, panels, _ = drawn(2, 3, 4, 4)
    for i, ax in enumerate(panels):
        layer, head = divmod(i, 3)
        assert bool(texts(ax.get_yticklabels())) == (head == 0) and bool(texts(ax.get_xticklabels())) == (layer == 1)
    titles = [ax.get_title("left") or ax.get_title() for ax in panels]
    assert titles == ["head 0", "head 1", "head 2", "", "", ""]
    words = {text.get_text(): text.get_window_extent() for text in fig.texts}
    assert set(words) == {"layer 0", "layer 1", "query", "key"}
    for layer in 0, 1:
        box, label = panels[3 * layer].get_window_extent(), words[f"layer {layer}"]
        assert box.y0 < (label.y0 + label.y1) / 2 < box.y1 and label.x1 < box.x0
    assert {text.get_text() for text in drawn(3, 4, 4)[0].texts} == {"query", "key"}
    fig, (ax,), _ = drawn(4, 4)
    assert ax.get_title() == ax.get_title("left") == ""


SIZES = [(8, 8), (24, 24), (64, 64), (200, 200), (4, 8, 8), (4, 24, 24), (8, 40, 40), (12, 12, 12), (1, 64)]
SIZES += [(4, 4, 16, 16), (4, 4, 64, 64), (8, 8, 32, 32), (12, 12, 24, 24), (3, 2, 1, 9)]


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("style", ["default", "tinygpt.assets.course"])
def test_whatever_is_written_can_be_read(shape, style):
    "No text lies on another or on a panel, none is small, and names stand at their rows and columns."
    import matplotlib.pyplot as plt

    with plt.style.context(style):
        fig, panels, _ = drawn(*shape)
        assert fig.get_figwidth() <= (7.21 if len(shape) < 3 or shape[-3] <= 8 else 9.2)
        marks = [label for ax in panels for axis in (ax.xaxis, ax.yaxis) for label in axis.get_ticklabels()]
        marks += [text for ax in panels for text in (ax.title, ax._left_title) if text.get_text()]
        marks += [*fig.texts, *fig.axes[-1].get_yticklabels()]
        boxes = [text.get_window_extent() for text in marks]
        assert all(text.get_fontsize() >= 6.5 for text in marks)
        assert len(marks) > 6 and not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
        # what `show` crops to is what the figure was made for, so that a point is a point
        tight = fig.get_tightbbox()
        assert tight.width < 1.03 * fig.get_figwidth() and tight.width > 0.85 * fig.get_figwidth()
        assert all(not box.overlaps(ax.get_window_extent().shrunk(0.98, 0.98)) for ax in panels for box in boxes)
        tokens = [WORDS[i % len(WORDS)] for i in range(shape[-1])]
        ticks = panels[-1].get_xticks()
        step = int(ticks[1] - ticks[0])
        pitch = panels[0].get_window_extent().width / shape[-1] * 72 / fig.dpi
        assert list(ticks) == list(range(0, len(tokens), step)) and (step == 1 or (step - 1) * pitch < 12)
        plt.close(fig)


def test_outlined_cells_are_framed_and_their_weights_written():
    weights = torch.tensor([[[1.0, 0, 0], [0.25, 0.75, 0], [0.5, 0.375, 0.125]]] * 2)
    fig = attention_map(weights, ["a", "b", "c"], outlined=[(0, 1, 0), (1, 2, 1), (1, 2, 0)])
    panels = [ax for ax in fig.axes if ax.images]
    assert [texts(ax.texts) for ax in panels] == [["0.25"], ["0.50, 0.38"]]
    frames = [[patch.get_xy() for patch in ax.patches] for ax in panels]
    assert frames == [[(-0.5, 0.5)], [(0.5, 1.5), (-0.5, 1.5)]]
    assert [text.get_position() for text in panels[1].texts] == [(2.7, 2)]  # to the right of the diagonal
    assert not attention_map(weights[0], ["a", "b", "c"]).axes[0].patches
    named = attention_map(weights, ["a", "b", "c"], titles=["before", "after"])
    assert [ax.get_title("left") or ax.get_title() for ax in named.axes if ax.images] == ["before", "after"]


def test_words_are_tokens_taken_together():
    tokens = ["The", " ab", "s", "ent", "-", "m", "ind", "ed", " ", "ow", "l", ",", '"', " s", "aid", "."]
    torch.manual_seed(0)
    weights = attention_weights(torch.randn(2, 3, 16, 4), torch.randn(2, 3, 16, 4))
    by_words, words = by_word(weights, tokens)
    assert words == ["The", "absent-minded", "owl", ",", '"', "said", "."]
    assert by_words.shape == (2, 3, 7, 7) and close(by_words.sum(-1), torch.ones(2, 3, 7))
    assert close(by_words[..., 2, 1], weights[..., 10, 1:8].sum(-1)) and (by_words.triu(1) == 0).all()


def test_tokens_that_do_not_fit_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match="3 tokens.* 4 "):
        attention_map(torch.eye(4), ["a", "b", "c"])
    with pytest.raises(ValueError, match="5 tokens.* 4 "):
        attention_map(torch.eye(4)[None], list("abcde"))
    with pytest.raises(ValueError, match="5 rows.* 4 "):
        attention_map(torch.ones(5, 4), list("abcd"))


@pytest.mark.parametrize("shape", [(4,), (1, 1, 1, 4, 4), (0, 4, 4), ()])
def test_shapes_that_are_no_map_are_refused(shape):
    with pytest.raises(ValueError, match=rf"{len(shape)} dimensions.*2 for one head"):
        attention_map(torch.zeros(shape), list("abcd"))


def test_a_map_is_drawn_from_what_a_module_saw():
    attention, x = made().bfloat16(), torch.randn(1, 5, 12).bfloat16()
    attention(x, weights_out=(found := []))
    fig = attention_map(torch.stack(found)[:, 0], "a b c d e".split())
    assert np.allclose(fig.axes[0].images[0].get_array().filled(0), found[0][0, 0].detach().float())
    assert attention_map(found[0][0], [b"a"] * 5).axes


def test_more_heads_than_numbers_are_refused():
    with pytest.raises(ValueError, match="n_embd=2 .* n_head=4"):
        Attention(2, 4)
