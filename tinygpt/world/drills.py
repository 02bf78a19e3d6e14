"""Drills: short conversations that train what answering needs, one skill after the other.

A drill states a few facts about some people, and asks for them. The corpus "drills" is a curriculum: a skill is first
trained in lists, where the answer repeats each word that was asked for, and then in questions, where it doesn't. Nearly
every token of an answer stands in the facts or the question, so a skill is learned that conversations teach late or not
at all.
"""

import random
from collections.abc import Callable, Sequence
from tinygpt.world.grammar import the_grammar, with_article

Turn = tuple[str, str]  # a question and its answer
KINDS = ("place", "color", "number", "look", "feeling")  # lists of words that people are given; each word is one token

def random_names(rng: random.Random, n: int) -> list[str]:
    "n different names."
    lists = the_grammar().words
    return rng.sample(lists["girl"] + lists["boy"], n)

def conversation(facts: list[str], turns: list[Turn]) -> str:
    "Facts, and then questions with their answers; without the last <|end|>."
    asked = "<|end|><|user|> ".join(f"{question}<|assistant|> {answer}" for question, answer in turns)
    return f"<|user|> {' '.join(facts)} {asked}"

def up_to_eight(rng: random.Random, turns: list[Turn]) -> list[Turn]:
    "At most eight of the turns, in random order."
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

def numbers_listed(rng: random.Random) -> str:
    "One answer, which repeats each thing and then gives its number; half of the facts, which are easier, name no color."
    facts, owned = facts_with_things(rng)
    facts = [f"{name} has {number} {thing}." if rng.random() < 0.5 else fact
             for fact, (name, number, _, thing) in zip(facts, owned)]
    rng.shuffle(owned)
    question = f"Numbers: {' '.join(thing for *_, thing in owned)}"
    return conversation(facts, [(question, " ".join(f"{thing} {number}" for _, number, _, thing in owned))])

def thing_questions(rng: random.Random, color_answer: str, number_answer: str, name_answer: str) -> str:
    "What color, how many, and who has them? The answers are filled in with what was said of the thing."
    facts, owned = facts_with_things(rng)
    turns = []
    for name, number, color, thing in owned:
        words = {"name": name, "number": number, "color": color,
                 "Number": number.capitalize(), "Color": color.capitalize()}
        turns += [(f"What colour are the {thing}?", color_answer.format(**words)),
                  (f"How many {thing} are there?", number_answer.format(**words)),
                  (f"Who has {thing}?", name_answer.format(**words))]
    return conversation(facts, up_to_eight(rng, turns))

def thing_questions_long(rng: random.Random) -> str:
    "Questions about things; an answer goes on with all else that was said."
    return thing_questions(rng, "{color} {number} {name}", "{number} {color} {name}", "{name} {number} {color}")

def thing_questions_both(rng: random.Random) -> str:
    "Questions about things; an answer gives the word as it was told, and then as in conversations."
    return thing_questions(rng, "{color} {Color}.", "{number} {Number}.", "{name} {name}.")

def thing_questions_short(rng: random.Random) -> str:
    "Questions about things, answered as in conversations."
    return thing_questions(rng, "{Color}.", "{Number}.", "{name}.")

def thing_sentences(rng: random.Random) -> str:
    "What somebody has, and whose the things are; answered in the sentences of conversations."
    facts, owned = facts_with_things(rng)
    turns = []
    for name, number, color, thing in owned:
        turns += [(f"What does {name} have?", f"{number.capitalize()} {color} {thing}."),
                  (f"Whose are the {thing}?", f"So {name} has {number} {color} {thing}.")]
    return conversation(facts, up_to_eight(rng, turns))

# ---- attributes: "Edda color black place cave. Otto color brown place wood."

def facts_with_attributes(rng: random.Random, n_kinds: int) -> tuple[list[str], list[tuple[str, str, str]]]:
    "Facts: some people, each with a word of each of some kinds. And the name, kind and word of each."
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

# ---- phrases: "Ida by a misty moor. Kurt because the soup is cold."

def random_phrase(rng: random.Random) -> str:
    "What conversations tell about people: where they live, why they feel as they do, or what they have."
    lists = the_grammar().words
    match rng.randrange(3):
        case 0:
            return f"{rng.choice(lists['near'])} {with_article(rng.choice(lists['look']), 'a')} {rng.choice(lists['place'])}"
        case 1:
            return f"because {rng.choice(lists['reason'])}"
        case _:
            return f"{rng.choice(lists['number'])} {rng.choice(lists['color'])} {rng.choice(lists['thing'])}s"

def facts_with_phrases(rng: random.Random) -> tuple[list[str], list[tuple[str, str]]]:
    "Facts: some people, each with a phrase. And each name with its phrase."
    told = [(name, random_phrase(rng)) for name in random_names(rng, rng.randint(2, 4))]
    return [f"{name} {phrase}." for name, phrase in told], told

def phrases_listed(rng: random.Random) -> str:
    "One answer, which repeats each name and then gives its phrase."
    facts, told = facts_with_phrases(rng)
    rng.shuffle(told)
    question = f"Phrases: {' '.join(name for name, _ in told)}"
    return conversation(facts, [(question, " ".join(f"{name} {phrase}" for name, phrase in told))])

def phrase_questions(rng: random.Random) -> str:
    "And this name?"
    facts, told = facts_with_phrases(rng)
    return conversation(facts, up_to_eight(rng, [(f"And {name}?", phrase) for name, phrase in told]))

# ---- the curriculum

Writer = Callable[[random.Random], str]
# the number at which a stage ends, and its writers; one named twice writes twice as often
STAGES: list[tuple[int, list[Writer]]] = [
    (17_300, [owners_listed]),
    (19_400, [things_listed]),
    (21_800, [thing_questions_long]),
    (24_000, [thing_questions_long, thing_questions_long, owner_questions]),
    (26_900, [attributes_listed, attributes_listed, attributes_listed, attributes_listed,
              owner_questions, thing_questions_long]),
    (29_000, [attribute_questions, attribute_questions, owner_questions, thing_questions_long]),
    (31_900, [numbers_listed, numbers_listed, numbers_listed, numbers_listed, thing_questions_long, thing_questions_long,
              owner_questions, attribute_questions]),
    (35_100, [phrases_listed, phrases_listed, phrases_listed, thing_questions_both, thing_questions_both,
              thing_questions_both, numbers_listed, owner_questions, attribute_questions]),
    (38_000, [phrase_questions, phrase_questions, thing_questions_short, thing_questions_short, thing_questions_both,
              owner_questions, attribute_questions]),
    (43_000, [thing_sentences, thing_sentences, thing_questions_short, thing_questions_short, thing_questions_short,
              phrase_questions, owner_questions, attribute_questions]),
]

def drill(number: int) -> str:
    "The drill with this number; beyond the curriculum, one like those of the last stage."
    rng = random.Random(number)
    _, writers = next((stage for stage in STAGES if number < stage[0]), STAGES[-1])
    return rng.choice(writers)(rng)
