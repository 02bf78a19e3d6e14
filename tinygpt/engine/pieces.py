"""The text of tokens that come one by one, in pieces that no later token can change."""

import secrets
from collections.abc import Iterable, Sequence
import torch

CONTEXT = 9  # tokens that are decoded again for each new one: three U+FFFD of up to three bytes each

class Pieces:
    "A text that grows token by token, from a prompt up to a token that ends it or a stop string."

    def __init__(self, tok, ids: Sequence[int], ends: Iterable[int] = (), stops: Iterable[str] = ()):
        self.tok, self.ids, self.ends, self.stops = tok, list(ids), set(ends), list(stops)
        self.shown = len(self.decode_last())  # characters of the last tokens that have been released
        self.held = ""  # what may become a stop string
        self.done = False

    def decode_last(self, n: int = CONTEXT) -> str:
        "The text of the last n tokens, which may begin within a character."
        return self.tok.decode(self.ids[-n:])

    def add(self, id: int) -> str:
        "Add a token; returns the text that has become certain."
        if self.done:
            return ""
        if id in self.ends:
            return self.finish()
        self.ids.append(id)
        text = self.decode_last(CONTEXT + 1)
        # the bytes of an incomplete character (3 at most) are decoded as one U+FFFD, by some tokenizers as one each
        open = min(len(text) - len(text.rstrip("\ufffd")), 3, len(text) - self.shown)
        piece = text[self.shown : len(text) - open]
        self.shown = len(self.decode_last()) - open
        return self.release(piece)

    def finish(self) -> str:
        "End the text; returns what is left of it."
        if self.done:
            return ""
        piece = self.release(self.decode_last()[self.shown :])
        rest = "" if self.done else self.held
        self.done = True
        return piece + rest

    def release(self, piece: str) -> str:
        "Hold back what may become a stop string, and cut the text before one; returns the rest."
        text = self.held + piece
        found = [(at + len(stop), at) for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            self.done = True
            return text[: min(found)[1]]  # before the stop string that is complete first
        n = max((n for stop in self.stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)
        self.held = text[len(text) - n :]
        return text[: len(text) - n]

def begin_texts(tok, prompts: Sequence[str | Sequence[int]], stop: str | Sequence[str]) -> list[Pieces]:
    """A text for each prompt. A prompt of ids is a conversation, where any special token ends the answer.

    A prompt of words begins a document: if the tokenizer has <|end|>, the model reads it first, as in training.
    """
    special_tokens = getattr(tok, "special_tokens", {})
    start = [special_tokens["<|end|>"]] if "<|end|>" in special_tokens else []
    end = special_tokens.get("<|end|>", special_tokens.get("<|endoftext|>"))
    stops = [stop] if isinstance(stop, str) else stop
    return [Pieces(tok, start + list(tok.encode(prompt)), [end], stops) if isinstance(prompt, str) else
            Pieces(tok, prompt, special_tokens.values(), stops) for prompt in prompts]

def row_generators(prompts: Sequence[str | Sequence[int]], seed: int | None) -> list[torch.Generator]:
    "A random generator for each prompt, whatever its neighbours: from the seed, and for the k-th equal one seed + k."
    seed = secrets.randbits(32) if seed is None else seed
    seeds = [seed + prompts[:i].count(prompt) for i, prompt in enumerate(prompts)]
    return [torch.Generator().manual_seed(seed) for seed in seeds]
