"""Parse a text: find the choices that made it, and so its exact probability."""

import math
from collections.abc import Iterator
from typing import NamedTuple
import regex
from tinygpt.world.grammar import FEMININE, N_MADE_UP, Grammar, Step, inflect, the_grammar, with_article

__all__ = ["Choice", "choices", "answers"]

class Choice(NamedTuple):
    "A choice that made a text: the line of a rule, a picked word, or a word written again (with surprisal 0)."
    start: int  # its place in the text; for the line of a rule, start equals end
    end: int
    kind: str  # the list that the word is from, "pronoun", or the name of the rule
    logp: float  # its log-probability: 0 for a word written again
    certain: bool = False  # a word written again where nothing else was possible

def match_pick(grammar: Grammar, step: Step, remembered: dict, text: str, at: int, heldout: bool) -> Choice | None:
    "The choice that this step made, if the text continues with one of its words and the right article."
    start = at + len(step.article and regex.match("(?:[Aa]n? )?", text[at : at + 3])[0])
    found = grammar.patterns[step.words].match(text, start)
    if not found or not text.startswith(with_article(found[0], step.article), at):
        return None
    if step.words == "~":
        return Choice(start, found.end(), "~", -math.log(N_MADE_UP)) if found[0].istitle() else None
    words = grammar.allowed(step, remembered, heldout)
    return Choice(start, found.end(), step.words, -math.log(len(words))) if found[0] in words else None

def parse(grammar: Grammar, text: str, heldout: bool = False, start: str = "Tale") -> Iterator[tuple[Choice, ...]]:
    "Every parse of a text: the choices by which the grammar can write it from the rule `start`."
    # Each state is a parse under way: the steps still to do (a linked list, whose rest many states share), the place in
    # the text, the words remembered, the choices so far.
    states = [((Step("rule", start), None), 0, {}, ())]
    while states:
        todo, at, remembered, made = states.pop()
        while todo:
            step, todo = todo
            if step.kind == "rule":
                for logp, steps in grammar.rules[step.name]:
                    after = todo
                    for one in reversed(steps):
                        after = one, after
                    states.append((after, at, remembered, made + (Choice(at, at, step.name, logp),)))
                break
            if step.kind == "pick":
                if not (choice := match_pick(grammar, step, remembered, text, at, heldout)):
                    break
                remembered = remembered | {step.name: (step.words, text[choice.start : choice.end])}
                made, at = made + (choice,), choice.end
                continue
            word = step.name if step.kind == "text" else inflect(step, remembered)
            if not text.startswith(word, at):
                break
            if step.kind == "word":
                kind = "pronoun" if step.form.lower() in FEMININE else remembered[step.name][0]
                made += (Choice(at, at + len(word), kind, 0.0, step.certain),)
            at += len(word)
        else:
            if at == len(text):
                yield made

def choices(text: str, heldout: bool = False) -> tuple[Choice, ...] | None:
    "The choices that made a tale or a chat; None if the grammar cannot write it."
    start = "Chat" if text.startswith("<|user|>") else "Tale"
    return next(parse(the_grammar(), text, heldout, start), None)

def answers(text: str) -> list[tuple[int, int, str]]:
    "The answers in a chat that can be right or wrong: start, end, and the kind of question."
    found, before, after = [], "<|assistant|> ", "<|end|>"
    for choice in choices(text) or ():
        if kind := regex.match("Ask([A-Z][a-z]+)", choice.kind):
            start = text.index(before, choice.start) + len(before)
            end = (text + after).index(after, start)
            found.append((start, end, kind[1].lower()))
    return found
