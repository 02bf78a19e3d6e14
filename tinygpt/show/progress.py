"""How far a run is: a bar, a live plot, samples of its own text, TensorBoard and Weights & Biases."""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
import numpy as np
from tinygpt.gpt import GPT
from tinygpt.io.checkpoints import load
from tinygpt.io.corpus import Corpus
from tinygpt.io.log import Record
from tinygpt.io.runs import read_settings
from tinygpt.presets import TRAINED
from tinygpt.sample import generate
from tinygpt.show.pictures import show
from tinygpt.show.steps import StepCounter, in_notebook
from tinygpt.show.training import training_plot
from tinygpt.world.judging import floor_of

__all__ = ["to_tensorboard", "to_wandb", "show_samples", "LivePlot"]

def print_evaluation(record: Record):
    "A consumer that prints a line for each evaluation, where no progress bar can be shown."
    if record.val_loss is not None:
        print(f"step {record.step} of {record.steps}, loss {record.loss:.3f}, val loss {record.val_loss:.3f}")

class ProgressBar:
    "A consumer that shows a progress bar in a terminal."

    def __init__(self, step: int, steps: int):
        from tqdm import tqdm
        self.bar = tqdm(initial=step, total=steps, unit="step", leave=False, dynamic_ncols=True)
        self.val_loss = {}

    def __call__(self, record: Record):
        if record.val_loss is not None:
            self.val_loss = {"val loss": f"{record.val_loss:.3f}"}
        self.bar.total = record.steps  # by minutes, it is planned anew in each step
        self.bar.update(record.step - self.bar.n)
        self.bar.set_postfix({"loss": f"{record.loss:.3f}"} | self.val_loss)
        if record.step >= record.steps:
            self.bar.close()

def scalars(record: Record) -> dict[str, float]:
    "The numbers of a record that can be drawn as curves, by name."
    values = vars(record) | {f"skill/{name}": accuracy for name, accuracy in (record.skills or {}).items()}
    return {name: value for name, value in values.items() if name != "step" and isinstance(value, int | float)}

def to_tensorboard(folder: str | Path) -> Callable[[Record], None]:
    "A consumer that writes for TensorBoard."
    from torch.utils.tensorboard import SummaryWriter
    writer = SummaryWriter(str(folder))
    def consume(record: Record):
        for name, value in scalars(record).items():
            writer.add_scalar(name, value, record.step)
        if record.val_loss is not None:
            writer.flush()
    return consume

def to_wandb(**settings) -> Callable[[Record], None]:
    "A consumer that writes for Weights & Biases; the settings are those of `wandb.init`."
    import wandb
    log = wandb.init(**settings)
    def consume(record: Record):
        log.log(scalars(record), step=record.step)
        if record.step >= record.steps:
            log.finish()
    return consume

class LivePlot:
    "A consumer that draws the run so far every few seconds, in a notebook."

    def __init__(self, before: Iterable[Record] = (), every: float = 10.0, **plot):
        from IPython.display import display
        self.records, self.every, self.plot = list(before), every, plot
        self.drawn, self.handle = perf_counter(), display({}, raw=True, display_id=True)

    def __call__(self, record: Record):
        import matplotlib.pyplot as plt
        self.records.append(record)
        if perf_counter() - self.drawn > self.every or record.step >= record.steps:
            alt = f"Loss and skills after {record.step} of {record.steps} steps."
            with plt.style.context("tinygpt.assets.course"):
                show(training_plot({"this run": self.records}, **self.plot), alt, self.handle)
            self.drawn = perf_counter()

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

def printable(text: object) -> str:
    "The text, with a replacement for each control character that a terminal would obey, and for what stdout lacks."
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return CONTROL.sub("\ufffd", str(text)).encode(encoding, "replace").decode(encoding)

def one_line(message: object, most: int = 500) -> str:
    "A message in one line without control characters; of a long one, the middle is left out."
    line = printable(" ".join(str(message).split()))
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"

def show_samples(model: GPT, tok, prompt: str, n: int = 60) -> Callable[[Record], None]:
    "A consumer that prints a continuation of this prompt, by n tokens at most, after each evaluation."
    from tqdm import tqdm
    def consume(record: Record):
        if record.val_loss is not None:
            text = generate(model, tok, prompt, n, seed=record.step)
            tqdm.write(f"step {record.step}: {printable(text)}")  # above the bar, if there is one
    return consume

def recorded_band(model: GPT, config, corpus: Corpus) -> np.ndarray | None:
    "The lowest and highest training loss of eight recorded runs at each step; None if this run has other settings."
    free = {name: getattr(config, name) for name in ("seed", "eval_every", "save_every")}
    recipe = replace(config, **read_settings(TRAINED / "train.yaml") | free)
    if corpus.name != "tales" or config != recipe or model.config != load(TRAINED)[0].config:
        return None
    return np.genfromtxt(TRAINED / "band.csv", delimiter=",", names=True)

def progress_consumers(run, corpus: Corpus, tok, before: Sequence[Record]) -> list[Callable[[Record], None]]:
    "The consumers that show how far a run is, in a notebook, in a terminal, or where there is neither."
    if in_notebook():
        band = recorded_band(run.model, run.config, corpus)
        counter = StepCounter(run.step, run.steps)
        count = lambda record: counter.update(record.step, record.steps, f", loss {record.loss:.2f}")
        return [count, LivePlot(before, floor=floor_of(corpus, tok), band=band)]
    return [ProgressBar(run.step, run.steps) if sys.stderr.isatty() else print_evaluation]
