"""Trains each rung of the ladder of chapters 04 to 08 with three seeds, and two of them for longer: python -m tests.ladder

data/ladder.csv holds the result: the training loss, averaged over 10 steps, and at the end of each run the validation loss
and the accuracy of each skill. Every rung differs from the one before in one thing. A run that is done is kept in
build/ladder and not repeated."""

import csv
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tinygpt import corpus, encode_corpus, skill_accuracy, the_tokenizer, validation_batches
from tinygpt.attention import Attention
from tinygpt.baseline import bigram, count_pairs, evaluate, fit, ngram, unigram
from tinygpt.block import SwiGLU
from tinygpt.data import Windows
from tinygpt.positions import rotation
from tinygpt.world.skills import CHANCE

ROOT = Path(__file__).parents[1]
SEEDS, AVERAGED = range(3), 10
COLUMNS = ["rung", "steps", "seed", "step", "loss", "val_loss", *CHANCE]


@dataclass
class Rung:
    """What a model of the ladder has."""

    n_head: int = 1
    positions: bool = False
    norms: bool = False
    mlp: bool = False
    n_layer: int = 1


RUNGS = {
    "one head": Rung(),
    "four heads": Rung(4),
    "positions": Rung(4, True),
    "norms": Rung(4, True, True),
    "MLP": Rung(4, True, True, True),
    "depth": Rung(4, True, True, True, n_layer=2),
    "depth without MLP": Rung(4, True, True, n_layer=2),
}


BUDGETS = {300: list(RUNGS)[:-1], 1000: list(RUNGS)[3:]}  # steps, and what is trained for so long


class Layer(nn.Module):
    """Attention and perhaps an MLP, each added to the residual stream, and each perhaps after a norm."""

    def __init__(self, rung: Rung, n_embd: int):
        super().__init__()
        norm = nn.RMSNorm if rung.norms else nn.Identity
        self.attention_norm, self.mlp_norm = norm(n_embd), norm(n_embd)
        self.attention = Attention(n_embd, rung.n_head, qk_norm=norm)
        self.mlp = SwiGLU(n_embd, 336) if rung.mlp else None
        nn.init.zeros_(self.attention.proj.weight)
        if rung.mlp:
            nn.init.zeros_(self.mlp.down.weight)

    def forward(self, x, rope):
        x = x + self.attention(self.attention_norm(x), rope)
        return x + self.mlp(self.mlp_norm(x)) if self.mlp else x


class Model(nn.Module):
    """An embedding, layers, and a matrix that makes logits; all begins as PyTorch makes it, but for the zeros above."""

    def __init__(self, rung: Rung, vocab_size: int, n_embd: int = 128):
        super().__init__()
        self.head_dim = n_embd // rung.n_head if rung.positions else None
        self.embed = nn.Embedding(vocab_size, n_embd)
        self.layers = nn.ModuleList(Layer(rung, n_embd) for _ in range(rung.n_layer))
        self.norm = nn.RMSNorm(n_embd) if rung.norms else nn.Identity()
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)

    def forward(self, ids):
        x = self.embed(ids)
        rope = rotation(torch.arange(ids.shape[1]), self.head_dim) if self.head_dim else None
        for layer in self.layers:
            x = layer(x, rope)
        return self.lm_head(self.norm(x))


def judged(model) -> dict:
    """The validation loss and the skills of a model."""
    tok, tales = the_tokenizer(), corpus("tales")
    batches = validation_batches(encode_corpus(tales.val, tok), 256, 32)
    skills = {name: round(share, 3) for name, share in skill_accuracy(model, tok, tales).items()}
    return {"val_loss": round(evaluate(model, batches), 4)} | skills


def counted() -> list[dict]:
    """The rungs that only count."""
    tok, train = the_tokenizer(), encode_corpus(corpus("tales").train, the_tokenizer())
    pairs = count_pairs(train.ids, tok.vocab_size)
    models = {
        "uniform": lambda ids: torch.zeros(*ids.shape, tok.vocab_size),
        "unigram": unigram(pairs),
        "bigram": bigram(pairs),
        "trigram": ngram(train, 3),
        "5-gram": ngram(train, 5),
    }
    return [{"rung": name, "steps": 0} | judged(model) for name, model in models.items()]


def one_run(name: str, steps: int, seed: int) -> list[dict]:
    """The rows of one run, trained now or by an earlier call."""
    path = ROOT / "build" / "ladder" / f"{name}-{steps}-{seed}.csv"
    if not path.exists():
        tok, rung = the_tokenizer(), RUNGS[name]
        torch.manual_seed(seed)
        model = Model(rung, tok.vocab_size)
        windows = Windows(encode_corpus(corpus("tales").train, tok), 256, 8, seed)
        losses = np.array(fit(model, windows, steps)).reshape(-1, AVERAGED).mean(1)
        same = {"rung": name, "steps": steps, "seed": seed}
        rows = [same | {"step": AVERAGED * (i + 1), "loss": round(loss, 4)} for i, loss in enumerate(losses)]
        rows[-1] |= judged(model)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, rows)
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict]):
    """Write rows as a table."""
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def main():
    rows = counted()
    for steps, names in BUDGETS.items():
        for name in names:
            runs = [one_run(name, steps, seed) for seed in SEEDS]
            last = [float(run[-1]["val_loss"]) for run in runs]
            print(f"{steps:5} steps  {name:12}" + "".join(f"{loss:8.3f}" for loss in last), flush=True)
            rows += [row for run in runs for row in run]
    write(ROOT / "data" / "ladder.csv", rows)


if __name__ == "__main__":
    main()
