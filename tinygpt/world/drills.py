"""Drills: conversations that train what answering needs, to find a word again and to copy what belongs to it."""

import random
from tinygpt.world.grammar import the_grammar

def repeat(rng: random.Random) -> str:
    "A drill in which some words of the grammar are said again."
    lists = the_grammar().words
    words = " ".join(rng.choice(lists[rng.choice(list(lists))]) for _ in range(rng.randint(6, 16)))
    return f"<|user|> Repeat: {words}<|assistant|> {words}"

def look_up(rng: random.Random) -> str:
    "A drill with some names, each followed by a few words, and questions about them."
    lists = the_grammar().words
    names = rng.sample(lists["girl"] + lists["boy"], rng.randint(2, 4))
    words = [word for name in ("thing", "place", "color", "number", "look", "feeling") for word in lists[name]]
    things = iter(rng.sample(words, 16))
    groups = [[name, *(next(things) for _ in range(rng.randint(2, 4)))] for name in names]
    text = "".join(f" {' '.join(group)}." for group in groups)
    for _ in range(5):
        group = rng.choice(groups)
        i = rng.randrange(1, len(group))
        question, answer = rng.choice([
            (f"What is after {group[i - 1]}?", group[i]),
            (f"What is before {group[i]}?", group[i - 1]),
            (f"Who is before {group[i]}?", group[0]),
        ])
        text += f" {question}<|assistant|> {answer}<|end|><|user|>"
    return f"<|user|>{text}".removesuffix("<|end|><|user|>")

def drill(seed: int) -> str:
    "The drill that this seed writes."
    rng = random.Random(seed)
    return repeat(rng) if rng.random() < 0.5 else look_up(rng)
