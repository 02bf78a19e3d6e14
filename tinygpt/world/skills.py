"""The skills that a tale needs, and how accurate a model is at them."""

from collections.abc import Callable, Iterable
from itertools import accumulate, islice
from pathlib import Path
import torch
from tinygpt import guard
from tinygpt.engine.modes import eval_mode
from tinygpt.world.grammar import N_MADE_UP
from tinygpt.world.parser import choices

__all__ = ["spans", "skill_accuracy"]

SKILLS = {"girl": "name", "boy": "name", "pronoun": "pronoun", "color": "color", "number": "count", "~": "copy"}
CHANCE = {"name": 1 / 16, "pronoun": 1 / 2, "color": 1 / 14, "count": 1 / 8,
          "copy": 1 / N_MADE_UP, "quote": 1 / 2}  # the accuracy of a guess among the words of the list

def spans(text: str) -> list[tuple[int, int, str]]:
    "The places of a tale that need a skill: start, end, and which skill."
    made = choices(text) or choices(text, heldout=True) or ()
    found = [(c.start, c.end, SKILLS[c.kind]) for c in made if c.certain and c.kind in SKILLS]
    quotes = [i for i, letter in enumerate(text) if letter == '"'][1::2]
    return sorted(found + [(i, i + 1, "quote") for i in quotes])

def tokens_in(edges: list[int], start: int, end: int) -> list[int]:
    "The indices of the tokens that overlap text[start:end]; token i reaches from edges[i] to edges[i + 1]."
    return [i for i in range(len(edges) - 1) if edges[i] < end and edges[i + 1] > start]

def skill_accuracy(
    model: Callable,  # gives logits (B, T, vocabulary) for ids (B, T)
    tok,  # the model's tokenizer
    corpus: Iterable[str],  # tales, or a Corpus with held-out tales
    n: int = 200,  # how many of them are read
) -> dict[str, float]:
    "For each skill, the fraction of the places that need it where all tokens are predicted right."
    guard.model_and_tokenizer(model, tok)
    if isinstance(corpus, str | Path):
        guard.corpus(corpus)
    right, places = dict.fromkeys(CHANCE, 0), dict.fromkeys(CHANCE, 0)
    device = next(model.parameters()).device if isinstance(model, torch.nn.Module) else "cpu"
    heldout = getattr(corpus, "heldout", None)
    for text in islice(corpus if heldout is None else heldout, n):
        ids = tok.encode(text)
        first = getattr(tok, "special_tokens", {}).get("<|end|>", ids[0])
        edges = [0, *accumulate(len(tok.decode([i])) for i in ids)]
        with eval_mode(model):
            likeliest = model(torch.tensor([[first, *ids[:-1]]], device=device))[0].argmax(-1)  # (T,)
        hits = likeliest.cpu() == torch.tensor(ids)
        for start, end, skill in spans(text):
            right[skill] += bool(hits[tokens_in(edges, start, end)].all())
            places[skill] += 1
    if not any(places.values()):
        raise ValueError("no skill is needed in these texts: give tales, such as corpus('tales')")
    return {skill: right[skill] / places[skill] for skill in CHANCE if places[skill]}
