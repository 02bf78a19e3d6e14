"""tinygpt chat: a conversation with a model."""

import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from json import dumps
from pathlib import Path
from typing import Literal
import tinygpt as tg
from tinygpt import guard
from tinygpt.chat import drop_oldest, encode_chat, prompt_size, reply
from tinygpt.cli.sample import load_model
from tinygpt.cli.settings import Device, UsageError, suggest
from tinygpt.cli.tokenizer import read_stdin
from tinygpt.engine.interrupts import raise_interrupts
from tinygpt.io.atomic import write_json
from tinygpt.io.downloads import cache_folder
from tinygpt.io.reading import read_json
from tinygpt.presets import CHAT
from tinygpt.sample import Sampler
from tinygpt.show.progress import one_line, printable
from tinygpt.tokenizer import Tokenizer

@dataclass(frozen=True)
class Settings:
    "How answers are written. Each can be changed during a conversation."
    max_tokens: int = 200
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self):
        guard.whole_number("max_tokens", self.max_tokens, 1)
        guard.whole_number("seed", 0 if self.seed is None else self.seed, 0)
        Sampler(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)
        if "" in self.stop:
            raise ValueError("stop should be a text of at least one character")

    def changed(self, name: str, text: str) -> "Settings":
        "The settings with one of them read from a text; `off` stands for None."
        names = [setting.name for setting in fields(self)]
        if name not in names:
            raise ValueError(f"there is no setting {name!r}{suggest(name, names)}; there are {', '.join(names)}")
        if name == "stop":
            return replace(self, stop=() if text == "off" else (*self.stop, text))
        default = getattr(type(self), name)
        if text == "off":
            return replace(self, **{name: default})
        kind = int if name in ("max_tokens", "top_k", "seed") else float
        try:
            return replace(self, **{name: kind(text)})
        except ValueError as error:
            if str(error).startswith(name):
                raise
            wanted = "a whole number" if kind is int else "a number"
            raise ValueError(f"{name}={text!r:.60} should be {wanted}, or off") from None

@dataclass
class Chat:
    "A conversation: the model, the settings, and what has been said."
    model: tg.GPT
    tok: Tokenizer
    about: str  # which model it is
    settings: Settings = field(default_factory=Settings)
    started_with: Settings = field(default_factory=Settings)
    json: bool = False
    compile: bool = False
    remembers: bool = True  # False: each question is answered on its own
    messages: list[dict] = field(default_factory=list)
    left: bool = False

    def pieces(self) -> Iterator[str]:
        "Yield the answer to the last message."
        settings = asdict(self.settings)
        seed, max_tokens = settings.pop("seed"), settings.pop("max_tokens")
        seed = secrets.randbits(31) if seed is None else seed + len(self.messages) // 2
        return reply(self.model, self.tok, self.messages, max_tokens, seed=seed, compile=self.compile, **settings)

    def ask(self, question: str):
        "Print the answer to a question, piece by piece; Ctrl-C stops it."
        before = self.messages if self.remembers else []
        self.messages = [*before, {"role": "user", "content": question}]
        written = ""
        try:
            pieces = self.pieces()
            n_dropped = len(self.messages) - len(self.fitting())
            if n_dropped:
                self.messages = self.fitting()
                self.note(f"the oldest {n_dropped} messages no longer fit into the window, and are forgotten")
            for piece in pieces:
                written += piece
                print("" if self.json else printable(piece), end="", flush=True)
            if not written and not self.json:
                self.note("the answer is empty: this model answers only what is like its training conversations")
            print(dumps({"question": question, "answer": written}) if self.json else "", flush=True)
        except KeyboardInterrupt as stop:
            if stop.args == (signal.SIGTERM,):
                raise
            raise_interrupts()
            print(flush=True)
            self.note("stopped")
        except ValueError:
            self.messages = before
            raise
        self.messages.append({"role": "assistant", "content": written})

    def fitting(self) -> list[dict]:
        "The messages that the model will read."
        size = prompt_size(self.model.config.block_size, self.settings.max_tokens)
        return drop_oldest(self.tok, self.messages, size)

    def note(self, text: str):
        "Print a remark that is no part of an answer."
        print(f"tinygpt: {one_line(text)}", file=sys.stderr, flush=True)

    # ---- commands: the docstring is the line of /help

    def help(self):
        "this list"
        for name, command in COMMANDS.items():
            print(f"  {name:<18} {command.__doc__}")

    def show_settings(self):
        "the settings and their values"
        for name, value in asdict(self.settings).items():
            print(f"  {name:<18} {'off' if value in (None, ()) else printable(value)}")

    def set(self, name: str, value: str):
        "change a setting; off is its default"
        self.settings = self.settings.changed(name, value)
        self.show_settings()

    def clear(self):
        "forget the conversation"
        self.messages = []
        self.note("the conversation is forgotten")

    def reset(self):
        "forget the conversation, and the settings are as at the start"
        self.settings = self.started_with
        self.clear()

    def status(self):
        "how much of the window is in use"
        n, size = len(encode_chat(self.tok, self.fitting())), self.model.config.block_size
        print(f"  {len(self.messages)} messages, {n} of {size} tokens of the window; "
              f"{'conversation' if self.remembers else 'single'} mode")

    def mode(self, mode: str):
        "conversation, or single: each question is answered on its own"
        if mode not in ("conversation", "single"):
            raise ValueError(f"there is no mode {mode!r}{suggest(mode, ['conversation', 'single'])}; there are "
                             "conversation and single")
        self.remembers = mode == "conversation"
        self.note("questions and answers are remembered" if self.remembers else "each question is answered on its own")

    def info(self):
        "the model"
        c, n = self.model.config, sum(p.numel() for p in self.model.parameters())
        print(f"  {printable(self.about)}: {n:,} parameters, {c.n_layer} layers, {c.n_embd} wide, {c.vocab_size:,} "
              f"tokens in its vocabulary, {c.block_size} in its window")

    def load(self, path: str):
        "go on with a conversation from a file"
        messages = read_json(Path(path).expanduser()).get("messages", ())
        guard.messages(self.tok, messages)
        self.messages = [dict(message) for message in messages]
        for message in self.messages:
            print(f"{'> ' if message['role'] == 'user' else ''}{printable(message['content'])}")

    def save(self, path: str):
        "write the conversation to a file, as JSON"
        write_json(Path(path).expanduser(), {"messages": self.messages})
        self.note(f"{len(self.messages)} messages are in {path}")

    def quit(self):
        "leave, as Ctrl-D does"
        self.left = True

    def obey(self, line: str):
        "Carry out a command such as /set temperature 0.5."
        name, *words = line.split(maxsplit=2)
        found = {spelled.split()[0]: (spelled, command) for spelled, command in COMMANDS.items()}
        if name not in found:
            raise ValueError(f"there is no command {name}{suggest(name, found)}; /help lists them")
        spelled, command = found[name]
        n_wanted = len(spelled.split()) - 1
        words = line.split(maxsplit=n_wanted)[1:] if n_wanted else words
        if len(words) != n_wanted:
            raise ValueError(f"the command is {spelled}")
        command(self, *words)

    def take(self, line: str):
        "Obey a command, or answer a question; an error is one line, and the conversation goes on."
        try:
            if line.startswith("/"):
                self.obey(line)
            elif line.strip():
                self.ask(line)
        except OSError as error:
            self.note(f"{error.filename}: {error.strerror}")
        except ValueError as error:
            print(f"tinygpt: {one_line(error)}", file=sys.stderr, flush=True)

COMMANDS: Mapping[str, Callable] = {
    "/help": Chat.help, "/settings": Chat.show_settings, "/set NAME VALUE": Chat.set, "/clear": Chat.clear,
    "/reset": Chat.reset, "/status": Chat.status, "/mode MODE": Chat.mode, "/info": Chat.info, "/load PATH": Chat.load,
    "/save PATH": Chat.save, "/quit": Chat.quit}

def typed_lines() -> Iterator[str]:
    "Lines from a terminal, with editing and a history that outlives the program; Ctrl-C twice or Ctrl-D ends them."
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    try:
        path = cache_folder() / "chat-history"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        history = FileHistory(str(path))
    except OSError:  # a read-only home
        history = InMemoryHistory()
    completer = WordCompleter([name.split()[0] for name in COMMANDS], sentence=True)
    session, warned = PromptSession(history=history, completer=completer, complete_while_typing=False), False
    while True:
        try:
            line = session.prompt("> ")
        except EOFError:
            return
        except KeyboardInterrupt as stop:
            if warned or stop.args == (signal.SIGTERM,):
                raise
            warned = True
            print("tinygpt: Ctrl-C once more leaves, as Ctrl-D and /quit do", file=sys.stderr, flush=True)
            continue
        warned = False
        yield line

def chat(
    run: str | None = None,  # a run, a folder, or a model on the hub (default: the chat model that tinygpt includes)
    *,
    prompt: str | None = None,  # -p: one question, whose answer is printed; - reads it from stdin
    max_tokens: int = 200,  # -t: each answer ends after so many tokens
    temperature: float = 0.0,  # -T: 0 takes the most probable token each time; higher is bolder
    top_k: int | None = None,  # -k: draw only from the k most probable tokens
    top_p: float | None = None,  # draw only from the fewest tokens whose probabilities sum to this
    min_p: float | None = None,  # leave out tokens less probable than this share of the most probable one
    repetition_penalty: float = 1.0,  # above 1, tokens that have occurred become less probable
    stop: list[str] = (),  # an answer ends before this string; may be given several times
    seed: int | None = None,  # of the first answer; each further one has the next seed (default: random ones)
    json: bool = False,  # print each answer as a JSON object on one line, with question and answer
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",  # of the weights
    compile: bool = False,  # compile the model first, which takes a while
    device: Device = "auto",  # -d: auto is a GPU if there is one
    model: str | None = None,  # -m: the same as RUN
):
    "Talk with a model."
    if run is not None and model is not None:
        raise UsageError(f"two models are given, {run} and --model {model}: leave out one of them")
    try:
        settings = Settings(max_tokens, temperature, top_k, top_p, min_p, repetition_penalty, tuple(stop), seed)
    except ValueError as error:
        raise UsageError(str(error)) from None
    name = model if run is None else run
    gpt, tok = load_model(str(CHAT) if name is None else name, device, dtype)
    guard.messages(tok, [])
    talk = Chat(gpt, tok, name or "the chat model of tinygpt", settings, settings, json, compile)
    if prompt is not None:
        talk.ask("".join(read_stdin()).rstrip("\r\n") if prompt == "-" else prompt)
        return
    in_terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    if in_terminal:
        talk.info()
        print("  /help lists the commands; Ctrl-D leaves." if name else
              "  Tell it about people, and ask: Ida has three red hats and lives by a moor. Where does Ida live?\n"
              "  It knows nothing else. /help lists the commands; Ctrl-D leaves.")
    for line in typed_lines() if in_terminal else (line.rstrip("\r\n") for line in read_stdin()):
        talk.take(line)
        if talk.left:
            return
