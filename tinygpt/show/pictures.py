"""How the course draws: one plot style, coloured tokens, and a slider whose frames are plain HTML."""

import html
import io
from collections.abc import Iterable, Sequence

__all__ = ["Picture", "color_tokens", "slider", "table"]

TINTS = ["#2b8cc4", "#d9730d", "#1f9e77", "#c2649a", "#9a7d0a", "#7a6fc9"]  # as in course.mplstyle


class Picture:
    "HTML for a notebook, and plain text for a terminal."

    def __init__(self, html: str, text: str):
        self.html, self.text = html, text

    def _repr_html_(self):
        return self.html

    def __repr__(self):
        return self.text


def show(fig, alt: str, handle=None):
    "Draw a matplotlib figure, described in words for those who cannot see it; in place of another, given its handle."
    import matplotlib.pyplot as plt
    from IPython.display import display

    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(fig)
    data = {"image/png": buffer.getvalue(), "text/plain": alt}
    metadata = {"image/png": {"alt": alt, "width": int(fig.get_figwidth() * 100)}}
    (handle.update if handle else display)(data, raw=True, metadata=metadata)


def visible(token: bytes | str) -> str:
    "A token in print: a line break shows as an arrow, bytes that are no whole character in hexadecimal."
    try:
        text = token if isinstance(token, str) else token.decode()
    except UnicodeDecodeError:
        return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in token)
    return text.replace("\r", "␍").replace("\n", "⏎").replace("\t", "⇥")


def color_tokens(tokens: Iterable[bytes | str], ids: Sequence[int] = (), marked: int | None = None) -> Picture:
    "Show where a text is cut: each token in a colour of its own, its id when pointed at, one of them outlined."
    tokens, spans = list(tokens), []
    for i, token in enumerate(tokens):
        text = visible(token)
        style = f"background:{TINTS[i % len(TINTS)]}4d;border-radius:3px;padding:1px 0;"
        if isinstance(token, bytes) and "\\x" in text:
            text, style = text.replace("\\x", " ").strip(), style + "font-size:.75em;padding:2px .25em;"
        if i == marked:
            style += "outline:2px solid #d1242f;"
        title, text = f' title="id {ids[i]}"' if ids else "", html.escape(text)
        spans.append(f'<span style="{style}"{title}>{text}</span>{"<br>" if text.endswith("⏎") else "<wbr>"}')
    body = f'<div style="font-family:monospace;line-height:1.9;white-space:pre-wrap">{"".join(spans)}</div>'
    return Picture(body, "|".join(map(visible, tokens)))


def slider(frames: Sequence[Picture], labels: Sequence[str], name: str) -> Picture:
    "Frames under a slider, alive wherever HTML is: in a notebook, in its saved copy and on the site."
    move = (
        "const box = this.closest('div'); box.querySelector('output').textContent = this.dataset.labels.split('|')[this.value];"
        "box.querySelectorAll('section').forEach((frame, i) => frame.style.display = i == this.value ? '' : 'none')"
    )
    bar = (
        f'<input type="range" min="0" max="{len(frames) - 1}" value="0" style="width:min(24em,60%);vertical-align:middle" '
        f'aria-label="{html.escape(name)}" data-labels="{html.escape("|".join(labels))}" oninput="{move}">'
    )
    shown = "".join(
        f'<section style="{"" if i == 0 else "display:none"}">{f.html}</section>' for i, f in enumerate(frames)
    )
    text = "\n".join(f"{label}: {frame}" for label, frame in zip(labels, frames))
    return Picture(f'<div>{bar} <output style="margin-left:.7em">{html.escape(labels[0])}</output>{shown}</div>', text)


def table(rows: Iterable[Sequence[str | Picture]]) -> Picture:
    "Words and pictures side by side, row by row."
    rows, cell = [list(row) for row in rows], 'style="text-align:left;vertical-align:top;padding:3px 14px 3px 0"'
    body = "".join(
        "<tr>"
        + "".join(f"<td {cell}>{c.html if isinstance(c, Picture) else html.escape(c)}</td>" for c in row)
        + "</tr>"
        for row in rows
    )
    return Picture(f"<table>{body}</table>", "\n".join("  ".join(map(str, row)) for row in rows))
