"""Seeing inside a model: against transformers, torch's own parts and closed forms, for any shape."""

import copy
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gpt import build, configs
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

import tinygpt as tg
from tinygpt.gpt import GPT, GPTConfig
from tinygpt.inside import (
    Trace,
    attribute,
    copy_accuracy,
    first_token_scores,
    induction_scores,
    learn_to_copy,
    logit_lens,
    patch_heads,
    previous_token_scores,
    repeated_tokens,
    trace,
)
from tinygpt.io.checkpoints import load

few = settings(max_examples=20, deadline=None)
SHAPES = {
    "modern": GPTConfig.modern(50, n_layer=2, n_embd=32, n_kv_head=2, block_size=16),
    "gpt2": GPTConfig.gpt2(50, n_layer=2, n_embd=32, block_size=16),
    "mixed": GPTConfig(50, 16, n_layer=3, n_head=2, n_embd=24, head_dim=6, norm="layer", tied=False).resolve(),
}
each_shape = pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)


def near(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def some_ids(config, n=2, length=9, seed=0):
    length = min(length, config.block_size)
    return torch.randint(config.vocab_size, (n, length), generator=torch.Generator().manual_seed(seed))


def hook_count(model):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def off(config, layer, head):
    scale = torch.ones(config.n_layer, config.n_head)
    scale[layer, head] = 0
    return scale


# The trace


def hugging_face(kind):
    """A small random model of transformers whose every parameter counts."""
    torch.manual_seed(0)
    if kind == "gpt2":
        shape = {"vocab_size": 40, "n_positions": 16, "n_embd": 24, "n_layer": 3, "n_head": 3}
        special = {"bos_token_id": 0, "eos_token_id": 0}
        model = GPT2LMHeadModel(GPT2Config(**shape, **special, attn_implementation="eager"))
    else:
        sizes = {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "head_dim": 8}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16}
        model = Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, attn_implementation="eager"))
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
@torch.no_grad()
def test_a_loaded_model_is_traced_as_transformers_traces_it(kind, tmp_path):
    theirs = hugging_face(kind)
    theirs.save_pretrained(tmp_path)
    ours, _ = load(tmp_path)
    ids = torch.randint(40, (2, 11))
    wanted, found = theirs(ids, output_attentions=True, output_hidden_states=True), trace(ours, ids)
    near(found.logits, wanted.logits)
    near(found.weights, torch.stack(wanted.attentions))
    *streams, last = wanted.hidden_states  # the last one is after the final norm
    near(found.stream[:-1:2], torch.stack(streams))
    near(ours.norm(found.stream[-1]), last)


@few
@given(configs(), st.integers(1, 3), st.booleans())
def test_a_trace_of_any_shape_changes_nothing_and_adds_up(config, n, training):
    model, ids = build(config, scale=0.3).train(training), some_ids(config, n, 6)
    before = copy.deepcopy(model.state_dict())
    wanted = copy.deepcopy(model).eval()(ids)
    found = trace(model, ids)
    near(found.logits, wanted)
    assert model.training == training and not hook_count(model) and torch.is_grad_enabled()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not any(value.requires_grad for value in vars(found).values())
    L, H, C, T, D = config.n_layer, config.n_head, config.n_embd, ids.shape[1], config.head_dim
    assert found.weights.shape == (L, n, H, T, T) and found.heads.shape == (L, n, H, T, D)
    assert found.mlps.shape == (L, n, T, C) and found.stream.shape == (2 * L + 1, n, T, C)
    near(found.weights.sum(-1), torch.ones(L, n, H, T))
    near(found.stream[2::2] - found.stream[1::2], found.mlps)
    for layer, block in enumerate(model.blocks):
        added = block.attention.proj(found.heads[layer].transpose(1, 2).flatten(-2))
        near(found.stream[2 * layer + 1] - found.stream[2 * layer], added.detach())


@each_shape
def test_the_outputs_of_heads_are_their_weights_times_their_values(config):
    model, ids = build(config, scale=0.3), some_ids(config)
    found = trace(model, ids)
    for layer, block in enumerate(model.blocks):
        value = block.attention.value(block.attention_norm(found.stream[2 * layer]))
        value = value.unflatten(-1, (config.n_kv_head, -1)).transpose(1, 2)
        for head in range(config.n_head):
            shared = value[:, head * config.n_kv_head // config.n_head]
            near(found.heads[layer, :, head], (found.weights[layer, :, head] @ shared).detach())


def test_dropout_is_off_and_the_mode_comes_back():
    model = build(GPTConfig.modern(50, n_layer=1, n_embd=32, dropout=0.5)).train()
    ids = some_ids(model.config)
    near(trace(model, ids).logits, trace(model, ids).logits, 0)
    assert model.training and model.blocks[0].dropout.training


def test_hooks_and_mode_come_back_after_an_error():
    model = build(SHAPES["modern"]).train()
    for broken in torch.full((1, 3), 99), "text":
        with pytest.raises(ValueError):
            trace(model, broken)
    handle = model.blocks[1].mlp.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trace(model, some_ids(model.config))
    with pytest.raises(ZeroDivisionError):
        patch_heads(model, some_ids(model.config), {(0, 0): torch.zeros(8)})
    assert hook_count(model) == 1 and model.training
    handle.remove()


def test_memory_is_freed_with_the_trace():
    model = build(SHAPES["modern"])
    found = trace(model, some_ids(model.config))
    parts = [weakref.ref(value) for value in vars(found).values() if value is not found.ids]
    del found
    assert len(parts) == 5 and not [part for part in parts if part() is not None]


# Logit lens and attribution


@few
@given(configs())
def test_the_last_lens_is_the_logits(config):
    model, ids = build(config, scale=0.3), some_ids(config, length=6)
    found = trace(model, ids)
    lens = logit_lens(model, found)
    assert lens.shape == (config.n_layer + 1, *found.logits.shape) and not lens.requires_grad
    near(lens[-1], found.logits, 1e-5)
    shallow = GPT(config)
    shallow.load_state_dict(model.state_dict())
    for depth in range(config.n_layer, -1, -1):  # a model without the later blocks says what the lens shows
        shallow.blocks = shallow.blocks[:depth]
        near(lens[depth], shallow.eval()(ids).detach())


@few
@given(configs(), st.data())
def test_contributions_add_up_to_the_logit(config, data):
    model, ids = build(config, scale=0.3), some_ids(config, 3, 6)
    found = trace(model, ids)
    token = data.draw(st.integers(0, config.vocab_size - 1))
    position = data.draw(st.integers(-ids.shape[1], ids.shape[1] - 1))
    parts = attribute(model, found, token, position)
    B, L, H = 3, config.n_layer, config.n_head
    shapes = {"embedding": (B,), "position": (B,), "heads": (B, L, H), "mlps": (B, L), "bias": (B,)}
    assert {name: tuple(part.shape) for name, part in parts.items()} == shapes
    near(sum(part.reshape(B, -1).sum(-1) for part in parts.values()), found.logits[:, position, token])


@each_shape
def test_each_contribution_is_a_derivative(config):
    "With the scale frozen the logit is linear, so a part's contribution is its dot product with the gradient."
    model, ids, token = build(config, scale=0.3).requires_grad_(False), some_ids(config, 1), 3
    found = trace(model, ids)
    parts = attribute(model, found, token)
    x = found.stream[-1, :, -1]
    centre = x.mean(-1, keepdim=True) if config.norm == "layer" else torch.zeros(1, 1)
    scale = ((x - centre).square().mean() + config.norm_eps).sqrt()

    def logit(added):
        moved = x + added
        mean = moved.mean(-1, keepdim=True) if config.norm == "layer" else 0
        return (((moved - mean) / scale) * model.norm.weight @ model.unembedding[token]).squeeze()

    start = logit(torch.zeros_like(x))
    near(logit(found.mlps[1, :, -1]) - start, parts["mlps"][0, 1])
    near(logit(model.embed(ids[:, -1])) - start, parts["embedding"][0])
    for layer, head in (0, 1), (1, 0):
        kept = torch.zeros_like(found.heads[layer])
        kept[:, head] = found.heads[layer, :, head]
        proj = model.blocks[layer].attention.proj
        added = nn.functional.linear(kept.transpose(1, 2).flatten(-2), proj.weight)[:, -1]
        near(logit(added) - start, parts["heads"][0, layer, head])


def test_biases_and_positions_are_there_where_the_model_has_them():
    for name, has in ("modern", False), ("gpt2", True):
        model = build(SHAPES[name], scale=0.3)
        parts = attribute(model, trace(model, some_ids(model.config)), 0)
        assert all(bool(parts[part].abs().min() > 0) == has for part in ("bias", "position"))


# Patching


@few
@given(configs(), st.data())
def test_patching_zeros_is_switching_off(config, data):
    model, ids = build(config, scale=0.3), some_ids(config, length=6)
    layer, head = (data.draw(st.integers(0, n - 1)) for n in (config.n_layer, config.n_head))
    found = patch_heads(model, ids, {(layer, head): torch.zeros(config.head_dim)})
    near(found, model(ids, head_scale=off(config, layer, head)).detach())
    assert not hook_count(model) and not found.requires_grad


@each_shape
def test_patching_with_its_own_output_changes_nothing_and_with_all_of_another_run_everything(config):
    model, ids, others = build(config, scale=0.3), some_ids(config), some_ids(config, seed=1)
    own, other = trace(model, ids), trace(model, others)
    near(patch_heads(model, ids, {(1, 0): own.heads[1, :, 0]}), own.logits, 1e-5)
    assert not torch.allclose(patch_heads(model, ids, {(1, 0): other.heads[1, :, 0]}), own.logits, atol=1e-3)
    near(patch_heads(model, ids, {}), own.logits, 1e-5)


@each_shape
def test_a_patch_reaches_only_what_comes_after_its_positions(config):
    model, ids, others = build(config, scale=0.3), some_ids(config), some_ids(config, seed=1)
    own, other = trace(model, ids).logits, trace(model, others).heads[0, :, 1]
    for positions in [4], slice(4, 6):
        found = patch_heads(model, ids, {(0, 1): other}, positions)
        near(found[:, :4], own[:, :4], 1e-5)
        assert all(not torch.allclose(found[:, t], own[:, t], atol=1e-4) for t in (4, 5))
    last = config.n_layer - 1
    found = patch_heads(model, ids, {(last, 0): trace(model, others).heads[last, :, 0]}, [4])
    elsewhere = [0, 1, 2, 3, 5, 6, 7, 8]  # no later layer carries the patch there
    near(found[:, elsewhere], own[:, elsewhere], 1e-5)


def test_a_patch_is_the_new_output_through_proj():
    config = GPTConfig.gpt2(50, n_layer=1, n_embd=32, block_size=16)
    model, ids = build(config, scale=0.3), some_ids(config)
    found, mean = trace(model, ids), torch.randn(8, generator=torch.Generator().manual_seed(2))
    heads = found.heads[0].clone()
    heads[:, 2] = mean
    block = model.blocks[0]
    x = found.stream[0] + block.attention.proj(heads.transpose(1, 2).flatten(-2))
    x = x + block.mlp(block.mlp_norm(x))
    near(patch_heads(model, ids, {(0, 2): mean}), (model.norm(x) @ model.unembedding.T).detach())


# Scores


def one_head(weights, ids):
    """A trace with these weights (T, T) in its only head."""
    nothing = torch.empty(0)
    return Trace(torch.tensor([ids]), weights[None, None, None], nothing, nothing, nothing, nothing)


def uniform(T):
    return torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]


def test_perfect_heads_score_1_and_others_0():
    ids = [3, 5, 7, 3, 5, 7, 3]
    previous, first = torch.zeros(7, 7), torch.zeros(7, 7)
    previous[range(1, 7), range(6)], first[:, 0] = 1, 1
    induction = torch.zeros(7, 7)
    induction[range(3, 7), range(1, 5)] = 1  # from token 3, the first 3 again, to the 5 after it
    scores = previous_token_scores, first_token_scores, induction_scores
    found = [[round(score(one_head(w, ids)).item(), 4) for score in scores] for w in (previous, first, induction)]
    assert found == [[1, round(1 / 6, 4), 0], [round(1 / 6, 4), 1, 0], [0, 0, 1]]


@few
@given(st.lists(st.integers(0, 3), min_size=3, max_size=12))
def test_scores_of_uniform_attention_are_counted(ids):
    T = len(ids)
    found = one_head(uniform(T), ids)
    wanted = sum(1 / (t + 1) for t in range(1, T)) / (T - 1)
    near(previous_token_scores(found), torch.tensor([[wanted]]), 1e-5)
    near(first_token_scores(found), torch.tensor([[wanted]]), 1e-5)
    rows = [[ids[j - 1] == ids[t] for j in range(1, t + 1)] for t in range(T)]
    rows = [sum(row) / (len(row) + 1) for row in rows if any(row)]
    if rows:
        near(induction_scores(found), torch.tensor([[sum(rows) / len(rows)]]), 1e-5)
    else:
        with pytest.raises(ValueError, match="no token occurs twice"):
            induction_scores(found)


def test_scores_are_per_head_and_average_over_texts():
    model = build(SHAPES["modern"], scale=0.3)
    ids = repeated_tokens(4, 16, 50, torch.Generator().manual_seed(0))
    together = trace(model, ids)
    for score in previous_token_scores, first_token_scores:
        assert score(together).shape == (2, 4)
        near(score(together), torch.stack([score(trace(model, row[None])) for row in ids]).mean(0), 1e-5)


@few
@given(st.integers(1, 5), st.integers(8, 40), st.integers(20, 60), st.integers(0, 99))
def test_repeated_tokens_repeat_a_piece_of_distinct_ones(n, length, vocab_size, seed):
    ids = repeated_tokens(n, length, vocab_size, torch.Generator().manual_seed(seed))
    assert ids.shape == (n, length) and 0 <= ids.min() and ids.max() < vocab_size
    for row in ids.tolist():
        distance = row.index(row[0], 1)
        assert length // 8 <= distance <= length // 2 and len(set(row)) == distance
        assert row[distance:] == row[:-distance]


def test_distances_differ_and_all_occur():
    ids = repeated_tokens(500, 32, 64, torch.Generator().manual_seed(0)).tolist()
    assert {row.index(row[0], 1) for row in ids} == set(range(4, 17))


def test_copy_accuracy_counts_where_the_answer_stands_in_the_text():
    ids = repeated_tokens(5, 16, 50, torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(ids.roll(-1, 1), 50).float()
    assert copy_accuracy(lambda given: right, ids) == 1
    assert copy_accuracy(lambda given: -right, ids) == 0
    wrong, total = right.clone(), 0
    for row, one in enumerate(ids.tolist()):
        distance = one.index(one[0], 1)
        wrong[row, :distance] = 0  # not counted
        wrong[row, distance] = -wrong[row, distance]
        total += 15 - distance
    assert copy_accuracy(lambda given: wrong, ids) == pytest.approx(1 - 5 / total)
    with pytest.raises(ValueError, match="no token occurs twice"):
        copy_accuracy(lambda given: right, torch.arange(8)[None])


# The claim of the chapter


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_model_learns_to_copy_with_an_induction_head(seed):
    "The head that carries the skill, switched off, takes all of it; the other, what its first layer tells it."
    *_, model = learn_to_copy(seed)
    ids = repeated_tokens(200, generator=torch.Generator().manual_seed(99))
    found = trace(model, ids)
    assert induction_scores(found)[1, 0] > 0.6 and previous_token_scores(found)[0, 0] > 0.3
    assert induction_scores(found)[0, 0] < 0.2 and copy_accuracy(model, ids) > 0.9
    no_previous, no_induction = (
        copy_accuracy(lambda ids: model(ids, head_scale=off(model.config, layer, 0)), ids) for layer in (0, 1)
    )
    assert no_induction < 0.05 and no_induction < no_previous < 0.4


def test_learning_to_copy_is_the_same_each_time():
    first, second = ([copy.deepcopy(model.state_dict()) for model in learn_to_copy(3, steps=3)] for _ in range(2))
    assert len(first) == 4 and all(a[name].equal(b[name]) for a, b in zip(first, second) for name in a)
    assert not first[0]["embed.weight"].equal(first[1]["embed.weight"])


# Mistakes


@pytest.mark.parametrize(
    "mistake, said",
    [
        (lambda m, t: attribute(m, t, 50), "token=50 should be a whole number from 0 to 49"),
        (lambda m, t: attribute(m, t, 3, 9), "position=9 should be a whole number from -9 to 8"),
        (lambda m, t: patch_heads(m, t.ids, {(2, 0): t.heads[0, :, 0]}), "layer=2 should be .* from 0 to 1"),
        (lambda m, t: patch_heads(m, t.ids, {(0, 4): t.heads[0, :, 0]}), "head=4 should be .* from 0 to 3"),
        (lambda m, t: patch_heads(m, t.ids, {(0, 1): t.heads[0]}), r"shape \(2, 4, 9, 8\).*\(2, 9, 8\)"),
        (lambda m, t: patch_heads(m, t.ids, {(0, 1): torch.zeros(3)}), r"shape \(3,\).*\(2, 9, 8\)"),
        (lambda m, t: repeated_tokens(2, 32, 10), "length=32 should be a whole number from 8 to 20"),
    ],
)
def test_mistakes_end_in_a_sentence(mistake, said):
    model = build(SHAPES["modern"])
    with pytest.raises(ValueError, match=said):
        mistake(model, trace(model, some_ids(model.config)))


def test_the_package_offers_them():
    assert tg.trace is trace and tg.attribute is attribute and tg.patch_heads is patch_heads
