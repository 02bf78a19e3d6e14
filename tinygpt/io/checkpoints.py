"""Models on disk: written as the Hugging Face libraries read them, and read from what these write."""

import functools
import re
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from tinygpt.io import tokenizer_files, weights
from tinygpt.io.atomic import read_json, readable_errors, write_json
from tinygpt.gpt import GPT, SHAPES, GPTConfig
from tinygpt.tokenizer import BPETokenizer, CharTokenizer, Tokenizer

__all__ = ["load", "save"]

COMMON = {"model_type", "dtype", "bos_token_id", "eos_token_id"}  # what our config.json says beside the shape
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
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
# What other names GPT-2's numbers go by.
ALIASES = {
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
}
# What each part of ours is called there.
NAMES = {
    "qwen3": {
        "embed": "model.embed_tokens",
        "blocks": "model.layers",
        "norm": "model.norm",
        "lm_head": "lm_head",
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
        "position_embedding": "transformer.wpe",
        "blocks": "transformer.h",
        "norm": "transformer.ln_f",
        "lm_head": "lm_head",
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
# What older files carry along: masks and angles.
NO_WEIGHT = re.compile(r"(^|\.)attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")


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
        known = GPTConfig.__dataclass_fields__
        if other := spec.keys() - known.keys() - COMMON:
            raise ValueError(f"it says {', '.join(sorted(other))}, which this version of tinygpt does not know")
        return None, GPTConfig(**{name: spec[name] for name in known})
    if kind not in FIELDS:
        raise ValueError(f"it is a model of the kind {kind!r}, and only {', '.join(FIELDS)} and tinygpt open here")
    for name, known in SETTLED[kind].items():
        if (value := spec.get(name, known[0])) not in known:
            raise ValueError(f"{name}={value!r} makes it another {kind} than opens here, which has {known[0]!r}")
    if spec.get("is_causal", True) is not True or spec.get("quantization_config"):
        raise ValueError("it looks ahead, or its weights are quantized, and such models do not open here")
    if other := {*(spec.get("layer_types") or [])} - {"full_attention"}:
        raise ValueError(
            f"it has layers of the kind {', '.join(map(repr, sorted(other)))}, and only full_attention opens here"
        )
    for alias, name in ALIASES.items() if kind == "gpt2" else ():
        if spec.get(alias, spec.get(name)) != spec.get(name):
            raise ValueError(f"it says {name}={spec.get(name)} and {alias}={spec[alias]}, which are the same thing")
    spec = DEFAULTS[kind] | spec
    if missing := [name for name in FIELDS[kind].values() if name not in spec and name != "rope_theta"]:
        raise ValueError(f"it does not say {', '.join(missing)}")
    if kind == "qwen3":
        spec["rope_theta"] = rope_theta(spec)
    numbers = {ours: spec[theirs] for ours, theirs in FIELDS[kind].items()}
    shape = next(shape for shape, name in KINDS.items() if name == kind)
    return kind, GPTConfig(**SHAPES[shape] | numbers)


def read_gpt_config(folder: Path) -> GPTConfig:
    "The shape of the model in a folder."
    with readable_errors(folder / "config.json"):
        return config_from_json(weights.read_config(folder))[1]


def rope_theta(spec: dict) -> float:
    "How slowly positions turn, from either of the two places where files say so."
    places = [spec.get(name) or {} for name in ("rope_parameters", "rope_scaling")]
    for place in places:
        how = place.get("rope_type") or place.get("type") or "default"
        if how != "default" or any(isinstance(value, dict) for value in place.values()):
            raise ValueError(
                f"its positions are stretched, or not the same in all layers, which this model does not do: {place}"
            )
    said = {float(where["rope_theta"]) for where in (*places, spec) if "rope_theta" in where}
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


def file_of(variant: str | None) -> str:
    "Where the weights are, as transformers names them, too."
    return weights.WEIGHTS if variant is None else f"model.{variant}.safetensors"


def check_model(model: GPT):
    "Refuse what is not a whole GPT, with the tensors of its config."
    if not all(hasattr(getattr(model, "config", None), name) for name in GPTConfig.__dataclass_fields__):
        raise ValueError(f"a GPT is wanted, not a {type(model).__name__}")  # the chapter's own class is one, too
    with torch.device("meta"):
        wanted = GPT(model.config).state_dict()
    if other := sorted(wanted.keys() ^ model.state_dict().keys()):
        raise ValueError(f"this model was changed: {other[0]} is in its config or in its tensors, and not in the other")
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError("this model has shapes and no numbers: it is on the meta device")


def make_room(folder: Path, spec: dict, tok):
    "Let nothing of another model stay beside this one."
    old = [name for name in TOKENIZER if (folder / name).exists()]
    if tok is None and old:
        raise ValueError(f"{folder} has a tokenizer ({old[0]}): give it as tok, or save into another folder")
    path = folder / "config.json"
    if path.is_file():
        try:
            same = read_json(path, dict) == spec
        except ValueError:
            same = False
        if not same:
            path.unlink()  # the new one comes last: a folder that was left in between is no model at all


def save(
    folder: str | Path,
    model: GPT,
    tok: Tokenizer | None = None,
    dtype: str | torch.dtype | None = None,  # "bfloat16" halves the file; if None, what the model has
    variant: str | None = None,  # "best" writes model.best.safetensors, beside other weights of the same model
):
    "Write a model and its tokenizer, in a form that transformers opens if it knows the shape."
    model, folder = getattr(model, "_orig_mod", model), Path(folder).expanduser()  # what torch.compile wraps
    check_model(model)
    check_tokenizer(model.config, tok)
    ours = model.state_dict()
    widest = functools.reduce(torch.promote_types, (tensor.dtype for tensor in ours.values()))
    dtype = widest if dtype is None else as_dtype(dtype)
    kind, spec = kind_of(model.config), config_to_json(model.config, tok, dtype)
    if kind is None:
        why = " or ".join(f"{shape} ({', '.join(other(model.config, shape))})" for shape in SHAPES)
        warnings.warn(f"only tinygpt opens this model, whose shape is not that of {why}", stacklevel=2)
    make_room(folder, spec, tok)
    weights.write_weights(folder, {name: t.to(dtype) for name, t in to_theirs(ours, kind).items()}, file_of(variant))
    if tok is not None:
        tok.save(folder)
    write_json(folder / "config.json", spec)


def empty_model(path: Path, spec: dict, stored: dict) -> tuple[str | None, GPT]:
    "The model that a config.json describes, without its numbers, if it can be made of what is stored."
    with readable_errors(path):
        kind, config = config_from_json(spec)
        try:
            with torch.device("meta"):
                one = GPT(replace(config, n_layer=1)).state_dict()
                each = len({their_name(name, kind) for name in one if name.startswith("blocks.")})
                if config.n_layer * each > len(stored):
                    raise ValueError(f"it has {config.n_layer} layers, and the weights {len(stored)} tensors")
                return kind, GPT(config)
        except RuntimeError as error:
            raise ValueError(f"no such model can be built: {error}") from None


@torch.inference_mode(False)  # what is loaded can be trained
def load(
    name: str | Path,  # a run, a folder that transformers wrote, or a model's name on the hub
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    variant: str | None = None,  # "best" reads model.best.safetensors
) -> tuple[GPT, Tokenizer | None]:
    "A model, ready to write, and its tokenizer, if there is one."
    torch.empty(0, device=device)  # fails at once if there is no such device
    dtype, folder = as_dtype(dtype), weights.find_folder(name, accept=config_from_json)
    spec, stored = weights.read_config(folder), weights.list_weights(folder, file_of(variant))
    kind, model = empty_model(folder / "config.json", spec, stored)
    wanted, config = model.state_dict(), model.config
    bare = kind == "gpt2" and "wte.weight" in stored  # the hub's own has no prefix
    names = {name: name.removeprefix("transformer.") if bare else name for name in to_theirs(wanted, kind)}
    shapes = {names[name]: tuple(tensor.shape) for name, tensor in to_theirs(wanted, kind).items()}
    twice = config.tied and kind is not None and "lm_head.weight" in stored
    if twice:  # older files carry the head of a tied model a second time
        shapes["lm_head.weight"] = config.vocab_size, config.n_embd
    read = weights.read_weights(folder, shapes, NO_WEIGHT, dtype, file_of(variant))
    theirs = {name: read[names[name]] for name in names}
    if twice and not read["lm_head.weight"].equal(theirs[their_name("embed.weight", kind)]):
        wrong = "says that the head is the embedding, but in the weights they differ"
        raise ValueError(f"{folder / 'config.json'} {wrong}: set tie_word_embeddings to false there")
    tok = load_tokenizer(folder)
    check_tokenizer(config, tok)
    model.load_state_dict(to_ours(theirs, wanted, kind), assign=True)
    return model.to(device).eval(), tok


def load_tokenizer(folder: Path) -> Tokenizer | None:
    "The tokenizer of a folder, if it has one."
    if (folder / "tokenizer.json").exists():
        return read_json(folder / "tokenizer.json", tokenizer_from_json)
    if (folder / "merges.txt").exists() and (folder / "vocab.json").exists():
        return tokenizer_files.load_gpt2(BPETokenizer, folder / "vocab.json", folder / "merges.txt")
    return None


def tokenizer_from_json(spec: dict) -> Tokenizer:
    "The tokenizer that a tokenizer.json describes: of characters, or of byte pairs."
    kind = CharTokenizer if spec["model"].get("type") == "WordLevel" else BPETokenizer
    return tokenizer_files.from_json(kind, spec)
