"""Pictures of conversations: the mask over the answers, packed rows, and recorded runs."""

import csv
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
import numpy as np
from torch import Tensor
from tinygpt.show.pictures import TINTS, Picture, show, visible

__all__ = ["drawn_mask", "drawn_rows", "recorded_chats", "accuracy_plot"]

RUNS = Path(__file__).parents[2] / "data" / "chat-runs.csv"  # written by python -m tests.chats

def drawn_mask(tok, ids: Sequence[int], mask: Sequence[bool]) -> Picture:
    "A conversation, turn by turn; the tokens that count for the loss are green."

    turns, user = [], tok.special_tokens["<|user|>"]
    for id, counts in zip(ids, mask):
        if id == user or not turns:
            turns.append("")
        text = html.escape(visible(tok.decode([id])))
        style = "background:#1f9e7755;border-bottom:2px solid #1f9e77" if counts else "opacity:.75"
        turns[-1] += f'<span style="{style};padding:1px 0">{text}</span><wbr>'
    body = "".join(f'<div style="margin-bottom:.3em">{turn}</div>' for turn in turns)
    text = "".join(f"[{tok.decode([id])}]" if counts else tok.decode([id]) for id, counts in zip(ids, mask))
    return Picture(f'<div style="font-family:monospace;line-height:1.8;white-space:pre-wrap">{body}</div>', text)

def drawn_rows(tok, batch: Sequence[Tensor]):
    "The first row of a packed batch: its tokens with their positions, and the attention mask, causal as it is used."
    import matplotlib.pyplot as plt
    ids, _, mask, positions, attention_mask = (part[0] for part in batch)
    allowed = attention_mask[0].tril().numpy()
    T, starts = len(ids), ((positions == 0) & (ids > 0)).nonzero()[:, 0].tolist()
    end = int((ids > 0).nonzero()[-1]) + 1
    number = np.searchsorted(starts, np.arange(T), "right")
    number[end:] = 0
    fig, ax = plt.subplots(figsize=(6.4, 6.4))
    colors = np.zeros((T, T, 4))
    for row, column in zip(*allowed.nonzero()):
        colors[row, column] = plt.matplotlib.colors.to_rgba(TINTS[number[row] - 1] if number[row] else "#7b818a", 0.75)
    ax.imshow(colors)
    names = [visible(tok.decode([id])).strip() if i < end else "" for i, id in enumerate(ids.tolist())]
    for i, position in enumerate(positions[:end].tolist()):
        ax.text(i, -1.2, str(position), ha="center", va="center", size=7.5)
    ax.text(-1, -1.2, "position", ha="right", va="center", size=9)
    ax.set_xticks(range(T), names, rotation=90, size=8)
    ax.set_yticks(range(T), names, size=8)
    ax.set(xlabel="token attended to", ylabel="token that attends")
    ax.grid(False)
    show(fig, f"The attention mask of a row with {len(starts)} packed conversations: a triangle for each on the diagonal, "
              "and nothing between them; above, the positions, which begin at 0 in each.")

def recorded_chats() -> dict[str, list[dict[str, float]]]:
    "The recorded runs: by recipe and seed, the accuracy of each kind at each evaluation, and the seconds until then."
    runs: dict[str, list] = {}
    with open(RUNS, newline="") as file:
        for row in csv.DictReader(file):
            name = f"{row.pop('recipe')}, seed {row.pop('seed')}"
            runs.setdefault(name, []).append({key: float(value) for key, value in row.items() if key != "machine"})
    return runs

def accuracy_plot(runs: Mapping[str, Sequence[Mapping[str, float]]]):
    "The accuracy of recorded runs against seconds of training; each recipe has a color."
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots(figsize=(7.2, 3.4))
    recipes: dict[str, str] = {}
    for name, rows in runs.items():
        recipe = name.split(", seed")[0]
        first = recipe not in recipes
        color = recipes.setdefault(recipe, f"C{len(recipes)}")
        seconds, accuracies = ([row[key] for row in rows] for key in ("seconds", "accuracy"))
        ax.plot(seconds, accuracies, color=color, lw=1.5, label=recipe if first else None)
    ax.axhline(0.5, color="#7b818a", lw=0.8, ls=":")
    ax.set(xlabel="seconds of fine-tuning", ylabel="right answers", ylim=(0, 1), xlim=(0, None))
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    ax.legend(loc="lower right")
    return fig
