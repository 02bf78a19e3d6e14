"""What the drawings say of a model, against the model itself."""

import itertools
from dataclasses import replace

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from tinygpt.show.diagram import data_flow, parameter_map, printed
from tinygpt.gpt import GPT, GPTConfig
from tinygpt.tales import the_tokenizer
from tinygpt.tokenizer import CharTokenizer

matplotlib.use("agg")

LETTERS = "abcdefghijklmnopqrstuvwxyz .,$_{}\n"
TEXT = "a kite, $1_{x}"[:9]
MODERN = GPTConfig.modern(40, block_size=400, n_embd=32)
CONFIGS = {
    "modern": MODERN,
    "gpt2": GPTConfig.gpt2(40, n_embd=24, n_layer=12, n_head=12),
    "untied": replace(MODERN, tied=False, n_layer=2, n_head=1, n_kv_head=1, head_dim=32),
    "grouped": replace(MODERN, n_layer=3, n_head=6, n_kv_head=2, head_dim=10, n_hidden=50),
    "one layer": replace(MODERN, n_layer=1, qk_norm=False),
    "mixed": replace(MODERN, position="learned", norm="layer", mlp="gelu", n_head=5, n_kv_head=5, head_dim=7),
    "gpt2, gated, untied": GPTConfig.gpt2(40, n_embd=24, n_layer=2, mlp="swiglu", qk_norm=True, tied=False),
    "wide": GPTConfig.gpt2(50257, n_layer=2, n_head=25, n_embd=1200),
}
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


@pytest.fixture(autouse=True)
def style():
    with plt.style.context("tinygpt.assets.course"):
        yield
    plt.close("all")


@pytest.fixture
def tok():
    return CharTokenizer(LETTERS)


def build(config):
    torch.manual_seed(0)
    model = GPT(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model


def said(fig):
    "Every text of a drawing that has a name, by it."
    texts = [text for text in fig.findobj(Text) if text.get_gid()]
    names = [text.get_gid() for text in texts]
    assert len(set(names)) == len(names)
    return {text.get_gid(): text.get_text() for text in texts}


def shapes(c, T):
    "What travels where, from the config alone."
    stream, C, hidden = (1, T, c.n_embd), c.n_embd, (1, T, c.n_hidden)
    H, K, D = c.n_head, c.n_kv_head, c.head_dim
    b, a, m = "blocks.0", "blocks.0.attention", "blocks.0.mlp"
    found = {"embed:in": (1, T), "logits": (1, T, c.vocab_size), "probabilities": (c.vocab_size,)}
    found |= {f"{b}:{at}": stream for at in ("in:opened", "middle", "out:opened")}
    found |= {f"{half}_norm:{way}": stream for half in (a, m) for way in ("in", "out")}
    found |= {"embed:out": stream, "blocks:out": stream, "norm:out": stream}
    found |= {f"{a}.query:out": (1, T, H * D), f"{a}.key:out": (1, T, K * D), f"{a}.value:out": (1, T, K * D)}
    found |= {f"{a}.query:heads": (1, H, T, D), f"{a}.key:heads": (1, K, T, D), f"{a}.value:heads": (1, K, T, D)}
    found |= {f"{a}:weights": (1, H, T, T), f"{a}.proj:in": (1, T, H * D), f"{a}.proj:out": stream}
    found |= {f"{m}.up:out": hidden, f"{m}.down:in": hidden, f"{m}.down:out": stream}
    if c.mlp == "swiglu":
        found[f"{m}.gate:out"] = hidden
    if c.position == "learned":
        found |= {"position_embedding:out": (T, C), "blocks.0:in": stream}
    if c.n_layer > 1:
        found["blocks.0:out"] = stream
    return {name: f"({', '.join(f'{n:,}' for n in shape)})" for name, shape in found.items()}


def parts(model):
    "The modules that should stand in the drawing, and what each is, from the model alone."
    c, found = model.config, {}
    for name, module in model.named_modules():
        if not name or name.startswith("blocks.") and not name.startswith("blocks.0."):
            continue
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            found[name] = f"{module.in_features:,} → {module.out_features:,}"
        elif isinstance(module, torch.nn.Embedding):
            found[name] = f"{module.num_embeddings:,} × {module.embedding_dim:,}"
        elif name.endswith("norm") and "query" not in name and "key" not in name:
            found[name] = "RMSNorm" if c.norm == "rms" else "LayerNorm"
    return found | {"lm_head": f"{c.vocab_size:,} × {c.n_embd:,}"}


@each_config
def test_shapes_and_names_are_those_of_the_model(config, tok):
    model = build(config)
    words = said(data_flow(model, tok, TEXT))
    travels = {
        name: text for name, text in words.items() if text.startswith("(") and not name.startswith(("next", "token"))
    }
    assert travels == shapes(config, len(TEXT))
    notes = {name.removesuffix(":note"): text for name, text in words.items() if name.endswith(":note")}
    heads = notes.pop("blocks.0.attention")
    others = config.n_layer - 1
    again = {0: None, 1: "the same once more"}.get(others, f"the same, {others} times")
    assert notes.pop("blocks.more", None) == again
    assert notes == parts(model)
    assert heads.split()[0] == str(config.n_head) and ("of keys" in heads) == (config.n_kv_head < config.n_head)
    labels = {"lm_head": "embed, again" if config.tied else "lm_head", "position_embedding": "positions"}
    for name in notes:
        assert words[name] == labels.get(name, name.split(".")[-1])

    steps = ["RMSNorm" if config.norm == "rms" else "LayerNorm"] * config.qk_norm
    steps += ["rope"] * (config.position == "rope")
    for part in "query", "key":
        assert words.get(f"blocks.0.attention.{part}:steps", "") == ", ".join(steps)
    assert "blocks.0.attention.value:steps" not in words
    assert ("tied" in words) == config.tied
    more = {1: None, 2: "blocks.1"}.get(config.n_layer, f"blocks.1 … {config.n_layer - 1}")
    assert words.get("blocks.more") == more
    assert words["blocks.0.mlp:activation"] == ("gelu" if config.mlp == "gelu" else "silu × up")


@each_config
def test_tokens_and_chances_are_those_of_the_run(config, tok):
    model = build(config)
    words, ids = said(data_flow(model, tok, TEXT)), tok.encode(TEXT)
    assert words["text"] == TEXT
    assert [words[f"id:{i}"] for i in range(len(ids))] == [str(i) for i in ids]
    assert [words[f"token:{i}"] for i in range(len(ids))] == list(TEXT)
    chances = model(torch.tensor([ids]))[0, -1].softmax(-1)
    best = chances.topk(6)
    for row, (chance, i) in enumerate(zip(best.values.tolist(), best.indices.tolist())):
        shown = float(words[f"probability:{row}"].rstrip("%")) / 100
        assert abs(shown - chance) < 0.006
        name = tok.decode([i]).replace(" ", "·").replace("\n", "⏎") if i < tok.vocab_size else f"id·{i}"
        assert words[f"next:{row}"] == name
    assert "next:6" not in words


def test_maps_are_what_the_first_layer_looked_at(tok):
    for n_head in 1, 5, 8:
        model = build(replace(MODERN, n_head=n_head, n_kv_head=n_head, head_dim=8))
        model(torch.tensor([tok.encode(TEXT)]), weights_out=(weights := []))
        images = data_flow(model, tok, TEXT).axes[0].images
        assert len(images) == (n_head if n_head <= 5 else 4)
        for head, image in enumerate(images):
            drawn = torch.tensor(image.get_array().filled(0.0))
            assert drawn.allclose(weights[0][0, head], atol=1e-6) and drawn[0, 0] == 1


def test_no_token_is_unreadable():
    tok = the_tokenizer()
    names = printed(tok, range(tok.vocab_size + 2))
    assert all(name.isprintable() and name and "\ufffd" not in name for name in names)
    (pieces,) = ["".join(printed(tok, tok.encode("é\x07")))]
    assert pieces == r"\xc3\xa9\x07" and names[-1] == f"id {tok.vocab_size + 1}"


def test_a_long_text_shows_its_ends(tok):
    text = "a kite " * 50
    words = said(data_flow(build(MODERN), tok, text))
    shown = sorted(int(name.split(":")[1]) for name in words if name.startswith("token:"))
    assert 10 < len(shown) < 60 and shown[0] == 0 and shown[-1] == 349
    assert sum(b - a > 1 for a, b in zip(shown, shown[1:])) == 1
    assert words["text"].startswith("a kite a kite") and "…" in words["text"]


@each_config
@pytest.mark.parametrize("text", ["a", TEXT, "one, two. " * 25])
def test_nothing_lies_upon_another_or_leaves_the_paper(config, text, tok):
    model = build(config)
    tok.decode = lambda ids: "a wide word" if ids[0] % 2 else CharTokenizer.decode(tok, ids)
    fig = data_flow(model, tok, text[: config.block_size])
    fig.draw_without_rendering()
    paper = fig.bbox
    boxes = [(t.get_text(), t.get_window_extent()) for t in fig.findobj(Text) if t.get_text().strip()]
    for word, box in boxes:
        assert box.x0 >= -1 and box.x1 <= paper.x1 + 1 and box.y0 >= -1 and box.y1 <= paper.y1 + 1, word
    for (a, box), (b, other) in itertools.combinations(boxes, 2):
        apart = box.x1 <= other.x0 + 1 or other.x1 <= box.x0 + 1 or box.y1 <= other.y0 + 2 or other.y1 <= box.y0 + 2
        assert apart, f"{a!r} lies upon {b!r}"


def test_the_model_is_left_as_it_was(tok):
    model = build(replace(MODERN, dropout=0.5))
    before = {name: p.clone() for name, p in model.named_parameters()}
    first = said(data_flow(model, tok, TEXT))
    assert model.training and said(data_flow(model, tok, TEXT)) == first, "dropout must be off"
    model.eval()
    data_flow(model, tok, TEXT)
    assert not model.training and all(p.grad is None and p.equal(before[name]) for name, p in model.named_parameters())
    model.train()
    with pytest.raises(ValueError, match="block_size=400"):
        data_flow(model, tok, "a" * 401)
    assert model.training and not any(module._forward_hooks for module in model.modules())


def areas(fig):
    return {patch.get_gid(): patch for patch in fig.findobj(Rectangle) if patch.get_gid()}


@each_config
def test_areas_are_in_proportion_to_parameters(config):
    with torch.device("meta"):
        model = GPT(config)
    fig = parameter_map(model)
    drawn, total = areas(fig), sum(p.numel() for p in model.parameters())
    counts = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in model.named_modules()
        if not list(module.children()) and list(module.parameters())
    }
    assert drawn.keys() == counts.keys()
    size = {name: patch.get_width() * patch.get_height() for name, patch in drawn.items()}
    whole = sum(size.values())
    for name, n in counts.items():
        assert abs(size[name] / whole - n / total) < 1e-6, name
    left, right = min(p.get_x() for p in drawn.values()), max(p.get_x() + p.get_width() for p in drawn.values())
    low, high = min(p.get_y() for p in drawn.values()), max(p.get_y() + p.get_height() for p in drawn.values())
    assert abs((right - left) * (high - low) - whole) < 1e-6, "areas overlap, or leave gaps"
    for a, b in itertools.combinations(drawn.values(), 2):
        across = min(a.get_x() + a.get_width(), b.get_x() + b.get_width()) - max(a.get_x(), b.get_x())
        down = min(a.get_y() + a.get_height(), b.get_y() + b.get_height()) - max(a.get_y(), b.get_y())
        assert min(across, down) < 1e-9


def test_names_stand_in_their_areas_and_the_total_above():
    with torch.device("meta"):
        models = GPT(MODERN), GPT(GPTConfig.named("gpt2-124m"))
    fig = parameter_map(*models)
    texts = {t: t.get_gid() for t in fig.findobj(Text) if t.get_gid()}
    totals = {gid: t.get_text() for t, gid in texts.items() if gid.startswith(("total", "sizes"))}
    assert totals["total:1"] == "124 million parameters" and totals["sizes:1"] == "12 layers, 768 wide, 50,257 tokens"
    count = sum(p.numel() for p in models[0].parameters())
    assert totals["total:0"] == f"{count:,} parameters" and count < 1e5

    fig = parameter_map(models[1])
    fig.draw_without_rendering()
    boxes = {gid: box.get_window_extent() for gid, box in areas(fig).items()}
    named = {t.get_gid(): t for t in fig.findobj(Text) if (t.get_gid() or "").endswith(":name")}
    assert named["embed:name"].get_text() == "embed\n31%"
    for gid, text in named.items():
        name, extent = gid.removesuffix(":name"), text.get_window_extent()
        inside = [box for part, box in boxes.items() if f"{part}.".startswith(f"{name}.")]
        assert min(b.x0 for b in inside) <= extent.x0 and extent.x1 <= max(b.x1 for b in inside), name
        assert min(b.y0 for b in inside) <= extent.y0 and extent.y1 <= max(b.y1 for b in inside), name
    assert {"blocks.0.attention:name", "blocks.11.mlp.up:name", "blocks.11.mlp.down:name"} <= named.keys() or {
        "blocks.0.attention.query:name",
        "blocks.11.mlp.up:name",
    } <= named.keys()
