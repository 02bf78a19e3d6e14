"""Pictures of a whole model, drawn from the model itself: what flows through it, and where its parameters are."""

from collections.abc import Sequence
import matplotlib.pyplot as plt
import torch
from matplotlib.colors import LinearSegmentedColormap, PowerNorm, to_rgba
from matplotlib.markers import CARETDOWN, CARETLEFT, CARETRIGHT
from matplotlib.patches import FancyBboxPatch, Rectangle
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from tinygpt.engine.modes import eval_mode
from tinygpt.gpt import GPT
from tinygpt.show.pictures import TINTS, visible

__all__ = ["data_flow", "parameter_map"]

BLUE, ORANGE, GREEN, PINK, OCHRE, VIOLET = TINTS
GREY = "#7b818a"
COLORS = {"position_embedding": OCHRE, "embed": ORANGE, "lm_head": PINK, "attention.": BLUE, "mlp.": GREEN}
ACTIVATIONS = {"swiglu": "silu × up"}  # of the other kinds of MLP the name is that of the activation function
STACK, OPENED, MIDDLE = 1.2, 3.42, 5.7  # where the two streams run, and the middle of the opened block

class Sheet:
    "Paper, measured in inches from its upper left corner."

    def __init__(self, width: float, height: float):
        self.fig = plt.figure(figsize=(width, height), layout="none")
        self.ax = self.fig.add_axes([0, 0, 1, 1])
        self.ax.set(xlim=(0, width), ylim=(height, 0))
        self.ax.set_axis_off()

    def write(self, x: float, y: float, text: str, size=9.0, gid=None, **kwargs):
        style = {"ha": "center", "va": "center", "color": GREY, "parse_math": False} | kwargs
        self.ax.text(x, y, text, size=size, gid=gid, **style)

    def card(self, x: float, y: float, w: float, h: float, color: str, alpha=0.16, round=0.07, lw=1.1):
        "A rounded rectangle around a point."
        style = {"facecolor": to_rgba(color, alpha), "edgecolor": color, "linewidth": lw, "zorder": 2}
        box = f"round,pad=0,rounding_size={round}"
        self.ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=box, **style))

    def part(self, x: float, y: float, name: str, note: str, color: str, w: float, gid: str):
        "A module: its name, and what it is."
        self.card(x, y, w, 0.44, color)
        self.write(x, y - 0.085 if note else y, name, 9.5, gid, color=color, weight="bold")
        if note:
            self.write(x, y + 0.11, note, 7.5, f"{gid}:note")

    def line(self, *points: tuple[float, float], color=GREY, arrow=True, lw=1.2, **style):
        "A line from point to point, with an arrow's head at its end."
        self.ax.plot(*zip(*points), color=color, solid_capstyle="round", zorder=1.5, lw=lw, **style)
        if arrow:
            (x0, _), (x, y) = points[-2:]
            head = CARETDOWN if x == x0 else CARETRIGHT if x > x0 else CARETLEFT
            self.ax.plot(x, y, marker=head, color=color, ms=5, mew=0, zorder=3)

    def shape(self, x: float, y: float, shape: Sequence[int], gid: str, ha="left"):
        "The shape of a tensor that passes here."
        self.write(x, y, f"({', '.join(f'{n:,}' for n in shape)})", 7.5, gid, ha=ha, family="monospace")

    def passes(self, shape: Sequence[int], gid: str, *points: tuple[float, float], arrow=True):
        "A line, and the shape of what passes: to the right of its first stretch, or above if that runs across."
        self.line(*points, arrow=arrow)
        (x0, y0), (x1, y1) = points[:2]
        if y0 == y1:
            self.shape((x0 + x1) / 2 + 0.02, y0 - 0.1, shape, gid, ha="center")
        else:
            self.shape(x0 + 0.06, y0 + min(0.45 * (y1 - y0), 0.2), shape, gid)

    def stream(self, x: float, top: float, bottom: float):
        "The residual stream: a broad straight line."
        self.ax.plot([x, x], [top, bottom], color=VIOLET, alpha=0.3, lw=9, solid_capstyle="butt", zorder=1)
        self.line((x, bottom - 0.08), (x, bottom), color=VIOLET, lw=0)

    def plus(self, x: float, y: float):
        self.ax.plot(x, y, "o", color=VIOLET, ms=16.5, mew=0, zorder=4)
        self.ax.plot(x, y, "+", color="white", ms=8.6, mew=1.6, zorder=5)

def what(module: nn.Module) -> str:
    "What a module is, in a word or two."
    if isinstance(module, nn.Linear):
        return f"{module.in_features:,} → {module.out_features:,}"
    if isinstance(module, nn.Embedding):
        return f"{module.num_embeddings:,} × {module.embedding_dim:,}"
    return type(module).__name__

def short(name: str) -> str:
    "A module's name, as it is written into the pictures."
    return "positions" if name == "position_embedding" else name.split(".")[-1]

def color_of(name: str) -> str:
    "The color of a kind of part, the same in both pictures."
    return next((color for kind, color in COLORS.items() if kind in f"{name}."), VIOLET)

def printed(tok, ids: Sequence[int]) -> list[str]:
    "Tokens in print, none too long; bytes that are not a whole character as \\xe2, ids without a token as numbers."
    names = []
    for i in ids:
        word = tok.decode([i]) if i < tok.vocab_size else f"id {i}"
        names.append(visible(tok.token_bytes(i) if "\ufffd" in word else word))
    return [name if len(name) < 15 else name[:14] + "…" for name in names]

def width(text: str, size: float) -> float:
    "How many inches a text in monospace takes."
    return 0.6021 * len(text) * size / 72

class FlowChart(Sheet):
    "What a model does with a text, drawn from a run: a hook keeps the shapes that go into each module and come out."

    def __init__(self, model: GPT, tok, text: str):
        super().__init__(8.3, 9.4)
        self.model, self.tok, self.text, self.ids = model, tok, text, tok.encode(text)
        self.tokens, self.inputs, self.outputs, self.weights = printed(tok, self.ids), {}, {}, []
        names = {module: name for name, module in model.named_modules()}

        def record(module, args, result):
            self.inputs[names[module]], self.outputs[names[module]] = args[0].shape, result.shape

        ids = torch.tensor([self.ids], device=model.embed.weight.device)
        with eval_mode(model), register_module_forward_hook(record):
            logits = model(ids, weights_out=self.weights)
        self.logits, self.probabilities = logits.shape, logits[0, -1].float().softmax(-1).cpu()

    def draw_tokens(self):
        "The text, cut into tokens, and their ids; of a long one both ends."
        text, left = self.text if len(self.text) < 89 else f"{self.text[:42]} … {self.text[-42:]}", 0.72
        wide = [max(width(token, 10), width(f"{id:,}", 8)) + 0.14 for token, id in zip(self.tokens, self.ids)]
        shown = list(range(len(wide)))
        while len(shown) > 2 and sum(wide[i] + 0.06 for i in shown) > 7.23:
            shown.pop(len(shown) // 2)
        for y, word in (0.16, "text"), (0.52, "tokens"), (0.86, "ids"):
            self.write(0.05, y, word, ha="left")
        self.write(left, 0.16, visible(text), 10, "text", ha="left", family="monospace")
        for before, i in zip([-1, *shown], shown):
            if i != before + 1:
                self.write(left + 0.1, 0.52, "…", 10)
                left += 0.26
            middle = left + wide[i] / 2
            self.card(middle, 0.52, wide[i], 0.27, TINTS[i % 6], 0.3, 0.05, lw=0)
            self.write(middle, 0.525, self.tokens[i], 10, f"token:{i}", family="monospace")
            self.write(middle, 0.86, f"{self.ids[i]:,}", 8, f"id:{i}", family="monospace")
            left += wide[i] + 0.06
        self.line((0.72, 1.0), (left - 0.06, 1.0), arrow=False)

    def module(self, x: float, y: float, name: str, w=1.12):
        self.part(x, y, short(name), what(self.model.get_submodule(name)), color_of(name), w, name)

    def draw_stack(self):
        "From the ids through all blocks to the last norm."
        x, block, name = STACK, 3.05, "position_embedding"
        learned, more = self.model.position_embedding is not None, len(self.model.blocks) - 1
        self.passes(self.inputs["embed"], "embed:in", (x, 1.0), (x, 1.42))
        self.module(x, 1.64, "embed", 1.5)
        self.shape(x + 0.12, 1.99 if learned else 2.36, self.outputs["embed"], "embed:out")
        if learned:
            self.module(x + 1.4, 2.28, name, 0.84)
            self.passes(self.outputs[name], f"{name}:out", (x + 0.98, 2.28), (x + 0.13, 2.28))
            self.plus(x, 2.28)
            self.shape(x + 0.12, 2.69, self.inputs["blocks.0"], "blocks.0:in")
        self.part(x, block, "blocks.0", "", BLUE, 1.5, "blocks.0")
        self.shape(x + 0.12, block + 1.18, self.outputs[f"blocks.{more}"], "blocks:out")
        if more:
            self.shape(x + 0.12, block + 0.37, self.outputs["blocks.0"], "blocks.0:out")
            label, times = ("blocks.1", " once more") if more == 1 else (f"blocks.1 … {more}", f", {more} times")
            self.part(x, block + 0.75, label, f"the same{times}", BLUE, 1.5, "blocks.more")
            for back in range(1, min(more, 3)):
                left, right, over, under = (at + 0.05 * back for at in (x - 0.75, x + 0.75, block + 0.55, block + 0.97))
                self.line((left, under), (right, under), (right, over), color=BLUE, lw=1, arrow=False)
        self.stream(x, 1.86, 4.43)
        self.module(x, 4.65, "norm", 1.5)
        self.passes(self.outputs["norm"], "norm:out", (x, 4.87), (x, 5.31))

    def draw_head(self):
        "From the last norm to the likeliest next tokens, as bars."
        x, y, tied = STACK, 5.53, self.model.lm_head is None
        size = " × ".join(f"{n:,}" for n in self.model.unembedding.shape)
        self.part(x, y, "embed, again" if tied else "lm_head", size, ORANGE if tied else PINK, 1.5, "lm_head")
        if tied:
            self.line((x - 0.75, 1.64), (0.2, 1.64), (0.2, y), (x - 0.75, y), color=ORANGE, ls=(0, (2, 2)), lw=1)
            self.write(0.1, (1.64 + y) / 2, "one matrix, used twice", 8, "tied", color=ORANGE, rotation=90)
        self.passes(self.logits, "logits", (x, y + 0.22), (x, y + 0.62))
        self.card(x, y + 0.78, 1.5, 0.3, PINK, 0.09)
        self.write(x, y + 0.78, "softmax, last row", 8)
        self.passes(self.probabilities.shape, "probabilities", (x, y + 0.93), (x, y + 1.27))
        self.write(0.2, y + 1.44, f"what comes after “{self.tokens[-1].strip()}”", gid="last", ha="left")
        best = self.probabilities.topk(min(6, len(self.probabilities)))
        names = [name.replace(" ", "·") for name in printed(self.tok, best.indices.tolist())]
        left = 0.25 + max(width(name, 9) for name in names)
        for row, (name, p) in enumerate(zip(names, best.values.tolist())):
            at, long = y + 1.74 + 0.27 * row, 1.2 * p / best.values[0].item()
            self.write(left, at, name, 9, f"next:{row}", ha="right", family="monospace")
            self.card(left + 0.08 + long / 2, at, long, 0.18, PINK, 0.55, min(0.04, long / 3), lw=0)
            percent = f"{p:.1%}" if p < 0.0995 else f"{p:.0%}"
            self.write(left + 0.14 + long, at, percent, 8.5, f"probability:{row}", ha="left")

    def draw_half(self, name: str, columns: dict[str, float], y: float):
        "The beginning of attention or the MLP: the norm, and below it the first matrices."
        self.passes(self.inputs[f"{name}_norm"], f"{name}_norm:in", (OPENED, y), (MIDDLE - 0.72, y))
        self.module(MIDDLE, y, f"{name}_norm", 1.44)
        y += 0.42
        self.passes(self.outputs[f"{name}_norm"], f"{name}_norm:out", (MIDDLE, y - 0.2), (MIDDLE, y), arrow=False)
        for part, x in columns.items():
            self.line((MIDDLE, y), (x, y), (x, y + 0.16))
            self.module(x, y + 0.38, f"{name}.{part}")

    def draw_return(self, name: str, y: float):
        "The last matrix of attention or the MLP, and the way back to the stream."
        self.passes(self.inputs[name], f"{name}:in", (MIDDLE, y - 0.5), (MIDDLE, y - 0.22))
        self.module(MIDDLE, y, name)
        self.passes(self.outputs[name], f"{name}:out", (MIDDLE - 0.56, y), (OPENED + 0.13, y))
        self.plus(OPENED, y)

    def draw_maps(self, y: float, weights: Tensor):
        "The attention weights of the first few heads, as maps."
        blues, side = LinearSegmentedColormap.from_list("", [f"{BLUE}14", BLUE]), 0.62
        shown = 4 if len(weights) > 5 else len(weights)
        gap = 0.13 if shown == 5 else 0.22
        left = MIDDLE - (shown * (side + gap) - gap) / 2 - (0.12 if shown < len(weights) else 0)
        for image in weights[:shown].float().cpu():
            extent = left, left + side, y + side / 2, y - side / 2
            image = image.masked_fill(torch.ones_like(image).triu(1) > 0, torch.nan).numpy()
            self.ax.imshow(image, blues, PowerNorm(0.5, 0, 1), extent=extent, zorder=3, aspect="auto")
            left += side + gap
        if shown < len(weights):
            self.write(left + 0.06, y, "…", 12)

    def draw_attention(self):
        "The first half of the first block."
        name, c, y = "blocks.0.attention", self.model.config, 3.24
        columns = {"query": MIDDLE - 1.38, "key": MIDDLE, "value": MIDDLE + 1.38}
        self.draw_half(name, columns, y - 1.02)
        steps = [what(self.model.blocks[0].attention.query_norm)] * c.qk_norm + ["rope"] * (c.position == "rope")
        for (part, x), norm in zip(columns.items(), ("query_norm", "key_norm", "key_norm")):
            changed = bool(steps) and part != "value"
            self.passes(self.outputs[f"{name}.{part}"], f"{name}.{part}:out", (x, y), (x, y + 0.3), arrow=changed)
            if changed:
                self.card(x, y + 0.44, 1.12, 0.28, VIOLET, 0.1, lw=0.8)
                self.write(x, y + 0.44, ", ".join(steps), 8, f"{name}.{part}:steps")
            else:
                self.line((x, y + 0.3), (x, y + 0.58), arrow=False)
            heads = self.outputs[f"{name}.{norm}"]  # values are as many, and as wide, as keys
            self.passes(heads, f"{name}.{part}:heads", (x, y + 0.58), (x, y + 0.92))
        self.card(MIDDLE, y + 1.47, 4.06, 1.1, BLUE, 0.09)
        self.write(MIDDLE - 1.95, y + 1.05, "attention", 9.5, name, color=BLUE, weight="bold", ha="left")
        many = f"{c.n_head} head{'s' * (c.n_head > 1)}" + f", {c.n_kv_head} of keys" * (c.n_kv_head < c.n_head)
        self.write(MIDDLE - 1.13, y + 1.06, many, 7.5, f"{name}:note", ha="left")
        self.shape(MIDDLE + 1.95, y + 1.06, self.weights[0].shape, f"{name}:weights", ha="right")
        self.draw_maps(y + 1.59, self.weights[0][0])
        self.draw_return(f"{name}.proj", y + 2.52)

    def draw_mlp(self):
        "The second half of the first block."
        name, y, kind, gated = "blocks.0.mlp", 7.5, self.model.config.mlp, hasattr(self.model.blocks[0].mlp, "gate")
        columns = {"gate": MIDDLE - 0.69, "up": MIDDLE + 0.69} if gated else {"up": MIDDLE}
        self.draw_half(name, columns, y - 1.02)
        for (part, x), edge in zip(columns.items(), (MIDDLE - 0.4, MIDDLE + 0.4)):
            ends = [(x, y + 0.38), (edge, y + 0.38)] if gated else [(x, y + 0.24)]
            self.passes(self.outputs[f"{name}.{part}"], f"{name}.{part}:out", (x, y), *ends)
        self.card(MIDDLE, y + 0.38, 0.8, 0.28, GREEN, 0.09, 0.13)
        self.write(MIDDLE, y + 0.38, ACTIVATIONS.get(kind, kind), 8, f"{name}:activation")
        self.draw_return(f"{name}.down", y + 1.02)

    def draw_opened(self):
        "The first block, opened on a panel."
        panel, edge, x = 3.1, STACK + 0.75, OPENED + 0.15
        self.ax.fill((edge, panel, panel, edge), (2.85, 1.4, 9.25, 3.25), color=GREY, alpha=0.08, lw=0, zorder=0)
        self.card((panel + 8.25) / 2, 5.33, 8.25 - panel, 8.05, GREY, 0.045, 0.1, lw=0.9)
        self.write(panel + 0.12, 1.5, "blocks.0, opened", ha="left")
        self.shape(x, 1.85, self.inputs["blocks.0"], "blocks.0:in:opened")
        self.draw_attention()
        self.shape(x, 6.06, self.inputs["blocks.0.mlp_norm"], "blocks.0:middle")
        self.draw_mlp()
        self.shape(x, 8.82, self.outputs["blocks.0"], "blocks.0:out:opened")
        self.stream(OPENED, 1.65, 9.02)

def data_flow(model: GPT, tok, text: str):
    "From a text to the probabilities of its next token, as a figure: drawn from a run of the model itself."
    chart = FlowChart(model, tok, text)
    chart.draw_tokens()
    chart.draw_stack()
    chart.draw_head()
    chart.draw_opened()
    return chart.fig

def sizes(model: GPT) -> dict[str, int]:
    "How many parameters each module has, its biases included."
    counts = {name: sum(p.numel() for p in part.parameters(recurse=False)) for name, part in model.named_modules()}
    return {name: n for name, n in counts.items() if n}

def rotation_of(name: str, w: float, h: float) -> float | None:
    "By how many degrees a name is to be turned to stand in an area; None if it has no room."
    long = 0.077 * len(short(name)) + 0.08
    if min(w, h) < 0.17 or max(w, h) < long:
        return None
    return 0 if w > long else 90

def draw_area(sheet: Sheet, x: float, y: float, w: float, h: float, name: str, share=0.0, named=True, **style):
    "A part as an area, with its name; of a large one the share, too."
    color, turn = color_of(name), rotation_of(name, w, h)
    sheet.ax.add_patch(Rectangle((x, y), w, h, **{"facecolor": f"{color}2b", "edgecolor": color, "lw": 0.7} | style))
    if named and turn is not None:
        words = f"{short(name)}\n{share:.0%}" if turn == 0 and h > 0.5 and share > 0.1 else short(name)
        sheet.write(x + w / 2, y + h / 2, words, 8, f"{name}:name", color=color, weight="bold", rotation=turn)

def draw_layer(sheet: Sheet, x: float, y: float, w: float, h: float, layer: str, parts: dict[str, int]):
    "A layer as a row: each matrix by its name; where there is no room, attention or the MLP by its own."
    inch = w / sum(n for name, n in parts.items() if name.startswith(layer))
    for half in f"{layer}attention", f"{layer}mlp":
        wide = {name: n * inch for name, n in parts.items() if name.startswith((f"{half}.", f"{half}_norm"))}
        total, left = sum(wide.values()), x
        each = all(rotation_of(name, n, h) is not None for name, n in wide.items() if n > total / 20)
        for name, n in wide.items():
            draw_area(sheet, left, y, n, h, name, named=each, lw=0.7 * (each and min(n, h) > 0.05), gid=name)
            left += n
        draw_area(sheet, x, y, total, h, half, named=not each, fill=False)
        x += total

def parameter_map(*models: GPT, names: Sequence[str] = ()):
    "Where the parameters of a model are, as a figure: each part as large as its share; several models side by side."
    across, gap, high = 7.6 if len(models) > 1 else 5.2, 0.3, 3.7
    w = (across + gap) / len(models) - gap
    sheet = Sheet(across, high + 0.68)
    for i, model in enumerate(models):
        c, left, parts = model.config, i * (w + gap), sizes(model)
        title = f"{names[i]}: " if names else ""
        total = sum(parts.values())
        many = f"{total:,}" if total < 1e5 else f"{total / 1e6:,.{1 if total < 1e7 else 0}f} million"
        layers = f"{c.n_layer} layer{'s' * (c.n_layer > 1)}, {c.n_embd:,} wide, {c.vocab_size:,} tokens"
        sheet.write(left, 0.1, f"{title}{many} parameters", 10, f"total:{i}", ha="left", weight="bold")
        sheet.write(left, 0.3, layers, 8.5, f"sizes:{i}", ha="left")
        tables = {name: n for name, n in parts.items() if not name.startswith("blocks.")}
        column, y = (w - 0.02) * sum(tables.values()) / total, 0.46
        for name, n in tables.items():
            h = high * n / sum(tables.values())
            draw_area(sheet, left + 0.01, y, column, h, name, n / total, gid=name, lw=0.7 * (h > 0.05))
            y += h
            if rotation_of(name, column, h) is None and n > total / 200:  # no room inside
                style = {"ha": "left", "color": color_of(name), "weight": "bold"}
                sheet.write(left, high + 0.57, short(name), 8, f"{name}:below", **style)
        for layer in range(c.n_layer):
            y, h = 0.46 + high * layer / c.n_layer, high / c.n_layer
            draw_layer(sheet, left + 0.01 + column, y, w - 0.02 - column, h, f"blocks.{layer}.", parts)
    return sheet.fig
