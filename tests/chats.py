"""Trains the recipe for chats with four seeds, and control runs, with drills in any order and without them:
python -m tests.chats

data/chat-runs.csv holds every evaluation; tinygpt/assets/chat/ the model of seed 0 in 16 bits, and its card. The accuracy
is that over all answers of the first 60 validation conversations, in the last row of a run of the first 300. The seconds
are those of the whole run, evaluations included."""

import csv
import datetime
import os
import platform
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from tinygpt import Corpus, TrainConfig, answers, corpus, load, save, train
from tinygpt.cli.settings import config_file, read_settings
from tinygpt.io.corpus import CHATS, SPECIAL_TOKENS, Seeded
from tinygpt.presets import CHAT, TRAINED
from tinygpt.tales import chat

DRILL_RECIPE, CHAT_RECIPE = (TrainConfig(**read_settings(config_file(name))["train"]) for name in ("drills", "chats"))
ROOT = Path(__file__).parents[1]
RUNS = ROOT / "data" / "chat-runs.csv"
RECIPES = {"drills in order": range(4), "drills shuffled": range(3), "conversations alone": range(3)}  # seeds
CARD = """\
# A small model that answers

The model of tales, trained further to answer questions: {drills:,} steps of drills and {chats:,} of conversations and drills, by
the recipe of the chapter "Chat".

    import tinygpt as tg
    from tinygpt.presets import CHAT
    model, tok = tg.load(CHAT)
    question = "Ida has three purple vases and lives behind a barn. Kurt lives by a moor. Where does Kurt live?"
    print("".join(tg.reply(model, tok, [{{"role": "user", "content": question}}])))

Right answers, of all in 300 unseen conversations (greedy decoding, every token right, and the answer ended):

| | {seeds} |
|---|{lines}
{rows}

Seconds of training for each: {seconds}. {machine}

It is a toy. It knows what it is told about two people, in the words of this one grammar, and nothing of the world. To make it
again: `python -m tests.chats`.
"""


def over_all(kinds: dict[str, float], n: int) -> float:
    "The accuracy over all answers of the first n validation conversations."
    counts = Counter(kind for text in islice(corpus("chats").val, n) for _, _, kind in answers(text))
    return sum(kinds[kind] * counts[kind] for kind in kinds) / counts.total()


def one_run(recipe: str, seed: int) -> tuple[list[dict], tuple]:
    "Train with a seed; returns its evaluations, and the model with its tokenizer."
    (model, tok), rows, seconds, done = load(TRAINED), [], 0.0, 0
    alone = Corpus("chats alone", Seeded(chat, CHATS["train"], SPECIAL_TOKENS), corpus("chats").val)
    drills = replace(corpus("drills"), in_order=recipe == "drills in order")
    stages = [(drills, DRILL_RECIPE), (corpus("chats"), CHAT_RECIPE)]
    for text, config in [(alone, CHAT_RECIPE)] if recipe == "conversations alone" else stages:
        records = train(model, tok, text, replace(config, seed=seed), progress=False)
        for record in records:
            if record.skills:
                n = 300 if record.step == record.steps else 60
                rows.append({"recipe": recipe, "seed": seed, "step": done + record.step,
                             "seconds": round(seconds + record.seconds, 1),
                             "accuracy": round(over_all(record.skills, n), 4)}
                            | {kind: round(fraction, 4) for kind, fraction in record.skills.items()})
        seconds, done = seconds + records[-1].seconds, done + len(records)
    print(recipe, seed, rows[-1], flush=True)
    return rows, (model, tok)


def write_runs(rows: list[dict], machine: str):
    "Write all evaluations so far."
    with RUNS.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "machine"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"machine": machine} for row in rows)


def write_card(last: list[dict], machine: str):
    "Write the model's card, from the last evaluation of each seed."
    kinds = [*last[0]][4:]
    lines = [f"| {kind} | {' | '.join(f'{row[kind]:.1%}' for row in last)} |" for kind in kinds]
    card = CARD.format(
        drills=DRILL_RECIPE.steps,
        chats=CHAT_RECIPE.steps,
        machine=f"The machine: {machine}.",
        lines="---|" * len(last),
        seeds=" | ".join(f"seed {row['seed']}" for row in last),
        seconds=", ".join(f"{row['seconds']:.0f}" for row in last),
        rows="\n".join(lines).replace("| accuracy |", "| **all** |"),
    )
    (CHAT / "README.md").write_text(card, encoding="utf-8")


def main():
    rows, last = [], []
    cores = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    machine = f"{cores}, torch {torch.__version__}, {datetime.date.today()}"
    for recipe, seeds in RECIPES.items():
        for seed in seeds:
            found, (model, tok) = one_run(recipe, seed)
            rows += found
            write_runs(rows, machine)
            if recipe == "drills in order":
                last.append(found[-1])
                write_card(last, machine)
                if seed == 0:
                    save(CHAT, model.half(), tok)


if __name__ == "__main__":
    main()
