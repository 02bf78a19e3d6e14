"""Plots of losses: a ladder of models, and runs with their loss falling towards the floor and skills switching on."""

import csv
from collections.abc import Mapping, Sequence
from functools import cache
import numpy as np
from tinygpt.io.log import Record
from tinygpt.presets import ASSETS
from tinygpt.world.skills import CHANCE

__all__ = ["ladder", "recorded_ladder", "recorded_skills", "recorded_losses", "on_track_plot", "training_plot"]

def ladder(rungs: dict[str, float | Sequence[float]], floor: float | None = None):
    "A chart of losses, in nats per token, from top to bottom, the newest last; of several seeds, their median and each."
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots(figsize=(7.2, 0.8 + 0.34 * len(rungs)))
    seeds = [np.atleast_1d(losses) for losses in rungs.values()]
    for row, losses in enumerate(seeds):
        newest, ground, loss = row == len(rungs) - 1, floor or 0, np.median(losses)
        ax.barh(row, loss - ground, 0.62, left=ground, color="C0", alpha=1 if newest else 0.5)
        if len(losses) > 1:
            ax.plot(losses, [row] * len(losses), "|", color="C1", ms=9)
        ax.text(max(losses), row, f"  {loss:.2f}", va="center", weight="bold" if newest else "normal")
    ax.set_yticks(range(len(rungs)), rungs)
    ax.set(xlabel="loss (nats per token)", xlim=(0, 1.12 * max(map(max, seeds))))
    ax.set_ylim(len(rungs) - 0.5, -0.5)
    if floor is not None:
        ax.axvspan(0, floor, facecolor="none", edgecolor="C1", hatch="///", lw=0)
        ax.axvline(floor, color="C1")
        ax.text(floor, -0.6, f"the floor: {floor:.3f}", color="C1", va="bottom")
    return fig

@cache
def ladder_rows() -> list[dict[str, str]]:
    "The rows of data/ladder.csv."
    with open(ASSETS.parents[1] / "data" / "ladder.csv", newline="") as file:
        return list(csv.DictReader(file))

def last_rows(steps: int) -> dict[str, list[dict[str, str]]]:
    "The last row of each recorded run of this many steps, by rung; those of the models that count come first."
    rungs: dict[str, list] = {}
    for row in ladder_rows():
        if row["val_loss"] and int(row["steps"]) in (0, steps):
            rungs.setdefault(row["rung"], []).append(row)
    return rungs

def recorded_ladder(steps: int = 300) -> dict[str, list[float]]:
    "The validation losses of each rung, one for each recorded seed."
    return {rung: [float(row["val_loss"]) for row in rows] for rung, rows in last_rows(steps).items()}

def recorded_skills(steps: int = 300) -> dict[str, dict[str, float]]:
    "The accuracy of each skill at each rung, averaged over the recorded seeds."
    return {rung: {skill: float(np.mean([float(row[skill]) for row in rows])) for skill in CHANCE}
            for rung, rows in last_rows(steps).items()}

def recorded_losses(rung: str, steps: int = 300) -> np.ndarray:
    "The training losses of the recorded seeds, (seeds, steps / 10): each is the average of 10 steps."
    rows = [row for row in ladder_rows() if row["rung"] == rung and int(row["steps"]) == steps]
    return np.array([float(row["loss"]) for row in rows]).reshape(-1, steps // 10)

def on_track_plot(losses: Sequence[float], rung: str, floor: float | None = None):
    "The losses of a run, each an average of 10 steps, on the band of the recorded runs of this rung."
    import matplotlib.pyplot as plt
    recorded = recorded_losses(rung, len(losses))
    mine, at = np.reshape(losses, (-1, 10)).mean(1), np.arange(10, len(losses) + 1, 10)
    fig, ax = plt.subplots(figsize=(7.2, 2.8))
    # three seeds lie within a line's width of each other, so the band gets an edge to be seen beside it
    ax.fill_between(at, recorded.min(0), recorded.max(0), color="#8cbfdf", lw=6, label="recorded, three seeds")
    ax.plot(at, mine, color="C1", lw=1.2, label="your run")
    if floor is not None:
        ax.axhline(floor, color="#7b818a", ls=":")
        ax.annotate("the floor", (0, floor), (4, 3), textcoords="offset points", color="#7b818a")
    ax.set(xlabel="step", ylabel="loss (nats per token)", xlim=(0, at[-1]), ylim=(0, None))
    ax.legend()
    return fig

def smooth(values: Sequence[float], width: int = 20) -> np.ndarray:
    "Moving average: each value is averaged with up to `width` - 1 values before it."
    counts = np.minimum(np.arange(1, len(values) + 1), width)
    return np.convolve(values, np.ones(width))[: len(values)] / counts

def draw_losses(ax, logs: dict[str, Sequence[Record]]):
    "The training loss of each run, smoothed, and a dot for each validation loss."
    for i, (name, records) in enumerate(logs.items()):
        steps, color = [record.step for record in records], f"C{(0, 2, 3, 4, 5)[i % 5]}"
        ax.plot(steps, smooth([record.loss for record in records]), color=color, lw=1.5, label=name)
        evaluated = [record for record in records if record.val_loss is not None]
        ax.plot([record.step for record in evaluated], [record.val_loss for record in evaluated], "o",
                color=color, ms=4, label="validation" if len(logs) == 1 else None)
    lowest = min(record.loss for records in logs.values() for record in records)
    ax.set(yscale="log", ylabel="loss (nats per token)", ylim=(0.9 * lowest, 8))
    ax.set_yticks([0.5, 1, 2, 4, 7], ["0.5", "1", "2", "4", "7"], minor=False)
    ax.set_yticks([], minor=True)

def draw_skills(ax, records: Sequence[Record]):
    "A row for each skill, in stronger colour as its accuracy rises from chance to 100 %."
    evaluated = [record for record in records if record.skills]
    if len({frozenset(record.skills) for record in evaluated}) > 1:
        raise ValueError("the records of this run name different skills, so its log is damaged")
    rows = {name: [record.skills[name] for record in evaluated] for name in evaluated[-1].skills}
    if any(record.valid_fraction is not None for record in evaluated):
        rows["valid tales"] = [record.valid_fraction or 0.0 for record in evaluated]
    edges = [0, *(record.step for record in evaluated)]
    for row, (name, fractions) in enumerate(rows.items()):
        chance, color = CHANCE.get(name, 0), "C1" if name == "valid tales" else "C2"
        known = [max(0, (fraction - chance) / (1 - chance)) for fraction in fractions]
        ax.barh(row, np.diff(edges), 0.82, edges[:-1], color=[(color, 0.06 + 0.94 * k) for k in known], lw=0)
        ax.text(1.01, row, f"{fractions[-1]:.0%}", transform=ax.get_yaxis_transform(), va="center")
    ax.set_yticks(range(len(rows)), rows)
    ax.set(ylim=(len(rows) - 0.5, -0.5))

def training_plot(
    logs: dict[str, Sequence[Record]],  # by name; skills are drawn if there is one run
    floor: float | None = None,
    rungs: dict[str, float] | None = None,  # losses of baselines
    band: Mapping[str, np.ndarray] | np.ndarray | None = None,  # of recorded runs: step, low, high
):
    "Loss falling towards the floor, and skills switching on."
    import matplotlib.pyplot as plt
    records = list(logs.values())[-1]
    with_skills = len(logs) == 1 and any(record.skills for record in records)
    height, ratios = (5.2, [3, 2]) if with_skills else (3.4, [1])
    fig, axes = plt.subplots(len(ratios), figsize=(7.2, height), sharex=True, squeeze=False, height_ratios=ratios)
    ax = axes[0, 0]
    if band is not None:
        ax.fill_between(band["step"], band["low"], band["high"], color="C0", alpha=0.2, lw=0,
                        label="eight recorded runs")
    draw_losses(ax, logs)
    for name, loss in (rungs or {}).items():
        ax.axhline(loss, color="#7b818a", lw=0.8, ls=":", zorder=0)
        ax.text(1.01, loss, name, transform=ax.get_yaxis_transform(), va="center", size=9)
    if floor is not None:
        ax.axhline(floor, color="C1")
        ax.axhspan(0.01, floor, facecolor="none", edgecolor="C1", hatch="///", lw=0)
        ax.set_ylim(bottom=min(ax.get_ylim()[0], 0.8 * floor))
        ax.annotate(f"the floor: {floor:.3f}", (0, floor), (4, 3), textcoords="offset points", color="C1")
    ax.legend()
    if with_skills:
        draw_skills(axes[1, 0], records)
    axes[-1, 0].set(xlabel="step", xlim=(0, max(records[-1].step for records in logs.values())))
    return fig
