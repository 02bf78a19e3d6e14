"""The playground: in the browser a model computes, reads and draws what it does in Python, and the page shows it."""

import http.client
import json
import random
import re
import shutil
import signal
import sys
import threading
import unicodedata
import warnings
from functools import cache

import pytest
import safetensors.torch
import torch
from conftest import ROOT, need
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import call, hit, is_sentence, proc, start

import tinygpt as tg
from tinygpt import BPETokenizer, CharTokenizer, generate
from tinygpt.cache import Decoder
from tinygpt.cli.play import RUN_FILES, Server, files_to_serve
from tinygpt.engine.splitting import GPT2_SPLIT, O200K_SPLIT
from tinygpt.io.checkpoints import load_tokenizer
from tinygpt.presets import TRAINED
from tinygpt.sample import Sampler, draw
from tinygpt.show.writing import Writing

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
    shutil.copytree(TRAINED, folder / "run")  # where the page looks
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


@pytest.mark.parametrize("name", [*MODELS, "run"])
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


def test_a_text_can_be_stopped_anywhere_and_continued(runs, modules):
    code = """async ({ fetchRun, Writing }, stops) => {
        const run = await fetchRun("modern");
        const settings = { temperature: 1, top_k: null, top_p: null, min_p: null, repetition_penalty: 1 };
        return stops.map((stop) => {
            const writing = new Writing(run);
            for (const _ of writing.begin("ABBA", 3));
            let left = stop;
            for (const _ of writing.write(settings, 40)) if (!left--) break;
            for (const _ of writing.read());
            for (const _ of writing.write(settings, 40));
            return writing.tok.decode(writing.tokens.map(({ id }) => id));
        });
    }"""
    found = modules(code, [1000, *range(0, 64, 3)])
    assert set(found) == {generate(*tg.load(runs / "modern"), "ABBA", 40, seed=3)}


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


@pytest.mark.parametrize("name", ["run", "gpt2", "o200k", "own", "none", "letters", "variant"])
def test_the_ids_are_those_of_the_tokenizer(name, runs, modules):
    special, folder = ["<|end|>", "<|user|>", "<|e", "<tool>", "<tool>s", "<é>", "<e\u0301>"], f"tok-{name}"
    if name == "run":
        folder = name
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


@settings(max_examples=100, deadline=None)
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


# The page


@cache
def shipped():
    return tg.load(TRAINED)


@pytest.fixture
def visit(browser, runs):
    """Opens the page; fails if it reports an error, or asks another host."""
    pages, wrong = [], []

    def visit(scheme="light", width=1000):
        page = open_page(browser, runs, wrong, color_scheme=scheme, viewport={"width": width, "height": 900})
        pages.append(page)
        page.goto(f"{HOST}/")
        opened(page)
        page.get_by_label("tokens a second").press("End")
        return page

    yield visit
    for page in pages:
        page.close()
    assert not wrong


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def opened(page):
    """Wait until the model has read the prompt."""
    page.locator("button:enabled", has_text="Continue").wait_for()


def write(page):
    """Press Write, and wait for the end of the text."""
    button(page, "Write").click()
    finished(page)


def finished(page):
    page.locator(".status", has_text="a second").wait_for()


def text_of(page):
    """The text that is shown, without special tokens."""
    shown = page.locator(".token").evaluate_all(
        "all => all.filter(one => !one.matches('.special')).map(one => one.textContent)"
    )
    return "".join(shown).replace("⏎\n", "\n")


def shades(page):
    shade = "one => Number(one.style.getPropertyValue('--shade'))"
    return torch.tensor(page.locator(".token").evaluate_all(f"all => all.map({shade})"))


def twin(n, seed=0):
    """The same text in Python, with n new tokens."""
    writing = Writing(*shipped(), "Once upon a time", seed)
    [*writing.write(Sampler(), n)]
    return writing


def set_slider(page, name, keys):
    for key in keys.split():
        page.get_by_label(name, exact=True).press(key)


def test_while_the_model_is_on_its_way_the_page_says_so(browser, runs):
    held, wrong = [], []
    page = open_page(browser, runs, wrong)
    page.route("**/model.safetensors", lambda route: held.append(route))
    with page.expect_request("**/model.safetensors"):
        page.goto(f"{HOST}/")
    page.locator(".status", has_text="loading …").wait_for()
    button(page, "Write").click()
    assert text_of(page) == "" and not page.locator(".row:visible").count()
    assert all(button(page, name).is_disabled() for name in ("Continue", "Stop"))
    held[0].fallback()
    opened(page)
    assert text_of(page) == "Once upon a time" and page.get_by_role("status").inner_text() == "" and not wrong
    page.close()


def test_the_page_writes_what_generate_writes(visit):
    model, tok = shipped()
    page = visit()
    assert text_of(page) == "Once upon a time" and "607,296 parameters" in page.locator(".model").inner_text()
    write(page)
    assert text_of(page) == generate(model, tok, "Once upon a time", seed=0)
    assert page.locator(".token.special").all_inner_texts() == ["<|end|>"] * 2
    page.get_by_label("length").fill("30")
    page.get_by_label("seed").fill("4")
    set_slider(page, "temperature", "End")
    set_slider(page, "top-k", "Home ArrowRight ArrowUp ArrowUp")
    set_slider(page, "min-p", "ArrowRight ArrowUp")
    set_slider(page, "repetition penalty", "ArrowRight")
    write(page)
    chosen = {"temperature": 2.0, "top_k": 4, "min_p": 0.02, "repetition_penalty": 1.05}
    assert text_of(page) == generate(model, tok, "Once upon a time", 30, seed=4, **chosen)
    assert re.fullmatch(r"30 tokens, \d+ a second", page.get_by_role("status").inner_text())
    button(page, "Continue").click()
    n = len(twin(0).ids(0)) + 60
    page.locator(".token").nth(n - 1).wait_for()
    page.locator(".status", has_text="30 tokens").wait_for()
    assert page.locator(".token").count() == n
    page.get_by_label("Prompt").fill("Long ago\n")
    page.locator(".prompt", has_text="⏎").wait_for()
    assert text_of(page) == "Long ago\n"


def test_stop_stops_and_a_slider_changes_the_distribution(visit):
    page = visit()
    set_slider(page, "tokens a second", "Home ArrowRight ArrowRight ArrowRight")  # 20
    button(page, "Write").click()
    page.locator(".token").nth(12).wait_for()
    button(page, "Stop").click()
    assert page.get_by_role("status").inner_text() == "stopped" and button(page, "Stop").is_disabled()
    n = page.locator(".token").count()
    page.wait_for_timeout(200)
    assert page.locator(".token").count() == n < 200
    written = twin(n - len(twin(0).ids(0)))
    assert written.text() == text_of(page)
    logits = written.logits[0]
    for top_k in None, 2:
        if top_k:
            set_slider(page, "top-k", "Home ArrowRight")
            assert page.get_by_label("top-k").get_attribute("aria-valuetext") == "2"
        before, after = logits.softmax(-1), Sampler(top_k=top_k)(logits[None], [[]])[0].softmax(-1)
        numbers = page.locator(".row:visible .numbers").all_inner_texts()
        for line, id in zip(numbers, before.topk(10).indices, strict=True):
            for said, p in zip(line.split(" → "), (before[id], after[id])):
                assert said == "cut" if p == 0 else abs(float(said.strip("<% ")) - 100 * p) < 0.6
        assert (page.locator(".row.gone .before.cut").count() > 0) == bool(top_k)


def test_a_token_has_alternatives_and_a_click_branches(visit):
    model, tok = shipped()
    page = visit()
    page.get_by_label("length").fill("25")
    write(page)
    same = twin(25)
    assert text_of(page) == same.text()
    first = len(same.ids(0))
    page.locator(".token").nth(first + 6).click()
    assert page.locator(".caption").inner_text().startswith("In place of")
    assert page.locator(".row.chosen").count() == 1
    other = page.locator(".row:not(.chosen)").first
    name = other.locator(".name").inner_text()
    other.click()
    finished(page)
    same.go_back(6)
    same.add(tok.tokens.index(name.replace("·", " ").encode()))
    [*same.write(Sampler(), 7 + 25)]
    assert text_of(page) == same.text() and page.locator(".caption").inner_text() == "The next token"
    n = page.locator(".token").count()
    taken = page.locator(".row:visible .name").nth(1).inner_text()
    page.locator(".row:visible").nth(1).press("Enter")
    page.locator(".token").nth(n).wait_for()
    assert text_of(page) == same.text() + taken.replace("·", " ")  # at the end, nothing is written after it


def test_the_shades_are_surprise_and_attention(visit):
    model, _ = shipped()
    page = visit()
    page.get_by_label("length").fill("25")
    write(page)
    ids, weights = twin(25).ids(25), []
    with torch.no_grad():
        logp = model(torch.tensor([ids]), weights_out=weights)[0].double().log_softmax(-1)
    surprise = -logp[:-1].gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
    assert torch.allclose(shades(page)[1:], (surprise / 6).clamp(max=1).float(), atol=2e-3)
    at = 20
    page.locator(".token").nth(at).hover()
    page.locator(".attending").wait_for()
    for layer, head in ("2", ""), ("2", "1"), ("0", "3"):
        page.get_by_label("layer").select_option(layer)
        page.get_by_label("head").select_option(head)
        page.locator(".token").nth(at).hover()
        expected = weights[int(layer)][0, :, at]
        expected = expected.mean(0) if head == "" else expected[int(head)]
        assert torch.allclose(shades(page), expected.sqrt(), atol=2e-3)
    best = f"{100 * expected.max():.0f} %"
    detail = page.locator(".detail").inner_text()
    assert f"surprise {surprise[at - 1]:.2f} nats" in detail and best in detail
    page.mouse.move(0, 0)
    page.locator(".text:not(.attending)").wait_for()
    page.get_by_label("Prompt").press("Tab")
    page.locator(".token").first.focus()
    for key in "ArrowRight", "End", "ArrowLeft", "Enter":  # the same by keys
        page.keyboard.press(key)
    assert page.locator(".token").nth(len(ids) - 2).get_attribute("class") == "token selected pointed"
    assert torch.allclose(shades(page)[:-1], weights[0][0, 3, len(ids) - 2, :-1].sqrt(), atol=2e-3)


# A run of one's own


def test_a_run_can_be_chosen_or_dropped(runs, visit):
    page = visit()
    page.get_by_label("Prompt").fill("ABBA")
    page.get_by_label("Open a run").set_input_files([runs / "gpt2" / name for name in RUN_FILES])
    page.locator(".model", has_text="2 layers of 4 heads").wait_for()
    page.get_by_label("length").fill("40")  # more than its window of 16
    write(page)
    model, tok = tg.load(runs / "gpt2")
    assert text_of(page) == generate(model, tok, "ABBA", 40, seed=0)
    drop = """async ([folder, asFolder]) => {
        const names = ["config.json", "model.safetensors", "tokenizer.json", "log.csv"];
        const files = await Promise.all(names.map(async (name) =>
            new File([await (await fetch(`/${folder}/${name.replace("log.csv", "config.json")}`)).blob()], name)));
        const entries = files.map((file) => ({ name: file.name, file: (done) => done(file) }));
        const folderEntry = { isDirectory: true, createReader: () => ({ readEntries: (done) => done(entries) }) };
        const items = asFolder ? [{ webkitGetAsEntry: () => folderEntry }] : files.map(() => ({}));
        const event = new Event("drop", { bubbles: true, cancelable: true });
        event.dataTransfer = { items, files };
        document.querySelector(".text").dispatchEvent(event);
        return event.defaultPrevented;
    }"""
    for folder, heads, as_folder in ("run", "3 layers", True), ("grouped", "2 layers", False):
        assert page.evaluate(drop, [folder, as_folder])
        page.locator(".model", has_text=heads).wait_for()
        assert not page.get_by_role("alert").inner_text()


def changed_json(name, **changes):
    def change(folder):
        spec = json.loads((folder / name).read_text())
        for key, value in changes.items():
            spec.pop(key) if value is None else spec.update({key: value})
        (folder / name).write_text(json.dumps(spec))

    return change


def changed_bytes(change):
    def change_file(folder):
        path = folder / "model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return change_file


WRONG = {  # what is done to a run, and what the page says
    "llama": (changed_json("config.json", model_type="llama"), 'config.json: its model_type is "llama", and'),
    "no type": (changed_json("config.json", model_type=None), "config.json: its model_type is missing, and"),
    "activation": (changed_json("config.json", hidden_act="relu"), 'it says hidden_act is "relu"'),
    "scaled": (changed_json("config.json", rope_parameters={"rope_type": "yarn"}), "positions are scaled"),
    "size": (changed_json("config.json", hidden_size="x"), "config.json: its hidden_size is x"),
    "heads": (changed_json("config.json", num_key_value_heads=3), "4 heads cannot share 3"),
    "shapes": (changed_json("config.json", intermediate_size=40), "model.safetensors: its tensor .* is .* asks for"),
    "layers": (changed_json("config.json", num_hidden_layers=3), "it has no tensor model.layers.2"),
    "tokens": (changed_json("config.json", vocab_size=30), "model.safetensors: its tensor .* 30 × 36"),
    "cut off": (changed_bytes(lambda data: data[:-100]), "model.safetensors: it ends before its tensor"),
    "start only": (changed_bytes(lambda data: data[:100]), "it is not a safetensors file"),
    "empty": (changed_bytes(lambda data: b""), "it is not a safetensors file"),
    "pickle": (changed_bytes(lambda data: b"PK\3\4" * 100), "it is not a safetensors file"),
    "dtype": (changed_bytes(lambda data: data.replace(b'"F32"', b'"I32"', 1)), "is I32, and only F32, F16, BF16"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "missing: tokenizer.json"),
    "no json": (lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json: it is not JSON"),
    "unigram": (changed_json("tokenizer.json", model={"type": "Unigram", "vocab": {"a": 0}}), "is Unigram"),
}


def test_a_bad_file_is_named_in_one_sentence(runs, visit, tmp_path):
    page = visit()
    alert = page.get_by_role("alert")
    for i, (change, said) in enumerate(WRONG.values()):
        folder = tmp_path / str(i)
        shutil.copytree(runs / "modern", folder)
        change(folder)
        there = [folder / name for name in RUN_FILES if (folder / name).exists()]
        page.get_by_label("Open a run").set_input_files(there)
        alert.filter(has_text=re.compile(said)).wait_for(timeout=10_000)
        found = alert.inner_text()
        assert found.endswith(".") and "\n" not in found
    assert "607,296" in page.locator(".model").inner_text()  # the model before stays
    write(page)
    assert not alert.inner_text() and page.locator(".token").count() > 50
    for label, value, said in ("seed", "-1", "seed should be"), ("length", "", "length should be"):
        page.get_by_label(label).fill(value)
        button(page, "Write").click()
        alert.filter(has_text=said).wait_for()
        page.get_by_label(label).fill("1")


@pytest.mark.parametrize("scheme, width", [("light", 1000), ("dark", 390)])
def test_the_page_fits(scheme, width, visit):
    page = visit(scheme, width)
    page.get_by_label("length").fill("60")
    write(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".caption").evaluate("one => getComputedStyle(one).color") == (
        "rgb(0, 0, 0)" if scheme == "light" else "rgb(255, 255, 255)"
    )


# The command


@pytest.fixture(scope="module")
def server():
    """A server of the page with the shipped model."""
    server = Server(files_to_serve(None), 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask(server, path, host=None, method="GET"):
    """The status and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_only_the_pages_files_and_the_runs_are_served(server):
    assert server.server_address[0] == "127.0.0.1"
    for path in FOLDER.iterdir():
        assert ask(server, f"/{path.name}") == (200, path.read_bytes())
    assert ask(server, "/") == (200, (FOLDER / "index.html").read_bytes())
    assert {path for path in server.files if path.startswith("/run/")} == {f"/run/{name}" for name in RUN_FILES}
    assert json.loads(ask(server, "/run/config.json")[1])["model_type"] == "qwen3"
    port = server.server_port
    assert ask(server, "/", f"localhost:{port}")[0] == 200
    wrong = ["/run/", "/run", "/..", "/../play.py", "/run/../../cli/play.py", "/%2e%2e/sampler.js", "//etc/passwd",
             "/etc/passwd", f"/{FOLDER}/model.js", "/run/log.csv", "/model.js/", "/MODEL.JS", "/run/%2e./model.js",
             f"http://127.0.0.1:{port}/model.js", "/index.html/..", "/model.js%00", "*"]  # fmt: skip
    for path in wrong:
        assert ask(server, path)[0] == 404, path
    for host in "evil.example", f"evil.example:{port}", "", "127.0.0.1.evil.example", "0.0.0.0", "[::1]":
        status, body = ask(server, "/run/config.json", host)
        assert status == 403 and b"qwen3" not in body, host
    for method in "POST", "PUT", "DELETE", "HEAD", "OPTIONS":
        assert ask(server, "/", method=method)[0] == 501


def test_a_run_is_served_whatever_its_form(runs):
    files = files_to_serve(str(runs / "untied"))  # in 16 bits on disk
    tensors = safetensors.torch.load(files["/run/model.safetensors"])
    model, _ = tg.load(runs / "untied")
    assert torch.equal(tensors["lm_head.weight"], model.lm_head.weight)
    assert b"WordLevel" in files["/run/tokenizer.json"]


@proc
def test_play_opens_in_a_real_browser_and_control_c_ends_it(browser, tmp_path):
    running, _ = start(["play", "--no-browser"], cwd=tmp_path)
    address = re.search(r"http://127\.0\.0\.1:\d+/", running.stdout.readline())[0]
    wrong = []
    page = browser.new_page()
    page.on("console", lambda m: wrong.append(m.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: request.url.startswith((address, "data:")) or wrong.append(request.url))
    page.goto(address)
    opened(page)
    write(page)
    assert page.locator(".token").count() > 50
    page.close()
    assert hit(running, signal.SIGINT) == (130, "", "tinygpt: stopped\n") and not wrong
    assert not list(tmp_path.iterdir())


def test_a_browser_is_opened_unless_it_should_not(monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(Server, "serve_forever", lambda server: None)
    for words in [], ["--no-browser"]:
        code, out, err = call("play", *words)
        assert code == 0 and not err and "until you press Control-C" in out
    assert opened == [re.search("http://.*/", opened[0])[0]]


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["./nowhere"], 1, "there is no folder"),
        (["--port", "99999"], 2, "port=99999"),
        (["--port", "x"], 2, "should be a whole number"),
        (["two", "words"], 2, "one word too many"),
    ],
)
def test_what_goes_wrong_is_one_sentence(words, code, said):
    got, out, err = call("play", "--no-browser", *words)
    assert got == code and is_sentence(err) and said in err and not out


def test_a_port_in_use_is_one_sentence(server):
    code, out, err = call("play", "--no-browser", "--port", server.server_port)
    assert code == 1 and is_sentence(err) and f"port {server.server_port} cannot be used" in err
