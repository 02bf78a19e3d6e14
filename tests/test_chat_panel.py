"""The chat panel: what it remembers and shows, and the panel in a browser."""

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

import pytest
import torch
from test_lab import lab
from test_sampler_panel import answer, open_in_lab

import tinygpt as tg
from tinygpt.chat import drop_oldest, encode_chat, reply
from tinygpt.show import chat_panel as module
from tinygpt.show import explorer
from tinygpt.show.chat_panel import ChatPanel

NASTY = '<img src=x onerror="alert(1)">&amp;<|end|><|user|></div>\n<script>'


@cache
def random_model():
    """A small model that nothing has trained, which seldom ends an answer."""
    torch.manual_seed(0)
    tok = tg.the_tokenizer()
    return tg.GPT(tg.GPTConfig.modern(vocab_size=tok.vocab_size, n_layer=1, n_head=2, n_embd=16, block_size=64)), tok


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def make(*args, **kwargs):
    return ChatPanel(*random_model(), *args, pause=0, **kwargs)


def says(monkeypatch, *pieces):
    """Let each answer consist of these pieces, of which an exception is raised; returns the messages of each call."""
    given = []

    def pretended(model, tok, messages, max_new_tokens, **settings):
        reply(model, tok, messages, max_new_tokens, **settings)  # raises what it raises
        given.append([dict(message) for message in messages])

        def written():
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece

        return written()

    monkeypatch.setattr(module, "reply", pretended)
    return given


def ask(panel, name, *values):
    """What a message of the browser does."""
    panel.receive({"do": name, "with": list(values)})


async def until(condition):
    """Let the panel work until this holds."""
    end = time.time() + 20
    while not condition():
        assert time.time() < end
        await asyncio.sleep(0)


# The conversation


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "top_k": 9, "seed": 5}, {"stop": "a"}])
def test_the_answers_are_those_of_reply(settings):
    panel = make(12, **settings)
    for n, question in enumerate(["How many?", "Why is that so?"]):
        ask(panel, "send", question)
        assert not panel.error
        seed = {"seed": 5 + n} if "seed" in settings else {}
        written = "".join(reply(*random_model(), panel.messages[:-1], 12, **(settings | seed)))
        assert panel.messages[-2:] == [user(question), assistant(written)]
    assert len(panel.messages) == 4 and repr(panel).startswith("user: How many?\nassistant: ")


def test_an_empty_message_does_nothing():
    panel = make(4)
    for text in "", " ", "\n\t ":
        ask(panel, "send", text)
    assert panel.messages == [] and not panel.error


def test_an_opening_conversation_goes_on(monkeypatch):
    given = says(monkeypatch, "Three", ".")
    opening = [user("Who are you?"), assistant("Nora.")]
    panel = make(4, messages=opening)
    assert panel.messages == opening and len(given) == 1  # the one that checks the settings
    ask(panel, "send", "How many?")
    assert given[-1] == [*opening, user("How many?")] and panel.messages[-1] == assistant("Three.")
    assert len(opening) == 2 and opening[1]["content"] == "Nora."
    asked = make(4, messages=[*opening, user("How many?")])
    assert asked.messages == panel.messages


def test_what_is_written_stays_plain_text():
    _, tok = random_model()
    panel = make(4, messages=[user(NASTY), assistant(NASTY)])
    shown = panel.picture()["text/html"]
    assert shown.count(html.escape(NASTY)) == 2 and NASTY not in shown and "<img" not in shown
    ids = encode_chat(tok, panel.messages)
    assert sum(id in tok.special_tokens.values() for id in ids) == 3  # two roles and one end


def test_half_an_emoji_does_not_break_the_panel():
    panel = make(4)
    ask(panel, "send", "a \ud83d b \U0001f600")
    assert panel.messages[0]["content"] == "a \ufffd b \U0001f600" and not panel.error
    repr(panel).encode()


def test_old_turns_are_dropped_whole_and_the_panel_says_so(monkeypatch):
    given = says(monkeypatch, "The kite was red, ", "and so was the other one.")
    model, tok = random_model()
    panel = make(8)
    for n in range(9):
        ask(panel, "send", f"What did they say about number {n} yesterday?")
        fitting = drop_oldest(tok, panel.messages[:-1], 64 - 8)
        assert given[-1] == fitting == panel.messages[panel.n_forgotten : -1]
        assert fitting[0]["role"] == "user" and len(panel.messages) == 2 * (n + 1)
        shown = panel.picture()["text/html"]
        assert (module.FORGOTTEN in shown) == (panel.n_forgotten > 0)
    assert panel.n_forgotten % 2 == 0 and 0 < panel.n_forgotten < 18
    above, below = shown.split(module.FORGOTTEN)
    assert above.count('<div class="message') == panel.n_forgotten
    ask(panel, "clear")
    assert panel.messages == [] and module.FORGOTTEN not in panel.picture()["text/html"]
    ask(panel, "send", "Hello")
    assert given[-1] == [user("Hello")]


# Errors


def test_errors_are_one_line_and_the_conversation_goes_on(monkeypatch):
    panel = make(4)
    ask(panel, "send", "Hello")
    before = list(panel.messages)
    for do, values, said in [
        ("send", ["word " * 100], "and this model can read 61: shorten it"),
        ("send", [], "TypeError"),
        ("__init__", [], "is not one of send, stop, clear"),
        ("stop", [1], "TypeError"),
    ]:
        ask(panel, do, *values)
        assert said in panel.error and "\n" not in panel.error and panel.messages == before
    ask(panel, "send", "Hello again")
    assert not panel.error and len(panel.messages) == 4


def test_what_fails_within_an_answer_is_named(monkeypatch):
    says(monkeypatch, "Three ", RuntimeError("out of\nmemory"))
    panel = make(4)

    async def steps():
        ask(panel, "send", "How many?")
        await until(lambda: not panel.task)

    asyncio.run(steps())
    assert panel.error == "RuntimeError: out of memory" and panel.messages[-1] == assistant("Three ")
    says(monkeypatch, "Four")
    ask(panel, "send", "And now?")
    assert not panel.error and panel.messages[-1] == assistant("Four")


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"top_k": 0}, {"max_new_tokens": -1}, {"seed": -1}, {"stop": ""}, {"dtype": "int8"},
     {"messages": "Hello"}, {"messages": [{"role": "robot", "content": "Hello"}]}, {"messages": [user("word " * 99)]}],
)  # fmt: skip
def test_wrong_arguments_raise(wrong):
    with pytest.raises(ValueError):
        make(**wrong)


def test_a_tokenizer_without_roles_is_refused():
    model, _ = random_model()
    with pytest.raises(ValueError, match="has learned no conversations"):
        ChatPanel(model, tg.CharTokenizer.train("abc "))


# Writing in the background


def test_the_answer_streams_and_stops_at_once(monkeypatch):
    says(monkeypatch, *[f"{n} " for n in range(100)])
    panel = make()
    seen = []

    async def steps():
        ask(panel, "send", "Count!")
        assert panel.task and panel.messages == [user("Count!"), assistant("")]
        while len(panel.messages[-1]["content"].split()) < 5:
            seen.append(panel.messages[-1]["content"])
            await asyncio.sleep(0)
        ask(panel, "stop")
        partial = panel.messages[-1]["content"]
        for _ in range(20):
            await asyncio.sleep(0)
        assert panel.messages[-1]["content"] == partial == "0 1 2 3 4 " and not panel.task
        ask(panel, "stop")  # once more
        assert not panel.error and len(asyncio.all_tasks()) == 1

    asyncio.run(steps())
    assert {"0 ", "0 1 ", "0 1 2 "} <= set(seen)


@pytest.mark.parametrize("name, values", [("clear", []), ("send", ["Again!"])])
def test_what_begins_anew_ends_the_answer_before(monkeypatch, name, values):
    says(monkeypatch, *[f"{n} " for n in range(100)])
    panel = make()

    async def steps():
        ask(panel, "send", "Count!")
        await until(lambda: "3" in panel.messages[-1]["content"])
        old = panel.task
        ask(panel, name, *values)
        await until(lambda: not panel.task and old.done())
        assert old.cancelled()

    asyncio.run(steps())
    if name == "clear":
        assert panel.messages == []
    else:
        assert panel.messages[1] == assistant("0 1 2 3 ") and panel.messages[-1]["content"].endswith("99 ")


def test_two_panels_write_at_the_same_time():
    panels = [make(20, temperature=1.0, seed=seed) for seed in (1, 2)]

    async def steps():
        for panel, question in zip(panels, ["How many?", "Why?"]):
            ask(panel, "send", question)
        together = set()
        while any(panel.task for panel in panels):
            together.add(tuple(len(panel.messages[-1]["content"]) > 0 for panel in panels if panel.task))
            await asyncio.sleep(0)
        assert (True, True) in together

    asyncio.run(steps())
    for panel, question, seed in zip(panels, ["How many?", "Why?"], (1, 2)):
        written = "".join(reply(*random_model(), [user(question)], 20, temperature=1.0, seed=seed))
        assert panel.messages == [user(question), assistant(written)]


# In a notebook


@pytest.fixture
def shown(monkeypatch):
    """What is displayed."""
    import IPython.display

    outputs = []
    handle = SimpleNamespace(display_id="one", update=lambda data, raw: outputs.append(data))

    def display(data, raw, display_id=None):
        outputs.append(data)
        return handle if display_id is True else None

    monkeypatch.setattr(IPython.display, "display", display)
    return outputs


def test_what_is_displayed_is_a_widget_and_a_picture(shown, monkeypatch):
    says(monkeypatch, "Three")
    panel = make(4, messages=[user("a<&"), assistant("b\nc")])
    panel._ipython_display_()
    view, picture = shown
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.widget.model_id
    drawn = picture["text/html"]
    assert "run this cell" in drawn and "a&lt;&amp;" in drawn and not re.search("<script|<button|<input|http", drawn)
    assert picture["text/plain"] == repr(panel) == "user: a<&\nassistant: b\nc"
    panel.widget._handle_custom_msg({"do": "send", "with": ["How many?"]}, [])
    assert [*panel.widget.past, *panel.widget.newest] == panel.messages and len(panel.messages) == 4
    assert panel.widget.status["answered"] == 1 and not panel.widget.status["writing"]
    assert "Three" in shown[-1]["text/html"]
    json.dumps(panel.widget.get_state(["past", "newest", "status"]))
    panel.close()
    panel.refresh()


def test_a_cell_run_again_closes_what_it_showed(shown, monkeypatch):
    says(monkeypatch, *[f"{n} " for n in range(100)])
    monkeypatch.setattr(explorer, "DISPLAYED", {})
    monkeypatch.setattr(explorer, "this_cell", lambda: "a")
    shell = SimpleNamespace(execution_count=1)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    first, beside, second = make(), make(), make()

    async def steps():
        first._ipython_display_()
        beside._ipython_display_()  # in the same cell
        first.send("Count!")
        await until(lambda: first.messages[-1]["content"])
        assert first.widget and beside.widget
        shell.execution_count = 2
        second._ipython_display_()
        assert first.widget is beside.widget is first.task is None and second.widget
        shell.execution_count = 3
        second._ipython_display_()  # the same one again, with its conversation
        assert second.widget

    asyncio.run(steps())
    second.close()


def test_the_files_of_the_browser_ask_nothing_of_other_hosts_and_write_no_html():
    for name in "chat_panel.js", "chat_panel.css":
        text = (module.HERE / name).read_text("utf-8")
        assert not re.search(r"https?:|//cdn|import\s*\(|@import|url\(|innerHTML", text)


# In JupyterLab

FIRST = """import torch
import tinygpt as tg
from tinygpt.show.chat_panel import ChatPanel
torch.manual_seed(0)
tok = tg.the_tokenizer()
model = tg.GPT(tg.GPTConfig.modern(vocab_size=tok.vocab_size, n_layer=1, n_head=2, n_embd=16, block_size=64))"""
PANEL = 'ChatPanel(model, tok, 300, messages=[{{"role": "user", "content": "{}"}}, ' \
        '{{"role": "assistant", "content": "<i>b</i>"}}], temperature=1.0, top_k=50, seed={})'  # fmt: skip


def small_notebook(path):
    """A notebook that shows two panels."""
    import nbformat.v4 as v4
    from nbformat import write

    sources = FIRST, PANEL.format("Hello", 0), PANEL.format("Good day", 1), "'the last cell'"
    cells = [v4.new_markdown_cell("# Two panels"), *map(v4.new_code_cell, sources)]
    write(v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}), path)


def walk(page, pictures):
    """Use the panels as a reader would, with the keyboard alone."""
    from playwright.sync_api import expect

    panel, other = page.locator(".tg-live").nth(0), page.locator(".tg-live").nth(1)
    field, words = panel.get_by_label("message", exact=True), panel.locator(".words")
    stop, send = (panel.get_by_role("button", name=name) for name in ("Stop", "Send"))
    expect(words).to_have_text(["Hello", "<i>b</i>"])

    # keys: a line break, an empty message, a message; the answer grows, and Stop keeps what there is
    field.focus()
    page.keyboard.press("Enter")
    page.keyboard.type("<b>one</b>")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("<|end|>")
    page.keyboard.press("Enter")
    expect(words).to_have_count(4)
    expect(words.nth(2)).to_have_text("<b>one</b>\n<|end|>")
    expect(words.nth(3)).to_have_text(re.compile(r"\w+.*\w+"))
    expect(panel.get_by_role("status")).to_contain_text("writing")
    page.keyboard.type("next")  # meanwhile
    page.keyboard.press("Enter")  # waits
    expect(field).to_have_value("next")
    page.screenshot(path=pictures / "streaming.png")
    page.keyboard.press("Tab")  # over Send, which is disabled
    expect(stop).to_be_focused()
    page.keyboard.press("Enter")
    expect(stop).to_be_disabled()
    expect(field).to_be_focused()
    partial = words.nth(3).inner_text()
    page.wait_for_timeout(300)
    assert words.nth(3).inner_text() == partial
    expect(other.locator(".words")).to_have_text(["Good day", "<i>b</i>"])

    # too long a message: one line, the text comes back, and the conversation goes on
    field.fill("word " * 200)
    page.keyboard.press("Enter")
    expect(panel.get_by_role("alert")).to_contain_text("shorten it")
    expect(field).to_have_value("word " * 200)
    field.fill("What did they say about it yesterday? " * 3)
    send.focus()
    page.keyboard.press("Space")
    expect(panel.get_by_role("alert")).to_have_text("")
    expect(panel.locator(".forgotten")).to_contain_text("forgotten")
    stop.focus()
    page.keyboard.press("Space")
    expect(words).to_have_count(6)
    page.screenshot(path=pictures / "forgotten.png")

    # clear, in one panel
    panel.get_by_role("button", name="Clear").focus()
    page.keyboard.press("Enter")
    expect(words).to_have_count(0)
    expect(panel.locator(".forgotten")).to_have_count(0)
    expect(other.locator(".words")).to_have_text(["Good day", "<i>b</i>"])
    field.fill("Anew <&")
    page.keyboard.press("Enter")
    expect(words.nth(1)).not_to_have_text("")
    stop.click()
    expect(words.first).to_have_text("Anew <&")


def test_the_panel_in_lab(tmp_path):
    from nbformat import read
    from nbformat.sign import NotebookNotary
    from playwright.sync_api import expect

    work, data, wrong = tmp_path / "nbs", tmp_path / "jupyter", []
    work.mkdir()
    small_notebook(work / "panel.ipynb")

    def command(words):
        return [sys.executable, "-m", "jupyterlab", *words.split(), *([] if os.getuid() else ["--allow-root"])]

    with lab(tmp_path, command, work, tmp_path / "lab.log", JUPYTER_DATA_DIR=str(data)) as (page, address):
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.route("**/*", lambda route: answer(route, wrong))
        page.set_viewport_size({"width": 1280, "height": 1300})
        open_in_lab(page, address, "panel.ipynb")
        page.locator(".jp-Notebook .jp-Cell").first.click(position={"x": 5, "y": 5})
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        expect(page.locator(".tg-live")).to_have_count(2, timeout=100_000)
        expect(page.locator(".jp-OutputArea-output").get_by_text("'the last cell'")).to_be_visible(timeout=100_000)
        expect(page.locator(".tg-still").first).to_be_hidden()
        walk(page, tmp_path)
        # saved, it shows a picture of the conversations, and how to make them live
        page.locator(".jp-Notebook h1").first.click()
        end = time.time() + 30
        while "Anew &lt;&amp;" not in (work / "panel.ipynb").read_text("utf-8"):
            assert time.time() < end
            page.keyboard.press("Control+s")
            page.wait_for_timeout(500)
        shutil.copy(work / "panel.ipynb", work / "again.ipynb")
        with NotebookNotary(data_dir=str(data)) as notary:
            notary.sign(read(work / "again.ipynb", 4))
        open_in_lab(page, address, "again.ipynb")
        expect(page.locator(".tg-still")).to_have_count(2)
        expect(page.locator(".tg-still").first).to_be_visible()
        expect(page.locator(".tg-still .words").first).to_have_text("Anew <&")
        expect(page.locator(".tg-still").first).to_contain_text("run this cell")
        expect(page.get_by_text("widget").filter(visible=True)).to_have_count(0)
        page.screenshot(path=tmp_path / "saved.png")
        page.unroute_all(behavior="ignoreErrors")
    assert not wrong
