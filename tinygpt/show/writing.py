"""A text under way, written as `generate` writes it, which can go back and go on with another token."""

from collections.abc import Iterator
from dataclasses import dataclass
import torch
from torch import Tensor
from tinygpt import guard
from tinygpt.cache import Decoder
from tinygpt.engine.modes import eval_mode
from tinygpt.engine.pieces import begin_texts, row_generators
from tinygpt.sample import Sampler, draw

@dataclass
class Token:
    "A token of the new text, and the model's logits (1, V) that it was drawn from."
    id: int
    logits: Tensor
    surprise: float  # its surprisal: minus the log of its probability at temperature 1, in nats
    piece: str  # what it adds to the text; empty if it ends within a character

class Writing:
    "A text under way: what has been drawn so far, from which logits and by which random numbers."

    def __init__(self, model, tok, prompt: str, seed: int):
        guard.writing(model, tok, [prompt], 0, (), seed, None)
        self.model, self.tok, self.prompt = model, tok, prompt
        [self.rng] = row_generators([prompt], seed)
        self.numbers: list[float] = []  # the random number of each place
        self.tokens: list[Token] = []
        self.go_back(0)

    def go_back(self, n: int):
        "Keep the first n tokens, and read the text up to there again."
        self.tokens = self.tokens[:n]
        [self.pieces] = begin_texts(self.tok, [self.prompt], ())
        self.n_prompt = len(self.pieces.ids)
        for token in self.tokens:
            token.piece = self.pieces.add(token.id)
        with eval_mode(self.model):
            self.decoder = Decoder(self.model, [self.pieces.ids])
        self.keep_logits()

    def keep_logits(self):
        "Copy the logits (1, V) of the next token out of the decoder."
        logits = self.decoder.logits[:, : self.tok.vocab_size].to(torch.float32, copy=True)
        self.logits = logits if logits.is_cuda else logits.cpu()

    def add(self, id: int):
        "Add a token, and read it unless it ends the text."
        surprise = -self.logits.double().log_softmax(-1)[0, id].item()
        self.tokens.append(Token(id, self.logits, surprise, self.pieces.add(id)))
        if not self.pieces.done:
            with eval_mode(self.model):
                self.decoder.append(torch.tensor([id], device=self.decoder.logits.device))
            self.keep_logits()

    def write(self, sampler: Sampler, limit: int) -> Iterator[None]:
        "Draw token by token until the text ends or has `limit` tokens; it may be left at any token."
        try:
            while len(self.tokens) < limit and not self.pieces.done:
                place = len(self.tokens)
                self.add(self.draw_at(place, sampler(self.logits, [self.ids(place)])))
                yield
        finally:
            if self.tokens:
                self.tokens[-1].piece += self.pieces.finish()

    @property
    def ended(self) -> bool:
        "Whether the last token is the end token, after which nothing can be written."
        return bool(self.tokens) and self.tokens[-1].id in self.pieces.ends

    def ids(self, place: int) -> list[int]:
        "The ids before a place of the new text, the prompt's included."
        return self.pieces.ids[: self.n_prompt] + [token.id for token in self.tokens[:place]]

    def u(self, place: int) -> float:
        "The random number of a place, as `generate` draws it."
        while len(self.numbers) <= place:
            self.numbers.append(torch.rand((), dtype=torch.float64, generator=self.rng).item())
        return self.numbers[place]

    def draw_at(self, place: int, logits: Tensor, u: float | None = None) -> int:
        "The token that the random number of a place chooses, or another number u in place of it."
        number = torch.tensor([self.u(place) if u is None else u], dtype=torch.float64, device=logits.device)
        return draw(logits, number).item()

    def text(self, place: int | None = None) -> str:
        "The prompt and the new text, up to a place."
        return self.prompt + "".join(token.piece for token in self.tokens[:place])
