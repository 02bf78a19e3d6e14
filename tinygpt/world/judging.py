"""Tales of a model, judged by the grammar; and the lowest loss that any model can reach."""

import math
from collections.abc import Sequence
import torch
from tinygpt.cache import Decoder
from tinygpt.engine.modes import eval_mode
from tinygpt.gpt import GPT
from tinygpt.io.corpus import Corpus
from tinygpt.io.tokens import encode_corpus
from tinygpt.tales import logprob

__all__ = ["sample_tales", "valid_fraction", "floor_of"]

def sample_tales(model: GPT, tok, n: int = 16, seed: int = 0) -> list[str]:
    "Tales that the model writes, each next token drawn by its probability."
    end, rng = tok.special_tokens["<|end|>"], torch.Generator().manual_seed(seed)
    ids = torch.empty(n, 0, dtype=torch.long)
    with eval_mode(model):
        decoder = Decoder(model, [[end]] * n)
        while ids.shape[1] < model.config.block_size and not (ids == end).any(1).all():
            if ids.shape[1]:
                decoder.append(ids[:, -1].to(decoder.logits.device))
            sums = decoder.logits.double().softmax(-1).cpu().cumsum(-1)  # (n, V)
            u = torch.rand(n, 1, generator=rng, dtype=torch.double) * sums[:, -1:]
            ids = torch.cat([ids, (sums <= u).sum(-1, keepdim=True)], 1)  # the token at which the sum passes u
    rows = (row + [end] for row in ids.tolist())
    return [tok.decode(row[: row.index(end)]) for row in rows]

def valid_fraction(tales: Sequence[str]) -> float:
    "The fraction of these tales that the grammar could have written."
    return sum(logprob(tale) > -math.inf for tale in tales) / len(tales)

def floor_of(corpus: Corpus, tok) -> float | None:
    "The entropy of the validation split, in nats a token: the lowest possible loss; None for other texts."
    if corpus.heldout is None:
        return None
    return -sum(map(logprob, corpus.val)) / (len(encode_corpus(corpus.val, tok)) - 1)
