"""The loss of a large vocabulary in chunks, so that the logits of a whole batch never stand in memory at once."""

import torch
from torch import Tensor


class ChunkedLoss(torch.autograd.Function):
    "The loss, and its gradient p - y, some rows at a time: all logits are never in memory at once."

    @staticmethod
    def forward(ctx, x: Tensor, vocabulary: Tensor, targets: Tensor, n_rows: int, learn: bool):
        exact = torch.promote_types(x.dtype, torch.float32)
        loss = torch.zeros((), dtype=exact, device=x.device)
        dx, dv = torch.zeros_like(x), torch.zeros_like(vocabulary)
        share = (targets >= 0).to(exact)
        share /= share.sum().clamp(min=1)  # (N,): what each row counts in the average
        targets = targets.clamp(min=0)[:, None]
        for start in range(0, len(x), n_rows):
            rows = slice(start, start + n_rows)
            logp = (x[rows] @ vocabulary.T).to(exact).log_softmax(-1)  # (n, C) @ (C, V) -> (n, V)
            loss -= logp.gather(1, targets[rows])[:, 0] @ share[rows]
            if learn:
                one = torch.ones_like(targets[rows], dtype=exact)
                p_minus_y = logp.exp_().scatter_add_(1, targets[rows], -one)
                dlogits = p_minus_y.mul_(share[rows, None]).to(x.dtype)
                dx[rows] = dlogits @ vocabulary
                dv.addmm_(dlogits.T, x[rows])
        ctx.save_for_backward(dx, dv)
        return loss

    @staticmethod
    def backward(ctx, grad: Tensor):
        if torch.is_grad_enabled():  # autograd would take dx and dv for constants
            raise RuntimeError("this loss has no second derivative: use F.cross_entropy(model(ids))")
        dx, dv = ctx.saved_tensors
        return grad * dx, grad * dv, None, None, None


def linear_cross_entropy(
    x: Tensor,  # (N, C)
    vocabulary: Tensor,  # (V, C)
    targets: Tensor,  # (N,); where negative, it does not count
    n_logits: int = 1 << 26,  # so many at a time
) -> Tensor:
    "The average surprise at the targets, if the logits are x @ vocabulary.T."
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, vocabulary = x.to(dtype), vocabulary.to(dtype)
    if x.dtype == torch.float16:  # in which (p - y) / N would vanish
        x, vocabulary = x.float(), vocabulary.float()
    if targets.shape != x.shape[:1]:
        raise ValueError(f"{len(x)} rows want a target each, not {tuple(targets.shape)}")
    n_rows = max(1, n_logits // len(vocabulary))
    with torch.autocast(x.device.type, enabled=False):
        return ChunkedLoss.apply(x, vocabulary, targets, n_rows, torch.is_grad_enabled())
