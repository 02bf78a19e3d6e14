"""Trains the models that the chapter "Block" compares: python -m tests.block_runs

Deep stacks with pre-norm and with post-norm at several learning rates: both begin with the same matrices and read the same
tokens. And the ladder's model of two blocks without its MLPs. data/block-runs.csv holds the validation loss of each run."""

import csv
from pathlib import Path

import torch
from torch import nn

from tests.ladder import Model, Rung
from tinygpt import corpus, encode_corpus, the_tokenizer, validation_batches
from tinygpt.attention import Attention
from tinygpt.baseline import evaluate, fit
from tinygpt.block import SwiGLU
from tinygpt.data import Windows
from tinygpt.positions import rotation

ROOT = Path(__file__).parents[1]
RATES, SEEDS, STEPS, ROWS, LENGTH = (0.0003, 0.001, 0.003, 0.01, 0.03), range(3), 100, 4, 32


def pre_norm(x, attention, mlp, norm1, norm2, rope):
    x = x + attention(norm1(x), rope)
    return x + mlp(norm2(x))


def post_norm(x, attention, mlp, norm1, norm2, rope):
    x = norm1(x + attention(x, rope))
    return norm2(x + mlp(x))


class Stack(nn.Module):
    """Layers of one kind between an embedding and the logits, as in the chapter "Block"."""

    def __init__(self, apply_layer, V, n_layer=12, C=64):
        super().__init__()
        self.apply_layer, self.embed, self.layers = apply_layer, nn.Embedding(V, C), nn.ModuleList()
        for _ in range(n_layer):
            parts = Attention(C, 4), SwiGLU(C, 168), nn.RMSNorm(C), nn.RMSNorm(C)
            self.layers.append(nn.ModuleList(parts))
        self.out = nn.Sequential(nn.RMSNorm(C), nn.Linear(C, V, bias=False))

    def forward(self, ids):
        x, rope = self.embed(ids), rotation(torch.arange(ids.shape[1]), head_dim=16)
        for parts in self.layers:
            x = self.apply_layer(x, *parts, rope)
        return self.out(x)


def sweep(train, on_val, vocab_size):
    """The validation loss of each kind of stack at each rate, for each seed."""
    first_tokens = [tuple(part[:, :LENGTH] for part in batch) for batch in on_val[:4]]
    for lr in RATES:
        for seed in SEEDS:
            windows = Windows(train, 256, 8, seed)
            batches = [tuple(part[:ROWS, :LENGTH] for part in windows[step]) for step in range(STEPS)]
            for layer in pre_norm, post_norm:
                torch.manual_seed(seed)
                stack = Stack(layer, vocab_size)
                fit(stack, batches, STEPS, lr)
                yield layer.__name__.replace("_", "-"), STEPS, lr, seed, evaluate(stack, first_tokens)


def without_mlp(train, on_val, vocab_size, steps=300, lr=0.01):
    """The validation loss of the rung "depth" without its MLPs, for each seed."""
    for seed in SEEDS:
        torch.manual_seed(seed)
        model = Model(Rung(4, positions=True, norms=True, mlp=False, n_layer=2), vocab_size)
        fit(model, Windows(train, 256, 8, seed), steps, lr)
        yield "depth without MLP", steps, lr, seed, evaluate(model, on_val)


def main():
    tok, tales = the_tokenizer(), corpus("tales")
    train, on_val = encode_corpus(tales.train, tok), list(validation_batches(encode_corpus(tales.val, tok), 256, 32))
    rows = []
    for runs in sweep, without_mlp:
        for *run, loss in runs(train, on_val, tok.vocab_size):
            rows.append([*run, round(loss, 3)])
            print(*rows[-1], flush=True)
    with open(ROOT / "data" / "block-runs.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["model", "steps", "lr", "seed", "val_loss"], *sorted(rows)])


if __name__ == "__main__":
    main()
