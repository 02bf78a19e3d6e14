"""Checks of arguments: each raises a ValueError that shows the value given and says what would be valid."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import index
import numpy as np
import torch
from torch import Tensor

CHAT_TOKENS = ("<|user|>", "<|assistant|>", "<|end|>")
GPT_SIZES = ("vocab_size", "block_size", "n_layer", "n_head", "n_kv_head", "n_embd", "n_hidden", "head_dim")

def whole_number(name: str, value: int, least: int, most: int = 2**32 - 1) -> int:
    "The value as an int; raises ValueError unless it is a whole number in this range."
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        raise ValueError(f"{name}={value!r} should be a whole number from {least} to {most}")
    return number

def number(name: str, value: float, limit: float = math.inf, least: float = 0, positive: bool = False):
    "Raise ValueError unless the value is a number, at least `least` and below `limit`; `positive`: above 0."
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value < limit or (positive and value == 0):
        low, high = "above 0" if positive else f"{least} or more", f" and below {limit:g}" if limit < math.inf else ""
        raise ValueError(f"{name}={value!r} should be a number, {low}{high}")

def fraction(name: str, value: float):
    "Raise ValueError unless the value is a number from 0 to 1."
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r} should be a number from 0 to 1")

def choice(name: str, value: object, known: Iterable):
    "Raise ValueError for an unknown option."
    known = list(known)
    if value not in known or type(value) is not type(known[0]):
        raise ValueError(f"{name}={value!r} should be {', '.join(map(repr, known[:-1]))} or {known[-1]!r}")

def heads(n_embd: int, n_head: int, n_kv_head: int | None, head_dim: int | None):
    "Raise ValueError unless n_embd divides into heads, and the query heads into groups with shared keys and values."
    whole_number("n_embd", n_embd, 1)
    whole_number("n_head", n_head, 1)
    whole_number("n_kv_head", n_head if n_kv_head is None else n_kv_head, 1)
    whole_number("head_dim", 1 if head_dim is None else head_dim, 1)
    if head_dim is None and n_embd % n_head:
        raise ValueError(f"n_embd={n_embd} is not divisible by n_head={n_head}: make n_embd a multiple of {n_head}, or "
                         "set head_dim")
    if n_kv_head is not None and n_head % n_kv_head:
        raise ValueError(f"n_head={n_head} is not a multiple of n_kv_head={n_kv_head}, so the query heads cannot "
                         f"share the key/value heads equally: choose a divisor of {n_head}")

def config(config, kind: str):
    "The config; raises ValueError unless it is of the class with this name, which a notebook may have defined."
    if kind not in [base.__name__ for base in type(config).__mro__]:
        given = "**config" if isinstance(config, Mapping) else "..."
        raise ValueError(f"config={config!r:.60} should be a {kind}: give {kind}({given})")
    return config

def gpt_config(c, norms: Mapping, mlps: Mapping):
    "Raise ValueError for a shape that cannot be built."
    flags = dict.fromkeys(("qk_norm", "bias", "tied"), (True, False))
    for name, known in ({"position": ("rope", "learned"), "norm": norms, "mlp": mlps} | flags).items():
        choice(name, getattr(c, name), known)
    number("dropout", c.dropout, limit=1)
    number("norm_eps", c.norm_eps, limit=1)
    number("embedding_std", c.embedding_std, positive=True)
    number("rope_base", c.rope_base, limit=1e12, least=1)
    for name in "vocab_size", "block_size", "n_layer":
        whole_number(name, getattr(c, name), 1)
    whole_number("n_hidden", 1 if c.n_hidden is None else c.n_hidden, 1)
    heads(c.n_embd, c.n_head, c.n_kv_head, c.head_dim)
    head_dim = c.head_dim or c.n_embd // c.n_head
    if c.position == "rope" and head_dim % 2:
        share = "" if c.head_dim else f" (n_embd={c.n_embd} / n_head={c.n_head})"
        raise ValueError(f"head_dim={head_dim}{share} is odd, and rope rotates pairs: make it even, or choose "
                         "position='learned'")

def plain_sizes(c):
    "The same config with its sizes as plain int, which NumPy's integers are not."
    return replace(c, **{name: int(getattr(c, name)) for name in GPT_SIZES})

def token_ids(name: str, ids: Tensor, c):
    "Raise ValueError unless these are token ids (B, T) that a model of this shape can read."
    if not isinstance(ids, Tensor):
        raise ValueError(f"{name} must be a torch.Tensor, not {type(ids).__name__}")
    if ids.dim() != 2 or 0 in ids.shape:
        raise ValueError(f"{name} of shape {tuple(ids.shape)} should be a batch of texts, (B, T), with at least one "
                         "token; for a single text, ids[None]")
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name} are {ids.dtype}, but should be whole numbers (torch.int64 or int32)")
    if ids.shape[1] > c.block_size:
        raise ValueError(f"{name} of {ids.shape[1]} tokens are more than block_size={c.block_size}, the context window "
                         "of this model: cut them, or build a model with a larger one")
    low, high = ids.aminmax() if can_read(ids) else (0, 0)
    if low < 0 or high >= c.vocab_size:
        raise ValueError(f"{name} contain {low if low < 0 else high}, but this model's vocabulary goes from 0 to "
                         f"{c.vocab_size - 1}: were they made by another tokenizer?")

def can_read(tensor: Tensor) -> bool:
    "Whether values can be inspected without waiting for a GPU or breaking a compiled graph."
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()

def model_inputs(ids: Tensor, c, positions: Tensor | None, attention_mask: Tensor | None, cache: Sequence | None,
                 head_scale: Tensor | None, weights_out: list | None, checkpointing: bool):
    "Raise ValueError for inputs that the model cannot read, or would misread silently."
    token_ids("ids", ids, c)
    B, T = ids.shape
    if positions is None and cache is not None:
        raise ValueError("positions are required with a cache: the position of each token in the whole text")
    if positions is not None:
        if positions.shape not in ((T,), (1, T), (B, T)) or positions.is_floating_point():
            raise ValueError(f"positions of shape {tuple(positions.shape)}, {positions.dtype}, should be whole "
                             f"numbers, ({T},) or ({B}, {T})")
        low, high = positions.aminmax() if can_read(ids) and c.position == "learned" else (0, 0)
        if low < 0 or high >= c.block_size:
            raise ValueError(f"positions go from {low} to {high}, but this model has learned only 0 to "
                             f"{c.block_size - 1} (block_size={c.block_size}): cut the text")
    if attention_mask is not None and (attention_mask.dim(), attention_mask.dtype) != (4, torch.bool):
        raise ValueError(f"attention_mask of shape {tuple(attention_mask.shape)}, {attention_mask.dtype}, should be "
                         "torch.bool, (B, 1, T, S); to leave out padding, mask[:, None, None]")
    if head_scale is not None and head_scale.shape != (c.n_layer, c.n_head):
        raise ValueError(f"head_scale of shape {tuple(head_scale.shape)} should have a number for each head, "
                         f"({c.n_layer}, {c.n_head})")
    if checkpointing and (weights_out is not None or cache is not None):
        raise ValueError("checkpointing runs each block twice, so it cannot be combined with weights_out or cache")

def loss_targets(ids: Tensor, targets: Tensor, mask: Tensor | None, c):
    "Raise ValueError unless targets and mask have the shape of the ids, and the targets that count are token ids."
    for name, given in ("targets", targets), ("mask", mask):
        if given is not None and given.shape != ids.shape:
            raise ValueError(f"{name} of shape {tuple(given.shape)} should have that of the ids, {tuple(ids.shape)}")
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"the mask is {mask.dtype}, but should be torch.bool: true where a target counts")
    token_ids("targets", targets if mask is None else targets.masked_fill(~mask, 0), c)

def rates(**rates: float | None):
    "Raise ValueError unless every rate that is given is a finite number >= 0."
    for name, rate in rates.items():
        if rate is not None:
            number(name, rate)

def muon_group(group: dict):
    "Raise ValueError for a parameter group that Muon cannot train."
    for name in "lr", "weight_decay":
        number(name, group[name])
    number("momentum", group["momentum"], limit=1)  # at 1 no gradient would count
    for p in group["params"]:
        if p.dim() != 2:
            raise ValueError(f"Muon trains matrices, but this parameter has shape {tuple(p.shape)}: give it to AdamW")

def train_config(c, schedules: Iterable[str]):
    "Raise ValueError for settings that cannot be trained with."
    ends = {name: getattr(c, name) for name in ("steps", "epochs", "minutes")}
    given = [f"{name}={value}" for name, value in ends.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"exactly one of steps, epochs and minutes must be given, not {' and '.join(given) or 'none'}")
    for name in "steps", "batch_size", "block_size", "accumulation", "eval_every", "save_every":
        if getattr(c, name) is not None:
            whole_number(name, getattr(c, name), 1)
    for name in "warmup", "seed":
        whole_number(name, getattr(c, name), 0)
    for name in "epochs", "minutes", "clip":
        if getattr(c, name) is not None:
            number(name, getattr(c, name), positive=True)
    rates(lr=c.lr, embedding_lr=c.embedding_lr, vector_lr=c.vector_lr, weight_decay=c.weight_decay)
    choice("schedule", c.schedule, schedules)
    if c.batch_size % c.accumulation:
        raise ValueError(f"batch_size={c.batch_size} is not a multiple of accumulation={c.accumulation}, so the "
                         "micro-batches would differ in size: choose a divisor of batch_size")
    choice("dtype", c.dtype, ("float32", "tf32", "bfloat16", "float16"))
    for name in "checkpointing", "compile":
        choice(name, getattr(c, name), (True, False))

def model_and_tokenizer(model, tok):
    "Raise ValueError if a tokenizer is given as the model, or something else as the tokenizer."
    if hasattr(model, "encode"):
        raise ValueError(f"expected a model, not a {type(model).__name__}: give the model before its tokenizer")
    if not hasattr(tok, "encode"):
        raise ValueError(f"expected a tokenizer, not a {type(tok).__name__}: give the one that the model learned from")

def beginning(text: str, tok, splits: Iterable[str]):
    "Raise ValueError unless this is a text, and a tokenizer that splits texts into chunks where a word ends."
    if not isinstance(text, str):
        raise ValueError(f"expected text (str), the beginning of a tale, got {type(text).__name__}: {text!r:.40}")
    if not hasattr(tok, "encode") or not hasattr(tok, "vocab_size"):
        raise ValueError(f"expected a tokenizer, not a {type(tok).__name__}: leave it out for the course's own")
    if hasattr(tok, "pattern") and tok.pattern not in splits:
        raise ValueError(f"with the pattern {tok.pattern!r:.60}, a token may go on after the end of a word, and words "
                         "are as far as next_token looks ahead: give a tokenizer trained with GPT4_SPLIT")

def corpus(corpus):
    "Raise ValueError unless this is a Corpus, with its splits, rather than a path, a string or a list."
    if not hasattr(corpus, "train") or not hasattr(corpus, "val"):
        raise ValueError(f"expected a Corpus, not {corpus!r:.60}: give corpus(...) of a name, a file or a folder")

def training(model, tok, text, settings):
    "Raise ValueError unless these are a model, its tokenizer, a Corpus and a TrainConfig."
    model_and_tokenizer(model, tok)
    corpus(text)
    config(settings, "TrainConfig")

def device(name: str | torch.device):
    "Raise ValueError unless PyTorch finds this device."
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError):  # the latter if it is compiled without CUDA
        missing = "GPU" if str(name).startswith(("cuda", "mps")) else "such device"
        raise ValueError(f"device={str(name)!r}, but PyTorch finds no {missing}: give device='cpu'") from None

def decodable(ids: Iterable[int], tokens: Sequence[bytes | None]) -> list[int]:
    "The ids as a list of int; raises ValueError for an id that has no token."
    ids = [index(i) for i in ids]
    if wrong := [i for i in ids if not 0 <= i < len(tokens) or tokens[i] is None]:
        known = len(tokens) - tokens.count(None)
        raise ValueError(f"id {wrong[0]} is not one of this tokenizer's {known} ids, which start at 0; did another "
                         "tokenizer make them?")
    return ids

def training_text(source: str | Iterable[str]) -> str | Iterable[str]:
    "The text or texts; raises ValueError for a file name, because the name would be learned and not the content."
    is_name = isinstance(source, str) and 0 < len(source.strip("./\\")) < 1000 and os.path.exists(source)
    if isinstance(source, os.PathLike) or is_name:
        raise ValueError(f"{str(source)!r} is the name of a file, and the name itself would be learned: pass the "
                         f"file's text, such as tg.corpus({str(source)!r}).train")
    return source

def special_tokens(names: Iterable[str], vocab_size: int) -> list[str]:
    "The names as a list; raises ValueError unless they are distinct texts with room beside the 256 bytes."
    if isinstance(names, str):
        raise ValueError(f"special_tokens={names!r} is one text; give a list of them: [{names!r}]")
    names = list(names)
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"expected text (str), got {type(wrong[0]).__name__}: {wrong[0]!r:.40}")
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"special tokens must be distinct and not empty, got {names}")
    if index(vocab_size) < 256 + len(names):
        raise ValueError(f"vocab_size={vocab_size} has no room for 256 bytes and {len(names)} special tokens; "
                         f"ask for {256 + len(names)} or more")
    return names

def windows(tokens, block_size: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1,
            full: bool = True):
    "Raise ValueError unless windows can be cut from these tokens; `full`: at least one must have block_size targets."
    for name, value in {"block_size": block_size, "batch_size": batch_size, "world_size": world_size}.items():
        whole_number(name, value, 1)
    whole_number("seed", seed, 0)
    whole_number("rank", rank, 0, world_size - 1)
    n, n_targets = len(tokens), np.diff(tokens.bounds) - 1 + tokens.bounds[0]
    least, why = (block_size + 1, "block_size + 1") if full else (2, "one to read, one to predict")
    if not tokens.whole_documents and n < least:
        shorter = f", or ask for block_size={n - 1} or less" if n > 1 else ""
        raise ValueError(f"there are {n} tokens, but one window needs {least} ({why}): give a longer text{shorter}")
    if tokens.whole_documents and (most := n_targets.max()) > block_size:
        raise ValueError(f"document {n_targets.argmax()} has {most} tokens to predict, but block_size={block_size}: "
                         f"ask for block_size={most} or more, or set tokens.whole_documents = False to cut windows as "
                         "in running text")

def sampler(s):
    "Raise ValueError for settings that nothing can be drawn with."
    number("temperature", s.temperature)
    if 0 < s.temperature < 1e-30:
        raise ValueError(f"temperature={s.temperature} is too small to divide by: give 0 for the most probable token")
    whole_number("top_k", 1 if s.top_k is None else s.top_k, 1)
    for name in "top_p", "min_p":
        fraction(name, 1 if getattr(s, name) is None else getattr(s, name))
    number("repetition_penalty", s.repetition_penalty, positive=True)

def drawable(logits: Tensor):
    "Raise ValueError unless each row has a token to draw: no NaN, no +inf, and not every logit -inf."
    largest = logits.amax(-1).flatten()  # NaN if there is one
    if not largest.isfinite().all():
        row = int((~largest.isfinite()).nonzero()[0])
        if largest[row] == -math.inf:
            raise ValueError(f"no token of row {row} is left to draw: all of its logits are -inf")
        raise ValueError(f"a logit of row {row} is {largest[row]:g}, so it has no probabilities: has training diverged?")

def writing(model, tok, prompt: str | Sequence[str], max_new_tokens: int, stop: str | Sequence[str],
            seed: int | None, dtype: str | None) -> list[str]:
    "The prompts as a list; raises ValueError unless this model can continue them with this tokenizer."
    model_and_tokenizer(model, tok)
    if tok.vocab_size > model.config.vocab_size:
        raise ValueError(f"the tokenizer has {tok.vocab_size} tokens, and the model knows {model.config.vocab_size}: "
                         "give the tokenizer that it learned with")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list | tuple) or not all(isinstance(text, str) for text in prompts):
        wrong = prompts[0] if isinstance(prompts, list) and len(prompts) == 1 else prompts
        raise ValueError(f"prompt={wrong!r:.60} should be a text (str), or for `generate` a list of texts")
    if "" in prompts and "<|end|>" not in getattr(tok, "special_tokens", {}):
        raise ValueError("the prompt is empty, and this tokenizer has no <|end|> that could stand before a text: give "
                         "a prompt of at least one character")
    whole_number("max_new_tokens", max_new_tokens, 0)
    whole_number("seed", 0 if seed is None else seed, 0)
    choice("dtype", "float32" if dtype is None else dtype, ("float32", "bfloat16", "float16"))
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list | tuple) or not all(isinstance(text, str) and text for text in stops):
        raise ValueError(f"stop={stop!r:.60} should be a text or a list of texts, none of them empty")
    return list(prompts)

def messages(tok, given: Sequence[Mapping[str, str]]):
    "Raise ValueError unless these are messages, and the tokenizer has the special tokens of a conversation."
    missing = [name for name in CHAT_TOKENS if name not in getattr(tok, "special_tokens", {})]
    if missing:
        raise ValueError(f"the tokenizer has no {' and no '.join(missing)}, so its model has learned no conversations: "
                         "give one that was trained on chats")
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise ValueError(f"messages={given!r:.60} should be a list of messages, such as "
                         '[{"role": "user", "content": "Who are you?"}]')
    for message in given:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise ValueError(f'the message {message!r:.60} should be a dict with "role" and "content", both texts')
        choice("role", message.get("role"), ("user", "assistant"))

def answering(model, tok, given: Sequence[Mapping[str, str]], max_new_tokens: int, stop: str | Sequence[str],
              seed: int | None, dtype: str | None):
    "Raise ValueError unless this model can answer the last of these messages."
    writing(model, tok, " ", max_new_tokens, stop, seed, dtype)
    messages(tok, given)
    if not given or given[-1]["role"] != "user":
        raise ValueError("the last message is not the user's, so there is nothing to answer")
    n, most = len(tok.encode(given[-1]["content"])), model.config.block_size - 3  # two roles, a token of the answer
    if n > most:
        raise ValueError(f"the message has {n} tokens, and this model can read {most}: shorten it")

def exploring(model, tok, text: str):
    "Raise ValueError unless this is a GPT that can read this text with this tokenizer."
    model_and_tokenizer(model, tok)
    if not hasattr(model, "blocks"):
        raise ValueError(f"a {type(model).__name__} has no attention to show: give a GPT")
    if not isinstance(text, str) or not text:
        raise ValueError(f"text={text!r:.60} should be a text (str) of at least one character")
    writing(model, tok, text, 0, (), 0, None)

def head_outputs(outputs: Mapping, c, ids: Tensor):
    "Raise ValueError unless these are outputs of heads (layer, head) that the model has, for texts of this shape."
    token_ids("ids", ids, c)
    wanted = (*ids.shape, c.head_dim)
    for (layer, head), output in outputs.items():
        whole_number("layer", layer, 0, c.n_layer - 1)
        whole_number("head", head, 0, c.n_head - 1)
        sizes = zip(reversed(output.shape), reversed(wanted))
        if output.dim() > 3 or output.shape[-1:] != wanted[-1:] or any(size not in (1, want) for size, want in sizes):
            raise ValueError(f"the output for head {head} of layer {layer} has shape {tuple(output.shape)}, but it "
                             f"replaces one of shape {wanted}: give one of a run on as many tokens, or a mean, "
                             f"({c.head_dim},)")

def repeats(after: Tensor):
    "Raise ValueError if no token of a text has occurred before in it."
    if not after.any():
        raise ValueError(f"no token occurs twice in these texts of {after.shape[-1]} tokens, so nothing can be copied: "
                         "give longer texts, or repeated_tokens(n)")
