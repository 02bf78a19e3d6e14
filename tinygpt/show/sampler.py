"""A panel of sliders for sampling: what they do to the next token, and the text that is drawn from it."""

import asyncio
import html
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from torch import Tensor
from tinygpt import guard
from tinygpt.sample import Sampler
from tinygpt.show.distribution import cumulative_bar, surprise_text, token_name, token_rows
from tinygpt.show.writing import Writing
from tinygpt.world.next_token import next_token

__all__ = ["SamplerPanel"]

HERE = Path(__file__).parent
OFF = vars(Sampler())  # settings that change nothing
TOP_K = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000, 10000, 20000]
STOPS = {  # the values at which a slider stops
    "temperature": [step / 20 for step in range(41)],
    "top_k": TOP_K,
    "top_p": [step / 100 for step in range(100)],
    "min_p": [step / 100 for step in range(1, 51)],
    "repetition_penalty": [step / 20 for step in range(20, 41)],
}
LAST_IS_OFF = ("top_k", "top_p")  # the other sliders are off at their beginning, or have no such place
ACTIONS = ("change", "start", "stop", "start_another", "compare", "look", "move_u", "take")  # of the browser
SEEDS = 10_000
NOTHING = {"caption": "", "bar": "", "u": 0, "choice": "", "chosen": 0, "rows": "", "source": ""}  # drawn
HOW_TO = "A picture of the panel. To make it live, run this cell in JupyterLab (Shift+Enter)."

class Column:
    "One set of sliders with its text, and what is drawn of them."

    def __init__(self, settings: dict):
        self.settings = settings
        self.task = self.steps = None
        self.drawn = NOTHING
        self.begin(None)

    def begin(self, writing: Writing | None):
        "Begin a text; None if nothing can be written."
        self.writing = writing
        self.written, self.branch = None, None  # its arguments of `generate`, and from where on they no longer hold
        self.known = None, None, ""  # a text, the source's probabilities after it, or why there are none
        self.look(None)

    def stop(self):
        "Stop writing; the text stays."
        if self.task:
            self.task.cancel()
            self.task = None
            self.steps.close()

    def look(self, place: int | None):
        "Choose the place of the text that is drawn; None for its end."
        self.place, self.u = place, None

    @property
    def shown(self) -> int:
        "The place that is drawn: the chosen one or that of the next token, or the last token's if the text has ended."
        return len(self.writing.tokens) - self.writing.ended if self.place is None else self.place

    def write(self, max_new_tokens: int) -> Iterator[None]:
        "Write a text from its beginning, token by token."
        self.written = self.settings | {"max_new_tokens": max_new_tokens}
        yield from self.writing.write(Sampler(**self.settings), max_new_tokens)

    def draw(self, source: Callable | None):
        "Draw the distribution at the place that is shown: before the settings, after them, and the source's own."
        self.drawn = NOTHING
        if not self.writing:
            return
        place, writing, name = self.shown, self.writing, partial(token_name, self.writing.tok)
        old = writing.tokens[place] if place < len(writing.tokens) else None
        before = old.logits if old else writing.logits  # (1, V)
        after = Sampler(**self.settings)(before, [writing.ids(place)])
        u = writing.u(place) if self.u is None else self.u
        chosen = writing.draw_at(place, after, u)
        truth, why_not = self.source_after(source, writing.text(place))
        probs = [logits.double().softmax(-1)[0].cpu() for logits in (before, after)]
        instead = f"In place of <b>{html.escape(name(old.id))}</b>, token {place + 1}" if old else "The next token"
        self.drawn = {
            "caption": instead, "bar": cumulative_bar(after[0].cpu(), u, chosen, name), "u": u, "chosen": chosen,
            "choice": f"u = {u:.3f} draws <b>{html.escape(name(chosen))}</b>",
            "rows": token_rows(*probs, truth, chosen, name), "source": why_not,
        }

    def source_after(self, source: Callable | None, text: str) -> tuple[Tensor | None, str]:
        "The source's probabilities after this text, or why there are none."
        if source is not None and self.known[0] != text:
            try:
                self.known = text, source(text, self.writing.tok), ""
            except ValueError as error:
                self.known = text, None, f"Without the source's own distribution: {error}"
        return self.known[1:]

    def state(self, max_new_tokens: int, seed: int) -> dict:
        "What the browser shows."
        prompt, tokens = (self.writing.prompt, self.writing.tokens) if self.writing else ("", [])
        tokens = [(token.piece or token_name(self.writing.tok, token.id), token.surprise) for token in tokens]
        return self.drawn | {"settings": self.settings, "text": surprise_text(prompt, tokens, self.place),
                             "looking": self.place is not None, "writing": self.task is not None,
                             "call": self.call(max_new_tokens, seed), "note": self.note(max_new_tokens)}

    def call(self, max_new_tokens: int, seed: int) -> str:
        "The call of `generate` that writes this text, up to the place where another token was taken."
        now, note, n = self.settings | {"max_new_tokens": max_new_tokens}, "", max_new_tokens
        if not self.writing:
            return ""
        if self.branch is not None:
            now, n, note = self.written, self.branch, "  # up to the token that you chose"
        elif self.written == now and not self.task and not self.writing.ended:
            n = len(self.writing.tokens)  # fewer if it was stopped
        given = [f"{name}={value!r}" for name, value in now.items() if name in OFF and value != OFF[name]]
        words = ", ".join([f"max_new_tokens={n}", *given, f"seed={seed}"])
        return f"generate(model, tok, {self.writing.prompt!r}, {words}){note}"

    def note(self, max_new_tokens: int) -> str:
        "What a reader should know about the text."
        if self.branch is not None:
            return "After the token that you chose, the text has no call that writes it."
        if self.written and self.written != self.settings | {"max_new_tokens": max_new_tokens}:
            return "This text was written with other settings; Write makes that of the present ones."
        return ""

def checked(settings: dict) -> dict:
    "The settings; raises ValueError unless something can be drawn with them."
    return dict(vars(Sampler(**settings)))

@cache
def widget_class():
    "The class of the widget in the browser."
    import anywidget
    import traitlets
    return type("SamplerWidget", (anywidget.AnyWidget,), {
        "_esm": (HERE / "sampler.js").read_text("utf-8"),
        "_css": (HERE / "sampler.css").read_text("utf-8"),
        "sliders": traitlets.List().tag(sync=True),  # of each the argument, its values and their names
        "state": traitlets.Dict().tag(sync=True),
    })

def slider_stops(name: str, vocab_size: int, given: list[float | int | None]) -> dict:
    "The values of a slider, with those that were given, and the words that name them."
    values = {value for value in STOPS[name] if name != "top_k" or value < vocab_size}
    values = sorted(values | {value for value in given if value is not None})
    if OFF[name] is None:
        values = [*values, None] if name in LAST_IS_OFF else [None, *values]
    off = {"temperature": (0, "0 (greedy)"), "repetition_penalty": (1, "1 (off)")}.get(name, (None, "off"))
    words = [off[1] if value == off[0] else f"{value:g}" for value in values]
    return {"name": name, "label": name.replace("_", "-" if name != "repetition_penalty" else " "),
            "values": values, "words": words}

def this_cell() -> str | None:
    "What stays the same when a notebook's cell is run again: its id or, where a frontend sends none, its source."
    from IPython import get_ipython
    shell = get_ipython()
    if not hasattr(shell, "kernel"):
        return None
    return shell.get_parent().get("metadata", {}).get("cellId") or shell.user_ns["In"][-1]

DISPLAYED: dict[str | None, "SamplerPanel"] = {}  # the panel of each cell

class SamplerPanel:
    "Sliders for sampling, in a notebook: a prompt, the next token's distribution, and the text that is drawn from it."

    def __init__(
        self,
        model,
        tok,
        prompt: str = "Once upon a time",
        max_new_tokens: int = 60,
        *,
        temperature: float = 1.0,  # the settings are those of `generate`
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = 0,
        compare: dict | None = None,  # settings of a second column, such as {"temperature": 0.5}
        written: bool = False,  # with the first text, for a picture that shows one
        source: Callable | None = next_token,  # (text, tok) -> the true probabilities (V,), or ValueError
        pause: float = 0.03,  # seconds between tokens, so that one can read along
    ):
        guard.writing(model, tok, [prompt], max_new_tokens, (), seed, None)
        self.model, self.tok, self.source, self.pause = model, tok, source, pause
        self.prompt, self.max_new_tokens = prompt, max_new_tokens
        self.seed = secrets.randbelow(SEEDS) if seed is None else seed
        settings = dict(zip(OFF, (temperature, top_k, top_p, min_p, repetition_penalty)))
        self.columns = [Column(checked(settings))]
        if compare is not None:
            self.columns.append(Column(checked(settings | compare)))
        given = {name: [column.settings[name] for column in self.columns] for name in OFF}
        self.sliders = [slider_stops(name, tok.vocab_size, values) for name, values in given.items()]
        self.error, self.answered, self.widget, self.still, self.redraw = "", 0, None, None, None
        self.begin()
        if written:
            for column in self.columns:
                deque(column.write(max_new_tokens), maxlen=0)

    # What the browser asks for

    def receive(self, message: dict):
        "Do one of the ACTIONS, {do: its name, with: its arguments}; what goes wrong stands in the panel."
        self.error = ""
        try:
            if message["do"] not in ACTIONS:
                raise ValueError(f"{message['do']!r:.60} is not one of {', '.join(ACTIONS)}")
            getattr(self, message["do"])(*message["with"])
        except Exception as error:  # whatever a model or a tokenizer of the user's raises
            self.report(error)
        self.answered += 1
        self.refresh()

    def change(self, column: int | None, name: str, value):
        "Change a setting of a column or, if that is None, the prompt, max_new_tokens or the seed, which all share."
        if column is not None:
            self.columns[column].settings = checked(self.columns[column].settings | {name: value})
        elif name == "max_new_tokens":
            self.max_new_tokens = guard.whole_number("the length", value, 1)
        elif name in ("prompt", "seed"):
            self.stop()
            setattr(self, name, guard.whole_number("the seed", value, 0) if name == "seed" else value)
            self.begin()

    def begin(self):
        "Read the prompt, for each column; nothing is written yet."
        for column in self.columns:
            column.begin(None)
        for column in self.columns:
            column.begin(Writing(self.model, self.tok, self.prompt, self.seed))

    def start(self):
        "Write the texts of all columns from the beginning."
        self.stop()
        self.begin()
        for column in self.columns:
            self.run(column, column.write(self.max_new_tokens))

    def start_another(self):
        "Write with another seed."
        self.change(None, "seed", secrets.randbelow(SEEDS))
        self.start()

    def stop(self):
        "Stop writing; what is written stays."
        for column in self.columns:
            column.stop()

    def compare(self, on: bool):
        "Show or remove a second column, with settings of its own and the same seed."
        self.stop()
        del self.columns[1:]
        if on:
            self.columns.append(Column(dict(self.columns[0].settings)))
            self.columns[1].begin(Writing(self.model, self.tok, self.prompt, self.seed))

    def look(self, column: int, place: int | None):
        "Look at the alternatives of a token; None: at the next token."
        self.columns[column].stop()
        self.columns[column].look(place)

    def move_u(self, column: int, u: float):
        "Put another number in the place of the random one."
        guard.number("u", u, limit=1)
        self.columns[column].u = u

    def take(self, column: int, id: int):
        "Go on with this token at the place that is drawn."
        guard.whole_number("the token's id", id, 0, self.tok.vocab_size - 1)
        one = self.columns[column]
        if one.task:  # the text has gone on from the place that is drawn
            return
        place, writing = one.shown, one.writing
        one.look(None)
        if place < len(writing.tokens) and writing.tokens[place].id == id:
            return
        one.written = one.written or one.settings
        one.branch = place if one.branch is None else min(place, one.branch)
        writing.go_back(place)
        writing.add(id)
        self.run(one, writing.write(Sampler(**one.settings), place + 1 + self.max_new_tokens))

    # Writing, in turns with what the browser asks for

    def run(self, one: Column, steps: Iterator[None]):
        "Write in the background of a notebook's kernel; elsewhere, at once."
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return deque(steps, maxlen=0)
        one.steps, one.task = steps, loop.create_task(self.write_on(one, steps))

    async def write_on(self, one: Column, steps: Iterator[None]):
        "Write token by token, with pauses in which the kernel hears of clicks."
        try:
            for _ in steps:
                self.refresh()
                await asyncio.sleep(self.pause)
        except Exception as error:
            self.report(error)
        one.task = None  # if it was not stopped
        self.refresh()

    # What the browser shows

    def report(self, error: Exception):
        "Show an error in the panel."
        self.error = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"

    def state(self) -> dict:
        "All that the browser shows."
        columns = []
        for column in self.columns:
            try:
                if not column.task:  # while a text is being written, what was drawn before stays
                    column.draw(self.source)
            except Exception as error:  # such as logits that are NaN
                self.report(error)
            columns.append(column.state(self.max_new_tokens, self.seed))
        return {"columns": columns, "prompt": self.prompt, "max_new_tokens": self.max_new_tokens, "seed": self.seed,
                "writing": any(column.task for column in self.columns), "error": self.error, "answered": self.answered}

    def refresh(self):
        "Tell the browser what has changed and, when all is quiet, draw the picture for a saved notebook."
        if not self.widget:
            return
        self.widget.state = self.state()
        if self.redraw:
            self.redraw.cancel()
        try:
            self.redraw = asyncio.get_running_loop().call_later(0.5, self.draw_still)
        except RuntimeError:
            pass

    def draw_still(self):
        "Update the picture that a saved notebook shows in place of the panel."
        if self.still:
            self.still.update(self.picture(), raw=True)

    def picture(self) -> dict:
        "The panel as plain HTML, and as text."
        state, parts = self.state(), []
        for column in state["columns"]:
            rows = column["rows"].replace("<button", "<div").replace("</button", "</div")
            text = column["text"].replace('role="button"', "")
            name = f"<legend>{'AB'[len(parts)]}</legend>" if len(self.columns) == 2 else ""
            parts.append(f'<fieldset>{name}<div class="text">{text}</div>'
                         f'<div class="muted">{html.escape(column["note"])}</div>'
                         f'<code class="call">{html.escape(column["call"])}</code>'
                         f'<div class="caption">{column["caption"]}: {column["choice"]}</div>'
                         f'{column["bar"]}{rows}<div class="muted">{html.escape(column["source"])}</div></fieldset>')
        two = " two" if len(parts) == 2 else ""
        body = (f'<style>{(HERE / "sampler.css").read_text("utf-8")}</style><div class="tg-sampler tg-still">'
                f'<div class="columns{two}">{"".join(parts)}</div>'
                f'<div class="error">{html.escape(state["error"])}</div><p class="muted">{HOW_TO}</p></div>')
        return {"text/html": body, "text/plain": repr(self)}

    @property
    def text(self) -> str:
        "The text that is shown, that of the first column: the prompt and what has been written after it."
        return self.columns[0].writing.text()

    def __repr__(self) -> str:
        return "\n".join(column.call(self.max_new_tokens, self.seed) for column in self.columns)

    def _ipython_display_(self):
        "Display the live panel and, for a saved notebook, its picture, which the live one hides."
        from IPython.display import display
        cell = this_cell()
        if DISPLAYED.get(cell, self) is not self:
            DISPLAYED[cell].close()
        DISPLAYED[cell] = self
        if not self.widget:
            self.widget = widget_class()(sliders=self.sliders, state=self.state())
            self.widget.on_msg(lambda widget, message, buffers: self.receive(message))
        view, *_ = self.widget._repr_mimebundle_()
        display(view | {"text/plain": "", "text/html": "<span></span>"}, raw=True)
        name = self.still.display_id if self.still else True
        self.still = display(self.picture(), raw=True, display_id=name) or self.still

    def close(self):
        "Stop writing, and take the panel out of the browser."
        self.stop()
        if self.widget:
            self.widget.close()
        self.widget = self.still = None
