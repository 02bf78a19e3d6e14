"""How the course draws: one plot style, coloured tokens, and a slider whose frames are plain HTML."""

import html
import io
from collections.abc import Iterable, Sequence

__all__ = ["Picture", "color_tokens", "slider", "table"]

TINTS = ["#2b8cc4", "#d9730d", "#1f9e77", "#c2649a", "#9a7d0a", "#7a6fc9"]  # as in course.mplstyle

class Picture:
    "A picture as HTML for a notebook, and as plain text for a terminal."

    def __init__(self, html: str, text: str):
        self.html, self.text = html, text

    def _repr_html_(self):
        return self.html

    def __repr__(self):
        return self.text

def show(fig, alt: str, handle=None):
    "Display a matplotlib figure with this alternative text; with a display handle, it replaces what is shown there."
    import matplotlib.pyplot as plt
    from IPython.display import display
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", bbox_inches="tight")
    plt.close(fig)
    data = {"image/png": buffer.getvalue(), "text/plain": alt}
    metadata = {"image/png": {"alt": alt, "width": int(fig.get_figwidth() * 100)}}
    (handle.update if handle else display)(data, raw=True, metadata=metadata)

def visible(token: bytes | str) -> str:
    "A token as printable text: an arrow for a line break, numbers for half a character and for invisible characters."
    try:
        text = token if isinstance(token, str) else token.decode()
    except UnicodeDecodeError:
        return "".join(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in token)
    text = text.replace("\r", "␍").replace("\n", "⏎").replace("\t", "⇥")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)

def color_tokens(tokens: Iterable[bytes | str], ids: Sequence[int] = (), marked: int | None = None) -> Picture:
    "The tokens of a text, each in a colour; pointing at one shows its id, and the marked one is outlined."
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
    "A slider that chooses one of the frames, in plain HTML: it also works in a saved notebook and on the site."
    move = ("const box = this.closest('div'); "
            "box.querySelector('output').textContent = this.dataset.labels.split('|')[this.value];"
            "box.querySelectorAll('section').forEach((frame, i) => frame.style.display = i == this.value ? '' : 'none')")
    bar = (f'<input type="range" min="0" max="{len(frames) - 1}" value="0" '
           'style="width:min(24em,60%);vertical-align:middle" '
           'data-lm-suppress-shortcuts="true" '  # or an arrow key moves JupyterLab to the next cell
           f'aria-label="{html.escape(name)}" data-labels="{html.escape("|".join(labels))}" oninput="{move}">')
    # of a notebook that is not trusted, JupyterLab drops tags such as noscript and shows the text in them
    hint = "<noscript> (run this cell to make the slider work)</noscript>"
    hidden = [""] + ["display:none"] * (len(frames) - 1)
    shown = "".join(f'<section style="{style}">{frame.html}</section>' for style, frame in zip(hidden, frames))
    text = "\n".join(f"{label}: {frame}" for label, frame in zip(labels, frames))
    label = f'<output style="margin-left:.7em">{html.escape(labels[0])}</output>'
    return Picture(f"<div>{bar} {label}{hint}{shown}</div>", text)

def table(rows: Iterable[Sequence[str | Picture]]) -> Picture:
    "A table of words and pictures, row by row."
    def cell(content: str | Picture) -> str:
        inner = content.html if isinstance(content, Picture) else html.escape(content)
        return f'<td style="text-align:left;vertical-align:top;padding:3px 14px 3px 0">{inner}</td>'

    rows = [list(row) for row in rows]
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return Picture(f"<table>{body}</table>", "\n".join("  ".join(map(str, row)) for row in rows))
