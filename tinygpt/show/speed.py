"""Pictures of where time and memory go, and the recorded steps from naive to fast."""

import csv
from collections.abc import Mapping
from pathlib import Path
from tinygpt.io.reading import read_bytes

__all__ = ["before_and_after", "parts_plot", "recorded_speed", "recorded_writing", "writing_plot"]

COLORS = [*(f"C{i}" for i in range(6)), "#7b818a", "#4d6275"]
SPEED = Path(__file__).parents[2] / "data" / "speed.csv"  # written by python -m tests.speed
WRITING = SPEED.with_name("writing.csv")  # written by python -m tests.writing

def parts_plot(bars: Mapping[str, Mapping[str, float]], unit: str):
    "Stacked bars, each divided into its parts; a wide part has its name and value in it, the legend names all."
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots(figsize=(7.2, 0.9 + 0.55 * len(bars)))
    widest = max(sum(parts.values()) for parts in bars.values())
    for row, parts in enumerate(bars.values()):
        left = 0.0
        for i, (part, value) in enumerate(parts.items()):
            bar = ax.barh(row, value, 0.7, left, color=COLORS[i % len(COLORS)], lw=0)
            if not row:
                bar.set_label(part)
            if value > 0.07 * widest:
                ax.text(left + value / 2, row, f"{value:.3g}", ha="center", va="center", color="white", size=9)
            left += value
    ax.set_yticks(range(len(bars)), bars)
    ax.set(ylim=(len(bars) - 0.5, -0.5), xlabel=unit)
    ax.grid(False, axis="y")
    ax.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    return fig

def recorded_speed() -> dict[str, dict[str, tuple[float, float]]]:
    "Tokens per second, and the gain over the step before, by machine and step."
    recorded: dict[str, dict[str, tuple[float, float]]] = {}
    for row in csv.DictReader(read_bytes(SPEED).decode().splitlines()):
        steps = recorded.setdefault(f"{row['model']} on {row['machine']}, torch {row['torch']}, {row['date']}", {})
        steps[row["step"]] = float(row["tokens_per_second"]), float(row["gain"])
    return recorded

def before_and_after(steps: Mapping[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    "Milliseconds for 1,000 tokens, naive and fastest; the naive time is divided into what each step saves."
    naive, *later = [(step, 1e6 / speed) for step, (speed, _) in steps.items()]
    best, saved = naive[1], {}
    for step, time in later:
        if time < best:
            saved[step], best = best - time, time
    return {"before": {"remains": best} | saved, "after": {"remains": best}}

def recorded_writing(new_tokens: int = 200) -> dict[str, dict[str, dict[str, float]]]:
    "Tokens per second by machine, dtype and way of writing."
    recorded: dict[str, dict[str, dict[str, float]]] = {}
    for row in csv.DictReader(read_bytes(WRITING).decode().splitlines()):
        if row["batch"] == "1" and int(row["new_tokens"]) == new_tokens:
            machine = recorded.setdefault(f"{row['machine']}, torch {row['torch']}, {row['date']}", {})
            machine.setdefault(row["dtype"], {})[row["way"]] = float(row["tokens_per_second"])
    return recorded

def writing_plot(speeds: Mapping[str, Mapping[str, float]]):
    "Bars of tokens per second for each way of writing, a panel for each dtype; the bound as a dashed line."
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(1, len(speeds), figsize=(7.2, 3), sharex=True, sharey=True, squeeze=False)
    for ax, (dtype, ways) in zip(axes[0], speeds.items()):
        bars = {way: speed for way, speed in ways.items() if way not in ("bound", "PyTorch's products")}
        colors = ["#7b818a" if way == "transformers" else "C0" for way in bars]
        ax.barh(list(bars), list(bars.values()), 0.7, color=colors, lw=0)
        for row, speed in enumerate(bars.values()):
            ax.text(speed, row, f" {speed:.3g}", va="center", size=9)
        ax.axvline(ways["bound"], color="#cc5500", ls="--", lw=1.5, label="bound")
        ax.set(title=f"{dtype}, bound {ways['bound']:.3g}", xlabel="tokens a second")
        ax.grid(False, axis="y")
    axes[0][0].legend(loc="center right", frameon=False)
    axes[0][0].invert_yaxis()
    return fig
