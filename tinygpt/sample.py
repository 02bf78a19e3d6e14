"""Text from a model, token by token."""

from collections.abc import Sequence
import torch
from tinygpt.baseline import sample
from tinygpt.cache import KVCache
from tinygpt.engine.modes import eval_mode
from tinygpt.gpt import GPT

__all__ = ["sample_tales", "continue_text"]

def sample_tales(model: GPT, tok, n: int = 16, seed: int = 0) -> list[str]:
    "Tales that the model writes, each next token drawn by its probability."
    end, rng, device = tok.special_tokens["<|end|>"], torch.Generator().manual_seed(seed), model.embed.weight.device
    ids, cache = torch.full((n, 1), end), [KVCache(model.config.block_size) for _ in model.blocks]
    with eval_mode(model):
        for position in range(model.config.block_size):
            positions = torch.tensor([position], device=device)
            logits = model(ids[:, -1:].to(device), positions=positions, cache=cache)[:, -1]  # (n, V)
            probs = logits.softmax(-1).cpu()
            races = probs / torch.empty_like(probs).exponential_(generator=rng)  # the largest wins with its probability
            ids = torch.cat([ids, races.argmax(-1, keepdim=True)], 1)
            if (ids[:, 1:] == end).any(1).all():
                break
    rows = (row[1:] + [end] for row in ids.tolist())
    return [tok.decode(row[: row.index(end)]) for row in rows]

def continue_text(model: GPT, tok, ids: Sequence[int], max_new_tokens: int = 200, seed: int = 0) -> str:
    "The text of these tokens and of those that the model writes after them, at most to the end of the text."
    size, device = model.config.block_size, model.embed.weight.device
    end = getattr(tok, "special_tokens", {}).get("<|end|>")
    with eval_mode(model):
        ids = sample(lambda ids: model(ids[:, -size:].to(device)).cpu(), ids, max_new_tokens, end, seed)
    return tok.decode(i for i in ids if i != end)
