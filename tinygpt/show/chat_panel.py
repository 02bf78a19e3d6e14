"""A chat panel: a conversation with a model in a notebook, whose answers appear as they are written."""

import asyncio
import html
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from tinygpt import guard
from tinygpt.chat import drop_oldest, prompt_size, reply
from tinygpt.show.explorer import keep

__all__ = ["ChatPanel"]

HERE = Path(__file__).parent
ACTIONS = ("send", "stop", "clear")  # of the browser
FORGOTTEN = "The messages above no longer fit into the window: the model has forgotten them."
HOW_TO = "A picture of the conversation. To make it live, run this cell in JupyterLab (Shift+Enter)."

@cache
def widget_class():
    "The class of the widget in the browser."
    import anywidget
    import traitlets
    return type("ChatWidget", (anywidget.AnyWidget,), {
        "_esm": (HERE / "chat_panel.js").read_text("utf-8"),
        "_css": (HERE / "chat_panel.css").read_text("utf-8"),
        "past": traitlets.List().tag(sync=True),  # messages; apart from the newest, so that only it is sent again
        "newest": traitlets.List().tag(sync=True),
        "status": traitlets.Dict().tag(sync=True),
    })

class ChatPanel:
    "A conversation with a model, in a notebook. Its `messages` are those that `reply` takes."

    def __init__(self, model, tok, max_new_tokens: int = 200, *, messages: Sequence[Mapping[str, str]] = (),
                 temperature: float = 0.0, top_k: int | None = None, top_p: float | None = None,
                 min_p: float | None = None, repetition_penalty: float = 1.0, stop: str | Sequence[str] = (),
                 seed: int | None = None,  # of the first answer; each further one has the next seed
                 dtype: str | None = None, compile: bool = False,
                 pause: float = 0.03):  # seconds between pieces, so that one can read along
        self.model, self.tok, self.seed, self.pause = model, tok, seed, pause
        self.settings = dict(max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p,
                             min_p=min_p, repetition_penalty=repetition_penalty, stop=stop, dtype=dtype,
                             compile=compile)
        reply(model, tok, [{"role": "user", "content": ""}], seed=seed, **self.settings)  # refuses wrong settings
        guard.messages(tok, messages)
        self.messages, self.n_forgotten = [dict(message) for message in messages], 0
        self.error, self.answered = "", 0
        self.task = self.widget = self.still = None
        if self.messages and self.messages[-1]["role"] == "user":
            self.write(self.ask(self.messages.pop()["content"]))

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

    def send(self, text: str):
        "Send a message. In a notebook the answer is written in the background, elsewhere at once."
        if not text.strip():
            return
        self.stop()
        pieces = self.ask(text)
        try:
            self.task = asyncio.get_running_loop().create_task(self.write_on(pieces))
        except RuntimeError:
            self.write(pieces)

    def stop(self):
        "Stop the answer that is being written; what there is of it stays."
        if self.task:
            self.task.cancel()
        self.task = None
        self.refresh()

    def clear(self):
        "Forget the conversation."
        self.messages, self.n_forgotten = [], 0
        self.stop()

    # Answering, in turns with what the browser asks for

    def ask(self, text: str) -> Iterator[str]:
        "Add a message and an empty answer; returns the pieces of the answer. Raises ValueError, adding nothing."
        size = prompt_size(self.model.config.block_size, self.settings["max_new_tokens"])
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # half an emoji is no text
        question = {"role": "user", "content": text}
        kept = drop_oldest(self.tok, [*self.messages[self.n_forgotten :], question], size)
        seed = None if self.seed is None else self.seed + len(self.messages) // 2
        pieces = reply(self.model, self.tok, kept, seed=seed, **self.settings)
        self.n_forgotten = len(self.messages) + 1 - len(kept)
        self.messages += [question, {"role": "assistant", "content": ""}]
        return pieces

    def write(self, pieces: Iterator[str]):
        "Write the answer at once."
        for piece in pieces:
            self.messages[-1]["content"] += piece

    async def write_on(self, pieces: Iterator[str]):
        "Write the answer piece by piece, with pauses in which the kernel hears of clicks."
        answer = self.messages[-1]
        try:
            for piece in pieces:
                answer["content"] += piece
                self.refresh()
                await asyncio.sleep(self.pause)
        except Exception as error:
            self.report(error)
        self.task = None  # if it was not stopped
        self.refresh()

    # What the browser shows

    def report(self, error: Exception):
        "Show an error in the panel, in one line."
        words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        self.error = " ".join(words.split())

    def refresh(self):
        "Tell the browser what has changed and, unless an answer is being written, a saved notebook too."
        if not self.widget:
            return
        messages = [dict(message) for message in self.messages]
        with self.widget.hold_sync():
            self.widget.past, self.widget.newest = messages[:-1], messages[-1:]
            self.widget.status = {"writing": self.task is not None, "error": self.error, "answered": self.answered,
                                  "n_forgotten": self.n_forgotten, "note": FORGOTTEN}
        if self.still and not self.task:
            self.still.update(self.picture(), raw=True)

    def picture(self) -> dict:
        "The conversation as plain HTML, and as text."
        parts = [f'<div class="message {message["role"]}"><div class="role">{message["role"]}</div>'
                 f'<div class="words" dir="auto">{html.escape(message["content"])}</div></div>'
                 for message in self.messages]
        if self.n_forgotten:
            parts.insert(self.n_forgotten, f'<div class="forgotten">{FORGOTTEN}</div>')
        body = (f'<style>{(HERE / "chat_panel.css").read_text("utf-8")}</style><div class="tg-chat tg-still">'
                f'<div class="log">{"".join(parts)}</div><p class="muted">{HOW_TO}</p></div>')
        return {"text/html": body, "text/plain": repr(self)}

    def __repr__(self) -> str:
        return "\n".join(f"{message['role']}: {message['content']}" for message in self.messages)

    def _ipython_display_(self):
        "Display the live panel and, for a saved notebook, its picture, which the live one hides."
        from IPython.display import display
        keep(self)  # and close what this cell showed before
        if not self.widget:
            self.widget = widget_class()()
            self.widget.on_msg(lambda widget, message, buffers: self.receive(message))
            self.refresh()
        view, *_ = self.widget._repr_mimebundle_()
        display(view | {"text/plain": "", "text/html": "<span></span>"}, raw=True)
        name = self.still.display_id if self.still else True
        self.still = display(self.picture(), raw=True, display_id=name) or self.still

    def close(self):
        "Stop the answer, and take the panel out of the browser."
        self.stop()
        if self.widget:
            self.widget.close()
        self.widget = self.still = None
