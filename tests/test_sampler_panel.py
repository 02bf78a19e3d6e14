"""The sliders of sampling: what they draw and write, and the panel in a browser."""

import asyncio
import html
import json
import os
import re
import shutil
import sys
import time
from functools import cache
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lab import clean_environment, lab

import tinygpt as tg
from tinygpt import CharTokenizer, generate
from tinygpt.presets import TRAINED
from tinygpt.sample import Sampler, draw
from tinygpt.show import sampler as module
from tinygpt.show.distribution import cumulative_bar, percent, surprise_text, token_rows
from tinygpt.show.sampler import SamplerPanel
from tinygpt.show.writing import Writing

some = settings(max_examples=25, deadline=None)
SETTINGS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0, 0.3, 1.0, 1.7]),
        "top_k": st.sampled_from([None, 1, 3, 40]),
        "top_p": st.sampled_from([None, 0.0, 0.6, 1]),
        "min_p": st.sampled_from([None, 0.1]),
        "repetition_penalty": st.sampled_from([1.0, 1.4]),
    }
)


@cache
def shipped():
    return tg.load(TRAINED)


@cache
def by_letters():
    """A small model that nothing has trained, whose tokenizer has no end token and few characters."""
    torch.manual_seed(0)
    tok = CharTokenizer.train("abcdefgh <&\n")
    config = tg.GPTConfig.modern(vocab_size=16, n_layer=1, n_head=2, n_embd=16, block_size=12)
    return tg.GPT(config), tok


class FourNames:
    """A tokenizer with nothing but what the contract asks for; its tokens are bytes."""

    vocab_size = 256
    encode = staticmethod(lambda text: list(text.encode()))
    decode = staticmethod(lambda ids: bytes(ids).decode(errors="replace"))

    def save(self, folder):
        raise NotImplementedError


@cache
def by_bytes():
    torch.manual_seed(1)
    config = tg.GPTConfig.modern(vocab_size=256, n_layer=1, n_head=2, n_embd=16, block_size=32)
    return tg.GPT(config), FourNames()


MODELS = [shipped, by_letters, by_bytes]
PROMPTS = {shipped: "Once upon a time", by_letters: "abba", by_bytes: "aé"}


def ask(panel, name, *values):
    """What a message of the browser does; returns the state that the browser then gets."""
    panel.receive({"do": name, "with": list(values)})
    return json.loads(json.dumps(panel.state()))


def called(panel, model, tok, column=0):
    """The text of the call that a column shows."""
    call = panel.state()["columns"][column]["call"]
    return eval(call, {"generate": generate, "model": model, "tok": tok})


def rows_of(column):
    """The tokens that are drawn in rows: {id: (before → after, marks)}."""
    found = re.findall(r'<button class="row ([^"]*)" data-take="(\d+)".*?class="numbers">(.*?)</span>', column["rows"])
    return {int(id): (html.unescape(numbers), marks.split()) for marks, id, numbers in found}


# The distribution


@some
@given(SETTINGS, st.sampled_from(MODELS), st.integers(0, 99))
def test_the_rows_show_what_the_sampler_makes_of_the_models_probabilities(chosen, load, seed):
    model, tok = load()
    panel = SamplerPanel(model, tok, PROMPTS[load], source=None, seed=seed)
    for name, value in chosen.items():
        state = ask(panel, "change", 0, name, value)
        assert not state["error"]
    start = [tok.special_tokens["<|end|>"]] if load is shipped else []
    ids = start + tok.encode(PROMPTS[load])
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[:, -1, : tok.vocab_size]
    after = Sampler(**chosen)(logits, [ids])
    u = torch.rand(1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    [column] = state["columns"]
    assert column["chosen"] == draw(after, u).item() and column["u"] == u.item()
    before, after = (part.double().softmax(-1)[0] for part in (logits, after))
    rows = rows_of(column)
    assert set(before.topk(10).indices.tolist()) | {column["chosen"]} == set(rows)
    for id, (numbers, marks) in rows.items():
        old, new = numbers.split(" → ")
        assert float(old.strip("<% ")) == pytest.approx(100 * before[id].item(), abs=0.6)
        if after[id] == 0:
            assert new == "cut"
        else:
            assert float(new.strip("<% ")) == pytest.approx(100 * after[id].item(), abs=0.6)
        assert ("gone" in marks) == (after[id] == 0) and ("chosen" in marks) == (id == column["chosen"])


@some
@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=120), st.floats(0, 1, exclude_max=True))
def test_u_points_at_the_token_that_is_drawn(logits, u):
    logits = torch.tensor(logits)
    chosen = draw(logits[None], torch.tensor([u], dtype=torch.float64)).item()
    bar = cumulative_bar(logits, u, chosen, str)
    pieces = [(kind, float(width)) for kind, width in re.findall(r'<span class="(\w+)" style="width:([\d.]+)%"', bar)]
    ends = torch.tensor([width for _, width in pieces]).cumsum(0).tolist()
    place = [kind for kind, _ in pieces].index("chosen")
    assert ends[-1] == pytest.approx(100, abs=0.1)
    assert ends[place] - pieces[place][1] - 0.1 <= 100 * u <= ends[place] + 0.1
    assert f"left:{100 * u:.3f}%" in bar and f"token {chosen}" in bar


def test_what_is_cut_is_drawn_as_cut():
    before, after = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([1.0, 0.0, 0.0])
    drawn = token_rows(before, after, None, 0, "abc".__getitem__)
    kept, gone, _ = re.findall(r"<button.*?</button>", drawn)
    assert "60 % → 100 %" in kept and 'class="before"' in kept and 'class="after"' in kept
    assert "30 % → cut" in gone and 'class="before cut"' in gone and 'class="after"' not in gone


def test_a_number_moved_by_hand_draws_another_token():
    model, tok = shipped()
    panel = SamplerPanel(model, tok, top_p=0.9)
    logits = Sampler(top_p=0.9)(panel.columns[0].writing.logits, [])
    found = set()
    for u in (0, 0.3, 0.62, 0.9, 0.999):
        [column] = ask(panel, "move_u", 0, u)["columns"]
        assert column["chosen"] == draw(logits, torch.tensor([float(u)])).item()
        found.add(column["chosen"])
    assert len(found) > 2
    assert "u=1 " in ask(panel, "move_u", 0, 1)["error"]


def test_a_slider_does_not_run_the_model():
    model, tok = shipped()
    panel = SamplerPanel(model, tok, max_new_tokens=5, written=True)
    with mock.patch("tinygpt.show.writing.Decoder", side_effect=AssertionError), mock.patch.object(
        type(panel.columns[0].writing), "add", side_effect=AssertionError
    ):
        for _ in range(3):
            assert not ask(panel, "change", 0, "temperature", 0.5)["error"]
            assert not ask(panel, "move_u", 0, 0.5)["error"]
            assert not ask(panel, "look", 0, 2)["error"]


def test_the_source_stands_beside_the_model():
    model, tok = shipped()
    panel = SamplerPanel(model, tok, "Once upon a time", written=True, max_new_tokens=12)
    for place in None, 3:
        [column] = ask(panel, "look", 0, place)["columns"]
        truth = tg.next_token(panel.columns[0].writing.text(place), tok)
        for id in rows_of(column):
            assert f"the source: {html.escape(percent(truth[id].item()))}" in column["rows"]
        assert 'class="source"' in column["rows"] and not column["source"]
    state = ask(panel, "change", None, "prompt", "Twice upon a time")
    assert "no tale begins like this" in state["columns"][0]["source"] and not state["error"]
    assert 'class="source"' not in state["columns"][0]["rows"] and rows_of(state["columns"][0])
    silent = SamplerPanel(model, tok, source=None).state()["columns"][0]
    assert 'class="source"' not in silent["rows"] and not silent["source"]


# The text and its call


@some
@given(SETTINGS, st.sampled_from(MODELS), st.integers(0, 99), st.integers(1, 40))
def test_the_call_writes_the_text(chosen, load, seed, n):
    model, tok = load()
    panel = SamplerPanel(model, tok, PROMPTS[load], n, seed=seed, source=None, **chosen)
    ask(panel, "start")
    assert panel.text == called(panel, model, tok) == generate(model, tok, PROMPTS[load], n, seed=seed, **chosen)
    assert repr(panel) == panel.state()["columns"][0]["call"]


def test_a_tale_ends_at_its_end_token_which_has_alternatives():
    model, tok = shipped()
    panel = SamplerPanel(model, tok, max_new_tokens=300, seed=3, source=None)
    ask(panel, "start")
    tokens = panel.columns[0].writing.tokens
    assert tokens[-1].id == tok.special_tokens["<|end|>"] and panel.text == called(panel, model, tok)
    [column] = panel.state()["columns"]
    assert "In place of" in column["caption"] and "max_new_tokens=300" in column["call"]
    assert column["text"].endswith("&lt;|end|&gt;</span></span>") and "<|end|>" not in panel.text
    other = next(id for id in rows_of(column) if id != tokens[-1].id)
    ended, n = panel.text, len(tokens)
    ask(panel, "take", 0, other)
    assert panel.text.startswith(ended) and len(panel.columns[0].writing.tokens) >= n
    assert called(panel, model, tok) == ended


@pytest.mark.parametrize("load", MODELS)
def test_the_shading_is_the_models_surprise(load):
    model, tok = load()
    n = 8 if load is by_letters else 20
    panel = SamplerPanel(model, tok, PROMPTS[load], n, temperature=0.5, top_k=5, source=None, written=True)
    writing = panel.columns[0].writing
    ids = writing.ids(n)
    with torch.no_grad():
        logp = model(torch.tensor([ids]))[0, :, : tok.vocab_size].double().log_softmax(-1)
    for place, token in enumerate(writing.tokens):
        at = len(ids) - n + place
        assert token.surprise == pytest.approx(-logp[at - 1, ids[at]].item(), abs=1e-3)
    shown = re.findall(r'data-look="(\d+)".*?surprise ([\d.]+) nats', panel.state()["columns"][0]["text"])
    assert [(int(i), float(s)) for i, s in shown] == [(i, round(t.surprise, 2)) for i, t in enumerate(writing.tokens)]


def test_tokens_that_end_within_a_character_or_a_line():
    drawn = surprise_text("<p>", [("<|end|>", 1.0), ("é\n", 3.0)], 1)
    assert '<span class="prompt">&lt;p&gt;</span>' in drawn and "é<span" in drawn and "--shade:0.50" in drawn
    assert drawn.count("data-look") == 2 and drawn.count("token selected") == 1 and ">&lt;|end|&gt;</span>" in drawn


def test_another_seed_writes_another_text():
    model, tok = shipped()
    panel = SamplerPanel(model, tok, max_new_tokens=20, written=True, source=None)
    first, seed = panel.text, panel.seed
    with mock.patch("secrets.randbelow", return_value=77):
        ask(panel, "start_another")
    assert panel.seed == 77 != seed and panel.text != first and panel.text == called(panel, model, tok)
    assert SamplerPanel(model, tok, seed=None, source=None).seed in range(10_000)


def test_a_text_of_other_settings_is_said_to_be_one():
    model, tok = shipped()
    panel = SamplerPanel(model, tok, max_new_tokens=10, written=True, source=None)
    assert not panel.state()["columns"][0]["note"]
    for change in (0, "top_k", 3), (None, "max_new_tokens", 12):
        assert "other settings" in ask(panel, "change", *change)["columns"][0]["note"]
    ask(panel, "start")
    assert not panel.state()["columns"][0]["note"] and panel.text == called(panel, model, tok)


# Alternatives


@some
@given(st.sampled_from(MODELS), st.integers(0, 9), st.integers(0, 9), st.data())
def test_a_text_goes_on_from_an_alternative(load, place, seed, data):
    model, tok = load()
    n = 10
    panel = SamplerPanel(model, tok, PROMPTS[load], n, seed=seed, source=None, written=True)
    writing = panel.columns[0].writing
    if len(writing.tokens) < n:
        return
    before, numbers = writing.text(place), [writing.u(i) for i in range(30)]
    ids = [token.id for token in writing.tokens]
    [column] = ask(panel, "look", 0, place)["columns"]
    other = data.draw(st.sampled_from(sorted(set(rows_of(column)) - {ids[place]})))
    state = ask(panel, "take", 0, other)
    tokens = writing.tokens
    assert [token.id for token in tokens[: place + 1]] == [*ids[:place], other] and panel.text.startswith(before)
    assert called(panel, model, tok) == generate(model, tok, PROMPTS[load], place, seed=seed)
    assert "no call" in state["columns"][0]["note"] and not state["columns"][0]["looking"]
    assert len(tokens) == place + 1 + n or writing.ended
    for i, token in enumerate(tokens[place + 1 :], place + 1):  # each by its own random number
        assert token.id == draw(token.logits, torch.tensor([numbers[i]], dtype=torch.float64)).item()


def test_taking_the_token_that_is_there_changes_nothing():
    model, tok = shipped()
    panel = SamplerPanel(model, tok, max_new_tokens=10, written=True, source=None)
    text = panel.text
    ask(panel, "look", 0, 4)
    state = ask(panel, "take", 0, panel.columns[0].writing.tokens[4].id)
    assert panel.text == text == called(panel, model, tok) and not state["columns"][0]["looking"]
    ask(panel, "take", 0, tok.encode(" the")[0])  # at the end, nothing is lost
    assert panel.text.startswith(text + " the") and called(panel, model, tok) == text


def test_a_second_alternative_keeps_the_first_place_of_the_call():
    model, tok = shipped()
    panel = SamplerPanel(model, tok, max_new_tokens=10, written=True, source=None)
    text = panel.columns[0].writing.text(3)
    for place in 3, 7:
        ask(panel, "look", 0, place)
        old = panel.columns[0].writing.tokens[place].id
        ask(panel, "take", 0, next(id for id in rows_of(panel.state()["columns"][0]) if id != old))
        ask(panel, "change", 0, "temperature", 0.5)  # the call keeps the settings of the beginning
    assert called(panel, model, tok) == text


# Two settings


def test_two_settings_share_a_seed():
    model, tok = shipped()
    panel = SamplerPanel(model, tok, max_new_tokens=15, temperature=0.9, compare={"top_k": 2}, source=None)
    state = ask(panel, "start")
    for column, chosen in zip(panel.columns, ({}, {"top_k": 2})):
        assert column.writing.text() == generate(model, tok, panel.prompt, 15, temperature=0.9, seed=0, **chosen)
    assert [column["u"] for column in state["columns"]][0] == state["columns"][1]["u"]
    assert repr(panel).count("\n") == 1
    assert len(ask(panel, "compare", False)["columns"]) == 1
    state = ask(panel, "compare", True)
    assert state["columns"][1]["settings"] == state["columns"][0]["settings"]
    ask(panel, "change", 1, "temperature", 0)
    ask(panel, "start")
    assert panel.columns[1].writing.text() == generate(model, tok, panel.prompt, 15, temperature=0)
    assert panel.text == generate(model, tok, panel.prompt, 15, temperature=0.9, seed=0)


# Writing in the background


def in_background(steps, *args, **kwargs):
    """Run the coroutine `steps(panel)` where a notebook's kernel would run the panel."""
    model, tok = shipped()
    panel = SamplerPanel(model, tok, *args, source=None, pause=0, **kwargs)
    asyncio.run(steps(panel))
    return panel, model, tok


async def tokens_written(panel, n, column=0):
    """Wait until the text of a column has n tokens."""
    until = time.time() + 20
    while len(panel.columns[column].writing.tokens) < n:
        assert time.time() < until
        await asyncio.sleep(0)


async def quiet(panel):
    """Wait until nothing is being written."""
    until = time.time() + 20
    while panel.state()["writing"]:
        assert time.time() < until
        await asyncio.sleep(0)


def test_stop_leaves_a_text_that_its_call_writes():
    async def steps(panel):
        assert ask(panel, "start")["writing"]
        await tokens_written(panel, 5)
        assert not ask(panel, "stop")["writing"]
        n = len(panel.columns[0].writing.tokens)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(panel.columns[0].writing.tokens) == n < 60

    panel, model, tok = in_background(steps)
    assert panel.text == called(panel, model, tok) and "max_new_tokens=5" in repr(panel)


def test_two_texts_grow_together_and_sliders_move_meanwhile():
    async def steps(panel):
        ask(panel, "start")
        await tokens_written(panel, 4)
        assert len(panel.columns[1].writing.tokens) in (3, 4, 5)
        ask(panel, "change", 0, "temperature", 0.1)  # for the picture and the next text
        await quiet(panel)

    panel, model, tok = in_background(steps, max_new_tokens=12, compare={"temperature": 0.5})
    assert panel.text == generate(model, tok, panel.prompt, 12, seed=0)
    assert panel.columns[1].writing.text() == called(panel, model, tok, 1)
    assert "other settings" in panel.state()["columns"][0]["note"]


@pytest.mark.parametrize(
    "again", [("start",), ("change", None, "prompt", "Long ago"), ("look", 0, 1), ("compare", True)]
)
def test_what_begins_anew_ends_the_writing_before(again):
    async def steps(panel):
        ask(panel, "start")
        await tokens_written(panel, 3)
        old = panel.columns[0].task
        ask(panel, *again)
        await quiet(panel)
        await asyncio.sleep(0)
        assert old.cancelled() and len(asyncio.all_tasks()) == 1

    panel, model, tok = in_background(steps, max_new_tokens=9)
    if again == ("start",):
        assert panel.text == called(panel, model, tok)
    if again[0] == "change":
        assert panel.text == "Long ago"


def test_a_click_that_comes_too_late_takes_nothing():
    async def steps(panel):
        ask(panel, "start")
        await tokens_written(panel, 3)
        ask(panel, "take", 0, 5)  # drawn in the row of a place that the text has left
        await quiet(panel)

    panel, model, tok = in_background(steps, max_new_tokens=9)
    assert panel.text == called(panel, model, tok)


# Errors


def test_errors_stand_in_the_panel():
    model, tok = by_letters()
    panel = SamplerPanel(model, tok, "abc", source=None)
    wrong = [
        (("change", None, "prompt", ""), "the prompt is empty"),
        (("change", None, "prompt", "xyz"), "'x'"),
        (("change", None, "seed", 1.5), "the seed=1.5"),
        (("change", None, "seed", None), "the seed=None"),
        (("change", None, "max_new_tokens", 0), "the length=0"),
        (("change", 0, "temperature", -1), "temperature=-1"),
        (("take", 0, 99), "the token's id=99"),
        (("look", 5, 0), "IndexError"),
        (("__init__",), "is not one of"),
        (("begin",), "is not one of"),
    ]
    for message, said in wrong:
        ask(panel, "change", None, "prompt", "abc")
        assert said in ask(panel, *message)["error"], message
        assert not ask(panel, "change", None, "prompt", "ab")["error"] and panel.text == "ab"
    for message in ("start",), ("take", 0, 1), ("look", 0, 0), ("compare", True), ("start_another",):
        ask(panel, "change", None, "prompt", "")
        state = ask(panel, *message)  # nothing to write, and still no traceback
        assert state["columns"][0]["rows"] == state["columns"][0]["call"] == "" and panel.picture()["text/html"]


def test_a_model_that_diverged_says_so():
    model, tok = by_letters()
    panel = SamplerPanel(model, tok, "abc", source=None)
    with mock.patch.object(Writing, "draw_at", side_effect=ValueError("a logit of row 0 is nan")):
        assert "nan" in panel.state()["error"]
        assert "nan" in ask(panel, "start")["error"]

        async def steps(panel):
            ask(panel, "start")
            await quiet(panel)
            assert "nan" in panel.error

        in_background(steps)


def test_a_source_that_fails_is_named():
    model, tok = by_letters()
    broken = SamplerPanel(model, tok, "abc", source=lambda text, tok: {}["no"])
    assert "KeyError" in broken.state()["error"]


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_k": 0}, {"prompt": ""}, {"compare": {"top_p": 2}}])
def test_wrong_arguments_raise(wrong):
    model, tok = by_letters()
    with pytest.raises(ValueError):
        SamplerPanel(model, tok, **{"prompt": "abc"} | wrong)


# In a notebook


def test_a_slider_has_the_values_that_were_given():
    model, tok = shipped()
    panel = SamplerPanel(model, tok, top_k=37, temperature=0.77, compare={"min_p": 0.123})
    for slider in panel.sliders:
        assert len(slider["values"]) == len(slider["words"]) == len(set(slider["words"]))
        for column in panel.columns:
            assert column.settings[slider["name"]] in slider["values"]
        for value in slider["values"]:
            ask(panel, "change", 0, slider["name"], value)
            assert not panel.error
    assert all(value is None or value < tok.vocab_size for value in panel.sliders[1]["values"])


@pytest.fixture
def notebook(monkeypatch):
    """Shows what is displayed in cells whose names are set in `notebook.cell`."""
    import IPython.display

    place = SimpleNamespace(cell="a", shown=[])
    handle = SimpleNamespace(display_id="one", update=lambda data, raw: place.shown.append(data))

    def display(data, raw, display_id=None):
        place.shown.append(data)
        return handle if display_id is True else None

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(module, "this_cell", lambda: place.cell)
    monkeypatch.setattr(module, "DISPLAYED", {})
    return place


def test_a_cell_run_again_has_one_panel(notebook):
    from ipywidgets.widgets.widget import _instances

    model, tok = shipped()
    others = len(_instances)
    panels = [SamplerPanel(model, tok, source=None) for _ in range(3)]
    panels[0]._ipython_display_()
    notebook.cell = "b"
    panels[1]._ipython_display_()
    assert len(_instances) == others + 4  # two widgets, each with its layout
    assert panels[0].widget and panels[1].widget
    panels[1]._ipython_display_()  # the same one again
    notebook.cell = "a"

    async def run_again():
        panels[0].receive({"do": "start", "with": []})
        task = panels[0].columns[0].task
        panels[2]._ipython_display_()
        await asyncio.sleep(0)
        assert task.cancelled()

    asyncio.run(run_again())
    assert panels[0].widget is None and panels[1].widget and panels[2].widget
    for panel in panels[1:]:
        panel.close()
    assert len(_instances) <= others + 3  # layouts are not closed with their widgets


def test_what_is_displayed_is_a_widget_and_a_picture(notebook):
    model, tok = by_letters()
    panel = SamplerPanel(model, tok, "a<&", 5, source=None, compare={}, written=True)
    panel._ipython_display_()
    view, picture = notebook.shown
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.widget.model_id
    shown = picture["text/html"]
    assert "run this cell" in shown and html.escape(panel.text[:3]) in shown and "a<&" not in shown
    assert not re.search("<script|<button|<input|http", shown) and shown.count("<fieldset") == 2
    assert picture["text/plain"] == repr(panel)
    panel.widget._handle_custom_msg({"do": "change", "with": [0, "top_k", 2]}, [])
    assert panel.widget.state["columns"][0]["settings"]["top_k"] == 2 and panel.widget.state["answered"] == 1
    panel.draw_still()
    assert "top_k=2" in notebook.shown[-1]["text/plain"]
    panel.close()
    panel.draw_still()
    panel.refresh()


def test_the_module_of_the_browser_asks_nothing_of_other_hosts():
    for name in "sampler.js", "sampler.css":
        assert not re.search(r"https?:|//cdn|import\s*\(|@import|url\(", (module.HERE / name).read_text("utf-8"))


# In JupyterLab

PANEL = "SamplerPanel(model, tok)"


def small_notebook(path):
    """A notebook that shows a panel, with a cell after it."""
    import nbformat.v4 as v4
    from nbformat import write

    imports = "import tinygpt as tg\nfrom tinygpt import SamplerPanel\nfrom tinygpt.presets import TRAINED"
    cells = [
        v4.new_markdown_cell("# A panel"),
        v4.new_code_cell(f"{imports}\nmodel, tok = tg.load(TRAINED)"),
        v4.new_code_cell(PANEL),
        v4.new_code_cell("'the last cell'"),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    write(v4.new_notebook(cells=cells, metadata=kernel), path)


def open_in_lab(page, address, name):
    """Open a notebook, and wait for its kernel."""
    from playwright.sync_api import expect

    page.goto(address.replace("/lab?", f"/lab/tree/{name}?reset&", 1))
    expect(page.get_by_text("(ipykernel) | Idle")).to_be_visible(timeout=120_000)


def run_all(page):
    """Run all cells, and wait for the panel."""
    from playwright.sync_api import expect

    page.locator(".jp-Notebook .jp-Cell").first.click(position={"x": 5, "y": 5})
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    expect(page.locator(".tg-live").first).to_be_visible(timeout=100_000)
    expect(page.get_by_text("(ipykernel) | Idle")).to_be_visible(timeout=100_000)


def answer(route, wrong):
    """Let a request through if it stays on this machine."""
    if re.match(r"(data|blob):|https?://127\.0\.0\.1:", route.request.url):
        return route.continue_()
    wrong.append(f"asked for {route.request.url}")
    route.abort()


def walk(page, panel, pictures):
    """Use the first panel of a notebook as a reader would, by mouse and by keys."""
    from playwright.sync_api import expect

    call, text, rows = panel.locator(".call").first, panel.locator(".text").first, panel.locator(".rows").first
    write, stop = panel.get_by_role("button", name="Write", exact=True), panel.get_by_role("button", name="Stop")
    tokens = text.locator(".token")
    active = page.locator(".jp-Notebook-cell.jp-mod-active")

    # keys: the slider moves, the distribution follows, and the notebook stays where it is
    slider = panel.get_by_label("temperature").first
    slider.click()
    cell, before = active.first.get_attribute("data-windowed-list-index"), rows.inner_text()
    for key, wanted in ("Home", "temperature=0"), ("ArrowRight", "temperature=0.05"), ("ArrowUp", "temperature=0.1"):
        page.keyboard.press(key)
        expect(call).to_contain_text(f"{wanted},")
        expect(slider).to_be_focused()
    expect(rows).not_to_have_text(before)
    assert cell is not None
    assert active.first.get_attribute("data-windowed-list-index") == cell
    # mouse: the same by dragging
    top_k = panel.get_by_label("top-k").first
    box = top_k.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 12, box["y"] + box["height"] / 2, steps=12)
    page.mouse.up()
    expect(call).to_contain_text("top_k=")
    expect(rows).to_contain_text("cut")
    page.keyboard.press("End")
    expect(call).not_to_contain_text("top_k=")
    slider.focus()
    for _ in range(14):
        page.keyboard.press("ArrowRight")
    expect(call).to_contain_text("temperature=0.8,")

    # the random number, by hand
    u, choice = panel.get_by_label("random number u").first, panel.locator(".choice").first
    for key, wanted in ("Home", "u = 0.000"), ("ArrowRight", "u = 0.001"), ("End", "u = 0.999"):
        u.press(key)
        expect(choice).to_contain_text(wanted)

    # writing, and stopping
    panel.get_by_label("length", exact=True).fill("200")
    write.click()
    expect(tokens.nth(4)).to_be_visible()
    stop.click()
    expect(stop).to_be_disabled()
    n = tokens.count()
    assert 5 <= n < 200
    expect(call).to_contain_text(f"max_new_tokens={n},")
    written = text.inner_text()
    page.screenshot(path=pictures / "stopped.png")

    # an alternative, by mouse: the text goes on from it
    tokens.nth(2).click()
    expect(panel.locator(".caption").first).to_contain_text("token 3")
    page.screenshot(path=pictures / "alternatives.png")
    rows.locator("button.row:not(.chosen)").first.click()
    expect(panel.locator(".note").first).to_contain_text("that you chose")
    expect(tokens.nth(5)).to_be_visible()
    stop.click()
    expect(stop).to_be_disabled()
    expect(text).not_to_have_text(written)
    expect(call).to_contain_text("max_new_tokens=2,")
    # and by keys
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(panel.locator(".caption").first).to_contain_text("token 2")
    rows.locator("button.row").first.focus()
    page.keyboard.press("ArrowDown")
    expect(rows.locator("button.row").nth(1)).to_be_focused()
    assert active.first.get_attribute("data-windowed-list-index") == cell

    # two settings with one seed
    panel.get_by_label("length", exact=True).fill("12")
    panel.get_by_label("compare two settings").click()
    expect(panel.locator("fieldset")).to_have_count(2)
    panel.get_by_role("group", name="B").get_by_label("temperature").press("Home")
    expect(panel.locator(".call").nth(1)).to_contain_text("temperature=0,")
    write.click()
    expect(stop).to_be_enabled()
    expect(stop).to_be_disabled(timeout=30_000)
    texts = panel.locator(".text").all_inner_texts()
    assert len(set(texts)) == 2 and len({text[:4] for text in texts}) == 1
    page.screenshot(path=pictures / "two.png")
    panel.get_by_label("compare two settings").click()
    expect(panel.locator("fieldset")).to_have_count(1)

    # what cannot be written says so, in the panel
    panel.get_by_label("seed", exact=True).fill("-1")
    expect(panel.get_by_role("alert")).to_contain_text("seed")
    panel.get_by_label("seed", exact=True).fill("3")
    expect(panel.locator(".error")).to_have_text("")
    panel.get_by_label("prompt").fill("Dear reader")
    expect(text).to_have_text("Dear reader")
    expect(panel.locator(".source").first).to_contain_text("no tale begins like this")
    page.screenshot(path=pictures / "line.png")


def test_the_panel_in_lab(tmp_path):
    small_notebook(tmp_path / "small.ipynb")
    check_in_lab(tmp_path / "small.ipynb", tmp_path)


def check_in_lab(notebook, tmp_path):
    """Run a notebook with a panel in JupyterLab, use the panel, run all again, save, and look at what was saved."""
    from nbformat.sign import NotebookNotary
    from nbformat import read
    from playwright.sync_api import expect

    work, data = tmp_path / "nbs", tmp_path / "jupyter"
    work.mkdir()
    (tmp_path / "data").symlink_to(ROOT / "data")  # which a chapter may read
    shutil.copy(notebook, work / "panel.ipynb")

    def command(words):
        return [sys.executable, "-m", "jupyterlab", *words.split(), *([] if os.getuid() else ["--allow-root"])]

    wrong = []
    with lab(tmp_path, command, work, tmp_path / "lab.log", JUPYTER_DATA_DIR=str(data)) as (page, address):
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.route("**/*", lambda route: answer(route, wrong))
        page.set_viewport_size({"width": 1280, "height": 1300})
        open_in_lab(page, address, "panel.ipynb")
        run_all(page)
        panel = page.locator(".tg-live").first
        expect(panel).to_be_visible()
        expect(page.locator(".tg-still").first).to_be_hidden()
        walk(page, panel, tmp_path)
        run_all(page)  # again: one panel, which works
        expect(page.locator(".tg-live .call")).not_to_contain_text("Dear reader")
        expect(page.locator(".tg-live")).to_have_count(1)
        page.locator(".tg-live").get_by_label("temperature").press("Home")
        expect(page.locator(".tg-live .call")).to_contain_text("temperature=0,")
        for theme in "Dark", "Light":
            page.get_by_role("menuitem", name="Settings", exact=True).click()
            page.get_by_text("Theme", exact=True).first.hover()
            page.get_by_text(f"JupyterLab {theme}", exact=True).click()
            expect(page.locator(f'body[data-jp-theme-name="JupyterLab {theme}"]')).to_be_attached()
            expect(page.locator("#jupyterlab-splash")).to_have_count(0)
            page.screenshot(path=tmp_path / f"{theme.lower()}.png")
        # saved, it shows a picture of the last state, and how to make it live
        saved, until = work / "panel.ipynb", time.time() + 30
        page.locator(".jp-Notebook h1").first.click()
        while "temperature=0, " not in saved.read_text("utf-8"):
            assert time.time() < until
            page.keyboard.press("Control+s")
            page.wait_for_timeout(500)
        (work / "again.ipynb").write_text(saved.read_text("utf-8"), "utf-8")
        with NotebookNotary(data_dir=str(data)) as notary:
            notary.sign(read(work / "again.ipynb", 4))
        open_in_lab(page, address, "again.ipynb")
        expect(page.locator(".tg-still")).to_be_visible()
        expect(page.locator(".tg-still")).to_contain_text("run this cell")
        expect(page.get_by_text("widget")).to_be_hidden()
        page.screenshot(path=tmp_path / "saved.png")
        page.unroute_all(behavior="ignoreErrors")
    assert not wrong
