"""Trains the recipe for tales with eight seeds, and control runs that differ in one thing, and keeps what came of it:
python -m tests.recipe

data/tales-runs.csv holds every step of the eight runs and every evaluation of the others; tinygpt/assets/trained/ the model
of seed 0 in 16 bits, its settings, its log, its card, and the band in which the eight ran. A run that was stopped resumes
when the command is called again."""

import csv
import datetime
import os
import platform
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from tinygpt import GPT, GPTConfig, corpus, count_parameters, load, save, the_tokenizer
from tinygpt.io.log import read_records
from tinygpt.presets import TRAINED
from tinygpt.show.training import smooth
from tinygpt.training import RECIPE, train
from tinygpt.world.judging import floor_of
from tinygpt.world.skills import CHANCE

ROOT = Path(__file__).parents[1]
SEEDS, CONTROL_SEEDS = range(8), range(3)
CONTROLS = {  # changes of the model, and of the recipe
    "embeddings of std 0.02": ({"embedding_std": 0.02}, {}),
}
RUNS = {f"seed {seed}": ({}, {"seed": seed}) for seed in SEEDS}
RUNS |= {
    f"{name}, seed {seed}": (shape, plan | {"seed": seed})
    for name, (shape, plan) in CONTROLS.items()
    for seed in CONTROL_SEEDS
}
CARD = """\
# A small model that tells tales

{parameters:,} parameters, Qwen3's shape: {n_layer} layers, {n_head} heads, {n_embd} wide, for the {vocab_size:,} tokens of the course's
tokenizer. It was trained on the 4,000 tales of `tinygpt.corpus("tales")`, {steps:,} steps of {batch_size} tales, by the recipe of the
chapter "Training". All weights started at random.

    import tinygpt as tg
    from tinygpt.presets import TRAINED
    model, tok = tg.load(TRAINED)

| | seed 0 | worst of eight seeds |
|---|---|---|
{rows}

The floor, the entropy of the tales, is {floor:.4f} nats per token, or {per_tale:.1f} nats per tale. The validation loss is measured on
all 500 validation tales, the skills on 100 held-out tales, and the share of valid tales on 100 of its own. The weights are stored in
16 bits. {machine}

It is a toy. It knows tales of this one grammar, and nothing of the world. To make it again, with its log and the band in which
eight seeds ran: `python -m tests.recipe`.
"""


def one_run(name: str) -> Path:
    "Train with a seed, or take what an earlier call has trained."
    shape, plan = RUNS[name]
    config = replace(RECIPE, **plan)
    torch.manual_seed(config.seed)
    out = ROOT / "build" / "recipe" / name.replace(" ", "-")
    train(GPT(GPTConfig.named("tiny", **shape)), the_tokenizer(), corpus("tales"), config, out, resume=True)
    return out


def tokens_per_tale() -> float:
    "How many tokens are predicted in a validation tale, on average."
    val = corpus("tales").val
    return sum(len(the_tokenizer().encode(tale)) + 1 for tale in val) / len(val)


def judged(records: list) -> dict[str, float]:
    "The last evaluation of a run."
    last, floor = records[-1], floor_of(corpus("tales"), the_tokenizer())
    gap = last.val_loss - floor
    found = {"gap to the floor, nats per token": gap, "gap to the floor, nats per tale": gap * tokens_per_tale()}
    return found | last.skills | {"valid tales": last.valid_fraction}


def write_runs(logs: dict):
    "The steps of every run, as a table; of a control run those with an evaluation."
    with open(ROOT / "data" / "tales-runs.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["run", "step", "loss", "val_loss", *CHANCE, "valid_fraction"])
        for name, records in logs.items():
            for r in records:
                if r.val_loss is None and not name.startswith("seed"):
                    continue
                skills = [round(r.skills[skill], 3) for skill in CHANCE] if r.skills else [""] * len(CHANCE)
                val_loss, valid = ["" if value is None else round(value, 4) for value in (r.val_loss, r.valid_fraction)]
                table.writerow([name, r.step, round(r.loss, 4), val_loss, *skills, valid])


def write_band(logs: dict):
    "Where the eight seeds ran, step by step."
    curves = np.array([smooth([record.loss for record in logs[f"seed {seed}"]]) for seed in SEEDS])
    table = np.stack([np.arange(1, curves.shape[1] + 1), curves.min(0), curves.max(0)], 1)
    np.savetxt(TRAINED / "band.csv", table, ["%d", "%.3f", "%.3f"], ",", header="step,low,high", comments="")


def write_card(first: dict[str, float], worst: dict[str, float]):
    "The model's README."
    c, floor = GPTConfig.named("tiny"), floor_of(corpus("tales"), the_tokenizer())
    percent = lambda what, value: f"{value:.2f}" if what.startswith("gap") else f"{value:.1%}"
    rows = [f"| {what} | {percent(what, value)} | {percent(what, worst[what])} |" for what, value in first.items()]
    machine = (
        f"The machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {datetime.date.today()}."
    )
    numbers = vars(c) | {"steps": RECIPE.steps, "batch_size": RECIPE.batch_size, "rows": "\n".join(rows)}
    numbers |= {"floor": floor, "per_tale": floor * tokens_per_tale(), "machine": machine}
    (TRAINED / "README.md").write_text(CARD.format(parameters=count_parameters(c), **numbers))


def main():
    folders = {name: one_run(name) for name in RUNS}
    logs = {name: read_records(folder) for name, folder in folders.items()}
    shutil.rmtree(TRAINED)
    model, tok = load(folders["seed 0"])
    save(TRAINED, model, tok, dtype="float16")
    for file in "log.csv", "train.yaml":
        shutil.copy(folders["seed 0"] / file, TRAINED)
    write_runs(logs), write_band(logs)
    found = {name: judged(records) for name, records in logs.items()}
    worst = {}
    for what in found["seed 0"]:
        worst[what] = (max if what.startswith("gap") else min)(found[f"seed {seed}"][what] for seed in SEEDS)
    print(f"{'':34}" + " ".join(f"{what.split()[-1]:>8}" for what in worst))
    for name, values in (found | {"worst of eight seeds": worst}).items():
        print(f"{name:34}" + " ".join(f"{value:8.3f}" for value in values.values()))
    write_card(found["seed 0"], worst)


if __name__ == "__main__":
    main()
