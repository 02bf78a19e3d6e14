"""Attention maps."""

import math
from collections.abc import Sequence
import numpy as np
import torch
from torch import Tensor
from tinygpt.attention import causal_mask
from tinygpt.show.pictures import visible

__all__ = ["attention_map", "by_word"]

def by_word(weights: Tensor, tokens: Sequence[str]) -> tuple[Tensor, list[str]]:
    """The weights (..., T, T) between whole words, and the words.

    The columns of a word's tokens are added; its row is that of its last token, so that rows still sum to 1."""
    starts = [i for i, token in enumerate(tokens) if i == 0 or not token[:1].isalnum() and token[:1] != "-"]
    ends = [*starts[1:], len(tokens)]
    columns = [weights[..., start:end].sum(-1) for start, end in zip(starts, ends)]
    words = ["".join(tokens[start:end]).strip(" ") for start, end in zip(starts, ends)]
    return torch.stack(columns, -1)[..., [end - 1 for end in ends], :], words

def as_grid(weights: Tensor, tokens: Sequence[bytes | str]) -> Tensor:
    "Attention weights as layers of heads, (L, H, T, S); raises ValueError for other shapes, or tokens that do not fit."
    if weights.dim() not in (2, 3, 4) or not weights.numel():
        shape = tuple(weights.shape)
        raise ValueError(f"weights of {len(shape)} dimensions, {shape}, cannot be drawn as a map: "
                         "give 2 for one head, (T, S), 3 for (H, T, S) or 4 for (L, H, T, S)")
    T, S = weights.shape[-2:]
    if len(tokens) != S:
        raise ValueError(f"{len(tokens)} tokens, but {S} columns of weights: give a token for each column")
    if T > S:
        raise ValueError(f"{T} rows, but {S} columns: each query needs the key of its own token")
    return weights.detach().float().cpu()[(None,) * (4 - weights.dim())]

def token_label(token: bytes | str) -> str:
    "A token as a label: at most 12 characters, with a dot for each space."
    label = visible(token).replace(" ", "·")
    return label if len(label) <= 12 else label[:11] + "…"

def label_length(label: str) -> float:
    "The length of a label in inches, in nine points."
    from matplotlib.textpath import TextPath
    return TextPath((0, 0), label.replace("$", "S"), size=9).get_extents().width / 72

def draw_head(ax, weights: Tensor, row_labels: list[str], column_labels: list[str], cell: float):
    "Draw the weights (T, S) of one head in cells of this width in inches, with as many labels as have room."
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm
    blank = (weights == 0) & ~causal_mask(*weights.shape)
    blues = LinearSegmentedColormap.from_list("blues", ["#2b8cc418", "#2b8cc4"])
    norm = PowerNorm(0.5, 0, 1)  # stretched at the low end, so that weak attention is seen
    image = ax.imshow(weights.masked_fill(blank, torch.nan).numpy(), blues, norm)
    size = min(9.0, max(6.5, 50 * cell))  # in points; an inch has 72
    step = math.ceil(1.25 * size / 72 / cell)
    for axis, labels in (ax.xaxis, column_labels[::step]), (ax.yaxis, row_labels[::step]):
        axis.set_ticks(range(0, step * len(labels), step), labels, size=size, parse_math=False)
    ax.tick_params(length=2, pad=2)
    ax.tick_params("x", rotation=90)
    ax.spines[:].set_visible(False)
    return image

def draw_outlines(ax, weights: Tensor, cells: Sequence[tuple[int, int]]):
    "Frame these cells of a map, and write their weights to the right of the diagonal."
    from matplotlib.patches import Rectangle
    orange, (T, S) = "#d9730d", weights.shape
    for row, column in cells:
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, color=orange, lw=1.8))
    for row in {row for row, _ in cells}:
        values = ", ".join(f"{weights[row, column]:.2f}" for at, column in sorted(cells) if at == row)
        ax.text(row + S - T + 0.7, row, values, color=orange, size=9, va="center")

def attention_map(
    weights: Tensor,  # one head (T, S), a row of heads (H, T, S), or layers of heads (L, H, T, S)
    tokens: Sequence[bytes | str],  # of all S keys; the queries are the last T of them
    outlined: Sequence[tuple[int, ...]] = (),  # indices of weights to frame and to write as numbers
    titles: Sequence[str] = (),  # of the heads; by default "head 0", "head 1" and so on
):
    "A figure of attention weights: a row for each query, a column for each key, and the bluer, the larger the weight."
    import matplotlib.pyplot as plt
    grid, labels = as_grid(weights, tokens), [token_label(token) for token in tokens]
    (L, H, T, S), has_heads, has_layers = grid.shape, weights.dim() > 2, weights.dim() > 3
    margin, gap = 0.1 + max(map(label_length, labels)), 0.08  # all in inches, up to a width of 7.2
    left, right, top, bottom = margin + 0.25 + 0.25 * has_layers, 0.65, 0.03 + 0.25 * has_heads, margin + 0.25
    cell = max(min(0.32 * S, 5, (7.2 - left - right + gap) / H - gap), 0.5) / S
    panel_w, panel_h = cell * S, max(cell * T, 0.5)
    w, h = left + H * (panel_w + gap) - gap + right, bottom + L * (panel_h + gap) - gap + top
    edges = {"left": left / w, "right": 1 - right / w, "bottom": bottom / h, "top": 1 - top / h}
    gaps = {"wspace": gap / panel_w, "hspace": gap / panel_h}
    fig, axes = plt.subplots(L, H, squeeze=False, figsize=(w, h), layout="none", gridspec_kw=edges | gaps)
    for layer, head in np.ndindex(L, H):
        row_labels = labels[S - T :] if head == 0 else []
        column_labels = labels if layer == L - 1 else []
        image = draw_head(axes[layer, head], grid[layer, head], row_labels, column_labels, cell)
        places = [(0, 0, *place)[-4:] for place in outlined]
        draw_outlines(axes[layer, head], grid[layer, head], [at[2:] for at in places if at[:2] == (layer, head)])
        if has_heads and layer == 0:
            axes[layer, head].set_title(titles[head] if titles else f"head {head}", size=9, pad=3)
        if has_layers and head == 0:
            y = (bottom + (L - 1 - layer) * (panel_h + gap) + panel_h / 2) / h
            fig.text(0.27 / w, y, f"layer {layer}", size=9, rotation=90, va="center")
    fig.text(0, (bottom + h - top) / 2 / h, "query", size=10, rotation=90, va="center")
    fig.text((left + w - right) / 2 / w, 0, "key", size=10, ha="center")
    bar_height = min(1.6, max(0.8, h - top - bottom))
    bar = fig.add_axes([1 - 0.5 / w, 1 - (top + bar_height) / h, 0.1 / w, bar_height / h])
    fig.colorbar(image, bar, ticks=[0, 0.1, 0.5, 1]).outline.set_visible(False)
    bar.tick_params(labelsize=8, length=2, pad=2)
    return fig
