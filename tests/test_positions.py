"""Chapter 06: rotations are those of transformers and of complex numbers, and only distance counts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tinygpt.attention import Attention, attention_weights
from tinygpt.positions import rotate, rotation

bases = st.sampled_from([10.0, 500.0, 10_000.0, 1_000_000.0])
seeds = st.integers(0, 10**6)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 8))  # B, H, T, D / 2


def made(shape, seed, dtype=torch.float64):
    B, H, T, pairs = shape
    return torch.randn(B, H, T, 2 * pairs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def exact(x, positions, base=10_000.0):
    "By the definition, one pair at a time, in float64: x[i] + j x[i + D/2], times e to the j p / b^(2i/D)."
    x, half = x.double(), x.shape[-1] // 2
    out = torch.empty_like(x)
    positions = positions.expand(len(x), -1)
    for b, h, t, i in torch.cartesian_prod(*map(torch.arange, (*x.shape[:3], half))).view(-1, 4).tolist():
        angle = positions[b, t].item() / base ** (2 * i / x.shape[-1])
        pair = complex(x[b, h, t, i], x[b, h, t, i + half]) * complex(math.cos(angle), math.sin(angle))
        out[b, h, t, i], out[b, h, t, i + half] = pair.real, pair.imag
    return out


@given(shapes, st.integers(0, 300), bases, seeds, st.booleans())
@settings(deadline=None, max_examples=60)
def test_it_is_complex_multiplication(shape, offset, base, seed, batched):
    x, (B, _, T, pairs) = made(shape, seed), shape
    # ragged: no two texts at the same places, and no even steps
    positions = offset + torch.randperm(50, generator=torch.Generator().manual_seed(seed))[: B * T].view(B, T)
    positions = positions if batched else positions[0]
    got = rotation(positions, 2 * pairs, base)(x)
    assert got.shape == x.shape and got.allclose(exact(x, positions, base), atol=1e-3)


@pytest.mark.parametrize("theta", [10_000.0, 1_000_000.0])
@pytest.mark.parametrize("head_dim", [2, 8, 128])
@pytest.mark.parametrize("batched", [False, True])
def test_it_is_that_of_qwen3_in_transformers(theta, head_dim, batched):
    from transformers import Qwen3Config
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding, apply_rotary_pos_emb

    config = Qwen3Config(
        hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=head_dim, rope_theta=theta
    )
    query, key = made((2, 4, 7, head_dim // 2), 0, torch.float32), made((2, 2, 7, head_dim // 2), 1, torch.float32)
    positions = torch.tensor([[0, 1, 2, 3, 4, 5, 6], [90, 91, 95, 200, 201, 0, 1]])
    positions = positions if batched else positions[:1].expand(2, 7) + 40
    cos, sin = Qwen3RotaryEmbedding(config)(query, positions)
    rope = rotation(positions if batched else positions[0], head_dim, theta)
    for mine, theirs in zip((rope(query), rope(key)), apply_rotary_pos_emb(query, key, cos, sin)):
        assert mine.allclose(theirs, atol=1e-4)


def test_the_base_is_ten_thousand_unless_told():
    x, positions = made((1, 2, 5, 4), 0), torch.arange(5) * 7
    assert rotation(positions, 8)(x).equal(rotation(positions, 8, 10_000.0)(x))
    assert not rotation(positions, 8)(x).allclose(rotation(positions, 8, 1_000_000.0)(x), atol=1e-2)


@given(shapes, st.integers(0, 2000), bases, seeds)
@settings(deadline=None)
def test_lengths_are_kept_and_place_zero_is_left_alone(shape, offset, base, seed):
    x = made(shape, seed)
    turned = rotation(torch.arange(shape[2]) + offset, x.shape[-1], base)(x)
    for a, b in zip(turned.chunk(2, -1), x.chunk(2, -1)):
        assert a.shape == b.shape
    pairs = [torch.stack(y.chunk(2, -1)).norm(dim=0) for y in (turned, x)]
    assert pairs[0].allclose(pairs[1], atol=1e-5)  # each pair by itself, not only the whole
    assert rotation(torch.zeros(shape[2], dtype=torch.int64), x.shape[-1], base)(x).equal(x)


@given(shapes, st.integers(1, 1000), bases, seeds, st.booleans())
@settings(deadline=None, max_examples=60)
def test_scores_depend_on_distance_alone(shape, offset, base, seed, batched):
    (B, _, T, pairs), query, key = shape, made(shape, seed), made(shape, seed + 1)
    positions = torch.arange(T) + (torch.arange(B)[:, None] * 5 if batched else 0)

    def scores(positions, ahead=0):
        ahead = rotation(positions + ahead, 2 * pairs, base)
        return ahead(query) @ rotation(positions, 2 * pairs, base)(key).mT

    here = scores(positions)
    assert here.allclose(scores(positions + offset), atol=2e-3)
    assert not here.allclose(scores(positions, ahead=1), atol=2e-3)  # another distance, another score


def test_each_text_has_its_own_positions():
    x, positions = made((3, 2, 5, 4), 0), torch.tensor([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11], [0, 1, 0, 1, 2]])
    together = rotation(positions, 8)(x)
    for b in range(3):
        assert together[b].equal(rotation(positions[b], 8)(x[b : b + 1])[0])


@pytest.mark.parametrize("batched", [False, True])
def test_one_function_rotates_queries_and_fewer_keys(batched):
    query, key, positions = made((2, 6, 5, 4), 0), made((2, 2, 5, 4), 1), torch.arange(5) + 3
    rope = rotation(positions.expand(2, 5) if batched else positions, 8)
    for y in query, key:
        assert rope(y).allclose(exact(y, positions), atol=1e-5)
    assert attention_weights(rope(query), rope(key)).shape == (2, 6, 5, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_are_found_in_32_bits_whatever_the_type_of_x(dtype):
    x, positions = made((1, 2, 3, 32), 0, dtype), torch.tensor([100_000, 100_001, 65_537])
    got = rotation(positions, 64)(x)
    assert got.dtype == dtype
    # An angle of 100,000 is right to 3 roundings of 2**-24 (the power, the quotient, the place), 0.018 radians; then
    # cosine, sine, product and sum are rounded to the type, each by at most eps / 2 of numbers up to |pair|.
    eps, size = torch.finfo(dtype).eps, torch.stack(x.double().chunk(2, -1)).norm(dim=0).repeat(1, 1, 1, 2)
    assert ((got.double() - exact(x, positions)).abs() <= size * (3 * 2**-24 * 1e5 + 3 * eps)).all()
    # Angles in 16 bits could not tell these places apart at all.
    assert not got[:, :, 0].allclose(rotation(positions[1:2], 64)(x[:, :, :1])[:, :, 0], atol=0.1)


def test_angles_in_32_bits_are_as_near_as_32_bits_are():
    x, positions = made((1, 1, 3, 32), 0), torch.tensor([100_000, 4096, 100])
    off = (rotation(positions, 64)(x) - exact(x, positions)).abs().amax((0, 1, 3))
    assert (off <= 3 * 2**-24 * positions * 5 + 1e-5).all()  # no pair here is longer than 5


def test_gradients_turn_back():
    x, positions = made((1, 2, 4, 3), 0).requires_grad_(), torch.arange(4) + 5
    upstream = made((1, 2, 4, 3), 1)
    rotation(positions, 6)(x).backward(upstream)
    assert x.grad.allclose(rotation(-positions, 6)(upstream), atol=1e-6)
    assert torch.autograd.gradcheck(rotation(positions, 6), x)


def test_turning_back_undoes_it_and_turns_add_up():
    x, p, q = made((2, 2, 5, 4), 0), torch.arange(5) + 2, torch.tensor([9, 0, 4, 1, 30])
    assert rotation(-p, 8)(rotation(p, 8)(x)).allclose(x, atol=1e-5)
    assert rotation(p, 8)(rotation(q, 8)(x)).allclose(rotation(p + q, 8)(x), atol=1e-4)


def test_it_leaves_its_argument_alone():
    x = made((1, 1, 4, 4), 0)
    before = x.clone()
    rotation(torch.arange(4), 8)(x)
    assert x.equal(before)


def test_rotate_turns_by_given_cosines():
    quarter = torch.full((2,), math.pi / 2)
    assert rotate(torch.tensor([1.0, 2.0, 3.0, 4.0]), quarter.cos(), quarter.sin()).allclose(
        torch.tensor([-3.0, -4.0, 1.0, 2.0]), atol=1e-6
    )


@pytest.mark.parametrize("head_dim", [1, 5, 63])
def test_an_odd_head_is_refused(head_dim):
    with pytest.raises(ValueError, match=f"head_dim={head_dim} .*{head_dim + 1}"):
        rotation(torch.arange(4), head_dim)


@pytest.mark.parametrize("shape", [(4,), (2, 4)])
def test_it_compiles_whole(shape):
    def turned(x, positions):
        return rotation(positions, x.shape[-1])(x)

    positions = torch.arange(math.prod(shape)).view(shape)
    ours, theirs = [made((2, 3, 4, 4), 0, torch.float32).requires_grad_() for _ in range(2)]
    compiled = torch.compile(turned, fullgraph=True, backend="aot_eager")
    out, plain = compiled(ours, positions), turned(theirs, positions)
    assert out.allclose(plain, atol=1e-6)
    out.square().sum().backward(), plain.pow(3).sum().backward()
    assert ours.grad.allclose(2 * ours, atol=1e-5)  # lengths are kept, so the gradient of |turned|^2 is that of |x|^2


@given(st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]), st.integers(1, 9), st.integers(1, 900), seeds)
@settings(deadline=None, max_examples=30)
def test_attention_as_a_whole_knows_distances_and_nothing_else(heads, T, offset, seed):
    torch.manual_seed(seed)
    layer, x = Attention(24, *heads, head_dim=8), torch.randn(2, T, 24)
    with torch.no_grad():
        here = layer(x, rope=rotation(torch.arange(T), 8))
        for there in torch.arange(T) + offset, torch.arange(T) + torch.tensor([[0], [offset]]):
            assert layer(x, rope=rotation(there, 8)).allclose(here, atol=1e-3)


def test_attention_with_rope_sees_order_and_without_does_not():
    torch.manual_seed(0)
    layer, x, other = Attention(16, 2), torch.randn(1, 5, 16), torch.tensor([2, 0, 3, 1, 4])
    rope = rotation(torch.arange(5), 8)
    with torch.no_grad():
        assert layer(x[:, other])[:, -1].allclose(layer(x)[:, -1], atol=1e-6)
        assert not layer(x[:, other], rope=rope)[:, -1].allclose(layer(x, rope=rope)[:, -1], atol=1e-2)


def test_attention_with_rope_is_that_of_torch_with_values_as_they_are():
    torch.manual_seed(0)
    layer, x, rope = Attention(16, 4, 2), torch.randn(2, 6, 16), rotation(torch.arange(6) * 3, 4)
    query, key, value = (
        make(x).unflatten(-1, (-1, 4)).transpose(1, 2) for make in (layer.query, layer.key, layer.value)
    )
    positions = torch.arange(6) * 3
    query, key = exact(query.detach(), positions).float(), exact(key.detach(), positions).float()
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    assert layer(x, rope=rope).allclose(layer.proj(out.transpose(1, 2).flatten(2)), atol=1e-5)
