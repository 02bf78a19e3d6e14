"""Context managers for evaluation, and for training without pauses."""

import gc
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

@contextmanager
def paused_gc() -> Iterator[None]:
    "The garbage collector leaves the objects that exist now alone, so that it does not pause training steps."
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
