"""Training: step by step, with a record of each, and a folder from which a run goes on whatever happened to it."""

import csv
import json
import math
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from tinygpt import weights
from tinygpt.checkpoints import save
from tinygpt.data import Corpus, Windows, encode_corpus, in_order, whole_number
from tinygpt.files import read_json, understood, whole, write_json
from tinygpt.gpt import GPT
from tinygpt.optim import build_optimizers, constant_linear, set_pace, warmup_cosine
from tinygpt.tales import skill_accuracy

__all__ = ["Diverged", "Record", "TrainConfig", "train"]

NOTED = ("step", "steps", "tokens", "seconds", "best")  # what a checkpoint says beside its tensors
SCHEDULES = {"linear": constant_linear, "cosine": warmup_cosine}


@dataclass(frozen=True)
class TrainConfig:
    "How a model is trained. Of steps, epochs and minutes one says how long."

    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    batch_size: int = 8
    block_size: int | None = None  # tokens in a row; if None, as many as the model reads
    optimizer: str = "muon"  # or "adamw"
    lr: float | None = None  # of the matrices; if None, what suits the optimizer
    table_lr: float | None = None
    vector_lr: float | None = None
    weight_decay: float = 0.0
    schedule: str = "linear"  # or "cosine"
    warmup: int = 20  # steps
    clip: float = 1.0  # the largest norm of a gradient
    dtype: str = "float32"  # or "bfloat16"
    checkpointing: bool = False  # whether to compute twice and keep less in memory
    seed: int = 0
    eval_every: int = 100  # steps
    save_every: int = 100  # steps

    def __post_init__(self):
        check_config(self)


def check_config(c: TrainConfig):
    "Refuse what cannot be trained with, and say what could."
    ends = {name: getattr(c, name) for name in ("steps", "epochs", "minutes")}
    given = [f"{name}={value}" for name, value in ends.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"{' and '.join(given) or 'nothing'} says how long: give one of steps, epochs and minutes")
    for name in ("steps", "batch_size", "block_size", "eval_every", "save_every"):
        if getattr(c, name) is not None:
            whole_number(name, getattr(c, name), 1)
    for name in "warmup", "seed":
        whole_number(name, getattr(c, name), 0)
    for name in "epochs", "minutes", "clip":
        value = getattr(c, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name}={value} should be a number above 0")
    for name, known in (("schedule", SCHEDULES), ("dtype", ("float32", "bfloat16"))):
        if getattr(c, name) not in known:
            raise ValueError(f"{name}={getattr(c, name)!r} should be one of {', '.join(known)}")


@dataclass
class Record:
    "What happened in one step."

    step: int  # counted from 1
    steps: int  # how many there will be
    loss: float  # nats a token
    share: float  # of the full rate
    grad_norm: float  # before clipping
    tokens: int  # learned from so far
    seconds: float  # since the start
    tokens_per_second: float
    val_loss: float | None = None  # where it was measured
    skills: dict[str, float] | None = None


class Diverged(ArithmeticError):
    "A loss or a gradient that is no number."


class Run:
    "A model on its way: what a step needs, and all that it changes."

    def __init__(self, model: GPT, windows: Windows, config: TrainConfig):
        c = config
        self.model, self.windows, self.config = model, windows, config
        self.optimizers = build_optimizers(
            model, c.optimizer, c.lr, c.table_lr, c.vector_lr, weight_decay=c.weight_decay
        )
        self.step, self.tokens, self.seconds, self.best = 0, 0, 0.0, None
        epoch = windows.n / (windows.batch_size * windows.world)
        self.steps = c.steps or max(1, round((c.epochs or 0) * epoch))

    def lesson(self) -> tuple[Tensor, int]:
        "The loss of this step's batch, and how many tokens count in it."
        c, device = self.config, self.model.embed.weight.device
        torch.manual_seed(c.seed + self.step)  # what dropout drops depends on the step alone
        ids, targets, mask = (part.to(device) for part in self.windows[self.step])
        with torch.autocast(device.type, torch.bfloat16, enabled=c.dtype == "bfloat16"):
            return self.model.loss(ids, targets, mask, checkpointing=c.checkpointing), int(mask.sum())

    def advance(self) -> Record:
        "One step, and what happened in it."
        start = perf_counter()
        self.model.train()
        loss, n = self.lesson()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip).item()
        if not math.isfinite(loss.item() + norm):
            self.model.zero_grad()
            raise Diverged(f"in step {self.step + 1} the loss is {loss.item()} and the gradient's norm {norm}")
        share = SCHEDULES[self.config.schedule](self.step, self.steps, self.config.warmup)
        set_pace(self.optimizers, share)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad()
        took = perf_counter() - start
        self.step, self.tokens, self.seconds = self.step + 1, self.tokens + n, self.seconds + took
        return Record(self.step, self.steps, loss.item(), share, norm, self.tokens, self.seconds, n / took)

    def state(self) -> dict[str, Tensor]:
        "All tensors that a step changes, by name."
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for i, optimizer in enumerate(self.optimizers):
            for number, kept in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{number}.{name}": tensor for name, tensor in kept.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]):
        "Go back to where these tensors were taken."
        kept: list[dict] = [{} for _ in self.optimizers]
        for name in tensors:
            if name.startswith("optimizer."):
                _, i, number, key = name.split(".", 3)
                kept[int(i)].setdefault(int(number), {})[key] = tensors[name]
        for optimizer, state in zip(self.optimizers, kept):
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        names = self.model.state_dict()
        self.model.load_state_dict({name: tensors[f"model.{name}"] for name in names})


@torch.no_grad()
def validate(model: GPT, batches: Sequence, most: int = 10) -> float:
    "The loss on some batches, spread over all of them; every token counts the same."
    device, learning = model.embed.weight.device, model.training
    model.eval()
    nats, tokens = 0.0, 0
    for i in sorted({round(place) for place in np.linspace(0, len(batches) - 1, most)}):
        ids, targets, mask = (part.to(device) for part in batches[i])
        nats += model.loss(ids, targets, mask).item() * int(mask.sum())
        tokens += int(mask.sum())
    model.train(learning)
    return nats / tokens


def steps_of(run: Run, examine: Callable[[], dict]) -> Iterator[Record]:
    "All steps that are left, each with its record; where it is due, `examine` adds to it."
    c, before, first, began = run.config, run.seconds, run.step, perf_counter()
    if c.minutes and not run.step:
        run.steps = planned(run, measure(run))
    ready = perf_counter()
    while run.step < run.steps:
        record = run.advance()
        if run.step % c.eval_every == 0 or run.step >= run.steps:
            record = replace(record, **examine())
        now = perf_counter()
        run.seconds = before + now - began
        if c.minutes:
            run.steps = planned(run, (now - ready) / (run.step - first))
        yield replace(record, seconds=run.seconds, steps=run.steps)


def measure(run: Run) -> float:
    "How long a step takes, in seconds: the second of two from which nothing is learned."
    for _ in range(2):
        start = perf_counter()
        run.lesson()[0].backward()
    run.model.zero_grad()
    return perf_counter() - start


def planned(run: Run, each: float) -> int:
    "How many steps there will be, if each takes so many seconds."
    return max(1, run.step + round((60 * run.config.minutes - run.seconds) / each))


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    "Let no second run write into a folder."
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a") as lock:
        try:
            take_lock(lock)
        except OSError:
            raise ValueError(f"another run is writing into {folder}: wait for it, or name another folder") from None
        yield


def take_lock(file):
    "Lock a file until it is closed, or the process ends, however it ends."
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def keep(run: Run, folder: Path, tok=None):
    "Write a checkpoint: first the tensors, then the note that makes them one; the two newest stay."
    state, file = folder / "state", f"{run.step:08d}.safetensors"
    weights.write_weights(state, run.state(), file)
    note = {name: getattr(run, name) for name in NOTED}
    write_json((state / file).with_suffix(".json"), note)
    for old in sorted(state.glob("*.json"))[:-2]:
        old.unlink()
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    save(folder, run.model, tok)


def go_on(run: Run, folder: Path) -> bool:
    "Take up a run at its newest checkpoint that can be read."
    for note in sorted((folder / "state").glob("*.json"), reverse=True):
        try:
            said, file = read_json(note, dict), note.with_suffix(".safetensors").name
            shapes = weights.list_weights(note.parent, file)
            run.restore(weights.read_weights(note.parent, shapes, file=file))
            for name in NOTED:
                setattr(run, name, said[name])
            return True
        except (ValueError, OSError, LookupError, RuntimeError) as error:
            warnings.warn(f"{error}; so this run goes on from the checkpoint before it", stacklevel=3)
    return False


def begin(run: Run, folder: Path, resume: bool):
    "Start a folder, or take up the run that is in it."
    asked = asdict(run.config)
    if not any((folder / "state").glob("*.json")):
        write_settings(folder / "train.yaml", asked)
        return
    if not resume:
        raise ValueError(f"{folder} has a run already: go on with it by resume=True, or name another folder")
    before = read_settings(folder / "train.yaml")
    if other := [f"{name}={before.get(name)}" for name in asked if before.get(name) != asked[name]]:
        raise ValueError(f"the run in {folder} was begun with {', '.join(other)}: go on with the same settings")
    if not go_on(run, folder):
        raise ValueError(f"no checkpoint in {folder / 'state'} can be read: name another folder")


def write_settings(path: Path, settings: dict):
    "Settings as YAML, one in a line."
    with whole(path) as draft:
        draft.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in settings.items()))


def read_settings(path: Path) -> dict:
    "What `write_settings` wrote."
    with understood(path):
        lines = path.read_text().splitlines()
        return {name: json.loads(value) for name, value in (line.split(": ", 1) for line in lines)}


class Log:
    "A table of all steps, in a file that any program opens."

    def __init__(self, path: Path, step: int):
        self.columns = [field.name for field in fields(Record)]
        kept = [row for row in read_log(path) if int(row["step"]) <= step] if path.exists() else []
        with whole(path) as draft, open(draft, "w", newline="") as file:
            table = csv.DictWriter(file, self.columns)
            table.writeheader()
            table.writerows(kept)
        self.path = path

    def __call__(self, record: Record):
        with open(self.path, "a", newline="") as file:
            row = asdict(record) | {"skills": json.dumps(record.skills) if record.skills else None}
            csv.DictWriter(file, self.columns).writerow(row)


def read_log(path: Path) -> list[dict[str, str]]:
    "The rows of a log, but for one that was cut off."
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if None not in row.values() and None not in row]


@contextmanager
def asked_to_stop() -> Iterator[list]:
    "A list that is no longer empty once Ctrl-C was pressed; the second time, it stops at once."
    asked: list = []

    def note(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


class Progress:
    "A bar in a terminal or a notebook; elsewhere a line for each time that the loss was measured on unseen text."

    def __init__(self, step: int):
        from tqdm.auto import tqdm

        self.bar = tqdm(initial=step, unit="step", disable=None)

    def __call__(self, record: Record):
        if self.bar.disable:
            if record.val_loss is not None:
                print(f"step {record.step} of {record.steps}, loss {record.loss:.3f}, unseen {record.val_loss:.3f}")
            return
        self.bar.total = record.steps
        self.bar.update(record.step - self.bar.n)
        unseen = {} if record.val_loss is None else {"unseen": f"{record.val_loss:.3f}"}
        self.shown = getattr(self, "shown", {}) | {"loss": f"{record.loss:.3f}"} | unseen
        self.bar.set_postfix(self.shown)
        if record.step >= record.steps:
            self.bar.close()


def train(
    model: GPT,
    tok,
    corpus: Corpus,
    config: TrainConfig,
    out: str | Path | None = None,  # a folder for the run: without it nothing is written
    resume: bool = False,  # whether to go on with the run in that folder
    consumers: Iterable[Callable[[Record], None]] = (),  # each is given every record
    progress: bool = True,  # whether to show how far it is
) -> list[Record]:
    "Train a model, and return what happened in each step."
    size = config.block_size or model.config.block_size
    learn, judge = encode_corpus(corpus.train, tok), encode_corpus(corpus.val, tok)
    run = Run(model, Windows(learn, size, config.batch_size, config.seed), config)
    batches, records = in_order(judge, size, config.batch_size), []
    consumers, out = list(consumers), None if out is None else Path(out).expanduser()

    def examine() -> dict:
        found = {"val_loss": validate(model, batches)}
        if hasattr(corpus, "heldout") and corpus.heldout is not None:
            found["skills"] = skill_accuracy(model, tok, corpus, n=50)
        if out is not None and (run.best is None or found["val_loss"] < run.best):
            run.best = found["val_loss"]
            save(out, model, tok, variant="best")
        return found

    with ExitStack() as stack:
        if out is not None:
            stack.enter_context(claimed(out))
            begin(run, out, resume)
            log = Log(out / "log.csv", run.step)
        if progress:
            consumers.append(Progress(run.step))
        stop = stack.enter_context(asked_to_stop())
        try:
            for record in steps_of(run, examine):
                records.append(record)
                due = run.step % config.save_every == 0 or run.step >= run.steps
                if out is not None:
                    log(record)
                    if due:
                        keep(run, out, tok)
                for consume in consumers:
                    consume(record)
                if stop:
                    if out is not None and not due:
                        keep(run, out, tok)
                    print(f"stopped after step {run.step} of {run.steps}" + how_to_go_on(out))
                    break
        except Diverged:
            if out is not None:
                keep(run, out, tok)
            raise
    model.eval()
    return records


def how_to_go_on(out: Path | None) -> str:
    "What to call to go on with a run that was stopped."
    return "" if out is None else f"; to go on, train with out={str(out)!r} and resume=True"
