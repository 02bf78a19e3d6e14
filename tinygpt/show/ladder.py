"""The ladder: losses as bars, from the baseline to the floor."""

__all__ = ["ladder"]

def ladder(rungs: dict[str, float], floor: float | None = None):
    "A chart of losses, in nats per token, from top to bottom; the last one is the newest."
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(7.2, 0.8 + 0.34 * len(rungs)))
    for row, loss in enumerate(rungs.values()):
        newest, ground = row == len(rungs) - 1, floor or 0
        ax.barh(row, loss - ground, 0.62, left=ground, color="C0", alpha=1 if newest else 0.5)
        ax.text(loss, row, f"  {loss:.2f}", va="center", weight="bold" if newest else "normal")
    ax.set_yticks(range(len(rungs)), rungs)
    ax.set(xlabel="loss (nats a token)", xlim=(0, 1.12 * max(rungs.values())))
    ax.set_ylim(len(rungs) - 0.5, -0.5)
    if floor is not None:
        ax.axvspan(0, floor, facecolor="none", edgecolor="C1", hatch="///", lw=0)
        ax.axvline(floor, color="C1")
        ax.text(floor, -0.6, f"the floor: {floor:.3f}", color="C1", va="bottom")
    return fig
