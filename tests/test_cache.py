"""The key/value cache, and reading with it: against a model that reads everything again."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygpt as tg
from tinygpt.cache import Decoder, KVCache, left_pad
from tinygpt.engine.decoding import MergedModel, merge_linear

SHAPES = {
    "gpt2": lambda **sizes: tg.GPTConfig.gpt2(**sizes),
    "modern": lambda **sizes: tg.GPTConfig.modern(**sizes),
    "grouped": lambda **sizes: tg.GPTConfig.modern(n_kv_head=2, **sizes),
    "mixed": lambda **sizes: tg.GPTConfig.modern(mlp="gelu", norm="layer", bias=True, tied=False, **sizes),
}
V, SIZE = 40, 12
each_shape = pytest.mark.parametrize("shape", SHAPES)


def build(shape: str, seed: int = 0, size: int = SIZE) -> tg.GPT:
    """A model whose logits depend on every token and every part."""
    torch.manual_seed(seed)
    model = tg.GPT(SHAPES[shape](vocab_size=V, n_layer=2, n_head=4, n_embd=32, block_size=size)).eval()
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return model


class Recomputed:
    """What a Decoder should give: each row alone, read again for every token."""

    def __init__(self, model, prompts):
        self.model, self.rows = model, [list(prompt)[-model.config.block_size :] for prompt in prompts]

    @property
    def logits(self):
        with torch.no_grad():
            return torch.stack([self.model(torch.tensor([row]))[0, -1] for row in self.rows])

    def append(self, ids):
        for i, (row, id) in enumerate(zip(self.rows, ids.tolist())):
            row = row + [id]
            size = self.model.config.block_size
            self.rows[i] = row if len(row) <= size else row[-max(1, size // 2) :]


def same(a, b, atol=1e-5):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=atol)


# The cache


def test_the_cache_returns_all_keys_and_values_so_far_from_buffers_allocated_once():
    torch.manual_seed(0)
    cache, key, value = KVCache(7), torch.randn(2, 3, 7, 4), torch.randn(2, 3, 7, 4)
    addresses = set()
    for start, end in (0, 3), (3, 4), (4, 7):
        keys, values = cache.update(key[:, :, start:end], value[:, :, start:end])
        assert keys.equal(key[:, :, :end]) and values.equal(value[:, :, :end]) and cache.length == end
        addresses.add((cache.key.data_ptr(), cache.value.data_ptr(), keys.data_ptr()))
    assert len(addresses) == 1
    with pytest.raises(ValueError, match="8 tokens do not fit into a cache of size 7"):
        cache.update(key[:, :, :1], value[:, :, :1])
    assert cache.length == 7 and cache.key.equal(key)


def test_left_pad_by_hand():
    ids, padding = left_pad([[5, 6, 7], [8], [9, 1]])
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8], [0, 9, 1]] and padding.tolist() == [0, 2, 1]


# The decoder


@each_shape
def test_cached_logits_are_those_of_reading_everything_again_at_every_position(shape):
    model = build(shape)
    ids = torch.randint(V, (SIZE,))
    decoder, logits = Decoder(model, [ids[:1].tolist()]), []
    for id in ids[1:]:
        logits.append(decoder.logits[0])
        decoder.append(id[None])
    same(torch.stack([*logits, decoder.logits[0]]), model(ids[None])[0])


@each_shape
@given(data=st.data())
@settings(deadline=None, max_examples=15)
def test_ragged_rows_are_each_prompt_alone_and_a_full_window_keeps_its_newest_half(shape, data):
    seed = data.draw(st.integers(0, 10**6))
    model = build(shape, seed % 3, size=data.draw(st.integers(2, SIZE)))
    prompts = data.draw(st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=20), min_size=1, max_size=4))
    generator = torch.Generator().manual_seed(seed)
    decoder, expected = Decoder(model, prompts), Recomputed(model, prompts)
    for _ in range(2 * SIZE):
        same(decoder.logits, expected.logits, atol=3e-5)
        ids = torch.randint(V, (len(prompts),), generator=generator)
        assert decoder.append(ids) is decoder.logits
        expected.append(ids)


def test_a_window_of_one_token_reads_only_the_newest():
    model = build("modern", size=1)
    decoder = Decoder(model, [[1, 2, 3]])
    same(decoder.logits, model(torch.tensor([[3]]))[:, -1])
    same(decoder.append(torch.tensor([7])), model(torch.tensor([[7]]))[:, -1])


@each_shape
def test_merged_matrices_compute_the_same(shape):
    model = build(shape)
    merged, x = MergedModel(model), torch.randn(3, 32)
    for block, both in zip(model.blocks, merged.blocks):
        parts = [block.attention.query(x), block.attention.key(x), block.attention.value(x)]
        same(both.query_key_value(x), torch.cat(parts, -1))
    given = {id(p) for p in model.parameters()}
    shared = [p for name, p in merged.named_parameters() if "query_key_value" not in name and "up" not in name]
    assert all(id(p) in given for p in shared)  # nothing else is copied


def test_merge_linear_refuses_nothing_and_keeps_biases():
    layers = [torch.nn.Linear(4, n) for n in (2, 3)]
    x = torch.randn(5, 4)
    same(merge_linear(layers)(x), torch.cat([layer(x) for layer in layers], -1))


@pytest.mark.parametrize("prompts", [[[1, 2, 3]], [[1, 2, 3], [4]]])
@each_shape
def test_a_compiled_step_computes_the_same(shape, prompts, monkeypatch):
    compile, calls = torch.compile, []

    def without_a_compiler(module, **options):
        calls.append(module)
        return compile(module, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", without_a_compiler)
    torch._dynamo.reset()
    model = build(shape)
    decoder, expected = Decoder(model, prompts, compile=True), Recomputed(model, prompts)
    for id in range(SIZE + 4):
        ids = torch.tensor([id, id + 1][: len(prompts)])
        same(decoder.append(ids), (expected.append(ids), expected.logits)[1], atol=3e-5)
    assert len(calls) == 1


@each_shape
def test_bfloat16_is_near_float32_and_leaves_the_model_as_it_was(shape):
    model = build(shape)
    before = copy.deepcopy(model.state_dict())
    half, full = Decoder(model, [[1, 2, 3]], dtype="bfloat16"), Decoder(model, [[1, 2, 3]])
    for id in range(SIZE):
        a, b = half.append(torch.tensor([id])), full.append(torch.tensor([id]))
        assert a.dtype == torch.bfloat16 and (a.float() - b).abs().max() < 0.1 * b.std()
    assert all(part.key.dtype == torch.bfloat16 for part in half.cache)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
