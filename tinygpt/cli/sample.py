"""tinygpt sample: write texts with a model."""

import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from json import dumps
from typing import Literal
import tinygpt as tg
from tinygpt import guard
from tinygpt.cli.settings import Device, UsageError, pick_device
from tinygpt.cli.tokenizer import read_stdin
from tinygpt.presets import TRAINED
from tinygpt.sample import Sampler, new_text
from tinygpt.show.progress import one_line, printable
from tinygpt.tokenizer import Tokenizer

@dataclass(frozen=True)
class Writer:
    "A model, and how it continues a prompt."
    model: tg.GPT
    tok: Tokenizer
    max_tokens: int = 200
    sampler: Sampler = Sampler()
    stop: Sequence[str] = ()
    json: bool = False
    compile: bool = False

    def pieces(self, prompt: str, seed: int) -> Iterator[str]:
        "Yield the new text: a piece for each token, which may be empty, and one more if max_tokens are not enough."
        guard.writing(self.model, self.tok, [prompt], self.max_tokens, self.stop, seed, None)
        steps = new_text(self.model, self.tok, [prompt], self.max_tokens, self.sampler, self.stop, seed, None,
                         self.compile)
        return (piece for [piece] in steps)

    def print_text(self, prompt: str, seed: int):
        "Print the prompt and what the model appends to it, piece by piece."
        shown = False
        try:
            for piece in self.pieces(prompt, seed):
                print(printable(piece if shown else prompt + piece), end="", flush=True)
                shown = True
        finally:  # the message of an error begins a line of its own
            if shown:
                print(flush=True)

    def print_json(self, prompt: str, seed: int):
        "Print the prompt, the whole text, its seed, and how many tokens the model has drawn, as one line of JSON."
        pieces = list(self.pieces(prompt, seed))
        n_tokens = min(len(pieces), self.max_tokens)
        print(dumps({"prompt": prompt, "text": prompt + "".join(pieces), "seed": seed, "tokens": n_tokens}), flush=True)

    def print_texts(self, prompt: str, seeds: Iterable[int]):
        "Print a text for each seed, with blank lines between them, or a line of JSON for each."
        for i, seed in enumerate(seeds):
            if self.json:
                self.print_json(prompt, seed)
            else:
                print("\n" * (i > 0), end="")
                self.print_text(prompt, seed)

def typed_lines() -> Iterator[str]:
    "Ask for lines in a terminal, up to Ctrl-D."
    with suppress(ImportError):  # on Windows
        import readline  # noqa: F401  (lets `input` edit the line)
    print("Type the beginning of a text; Ctrl-D ends.")
    with suppress(EOFError):
        while True:
            yield input("> ")
    print()  # after Ctrl-D the line is still open

def continue_lines(writer: Writer, num: int = 1, seed: int = 0):
    "Continue each line that is typed, or else each line of stdin, `num` times; each text has the next seed."
    in_terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    lines = typed_lines() if in_terminal else (line.rstrip("\r\n") for line in read_stdin())
    needs_prompt, seeds = "<|end|>" not in getattr(writer.tok, "special_tokens", {}), count(seed)
    for line in lines:
        if not line and needs_prompt:
            continue
        try:
            writer.print_texts(line, islice(seeds, num))
            print("" if writer.json else "\n", end="", flush=True)
        except ValueError as error:
            print(f"tinygpt: {one_line(error)}", file=sys.stderr)

def load_model(run: str | None, device: str, dtype: str) -> tuple[tg.GPT, Tokenizer]:
    "The model to write with, by default the one that comes with the package, and its tokenizer."
    if run and " " in run and not os.path.exists(os.path.expanduser(run)):
        raise UsageError(f"there is no folder {run!r}; the beginning of a text is given with --prompt")
    device, _ = pick_device(device)
    model, tok = tg.load(TRAINED if run is None else run, dtype, device)
    if tok is None:
        raise ValueError(f"{run} has no tokenizer, so the model cannot write a text")
    return model, tok

def sample(
    run: str | None = None,  # a run, a folder, or a model on the hub (default: the small model that tinygpt includes)
    *,
    prompt: str | None = None,  # -p: the beginning of the text; - reads it from stdin; without one, you are asked
    num: int = 1,  # how many texts
    max_tokens: int = 200,  # -t: each text ends after so many new tokens
    temperature: float = 1.0,  # -T: below 1 the model is more careful, above 1 bolder; 0 is greedy
    top_k: int | None = None,  # -k: draw only from the k most probable tokens
    top_p: float | None = None,  # draw only from the fewest tokens whose probabilities sum to this
    min_p: float | None = None,  # leave out tokens less probable than this share of the most probable one
    repetition_penalty: float = 1.0,  # above 1, tokens that have occurred become less probable
    stop: list[str] = (),  # a text ends before this string; may be given several times
    seed: int | None = None,  # of the first text; each further one has the next seed (default: a random one)
    json: bool = False,  # print one JSON object a line, with prompt, text, seed and number of new tokens
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",  # of the weights
    compile: bool = False,  # compile the model first, which takes a while and pays for long texts
    device: Device = "auto",  # -d: auto is a GPU if there is one
    model: str | None = None,  # -m: the same as RUN
):
    "Write texts with a model."
    if run is not None and model is not None:
        raise UsageError(f"two models are given, {run} and --model {model}: leave out one of them")
    seed = secrets.randbits(31) if seed is None else seed
    try:
        guard.whole_number("num", num, 1, 10**6)
        guard.whole_number("max_tokens", max_tokens, 0)
        guard.whole_number("seed", seed, 0, 2**32 - num)  # the last text has seed + num - 1
        sampler = Sampler(temperature, top_k, top_p, min_p, repetition_penalty)
    except ValueError as error:
        raise UsageError(str(error)) from None
    writer = Writer(*load_model(model if run is None else run, device, dtype), max_tokens, sampler, stop, json,
                    compile)
    if prompt is None:
        return continue_lines(writer, num, seed)
    if prompt == "-":
        prompt = "".join(read_stdin()).removesuffix("\n").removesuffix("\r")  # as echo writes it
    writer.print_texts(prompt, range(seed, seed + num))
