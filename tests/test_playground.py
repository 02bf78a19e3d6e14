"""The playground: in the browser, a run's model computes, reads and draws what it does in Python."""

import json
import random
import shutil
import sys
import unicodedata
import warnings
from functools import cache

import pytest
import safetensors.torch
import torch
from conftest import ROOT, need
from hypothesis import given, settings
from hypothesis import strategies as st

import tinygpt as tg
from tinygpt import BPETokenizer, CharTokenizer
from tinygpt.cache import Decoder
from tinygpt.engine.splitting import GPT2_SPLIT, O200K_SPLIT
from tinygpt.io.checkpoints import load_tokenizer
from tinygpt.presets import TRAINED
from tinygpt.sample import Sampler, draw

FOLDER = ROOT / "tinygpt" / "show" / "playground"
HOST = "http://playground.test"
KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css"}


def random_model(shape, seed=0, **changes):
    """A small model in which every number matters."""
    torch.manual_seed(seed)
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 36, "head_dim": 9, "block_size": 16, "n_hidden": 50}
    sizes |= {"head_dim": 10} if shape == "modern" else {}
    model = tg.GPT(getattr(tg.GPTConfig, shape)(60, **sizes | changes))
    for name, p in model.named_parameters():
        torch.nn.init.normal_(p, mean=float("norm.weight" in name), std=0.3)
    return model


MODELS = {  # a model, and the dtype in which it is saved
    "modern": lambda: (random_model("modern"), "float32"),
    "grouped": lambda: (random_model("modern", n_kv_head=2, head_dim=6), "bfloat16"),
    "untied": lambda: (random_model("modern", n_kv_head=1, tied=False, rope_base=100.0), "float16"),
    "gpt2": lambda: (random_model("gpt2"), "float32"),
    "gpt2-untied": lambda: (random_model("gpt2", tied=False), "float16"),
    "mixed": lambda: (
        random_model("gpt2", position="rope", head_dim=8, n_kv_head=2, qk_norm=True, norm="layer", norm_eps=0.1),
        "bfloat16",
    ),
    "no-bias": lambda: (random_model("gpt2", bias=False, mlp="swiglu", norm="rms"), "float32"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of the shipped model and of small random ones, by name."""
    folder = tmp_path_factory.mktemp("runs")
    tok = CharTokenizer.train("".join(map(chr, range(65, 124))))
    for name, make in MODELS.items():
        model, dtype = make()
        with warnings.catch_warnings(action="ignore"):  # that no other library opens it
            tg.save(folder / name, model, tok, dtype)
    shutil.copytree(TRAINED, folder / "shipped")
    return folder


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    need(chromium, "Chromium, to run the playground in")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser, runs, wrong, **window):
    """A page that can reach the playground's files and the runs, and nothing else."""

    def answer(route):
        host, _, name = route.request.url.removeprefix("http://").partition("/")
        path = runs / name if "/" in name else FOLDER / (name or "index.html")
        if f"http://{host}" != HOST:
            wrong.append(f"asked for {route.request.url}")
            return route.abort()
        if not path.is_file():
            return route.fulfill(status=404)
        kind = KINDS.get(path.suffix[1:], "application/octet-stream")
        return route.fulfill(body=path.read_bytes(), content_type=kind)

    page = browser.new_page(**window)
    page.route("**/*", answer)
    page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(m.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    return page


@pytest.fixture(scope="module")
def modules(browser, runs):
    """Runs JavaScript, `async (modules, ...values) => ...`, in a page that has the playground's modules."""
    wrong = []
    page = open_page(browser, runs, wrong)
    page.goto(f"{HOST}/weights.js")

    def evaluate(code, *values):
        names = ("weights", "model", "tokenizer", "sample", "run", "writing")
        imports = f"Object.assign({{}}, ...await Promise.all({json.dumps(names)}.map(n => import(`/${{n}}.js`))))"
        return page.evaluate(f"async values => ({code})({imports}, ...values)", list(values))

    yield evaluate
    page.close()
    assert not wrong


# The model


READ = """async ({ fetchRun, Decoder }, folder, texts) => {
    const { model } = await fetchRun(folder);
    const decoder = new Decoder(model);
    return texts.map((ids) => {
        const found = [];
        for (const _ of decoder.read(ids)) found.push([...model.logits(decoder.steps.at(-1).state)]);
        return found;
    });
}"""


@pytest.mark.parametrize("name", [*MODELS, "shipped"])
def test_the_logits_are_those_of_pytorch(name, runs, modules):
    model, _ = tg.load(runs / name)
    size = model.config.block_size
    ids = random.Random(0).choices(range(model.config.vocab_size), k=min(size, 40))
    with torch.no_grad():
        expected = model(torch.tensor([ids]))[0]
    [found] = modules(READ, name, [ids])
    assert expected.std() > 0.3 and (torch.tensor(found) - expected).abs().max() < 1e-3


def test_a_full_window_keeps_its_newest_half(runs, modules):
    for name, n in ("modern", 45), ("gpt2", 45):
        model, _ = tg.load(runs / name)
        ids = random.Random(1).choices(range(60), k=n)
        decoder = Decoder(model, [ids[:1]])
        expected = [decoder.logits[0]] + [decoder.append(torch.tensor([id]))[0] for id in ids[1:]]
        steps = modules(READ, name, [ids[: i + 1] for i in range(n)])
        found = torch.tensor([read[-1] for read in steps])
        assert (found - torch.stack(expected)).abs().max() < 1e-3
        assert [len(read) for read in steps] == [1] * 16 + [8] + ([1] * 8 + [8]) * 3 + [1]


def test_what_is_read_again_gives_the_same_logits(runs, modules):
    texts = [[1, 2, 3, 4, 5], [1, 2, 9, 4], [1, 2], [1, 2, 3, 4, 5], [7] * 30, [7] * 20, [8], [8]]
    steps = modules(READ, "grouped", texts)
    assert [len(read) for read in steps] == [5, 2, 0, 3, 16, 0, 1, 0]
    for text, read in zip(texts, steps):
        if read:
            [fresh] = modules(READ, "grouped", [text])
            assert read[-1] == fresh[-1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_number_is_read(dtype, runs, modules):
    x = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(dtype)
    (runs / "numbers").mkdir(exist_ok=True)
    (runs / "numbers" / "x").write_bytes(safetensors.torch.save({"16": x, "32": x.float()}))
    code = """async ({ readSafetensors }) => {
        const tensors = readSafetensors(await (await fetch("/numbers/x")).arrayBuffer());
        const [x, y] = ["16", "32"].map((name) => tensors.get(name).read());
        return [x.length, x.findIndex((value, i) => !Object.is(value, y[i]))];
    }"""
    assert modules(code) == [2**16, -1]


# The tokenizer

ASSIGNED = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
KNOWN = set(map(chr, ASSIGNED))
OWN_SPLIT = r"(?i:ab|[ks]z)|[\p{Greek}\-]+|\d{1,2}|.\ |\'\S+?(?=\.)|\s*\n"


def texts(rng, n, special):
    """Texts of all scripts, with emoji, runs of white space, numbers, quotes and the names of special tokens."""
    pools = [
        lambda: "".join(chr(rng.choice(ASSIGNED)) for _ in range(rng.randrange(8))),
        lambda: rng.choice([" ", "\n", "\t", "\r\n", "\x85", "\ufeff", "\u3000", "\u2028", "\x1c"]) * rng.randrange(4),
        lambda: rng.choice(["it's", "I'LL", "we've", "ſ'ſ", "K's", "don't", "'RE", "abKz", "SZ", "a\u0301", "ﬁ"]),
        lambda: rng.choice(["👩‍👩‍👧", "🇺🇦", "مرحبا بالعالم", "日本語の文章", "한국어", "שלום", "नमस्ते", "Ωμέγα-", "①²³½"]),
        lambda: str(rng.randrange(10**9)) + rng.choice(["", ".", "€", "…"]),
        lambda: rng.choice(special),
        lambda: rng.choice(["Once upon a time ", "def f(x):\n    return x", "e = mc^2; [a]{b}\\d", "--- ---"]),
    ]
    return ["".join(rng.choice(pools)() for _ in range(rng.randrange(1, 9))) for _ in range(n)]


@cache
def tokenizers():
    """Tokenizers with other patterns, normalizers and kinds of special tokens, by name."""
    text = (ROOT / "data" / "tales-small.txt").read_text(encoding="utf-8")[:20_000] + "日本語 Ωμέγα 12 日本語"
    made = {name: BPETokenizer.train(text, 400, ["<|end|>", "<|user|>"], pattern) for name, pattern in {
        "gpt2": GPT2_SPLIT, "o200k": O200K_SPLIT, "own": OWN_SPLIT, "none": None}.items()}
    made["letters"] = CharTokenizer.train("".join(map(chr, ASSIGNED[:5000])))
    return made


def save_variant(tok, folder):
    """A tokenizer with a normalizer and with added tokens that are found in every text, before or after it."""
    tok.save(folder)
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text(encoding="utf-8"))
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    for content, normalized in ("<tool>", False), ("<tool>s", False), ("<é>", True):
        token = {"id": len(spec["model"]["vocab"]) + len(spec["added_tokens"]) - 2, "content": content}
        spec["added_tokens"].append(token | flags | {"normalized": normalized, "special": False})
    spec["normalizer"] = {"type": "NFC"}
    path.write_text(json.dumps(spec), encoding="utf-8")
    (folder / "tokenizer_config.json").unlink()


def same_ids(folder, runs, modules, special):
    tok, rng = load_tokenizer(runs / folder), random.Random(5)
    given = texts(rng, 150, special)
    if isinstance(tok, CharTokenizer):
        given = ["".join(c for c in text if c in tok.ids) for text in given]
    expected = [tok.encode(text) for text in given]
    odd = [rng.choices(range(tok.vocab_size), k=rng.randrange(9)) for _ in range(150)]  # such as half a character
    ids, decoded, pieces = modules(
        """async ({ readTokenizer }, folder, texts, odd) => {
            const tok = readTokenizer(await (await fetch(`/${folder}/tokenizer.json`)).json());
            const ids = texts.map((text) => tok.encode(text));
            return [ids, [...ids, ...odd].map((ids) => tok.decode(ids)), odd.map((ids) => tok.pieces(ids))];
        }""",
        folder, given, odd,
    )
    for text, found, wanted in zip(given, ids, expected):
        assert found == wanted, text
    assert decoded == [tok.decode(row) for row in expected + odd]
    assert [len(row) for row in pieces] == [len(row) for row in odd]


@pytest.mark.parametrize("name", ["shipped", "gpt2", "o200k", "own", "none", "letters", "variant"])
def test_the_ids_are_those_of_the_tokenizer(name, runs, modules):
    special, folder = ["<|end|>", "<|user|>", "<|e", "<tool>", "<tool>s", "<é>", "<e\u0301>"], f"tok-{name}"
    if name == "shipped":
        folder = "shipped"
    elif name == "variant":
        (runs / folder).mkdir()
        save_variant(tokenizers()["o200k"], runs / folder)
    else:
        tokenizers()[name].save(runs / folder)
    same_ids(folder, runs, modules, special)


CLASSES = [r"\s", r"\S", r"\p{L}", r"\p{N}", r"\p{M}|\p{Lu}", r"(?i:[sk'|x]|m)", r"\p{Greek}", ".", r"\d", r"\D",
           r"[^\s\p{L}\p{N}]", r"[^\r\n\p{L}\p{N}]", r"\ |\'|[\-a\]\\^]", r"\P{L}", "[+-]"]  # fmt: skip


def test_a_pattern_matches_the_same_characters(modules):
    import regex

    code = """async ({ convertPattern }, pattern, first, last) => {
        let text = "";
        for (let code = first; code < last; code++) text += String.fromCodePoint(code);
        return text.match(convertPattern(pattern))?.join("") ?? "";
    }"""
    blocks = [(0, 0x3000), (0xA000, 0xD800), (0xE000, 0xE010), (0xF900, 0x11000), (0x1F000, 0x1F400)]
    for pattern in CLASSES:
        for first, last in blocks:
            text = "".join(map(chr, range(first, last)))
            found = set(modules(code, pattern, first, last)) & KNOWN
            assert found == set("".join(regex.findall(pattern, text))) & KNOWN, pattern


def test_gpt2s_own_tokenizer(reference, runs, modules):
    from tinygpt.io import tokenizer_files

    files = reference / "gpt2" / "encoder.json", reference / "gpt2" / "vocab.bpe"
    tokenizer_files.load_gpt2(BPETokenizer, *files).save(runs / "tok-openai")
    same_ids("tok-openai", runs, modules, ["<|endoftext|>"])


# Sampling

SETTINGS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0, 0.05, 0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([None, 1, 3, 40]),
        "top_p": st.sampled_from([None, 0.0, 0.25, 0.6, 0.95, 1]),
        "min_p": st.sampled_from([None, 0.0, 0.1, 1.0]),
        "repetition_penalty": st.sampled_from([1.0, 1.4, 0.7]),
    }
)
FEW = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 0.5, 3.0])  # with ties
LOGITS = st.lists(FEW | st.floats(-20, 20, width=32), min_size=1, max_size=60) | st.lists(FEW, min_size=4, max_size=60)


@settings(max_examples=150, deadline=None)
@given(LOGITS, SETTINGS, st.floats(0, 1, exclude_max=True), st.data())
def test_the_same_tokens_are_kept_and_drawn(modules, logits, chosen, u, data):
    ids = data.draw(st.lists(st.integers(0, len(logits) - 1), max_size=5))
    expected = Sampler(**chosen)(torch.tensor([logits]), [ids])
    code = """async ({ adjust, draw }, logits, ids, settings, u) => {
        const after = adjust(Float32Array.from(logits), ids, settings);
        return [[...after].map((x) => (x > -Infinity ? x : null)), draw(after, u)];
    }"""
    found, token = modules(code, logits, ids, chosen, u)
    kept = [x is not None for x in found]
    if kept != (expected[0] > -torch.inf).tolist():  # rounding may decide for one whose sum or share is just the bound
        bounds = [chosen[name] for name in ("top_p", "min_p") if chosen[name]]
        before = Sampler(**chosen | {"top_p": None, "min_p": None})(torch.tensor([logits]), [ids])[0].double()
        probs = before.softmax(-1).sort(descending=True).values
        near = torch.cat([probs.cumsum(-1), probs / probs[0]])
        assert any((near - bound).abs().min() < 1e-6 for bound in bounds), (kept, expected)
        return
    assert torch.equal(torch.tensor([[-torch.inf if x is None else x for x in found]]), expected)
    probs = expected.double().softmax(-1).sort(descending=True).values.cumsum(-1)
    if (probs - u).abs().min() > 1e-9:
        assert token == draw(expected, torch.tensor([u], dtype=torch.float64)).item()


@pytest.mark.parametrize("seed", [0, 1, 42, 2**32 - 1, 2**32 + 5])
def test_the_random_numbers_are_those_of_torch(seed, modules):
    found = modules(
        """async ({ Random }, seed) => {
            const random = new Random(seed);
            return Array.from({ length: 700 }, () => random.next());
        }""",
        seed,
    )
    rng = torch.Generator().manual_seed(seed)
    assert found == [torch.rand((), dtype=torch.float64, generator=rng).item() for _ in range(700)]
