"""Attention maps."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tinygpt.attention import causal_mask
from tinygpt.show.pictures import visible


def draw_head(
    ax,
    weights: Tensor,  # (T, S)
    names: Sequence[str],  # of all S tokens
    cell: float,  # how wide one is, in inches
    left: bool, bottom: bool,  # whether the names stand there
):
    "Draw one head, with as many names as have room."
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    T, S = weights.shape
    blank = (weights == 0) & ~causal_mask(T, S)
    blues = LinearSegmentedColormap.from_list("blues", ["#2b8cc418", "#2b8cc4"])
    norm = PowerNorm(0.5, 0, 1)  # so that weak attention is seen, too
    image = ax.imshow(weights.masked_fill(blank, torch.nan).numpy(), blues, norm)
    size = min(9.0, max(6.5, 50 * cell))  # in points, of which an inch has 72
    step = math.ceil(1.25 * size / 72 / cell)
    for axis, here, names in (ax.xaxis, bottom, names), (ax.yaxis, left, names[S - T :]):
        names = names[::step] if here else []
        axis.set_ticks(range(0, step * len(names), step), names, size=size, parse_math=False)
    ax.tick_params(length=2, pad=2)
    ax.tick_params("x", rotation=90)
    ax.spines[:].set_visible(False)
    return image


def as_grid(weights: Tensor, tokens: Sequence[bytes | str]) -> Tensor:
    "Weights as layers of heads, (L, H, T, S), if there is a token for each column."
    if weights.dim() not in (2, 3, 4) or not weights.numel():
        shape = tuple(weights.shape)
        raise ValueError(f"weights of {len(shape)} dimensions, {shape}, make no map: "
                         "give 2 for one head, (T, S), 3 for (H, T, S) or 4 for (L, H, T, S)")
    T, S = weights.shape[-2:]
    if len(tokens) != S:
        raise ValueError(f"{len(tokens)} tokens, but {S} columns of weights: give a token for each")
    if T > S:
        raise ValueError(f"{T} rows, but {S} columns: each token that looks can be looked at, too")
    return weights.detach().float().cpu()[(None,) * (4 - weights.dim())]


def token_name(token: bytes | str) -> str:
    "A token as a label: short, with a dot for each space."
    name = visible(token).replace(" ", "·")
    return name if len(name) <= 12 else name[:11] + "…"


def inches(name: str) -> float:
    "How long a name is, written in nine points."
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), name.replace("$", "S"), size=9).get_extents().width / 72


def attention_map(
    weights: Tensor,  # one head (T, S), a row of heads (H, T, S), or layers of heads (L, H, T, S)
    tokens: Sequence[bytes | str],  # all S that are looked at; the last T of them look
):
    "A picture of where tokens look: a row for each, the bluer a field, the larger its weight."
    import matplotlib.pyplot as plt

    grid, names = as_grid(weights, tokens), [token_name(token) for token in tokens]
    (L, H, T, S), titles, layers = grid.shape, weights.dim() > 2, weights.dim() > 3
    room, gap = 0.1 + max(map(inches, names)), 0.08  # all in inches, up to a width of 7.2
    left, right, top, bottom = room + 0.25 + 0.25 * layers, 0.65, 0.03 + 0.25 * titles, room + 0.25
    cell = max(min(0.32 * S, 5, (7.2 - left - right + gap) / H - gap), 0.5) / S
    width, height = cell * S, max(cell * T, 0.5)
    w, h = left + H * (width + gap) - gap + right, bottom + L * (height + gap) - gap + top
    place = {"left": left / w, "right": 1 - right / w, "bottom": bottom / h, "top": 1 - top / h}
    between = {"wspace": gap / width, "hspace": gap / height}
    fig, axes = plt.subplots(
        L, H, squeeze=False, figsize=(w, h), layout="none", gridspec_kw=place | between
    )
    for layer, row in enumerate(axes):
        for head, ax in enumerate(row):
            image = draw_head(ax, grid[layer, head], names, cell, head == 0, layer == L - 1)
            if titles and layer == 0:
                ax.set_title(f"head {head}", size=9, pad=3)
        if layers:
            y = (bottom + (L - 1 - layer) * (height + gap) + height / 2) / h
            fig.text(0.27 / w, y, f"layer {layer}", size=9, rotation=90, va="center")
    fig.text(0, (bottom + h - top) / 2 / h, "looks from", size=10, rotation=90, va="center")
    fig.text((left + w - right) / 2 / w, 0, "looks at", size=10, ha="center")
    tall = min(1.6, max(0.8, h - top - bottom))
    bar = fig.add_axes([1 - 0.5 / w, 1 - (top + tall) / h, 0.1 / w, tall / h])
    fig.colorbar(image, bar, ticks=[0, 0.1, 0.5, 1]).outline.set_visible(False)
    bar.tick_params(labelsize=8, length=2, pad=2)
    return fig
