"""Evaluation mode for as long as a model is only looked at."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def eval_mode(model) -> Iterator[None]:
    "No dropout and no gradients inside; afterwards the model is in the mode that it had. Any callable will do."
    training = getattr(model, "training", False)
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            model.train()
