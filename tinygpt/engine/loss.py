"""The loss of a large vocabulary in chunks, so that the logits of a whole batch are never in memory at once."""

import torch
from torch import Tensor

class ChunkedLoss(torch.autograd.Function):
    "The loss and its gradient (p - y at the logits), both computed chunk by chunk in the forward pass."

    @staticmethod
    def forward(ctx, x: Tensor, unembedding: Tensor, targets: Tensor, n_rows: int, with_gradient: bool):
        exact = torch.promote_types(x.dtype, torch.float32)
        loss = torch.zeros((), dtype=exact, device=x.device)
        dx, dw = torch.zeros_like(x), torch.zeros_like(unembedding)
        weight = (targets >= 0).to(exact)
        weight /= weight.sum().clamp(min=1)  # (N,): the weight of each row in the average
        targets = targets.clamp(min=0)[:, None]
        for start in range(0, len(x), n_rows):
            rows = slice(start, start + n_rows)
            logp = (x[rows] @ unembedding.T).to(exact).log_softmax(-1)  # (n, C) @ (C, V) -> (n, V)
            loss -= logp.gather(1, targets[rows])[:, 0] @ weight[rows]
            if with_gradient:
                one = torch.ones_like(targets[rows], dtype=exact)
                p_minus_y = logp.exp_().scatter_add_(1, targets[rows], -one)
                dlogits = p_minus_y.mul_(weight[rows, None]).to(x.dtype)
                dx[rows] = dlogits @ unembedding
                dw.addmm_(dlogits.T, x[rows])
        ctx.save_for_backward(dx, dw)
        return loss

    @staticmethod
    def backward(ctx, grad: Tensor):
        if torch.is_grad_enabled():  # autograd would treat dx and dw as constants
            raise RuntimeError("this loss has no second derivative: use F.cross_entropy on the logits of model(ids)")
        dx, dw = ctx.saved_tensors
        return grad * dx, grad * dw, None, None, None

def linear_cross_entropy(
    x: Tensor,  # (N, C)
    unembedding: Tensor,  # (V, C)
    targets: Tensor,  # (N,); negative ones do not count
    n_logits: int = 1 << 26,  # how many are in memory at a time
) -> Tensor:
    "Cross-entropy of the logits x @ unembedding.T, averaged over the targets that count, in nats."
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, unembedding = x.to(dtype), unembedding.to(dtype)
    if x.dtype == torch.float16:  # too narrow for (p - y) / N
        x, unembedding = x.float(), unembedding.float()
    if targets.shape != x.shape[:1]:
        raise ValueError(f"{len(x)} rows need a target each, not targets of shape {tuple(targets.shape)}")
    counted = targets >= 0
    if x.device.type == "cpu" and not torch.compiler.is_compiling() and not counted.all():  # the shape is known at once
        x, targets = x[counted], targets[counted]
    n_rows = max(1, n_logits // len(unembedding))
    with torch.autocast(x.device.type, enabled=False):
        return ChunkedLoss.apply(x, unembedding, targets, n_rows, torch.is_grad_enabled())
