"""The key/value cache, which keeps the keys and values of tokens that were read before."""

import torch
from torch import Tensor

__all__ = ["KVCache"]

class KVCache:
    'The key/value cache of one attention layer: chapter "Cache".'

    def __init__(self):
        self.key: Tensor | None = None  # (B, H_kv, S, D)
        self.value: Tensor | None = None

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        "Append the keys and values of new tokens, (B, H_kv, T, D) each, and return those of all tokens."
        if self.key is not None:
            key, value = torch.cat([self.key, key], dim=2), torch.cat([self.value, value], dim=2)
        self.key, self.value = key, value
        return key, value
