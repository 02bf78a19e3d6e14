"""Chapter 02: the tales are what the grammar says, and the grammar knows their exact probability."""

import hashlib
import itertools
import math
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
from conftest import ROOT

from tinygpt import tales
from tinygpt.tales import Grammar, Step, logprob, read, spans, tale, the_grammar, write

SMALL = """
girl: Ada Ida
boy: Otto
color: red green orange
thing: hat key owl
number: two three

Tale =
  {h:girl} and {o:girl} had {a q:color} {x:thing}. {End}
  {h:boy} counted {e:number} {x:thing}s. {End}
End =
  {h.He} lost it, {Where}.
  3* "Where is my {x}?" asked {h}.
Where =
  in the sea
  in the {y:thing}
"""


def every_text(grammar, todo, said, logp):
    "All texts of a grammar and their log-probabilities, by trying everything: the oracle for small ones."
    if not todo:
        yield "", logp
        return
    step, *rest = todo
    if step.kind == "rule":
        for way, steps in grammar.rules[step.name]:
            yield from every_text(grammar, [*steps, *rest], said, logp + way)
    elif step.kind == "pick":
        words = grammar.allowed(step, said, False)
        for word in words:
            now = said | {step.name: (step.words, word)}
            for text, total in every_text(grammar, rest, now, logp - math.log(len(words))):
                yield tales.with_article(word, step.article) + text, total
    else:
        word = step.name if step.kind == "text" else tales.spoken(step, said)
        for text, total in every_text(grammar, rest, said, logp):
            yield word + text, total


def test_the_probabilities_of_a_small_grammar_sum_to_one():
    grammar = Grammar(SMALL)
    texts = list(every_text(grammar, [Step("rule", "Tale")], {}, 0.0))
    assert len({text for text, _ in texts}) == len(texts) > 60
    assert math.isclose(sum(math.exp(logp) for _, logp in texts), 1, abs_tol=1e-12)
    for text, logp in texts:
        (made,) = read(grammar, text)
        assert math.isclose(sum(choice.logp for choice in made), logp, abs_tol=1e-12)


def test_the_writer_writes_as_often_as_the_reader_says():
    grammar, n = Grammar(SMALL), 20_000
    expected = {text: math.exp(logp) for text, logp in every_text(grammar, [Step("rule", "Tale")], {}, 0.0)}
    seen = dict.fromkeys(expected, 0)
    for seed in range(n):
        seen[write(grammar, random.Random(seed))] += 1
    chi_square = sum((seen[text] - n * p) ** 2 / (n * p) for text, p in expected.items())
    freedom = len(expected) - 1
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def ways_to_read(seeds):
    "How many of these tales are read in exactly one way, and their words."
    grammar, texts = the_grammar(), [tale(seed) for seed in seeds]
    lengths = [len(text.split()) for text in texts]
    return sum(len(list(read(grammar, text))) == 1 for text in texts), min(lengths), max(lengths)


def test_a_hundred_thousand_tales_are_read_in_exactly_one_way():
    parts = [range(start, start + 2500) for start in range(0, 100_000, 2500)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        once, shortest, longest = zip(*pool.map(ways_to_read, parts), strict=True)
    assert sum(once) == 100_000
    assert min(shortest) >= 40 and max(longest) <= 120


def test_tales_are_the_same_everywhere():
    texts = "\n".join(tale(seed) for seed in range(1000)) + "\n".join(tale(seed, heldout=True) for seed in range(100))
    assert (
        hashlib.sha256(texts.encode()).hexdigest() == "e6fe24b2b17d90c733efcf72892ceeda1e30b0fcc8eb1f428bb25895c4d7f5b1"
    )


def test_the_grammar_is_whole():
    "Every rule and list is used, no word stands twice in a list, and none is the beginning of another."
    grammar = the_grammar()
    steps = [step for ways in grammar.rules.values() for _, line in ways for step in line]
    assert {step.name for step in steps if step.kind == "rule"} | {"Tale"} == set(grammar.rules)
    assert {step.words for step in steps if step.kind == "pick"} - {"~"} == set(grammar.words)
    for name, words in grammar.words.items():
        assert len(set(words)) == len(words), name
        assert not [(a, b) for a, b in itertools.permutations(words, 2) if b.startswith(a)], name


def test_a_thousand_words():
    text = " ".join(tale(seed) for seed in range(5000))
    known = {word.lower() for word in re.findall(r"[\w'-]+", text)}
    made_up = {word for word in known if tales.MADE_UP.fullmatch(word)}
    assert 1000 <= len(known - made_up) <= 2000


def test_what_the_source_cannot_write_has_no_probability():
    assert logprob("") == logprob("Once upon a time.") == logprob(tale(1) + " ") == logprob(tale(1)[:-1]) == -math.inf
    assert -120 < logprob(tale(1)) < -20


OTHERS = {
    "pronoun": ["he", "she", "him", "her", "his", "himself", "herself", "He", "She", "His", "Her"],
    "count": ["two", "three", "four", "eleven"],
    "name": ["Ada", "Otto", "Zeno"],
    "copy": ["Bababa", "Zuzuzu"],
    "quote": [" ", ""],
    "color": ["red", "black", "a red", "an orange", "blue"],
}


@pytest.mark.parametrize("heldout", [False, True])
def test_where_a_skill_is_needed_nothing_else_fits(heldout):
    found = dict.fromkeys(OTHERS, 0)
    for seed in range(150):
        text = tale(seed, heldout)
        for start, end, skill in spans(text, heldout):
            found[skill] += 1
            for other in OTHERS[skill]:
                if other.lower() != text[start:end].lower():
                    assert logprob(text[:start] + other + text[end:], heldout) == -math.inf
    assert min(found.values()) > 100


def test_held_out_pairs_occur_nowhere_else():
    seen = [set(), set()]
    for heldout, seed in itertools.product([False, True], range(3000)):
        (made,) = read(the_grammar(), text := tale(seed, heldout), heldout)
        for a, b in itertools.pairwise(made):
            if (a.kind, b.kind) == ("color", "thing") and b.start - a.end == 1:
                seen[heldout].add((text[a.start : a.end], text[b.start : b.end]))
    assert not seen[0] & seen[1] and len(seen[0]) > 600 and len(seen[1]) > 90
    heldout_only = [tale(seed, heldout=True) for seed in range(300)]
    apart = [text for text in heldout_only if any(c.kind == "color" for c in next(read(the_grammar(), text, True)))]
    assert sum(logprob(text) == -math.inf for text in apart) > len(apart) / 2


def test_the_tales_in_the_data_folder_are_made_again_by_the_command_beside_them():
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    code = re.search(r'python -c "(.*?)" > data/tales-small.txt', readme)[1]
    made = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "data" / "tales-small.txt").read_text(encoding="utf-8")
