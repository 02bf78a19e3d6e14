"""Why is writing slow, and what makes it fast?"""

import copy
import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .engine.decoding import TokenStep

from .engine.decoding import TokenStep

__all__ = ["KVCache", "left_pad", "Decoder"]


class KVCache:
    "The keys and values of the tokens that an attention layer has read, in buffers of a fixed size."

    def __init__(self, size: int):
        self.size, self.length = size, 0  # the most tokens that fit, and how many there are
        self.key: Tensor | None = None  # (B, H_kv, size, D), allocated once, when the first tokens come
        self.value: Tensor | None = None

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        "Store the keys and values of new tokens, (B, H_kv, T, D) each; return those of all tokens so far."
        B, H_kv, T, D = key.shape
        start, end = self.length, self.length + T
        if end > self.size:
            raise ValueError(f"{end} tokens do not fit into a cache of size {self.size}")
        if self.key is None:
            self.key, self.value = key.new_empty(B, H_kv, self.size, D), value.new_empty(B, H_kv, self.size, D)
        self.key[:, :, start:end], self.value[:, :, start:end] = key, value
        self.length = end
        return self.key[:, :, :end], self.value[:, :, :end]


def left_pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    "Rows of different lengths as one tensor (B, T), filled on the left with 0, and how much of each row is filled."
    width = max(map(len, rows))
    padding = torch.tensor([width - len(row) for row in rows])  # (B,)
    return torch.tensor([[0] * (width - len(row)) + list(row) for row in rows]), padding


class Decoder:
    "Reads prompts, then one more token of each at a time; `logits` (B, V) are those of the next tokens."

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[Sequence[int]],  # B rows of ids, of any lengths
        dtype: str | None = None,  # of weights, keys and values, such as bfloat16; if None, the model's
        compile: bool = False,  # compile the step of one token
    ):
        if dtype is not None:
            model = copy.deepcopy(model).to(getattr(torch, dtype))
        self.model, self.size = model, model.config.block_size
        self.token_step = TokenStep(model, compile)  # merges matrices
        self.cache = [KVCache(self.size) for _ in model.blocks]
        self.rows = [list(prompt)[-self.size :] for prompt in prompts]  # the context of each
        self.logits = self.read()

    @torch.no_grad()
    def read(self) -> Tensor:
        "Read the context of every row, into an empty cache; returns the logits of the next tokens."
        ids, self.padding = (part.to(self.model.embed.weight.device) for part in left_pad(self.rows))
        self.ragged = bool(self.padding.any())
        for part in self.cache:
            part.length = 0
        positions, allowed = self.places(ids.shape[1])
        x = self.model.hidden(ids, positions, allowed, self.cache)[:, -1]  # (B, C)
        return x @ self.model.unembedding.T

    def places(self, n: int) -> tuple[Tensor, Tensor | None]:
        "The positions (B, n) of the first n tokens, and which keys a query may attend to: all but padding."
        index = torch.arange(n, device=self.padding.device)
        positions = (index - self.padding[:, None]).clamp(0)  # each row counts from its first token
        allowed = (index >= self.padding[:, None])[:, None, None] if self.ragged else None  # (B, 1, 1, n)
        return positions, allowed

    @torch.no_grad()
    def append(self, ids: Tensor) -> Tensor:
        "Read one more token (B,) of each row; returns the logits (B, V) of the next ones."
        for row, id in zip(self.rows, ids.tolist()):
            row.append(id)
        full = [row for row in self.rows if len(row) > self.size]
        for row in full:
            del row[: -max(1, self.size // 2)]  # keep the newest half
        if full:
            self.logits = self.read()
        else:
            positions, allowed = self.places(self.cache[0].length + 1)
            self.logits = self.token_step(ids[:, None], positions[:, -1:].clone(), allowed, self.cache)
        return self.logits
