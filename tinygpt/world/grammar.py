"""The grammar of tales and chats: read from a file, and written by."""

import math
import random
from functools import cache
from importlib import resources
from typing import NamedTuple

import regex


class Step(NamedTuple):
    "One part of a line in a grammar."

    kind: str  # "text", "rule", "pick" (choose a word and remember it) or "word" (write it once more)
    name: str  # the text, the rule, or what the word is remembered as
    words: str = ""  # the list to pick from; ~ makes a word up
    partner: str = ""  # what was picked before and decides which words go with it
    form: str = ""  # he, him, his, himself for a name; + for the next number
    article: str = ""  # "a" or "A", to stand in front
    sure: bool = False  # whether what stands before it leaves no other way to go on


SLOT = regex.compile(r"(?:(?<article>a|A) )?(?<name>\w+)"
                     r"(?::(?<words>[\w~]+)(?:/(?<partner>\w+))?|\.(?<form>\w+)|(?<form>\+))?")

def read_line(line: str, rules: set[str]) -> list[Step]:
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


def is_sure(steps: list[Step], k: int, other: list[Step]) -> bool:
    "Whether step k of a line is certain although its rule has this other line, too."
    for a, b in zip(steps[:k], other[:k]):
        if a != b:
            return not (a.kind == b.kind == "text" and (a.name.startswith(b.name) or b.name.startswith(a.name)))
    return steps[k] == (other[k] if k < len(other) else None)


def mark_sure(lines: list[list[Step]]) -> list[list[Step]]:
    "Mark the steps that are certain once the lines of a rule have parted."
    return [[step._replace(sure=all(is_sure(steps, k, other) for other in lines)) for k, step in enumerate(steps)]
            for steps in lines]


SHE = {"he": "she", "him": "her", "his": "her", "himself": "herself"}
COUNT = "two three four five six seven eight nine ten eleven".split()
FIRST = "dal fim gor hul jub kel mop nug pel rud sol tev vel wix yon zad".split()
SECOND = "bo fi go ka mu ne po ru sa ta vu zi".split()     # no bad word comes of these
MADE_UP = regex.compile(f"(?i:{'|'.join(FIRST)})(?i:{'|'.join(SECOND)})")
N_MADE_UP = len(FIRST) * len(SECOND)

def with_article(word: str, article: str) -> str:
    "A hat, an owl."
    n = "n" if article and (word[0] in "aeiou" or word.startswith("honest")) else ""
    return f"{article}{n} {word}" if article else word


def spoken(step: Step, said: dict) -> str:
    "What a word is when it is written once more."
    kind, word = said[step.name]
    if step.form == "+":
        word = COUNT[COUNT.index(word) + 1]
    elif step.form == "Cap":
        word = word.capitalize()
    elif step.form:
        form = SHE[step.form.lower()] if kind == "girl" else step.form.lower()
        word = form.capitalize() if step.form[0].isupper() else form
    return with_article(word, step.article)


class Grammar:
    "Lists of words, and rules that say how a tale may go on."

    def __init__(self, text: str):
        self.words, rules, rule = {}, {}, None
        for line in text.splitlines():
            if found := regex.fullmatch(r"(\w+): (.*)", line):
                words = self.words.setdefault(found[1], [])
                words += (word.replace("_", " ") for word in found[2].split())
            elif found := regex.fullmatch(r"(\w+) =", line):
                rule = rules.setdefault(found[1], [])
            elif found := regex.fullmatch(r"  (?:(\d+)\* )?(\S.*)", line):
                rule.append((int(found[1] or 1), found[2]))
        self.rules = {}
        for name, ways in rules.items():
            total = sum(weight for weight, _ in ways)
            lines = mark_sure([read_line(line, set(rules)) for _, line in ways])
            self.rules[name] = [(math.log(weight / total), steps) for (weight, _), steps in zip(ways, lines)]
        longest_first = {name: sorted(words, key=len, reverse=True) for name, words in self.words.items()}
        self.find = {name: regex.compile("|".join(map(regex.escape, words))) for name, words in longest_first.items()}
        self.find["~"] = MADE_UP

    def allowed(self, step: Step, said: dict, heldout: bool) -> list[str]:
        "The words that a step may pick: those that go with its partner, and none that was picked before."
        words = self.words[step.words]
        if step.partner:
            kind, partner = said[step.partner]
            place = self.words[kind].index(partner)
            words = [word for i, word in enumerate(words) if ((place + i) % 7 == 0) == heldout]
        before = {word for kind, word in said.values() if kind == step.words}
        return [word for word in words if word not in before] if before else words


def write(grammar: Grammar, rng: random.Random, heldout: bool = False, start: str = "Tale") -> str:
    "Tell one tale, or whatever the rule `start` begins."
    todo, said, text = [Step("rule", start)], {}, ""
    while todo:
        step = todo.pop()
        if step.kind == "rule":
            ways, chance = grammar.rules[step.name], rng.random()
            for logp, steps in ways:
                chance -= math.exp(logp)
                if chance < 0:
                    break
            todo += reversed(steps)
        elif step.kind == "text":
            text += step.name
        elif step.kind == "word":
            text += spoken(step, said)
        else:
            lists = [FIRST, SECOND] if step.words == "~" else [grammar.allowed(step, said, heldout)]
            word = "".join(words[int(rng.random() * len(words))] for words in lists)
            word = word.capitalize() if step.words == "~" else word
            said[step.name] = step.words, word
            text += with_article(word, step.article)
    return text


@cache
def the_grammar() -> Grammar:
    "The grammar of tales.txt and chats.txt, read once."
    files = [resources.files("tinygpt").joinpath("assets", name) for name in ("tales.txt", "chats.txt")]
    return Grammar("\n".join(file.read_text(encoding="utf-8") for file in files))
