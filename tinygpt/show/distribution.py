"""Drawings of the next token's distribution and of a text's surprise, as HTML whose style is in sampler.css."""

import html
from collections.abc import Callable, Iterable
from torch import Tensor
from tinygpt.show.attention import token_label

MOST_ROWS, MOST_PIECES = 10, 40  # tokens that are shown one by one
DARKEST = 6.0  # nats of surprise

def percent(p: float) -> str:
    "A probability in percent, with as many digits as a reader needs."
    if 0 < p < 0.0005:
        return "<0.1 %"
    return f"{100 * p:.1f} %" if 0 < p < 0.0995 else f"{100 * p:.0f} %"

def token_name(tok, id: int) -> str:
    "A token as a short label: a dot for a space, hexadecimal for half a character where the tokenizer has bytes."
    return token_label(tok.token_bytes(id) if hasattr(tok, "token_bytes") else tok.decode([id]))

def cumulative_bar(logits: Tensor, u: float, chosen: int, name: Callable[[int], str]) -> str:
    "The probabilities (V,) side by side, the largest first, and a mark at u: the token under it is the one drawn."
    order, probs = logits.sort(descending=True, stable=True).indices.tolist(), logits.double().softmax(-1).tolist()
    n = sum(probs[id] > 0.003 for id in order[:MOST_PIECES])
    rank = order.index(chosen)
    alone = [*range(n), *([rank] if rank >= n else [])]
    pieces, start = [], 0
    for place in [*alone, len(order)]:
        if others := sum(probs[id] for id in order[start:place]):
            pieces.append(f'<span class="others" style="width:{100 * others:.3f}%"></span>')
        if place < len(order):
            id, start = order[place], place + 1
            label, share = html.escape(name(id)), probs[id]
            kind = "chosen" if id == chosen else "odd" if place % 2 else "even"
            text = label if share > 0.025 * (len(name(id)) + 1) else ""
            pieces.append(f'<span class="{kind}" style="width:{100 * share:.3f}%" title="{label} {percent(share)}">'
                          f"{text}</span>")
    words = html.escape(f"Cumulative bar: the random number {u:.3f} falls on the token {name(chosen)}")
    return (f'<div class="cumulative" role="img" aria-label="{words}"><div class="pieces">{"".join(pieces)}</div>'
            f'<div class="mark" style="left:{100 * u:.3f}%"></div></div>')

def bars(before: float, after: float, source: float | None, longest: float) -> str:
    "The bars of one token: the model's probability, what the settings make of it, and the source's."
    kinds = [("before" if after else "before cut", before), ("after", after), ("source", source)]
    drawn = (f'<i class="{kind}" style="width:{100 * p / longest:.2f}%"></i>' for kind, p in kinds if p)
    return f'<span class="bars">{"".join(drawn)}</span>'

def token_rows(before: Tensor, after: Tensor, source: Tensor | None, chosen: int, name: Callable[[int], str]) -> str:
    "A row for each of the most probable tokens: before and after the settings, and beside them the source's own."
    shown = before.topk(min(MOST_ROWS, len(before))).indices.tolist()
    if source is not None:
        likely = source.topk(min(3, len(source))).indices.tolist()
        shown += [id for id in likely if id not in shown and source[id] > 0.01]
    shown += [chosen] * (chosen not in shown)
    longest = max(part[shown].max().item() for part in (before, after, source) if part is not None)
    rows = []
    for id in shown:
        p, q, true = before[id].item(), after[id].item(), None if source is None else source[id].item()
        kind = ("chosen " if id == chosen else "") + ("gone" if q == 0 else "")
        numbers = f"{percent(p)} → {'cut' if q == 0 else percent(q)}"
        words = f"{name(id)}: {numbers}" + ("" if true is None else f"; the source: {percent(true)}")
        words += " (drawn)" if id == chosen else ""
        words, label = html.escape(words), html.escape(name(id))
        rows.append(f'<button class="row {kind}" data-take="{id}" data-key="take {id}" aria-label="{words}" '
                    f'title="{words}; click to go on with it"><span class="name">{label}</span>'
                    f'{bars(p, q, true, longest)}<span class="numbers">{html.escape(numbers)}</span></button>')
    if n := len(before) - len(shown):
        p, q = (max(0, 1 - part[shown].sum().item()) for part in (before, after))
        left = after.count_nonzero().item() - after[shown].count_nonzero().item()
        numbers = f"{percent(p)} → {percent(q) if left else 'cut'}"
        rows.append(f'<div class="row rest"><span class="name">{n:,} others</span><span></span>'
                    f'<span class="numbers">{html.escape(numbers)}</span></div>')
    keys = [("before", "the model"), ("before cut", "cut"), ("after", "with these settings")]
    keys += [("source", "the source of the tales")] * (source is not None)
    legend = "".join(f'<span><i class="{kind}"></i> {words}</span>' for kind, words in keys)
    return f'<div class="legend">{legend}</div><div class="rows roving">{"".join(rows)}</div>'

def surprise_text(prompt: str, tokens: Iterable[tuple[str, float]], selected: int | None) -> str:
    "A prompt and the tokens after it, each with its surprise in nats: the more surprising, the darker."
    spans = []
    for i, (piece, surprise) in enumerate(tokens):
        text = html.escape(piece).replace("\n", '<span class="newline" aria-hidden="true">⏎</span>\n')
        shade = min(surprise / DARKEST, 1)
        words = f"surprise {surprise:.2f} nats"
        kind = "token selected" if i == selected else "token"
        spans.append(f'<span class="{kind}" role="button" data-look="{i}" data-key="look {i}" title="{words}" '
                     f'aria-label="{html.escape(piece)}, {words}" style="--shade:{shade:.2f}">{text}</span>')
    return f'<span class="prompt">{html.escape(prompt)}</span><span class="roving">{"".join(spans)}</span>'
