"""The named sizes of models: a shape, and the numbers in which it differs."""

from importlib import resources
from pathlib import Path

__all__ = ["SIZES", "preset"]

ASSETS = Path(str(resources.files("tinygpt"))) / "assets"
TRAINED = ASSETS / "trained"  # a model that comes with the package
MIDTRAINED = ASSETS / "midtrained"  # the same model after drills, which it is fine-tuned from
CHAT = ASSETS / "chat"  # and after conversations: it answers

SIZES = {
    "tiny": dict(shape="modern", n_layer=3, n_head=4, n_embd=128, n_hidden=128, vocab_size=2048, block_size=256,
                 embedding_std=2.0),
    "pico": dict(shape="modern", n_layer=8, n_head=8, n_embd=512),
    "pico-large": dict(shape="modern", n_layer=12, n_head=12, n_embd=768),
    "gpt2-124m": dict(shape="gpt2", n_layer=12, n_head=12, n_embd=768),
    "gpt2-355m": dict(shape="gpt2", n_layer=24, n_head=16, n_embd=1024),
    "gpt2-774m": dict(shape="gpt2", n_layer=36, n_head=20, n_embd=1280),
    "gpt2-1558m": dict(shape="gpt2", n_layer=48, n_head=25, n_embd=1600),
    "qwen3-0.6b": dict(shape="modern", n_layer=28, n_head=16, n_embd=1024, n_kv_head=8, head_dim=128, n_hidden=3072,
                       vocab_size=151936, block_size=40960),
}

def preset(name: str, shapes: dict[str, dict]) -> dict:
    "The settings of a shape or of a named size, which has GPT-2's vocabulary and context unless it says otherwise."
    if name in shapes:
        return shapes[name]
    if name not in SIZES:
        raise ValueError(f"there is no shape or size {name!r}: choose from {', '.join([*shapes, *SIZES])}")
    sizes = {"vocab_size": 50257, "block_size": 1024} | SIZES[name]
    return shapes[sizes.pop("shape")] | sizes
