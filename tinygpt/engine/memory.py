"""Memory: what fills it, and a readable error when there is too little."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
import torch
from torch import Tensor, nn
from tinygpt.gpu import forward_backward, largest_fit

MESSAGES = "out of memory", "can't allocate memory", "not enough memory"  # of PyTorch, on a GPU and on the CPU

def n_bytes(tensors) -> int:
    "The size of these tensors, each storage counted once."
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())

def activation_bytes(model: nn.Module, batch: tuple[Tensor, ...], **options) -> int:
    "The size of all tensors that the forward pass of `model.loss` keeps for the backward pass, weights excluded."
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = []
    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept.append(tensor)
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(*batch, **options)
    return n_bytes(kept)

def memory_by_part(run, batch: tuple[Tensor, ...]) -> dict[str, int]:
    "Bytes that a training step needs, by part; the optimizers must have made a step."
    weights = n_bytes(run.model.parameters())
    states = [value for optimizer in run.optimizers for state in optimizer.state.values() for value in state.values()]
    micro_batch = tuple(part.chunk(run.config.accumulation)[0] for part in batch)
    activations = activation_bytes(run.model, micro_batch, checkpointing=run.config.checkpointing)
    return {"weights": weights, "gradients": weights, "optimizer": n_bytes(states), "activations": activations}

def longest_batch(run, rows: int) -> tuple[Tensor, ...]:
    "A batch with this many rows of full length."
    shape, device = (rows, run.windows.block_size), run.model.embed.weight.device
    ids = torch.zeros(shape, dtype=torch.int64, device=device)
    return ids, ids, torch.ones(shape, dtype=torch.bool, device=device)

def is_out_of_memory(error: Exception) -> bool:
    "Whether PyTorch ran out of memory, on a GPU or on the CPU."
    return isinstance(error, MemoryError) or any(message in str(error) for message in MESSAGES)

def release(model: nn.Module):
    "Free the gradients, and what PyTorch has cached."
    model.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

def rows_that_fit(run) -> int:
    "The largest number of rows in a micro-batch that fits into memory, found by trying; 0 if not even one fits."
    has_state = any(optimizer.state for optimizer in run.optimizers)
    def fits(rows: int) -> bool:
        try:
            # what the optimizers will need after their first step: at most two tensors for each parameter
            state = [] if has_state else [torch.empty_like(p) for p in chain(*[run.model.parameters()] * 2)]
            forward_backward(run.loss, longest_batch(run, rows), run.config.dtype, scaler=run.scaler)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            state = None
            release(run.model)
        return True
    return largest_fit(fits, run.config.batch_size // run.config.accumulation)

def advice(run) -> str:
    "What to change so that a training step fits into memory."
    c, fitting = run.config, rows_that_fit(run)
    at_once = c.batch_size // c.accumulation
    tried = f"out of memory with {at_once} rows of {run.windows.block_size} tokens at once"
    help_ = "" if c.checkpointing else "checkpointing=True, "
    if not fitting:
        return f"{tried}, and not even one row fits: use {help_}a smaller block_size or a smaller model"
    if fitting == at_once:  # it was something else, such as a program that has ended since
        return f"{tried}, although they fit when tried again: resume the run, or use a smaller batch_size"
    parts = next(n for n in range(1, c.batch_size + 1) if c.batch_size % n == 0 and c.batch_size // n <= fitting)
    return (f"{tried}; {fitting} fit: use accumulation={parts}, which gives the same gradients, {help_}or "
            f"batch_size={fitting}")

@contextmanager
def explain_out_of_memory(run) -> Iterator[None]:
    "Turn PyTorch's out-of-memory errors into a MemoryError that names the batch size that fits."
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        error.__traceback__ = None  # its frames hold the tensors of the failed step
    else:
        return
    release(run.model)
    raise MemoryError(advice(run))
