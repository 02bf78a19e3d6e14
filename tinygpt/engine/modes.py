"""Evaluation mode as a context manager."""

from collections.abc import Iterator
from contextlib import contextmanager
import torch

@contextmanager
def eval_mode(model) -> Iterator[None]:
    "No dropout and no gradients inside; afterwards the model is in its previous mode. (A plain function has none.)"
    training = getattr(model, "training", False)
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()
