"""Puts tables of recorded numbers, from data/, where a page asks for them."""

import csv
from collections import defaultdict
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"


def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of a table in data/."""
    with open(DATA / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def table(head: list[str], rows: list[list]) -> str:
    """A table in Markdown: words on the left, numbers on the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def losses() -> str:
    """The validation loss of the recipe for tales, at some steps of eight seeds."""
    found = defaultdict(list)
    for row in rows_of("tales-runs"):
        if row["run"].startswith("seed") and row["val_loss"]:
            found[int(row["step"])].append(float(row["val_loss"]))
    steps = [100, 200, 500, 1000, 1500, 2000]
    rows = [[f"{step:,}", f"{min(found[step]):.2f}", f"{max(found[step]):.2f}"] for step in steps]
    return table(["after step", "lowest", "highest"], rows)


def baselines() -> str:
    """The validation loss of models that count."""
    found = [[row["rung"], f"{float(row['val_loss']):.2f}"] for row in rows_of("ladder") if row["steps"] == "0"]
    return table(["model of the tales", "loss"], found)


def training_speed() -> str:
    """Tokens per second, with one improvement after the other."""
    rows = [[row["step"], f"{float(row['tokens_per_second']):,.0f}"] for row in rows_of("speed")]
    return table(["`tiny` on two cores, each line with those above it", "tokens per second"], rows)


def writing_speed() -> str:
    """Tokens per second of writing, in both formats."""
    found = defaultdict(dict)
    for row in rows_of("writing"):
        if row["new_tokens"] == "200" and row["way"] in ("naive", "cached", "compiled"):
            found[row["way"]][row["dtype"]] = f"{float(row['tokens_per_second']):,.0f}"
    rows = [[way, speeds["float32"], speeds["bfloat16"]] for way, speeds in found.items()]
    return table(["`pico` on two cores, tokens per second", "float32", "bfloat16"], rows)


def sampling() -> str:
    """The share of tales without a mistake, by the settings of sampling."""
    rows = [[row["setting"], f"{float(row['possible']):.0%}", row["different"]] for row in rows_of("sampling")]
    return table(["setting", "without a mistake", "different tales of 400"], rows)


def fill(app, docname: str, source: list[str]) -> None:
    """Replace <!-- losses --> and its like."""
    for make in losses, baselines, training_speed, writing_speed, sampling:
        mark = f"<!-- {make.__name__} -->"
        if mark in source[0]:
            source[0] = source[0].replace(mark, make())


def setup(app) -> None:
    app.connect("source-read", fill)
    app.connect("env-get-outdated", lambda *_: ["help"])  # the numbers may have changed
