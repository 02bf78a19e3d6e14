"""The attention explorer: a text in which each token shows what it attends to, head by head."""

import base64
import html
import json
from functools import cache, cached_property
from pathlib import Path
import torch
from torch import Tensor
from tinygpt import guard
from tinygpt.engine.modes import eval_mode
from tinygpt.engine.pieces import begin_texts
from tinygpt.show.distribution import token_name
from tinygpt.show.pictures import visible
from tinygpt.show.sampler import this_cell

__all__ = ["explore"]

HERE = Path(__file__).parent
MOST_TOKENS = 256  # of 144 heads, their weights take 6 MB
MOST_NAMED, MOST_ROWS = 4, 8  # tokens in a sentence, and in the list of next tokens
HOW_TO = "A picture of the explorer. To make it live, run this cell or allow JavaScript."

def quantize(weights: Tensor) -> Tensor:
    "Attention weights in 8 bits, as multiples of 1/255: the largest error is 1/510, or 0.2 percentage points."
    return (weights * 255).round().to(torch.uint8)

def pack(levels: Tensor) -> str:
    "The lower triangles of quantized weights (L, H, T, T), row by row, as base64."
    rows, columns = torch.tril_indices(*levels.shape[-2:])
    return base64.b64encode(levels[..., rows, columns].numpy().tobytes()).decode()

def token_text(tok, id: int) -> str:
    "A token as it stands in the text; what cannot be seen is written out, and a token of spaces becomes dots."
    text = visible(tok.token_bytes(id) if hasattr(tok, "token_bytes") else tok.decode([id])) or f"[{id}]"
    return text if text.strip(" ") else "·" * len(text)

def script(data: dict) -> str:
    "Data for the browser, and the JavaScript that shows them in place of the picture before it."
    code, _, _ = (HERE / "explorer.js").read_text("utf-8").partition("\nexport ")
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return (f'<script type="application/json">{text}</script>'
            f"<script>(() => {{\n{code}\nbegin(document.currentScript.parentElement);\n}})()</script>")

@cache
def widget_class():
    "The class of the widget in the browser."
    import anywidget
    import traitlets
    return type("ExplorerWidget", (anywidget.AnyWidget,), {
        "_esm": (HERE / "explorer.js").read_text("utf-8"),
        "_css": (HERE / "explorer.css").read_text("utf-8"),
        "data": traitlets.Dict().tag(sync=True),
        "question": traitlets.Dict().tag(sync=True),  # of the browser: the next token, with a head at some strength
        "answer": traitlets.Dict().tag(sync=True),
    })

DISPLAYED: dict[str | None, tuple[int, list]] = {}  # of each cell, when it ran, and the widgets that it displayed

class Explorer:
    "The attention explorer of a text: in JupyterLab a live widget, and elsewhere plain HTML."

    def __init__(self, model, tok, text: str):
        guard.exploring(model, tok, text)
        self.model, self.tok = model, tok
        [pieces] = begin_texts(tok, [text], ())
        most = min(model.config.block_size, MOST_TOKENS)
        self.note = ""
        if len(pieces.ids) > most:
            self.note = (f"The text has {len(pieces.ids)} tokens. These are the newest {most}, "
                         "which the model has read without the earlier ones.")
        self.ids = torch.tensor([pieces.ids[-most:]], device=model.unembedding.device)
        self.tokens = [token_text(tok, id) for id in self.ids[0].tolist()]
        weights: list[Tensor] = []
        with eval_mode(model):
            model.hidden(self.ids, weights_out=weights)
        self.levels = quantize(torch.cat(weights).float().cpu())  # (L, H, T, T)
        self.usual: dict[int, Tensor] = {}  # the model's own probabilities after a token
        # the head whose last token attends most to one other token, the first one left out
        row = self.levels[:, :, -1, 1:-1]
        best = row.amax(-1).argmax().item() if row.shape[-1] else 0
        self.layer, self.head = divmod(best, self.levels.shape[1])

    def statement(self, layer: int, head: int, token: int) -> str:
        "What a token attends to, in words."
        row = self.levels[layer, head, token, : token + 1]
        levels, order = row.sort(descending=True, stable=True)
        name = [f"'{text.strip(' ')}'" for text in self.tokens]
        name[token], own = "itself", name[token]
        parts = [f"{name[i]} {level / 2.55:.0f} %" for level, i in zip(levels.tolist(), order.tolist()) if level > 2]
        return f"{own} attends to: {', '.join(parts[:MOST_NAMED])}"

    def probs(self, token: int, head_scale: Tensor | None = None) -> Tensor:
        "The probabilities (V,) of the token after this one."
        with eval_mode(self.model):
            x = self.model.hidden(self.ids[:, : token + 1], head_scale=head_scale)[0, -1]
            logits = self.model.unembedding[: self.tok.vocab_size] @ x
        return logits.float().softmax(-1).cpu()

    def next_tokens(self, token: int, layer: int, head: int, strength: float) -> list[tuple[str, float, float]]:
        "The most probable tokens after this one, with their probabilities: as usual, and with the head scaled."
        if token not in self.usual:
            self.usual = {token: self.probs(token)}
        scale = torch.ones(self.levels.shape[:2], device=self.ids.device)
        scale[layer, head] = strength
        before, after = self.usual[token], self.probs(token, scale)
        shown = torch.maximum(before, after).topk(min(MOST_ROWS, len(before))).indices.tolist()
        return [(token_name(self.tok, id), before[id].item(), after[id].item()) for id in shown]

    @cached_property
    def data(self) -> dict:
        "What the browser shows."
        n_layer, n_head = self.levels.shape[:2]
        return {"tokens": self.tokens, "layers": n_layer, "heads": n_head, "layer": self.layer, "head": self.head,
                "note": self.note, "weights": pack(self.levels)}

    @property
    def picture(self) -> str:
        "The last token's attention in one head, as HTML without style sheet and script."
        spans, last = [], len(self.tokens) - 1
        for i, (text, level) in enumerate(zip(self.tokens, self.levels[self.layer, self.head, last].tolist())):
            gap = " " * (len(text) - len(text.lstrip(" ")))
            style = f"background-color:rgba(43, 140, 196, {0.6 * (level / 255) ** 0.5:.2f});border-radius:3px"
            style += ";border:2px solid #d9730d" * (i == last)
            spans.append(f'{gap}<span style="{style}">{html.escape(text.lstrip(" "))}</span>'
                         f'{"<br>" if text.endswith("⏎") else "<wbr>" if "·" in text else ""}')
        words = f"Layer {self.layer}, head {self.head}: {self.statement(self.layer, self.head, last)}"
        return (f'<div class="still"><p style="line-height:1.9;white-space:pre-wrap">{"".join(spans)}</p>'
                f"<p>{html.escape(words)}</p><p>{html.escape(self.note)} {HOW_TO}</p></div>")

    @cached_property
    def html(self) -> str:
        "The explorer as one piece of HTML, with its data, style and JavaScript inside: for any page."
        style = (HERE / "explorer.css").read_text("utf-8")
        return f'<div class="tg-explorer plain"><style>{style}</style>{self.picture}{script(self.data)}</div>'

    def __repr__(self) -> str:
        return f"layer {self.layer}, head {self.head}: {self.statement(self.layer, self.head, len(self.tokens) - 1)}"

    def widget(self):
        "A widget whose questions this explorer answers."
        def answer(change):
            asked = change["new"]
            rows = self.next_tokens(asked["token"], asked["layer"], asked["head"], asked["strength"])
            widget.answer = {"number": asked["number"], "rows": rows}
        widget = widget_class()(data=self.data)
        widget.observe(answer, "question")
        return widget

    def _ipython_display_(self):
        "Display the live widget and, for a saved notebook, the plain HTML, which the live one hides."
        from IPython.display import display
        widget = self.widget()
        keep(widget)
        view, *_ = widget._repr_mimebundle_()
        display(view | {"text/plain": "", "text/html": "<span></span>"}, raw=True)
        display({"text/html": self.html, "text/plain": repr(self)}, raw=True)

def keep(widget):
    "Remember a cell's widgets until it runs again; then close them."
    from IPython import get_ipython
    cell, count = this_cell(), getattr(get_ipython(), "execution_count", 0)
    when, widgets = DISPLAYED.get(cell, (count, []))
    if when != count:
        for old in widgets:
            old.close()
        widgets = []
    DISPLAYED[cell] = count, [*widgets, widget]

def explore(model, tok, text: str) -> Explorer:
    "The attention explorer of a text: choose a token to see what each head attends to. Its `html` fits any page."
    return Explorer(model, tok, text)
