"""The grammar of tales and chats: read from text, and used to write."""

import math
import random
from functools import cache
from typing import NamedTuple
import regex
from tinygpt.presets import ASSETS

class Step(NamedTuple):
    "One part of a line in a grammar."
    kind: str  # "text", "rule", "pick" (choose a word and remember it) or "word" (write a remembered word)
    name: str  # the text, the rule, or the name by which the word is remembered
    words: str = ""  # the list to pick from; ~ makes up a word
    partner: str = ""  # the remembered word that decides which words may be picked
    form: str = ""  # he, him, his, himself for a name; + for the next number; Cap for a capital letter
    article: str = ""  # "a" or "A", to stand in front
    certain: bool = False  # whether no other line of the rule could continue here

SLOT = regex.compile(r"(?:(?<article>a|A) )?(?<name>\w+)"
                     r"(?::(?<words>[\w~]+)(?:/(?<partner>\w+))?|\.(?<form>\w+)|(?<form>\+))?")
FEMININE = {"he": "she", "him": "her", "his": "her", "himself": "herself"}
NUMBERS = "two three four five six seven eight nine ten eleven".split()
SYLLABLES = ["dal fim gor hul jub kel mop nug pel rud sol tev vel wix yon zad".split(),
             "bo fi go ka mu ne po ru sa ta vu zi".split()]  # no two of them make an offensive word
MADE_UP = regex.compile("".join(f"(?i:{'|'.join(syllables)})" for syllables in SYLLABLES))
N_MADE_UP = math.prod(map(len, SYLLABLES))

def parse_line(line: str, rules: set[str]) -> list[Step]:
    "The steps of a line such as '{h} had {a q:color} {x:thing}.'"
    steps = []
    for i, part in enumerate(regex.split(r"\{(.*?)\}", line)):
        if i % 2 == 0:
            steps += [Step("text", part)] if part else []
        elif part in rules:
            steps.append(Step("rule", part))
        else:
            slot = {name: value or "" for name, value in SLOT.fullmatch(part).groupdict().items()}
            steps.append(Step("pick" if slot["words"] else "word", **slot))
    return steps

def is_certain(steps: list[Step], k: int, other: list[Step]) -> bool:
    "Whether step k of a line is still the only possible continuation, given that its rule also has the other line."
    for a, b in zip(steps[:k], other[:k]):
        if a != b:
            return not (a.kind == b.kind == "text" and (a.name.startswith(b.name) or b.name.startswith(a.name)))
    return steps[k] == (other[k] if k < len(other) else None)

def mark_certain(lines: list[list[Step]]) -> list[list[Step]]:
    "The lines of one rule, with the certain steps marked."
    def mark(steps: list[Step], k: int) -> Step:
        return steps[k]._replace(certain=all(is_certain(steps, k, other) for other in lines))
    return [[mark(steps, k) for k in range(len(steps))] for steps in lines]

def with_article(word: str, article: str) -> str:
    "The word with its article, if it has one: a hat, an owl."
    n = "n" if article and (word[0] in "aeiou" or word.startswith("honest")) else ""
    return f"{article}{n} {word}" if article else word

def inflect(step: Step, remembered: dict) -> str:
    "A remembered word in the form that this step asks for."
    words, word = remembered[step.name]
    if step.form == "+":
        word = NUMBERS[NUMBERS.index(word) + 1]
    elif step.form == "Cap":
        word = word.capitalize()
    elif step.form:
        form = FEMININE[step.form.lower()] if words == "girl" else step.form.lower()
        word = form.capitalize() if step.form[0].isupper() else form
    return with_article(word, step.article)

class Grammar:
    "Lists of words and rules; each rule has lines, and the writer chooses one of them at random."

    def __init__(self, text: str):
        self.words, weighted, lines = {}, {}, None
        for line in text.splitlines():
            if found := regex.fullmatch(r"(\w+): (.*)", line):
                words = self.words.setdefault(found[1], [])
                words += (word.replace("_", " ") for word in found[2].split())
            elif found := regex.fullmatch(r"(\w+) =", line):
                lines = weighted.setdefault(found[1], [])
            elif found := regex.fullmatch(r"  (?:(\d+)\* )?(\S.*)", line):
                lines.append((int(found[1] or 1), found[2]))
        self.rules = {}  # the lines of each rule: pairs of a log-probability and steps
        for name, lines in weighted.items():
            total = sum(weight for weight, _ in lines)
            steps = mark_certain([parse_line(line, set(weighted)) for _, line in lines])
            self.rules[name] = [(math.log(weight / total), line) for (weight, _), line in zip(lines, steps)]
        self.patterns = {"~": MADE_UP}  # for each list a pattern that finds its words, the longest first
        for name, words in self.words.items():
            self.patterns[name] = regex.compile("|".join(map(regex.escape, sorted(words, key=len, reverse=True))))

    def allowed(self, step: Step, remembered: dict, heldout: bool) -> list[str]:
        "The words that a step may pick: those allowed with its partner, except those picked before."
        words = self.words[step.words]
        if step.partner:
            name, partner = remembered[step.partner]
            place = self.words[name].index(partner)
            words = [word for i, word in enumerate(words) if ((place + i) % 7 == 0) == heldout]
        before = {word for name, word in remembered.values() if name == step.words}
        return [word for word in words if word not in before] if before else words

def write(grammar: Grammar, rng: random.Random, heldout: bool = False, start: str = "Tale") -> str:
    "Write a text from the rule `start`, making every choice at random."
    todo, remembered, text = [Step("rule", start)], {}, ""
    while todo:
        step = todo.pop()
        if step.kind == "rule":
            chance = rng.random()
            for logp, steps in grammar.rules[step.name]:
                chance -= math.exp(logp)
                if chance < 0:
                    break
            todo += reversed(steps)
        elif step.kind == "text":
            text += step.name
        elif step.kind == "word":
            text += inflect(step, remembered)
        else:
            lists = SYLLABLES if step.words == "~" else [grammar.allowed(step, remembered, heldout)]
            word = "".join(words[int(rng.random() * len(words))] for words in lists)
            word = word.capitalize() if step.words == "~" else word
            remembered[step.name] = step.words, word
            text += with_article(word, step.article)
    return text

@cache
def the_grammar() -> Grammar:
    "The grammar of tales.txt and chats.txt, read once."
    return Grammar("\n".join((ASSETS / name).read_text(encoding="utf-8") for name in ("tales.txt", "chats.txt")))
