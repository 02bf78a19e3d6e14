"""From naive to fast, one change at a time, measured in turns: python -m tests.speed [cpu | cuda]

Writes data/speed.csv: for each machine the tokens per second at each step and its gain over the step before, with versions and
date. On a GPU it also measures GPT-2 with 124 million parameters against the device's peak, and trains tinyshakespeare to
nanoGPT's loss; both need less than ten minutes together, and each result is written as soon as it is there."""

import csv
import datetime
import gc
import os
import platform
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch.nn import functional as F

from tinygpt import GPT, GPTConfig, TrainConfig, Windows, corpus, count_parameters, encode_corpus, evaluate
from tinygpt.engine.modes import paused_gc
from tinygpt.gpu import forward_backward, peak_flops, pick_device, utilisation, wait_for
from tinygpt.optim import Muon, build_optimizers, parameter_groups

ROOT = Path(__file__).parents[1]
COLUMNS = ["date", "machine", "python", "torch", "model", "step", "tokens_per_second", "gain", "note"]


@dataclass(frozen=True)
class Setup:
    "How a training step is computed."

    dtype: str = "float32"
    fused_attention: bool = False
    chunked_loss: bool = False
    fused_optimizer: bool = False
    compiled: bool = False
    vocab_size: int | None = None
    batch_size: int | None = None
    paused_gc: bool = False


def steps(device: str) -> dict[str, dict]:
    "What each step changes, in order; a step keeps what those before it changed."
    fused = {
        "fused attention": {"fused_attention": True},
        "loss in chunks": {"chunked_loss": True},
        "stacked Muon, fused AdamW": {"fused_optimizer": True},
    }
    if device == "cpu":
        return {"naive": {}} | fused | {"compiled": {"compiled": True}, "bfloat16": {"dtype": "bfloat16"}}
    narrow = {"tf32": {"dtype": "tf32"}, "bfloat16": {"dtype": "bfloat16"}}
    rest = {
        "compiled": {"compiled": True},
        "vocabulary of 50,304": {"vocab_size": 50304},
        "batch of 64": {"batch_size": 64},
        "no garbage collection": {"paused_gc": True},
    }
    return {"naive": {}} | narrow | fused | rest


def plain_loss(model: GPT, setup: Setup, ids, targets, mask):
    "The loss, with attention weights and logits as whole tensors unless the setup says otherwise."
    weights_out = None if setup.fused_attention else []
    if setup.chunked_loss:
        return model.loss(ids, targets, mask, weights_out=weights_out)
    logits = model(ids, weights_out=weights_out).flatten(0, 1).float()
    return F.cross_entropy(logits, targets.masked_fill(~mask, -1).flatten(), ignore_index=-1)


def naive_optimizers(model: GPT) -> list:
    "The same optimizers, matrix by matrix and parameter by parameter."
    groups = parameter_groups(model)
    muons = [Muon([matrix], 0.015) for matrix in groups["matrices"]]
    return [*muons, torch.optim.AdamW(groups["embeddings"] + groups["vectors"], 0.02, foreach=False, fused=False)]


class Trainer:
    "Makes training steps in one setup, on random tokens."

    def __init__(self, name: str, setup: Setup, device: torch.device, batch_size: int, length: int):
        torch.manual_seed(0)
        changes = {"vocab_size": setup.vocab_size} if setup.vocab_size else {}
        self.setup, self.device, self.config = setup, device, GPTConfig.named(name, **changes)
        self.model = GPT(self.config).to(device)
        shape = (setup.batch_size or batch_size, length)
        self.ids = torch.randint(self.config.vocab_size, shape, device=device)
        self.mask = torch.ones(shape, dtype=torch.bool, device=device)
        self.optimizers = build_optimizers(self.model) if setup.fused_optimizer else naive_optimizers(self.model)
        loss = partial(plain_loss, self.model, setup)
        self.loss = torch.compile(loss, dynamic=False) if setup.compiled else loss
        self.n_tokens = self.ids.numel()

    def step(self):
        forward_backward(self.loss, (self.ids, self.ids, self.mask), self.setup.dtype)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.model.zero_grad()
        return norm.item()

    def seconds(self, n: int) -> float:
        "How long a step takes, measured over n steps."
        with paused_gc() if self.setup.paused_gc else nullcontext():
            wait_for(self.device)
            start = perf_counter()
            for _ in range(n):
                self.step()
            wait_for(self.device)
        return (perf_counter() - start) / n


def machine_name(device: torch.device) -> str:
    "What the speed depends on, in words."
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} {platform.machine()} cores"


def write(rows: list[dict], device: torch.device, model: str):
    "Replace the rows of this machine and model in data/speed.csv."
    path = ROOT / "data" / "speed.csv"
    about = {
        "date": str(datetime.date.today()),
        "machine": machine_name(device),
        "torch": torch.__version__.split("+")[0],
    }
    about |= {"python": platform.python_version(), "model": model}
    before = list(csv.DictReader(path.open())) if path.exists() else []
    kept = [row for row in before if (row["machine"], row["model"]) != (about["machine"], model)]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept + [about | row for row in rows])


def climb(name: str, device: torch.device, batch_size: int, length: int, rounds: int, n: int):
    "Measure all steps in turns, and write them."
    setups, setup = {}, Setup()
    for step, changes in steps(device.type).items():
        setup = Setup(**vars(setup) | changes)
        setups[step] = setup
    trainers, times = {}, {}
    for step, setup in setups.items():
        try:
            trainer = Trainer(name, setup, device, batch_size, length)
            for _ in range(3):
                trainer.step()
        except Exception as error:  # no compiler, or not enough memory: the step is left out
            print(f"{step}: left out, {type(error).__name__}: {str(error)[:200]}")
            continue
        if device.type == "cuda":  # one after another: together they do not fit
            times[step] = [trainer.n_tokens / trainer.seconds(n) for _ in range(rounds)]
            del trainer
            gc.collect()
            torch.cuda.empty_cache()
        else:
            trainers[step] = trainer
        if step in times:
            print(f"{step:24} {median(times[step]):12,.0f} tokens/s", flush=True)
    for _ in range(rounds if trainers else 0):
        for step, trainer in trainers.items():
            times.setdefault(step, []).append(trainer.n_tokens / trainer.seconds(n))
    rows, before = [], None
    for step, speeds in times.items():
        gains = [a / b for a, b in zip(speeds, before)] if before else [1.0]
        rows.append({"step": step, "tokens_per_second": round(median(speeds)), "gain": f"{median(gains):.3f}"})
        print(f"{step:24} {median(speeds):12,.0f} tokens/s   gain {median(gains):.2f}", flush=True)
        before = speeds
    write(rows, device, name)


def gpt2(device: torch.device):
    "GPT-2 with 124 million parameters, 64 rows of 1,024 tokens: the share of the device's peak."
    setup = Setup("bfloat16", True, True, True, True, 50304, 64, True)
    trainer = Trainer("gpt2-124m", setup, device, 64, 1024)
    for _ in range(5):
        trainer.step()
    speed = trainer.n_tokens / median(trainer.seconds(5) for _ in range(5))
    peak, source = peak_flops(device)
    share = utilisation(trainer.config, 1024, speed, peak)
    bar = "met" if share >= 0.55 else "MISSED"
    print(f"gpt2-124m: {speed:,.0f} tokens/s, {share:.1%} of {peak / 1e12:.0f} TFLOP/s ({source})   bar: 55 %: {bar}")
    note = f"{share:.1%} of {peak / 1e12:.0f} TFLOP/s ({source})"
    write(
        [{"step": "all", "tokens_per_second": round(speed), "gain": "1", "note": note}], device, "gpt2-124m, 64 x 1024"
    )


def shakespeare(device: torch.device, seeds=range(3), steps: int = 600, batch_size: int = 64, n_layer: int = 6):
    "tinyshakespeare by character: the seconds of training after compilation, and the validation loss (bar 1.4697 in 7 s)."
    from tinygpt import CharTokenizer, validation_batches
    from tinygpt.training import Run, training_steps

    text = corpus("shakespeare")
    tok = CharTokenizer.train(text)
    train_tokens, val_tokens = encode_corpus(text.train, tok), encode_corpus(text.val, tok)
    results: list[Callable] = []
    for seed in seeds:
        torch.manual_seed(seed)
        shape = GPTConfig.modern(128, n_layer=n_layer, n_head=6, n_embd=384, n_hidden=1024, block_size=256, dropout=0.2)
        model = GPT(shape).to(device)
        config = TrainConfig(steps=steps, batch_size=batch_size, dtype="bfloat16", compile=True, seed=seed)
        run = Run(model, Windows(train_tokens, 256, batch_size, seed), config)
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        warm = Run(model, run.windows, config)
        warm.loss = run.loss  # compile once, on a run that is thrown away
        for record in training_steps(warm):
            if record.step == 5:
                break
        model.load_state_dict(weights)
        wait_for(device)
        start = perf_counter()
        with paused_gc():
            for record in training_steps(run):
                pass
        wait_for(device)
        seconds = perf_counter() - start
        loss = evaluate(model.eval(), validation_batches(val_tokens, 256, batch_size))
        met = "met" if seconds < 7 and loss <= 1.4697 else "MISSED"
        print(
            f"shakespeare, seed {seed}: {count_parameters(shape):,} parameters, {loss:.4f} in {seconds:.2f} s   {met}"
        )
        note = f"validation loss {loss:.4f} in {seconds:.2f} s"
        speed = round(steps * batch_size * 256 / seconds)
        results.append({"step": f"seed {seed}", "tokens_per_second": speed, "gain": "1", "note": note})
        write(results, device, "shakespeare, 10.7M")


if __name__ == "__main__":
    device, why = pick_device(sys.argv[1] if len(sys.argv) > 1 else "auto")
    print(
        f"{datetime.date.today()}, Python {platform.python_version()}, torch {torch.__version__}, {os.cpu_count()} cores"
    )
    print(f"{device}: {why}", flush=True)
    if device.type == "cuda":
        for part in (shakespeare, gpt2, partial(climb, "gpt2-124m", batch_size=8, length=1024, rounds=3, n=5)):
            try:
                part(device=device)
            except Exception as error:
                print(f"{part}: {type(error).__name__}: {error}", flush=True)
    else:
        climb("tiny", device, batch_size=6, length=128, rounds=7, n=5)
