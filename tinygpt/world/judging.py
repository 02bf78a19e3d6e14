"""Judge the tales of a model by the grammar, and compute the lowest loss that any model can reach."""

import math
from collections.abc import Sequence
from tinygpt.io.corpus import Corpus
from tinygpt.io.tokens import encode_corpus
from tinygpt.tales import logprob

__all__ = ["valid_fraction", "floor_of"]

def valid_fraction(tales: Sequence[str]) -> float:
    "The fraction of these tales that the grammar could have written."
    return sum(logprob(tale) > -math.inf for tale in tales) / len(tales)

def floor_of(corpus: Corpus, tok) -> float | None:
    "The entropy of the validation split, in nats a token: the lowest possible loss; None for other texts."
    if corpus.heldout is None:
        return None
    return -sum(map(logprob, corpus.val)) / (len(encode_corpus(corpus.val, tok)) - 1)
