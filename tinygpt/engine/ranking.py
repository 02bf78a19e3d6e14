"""The most probable tokens in their order, without sorting a whole vocabulary where a part will do."""

import torch
from torch import Tensor

FIRST = 256  # how many tokens are tried first
SLACK = 1e-6  # far more than sums of probabilities differ by rounding

def most_probable(logits: Tensor, probs: Tensor, share: float | Tensor) -> Tensor:
    "The ids of the most probable tokens, (..., n), which sum to this share or more; equal ones in order of their ids."
    n, vocab_size = FIRST, logits.shape[-1]  # the order is that of logits: probabilities may be equal by rounding
    while n < vocab_size:
        top, ids = logits.topk(n)
        certain = probs.gather(-1, ids) * (top > top[..., -1:])  # topk may have left out some that equal the last
        if (certain.sum(-1) > share + SLACK).all():
            ids = ids.sort(-1).values
            by_size = logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True).indices
            return ids.gather(-1, by_size)
        n *= 8
    return logits.sort(dim=-1, descending=True, stable=True).indices
