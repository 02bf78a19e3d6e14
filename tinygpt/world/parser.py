"""From a text back to the choices that made it, and so to its exact probability."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import regex

from tinygpt.world.grammar import MADE_UP, N_MADE_UP, SHE, Grammar, Step, spoken, the_grammar, with_article


class Choice(NamedTuple):
    "Where in a tale something was picked, or written once more."

    start: int
    end: int
    kind: str  # the list that the word is from, "pronoun", or the name of a rule
    logp: float  # 0 for what is written once more
    sure: bool = False  # written once more, where nothing else was possible


def match_pick(grammar: Grammar, step: Step, said: dict, text: str, at: int, heldout: bool) -> Choice | None:
    "The choice that this step made, if one of its words stands here with the right article."
    start = at + len(step.article and regex.match("(?:[Aa]n? )?", text[at : at + 3])[0])
    found = grammar.find[step.words].match(text, start)
    if not found or not text.startswith(with_article(found[0], step.article), at):
        return None
    if step.words == "~":
        return Choice(start, found.end(), "~", -math.log(N_MADE_UP))
    words = grammar.allowed(step, said, heldout)
    return Choice(start, found.end(), step.words, -math.log(len(words))) if found[0] in words else None


def read(grammar: Grammar, text: str, heldout: bool = False,
         start: str = "Tale") -> Iterator[tuple[Choice, ...]]:
    "Every way in which the grammar can write this text, as its choices."
    states = [((Step("rule", start), None), 0, {}, ())]
    while states:
        todo, at, said, made = states.pop()
        while todo:
            step, todo = todo
            if step.kind == "rule":
                for logp, steps in grammar.rules[step.name]:
                    after = todo
                    for one in reversed(steps):
                        after = one, after
                    states.append((after, at, said, made + (Choice(at, at, step.name, logp),)))
                break
            if step.kind == "pick":
                choice = match_pick(grammar, step, said, text, at, heldout)
                if not choice:
                    break
                said = said | {step.name: (step.words, text[choice.start : choice.end])}
                made, at = made + (choice,), choice.end
                continue
            word = step.name if step.kind == "text" else spoken(step, said)
            if not text.startswith(word, at):
                break
            if step.kind == "word":
                kind = "pronoun" if step.form.lower() in SHE else said[step.name][0]
                made += (Choice(at, at + len(word), kind, 0.0, step.sure),)
            at += len(word)
        else:
            if at == len(text):
                yield made


def choices(text: str, heldout: bool = False) -> tuple[Choice, ...] | None:
    "The choices that made a tale or a conversation; None if the source cannot have written it."
    start = "Chat" if text.startswith("<|user|>") else "Tale"
    return next(read(the_grammar(), text, heldout, start), None)


def answers(text: str) -> list[tuple[int, int, str]]:
    "The answers in a conversation that can be right or wrong: start, end, and the kind of the question."
    found, before, after = [], "<|assistant|>", "<|end|>"
    for choice in choices(text) or ():
        if kind := regex.match("Ask([A-Z][a-z]+)", choice.kind):
            start = text.index(before, choice.start) + len(before)
            end = (text + after).index(after, start)
            found.append((start, end, kind[1].lower()))
    return found
