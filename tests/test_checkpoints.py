"""Saved models against transformers, in both directions, and with damaged or foreign files."""

import json
import math
import os
import re
import shutil
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)
from transformers.activations import ACT2FN
from transformers.utils import logging

from tinygpt.gpt import GPT, GPTConfig
from tinygpt.io import weights
from tinygpt.io.checkpoints import FIXED, config_from_json, load, save, write_model
from tinygpt.tales import tale, the_tokenizer
from tinygpt.tokenizer import BPETokenizer, CharTokenizer

logging.disable_progress_bar()
logging.set_verbosity_error()
few = settings(max_examples=8, deadline=None)


def shaken(model, seed=0, scale=0.1):
    "None of whose numbers is what it was, so that each must be put in its place."
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * scale)
    return model.eval()


def some_ids(vocab_size, length=12):
    return torch.randint(vocab_size, (2, length), generator=torch.Generator().manual_seed(3))


def same_logits(ours, theirs, length=12):
    "A model of ours and one of transformers' say the same, to 1e-4, at more than one size of logits."
    ids = some_ids(ours.config.vocab_size, length)
    with torch.no_grad():
        got, wanted = ours(ids), theirs(ids).logits
    assert wanted.std() > 0.05
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def qwen3(**changes):
    shape = {
        "vocab_size": 61,
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    return shaken(Qwen3ForCausalLM(Qwen3Config(**shape | changes)))


def gpt2(**changes):
    shape = {"vocab_size": 61, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
    return shaken(GPT2LMHeadModel(GPT2Config(**shape | {"bos_token_id": 0, "eos_token_id": 0} | changes)))


@few
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([2, 6, 16]),
    st.booleans(),
    st.sampled_from([5e3, 1e4, 1e6]),
    st.integers(1, 30),
)
def test_qwen3_and_ours_go_both_ways(tmp_path_factory, layers, kv, group, head_dim, tied, base, length):
    folder = tmp_path_factory.mktemp("qwen3")
    heads = {"n_layer": layers, "n_head": kv * group, "n_kv_head": kv, "head_dim": head_dim}
    config = GPTConfig.modern(61, block_size=32, n_embd=24, n_hidden=20, tied=tied, rope_base=base, **heads)
    ours = shaken(GPT(config))
    save(folder / "ours", ours)
    theirs = AutoModelForCausalLM.from_pretrained(folder / "ours")
    assert isinstance(theirs, Qwen3ForCausalLM)
    same_logits(ours, theirs, length)
    theirs = qwen3(
        num_hidden_layers=layers,
        num_attention_heads=kv * group,
        num_key_value_heads=kv,
        head_dim=head_dim,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    theirs.save_pretrained(folder / "theirs")
    back, tok = load(folder / "theirs")
    assert tok is None and back.config.tied == tied and back.config.rope_base == base and not back.training
    same_logits(back, theirs, length)


@few
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from([3, 8]),
    st.booleans(),
    st.sampled_from([None, 50]),
    st.integers(1, 30),
)
def test_gpt2_and_ours_go_both_ways(tmp_path_factory, layers, heads, head_dim, tied, hidden, length):
    folder, width = tmp_path_factory.mktemp("gpt2"), heads * head_dim
    sizes = {"n_layer": layers, "n_head": heads, "n_embd": width, "n_hidden": hidden}
    ours = shaken(GPT(GPTConfig.gpt2(61, block_size=32, tied=tied, **sizes)))
    save(folder / "ours", ours)
    theirs = AutoModelForCausalLM.from_pretrained(folder / "ours")
    assert isinstance(theirs, GPT2LMHeadModel)
    same_logits(ours, theirs, length)
    theirs = gpt2(n_layer=layers, n_head=heads, n_embd=width, tie_word_embeddings=tied, n_inner=hidden)
    theirs.save_pretrained(folder / "theirs")
    same_logits(load(folder / "theirs")[0], theirs, length)


SHAPES = {
    "modern": GPTConfig.modern(2048, block_size=64, n_layer=2, n_embd=32, n_kv_head=2, dropout=0.25),
    "gpt2": GPTConfig.gpt2(2048, block_size=64, n_layer=2, n_embd=32, tied=False, dropout=0.125),
    "mixed": GPTConfig(2048, 64, 2, n_embd=32, norm="layer", bias=True, position="learned", norm_eps=1e-4),
}
each_shape = pytest.mark.parametrize("shape", SHAPES)


def saved(folder, shape, tok=None, **how):
    torch.manual_seed(1)
    model = shaken(GPT(SHAPES[shape]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(folder, model, tok, **how)
    return model


@each_shape
def test_what_was_saved_comes_back_to_the_bit(tmp_path, shape):
    model = saved(tmp_path / "a", shape, the_tokenizer())
    back, tok = load(tmp_path / "a")
    assert back.config == model.config
    assert list(back.state_dict()) == list(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), model.state_dict().values()))
    assert torch.equal(back(some_ids(2048)), model(some_ids(2048)))
    assert all(p.requires_grad and p.is_contiguous() for p in back.parameters())
    assert tok.encode(tale(5)) == the_tokenizer().encode(tale(5))
    saved(tmp_path / "b", shape, the_tokenizer())
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


@each_shape
def test_a_loaded_model_goes_on_learning(tmp_path, shape):
    model = saved(tmp_path, shape)
    back, _ = load(tmp_path)
    ids = some_ids(2048)
    for one in model, back:
        one.eval()
        optimizer = torch.optim.SGD(one.parameters(), 0.1)
        one.loss(ids, ids).backward()
        optimizer.step()
    assert torch.equal(model(ids), back(ids))


@pytest.mark.parametrize("shape", ["modern", "gpt2"])
@pytest.mark.parametrize("make", [the_tokenizer, lambda: CharTokenizer.train(tale(1) + tale(2))])
def test_transformers_reads_the_same_ids(tmp_path, shape, make):
    tok, text = make(), tale(2)
    saved(tmp_path, shape, tok)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(text) == tok.encode(text) == load(tmp_path)[1].encode(text)
    assert theirs.decode(tok.encode(text)) == text
    end = AutoModelForCausalLM.from_pretrained(tmp_path).config.eos_token_id
    assert end == getattr(tok, "special_tokens", {}).get("<|end|>")
    if end is not None:
        assert theirs.encode(text + "<|end|>")[-1] == end


def test_transformers_can_write_with_our_model(tmp_path):
    model = saved(tmp_path, "modern", the_tokenizer())
    theirs, ids = AutoModelForCausalLM.from_pretrained(tmp_path), some_ids(2048)[:1]
    written = theirs.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    for _ in range(8):
        ids = torch.cat([ids, model(ids)[:, -1:].argmax(-1)], 1)
    assert torch.equal(written, ids)


@each_shape
def test_sixteen_bits_halve_the_file_and_are_read_as_what_is_asked(tmp_path, shape):
    model = saved(tmp_path / "long", shape)
    saved(tmp_path / "short", shape, dtype="bfloat16")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("short", "long")]
    assert 0.45 < sizes[0] / sizes[1] < 0.6
    back, _ = load(tmp_path / "short")
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor.bfloat16().float())
    short, _ = load(tmp_path / "short", dtype="bfloat16")
    assert {p.dtype for p in short.parameters()} == {torch.bfloat16} and short(some_ids(2048)).dtype == torch.bfloat16
    assert json.loads((tmp_path / "short" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_mixed_shape_says_who_opens_it(tmp_path):
    with pytest.warns(UserWarning, match=r"only tinygpt .* modern \(position='learned', norm='layer', bias=True\)"):
        save(tmp_path, GPT(SHAPES["mixed"]))
    with pytest.raises(ValueError, match="tinygpt"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    grouped = GPTConfig(50, 16, 1, n_kv_head=2, position="learned", norm="layer", mlp="gelu", qk_norm=False, bias=True)
    with pytest.warns(UserWarning, match=r"gpt2 \(n_kv_head=2\)"):
        save(tmp_path, GPT(grouped))
    assert load(tmp_path)[0].config == grouped.resolve()


def test_a_compiled_model_is_saved_as_what_it_wraps(tmp_path):
    model = shaken(GPT(SHAPES["modern"]))
    save(tmp_path, torch.compile(model, backend="eager"))
    assert torch.equal(load(tmp_path)[0](some_ids(2048)), model(some_ids(2048)))


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = {name: value for name, value in (json.loads(path.read_text()) | changes).items() if value is not ...}
    path.write_text(json.dumps(config))


def test_gpt2_as_the_hub_has_it(tmp_path, reference):
    theirs = gpt2(vocab_size=50257, n_embd=8, n_layer=3)
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    for i in range(3):
        tensors[f"h.{i}.attn.bias"] = torch.ones(64, 64).tril()[None, None]
        tensors[f"h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, tmp_path / "model.safetensors")
    edit_config(tmp_path, n_inner=..., tie_word_embeddings=..., n_ctx=64, task_specific_params={"text-generation": {}})
    shutil.copy(reference / "gpt2" / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(reference / "gpt2" / "vocab.bpe", tmp_path / "merges.txt")
    ours, tok = load(tmp_path)
    same_logits(ours, theirs)
    assert tok.encode("Hello world") == [15496, 995]


def test_qwen3_as_the_hub_has_it(tmp_path):
    theirs = qwen3(num_hidden_layers=3, tie_word_embeddings=False).bfloat16()
    theirs.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2 and not (tmp_path / "model.safetensors").exists()
    same_logits(load(tmp_path)[0], Qwen3ForCausalLM.from_pretrained(tmp_path, dtype="float32"))


def test_a_tied_model_may_carry_its_head_a_second_time(tmp_path):
    theirs = qwen3()
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    same_logits(load(tmp_path)[0], theirs)


PLACES = [
    {"rope_theta": 5e3, "rope_parameters": ...},
    {"rope_theta": 5e3, "rope_scaling": None, "rope_parameters": ...},
    {"rope_theta": ..., "rope_parameters": {"rope_type": "default", "rope_theta": 5e3}},
    {"rope_theta": 5e3, "rope_parameters": {"rope_type": "default", "rope_theta": 5000}},
]


@pytest.mark.parametrize("place", PLACES)
def test_either_place_of_rope_theta_is_read(tmp_path, place):
    theirs = qwen3(rope_parameters={"rope_type": "default", "rope_theta": 5e3})
    theirs.save_pretrained(tmp_path)
    edit_config(tmp_path, **place)
    ours, _ = load(tmp_path)
    assert ours.config.rope_base == 5e3
    same_logits(ours, theirs, 30)


OTHERS = [
    ({"model_type": "llama"}, "llama"),
    ({"model_type": ...}, "None"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, "yarn"),
    ({"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 1e6}, r"10000\.0, 1000000\.0"),
    ({"use_sliding_window": True}, "use_sliding_window=True"),
    ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ({"attention_bias": True}, "attention_bias=True"),
    ({"num_attention_heads": 3}, "n_head=3"),
    ({"hidden_size": "32"}, "n_embd='32'"),
    ({"num_hidden_layers": 4_000_000_000}, "4000000000 layers"),
    ({"num_hidden_layers": ...}, "num_hidden_layers"),
    ({"num_hidden_layers": 3}, "3 layers.*24 tensors"),
    ({"head_dim": ...}, "head_dim"),
    ({"is_causal": False}, "not causal"),
    ({"quantization_config": {"bits": 4}}, "quantized"),
    ({"layer_types": ["sliding_attention", "full_attention"]}, "sliding_attention"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, "linear"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 5e3}}}, "full_attention"),
    ({"num_hidden_layers": 1}, r"model\.layers\.1"),
    ({"intermediate_size": 41}, r"\(40, 32\).*\(41, 32\)"),
    ({"vocab_size": 62}, r"model\.embed_tokens\.weight.*\(61, 32\).*\(62, 32\)"),
    ({"tie_word_embeddings": False}, r"lm_head\.weight"),
]


@pytest.mark.parametrize("changes, words", OTHERS, ids=lambda case: str(case)[:50])
def test_a_config_of_another_model_is_refused(tmp_path, changes, words):
    qwen3().save_pretrained(tmp_path)
    load(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=words) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"activation_function": "relu"}, "activation_function='relu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"scale_attn_weights": False}, "scale_attn_weights"),
        ({"n_head": 5}, "n_head=5"),
        ({"num_attention_heads": 8}, "n_head=4 and num_attention_heads=8"),
        ({"hidden_size": 64}, "n_embd=32 and hidden_size=64"),
        ({"n_positions": 65}, r"transformer\.wpe\.weight.*\(64, 32\).*\(65, 32\)"),
        ({"n_inner": 100}, r"mlp\.c_fc.*\(32, 128\).*\(32, 100\)"),
    ],
)
def test_a_gpt2_that_computes_otherwise_is_refused(tmp_path, changes, words):
    gpt2().save_pretrained(tmp_path)
    load(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(ValueError, match=words) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("spec", [[], 5, None, "qwen3", {"model_type": []}, {"model_type": {}}])
def test_a_config_that_makes_no_sense_is_refused(tmp_path, spec):
    saved(tmp_path, "modern")
    (tmp_path / "config.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "config.json"))):
        load(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_config_with_any_value_anywhere_is_read_or_refused(data):
    spec = json.loads(CONFIGS[data.draw(st.sampled_from(sorted(CONFIGS)))])
    name = data.draw(st.sampled_from(sorted(spec)))
    spec[name] = data.draw(
        st.one_of(
            st.none(), st.booleans(), st.integers(-5, 2**40), st.floats(), st.text(max_size=5), st.just([]), st.just({})
        )
    )
    try:
        kind, config = config_from_json(spec)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
        return  # what read_json turns into a sentence
    assert isinstance(config, GPTConfig) and kind in ("qwen3", "gpt2", None)


CONFIGS = {
    "qwen3": Qwen3Config(num_hidden_layers=1).to_json_string(),
    "gpt2": GPT2Config().to_json_string(),
    "tinygpt": json.dumps({"model_type": "tinygpt"} | vars(SHAPES["mixed"])),
}


@pytest.mark.parametrize("make, kind", [(gpt2, "gpt2"), (qwen3, "qwen3")])
def test_a_tied_model_whose_head_is_another_is_refused(tmp_path, make, kind):
    theirs = make(tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path)
    same_logits(load(tmp_path)[0], theirs)
    edit_config(tmp_path, tie_word_embeddings=True)
    with pytest.raises(ValueError, match="config.json says that lm_head is the embedding.*set tie_word_embeddings"):
        load(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    embed = "transformer.wte.weight" if kind == "gpt2" else "model.embed_tokens.weight"
    save_file(tensors | {"lm_head.weight": tensors[embed].clone()}, tmp_path / "model.safetensors")
    assert load(tmp_path)[0].lm_head is None


@pytest.mark.parametrize("shape", ["modern", "gpt2"])
def test_the_std_of_new_embeddings_is_kept_and_a_strange_one_is_no_error(tmp_path, shape):
    model = GPT(GPTConfig.named(shape, vocab_size=50, n_layer=1, n_embd=16, embedding_std=1.5))
    save(tmp_path, model)
    assert load(tmp_path)[0].config == model.config
    assert AutoConfig.from_pretrained(tmp_path).initializer_range == 1.5
    spec = json.loads((tmp_path / "config.json").read_text())
    for strange in None, "2", True, 0, -1.0, math.nan, math.inf, []:
        assert config_from_json(spec | {"initializer_range": strange})[1].embedding_std == 0.02
    del spec["initializer_range"]
    assert config_from_json(spec)[1].embedding_std == 0.02


def test_a_setting_of_a_later_version_is_refused(tmp_path):
    saved(tmp_path, "mixed")
    edit_config(tmp_path, window=128)
    with pytest.raises(ValueError, match="config.json.*window, which this version"):
        load(tmp_path)


def test_a_config_that_is_no_file_is_not_waited_for(tmp_path):
    saved(tmp_path, "modern")
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises((ValueError, OSError), match="config.json"):
        load(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "tokenizer.json").write_text("{}")
    os.truncate(tmp_path / "tokenizer.json", 2**33)  # sparse: it takes no room
    saved_without = GPT(SHAPES["modern"])
    with pytest.raises(ValueError, match="has a tokenizer"):
        save(tmp_path, saved_without)
    (tmp_path / "config.json").write_text(CONFIGS["tinygpt"])
    with pytest.raises(ValueError):
        load(tmp_path)


def test_nothing_of_another_model_stays_beside_a_new_one(tmp_path):
    tok = BPETokenizer.train(tale(1), 300)
    save(tmp_path, GPT(GPTConfig.gpt2(1024, n_layer=1)), tok)
    with pytest.raises(ValueError, match="has a tokenizer"):
        save(tmp_path, GPT(GPTConfig.gpt2(1024, n_layer=1)))
    other, broken = GPT(GPTConfig.gpt2(1024, n_layer=1, n_head=8)), weights.write_weights

    def stopped(*args, **kwargs):
        broken(*args, **kwargs)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "write_weights", stopped)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, other, tok)
    with pytest.raises(FileNotFoundError, match="config.json"):  # its tensors have the same shapes
        load(tmp_path)
    save(tmp_path, other, tok)
    assert load(tmp_path)[0].config == other.config


def test_only_a_whole_gpt_is_saved(tmp_path):
    with pytest.raises(ValueError, match="not a Linear"):
        save(tmp_path, torch.nn.Linear(2, 2))
    with torch.device("meta"):
        empty = GPT(SHAPES["modern"])
    with pytest.raises(ValueError, match="meta device"):
        save(tmp_path, empty)
    shorter = GPT(SHAPES["modern"])
    del shorter.blocks[1]
    with pytest.raises(ValueError, match=r"was changed: blocks\.1"):
        save(tmp_path, shorter)
    assert not list(tmp_path.iterdir())


def test_the_widest_format_of_a_mixed_model_is_kept(tmp_path):
    model = shaken(GPT(SHAPES["modern"]))
    model.embed.bfloat16()
    save(tmp_path, model)
    back, _ = load(tmp_path)
    assert back.blocks[0].mlp.up.weight.equal(model.blocks[0].mlp.up.weight)


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    model = shaken(GPT(SHAPES["modern"]))
    save("~/run", model)
    assert (tmp_path / "run" / "config.json").exists()
    with torch.inference_mode():
        back, _ = load("~/run")
    back.loss(some_ids(back.config.vocab_size), some_ids(back.config.vocab_size)).backward()


def test_missing_and_extra_tensors_are_named_and_a_wrong_one_with_both_shapes(tmp_path):
    saved(tmp_path, "modern")
    path = tmp_path / "model.safetensors"
    right = load_file(path)
    for change, words in [
        (lambda t: t.pop("model.norm.weight"), ["model.norm.weight"]),
        (lambda t: t.update(rotten=torch.zeros(2)), ["rotten"]),
        (lambda t: t.update({"model.norm.weight": torch.zeros(31)}), ["model.norm.weight", "(31,)", "(32,)"]),
    ]:
        tensors = dict(right)
        change(tensors)
        save_file(tensors, path)
        with pytest.raises(ValueError) as error:
            load(tmp_path)
        assert all(word in str(error.value) for word in [str(path), *words]), error.value


class Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


def test_a_pickle_in_disguise_is_never_opened(tmp_path):
    saved(tmp_path, "gpt2")
    torch.save(Bomb(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors.*pickle"):
        load(tmp_path)


def test_any_changed_byte_of_the_weights_is_noticed(tmp_path):
    model = saved(tmp_path, "modern")
    path = tmp_path / "model.safetensors"
    whole, rng = path.read_bytes(), torch.Generator().manual_seed(0)
    for at in torch.randint(len(whole), (40,), generator=rng).tolist():
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            back, _ = load(tmp_path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert torch.equal(back(some_ids(2048)), model(some_ids(2048)))


def test_a_tokenizer_with_more_tokens_than_the_model_knows_is_refused(tmp_path):
    small = GPT(GPTConfig(1000, 64, 1))
    with pytest.raises(ValueError, match="2048 tokens.*1000"):
        save(tmp_path, small, the_tokenizer())
    assert not list(tmp_path.iterdir())
    save(tmp_path, small)
    the_tokenizer().save(tmp_path)
    with pytest.raises(ValueError, match="2048 tokens.*1000"):
        load(tmp_path)


def test_a_damaged_tokenizer_is_named(tmp_path):
    saved(tmp_path, "modern", BPETokenizer.train(tale(1), 300))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load(tmp_path)


def test_an_unknown_number_format_names_the_known_ones(tmp_path):
    saved(tmp_path, "modern")
    for wrong in "int8", torch.int64, "float", None:
        with pytest.raises(ValueError, match="float32, bfloat16, float16"):
            load(tmp_path, dtype=wrong)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        (tmp_path / "empty").mkdir()
        load(tmp_path / "empty")


NO_VARIANTS = ["x/../../escaped", "../x", "a/b", "a\\b", "C:x", ".", "", "a.b", "a\n", "é", b"x", 7]


@pytest.mark.parametrize("variant", NO_VARIANTS)
def test_a_variant_is_a_plain_name(tmp_path, variant):
    model = saved(tmp_path / "here", "modern", variant="fp16-b_1")
    before = sorted(tmp_path.rglob("*"))
    assert tmp_path / "here" / "model.fp16-b_1.safetensors" in before
    for use in (
        lambda: save(tmp_path / "here", model, variant=variant),
        lambda: load(tmp_path / "here", variant=variant),
    ):
        with pytest.raises(ValueError, match="variant=.* should be a plain name"):
            use()
    assert sorted(tmp_path.rglob("*")) == before


def everything_in(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def by_transformers(folder):
    qwen3().save_pretrained(folder)


def in_parts(folder):
    gpt2().save_pretrained(folder, max_shard_size="10KB")


def a_variant(folder):
    saved(folder, "modern")
    qwen3().save_pretrained(folder, variant="fp16")


def a_pickle(folder):
    torch.save({}, folder / "pytorch_model.bin")


def a_config(folder):
    Qwen3Config().save_pretrained(folder)


def damaged(folder):
    (folder / "model.safetensors").write_bytes(b"damaged")


@pytest.mark.parametrize("make", [by_transformers, in_parts, a_variant, a_pickle, a_config, damaged])
def test_a_model_that_another_wrote_is_not_replaced(tmp_path, make):
    make(tmp_path)
    before = everything_in(tmp_path)
    for variant in None, "best":
        refused = rf"^{tmp_path} has a model that tinygpt did not write \(.*\w\.\w.*\): name"
        with pytest.raises(ValueError, match=refused):
            saved(tmp_path, "modern", variant=variant)
        assert everything_in(tmp_path) == before


@pytest.mark.parametrize("file", ["state/00000010.json", "train.yaml", "log.csv"])
def test_only_a_run_writes_into_its_folder(tmp_path, file):
    saved(tmp_path, "modern", variant="best")
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("of a run")
    before = everything_in(tmp_path)
    with pytest.raises(ValueError, match=rf"the folder of a run \(it has {file.split('/')[0]}\): name another"):
        saved(tmp_path, "modern")
    assert everything_in(tmp_path) == before
    write_model(tmp_path, GPT(SHAPES["modern"]))
    assert (tmp_path / "model.safetensors").exists()


def test_what_tinygpt_wrote_is_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("of a learner")
    for shape in "modern", "gpt2", "modern":
        for variant in None, "best":
            model = saved(tmp_path, shape, variant=variant)
            assert torch.equal(load(tmp_path, variant=variant)[0](some_ids(2048)), model(some_ids(2048)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("make, config", [(Qwen3Model, qwen3), (GPT2Model, gpt2)], ids=["qwen3", "gpt2"])
def test_a_model_without_a_head_has_that_of_its_embedding(tmp_path, make, config, tied):
    theirs = shaken(make(config(tie_word_embeddings=tied).config))
    theirs.save_pretrained(tmp_path)
    if tied:
        same_logits(load(tmp_path)[0], AutoModelForCausalLM.from_pretrained(tmp_path))
    else:
        with pytest.raises(ValueError, match=r"lacks 'lm_head\.weight'"):
            load(tmp_path)


def test_activations_by_another_name_are_the_same():
    x = torch.linspace(-30, 30, 100_001, dtype=torch.float64)
    for name, field in ("qwen3", "hidden_act"), ("gpt2", "activation_function"):
        first, *others = FIXED[name][field]
        assert others
        for other in others:
            torch.testing.assert_close(ACT2FN[other](x), ACT2FN[first](x), rtol=1e-9, atol=1e-9)
    assert (ACT2FN["gelu"](x) - ACT2FN["gelu_new"](x)).abs().max() > 1e-4


@pytest.mark.parametrize(
    "make, field, name", [(qwen3, "hidden_act", "swish"), (gpt2, "activation_function", "gelu_fast")]
)
def test_a_model_with_another_name_of_its_activation(tmp_path, make, field, name):
    theirs = make(**{field: name})
    theirs.save_pretrained(tmp_path)
    same_logits(load(tmp_path)[0], theirs)


@pytest.mark.parametrize("size", ["10KB", "1GB"])
def test_a_variant_of_transformers_in_parts(tmp_path, size):
    theirs = qwen3()
    theirs.save_pretrained(tmp_path, variant="fp16", max_shard_size=size)
    assert len(list(tmp_path.glob("model.fp16*.safetensors"))) > (size == "10KB")
    same_logits(load(tmp_path, variant="fp16")[0], theirs)
    with pytest.raises(FileNotFoundError, match=r"no file model\.safetensors in"):
        load(tmp_path)


@pytest.mark.parametrize("damage", ["{}", "[" * 1000, "link", "fifo", "large"])
def test_a_model_is_loaded_without_a_tokenizer_that_cannot_be_read(tmp_path, damage):
    model, path = saved(tmp_path, "modern"), tmp_path / "tokenizer.json"
    if damage == "link":
        path.symlink_to("gone.json")
    elif damage == "large":
        BPETokenizer.train(STORIES, 2100).save(tmp_path)
    else:
        path.write_text(damage)
    if damage == "fifo":
        path.unlink()
        os.mkfifo(path)
    with pytest.raises((ValueError, OSError), match=r"; to load the model alone, load\(\.\.\., tokenizer=False\)$"):
        load(tmp_path)
    back, tok = load(tmp_path, tokenizer=False)
    assert tok is None and torch.equal(back(some_ids(2048)), model(some_ids(2048)))


STORIES = "".join(map(tale, range(60)))


LOOKED_FOR = "tokenizer.json vocab.json merges.txt config.json model.safetensors model.safetensors.index.json".split()


@pytest.mark.parametrize("file", LOOKED_FOR)
def test_a_link_to_nothing_is_no_missing_file(tmp_path, file, small_gpt2):
    saved(tmp_path, "modern")
    for name in "vocab.json", "merges.txt":
        shutil.copy(small_gpt2 / name, tmp_path)
    path = tmp_path / file
    path.unlink(missing_ok=True)
    if "index" in file:
        (tmp_path / "model.safetensors").unlink()
    path.symlink_to("../gone")
    with pytest.raises(FileNotFoundError, match=f"{re.escape(str(path))} is a link to ../gone, which is not there"):
        load(tmp_path)


@pytest.fixture
def small_gpt2(tmp_path_factory):
    "A small vocab.json and merges.txt, in the form of GPT-2's."
    tok, folder = BPETokenizer.train(tale(1), 300, ["<|endoftext|>"]), tmp_path_factory.mktemp("gpt2")
    merges = [" ".join(tok.words[i] for i in pair) for pair in tok.merges]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(tok.words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return folder


def test_a_small_tokenizer_in_the_form_of_gpt2(tmp_path, small_gpt2):
    saved(tmp_path, "modern")
    for name in "vocab.json", "merges.txt":
        shutil.copy(small_gpt2 / name, tmp_path)
    assert load(tmp_path)[1].encode(tale(1)) == BPETokenizer.train(tale(1), 299).encode(tale(1))
