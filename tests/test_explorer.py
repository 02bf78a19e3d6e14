"""The attention explorer: its weights, its plain HTML in a browser, and the widget in JupyterLab."""

import base64
import os
import re
import shutil
import sys
import time
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, need
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lab import lab
from test_sampler_panel import answer, open_in_lab
from torch import nn

import tinygpt as tg
from tinygpt.presets import TRAINED
from tinygpt.show import explorer as module
from tinygpt.show.explorer import quantize

TALE = "Once upon a time there was a small red kite."
HARM = "</script><script>document.title = 'harmed'</script><!-- <b>&amp;\"' \x00\u202e\n\n   x 日本 🤖"


@cache
def shipped():
    return tg.load(TRAINED)


@cache
def by_letters(kind="modern", **changes):
    """A model that nothing has trained, and its tokenizer of letters."""
    torch.manual_seed(0)
    tok = tg.CharTokenizer.train("abcdefgh\n")
    sizes = {"vocab_size": 20, "n_layer": 2, "n_head": 4, "n_embd": 16, "block_size": 12} | changes
    model = tg.GPT(tg.GPTConfig.named(kind, **sizes))
    for p in model.parameters():
        nn.init.normal_(p)
    return model, tok


def every_model():
    return [by_letters(), by_letters(n_kv_head=2), by_letters("gpt2"), by_letters(tied=False, n_head=1, n_layer=1)]


def page_of(*explorers, style=""):
    """A page with these explorers."""
    parts = "".join(explorer.html for explorer in explorers)
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return f'{head}<title>a page</title><body style="{style}">{parts}'


# What is sent to the browser


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-20, 20), min_size=1, max_size=40))
def test_a_quantized_weight_is_off_by_a_510th_at_most(scores):
    weights = torch.tensor(scores).softmax(-1)
    assert (weights - quantize(weights) / 255).abs().max() <= 1 / 510 + 1e-6


def test_no_and_full_attention_are_exact():
    assert quantize(torch.tensor([0.0, 1.0])).tolist() == [0, 255]


@pytest.mark.parametrize("place", range(4))
def test_a_list_of_next_tokens_is_the_models(place):
    model, tok = every_model()[place]
    explorer = tg.explore(model, tok, "abcd")
    scale = torch.ones(model.config.n_layer, model.config.n_head)
    scale[-1, 0] = 0.3
    ids = torch.tensor([tok.encode("abcd")])
    for token in 3, 1, 3:
        rows = explorer.next_tokens(token, model.config.n_layer - 1, 0, 0.3)
        assert len(rows) == module.MOST_ROWS and rows[0][0] in "abcdefgh⏎"
        for column, logits in (1, model(ids)), (2, model(ids, head_scale=scale)):
            probs = logits[0, token, : tok.vocab_size].softmax(-1)
            expected = {module.token_name(tok, id): p.item() for id, p in enumerate(probs)}
            assert [row[column] for row in rows] == pytest.approx([expected[row[0]] for row in rows], abs=1e-5)


def test_the_model_is_left_as_it_was():
    model, tok = by_letters(dropout=0.5)
    model.train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    first, again = (tg.explore(model, tok, "abcdefgh") for _ in range(2))
    first.next_tokens(2, 0, 1, 0.0)
    assert model.training and first.html == again.html  # no dropout
    assert all(p.grad is None for p in model.parameters())
    assert all(p.equal(before[name]) for name, p in model.state_dict().items())


def test_the_shipped_model_takes_less_than_300_kb():
    model, tok = shipped()
    explorer = tg.explore(model, tok, tok.decode(tok.encode(20 * TALE)[:127]))
    assert len(explorer.tokens) == 128
    assert len(explorer.html.encode()) < 300_000


def test_a_longer_text_keeps_its_newest_part():
    model, tok = by_letters()
    explorer = tg.explore(model, tok, "abcdefgh" * 3)
    assert "".join(explorer.tokens) == "efghabcdefgh" and "24 tokens" in explorer.note
    assert explorer.note in explorer.picture
    assert not tg.explore(model, tok, "abcdefgh").note
    model, tok = by_letters(block_size=400, n_layer=1)
    assert len(tg.explore(model, tok, "abcdefgh" * 40).tokens) == module.MOST_TOKENS


@pytest.mark.parametrize("text", ["", None, ["a"], 3])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(ValueError, match="at least one character"):
        tg.explore(*by_letters(), text)


def test_what_does_not_fit_is_refused():
    model, tok = by_letters()
    with pytest.raises(ValueError, match="before its tokenizer"):
        tg.explore(tok, model, "a")
    with pytest.raises(ValueError, match="2048 tokens, and the model knows 20"):
        tg.explore(model, shipped()[1], "a")
    with pytest.raises(ValueError, match="no attention"):
        tg.explore(nn.Linear(2, 2), tok, "a")


def test_tokens_that_cannot_be_seen_are_written_out():
    class Bytes:
        vocab_size = 256

        def token_bytes(self, id):
            return [b" ", b"   ", b" a", "é".encode()[:1], b"\x00", "\u202e".encode(), b"", b"\n\n", b"\t"][id]

    shown = ["·", "···", " a", "\\xc3", "\\x00", "\\u202e", "[6]", "⏎⏎", "⇥"]
    assert [module.token_text(Bytes(), id) for id in range(9)] == shown


def test_the_first_head_that_is_shown_stands_out():
    model, tok = shipped()
    explorer = tg.explore(model, tok, TALE)
    row = explorer.levels[:, :, -1, 1:-1]
    assert row[explorer.layer, explorer.head].max() == row.max() > 50
    assert re.fullmatch(rf"layer \d, head \d: '\S+' attends to: ('\S+'|itself) \d+ %(, .*)?", repr(explorer))
    for text in "a", "ab":
        assert tg.explore(*by_letters(), text).html


# In a notebook


def test_what_is_displayed_is_a_widget_and_plain_html(monkeypatch):
    import IPython.display
    from ipywidgets.widgets.widget import _instances

    shown, cell = [], ["a", 1]
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(execution_count=cell[1]))
    monkeypatch.setattr(module, "this_cell", lambda: cell[0])
    monkeypatch.setattr(module, "DISPLAYED", {})
    explorer = tg.explore(*by_letters(), "abcd")

    def display(name, count):
        cell[:] = name, count
        explorer._ipython_display_()
        view, plain = shown[-2:]
        assert plain == {"text/html": explorer.html, "text/plain": repr(explorer)}
        return view["application/vnd.jupyter.widget-view+json"]["model_id"]

    first, second, other = display("a", 1), display("a", 1), display("b", 2)
    assert len({first, second, other} & _instances.keys()) == 3
    again = display("a", 3)
    assert {first, second, other, again} & _instances.keys() == {other, again}
    widget = _instances[again]
    widget.question = {"token": 2, "layer": 1, "head": 3, "strength": 0.5, "number": 7}
    assert widget.answer == {"number": 7, "rows": explorer.next_tokens(2, 1, 3, 0.5)}
    for name in other, again:
        _instances[name].close()


# In JupyterLab, before the tests below: Playwright cannot start twice


def notebook(path):
    """A notebook that shows two explorers in one cell, and a third in another."""
    import nbformat.v4 as v4
    from nbformat import write

    cells = [
        v4.new_markdown_cell("# Explorers"),
        v4.new_code_cell("import tinygpt as tg\nfrom tinygpt.presets import TRAINED\nmodel, tok = tg.load(TRAINED)"),
        v4.new_code_cell(f"display(tg.explore(model, tok, {TALE!r}))\ntg.explore(model, tok, 'The red kite')"),
        v4.new_code_cell("tg.explore(model, tok, 'The old king')"),
        v4.new_code_cell("'the last cell'"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    write(v4.new_notebook(cells=cells, metadata=kernel), path)


def run_all(page):
    """Run all cells, and wait for the three explorers and their answers."""
    from playwright.sync_api import expect

    page.locator(".jp-Notebook .jp-Cell").first.click(position={"x": 5, "y": 5})
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    expect(page.locator(".live")).to_have_count(3, timeout=100_000)
    expect(page.get_by_text("(ipykernel) | Idle")).to_be_visible(timeout=100_000)
    for box in page.locator(".live").all():
        expect(box.locator(".strength li")).to_have_count(module.MOST_ROWS)
        expect(box.get_by_role("slider")).to_be_visible()


def use(page, explorer):
    """Use the first explorer of a notebook: keys, a head's strength, and the tokens after another one."""
    from playwright.sync_api import expect

    box, n = page.locator(".live").first, len(explorer.tokens)
    slider, rows, tokens = box.get_by_role("slider"), box.locator(".strength ul"), box.locator(".token")
    active = page.locator(".jp-Notebook-cell.jp-mod-active")

    def expect_rows(token, layer, head, strength):
        names = [name for name, _, _ in explorer.next_tokens(token, layer, head, strength)]
        expect(rows.locator(".name")).to_have_text(names)

    layer, head = explorer.layer, explorer.head
    expect_rows(n - 1, layer, head, 1)
    before = rows.inner_text()
    slider.click()
    cell = active.first.get_attribute("data-windowed-list-index")
    slider.press("Home")
    expect(box.locator("output")).to_have_text("0.00")
    expect(rows).not_to_have_text(before)
    expect_rows(n - 1, layer, head, 0)
    slider.press("ArrowRight")
    expect(box.locator("output")).to_have_text("0.05")
    tokens.nth(5).click()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(6)).to_be_focused()
    expect_rows(6, layer, head, 0.05)
    box.get_by_role("button", name="layer 0, head 0").click()  # another head, whose strength is 1
    expect(box.locator("output")).to_have_text("1.00")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(box.locator(".statement")).to_have_text(explorer.statement(1, 0, 6))
    slider.press("End")
    expect(box.locator("output")).to_have_text("2.00")
    expect_rows(6, 1, 0, 2)
    assert cell is not None
    assert active.first.get_attribute("data-windowed-list-index") == cell  # the keys were the explorer's


def test_the_explorer_in_lab(tmp_path):
    from nbformat import read, write
    from nbformat.sign import NotebookNotary
    from playwright.sync_api import expect

    work, data, wrong = tmp_path / "nbs", tmp_path / "jupyter", []
    work.mkdir()
    notebook(work / "one.ipynb")
    explorer = tg.explore(*shipped(), TALE)

    def command(words):
        return [sys.executable, "-m", "jupyterlab", *words.split(), *([] if os.getuid() else ["--allow-root"])]

    with lab(tmp_path, command, work, tmp_path / "lab.log", JUPYTER_DATA_DIR=str(data)) as (page, address):
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.route("**/*", lambda route: answer(route, wrong))
        page.set_viewport_size({"width": 1280, "height": 1500})
        open_in_lab(page, address, "one.ipynb")
        run_all(page)
        expect(page.locator(".plain")).to_have_count(3)
        expect(page.locator(".plain:visible")).to_have_count(0)
        use(page, explorer)
        page.screenshot(path=tmp_path / "live.png")
        run_all(page)
        page.get_by_role("menuitem", name="Settings", exact=True).click()
        page.get_by_text("Theme", exact=True).first.hover()
        page.get_by_text("JupyterLab Dark", exact=True).click()
        expect(page.locator('body[data-jp-theme-light="false"]')).to_be_attached()
        page.screenshot(path=tmp_path / "dark.png")
        # saved and opened again, without the widgets: alive if it is trusted, and else a picture
        saved, until = work / "one.ipynb", time.time() + 30
        page.locator(".jp-Notebook h1").first.click()
        while "tg-explorer plain" not in saved.read_text("utf-8"):
            assert time.time() < until
            page.keyboard.press("Control+s")
            page.wait_for_timeout(500)
        again = read(saved, 4)
        assert "widgets" not in again.metadata
        write(again, work / "trusted.ipynb")
        again.cells[0].source = "# Not trusted"  # another signature
        for cell in again.cells:
            cell.metadata.pop("trusted", None)
        write(again, work / "untrusted.ipynb")
        with NotebookNotary(data_dir=str(data)) as notary:
            notary.sign(read(work / "trusted.ipynb", 4))
        page.goto(address.replace("/lab?", "/lab/tree/trusted.ipynb?reset&", 1))
        expect(page.locator(".plain:visible")).to_have_count(3, timeout=60_000)
        page.locator(".plain").first.locator(".token").nth(5).click()
        wanted = explorer.statement(explorer.layer, explorer.head, 5)
        expect(page.locator(".plain .statement").first).to_have_text(wanted)
        expect(page.locator(".strength")).to_have_count(0)
        expect(page.get_by_text("widget").locator("visible=true")).to_have_count(0)
        page.screenshot(path=tmp_path / "trusted.png")
        page.goto(address.replace("/lab?", "/lab/tree/untrusted.ipynb?reset&", 1))
        expect(page.get_by_text("A picture of the explorer")).to_have_count(3, timeout=60_000)
        expect(page.locator(".still:visible")).to_have_count(3)
        expect(page.get_by_text("widget").locator("visible=true")).to_have_count(0)
        page.screenshot(path=tmp_path / "untrusted.png")
        page.unroute_all(behavior="ignoreErrors")
    assert not wrong


# In a browser


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    need(chromium, "Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser):
    """Shows explorers on a page; fails if the page reports an error or asks for anything."""
    wrong, contexts = [], []

    def show(*explorers, style="", **options):
        context = browser.new_context(**({"viewport": {"width": 1100, "height": 1000}} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: request.url.startswith(("data:", "blob:")) or wrong.append(request.url))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.add_init_script("""
            window.drawn = 0;
            const draw = CanvasRenderingContext2D.prototype.putImageData;
            CanvasRenderingContext2D.prototype.putImageData = function (...given) {
              window.drawn++;
              return draw.apply(this, given);
            };""")
        page.goto("about:blank")
        page.set_content(page_of(*explorers, style=style))
        return page

    yield show
    for context in contexts:
        context.close()
    assert not wrong


def address():
    """The JavaScript module, as an address that can be imported."""
    return "data:text/javascript;base64," + base64.b64encode((module.HERE / "explorer.js").read_bytes()).decode()


def shades(page):
    """The weights that the tokens of the first explorer are shaded by."""
    shown = page.locator(".text").first.locator(".token")
    return shown.evaluate_all("all => all.map(one => Number(one.style.getPropertyValue('--shade')) ** 2)")


@pytest.mark.parametrize("place", range(4))
def test_the_browser_has_torchs_weights(show, place):
    model, tok = every_model()[place]
    explorer, wanted = tg.explore(model, tok, "abca\nfgh"), []
    model(torch.tensor([tok.encode("abca\nfgh")]), weights_out=wanted)
    page = show(explorer)
    n_layer, n_head = model.config.n_layer, model.config.n_head
    rows = page.evaluate(f"""async (data) => {{
        const {{ unpack }} = await import("{address()}");
        const row = unpack(data), all = (n) => [...Array(n).keys()];
        return all({n_layer}).map(l => all({n_head}).map(h => all(8).map(i => Array.from(row(l, h, i)))));
    }}""", explorer.data)
    for layer in range(n_layer):
        for head in range(n_head):
            for i in range(8):
                right = wanted[layer][0, head, i, : i + 1]
                assert (torch.tensor(rows[layer][head][i]) / 255 - right).abs().max() <= 1 / 510 + 1e-6


def test_tokens_and_heads_are_chosen_by_mouse(show):
    from playwright.sync_api import expect

    model, tok = shipped()
    explorer = tg.explore(model, tok, TALE)
    page, n = show(explorer), len(explorer.tokens)
    tokens, statement = page.get_by_role("option").and_(page.locator(".token")), page.locator(".statement")
    assert "".join(tokens.all_inner_texts()) == "".join(text.lstrip(" ") for text in explorer.tokens)
    assert TALE in page.locator(".text").inner_text().replace("\u200b", "")
    expect(page.locator(".still")).to_have_count(0)
    expect(page.locator(".strength")).to_have_count(0)  # nobody would answer

    def check(layer, head, token):
        expect(statement).to_have_text(explorer.statement(layer, head, token))
        row = explorer.levels[layer, head, token].tolist()
        assert shades(page) == pytest.approx([level / 255 for level in row], abs=2e-3)
        arcs = sum(level > 5 for level in row[:token])
        assert page.locator(".text path").count() == min(arcs, 12)
        assert page.locator(".token.shown").count() == 1

    layer, head = explorer.layer, explorer.head
    check(layer, head, n - 1)
    tokens.nth(5).hover()
    check(layer, head, 5)
    page.locator(".statement").hover()
    check(layer, head, n - 1)
    tokens.nth(6).click()
    tokens.nth(3).hover()
    check(layer, head, 3)
    page.locator(".statement").hover()
    check(layer, head, 6)
    page.get_by_label("layer", exact=True).select_option("2")
    page.get_by_label("head", exact=True).select_option("3")
    check(2, 3, 6)
    page.get_by_role("button", name="layer 1, head 2").click()
    check(1, 2, 6)
    expect(page.get_by_label("layer", exact=True)).to_have_value("1")
    expect(page.get_by_label("head", exact=True)).to_have_value("2")
    expect(page.locator("button[aria-pressed=true]")).to_have_count(1)
    assert page.evaluate("window.drawn") == 12  # each map once


def test_tokens_and_heads_are_chosen_by_keys(show):
    from playwright.sync_api import expect

    model, tok = shipped()
    explorer = tg.explore(model, tok, TALE)
    page, n = show(explorer), len(explorer.tokens)
    tokens = page.locator(".token")
    stops = []
    for _ in range(5):  # one tab stop for the tokens, and one for the heads
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.ariaLabel || document.activeElement.tagName"))
    assert stops == ["layer", "head", "SPAN", f"layer {explorer.layer}, head {explorer.head}", "BODY"]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    for key, place in (("ArrowLeft", n - 2), ("ArrowUp", n - 3), ("ArrowRight", n - 2), ("Home", 0),
                       ("ArrowLeft", 0), ("ArrowDown", 1), ("End", n - 1)):
        page.keyboard.press(key)
        expect(tokens.nth(place)).to_be_focused()
        expect(tokens.nth(place)).to_have_attribute("aria-selected", "true")
        expect(page.locator(".statement")).to_have_text(explorer.statement(explorer.layer, explorer.head, place))
    expect(page.get_by_role("status")).to_have_text(explorer.statement(explorer.layer, explorer.head, n - 1))
    page.keyboard.press("Tab")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".statement")).to_have_text(explorer.statement(1, 1, n - 1))


def test_a_tap_chooses(show):
    from playwright.sync_api import expect

    explorer = tg.explore(*shipped(), TALE)
    page = show(explorer, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page.locator(".token").nth(7).tap()
    expect(page.locator(".statement")).to_have_text(explorer.statement(explorer.layer, explorer.head, 7))
    page.get_by_role("button", name="layer 0, head 1").tap()
    expect(page.locator(".statement")).to_have_text(explorer.statement(0, 1, 7))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_two_on_one_page_do_not_disturb_each_other(show):
    from playwright.sync_api import expect

    one, two = tg.explore(*shipped(), TALE), tg.explore(*by_letters("gpt2"), "abca")
    page = show(one, two, one)
    boxes = page.locator(".tg-explorer")
    boxes.nth(1).get_by_label("head", exact=True).select_option("0")
    boxes.nth(1).locator(".token").first.click()
    boxes.nth(2).locator(".token").nth(4).click()
    expect(boxes.nth(0).locator(".statement")).to_have_text(repr(one).partition(": ")[2])
    expect(boxes.nth(1).locator(".statement")).to_have_text(two.statement(two.layer, 0, 0))
    expect(boxes.nth(2).locator(".statement")).to_have_text(one.statement(one.layer, one.head, 4))
    assert not page.locator("[id]").count()
    assert page.evaluate("typeof explore + typeof begin") == "undefinedundefined"


def test_a_text_does_no_harm(show):
    explorer = tg.explore(*shipped(), HARM)
    assert explorer.html.count("</script>") == 2 and "<!--" not in explorer.html
    for page in show(explorer), show(explorer, java_script_enabled=False):
        shown = page.locator(".text, .still p").first.inner_text()
        assert "</script><script>document.title·=·'harmed'</script><!--·<b>&amp;\"'·\\x00\\xe2\\x80\\xae⏎" in shown
        assert page.title() == "a page"
        assert page.locator("b").count() == 0


def test_without_javascript_a_picture_stands_in(show):
    explorer = tg.explore(*shipped(), TALE)
    page = show(explorer, java_script_enabled=False)
    shown = page.locator(".tg-explorer").inner_text()
    assert TALE in shown and explorer.statement(explorer.layer, explorer.head, len(explorer.tokens) - 1) in shown
    assert "run this cell" in shown
    colors = page.locator(".still span").evaluate_all("all => all.map(one => getComputedStyle(one).backgroundColor)")
    alphas = [float(re.search(r"([\d.]+)\)", color)[1]) for color in colors]
    levels = explorer.levels[explorer.layer, explorer.head, -1].tolist()
    assert alphas == pytest.approx([0.6 * (level / 255) ** 0.5 for level in levels], abs=0.01)


def test_maps_that_are_not_seen_are_not_drawn(show):
    explorer = tg.explore(*shipped(), TALE)
    page = show(explorer)
    page.wait_for_function("window.drawn === 12")
    page.set_content(page_of(explorer, style="padding-top: 5000px"))
    page.wait_for_timeout(200)
    assert page.evaluate("window.drawn") == 12
    page.locator(".grid").scroll_into_view_if_needed()
    page.wait_for_function("window.drawn === 24")
    canvas = page.locator("canvas").nth(5)
    alphas = canvas.evaluate("""map => {
        const all = map.getContext("2d").getImageData(0, 0, map.width, map.height).data;
        return [...all].filter((_, i) => i % 4 === 3);
    }""")
    levels = torch.tensor(alphas).view(len(explorer.tokens), -1).sub(20).clamp(0).div(235).square()
    right = explorer.levels[1, 1] / 255
    assert (levels - right).abs().max() < 0.01


def test_a_strength_is_chosen_only_while_python_answers(show):
    from playwright.sync_api import expect

    model, tok = by_letters()
    explorer = tg.explore(model, tok, "abca")
    page = show(explorer)
    page.clock.install()
    page.evaluate(f"""async (data) => {{
        const state = {{ data, question: {{}}, answer: {{}} }};
        window.model = {{
            get: (name) => state[name], set: (name, value) => (state[name] = value), save_changes() {{}},
            on: (name, heard) => (window.heard = heard), off: () => (window.heard = null),
        }};
        const {{ default: {{ render }} }} = await import("{address()}");
        document.body.replaceChildren();
        window.end = render({{ model, el: document.body }});
    }}""", explorer.data)
    slider, late = page.get_by_role("slider"), page.get_by_text("No answer from the kernel")

    def answer_it(**asked):
        question = page.evaluate("model.get('question')")
        number = question.pop("number")
        assert question == asked
        rows = explorer.next_tokens(**question)
        page.evaluate("(answer) => { model.set('answer', answer); heard(); }", {"number": number, "rows": rows})
        texts = ["".join(text.split()) for text in page.locator(".strength li").all_inner_texts()]
        assert texts == [f"{name}{shown(before)}→{shown(after)}" for name, before, after in rows]

    def shown(p):
        return "<1%" if p < 0.005 else f"{100 * p:.0f}%"

    place = {"token": 3, "layer": explorer.layer, "head": explorer.head}
    expect(slider).to_be_hidden()
    expect(late).to_have_count(0)
    answer_it(**place, strength=1)
    slider.fill("0.5")
    answer_it(**place, strength=0.5)
    expect(slider).to_be_visible()
    page.locator(".token").first.click()  # the strength stays with its head
    answer_it(**place | {"token": 0}, strength=0.5)
    page.clock.run_for(6000)
    expect(slider).to_be_visible()
    page.get_by_role("button", name=f"layer {1 - explorer.layer}, head 0").click()
    page.clock.run_for(6000)
    expect(slider).to_be_hidden()
    expect(late).to_be_visible()
    answer_it(token=0, layer=1 - explorer.layer, head=0, strength=1)
    expect(slider).to_be_visible()
    expect(late).to_have_count(0)
    page.evaluate("end()")
    assert page.evaluate("window.heard") is None


def test_144_heads_at_128_tokens_are_drawn_once(show):
    explorer = tg.explore(*by_letters(n_layer=12, n_head=12, n_embd=24, head_dim=2, block_size=128), 16 * "abcdefgh")
    page = show(explorer, viewport={"width": 390, "height": 1500})
    page.wait_for_function("window.drawn === 144")
    for i in range(0, 128, 16):
        page.locator(".token").nth(i).hover()
        assert page.locator(".statement").inner_text().startswith("'a' attends to")
    page.get_by_role("button", name="layer 11, head 5").click()
    assert page.evaluate("window.drawn") == 144
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_module_of_the_browser_asks_nothing_of_other_hosts():
    for name in "explorer.js", "explorer.css":
        text = (module.HERE / name).read_text("utf-8").replace('"http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|//cdn|import\s*\(|@import|url\(|getElementById|innerHTML", text)
        assert "</" not in text
