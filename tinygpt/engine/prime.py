"""A head start for a new model: attention weights set by hand, until chapter 10 can do without."""

import torch
from torch import nn
from tinygpt.attention import Attention
from tinygpt.gpt import GPT
from tinygpt.positions import rotation

__all__ = ["prime"]

@torch.no_grad()
def seek_alike(attention: Attention):
    "Attend to similar tokens, and pass their values on unchanged."
    D = attention.head_dim
    nn.init.orthogonal_(attention.value.weight)
    for part in attention.query, attention.value:
        part.weight[:, 0] = 0.0  # the number that all tokens share says nothing of similarity
    queries, keys, values = (part.weight.unflatten(0, (-1, D))  # (heads, D, C)
                             for part in (attention.query, attention.key, attention.value))
    group = len(queries) // len(keys)  # heads of queries that share one of keys
    keys.copy_(queries[::group])
    back = values.repeat_interleave(group, 0).flatten(0, 1).T
    attention.proj.weight.copy_(back / group)  # value, then proj: unchanged

@torch.no_grad()
def seek_neighbour(attention: Attention, base: float):
    "Let the first head attend to the token before, and write its value three times as large."
    D, query, key = attention.head_dim, attention.query.weight, attention.key.weight
    strength = D * 0.5 ** torch.arange(1.0, D // 2 + 1, device=key.device)  # fast pairs count most
    asks = torch.cat([strength.sqrt(), torch.zeros_like(strength)])
    one_on = rotation(torch.tensor([1], device=key.device), D, base)
    for weight, wanted in (query, asks), (key, one_on(asks).flatten()):
        weight[:D] = 0.0
        weight[:D, 0] = wanted
    attention.proj.weight[:, :D] *= 3

@torch.no_grad()
def prime(model: GPT):
    "Set attention weights by hand, so that heads attend to similar tokens, and one head to the token before."
    nn.init.normal_(model.embed.weight, std=2.0)
    nn.init.constant_(model.embed.weight[:, 0], 4.0)  # one number that all tokens share
    nn.init.constant_(model.norm.weight, 0.025)  # so that the logits stay small
    for block in model.blocks:
        seek_alike(block.attention)
    if model.config.position == "rope":
        seek_neighbour(model.blocks[0].attention, model.config.rope_base)
        written = model.blocks[0].attention.value.weight[: model.config.head_dim]
        for block in model.blocks[1:2]:  # its first head compares tokens by what that head has written
            for weight in block.attention.query.weight, block.attention.key.weight:
                weight[: model.config.head_dim] = written
