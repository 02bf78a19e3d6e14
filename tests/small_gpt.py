"""A small transformer, so that chapters 02 to 04 can be judged before the course has built its own."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    "Rotate queries or keys by their positions."
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


class Block(nn.Module):
    "Attention, then a gated network; what they add to the stream is nothing at first."

    def __init__(self, n_embd: int, n_head: int, n_hidden: int):
        super().__init__()
        self.shape = 3, n_head, n_embd // n_head
        self.norms = nn.ModuleList([nn.RMSNorm(n_embd), nn.RMSNorm(n_embd)])
        self.query_norm, self.key_norm = nn.RMSNorm(self.shape[2]), nn.RMSNorm(self.shape[2])
        self.attend, self.mix = nn.Linear(n_embd, 3 * n_embd, bias=False), nn.Linear(n_embd, n_embd, bias=False)
        self.widen, self.narrow = nn.Linear(n_embd, 2 * n_hidden, bias=False), nn.Linear(n_hidden, n_embd, bias=False)
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.narrow.weight)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        query, key, value = self.attend(self.norms[0](x)).unflatten(-1, self.shape).permute(2, 0, 3, 1, 4)
        query, key = turn(self.query_norm(query), cos, sin), turn(self.key_norm(key), cos, sin)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)  # (B, H, T, D)
        x = x + self.mix(seen.transpose(1, 2).flatten(2))
        gate, hidden = self.widen(self.norms[1](x)).chunk(2, -1)
        return x + self.narrow(F.silu(gate) * hidden)


class SmallGPT(nn.Module):
    "About a million parameters."

    def __init__(self, vocab_size: int, n_layer: int = 4, n_head: int = 4, n_embd: int = 128, n_hidden: int = 336):
        super().__init__()
        self.embed, self.norm = nn.Embedding(vocab_size, n_embd), nn.RMSNorm(n_embd)
        self.blocks = nn.ModuleList(Block(n_embd, n_head, n_hidden) for _ in range(n_layer))
        nn.init.normal_(self.embed.weight, std=EMBED)
        nn.init.constant_(self.norm.weight, 0.05 / EMBED)
        size = n_embd // n_head
        angles = torch.arange(1024)[:, None] * 1e6 ** (-torch.arange(0, size, 2) / size)
        self.register_buffer("angles", torch.stack([angles.cos(), angles.sin()]))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, *self.angles[:, : ids.shape[1]])
        return self.norm(x) @ self.embed.weight.T
