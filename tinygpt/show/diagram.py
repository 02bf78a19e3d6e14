"""Pictures of a whole model, drawn from the model itself: what flows through it, and where its parameters are."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tinygpt.gpt import GPT
from tinygpt.show.pictures import TINTS, visible

BLUE, ORANGE, GREEN, PINK, OCHRE, VIOLET = TINTS
GREY = "#7b818a"


class Flow:
    "What was seen when a model read a text: the shapes that went into each module and came out, and the results."

    def __init__(self, model: GPT, ids: Sequence[int]):
        self.taken, self.given, self.kept, self.weights = {}, {}, [], []
        device, learning = model.embed.weight.device, model.training

        def watch(name):
            def look(module, args, result):
                self.taken[name], self.given[name] = tuple(args[0].shape), tuple(result.shape)

            return look

        hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
        try:
            with torch.no_grad():
                self.ids = torch.tensor([list(ids)], dtype=torch.int64, device=device)
                look = {"positions": torch.arange(self.ids.shape[1], device=device), "weights_out": self.weights}
                logits = model.eval()(self.ids, cache=[self] * model.config.n_layer, **look)
        finally:
            model.train(learning)
            for hook in hooks:
                hook.remove()
        self.logits, self.chances = tuple(logits.shape), logits[0, -1].float().softmax(-1).cpu()


    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        "Stands in for a key/value cache that keeps nothing but the shapes."
        self.kept.append((tuple(key.shape), tuple(value.shape)))
        return key, value


class Sheet:
    "Paper, measured in inches from its upper left corner."

    def __init__(self, width: float, height: float):
        import matplotlib.pyplot as plt

        self.fig = plt.figure(figsize=(width, height), layout="none")
        self.ax = self.fig.add_axes([0, 0, 1, 1])
        self.ax.set(xlim=(0, width), ylim=(height, 0))
        self.ax.set_axis_off()

    def write(self, x: float, y: float, text: str, size=9.0, gid=None, **kwargs):
        style = {"ha": "center", "va": "center", "color": GREY, "parse_math": False} | kwargs
        return self.ax.text(x, y, text, size=size, gid=gid, **style)

    def card(self, x: float, y: float, w: float, h: float, color: str, alpha=0.16, round=0.07, zorder=2, **kwargs):
        "A rounded rectangle around a point."
        from matplotlib.colors import to_rgba
        from matplotlib.patches import FancyBboxPatch

        box = f"round,pad=0,rounding_size={round}"
        style = {"facecolor": to_rgba(color, alpha), "edgecolor": color, "linewidth": 1.1, "zorder": zorder} | kwargs
        return self.ax.add_patch(FancyBboxPatch((x - w / 2, y - h / 2), w, h, boxstyle=box, **style))

    def part(self, x: float, y: float, name: str, note: str, color: str, w=1.12, gid=None):
        "A module: its name, and what it is."
        self.card(x, y, w, 0.44, color)
        self.write(x, y - 0.085 if note else y, name, 9.5, gid, color=color, weight="bold")
        self.write(x, y + 0.11, note, 7.5, gid and f"{gid}:note")

    def line(self, *points: tuple[float, float], color=GREY, head=True, **kwargs):
        "A line from point to point, with an arrow's head at its end."
        style = {"color": color, "lw": 1.2, "solid_capstyle": "round", "zorder": 1.5} | kwargs
        self.ax.plot(*zip(*points), **style)
        if head:
            arrow = {"arrowstyle": "-|>,head_width=.17,head_length=.34", "color": color, "lw": 1.2}
            arrow |= {"shrinkA": 0, "shrinkB": 0}
            (x, y), (x0, y0) = points[-1], points[-2]
            start = x - 0.02 * ((x > x0) - (x < x0)), y - 0.02 * ((y > y0) - (y < y0))
            self.ax.annotate("", points[-1], start, arrowprops=arrow, zorder=3)

    def road(self, x: float, top: float, bottom: float):
        "The stream: a broad straight line."
        self.ax.plot([x, x], [top, bottom], color=VIOLET, alpha=0.3, lw=9, solid_capstyle="butt", zorder=1)
        self.line((x, bottom - 0.08), (x, bottom), color=VIOLET, lw=0)

    def shape(self, x: float, y: float, shape: tuple[int, ...], gid: str, **kwargs):
        "What travels here."
        style = {"ha": "left", "family": "monospace"} | kwargs
        self.write(x, y, f"({', '.join(f'{n:,}' for n in shape)})".replace(",)", ")"), 7.5, gid, **style)

    def plus(self, x: float, y: float):
        from matplotlib.patches import Circle

        self.ax.add_patch(Circle((x, y), 0.115, facecolor=VIOLET, edgecolor="none", zorder=4))
        for dx, dy in (0.06, 0), (0, 0.06):
            self.ax.plot([x - dx, x + dx], [y - dy, y + dy], color="white", lw=1.6, zorder=5)


def what(module: nn.Module) -> str:
    "What a module is, in a word or two."
    if isinstance(module, nn.Linear):
        return f"{module.in_features:,} → {module.out_features:,}"
    if isinstance(module, nn.Embedding):
        return f"{module.num_embeddings:,} × {module.embedding_dim:,}"
    return type(module).__name__


def named(tok, ids: Sequence[int]) -> list[str]:
    "Tokens in print, of which none is invisible and none is long; a model may have more than its tokenizer."
    words = [visible(tok.decode([i])) if i < tok.vocab_size else f"id {i}" for i in ids]
    names = ["".join(c if c.isprintable() else "�" for c in word) or "�" for word in words]
    return [name if len(name) < 15 else name[:14] + "…" for name in names]


def width(text: str, size: float) -> float:
    "How many inches a text takes."
    return 0.6021 * len(text) * size / 72


def draw_tokens(sheet: Sheet, text: str, tokens: Sequence[str], ids: Sequence[int], right: float, road: float):
    "The text, cut into tokens, and their ids; of a long one its ends."
    size, left = 10, 0.72
    wide = [max(width(token, size), width(f"{id:,}", 8)) + 0.14 for token, id in zip(tokens, ids)]
    shown = list(range(len(tokens)))
    while len(shown) > 2 and sum(wide[i] + 0.06 for i in shown) > right - left - 0.3:
        shown.pop(len(shown) // 2)
    line = visible(text) if len(text) < 89 else f"{visible(text[:42])} … {visible(text[-42:])}"
    for y, word in (0.16, "text"), (0.52, "tokens"), (0.86, "ids"):
        sheet.write(0.05, y, word, 9, ha="left")
    sheet.write(left, 0.16, line, 10, "text", ha="left", family="monospace")
    for place, i in enumerate(shown):
        if place and i != shown[place - 1] + 1:
            sheet.write(left + 0.1, 0.52, "…", size)
            left += 0.26
        sheet.card(left + wide[i] / 2, 0.52, wide[i], 0.27, TINTS[i % 6], 0.3, 0.05, lw=0)
        sheet.write(left + wide[i] / 2, 0.525, tokens[i], size, f"token:{i}", family="monospace")
        sheet.write(left + wide[i] / 2, 0.86, f"{ids[i]:,}", 8, f"id:{i}", family="monospace")
        left += wide[i] + 0.06
    sheet.line((0.72, 1.0), (left - 0.06, 1.0), head=False)
    sheet.line((road, 1.0), (road, 1.42))


def draw_heads(sheet: Sheet, x: float, y: float, w: float, weights: Tensor):
    "The weights of the first few heads, as maps."
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    n, side, blues = len(weights), 0.62, LinearSegmentedColormap.from_list("", [f"{BLUE}14", BLUE])
    shown = n if n <= 5 else 4
    gap = min(0.22, (w - shown * side) / (shown + 1))
    left = x - (shown * (side + gap) - gap) / 2 - (0.12 if shown < n else 0)
    for head in range(shown):
        at = left + head * (side + gap)
        extent = (at, at + side, y + side / 2, y - side / 2)
        image = weights[head].float().cpu()
        image = image.masked_fill(torch.ones_like(image).triu(1) > 0, torch.nan).numpy()
        sheet.ax.imshow(image, cmap=blues, norm=PowerNorm(0.5, 0, 1), extent=extent, zorder=3, aspect="auto")
    if shown < n:
        sheet.write(left + shown * (side + gap) + 0.06, y, "…", 12)


def draw_attention(sheet: Sheet, model: GPT, flow: Flow, road: float, top: float) -> float:
    "The first half of the first block; returns how far down it goes."
    name, c, attention = "blocks.0.attention", model.config, model.blocks[0].attention
    middle, xs = road + 2.28, [road + 2.28 + dx for dx in (-1.38, 0, 1.38)]
    y = top + 0.3
    sheet.line((road, y), (middle - 0.72, y))
    sheet.shape((road + middle - 0.72) / 2 + 0.05, y - 0.1, flow.taken[f"{name}_norm"], f"{name}_norm:in", ha="center")
    sheet.part(middle, y, "attention_norm", what(model.blocks[0].attention_norm), VIOLET, 1.44, f"{name}_norm")
    sheet.line((middle, y + 0.22), (middle, y + 0.42), head=False)
    sheet.shape(middle + 0.06, y + 0.33, flow.given[f"{name}_norm"], f"{name}_norm:out")
    y += 0.42
    for x, part in zip(xs, ("query", "key", "value")):
        sheet.line((middle, y), (x, y), (x, y + 0.16))
        sheet.part(x, y + 0.38, part, what(getattr(attention, part)), BLUE, 1.12, f"{name}.{part}")
    y += 0.6
    steps = [what(attention.query_norm)] * c.qk_norm + ["turn"] * (c.position == "rope")
    heads = flow.given[f"{name}.query_norm"], *flow.kept[0]
    for x, part, shape in zip(xs, ("query", "key", "value"), heads):
        begin = y
        if steps and part != "value":
            sheet.line((x, y), (x, y + 0.3))
            sheet.card(x, y + 0.44, 1.12, 0.28, VIOLET, 0.1, lw=0.8)
            sheet.write(x, y + 0.44, ", ".join(steps), 8, f"{name}.{part}:steps")
            begin = y + 0.58
        sheet.line((x, begin), (x, y + 0.92))
        sheet.shape(x + 0.06, y + 0.13, flow.given[f"{name}.{part}"], f"{name}.{part}:out")
        sheet.shape(x + 0.06, y + 0.74, shape, f"{name}.{part}:heads")
    y += 0.92
    sheet.card(middle, y + 0.55, 4.06, 1.1, BLUE, 0.09)
    sheet.write(middle - 1.95, y + 0.13, "attention", 9.5, name, color=BLUE, weight="bold", ha="left")
    many = f"{c.n_head} head{'s' * (c.n_head > 1)}" + f", {c.n_kv_head} of keys" * (c.n_kv_head < c.n_head)
    sheet.write(middle - 1.13, y + 0.14, many, 7.5, f"{name}:note", ha="left")
    weights = flow.weights[0]
    sheet.shape(middle + 1.95, y + 0.14, tuple(weights.shape), f"{name}:weights", ha="right")
    draw_heads(sheet, middle, y + 0.67, 3.9, weights[0])
    y += 1.1
    sheet.line((middle, y), (middle, y + 0.28))
    sheet.shape(middle + 0.06, y + 0.13, flow.taken[f"{name}.proj"], f"{name}.proj:in")
    return draw_return(sheet, flow, road, middle, y + 0.5, f"{name}.proj", attention.proj, BLUE)


def draw_return(sheet: Sheet, flow: Flow, road, middle, y, name, module, color) -> float:
    "The last matrix of a half, and the way back to the stream."
    sheet.part(middle, y, name.split(".")[-1], what(module), color, 1.12, name)
    sheet.line((middle - 0.56, y), (road + 0.13, y))
    sheet.shape((road + middle - 0.56) / 2 + 0.05, y - 0.1, flow.given[name], f"{name}:out", ha="center")
    sheet.plus(road, y)
    return y


def draw_mlp(sheet: Sheet, model: GPT, flow: Flow, road: float, top: float) -> float:
    "The second half of the first block; returns how far down it goes."
    name, mlp, middle = "blocks.0.mlp", model.blocks[0].mlp, road + 2.28
    parts = ["up"] if not hasattr(mlp, "gate") else ["gate", "up"]
    xs = [middle] if not hasattr(mlp, "gate") else [middle - 0.69, middle + 0.69]
    y = top + 0.3
    sheet.line((road, y), (middle - 0.72, y))
    sheet.shape((road + middle - 0.72) / 2 + 0.05, y - 0.1, flow.taken[f"{name}_norm"], f"{name}_norm:in", ha="center")
    sheet.part(middle, y, "mlp_norm", what(model.blocks[0].mlp_norm), VIOLET, 1.44, f"{name}_norm")
    sheet.line((middle, y + 0.22), (middle, y + 0.42), head=False)
    sheet.shape(middle + 0.06, y + 0.33, flow.given[f"{name}_norm"], f"{name}_norm:out")
    y += 0.42
    bend = y + 0.98
    for x, part in zip(xs, parts):
        sheet.line((middle, y), (x, y), (x, y + 0.16))
        sheet.part(x, y + 0.38, part, what(getattr(mlp, part)), GREEN, 1.12, f"{name}.{part}")
        if not hasattr(mlp, "gate"):
            sheet.line((x, y + 0.6), (x, bend - 0.14))
        else:
            sheet.line((x, y + 0.6), (x, bend), (middle + (0.4 if x > middle else -0.4), bend))
        sheet.shape(x + 0.06, y + 0.74, flow.given[f"{name}.{part}"], f"{name}.{part}:out")
    sheet.card(middle, bend, 0.8, 0.28, GREEN, 0.09, 0.13)
    sheet.write(middle, bend, "gelu" if not hasattr(mlp, "gate") else "silu × up", 8, f"{name}:bend")
    sheet.line((middle, bend + 0.14), (middle, bend + 0.42))
    sheet.shape(middle + 0.06, bend + 0.26, flow.taken[f"{name}.down"], f"{name}.down:in")
    return draw_return(sheet, flow, road, middle, bend + 0.64, f"{name}.down", mlp.down, GREEN)


def draw_chances(sheet: Sheet, flow: Flow, tok, x: float, top: float, last: str, n: int = 6):
    "The likeliest next tokens, as bars."
    best = flow.chances.topk(min(n, len(flow.chances)))
    names = [name.replace(" ", "·") for name in named(tok, best.indices.tolist())]
    room = max(width(name, 9) for name in names) + 0.05
    sheet.write(x, top, f"what comes after “{last.strip()}”", 9, "last", ha="left")
    for row, (name, chance) in enumerate(zip(names, best.values.tolist())):
        y = top + 0.3 + 0.27 * row
        long = 1.2 * chance / best.values[0].item()
        percent = f"{chance:.1%}" if chance < 0.0995 else f"{chance:.0%}"
        sheet.write(x + room, y, name, 9, f"next:{row}", ha="right", family="monospace")
        sheet.card(x + room + 0.08 + long / 2, y, long, 0.18, PINK, 0.55, min(0.04, long / 3), lw=0)
        sheet.write(x + room + 0.14 + long, y, percent, 8.5, f"chance:{row}", ha="left")


def data_flow(model: GPT, tok, text: str):
    "What happens to a text, from its letters to the chances of the next token: drawn from a run of the model itself."
    c, ids = model.config, tok.encode(text)
    flow = Flow(model, ids)
    tokens = named(tok, ids)
    sheet, road, panel, inner = Sheet(8.3, 9.4), 1.2, 3.1, 3.42
    draw_tokens(sheet, text, tokens, ids, 8.25, road)
    sheet.shape(road + 0.06, 1.2, flow.taken["embed"], "embed:in")

    sheet.part(road, 1.64, "embed", what(model.embed), ORANGE, 1.5, "embed")
    y = 1.86
    sheet.shape(road + 0.12, y + (0.5 if model.position_embedding is None else 0.13), flow.given["embed"], "embed:out")
    if model.position_embedding is not None:
        sheet.part(road + 1.4, y + 0.42, "place", what(model.position_embedding), ORANGE, 0.84, "place")
        sheet.line((road + 0.98, y + 0.42), (road + 0.13, y + 0.42))
        sheet.shape(road + 0.55, y + 0.32, flow.given["place"], "place:out", ha="center")
        sheet.plus(road, y + 0.42)
        sheet.shape(road + 0.12, y + 0.83, flow.taken["blocks.0"], "blocks.0:in")

    block = 3.05
    sheet.card(road, block, 1.5, 0.44, BLUE, 0.16)
    sheet.write(road, block, "blocks.0", 9.5, "blocks.0", color=BLUE, weight="bold")
    corners = (road + 0.75, block - 0.2), (panel, 1.4), (panel, 9.25), (road + 0.75, block + 0.2)
    sheet.ax.fill(*zip(*corners), color=GREY, alpha=0.08, lw=0, zorder=0)
    sheet.card((panel + 8.25) / 2, 5.33, 8.25 - panel, 8.05, GREY, 0.045, 0.1, 0.5, lw=0.9)
    more = c.n_layer - 1

    if more:
        first = block + 0.75
        sheet.card(road, first, 1.5, 0.44, BLUE, 0.16)
        for back in range(1, min(more, 3)):
            left, right, over, under = (
                edge + 0.05 * back for edge in (road - 0.75, road + 0.75, first - 0.2, first + 0.22)
            )
            sheet.line((left, under), (right, under), (right, over), color=BLUE, lw=1, head=False)
        names = "blocks.1" if more == 1 else f"blocks.1 … {more}"
        sheet.write(road, first - 0.07, names, 9.5, "blocks.more", color=BLUE, weight="bold")
        sheet.write(road, first + 0.12, "the same once more" if more == 1 else f"the same, {more} times", 7.5)
        sheet.shape(road + 0.12, block + 0.37, flow.given["blocks.0"], "blocks.0:out")
    norm = block + 1.6
    sheet.shape(road + 0.12, norm - 0.42, flow.given[f"blocks.{more}"], "blocks:out")
    sheet.part(road, norm, "norm", what(model.norm), VIOLET, 1.5, "norm")
    sheet.road(road, 1.86, norm - 0.22)
    sheet.line((road, norm + 0.22), (road, norm + 0.66))
    sheet.shape(road + 0.12, norm + 0.42, flow.given["norm"], "norm:out")
    head = norm + 0.88
    color, name = (ORANGE, "embed, again") if model.lm_head is None else (PINK, "head")
    sheet.part(road, head, name, " × ".join(f"{n:,}" for n in model.unembedding.shape), color, 1.5, "head")
    if model.lm_head is None:
        sheet.line(
            (road - 0.75, 1.64), (0.2, 1.64), (0.2, head), (road - 0.75, head), color=ORANGE, ls=(0, (2, 2)), lw=1
        )
        sheet.write(0.1, (1.64 + head) / 2, "one matrix, used twice", 8, "tied", color=ORANGE, rotation=90)
    sheet.line((road, head + 0.22), (road, head + 0.62))
    sheet.shape(road + 0.06, head + 0.4, flow.logits, "logits")
    sheet.card(road, head + 0.78, 1.5, 0.3, PINK, 0.09)
    sheet.write(road, head + 0.78, "softmax, last row", 8)
    sheet.line((road, head + 0.93), (road, head + 1.27))
    sheet.shape(road + 0.06, head + 1.09, tuple(flow.chances.shape), "chances")
    draw_chances(sheet, flow, tok, 0.2, head + 1.44, tokens[-1])

    sheet.write(panel + 0.12, 1.5, "blocks.0, opened", 9, ha="left")
    sheet.shape(inner + 0.15, 1.85, flow.taken["blocks.0"], "blocks.0:in:opened")
    y = draw_attention(sheet, model, flow, inner, 1.92)
    sheet.shape(inner + 0.15, y + 0.3, flow.taken["blocks.0.mlp_norm"], "blocks.0:middle")
    y = draw_mlp(sheet, model, flow, inner, y + 0.42)
    sheet.shape(inner + 0.15, y + 0.3, flow.given["blocks.0"], "blocks.0:out:opened")
    sheet.road(inner, 1.65, y + 0.5)
    return sheet.fig


def colour(name: str) -> str:
    "Each kind of part has its own, the same in both pictures."
    kinds = {"embed": ORANGE, "place": OCHRE, "head": PINK, "attention.": BLUE, "mlp.": GREEN}
    return next((tint for kind, tint in kinds.items() if kind in f"{name}."), VIOLET)


def sizes(model: GPT) -> dict[str, int]:
    "How many parameters each module has, its biases included."
    found = {}
    for name, p in model.named_parameters():
        part = name.rpartition(".")[0]
        found[part] = found.get(part, 0) + p.numel()
    return found


def fits(name: str, w: float, h: float) -> float | None:
    "How a name is to be turned to stand in an area; None if it has no room."
    long = 0.077 * len(name.split(".")[-1]) + 0.08
    if min(w, h) < 0.17 or max(w, h) < long:
        return None
    return 0 if w > long else 90


def draw_area(sheet: Sheet, x: float, y: float, w: float, h: float, name: str, share=0.0, named=True, lined=True):
    "A part as an area; of a large one the share, too."
    from matplotlib.patches import Rectangle

    tint, turn = colour(name), fits(name, w, h)
    line = 0.7 if lined and min(w, h) > 0.05 else 0
    sheet.ax.add_patch(Rectangle((x, y), w, h, facecolor=f"{tint}59", edgecolor=tint, lw=line, gid=name))
    if named and turn is not None:
        words = f"{name.split('.')[-1]}\n{share:.0%}" if turn == 0 and h > 0.5 and share > 0.1 else name.split(".")[-1]
        sheet.write(x + w / 2, y + h / 2, words, 8, f"{name}:name", color=tint, weight="bold", rotation=turn)


def draw_group(sheet: Sheet, x: float, y: float, w: float, h: float, name: str, parts: dict[str, int]):
    "Attention or the MLP of a layer: each matrix by its name, or all by one if there is no room."
    from matplotlib.patches import Rectangle

    total = sum(parts.values())
    each = all(fits(part, w * n / total, h) is not None for part, n in parts.items() if n > total / 20)
    left, tint = x, colour(f"{name}.")
    for part, n in parts.items():
        draw_area(sheet, left, y, w * n / total, h, part, named=each, lined=each)
        left += w * n / total
    sheet.ax.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=tint, lw=0.7))
    if not each and fits(name, w, h) == 0:
        sheet.write(x + w / 2, y + h / 2, name.split(".")[-1], 8, f"{name}:name", color=tint, weight="bold")


def draw_parameters(sheet: Sheet, model: GPT, left: float, top: float, w: float, h: float):
    "The tables side by side with the layers, one below the other as they are passed."
    parts, n_layer = sizes(model), model.config.n_layer
    total = sum(parts.values())
    tables = {name: n for name, n in parts.items() if not name.startswith("blocks.")}
    column, y = w * sum(tables.values()) / total, top
    for name in sorted(tables, key=["embed", "place", "norm", "head"].index):
        high = h * tables[name] / sum(tables.values())
        draw_area(sheet, left, y, column, high, name, tables[name] / total)
        y += high
    for layer in range(n_layer):
        row = {name: n for name, n in parts.items() if name.startswith(f"blocks.{layer}.")}
        x, y = left + column, top + h * layer / n_layer
        for half in "attention", "mlp":
            group = {name: n for name, n in row.items() if name.split(".")[2].startswith(half)}
            wide = (w - column) * sum(group.values()) / sum(row.values())
            draw_group(sheet, x, y, wide, h / n_layer, f"blocks.{layer}.{half}", group)
            x += wide


def parameter_map(*models: GPT):
    "Where the parameters of a model are, each part as large as its share; several stand side by side."
    across = 7.6 if len(models) > 1 else 5.2
    w, h, gap = (across + 0.3) / len(models) - 0.3, 3.7, 0.3
    sheet = Sheet(across, h + 0.52)
    for i, model in enumerate(models):
        c, left = model.config, i * (w + gap)
        n = sum(sizes(model).values())
        many = f"{n / 1e6:,.1f} million" if n < 1e7 else f"{n / 1e6:,.0f} million"
        layers = f"{c.n_layer} layer{'s' * (c.n_layer > 1)}, {c.n_embd:,} wide, {c.vocab_size:,} tokens"
        sheet.write(
            left, 0.1, f"{many if n >= 1e5 else f'{n:,}'} parameters", 10, f"total:{i}", ha="left", weight="bold"
        )
        sheet.write(left, 0.3, layers, 8.5, f"sizes:{i}", ha="left")
        draw_parameters(sheet, model, left + 0.01, 0.46, w - 0.02, h)
    return sheet.fig
