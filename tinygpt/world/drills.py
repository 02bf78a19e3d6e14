"""Drills: short conversations that train what answering needs, one skill after the other.

A drill states a few facts about some people, and asks for them. The corpus "drills" is a curriculum of six stages. In the
first ones, nearly every token of an answer must be found in the facts, so a skill is learned that conversations teach late
or not at all.
"""

import random
from collections.abc import Callable, Sequence
from tinygpt.world.grammar import the_grammar

Turn = tuple[str, str]  # a question and its answer
KINDS = ("place", "color", "number", "look", "feeling")  # lists of words that people are given; each word is one token

def random_names(rng: random.Random, n: int) -> list[str]:
    "Some names."
    lists = the_grammar().words
    return rng.sample(lists["girl"] + lists["boy"], n)

def conversation(facts: list[str], turns: list[Turn]) -> str:
    "Facts, and then questions with their answers."
    asked = "<|end|><|user|> ".join(f"{question}<|assistant|> {answer}" for question, answer in turns)
    return f"<|user|> {' '.join(facts)} {asked}"

def up_to_eight(rng: random.Random, turns: list[Turn]) -> list[Turn]:
    "At most eight of the turns, in any order."
    return rng.sample(turns, min(8, len(turns)))

# ---- words: "Jonas tired. Ida pleased frozen."

def facts_with_words(rng: random.Random, more: Sequence[str] = ()) -> tuple[list[str], list[tuple[str, str]]]:
    "Facts: some people, each with one to four words of the lists or of `more`. And each word with its owner."
    lists = the_grammar().words
    vocabulary = [word for kind in KINDS for word in lists[kind]] + [*more]
    words = iter(rng.sample(vocabulary, 16))  # enough for four people with four words each
    told = {name: [next(words) for _ in range(rng.randint(1, 4))] for name in random_names(rng, rng.randint(2, 4))}
    return ([f"{name} {' '.join(own)}." for name, own in told.items()],
            [(word, name) for name, own in told.items() for word in own])

def owners_listed(rng: random.Random) -> str:
    "One answer, which repeats each word and then names its owner."
    facts, owners = facts_with_words(rng)
    rng.shuffle(owners)
    question = f"Whose: {' '.join(word for word, _ in owners)}"
    return conversation(facts, [(question, " ".join(f"{word} {name}" for word, name in owners))])

def owner_questions(rng: random.Random) -> str:
    "Who has this word, or this thing?"
    facts, owners = facts_with_words(rng, [f"{thing}s" for thing in the_grammar().words["thing"]])
    return conversation(facts, up_to_eight(rng, [(f"Who has {word}?", name) for word, name in owners]))

# ---- things: "Judith has ten pink combs. Igor has four grey masks."

def facts_with_things(rng: random.Random) -> tuple[list[str], list[tuple[str, str, str, str]]]:
    "Facts: some people and what they have. And for each fact its name, number, color and thing."
    lists, n = the_grammar().words, rng.randint(2, 4)
    numbers, colors, things = (rng.sample(lists[kind], n) for kind in ("number", "color", "thing"))
    owned = [*zip(random_names(rng, n), numbers, colors, (f"{thing}s" for thing in things))]
    return [f"{name} has {number} {color} {thing}." for name, number, color, thing in owned], owned

def things_listed(rng: random.Random) -> str:
    "One answer, which repeats each thing and then gives its color, number and owner."
    facts, owned = facts_with_things(rng)
    rng.shuffle(owned)
    question = f"Things: {' '.join(thing for *_, thing in owned)}"
    return conversation(facts, [(question, " ".join(" ".join(reversed(one)) for one in owned))])

def thing_questions(rng: random.Random, color_answer: str, number_answer: str) -> str:
    "What color, and how many? The answers are filled in with what was said of the thing."
    facts, owned = facts_with_things(rng)
    turns = []
    for name, number, color, thing in owned:
        words = {"name": name, "number": number, "color": color,
                 "Number": number.capitalize(), "Color": color.capitalize()}
        turns += [(f"What colour are the {thing}?", color_answer.format(**words)),
                  (f"How many {thing} are there?", number_answer.format(**words))]
    return conversation(facts, up_to_eight(rng, turns))

def thing_questions_long(rng: random.Random) -> str:
    "Questions about things; an answer goes on with all else that was said."
    return thing_questions(rng, "{color} {number} {name}", "{number} {color} {name}")

def thing_questions_short(rng: random.Random) -> str:
    "Questions about things, answered as in conversations."
    return thing_questions(rng, "{Color}.", "{Number}.")

# ---- attributes: "Edda color black place cave. Otto color brown place wood."

def facts_with_attributes(rng: random.Random, n_kinds: int) -> tuple[list[str], list[tuple[str, str, str]]]:
    "Facts: some people, each with a word of every kind. And the name, kind and word of each."
    lists, kinds = the_grammar().words, rng.sample(KINDS, n_kinds)
    facts, told = [], []
    for name in random_names(rng, rng.randint(2, 3)):
        own = [(kind, rng.choice(lists[kind])) for kind in rng.sample(kinds, len(kinds))]
        facts.append(f"{name} {' '.join(f'{kind} {word}' for kind, word in own)}.")
        told += [(name, kind, word) for kind, word in own]
    return facts, told

def attributes_listed(rng: random.Random) -> str:
    "One answer, which repeats each name and kind and then gives the word."
    facts, told = facts_with_attributes(rng, rng.randint(2, 3))
    rng.shuffle(told)
    question = f"Words: {' '.join(f'{name} {kind}' for name, kind, _ in told)}"
    return conversation(facts, [(question, " ".join(" ".join(one) for one in told))])

def attribute_questions(rng: random.Random) -> str:
    "What place, or color, has this name?"
    facts, told = facts_with_attributes(rng, rng.randint(2, 4))
    return conversation(facts, up_to_eight(rng, [(f"What {kind} has {name}?", word) for name, kind, word in told]))

# ---- the curriculum

Writer = Callable[[random.Random], str]
# up to which number, and who writes; a writer named twice writes twice as often
STAGES: list[tuple[int, list[Writer]]] = [
    (17_300, [owners_listed]),
    (19_400, [things_listed]),
    (21_800, [thing_questions_long]),
    (24_000, [thing_questions_long, thing_questions_short, owner_questions]),
    (26_900, [attributes_listed, attributes_listed, attributes_listed, attributes_listed,
              owner_questions, thing_questions_short]),
    (29_000, [attribute_questions, attribute_questions, owner_questions, thing_questions_short, thing_questions_long]),
]
AMONG_CHATS: list[Writer] = [  # also of the validation text of the drills
    attribute_questions, thing_questions_short, thing_questions_short, owner_questions, owner_questions]

def drill(number: int) -> str:
    "The drill of this number: of the curriculum or, beyond it, one of those that come among conversations."
    rng = random.Random(number)
    writers = next((writers for stop, writers in STAGES if number < stop), AMONG_CHATS)
    return rng.choice(writers)(rng)
