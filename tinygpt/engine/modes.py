"""Evaluation mode for as long as a model is only looked at."""

from collections.abc import Iterator
from contextlib import contextmanager
import torch

@contextmanager
def eval_mode(model) -> Iterator[None]:
    "Evaluation mode: no dropout and no gradients inside; afterwards the mode is as before. A function has no mode."
    training = getattr(model, "training", False)
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()
