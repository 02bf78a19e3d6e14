"""A small transformer, so that chapters 02 to 04 can be judged before the course has built its own."""

from time import perf_counter

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
        nn.init.normal_(self.embed.weight, std=2)  # so large that the blocks do not drown which token it is
        nn.init.constant_(self.norm.weight, 0.025)  # and the logits are small all the same
        size = n_embd // n_head
        angles = torch.arange(1024)[:, None] * 1e6 ** (-torch.arange(0, size, 2) / size)
        self.register_buffer("angles", torch.stack([angles.cos(), angles.sin()]))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, *self.angles[:, : ids.shape[1]])
        return self.norm(x) @ self.embed.weight.T


def orthogonal(x: Tensor) -> Tensor:
    "Matrices (..., rows, columns) with nearly the same singular vectors and all singular values near one."
    wide = x.mT if x.shape[-2] > x.shape[-1] else x
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        square = wide @ wide.mT
        wide = 3.4445 * wide + (2.0315 * square @ square - 4.7750 * square) @ wide
    return wide.mT if x.shape[-2] > x.shape[-1] else wide


class Muon:
    "Momentum with orthogonal steps, for the same matrix of all blocks at once."

    def __init__(self, blocks: nn.ModuleList, lr: float):
        named = [dict(block.named_parameters()) for block in blocks]
        self.groups = [[block[name] for block in named] for name, p in named[0].items() if p.ndim == 2]
        self.momentum, self.lr = [torch.zeros(len(group), *group[0].shape) for group in self.groups], lr

    @torch.no_grad()
    def step(self, share: float):
        for group, momentum in zip(self.groups, self.momentum):
            gradient = torch.stack([p.grad for p in group])
            momentum.lerp_(gradient, 0.05)
            ahead, width = gradient.lerp(momentum, 0.95), group[0].shape[1]
            parts = 3 if group[0].shape[0] == 3 * width else 2 if group[0].shape[0] > 3 * width else 1
            update = orthogonal(ahead.unflatten(1, (parts, -1))).flatten(1, 2)
            for p, change in zip(group, update):
                p.sub_(change, alpha=self.lr * share * max(1, p.shape[0] / parts / width) ** 0.5)


def train(model: SmallGPT, windows, seconds: float, lr: float = 0.012) -> int:
    "Train for so many seconds: at full pace for half of them, then ever more slowly. Returns how many tokens were seen."
    tables = [p for p in model.parameters() if p is model.embed.weight]
    gains = [p for p in model.parameters() if p.ndim == 1]
    muon = Muon(model.blocks, lr)
    adam = torch.optim.Adam([{"params": tables, "lr": 0.03}, {"params": gains, "lr": 0.01}], betas=(0.9, 0.98))
    rates = [group["lr"] for group in adam.param_groups]
    start, step, tokens = perf_counter(), 0, 0
    while (done := (perf_counter() - start) / seconds) < 1:
        share = min((step + 1) / 20, 1, 2 - 2 * done)
        for group, rate in zip(adam.param_groups, rates):
            group["lr"] = rate * share
        ids, targets, mask = windows[step]
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.masked_fill(~mask, -100).flatten())
        model.zero_grad()
        loss.backward()
        adam.step()
        muon.step(share)
        step, tokens = step + 1, tokens + int(mask.sum())
    return tokens
