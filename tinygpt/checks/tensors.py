"""What the checks of tensors share: calling an answer, comparing its result, and drawing a grid of numbers."""

import functools
import html
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tinygpt.checks import Finding, attempt, call, changed
from tinygpt.show.pictures import Picture

NUMBER = int, float, Tensor


NAN = (
    "It contains nan (\"not a number\"), first at index {}. Nan comes from operations such as 0 / 0, "
    "infinity - infinity or 0 * infinity, and stays in all that is computed from it. Print the steps to find the first."
)


def of_tensors(answer, in_place: bool = False):
    "The same function, called with lists and given tensors, so that a message can show what it was called with."
    if not callable(answer):
        return answer

    @functools.wraps(answer)
    def with_tensors(*args):
        given = [torch.tensor(arg) if isinstance(arg, list) else arg for arg in args]
        before = [x.clone() if isinstance(x, Tensor) else x for x in given]
        result = answer(*given)
        if not in_place:
            changed(answer, [not isinstance(x, Tensor) or same(x, y) for x, y in zip(given, before)])
        return result

    return with_tensors


def nan_in(values: Tensor) -> str:
    "A diagnosis if there is nan in the values, and an empty string otherwise."
    places = values.isnan().nonzero().tolist()
    return NAN.format(places[0] if len(places[0]) > 1 else places[0][0] if places[0] else 0) if places else ""


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-6, equal_nan=True)


def number(answer, *args) -> float:
    "What the answer returns, as one number."
    got = attempt(answer, *args, expect=NUMBER)
    if isinstance(got, Tensor) and got.numel() != 1:
        raise Finding(f"It returned a tensor of shape {tuple(got.shape)}. One number is wanted.{_asked(answer, args)}")
    return float(got)


def tensor(answer, *args, shape: tuple[int, ...]) -> Tensor:
    "What the answer returns, as a tensor of this shape."
    got = attempt(answer, *args, expect=Tensor).detach()
    if got.shape != shape:
        raise Finding(f"It returned a tensor of shape {tuple(got.shape)}, not {shape}.{_asked(answer, args)}")
    return got


def _asked(answer, args: tuple) -> str:
    return f" The call was {call(answer, *args)}."


class Named(list):
    "Nested lists that a message calls by a name."

    def __init__(self, values: list, name: str):
        super().__init__(values)
        self.name = name

    def __repr__(self):
        return self.name


def shaped(answer, *args, shape: tuple[int, ...], hints: dict) -> Tensor:
    "What the answer returns, as a tensor of this shape; `hints` explain some wrong shapes."
    got = attempt(answer, *args, expect=Tensor)
    if tuple(got.shape) in hints and tuple(got.shape) != shape:
        raise Finding(f"It returned a tensor of shape {tuple(got.shape)}, not {shape}. {hints[tuple(got.shape)]}")
    return tensor(answer, *args, shape=shape)


def diagnose(answer, args: tuple, got, right, mistakes: list, what: str, picture: Picture | None = None):
    "A Finding if a result is wrong: the diagnosis of the mistake that gives the same result, if there is one."
    got, right = torch.as_tensor(got), torch.as_tensor(right)
    if same(got, right):
        return
    shown = f"It returned {got.item():.4g}. " if got.numel() == 1 else ""
    found = [diagnosis for wrong, diagnosis in mistakes if same(got, torch.as_tensor(wrong))]
    nan = nan_in(got) if not right.isnan().any() else ""
    raise Finding(f"{shown}{(found or [nan or f'That is not {what}.'])[0]}{_asked(answer, args)}", picture)


def grid(
    values: Tensor,  # (rows, columns), between 0 and 1
    rows: Sequence[str],
    columns: Sequence[str],
    marked: Tensor | None = None,  # true where something is wrong
) -> Picture:
    "A table of numbers: the larger, the darker; wrong ones are outlined (in a terminal, followed by !)."
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
