"""A small grammar as a tree: what each rule can choose, and with which chance."""

from collections.abc import Mapping, Sequence

import regex

from tinygpt.show.pictures import TINTS, show

LETTER, STEP = 0.17, 0.8  # the width of a letter and the distance of lines, in units of the axes

def grammar_tree(rules: Mapping[str, Sequence[str]], chosen: Sequence[str] = (), start: str = "Tale"):
    "Draw the lines of each rule that `start` uses, each with its chance; the chosen lines are outlined in red."
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots(figsize=(7.2, 2.2))
    lowest, waiting, told = 0.0, [], []

    def column(name: str, x: float, y: float) -> float:
        "Draw a rule with its lines below it; returns where it ends."
        nonlocal lowest
        lines, chance = rules[name], f"1/{len(rules[name])}"
        ax.text(x, y, name, weight="bold", va="center", color=TINTS[0])
        ax.plot([x + 0.1, x + 0.1], [y - 0.3, y - len(lines) * STEP], color="#7b818a", lw=1)
        for i, line in enumerate(lines, start=1):
            at, color = y - i * STEP, "#d1242f" if line in chosen else "#7b818a"
            ax.plot([x + 0.1, x + 0.35], [at, at], color=color, lw=2 if line in chosen else 1)
            ax.text(x + 0.42, at, chance, va="center", size=8.5, color=color)
            end = x + 1.1 + LETTER * len(line)
            edge, ink = (color, color) if line in chosen else ("none", None)
            frame = {"boxstyle": "round,pad=0.25", "facecolor": "none", "edgecolor": edge}
            ax.text(x + 1.1, at, line, va="center", size=10, color=ink, bbox=frame)
            waiting.extend((inner, end, at) for inner in regex.findall("{(.*?)}", line))
            lowest = min(lowest, at)
        told.append(f"{name}: {', '.join(lines)}, each {chance}")
        return x + 1.1 + LETTER * max(len(name) - 5, *map(len, lines)) + 0.5

    ax.text(0, 0, f"{start}:", weight="bold", va="center", color=TINTS[0])
    x = LETTER * len(start) + 0.5
    for step in filter(None, regex.split("[{}]", rules[start][0])):
        if step in rules:
            x = column(step, x, 0)
        elif step.strip():
            ax.text(x, 0, step.strip(), va="center", style="italic")
            x += LETTER * len(step.strip()) + 0.35
    right = x
    while waiting:
        name, end, at = waiting.pop(0)
        ax.annotate("", (end + 1.0, at), (end + 0.5, at), arrowprops={"arrowstyle": "->", "color": "#7b818a"})
        right = max(right, column(name, end + 1.1, at))
    ax.set(xlim=(-0.1, right), ylim=(lowest - 0.5, 0.5))
    ax.axis("off")
    show(fig, f"The grammar as a tree. {'. '.join(told)}. In red: {', '.join(chosen)}")
