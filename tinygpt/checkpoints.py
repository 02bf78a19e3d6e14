"""Models on disk: written as the Hugging Face libraries read them, and read from what these write."""

import re
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from tinygpt import weights
from tinygpt.files import read_json, write_json
from tinygpt.gpt import GPT, SHAPES, GPTConfig
from tinygpt.tokenizer import BPETokenizer, CharTokenizer, Tokenizer

__all__ = ["load", "save"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KINDS = {"modern": "qwen3", "gpt2": "gpt2"}  # our shapes, and what others call them

# What each number of ours is called there.
FIELDS = {
    "qwen3": {
        "vocab_size": "vocab_size",
        "block_size": "max_position_embeddings",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_kv_head": "num_key_value_heads",
        "n_embd": "hidden_size",
        "n_hidden": "intermediate_size",
        "head_dim": "head_dim",
        "dropout": "attention_dropout",
        "tied": "tie_word_embeddings",
        "rope_base": "rope_theta",
        "norm_eps": "rms_norm_eps",
    },
    "gpt2": {
        "vocab_size": "vocab_size",
        "block_size": "n_positions",
        "n_layer": "n_layer",
        "n_head": "n_head",
        "n_embd": "n_embd",
        "n_hidden": "n_inner",
        "dropout": "resid_pdrop",
        "tied": "tie_word_embeddings",
        "norm_eps": "layer_norm_epsilon",
    },
}
# What a file leaves out, and what else it may say without being another shape.
DEFAULTS = {
    "qwen3": {"tie_word_embeddings": False, "attention_dropout": 0.0, "rms_norm_eps": 1e-6},
    "gpt2": {"tie_word_embeddings": True, "resid_pdrop": 0.1, "layer_norm_epsilon": 1e-5, "n_inner": None},
}
SETTLED = {
    "qwen3": {"hidden_act": ["silu"], "attention_bias": [False], "use_sliding_window": [False]},
    "gpt2": {
        "activation_function": ["gelu_new", "gelu_pytorch_tanh"],
        "scale_attn_weights": [True],
        "scale_attn_by_inverse_layer_idx": [False],
        "add_cross_attention": [False],
    },
}
# What each part of ours is called there.
NAMES = {
    "qwen3": {
        "embed": "model.embed_tokens",
        "blocks": "model.layers",
        "norm": "model.norm",
        "head": "lm_head",
        "attention_norm": "input_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.proj": "self_attn.o_proj",
        "attention.query_norm": "self_attn.q_norm",
        "attention.key_norm": "self_attn.k_norm",
        "mlp_norm": "post_attention_layernorm",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
    },
    "gpt2": {
        "embed": "transformer.wte",
        "place": "transformer.wpe",
        "blocks": "transformer.h",
        "norm": "transformer.ln_f",
        "head": "lm_head",
        "attention_norm": "ln_1",
        "attention.query": "attn.c_attn",  # one matrix for all three
        "attention.key": "attn.c_attn",
        "attention.value": "attn.c_attn",
        "attention.proj": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    },
}
# What older files carry along: masks, angles, and the head of a tied model a second time.
NO_WEIGHT, NO_HEAD = r"(^|\.)attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$", r"|^lm_head\.weight$"


def other(config: GPTConfig, shape: str) -> list[str]:
    "In which choices a model is not of this shape."
    wanted = {name: value for name, value in SHAPES[shape].items() if name != "norm_eps"}
    if shape == "gpt2":
        wanted |= {"n_kv_head": config.n_head, "head_dim": config.n_embd / config.n_head}
    return [f"{name}={getattr(config, name)!r}" for name, value in wanted.items() if getattr(config, name) != value]


def kind_of(config: GPTConfig) -> str | None:
    "What other tools call a model of this shape, if they know it."
    return next((kind for shape, kind in KINDS.items() if not other(config, shape)), None)


def their_name(ours: str, kind: str | None) -> str:
    "What a tensor of ours is called there: blocks.0.mlp.up.weight becomes transformer.h.0.mlp.c_fc.weight."
    if kind is None:
        return ours
    names, (*path, last) = NAMES[kind], ours.split(".")
    if path[0] == "blocks":
        return ".".join([names["blocks"], path[1], names[".".join(path[2:])], last])
    return f"{names['.'.join(path)]}.{last}"


def groups(ours: dict[str, Tensor], kind: str | None) -> dict[str, list[str]]:
    "Which tensors of ours make up each of theirs."
    together = {}
    for name in ours:
        together.setdefault(their_name(name, kind), []).append(name)
    return together


def turned(name: str, tensor: Tensor, kind: str | None) -> Tensor:
    "The matrices of GPT-2's blocks lie on their side there."
    return tensor.T if kind == "gpt2" and ".h." in f".{name}" and tensor.dim() == 2 else tensor


def to_theirs(ours: dict[str, Tensor], kind: str | None) -> dict[str, Tensor]:
    "The tensors of a model as they stand in a file."
    theirs = {}
    for there, names in groups(ours, kind).items():
        parts = [ours[name] for name in names]
        theirs[there] = turned(there, torch.cat(parts) if len(parts) > 1 else parts[0], kind)
    return theirs


def to_ours(theirs: dict[str, Tensor], wanted: dict[str, Tensor], kind: str | None) -> dict[str, Tensor]:
    "The tensors of a file as a model wants them."
    ours = {}
    for there, names in groups(wanted, kind).items():
        parts = turned(there, theirs.pop(there), kind).split([len(wanted[name]) for name in names])
        ours |= {name: part.contiguous() for name, part in zip(names, parts)}
    return ours


def config_to_json(config: GPTConfig, tok, dtype: torch.dtype) -> dict:
    "What config.json says of a model."
    kind = kind_of(config)
    special = getattr(tok, "special_tokens", {})
    end = next((special[name] for name in ("<|end|>", "<|endoftext|>") if name in special), None)
    common = {"dtype": str(dtype).removeprefix("torch."), "bos_token_id": end, "eos_token_id": end}
    if kind is None:
        return {"model_type": "tinygpt"} | asdict(config) | common
    spec = {theirs: getattr(config, ours) for ours, theirs in FIELDS[kind].items()}
    spec |= {name: values[0] for name, values in SETTLED[kind].items()}
    if kind == "gpt2":
        spec |= {"embd_pdrop": config.dropout, "attn_pdrop": config.dropout}
    else:
        spec |= {"rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base}}
    architecture = {"gpt2": "GPT2LMHeadModel", "qwen3": "Qwen3ForCausalLM"}[kind]
    return {"architectures": [architecture], "model_type": kind} | spec | common


def config_from_json(spec: dict) -> tuple[str | None, GPTConfig]:
    "What kind of model a config.json describes, and its shape as we name it."
    kind = spec.get("model_type")
    if kind == "tinygpt":
        return None, GPTConfig(**{name: spec[name] for name in GPTConfig.__dataclass_fields__})
    if kind not in FIELDS:
        raise ValueError(f"it is a model of the kind {kind!r}, and only {', '.join(FIELDS)} and tinygpt open here")
    for name, known in SETTLED[kind].items():
        if (value := spec.get(name, known[0])) not in known:
            raise ValueError(f"{name}={value!r} makes it another {kind} than opens here, which has {known[0]!r}")
    spec = DEFAULTS[kind] | spec
    if kind == "qwen3":
        spec["rope_theta"] = rope_theta(spec)
    numbers = {ours: spec[theirs] for ours, theirs in FIELDS[kind].items()}
    shape = next(shape for shape, name in KINDS.items() if name == kind)
    return kind, GPTConfig(**SHAPES[shape] | numbers)


def rope_theta(spec: dict) -> float:
    "How slowly positions turn, from either of the two places where files say so."
    inner = spec.get("rope_parameters") or spec.get("rope_scaling") or {}
    how = inner.get("rope_type") or inner.get("type") or "default"
    if how != "default":
        raise ValueError(f"its positions are stretched ({how!r}), which this model does not do")
    said = {float(where["rope_theta"]) for where in (inner, spec) if "rope_theta" in where}
    if len(said) > 1:
        raise ValueError(f"it says rope_theta twice, and not the same: {sorted(said)}")
    return said.pop() if said else 10_000.0


def check_tokenizer(config: GPTConfig, tok):
    "Refuse a tokenizer with ids that the model does not know."
    if tok is not None and tok.vocab_size > config.vocab_size:
        raise ValueError(f"the tokenizer has {tok.vocab_size} tokens, and the model knows {config.vocab_size}")


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    "The number format of this name."
    if (name := str(dtype).removeprefix("torch.")) not in DTYPES:
        raise ValueError(f"dtype={dtype!r} should be one of {', '.join(DTYPES)}")
    return DTYPES[name]


def save(
    folder: str | Path,
    model: GPT,
    tok: Tokenizer | None = None,
    dtype: str | torch.dtype | None = None,  # "bfloat16" halves the file; if None, what the model has
):
    "Write a model and its tokenizer, in a form that transformers opens if it knows the shape."
    model, folder = getattr(model, "_orig_mod", model), Path(folder)  # what torch.compile wraps
    check_tokenizer(model.config, tok)
    ours = model.state_dict()
    dtype = ours["embed.weight"].dtype if dtype is None else as_dtype(dtype)
    kind = kind_of(model.config)
    if kind is None:
        why = " or ".join(f"{shape} ({', '.join(other(model.config, shape))})" for shape in SHAPES)
        warnings.warn(f"only tinygpt opens this model, whose shape is not that of {why}", stacklevel=2)
    weights.write_weights(folder, {name: t.to(dtype) for name, t in to_theirs(ours, kind).items()})
    if tok is not None:
        tok.save(folder)
    write_json(folder / "config.json", config_to_json(model.config, tok, dtype))


def load(
    name: str | Path,  # a run, a folder that transformers wrote, or a model's name on the hub
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
) -> tuple[GPT, Tokenizer | None]:
    "A model, ready to write, and its tokenizer, if there is one."
    dtype, folder = as_dtype(dtype), weights.find_folder(name, accept=config_from_json)
    kind, config = read_json(folder / "config.json", config_from_json)
    stored = weights.list_weights(folder)
    if config.n_layer > len(stored):
        raise ValueError(f"{folder / 'config.json'} has {config.n_layer} layers, and the weights {len(stored)} tensors")
    with torch.device("meta"):
        model = GPT(config)
    wanted = model.state_dict()
    shapes = {there: tuple(tensor.shape) for there, tensor in to_theirs(wanted, kind).items()}
    ignore = re.compile(NO_WEIGHT + (NO_HEAD if config.tied else ""))
    if kind == "gpt2" and "wte.weight" in stored:  # the hub's own has no prefix
        bare = {there.removeprefix("transformer."): shape for there, shape in shapes.items()}
        read = weights.read_weights(folder, bare, ignore, dtype)
        theirs = {there: read.pop(there.removeprefix("transformer.")) for there in shapes}
    else:
        theirs = weights.read_weights(folder, shapes, ignore, dtype)
    tok = load_tokenizer(folder)
    check_tokenizer(config, tok)
    model.load_state_dict(to_ours(theirs, wanted, kind), assign=True)
    return model.to(device).eval(), tok


def load_tokenizer(folder: Path) -> Tokenizer | None:
    "The tokenizer of a folder, if it has one."
    if (folder / "tokenizer.json").exists():
        return read_json(folder / "tokenizer.json", tokenizer_from_json)
    if (folder / "merges.txt").exists():
        return BPETokenizer.from_gpt2(folder / "vocab.json", folder / "merges.txt")
    return None


def tokenizer_from_json(spec: dict) -> Tokenizer:
    "The tokenizer that a tokenizer.json describes: of characters, or of byte pairs."
    return (CharTokenizer if spec["model"].get("type") == "WordLevel" else BPETokenizer).from_json(spec)
