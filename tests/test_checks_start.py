"""The check of the chapter Start."""

import pytest

from tinygpt.checks import start as check
from tinygpt.tales import the_tokenizer

tok = the_tokenizer()


def longest(text):
    return max((tok.decode([id]) for id in tok.encode(text)), key=len)


def the_last_longest(text):
    return sorted((tok.decode([id]) for id in tok.encode(text)), key=len)[-1]


def nothing(text): ...


def by_loop(text):
    best = ""
    for id in tok.encode(text):
        if len(tok.decode([id])) > len(best):
            best = tok.decode([id])
    return best


@pytest.mark.parametrize("answer", [longest, the_last_longest, by_loop])
def test_right_answers(answer):
    assert check.longest_token(answer), check.longest_token(answer)


MISTAKES = {
    "stripped": (lambda text: longest(text).strip(), "space before a word"),
    "word": (lambda text: max(text.split(), key=len), "longest word"),
    "id": (lambda text: max(tok.encode(text), key=lambda id: len(tok.decode([id]))), "returned an id"),
    "length": (lambda text: len(longest(text)), "returned a number"),
    "list": (lambda text: [longest(text)], "returned a list"),
    "bytes": (lambda text: longest(text).encode(), "returned bytes"),
    "of the vocabulary": (lambda text: max((tok.decode([id]) for id in range(1500)), key=len), "does not occur"),
    "highest id": (lambda text: tok.decode([max(tok.encode(text))]), "a token with more characters"),
    "first": (lambda text: tok.decode([tok.encode(text)[0]]), "a token with more characters"),
    "not a list of ids": (lambda text: tok.decode(tok.encode(text)[0]), "TypeError"),
    "whole text": (lambda text: text, "more than one token"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_has_its_diagnosis(name):
    answer, said = MISTAKES[name]
    verdict = check.longest_token(answer)
    assert verdict.state == "wrong" and said in verdict.message, verdict


def test_a_blank_answer_is_still_to_be_written():
    assert check.longest_token(nothing).state == "blank"
