"""Save and load models in Hugging Face's format, so that tinygpt and transformers read each other's models."""

import functools
import os
import re
import warnings
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
import torch
from torch import Tensor
from tinygpt import guard
from tinygpt.gpt import GPT, SHAPES, GPTConfig
from tinygpt.io import tokenizer_files, weights
from tinygpt.io.atomic import checksum, write_json
from tinygpt.io.reading import read_json, readable_errors
from tinygpt.tokenizer import BPETokenizer, CharTokenizer, Tokenizer

__all__ = ["load", "save"]

RUN_FILES = ("state", "train.yaml", "log.csv")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHAPE_OF = {"qwen3": "modern", "gpt2": "gpt2"}  # model types in config.json, and our names for them
ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "gpt2": "GPT2LMHeadModel"}

FIELDS = {  # the fields of GPTConfig, and their names in config.json
    "qwen3": {"vocab_size": "vocab_size", "block_size": "max_position_embeddings", "n_layer": "num_hidden_layers",
              "n_head": "num_attention_heads", "n_kv_head": "num_key_value_heads", "n_embd": "hidden_size",
              "n_hidden": "intermediate_size", "head_dim": "head_dim", "dropout": "attention_dropout",
              "tied": "tie_word_embeddings", "rope_base": "rope_theta", "norm_eps": "rms_norm_eps",
              "embedding_std": "initializer_range"},
    "gpt2": {"vocab_size": "vocab_size", "block_size": "n_positions", "n_layer": "n_layer", "n_head": "n_head",
             "n_embd": "n_embd", "n_hidden": "n_inner", "dropout": "resid_pdrop", "tied": "tie_word_embeddings",
             "norm_eps": "layer_norm_epsilon", "embedding_std": "initializer_range"}}
DEFAULTS = {  # for fields that a config.json may lack
    "qwen3": {"tie_word_embeddings": False, "attention_dropout": 0.0, "rms_norm_eps": 1e-6},
    "gpt2": {"tie_word_embeddings": True, "resid_pdrop": 0.1, "layer_norm_epsilon": 1e-5, "n_inner": None}}
GELUS = ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python_tanh", "gelu_accurate"]  # one formula
FIXED = {  # settings that must have one of these values, of which the first is the default
    "qwen3": {"hidden_act": ["silu", "swish"], "attention_bias": [False], "use_sliding_window": [False]},
    "gpt2": {"activation_function": GELUS, "scale_attn_weights": [True],
             "scale_attn_by_inverse_layer_idx": [False], "add_cross_attention": [False]}}
GPT2_ALIASES = {"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer",
                "max_position_embeddings": "n_positions"}
NAMES = {  # the parts of GPT, and their names in model.safetensors; GPT-2 has query, key and value in one matrix
    "qwen3": {"embed": "model.embed_tokens", "blocks": "model.layers", "norm": "model.norm", "lm_head": "lm_head",
              "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
              "attention.query": "self_attn.q_proj", "attention.key": "self_attn.k_proj",
              "attention.value": "self_attn.v_proj", "attention.proj": "self_attn.o_proj",
              "attention.query_norm": "self_attn.q_norm", "attention.key_norm": "self_attn.k_norm",
              "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj", "mlp.down": "mlp.down_proj"},
    "gpt2": {"embed": "transformer.wte", "position_embedding": "transformer.wpe", "blocks": "transformer.h",
             "norm": "transformer.ln_f", "lm_head": "lm_head", "attention_norm": "ln_1", "mlp_norm": "ln_2",
             "attention.query": "attn.c_attn", "attention.key": "attn.c_attn", "attention.value": "attn.c_attn",
             "attention.proj": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"}}
BUFFERS = re.compile(r"(^|\.)attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")  # in older files: masks and angles

def differences(config: GPTConfig, shape: str) -> list[str]:
    "The fields in which a config differs from a shape that transformers supports."
    wanted = {name: value for name, value in SHAPES[shape].items() if name != "norm_eps"}
    if shape == "gpt2":
        wanted |= {"n_kv_head": config.n_head, "head_dim": config.n_embd / config.n_head}
    return [f"{name}={getattr(config, name)!r}" for name, value in wanted.items() if getattr(config, name) != value]

def hf_model_type(config: GPTConfig) -> str | None:
    "The model type of this shape in transformers; None if it has none."
    return next((name for name, shape in SHAPE_OF.items() if not differences(config, shape)), None)

def hf_name(name: str, model_type: str | None) -> str:
    "A tensor's name in transformers: blocks.0.mlp.up.weight becomes transformer.h.0.mlp.c_fc.weight."
    if model_type is None:
        return name
    names, (*path, last) = NAMES[model_type], name.split(".")
    if path[0] == "blocks":
        return ".".join([names["blocks"], path[1], names[".".join(path[2:])], last])
    return f"{names['.'.join(path)]}.{last}"

def transpose_for_gpt2(name: str, tensor: Tensor, model_type: str | None) -> Tensor:
    "The tensor, transposed if it is a matrix of a GPT-2 block: those are stored as (inputs, outputs)."
    return tensor.T if model_type == "gpt2" and name.startswith("blocks.") and tensor.dim() == 2 else tensor

def to_hf(tensors: dict[str, Tensor], model_type: str | None) -> dict[str, Tensor]:
    "A model's tensors as transformers stores them: for GPT-2, query, key and value are joined in one matrix."
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        parts.setdefault(hf_name(name, model_type), []).append(transpose_for_gpt2(name, tensor, model_type))
    return {name: torch.cat(part, dim=-1) if len(part) > 1 else part[0] for name, part in parts.items()}

def from_hf(stored: dict[str, Tensor], wanted: dict[str, Tensor], model_type: str | None) -> dict[str, Tensor]:
    "A model's tensors, from those that transformers stores; the dict `stored` is emptied."
    tensors = {}
    for name, like in wanted.items():
        there, size = hf_name(name, model_type), transpose_for_gpt2(name, like, model_type).shape[-1]
        part, rest = stored.pop(there).tensor_split([size], dim=-1)
        if rest.numel():  # the key and the value, or the value alone
            stored[there] = rest
        tensors[name] = transpose_for_gpt2(name, part, model_type).contiguous()
    return tensors

def config_to_json(config: GPTConfig, tok, dtype: torch.dtype) -> dict:
    "The content of config.json."
    model_type, special = hf_model_type(config), getattr(tok, "special_tokens", {})
    end = next((special[name] for name in ("<|end|>", "<|endoftext|>") if name in special), None)
    common = {"dtype": str(dtype).removeprefix("torch."), "bos_token_id": end, "eos_token_id": end}
    if model_type is None:
        return {"model_type": "tinygpt"} | asdict(config) | common
    spec = {"architectures": [ARCHITECTURES[model_type]], "model_type": model_type}
    spec |= {hf_field: getattr(config, field) for field, hf_field in FIELDS[model_type].items()}
    spec |= {name: values[0] for name, values in FIXED[model_type].items()}
    if model_type == "gpt2":
        return spec | {"embd_pdrop": config.dropout, "attn_pdrop": config.dropout} | common
    return spec | {"rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base}} | common

def config_from_json(spec: dict) -> tuple[str | None, GPTConfig]:
    "The model type (None if only tinygpt knows it) and the config that a config.json describes."
    model_type, fields = spec.get("model_type"), GPTConfig.__dataclass_fields__
    if model_type == "tinygpt":
        if unknown := spec.keys() - fields.keys() - {"model_type", "dtype", "bos_token_id", "eos_token_id"}:
            raise ValueError(f"it says {', '.join(sorted(unknown))}, which this version of tinygpt does not know")
        return None, GPTConfig(**{name: spec[name] for name in fields})
    if model_type not in FIELDS:
        raise ValueError(f"its model_type is {model_type!r}, and only {', '.join(FIELDS)} and tinygpt open here")
    for name, known in FIXED[model_type].items():
        if (value := spec.get(name, known[0])) not in known:
            raise ValueError(f"it says {name}={value!r}, and a {model_type} opens here only with {known[0]!r}")
    if spec.get("is_causal", True) is not True or spec.get("quantization_config"):
        raise ValueError("its attention is not causal, or its weights are quantized: such models do not open here")
    if unknown := {*(spec.get("layer_types") or [])} - {"full_attention"}:
        raise ValueError(f"it has layer_types {', '.join(sorted(unknown))}, and only full_attention opens here")
    for alias, name in GPT2_ALIASES.items() if model_type == "gpt2" else ():
        if spec.get(alias, spec.get(name)) != spec.get(name):
            raise ValueError(f"it says {name}={spec.get(name)} and {alias}={spec[alias]}, which should be the same")
    spec = DEFAULTS[model_type] | spec | {"initializer_range": initializer_range(spec)}
    if model_type == "qwen3":
        spec["rope_theta"] = rope_theta(spec)
    if missing := [name for name in FIELDS[model_type].values() if name not in spec]:
        raise ValueError(f"it does not say {', '.join(missing)}")
    numbers = {field: spec[hf_field] for field, hf_field in FIELDS[model_type].items()}
    return model_type, GPTConfig(**SHAPES[SHAPE_OF[model_type]] | numbers)

def initializer_range(spec: dict) -> float:
    "The std of new embeddings; a loaded model does not use it, so a missing or invalid value is ignored."
    std = spec.get("initializer_range")
    try:
        guard.number("initializer_range", std, positive=True)
    except ValueError:
        return 0.02  # the default of transformers
    return std

def rope_theta(spec: dict) -> float:
    "The base of the rotary positions, which may be given in two places; raises ValueError if they are scaled."
    places = [spec.get(name) or {} for name in ("rope_parameters", "rope_scaling")]
    for place in places:
        rope_type = place.get("rope_type") or place.get("type") or "default"
        if rope_type != "default" or any(isinstance(value, dict) for value in place.values()):
            raise ValueError(f"its rotary positions are scaled, or not the same in all layers: {place}")
    bases = {float(place["rope_theta"]) for place in (*places, spec) if "rope_theta" in place}
    if len(bases) > 1:
        raise ValueError(f"it has two different values of rope_theta: {sorted(bases)}")
    return bases.pop() if bases else 10_000.0

def check_tokenizer(config: GPTConfig, tok):
    "Raise ValueError if a tokenizer has more tokens than the model."
    if tok is not None and tok.vocab_size > config.vocab_size:
        raise ValueError(f"the tokenizer has {tok.vocab_size} tokens, and the model knows {config.vocab_size}")

def parse_dtype(dtype: str | torch.dtype) -> torch.dtype:
    "The torch dtype of this name."
    if (name := str(dtype).removeprefix("torch.")) not in DTYPES:
        raise ValueError(f"dtype={dtype!r} should be one of {', '.join(DTYPES)}")
    return DTYPES[name]

def check_model(model: GPT):
    "Raise ValueError unless a model is a GPT with exactly the tensors that its config describes."
    if not all(hasattr(getattr(model, "config", None), name) for name in GPTConfig.__dataclass_fields__):
        raise ValueError(f"expected a GPT, not a {type(model).__name__}")  # one from a notebook counts
    with torch.device("meta"):
        wanted = GPT(model.config).state_dict()
    if changed := sorted(wanted.keys() ^ model.state_dict().keys()):
        raise ValueError(f"this model was changed: {changed[0]} is in its config or its tensors, and not in the other")
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError("this model is on the meta device: it has shapes, but no numbers")

def remove_old_config(folder: Path, spec: dict, tok):
    "Remove the config.json of another model; raise ValueError if a tokenizer would stay beside a model without one."
    old = [name for name in TOKENIZER_FILES if (folder / name).exists()]
    if tok is None and old:
        raise ValueError(f"{folder} has a tokenizer ({old[0]}): give it as tok, or save into another folder")
    path = folder / "config.json"
    with suppress(ValueError):
        if path.is_file() and read_json(path) == spec:
            return
    path.unlink(missing_ok=True)  # the new one is written last: if saving is interrupted, the folder holds no model

def save(
    folder: str | Path,
    model: GPT,
    tok: Tokenizer | None = None,
    dtype: str | torch.dtype | None = None,  # "bfloat16" halves the file; if None, the model's own
    variant: str | None = None,  # "best" writes model.best.safetensors, beside other weights of the same model
):
    "Write a model and its tokenizer; transformers opens them if the model has the shape of GPT-2 or Qwen3."
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"the folder comes first: save(folder, model, tok); this is a {type(folder).__name__}")
    folder = Path(folder).expanduser()
    if run := [name for name in RUN_FILES if (folder / name).exists()]:
        raise ValueError(f"{folder} is the folder of a run (it has {run[0]}): name another folder")
    weights.check_replaceable(folder)
    write_model(folder, model, tok, dtype, variant)

def write_model(folder: str | Path, model: GPT, tok: Tokenizer | None = None, dtype: str | torch.dtype | None = None,
                variant: str | None = None):
    "Write a model as `save` does, whatever is in the folder."
    file = weights.weights_file(variant)
    model, folder = getattr(model, "_orig_mod", model), Path(folder).expanduser()  # what torch.compile wraps
    check_model(model)
    check_tokenizer(model.config, tok)
    tensors = model.state_dict()
    widest = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
    dtype = widest if dtype is None else parse_dtype(dtype)
    model_type, spec = hf_model_type(model.config), config_to_json(model.config, tok, dtype)
    if model_type is None:
        why = " or ".join(f"{shape} ({', '.join(differences(model.config, shape))})" for shape in SHAPE_OF.values())
        warnings.warn(f"only tinygpt opens this model, whose shape is not that of {why}", stacklevel=3)
    remove_old_config(folder, spec, tok)
    stored = {name: tensor.to(dtype) for name, tensor in to_hf(tensors, model_type).items()}
    weights.write_weights(folder, stored, file, asdict(model.config))
    if tok is not None:
        tok.save(folder)
    write_json(folder / "config.json", spec)

def build_on_meta(path: Path, spec: dict, n_stored: int) -> tuple[str | None, GPT]:
    "The model that a config.json describes, on the meta device; raises ValueError if `n_stored` tensors are too few."
    with readable_errors(path):
        model_type, config = config_from_json(spec)
        with torch.device("meta"):
            one_layer = GPT(replace(config, n_layer=1)).blocks.state_dict(prefix="blocks.")
            if config.n_layer * len(to_hf(one_layer, model_type)) > n_stored:
                raise ValueError(f"it has {config.n_layer} layers, and the weights {n_stored} tensors")
            return model_type, GPT(config)

@torch.inference_mode(False)  # so that the loaded model can be trained
def load(
    name: str | Path,  # a run, a folder that transformers wrote, or a model's name on the hub
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    variant: str | None = None,  # "best" reads model.best.safetensors
    tokenizer: bool = True,  # False: load the model only, and return None as its tokenizer
) -> tuple[GPT, Tokenizer | None]:
    "A model in evaluation mode, and its tokenizer, if there is one."
    guard.device(device)
    dtype, file = parse_dtype(dtype), weights.weights_file(variant)
    folder = weights.find_folder(name, config_from_json)
    spec, found = weights.read_config(folder), weights.list_weights(folder, file)
    model_type, model = build_on_meta(folder / "config.json", spec, len(found))
    if weights.config_crc32(folder, file) not in (None, checksum(asdict(model.config))):
        raise ValueError(f"{folder / 'config.json'} is damaged, or was changed since {file} was written: get both anew")
    wanted, tied = model.state_dict(), model.config.tied
    expected, embedding = to_hf(wanted, model_type), hf_name("embed.weight", model_type)
    prefix, _, bare = embedding.partition(".")  # the hub's GPT-2 has its tensors without a prefix, as a Qwen3Model has
    prefix = f"{prefix}." if bare in found else ""
    if repeated := tied and model_type is not None and "lm_head.weight" in found:  # in older files
        expected["lm_head.weight"] = expected[embedding]
    shapes = {name.removeprefix(prefix): tuple(tensor.shape) for name, tensor in expected.items()}
    stored = weights.read_weights(folder, shapes, BUFFERS, dtype, file)
    stored = {name: stored.pop(name.removeprefix(prefix)) for name in expected}
    if repeated and not stored["lm_head.weight"].equal(stored[embedding]):
        wrong = "says that lm_head is the embedding, but in the weights they differ"
        raise ValueError(f"{folder / 'config.json'} {wrong}: set tie_word_embeddings to false there")
    tok = load_tokenizer_of(folder, model.config) if tokenizer else None
    model.load_state_dict(from_hf(stored, wanted, model_type), assign=True)
    return model.to(device).eval(), tok

def load_tokenizer_of(folder: Path, config: GPTConfig) -> Tokenizer | None:
    "The tokenizer of a model's folder, if it has one; an error says how to load the model without it."
    try:
        tok = load_tokenizer(folder)
        check_tokenizer(config, tok)
        return tok
    except (ValueError, OSError) as error:
        kind = next(kind for kind in (ValueError, FileNotFoundError, OSError) if isinstance(error, kind))
        raise kind(f"{error}; to load the model alone, load(..., tokenizer=False)") from error

def load_tokenizer(folder: Path) -> Tokenizer | None:
    "The tokenizer in a folder, a CharTokenizer or a BPETokenizer; None if there is none."
    if weights.is_there(folder / "tokenizer.json"):
        return tokenizer_files.load(BPETokenizer, folder, CharTokenizer)
    if tokenizer_files.kept_checksum(folder):
        raise FileNotFoundError(f"{folder} has a tokenizer_config.json, but its tokenizer.json is gone: get it again")
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    if weights.is_there(vocab) and weights.is_there(merges):
        return tokenizer_files.load_gpt2(BPETokenizer, vocab, merges)
    return None
