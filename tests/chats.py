"""Trains the recipe for chats with four seeds, and control runs, with shuffled drills and without drills:
python -m tests.chats

data/chat-runs.csv holds every evaluation of fine-tuning; tinygpt/assets/midtrained/ and tinygpt/assets/chat/ the models of
one seed in 16 bits, and their cards. The accuracy is over all answers of the first 60 validation conversations; in the last
row of each run, of the first 300. The seconds are those of training, without evaluations."""

import csv
import datetime
import os
import platform
from collections import Counter
from dataclasses import replace
from itertools import accumulate, islice
from pathlib import Path

import torch
from tinygpt import GPT, TrainConfig, answers, corpus, load, save, train
from tinygpt.cli.settings import config_file, read_settings
from tinygpt.io.corpus import CHATS, SPECIAL_TOKENS, Seeded
from tinygpt.io.log import Record
from tinygpt.presets import CHAT, MIDTRAINED, TRAINED
from tinygpt.tales import chat, the_tokenizer

DRILL_RECIPE, CHAT_RECIPE = (TrainConfig(**read_settings(config_file(name))["train"]) for name in ("drills", "chats"))
ROOT = Path(__file__).parents[1]
RUNS = ROOT / "data" / "chat-runs.csv"
RECIPES = {"drills in order": range(4), "drills shuffled": range(3), "conversations alone": range(3)}  # seeds
SHIPPED = 1  # the seed whose models ship: of the two best, the one that also copes with facts without adjectives
ALONE_STEPS = 1200  # of conversations alone: more than twice as long as fine-tuning after the drills
MIDTRAINED_CARD = """\
# A small model after mid-training

The model of tales after {drills:,} steps of drills ({seconds:.0f} seconds), by the recipe of the chapter "Chat", with seed {shipped}.
It is made to be fine-tuned on conversations:

    import tinygpt as tg
    from tinygpt.presets import MIDTRAINED
    model, tok = tg.load(MIDTRAINED)
    question = "Ida has three purple vases. Kurt has six red hats. How many hats are there?"
    print("".join(tg.reply(model, tok, [{{"role": "user", "content": question}}])))

{machine}

It is a toy, and knows little but drills. To make it again: `python -m tests.chats`.
"""
CARD = """\
# A small model that answers

The model of tales after {drills:,} steps of drills and {chats:,} of conversations, by the recipe of the chapter "Chat", with
seed {shipped}, one of the two best of four.

    import tinygpt as tg
    from tinygpt.presets import CHAT
    model, tok = tg.load(CHAT)
    question = "Ida has three purple vases and lives behind a barn. Kurt lives by a moor. Where does Kurt live?"
    print("".join(tg.reply(model, tok, [{{"role": "user", "content": question}}])))

Right answers, of all in 300 unseen conversations (greedy decoding, every token right, and the answer ended):

| | {seeds} |
|---|{lines}
{rows}
| seconds of drills | {drill_seconds} |
| seconds of fine-tuning | {seconds} |

{machine}

It is a toy. It knows what it is told about two people, in the words of this one grammar, and nothing of the world. To make it
again: `python -m tests.chats`.
"""


def training_seconds(records: list[Record]) -> list[float]:
    "The seconds that the steps up to each record took, without evaluations."
    tokens = [0, *(record.tokens for record in records)]
    return [*accumulate((after - before) / record.tokens_per_second
                        for before, after, record in zip(tokens, tokens[1:], records))]


def over_all(kinds: dict[str, float], n: int) -> float:
    "The accuracy over all answers of the first n validation conversations."
    counts = Counter(kind for text in islice(corpus("chats").val, n) for _, _, kind in answers(text))
    return sum(kinds[kind] * counts[kind] for kind in kinds) / counts.total()


def one_run(recipe: str, seed: int, midtrained: Path | None = None) -> tuple[list[dict], GPT]:
    "Train with a seed; returns the evaluations and the model. In `midtrained` the model after the drills is saved."
    (model, tok), drill_seconds = load(TRAINED), 0.0
    if recipe == "conversations alone":
        text = replace(corpus("chats"), train=Seeded(chat, CHATS["train"], SPECIAL_TOKENS))
        config = replace(CHAT_RECIPE, steps=ALONE_STEPS)
    else:
        drills = replace(corpus("drills"), in_order=recipe == "drills in order")
        never = replace(DRILL_RECIPE, seed=seed, eval_every=DRILL_RECIPE.steps)
        drill_seconds = training_seconds(train(model, tok, drills, never, progress=False))[-1]
        model = model.half()  # as it is stored
        if midtrained:
            save(midtrained, model, tok)
        model = model.float()
        text, config = corpus("chats"), CHAT_RECIPE
    records = train(model, tok, text, replace(config, seed=seed, eval_every=50), progress=False)
    rows = []
    for record, seconds in zip(records, training_seconds(records)):
        if record.skills:
            n = 300 if record.step == record.steps else 60
            rows.append({"recipe": recipe, "seed": seed, "drill_seconds": round(drill_seconds), "step": record.step,
                         "seconds": round(seconds, 1), "accuracy": round(over_all(record.skills, n), 4)}
                        | {kind: round(fraction, 4) for kind, fraction in record.skills.items()})
    print(recipe, seed, rows[-1], flush=True)
    return rows, model


def write_runs(rows: list[dict], machine: str):
    "Write all evaluations so far."
    with RUNS.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "machine"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"machine": machine} for row in rows)


def write_cards(last: list[dict], machine: str):
    "Write the cards of the two models, from the last evaluation of each seed."
    columns = [name for name in last[0] if name not in ("recipe", "seed", "drill_seconds", "step", "seconds")]
    lines = [f"| {name} | {' | '.join(f'{row[name]:.1%}' for row in last)} |" for name in columns]
    card = CARD.format(
        drills=DRILL_RECIPE.steps,
        chats=CHAT_RECIPE.steps,
        shipped=SHIPPED,
        machine=f"The machine: {machine}.",
        lines="---|" * len(last),
        seeds=" | ".join(f"seed {row['seed']}" for row in last),
        drill_seconds=" | ".join(f"{row['drill_seconds']}" for row in last),
        seconds=" | ".join(f"{row['seconds']:.0f}" for row in last),
        rows="\n".join(lines).replace("| accuracy |", "| **all** |"),
    )
    (CHAT / "README.md").write_text(card, encoding="utf-8")
    card = MIDTRAINED_CARD.format(drills=DRILL_RECIPE.steps, seconds=last[SHIPPED]["drill_seconds"], shipped=SHIPPED,
                                  machine=f"The machine: {machine}.")
    (MIDTRAINED / "README.md").write_text(card, encoding="utf-8")


def main():
    rows, last = [], []
    cores = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    machine = f"{cores}, torch {torch.__version__}, {datetime.date.today()}"
    for recipe, seeds in RECIPES.items():
        for seed in seeds:
            ships = recipe == "drills in order" and seed == SHIPPED
            found, model = one_run(recipe, seed, MIDTRAINED if ships else None)
            rows += found
            write_runs(rows, machine)
            last.append(found[-1])
            if ships:
                save(CHAT, model.half(), the_tokenizer())
    write_cards([row for row in last if row["recipe"] == "drills in order"], machine)


if __name__ == "__main__":
    main()
