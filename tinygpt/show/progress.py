"""How far a run is: a bar, a live plot, samples of its own text, TensorBoard and Weights & Biases."""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from tinygpt.gpt import GPT
from tinygpt.io.checkpoints import read_gpt_config
from tinygpt.io.corpus import Corpus
from tinygpt.io.log import Record
from tinygpt.io.runs import read_settings
from tinygpt.presets import TRAINED
from tinygpt.sample import continue_text
from tinygpt.show.pictures import show
from tinygpt.show.training import training_plot
from tinygpt.world.judging import floor_of


def in_notebook() -> bool:
    "Whether what is displayed can be seen."
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class Progress:
    "A bar in a terminal or a notebook; elsewhere a line for each examination."

    def __init__(self):
        self.bar, self.shown = None, {}

    def begin(self, record: Record):
        from tqdm.auto import tqdm

        hidden = False if in_notebook() else None  # None: where nobody looks
        self.bar = tqdm(initial=record.step - 1, total=record.steps, unit="step", disable=hidden,
                        leave=False, dynamic_ncols=True)

    def __call__(self, record: Record):
        if self.bar is None:
            self.begin(record)
        if self.bar.disable:
            if record.val_loss is not None:
                print(f"step {record.step} of {record.steps}, loss {record.loss:.3f}, "
                      f"unseen {record.val_loss:.3f}")
            return
        self.bar.total = record.steps  # by minutes, it is planned anew in each step
        if hasattr(self.bar, "container"):
            self.bar.container.children[1].max = record.steps  # a notebook's bar has its own
        self.bar.update(record.step - self.bar.n)
        unseen = {} if record.val_loss is None else {"unseen": f"{record.val_loss:.3f}"}
        self.shown |= {"loss": f"{record.loss:.3f}"} | unseen
        self.bar.set_postfix(self.shown)
        if record.step >= record.steps:
            self.bar.close()


def numbers(record: Record) -> dict[str, float]:
    "What of a record can be drawn as a curve, by name."
    found = {name: value for name, value in vars(record).items() if name not in ("step", "skills")}
    found |= {f"skill/{name}": share for name, share in (record.skills or {}).items()}
    return {name: value for name, value in found.items() if value is not None}


def to_tensorboard(folder: str | Path) -> Callable[[Record], None]:
    "A consumer that writes for TensorBoard."
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    def consume(record: Record):
        for name, value in numbers(record).items():
            writer.add_scalar(name, value, record.step)
        if record.val_loss is not None:
            writer.flush()
    return consume


def to_wandb(**settings) -> Callable[[Record], None]:
    "A consumer that writes for Weights & Biases; the settings are those of `wandb.init`."
    import wandb

    log = wandb.init(**settings)
    def consume(record: Record):
        log.log(numbers(record), step=record.step)
        if record.step >= record.steps:
            log.finish()
    return consume


class LivePlot:
    "Draws a run anew every few seconds, in a notebook."

    def __init__(self, before: Iterable[Record] = (), every: float = 5.0, **plot):
        from IPython.display import display

        self.records, self.every, self.plot = list(before), every, plot
        self.drawn, self.handle = perf_counter(), display({}, raw=True, display_id=True)

    def __call__(self, record: Record):
        self.records.append(record)
        if perf_counter() - self.drawn > self.every or record.step >= record.steps:
            import matplotlib.pyplot as plt

            said = f"Loss and skills after {record.step} of {record.steps} steps."
            with plt.style.context("tinygpt.assets.course"):
                show(training_plot({"this run": self.records}, **self.plot), said, self.handle)
            self.drawn = perf_counter()


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

def printable(text: str) -> str:
    "The text without what a terminal would obey."
    return CONTROL.sub("\ufffd", text)


def show_samples(model: GPT, tok, ids: Sequence[int], n: int = 60) -> Callable[[Record], None]:
    "A consumer that prints what the model writes after these tokens, wherever it was examined."
    from tqdm import tqdm

    def consume(record: Record):
        if record.val_loss is not None:
            text = printable(continue_text(model, tok, ids, n, seed=record.step))
            tqdm.write(f"step {record.step}: {text}")  # above the bar, if there is one
    return consume


def recorded_band(model: GPT, config, corpus: Corpus) -> dict[str, np.ndarray] | None:
    "Where eight runs of the recipe went, step by step; None if this run is another one."
    free = {name: getattr(config, name) for name in ("seed", "eval_every", "save_every")}
    recipe = read_settings(TRAINED / "train.yaml") | free
    if corpus.name != "tales" or vars(config) != recipe or model.config != read_gpt_config(TRAINED):
        return None
    table = np.loadtxt(TRAINED / "band.csv", delimiter=",", skiprows=1)
    return dict(zip(("step", "low", "high"), table.T))


def progress_consumers(run, corpus: Corpus, tok, before: Sequence[Record]) -> list[Callable[[Record], None]]:
    "What shows how far a run is: a bar and, in a notebook, a live plot."
    if not in_notebook():
        return [Progress()]
    known = {"floor": floor_of(corpus, tok), "band": recorded_band(run.model, run.config, corpus)}
    return [Progress(), LivePlot(before, **known)]
