"""Drills: conversations in which the assistant has to repeat some words. A model that can do it can copy."""

import random
from tinygpt.world.grammar import the_grammar

def drill(seed: int) -> str:
    "The drill that this seed writes: words at random from the grammar's lists, and the same words again."
    rng, lists = random.Random(seed), the_grammar().words
    words = " ".join(rng.choice(lists[rng.choice(list(lists))]) for _ in range(rng.randint(6, 16)))
    return f"<|user|> Repeat: {words}<|assistant|> {words}"
