"""What the checks of tensors share: how they are given, compared, and drawn."""

import functools
import html
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tinygpt.checks import Finding, attempt, call
from tinygpt.show.pictures import Picture

NUMBER = int, float, Tensor


def of_tensors(answer):
    "The same function, called with lists, of which it gets tensors: so that a message can show what was given."
    if not callable(answer):
        return answer

    @functools.wraps(answer)
    def with_tensors(*args):
        return answer(*(torch.tensor(arg) if isinstance(arg, list) else arg for arg in args))

    return with_tensors


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-6, equal_nan=True)


def number(answer, *args) -> float:
    "What the answer returns, as one number."
    got = attempt(answer, *args, expect=NUMBER)
    if isinstance(got, Tensor) and got.numel() != 1:
        raise Finding(f"{call(answer, *args)} returned a tensor of shape {tuple(got.shape)}. One number is wanted.")
    return float(got)


def tensor(answer, *args, shape: tuple[int, ...]) -> Tensor:
    "What the answer returns, as a tensor of this shape."
    got = attempt(answer, *args, expect=Tensor).detach()
    if got.shape != shape:
        raise Finding(f"{call(answer, *args)} returned a tensor of shape {tuple(got.shape)}, not {shape}.")
    return got


class Named(list):
    "Nested lists that a message calls by their name."

    def __init__(self, values: list, name: str):
        super().__init__(values)
        self.name = name

    def __repr__(self):
        return self.name


def shaped(answer, *args, shape: tuple[int, ...], hints: dict) -> Tensor:
    "What the answer returns; some wrong shapes say what went wrong."
    got = attempt(answer, *args, expect=Tensor)
    if tuple(got.shape) in hints and tuple(got.shape) != shape:
        raise Finding(f"It returned a tensor of shape {tuple(got.shape)}, not {shape}. {hints[tuple(got.shape)]}")
    return tensor(answer, *args, shape=shape)


def diagnose(answer, args: tuple, got, right, mistakes: list, what: str, picture: Picture | None = None):
    "Compare a result with what typical mistakes would give."
    got, right = torch.as_tensor(got), torch.as_tensor(right)
    if same(got, right):
        return
    shown = f"{call(answer, *args)} returned {got.item():.4g}. " if got.numel() == 1 else ""
    for wrong, diagnosis in mistakes:
        if same(got, torch.as_tensor(wrong)):
            raise Finding(shown + diagnosis, picture)
    raise Finding(f"{shown}That is not {what}.", picture)


def grid(
    values: Tensor,  # (rows, columns), between 0 and 1
    rows: Sequence[str],
    columns: Sequence[str],
    marked: Tensor | None = None,  # true where something is wrong
) -> Picture:
    "A map: each cell with its number, the darker the larger, and those that are wrong outlined."
    edge = "text-align:center;padding:2px 8px;font-weight:normal"
    names = "".join(f'<th style="{edge}">{html.escape(name)}</th>' for name in columns)
    lines = [f"<tr><th></th>{names}</tr>"]
    text = []
    for i, name in enumerate(rows):
        cells, words = "", []
        for j, value in enumerate(values[i].tolist()):
            wrong = marked is not None and bool(marked[i, j])
            strength = round(min(max(value, 0), 1) * 150) if math.isfinite(value) else 0
            style = f"{edge};background:#2b8cc4{strength:02x};" + ("outline:2px solid #d1242f;" if wrong else "")
            cells += f'<td style="{style}">{value:.2f}</td>'
            words.append(f"{value:.2f}{'!' if wrong else ' '}")
        lines.append(f'<tr><th style="{edge};text-align:right">{html.escape(name)}</th>{cells}</tr>')
        text.append(f"{name:>8} {' '.join(words)}")
    return Picture(f"<table>{''.join(lines)}</table>", "\n".join(text))
