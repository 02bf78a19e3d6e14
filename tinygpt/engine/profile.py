"""How long each part of a training step takes."""

from collections import defaultdict
from statistics import median
from time import perf_counter
from torch import nn
from tinygpt.attention import Attention
from tinygpt.block import MLP, SwiGLU
from tinygpt.gpu import forward_backward, wait_for

MODULES = {"embedding": (nn.Embedding,), "attention": (Attention,), "MLP": (MLP, SwiGLU)}
PARTS = ["batch", *MODULES, "norms and sums", "loss", "backward", "optimizer"]

class Stopwatch:
    "Adds up the seconds of each part; it waits for the device before it reads the clock."

    def __init__(self, device):
        self.device, self.seconds = device, defaultdict(float)
        self.lap()

    def lap(self, part: str | None = None):
        "Add the time since the last lap to this part."
        wait_for(self.device)
        now = perf_counter()
        if part is not None:
            self.seconds[part] += now - self.last
        self.last = now

def time_parts(model: nn.Module, watch: Stopwatch) -> list:
    "Hooks that add the time of each module's forward pass to its part, and what lies between to 'norms and sums'."
    handles = []
    for module in model.modules():
        for part, kinds in MODULES.items():
            if isinstance(module, kinds):
                handles.append(module.register_forward_pre_hook(lambda *_: watch.lap("norms and sums")))
                handles.append(module.register_forward_hook(lambda *_, part=part: watch.lap(part)))
    handles.append(model.norm.register_forward_hook(lambda *_: watch.lap("norms and sums")))
    return handles

def profile_step(run, n_steps: int = 10) -> dict[str, float]:
    "The median seconds of each part of a training step."
    model, device, c = run.model, run.model.embed.weight.device, run.config
    laps = []
    for step in range(n_steps + 1):
        watch = Stopwatch(device)
        batch = tuple(part.to(device) for part in run.windows[step])
        watch.lap("batch")
        handles = time_parts(model, watch)
        def loss_function(*batch, watch=watch):
            loss = model.loss(*batch, checkpointing=c.checkpointing)
            watch.lap("loss")  # after the last norm comes the loss
            return loss
        try:
            forward_backward(loss_function, batch, c.dtype)
        finally:
            for handle in handles:
                handle.remove()
        watch.lap("backward")
        for optimizer in run.optimizers:
            optimizer.step()
        model.zero_grad()
        watch.lap("optimizer")
        laps.append(watch.seconds)
    return {part: median(seconds[part] for seconds in laps[1:]) for part in PARTS}  # the first step warms up
