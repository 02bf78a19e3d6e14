"""Plots of runs: loss falling towards the floor, and skills switching on."""

from collections.abc import Sequence

import numpy as np

from tinygpt.io.log import Record
from tinygpt.world.skills import CHANCE


def smooth(values: Sequence[float], width: int = 20) -> np.ndarray:
    "Each value, averaged with some before it."
    sums = np.cumsum([0.0, *values])
    first = np.maximum(np.arange(1, len(sums)) - width, 0)
    return (sums[1:] - sums[first]) / (np.arange(1, len(sums)) - first)


def draw_losses(ax, logs: dict[str, Sequence[Record]]):
    "The loss of each run, smoothed, and a point wherever it was measured on unseen text."
    for i, (name, records) in enumerate(logs.items()):
        steps, color = [record.step for record in records], f"C{(0, 2, 3, 4, 5)[i % 5]}"
        ax.plot(steps, smooth([record.loss for record in records]), color=color, lw=1.5, label=name)
        tested = [record for record in records if record.val_loss is not None]
        ax.plot([record.step for record in tested], [record.val_loss for record in tested], "o",
                color=color, ms=4, label="unseen" if len(logs) == 1 else None)
    values = [record.loss for records in logs.values() for record in records]
    ax.set(yscale="log", ylabel="loss (nats a token)", ylim=(0.9 * min(values), 8))
    ax.set_yticks([0.5, 1, 2, 4, 7], ["0.5", "1", "2", "4", "7"], minor=False)
    ax.set_yticks([], minor=True)


def draw_floor(ax, floor: float):
    "A line that no model can pass."
    ax.axhline(floor, color="C1")
    ax.axhspan(0.01, floor, facecolor="none", edgecolor="C1", hatch="///", lw=0)
    ax.set_ylim(bottom=min(ax.get_ylim()[0], 0.8 * floor))
    ax.annotate(f"the floor: {floor:.3f}", (0, floor), (4, 3), textcoords="offset points",
                color="C1")


def draw_skills(ax, records: Sequence[Record]):
    "A row for each skill: empty where it is a guess, full where it never fails."
    tested = [record for record in records if record.skills]
    rows = {name: [record.skills[name] for record in tested] for name in tested[-1].skills}
    rows["own tales"] = [record.valid_fraction or 0.0 for record in tested]
    edges = [0, *(record.step for record in tested)]
    for row, (name, shares) in enumerate(rows.items()):
        chance = CHANCE.get(name, 0)
        for left, right, share in zip(edges, edges[1:], shares):
            known = max(0, (share - chance) / (1 - chance))
            ax.barh(row, right - left, 0.82, left=left, alpha=0.06 + 0.94 * known, lw=0,
                    color="C1" if name == "own tales" else "C2")
        ax.text(1.01, row, f"{shares[-1]:.0%}", transform=ax.get_yaxis_transform(), va="center")
    ax.set_yticks(range(len(rows)), rows)
    ax.set(ylim=(len(rows) - 0.5, -0.5))


def training_plot(
    logs: dict[str, Sequence[Record]],  # by name; skills are drawn where there is one run
    floor: float | None = None,
    rungs: dict[str, float] | None = None,  # losses that others have reached
    band: dict[str, np.ndarray] | None = None,  # where the default recipe runs, step by step
):
    "Loss falling towards the floor, and skills switching on."
    import matplotlib.pyplot as plt

    records = list(logs.values())[-1]
    skilled = len(logs) == 1 and any(record.skills for record in records)
    fig, axes = plt.subplots(2 if skilled else 1, 1, figsize=(7.2, 5.2 if skilled else 3.4),
                             sharex=True, squeeze=False, height_ratios=[3, 2][: 1 + skilled])
    ax = axes[0, 0]
    if band is not None:
        ax.fill_between(band["step"], band["low"], band["high"], color="C0", alpha=0.2, lw=0,
                        label="on track")
    draw_losses(ax, logs)
    for name, loss in (rungs or {}).items():
        ax.axhline(loss, color="#7b818a", lw=0.8, ls=":", zorder=0)
        ax.text(1.01, loss, name, transform=ax.get_yaxis_transform(), va="center", size=9)
    if floor is not None:
        draw_floor(ax, floor)
    if band is not None or len(logs) > 1:
        ax.legend()
    if skilled:
        draw_skills(axes[1, 0], records)
    axes[-1, 0].set(xlabel="step", xlim=(0, max(records[-1].step for records in logs.values())))
    return fig
