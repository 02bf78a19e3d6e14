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
import torch
from conftest import ROOT

from tinygpt import CharTokenizer, tales
from tinygpt.tales import chat, logprob, tale, the_tokenizer
from tinygpt.io.tokenizer_files import to_json
from tinygpt.world.grammar import MADE_UP, Grammar, Step, inflect, the_grammar, with_article, write
from tinygpt.world.parser import answers, parse
from tinygpt.world.skills import CHANCE, skill_accuracy, spans, tokens_in

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


def every_text(grammar, todo, remembered, logp):
    "All texts of a grammar and their log-probabilities, by trying everything: the oracle for small ones."
    if not todo:
        yield "", logp
        return
    step, *rest = todo
    if step.kind == "rule":
        for way, steps in grammar.rules[step.name]:
            yield from every_text(grammar, [*steps, *rest], remembered, logp + way)
    elif step.kind == "pick":
        words = grammar.allowed(step, remembered, False)
        for word in words:
            now = remembered | {step.name: (step.words, word)}
            for text, total in every_text(grammar, rest, now, logp - math.log(len(words))):
                yield with_article(word, step.article) + text, total
    else:
        word = step.name if step.kind == "text" else inflect(step, remembered)
        for text, total in every_text(grammar, rest, remembered, logp):
            yield word + text, total


def test_the_probabilities_of_a_small_grammar_sum_to_one():
    grammar = Grammar(SMALL)
    texts = list(every_text(grammar, [Step("rule", "Tale")], {}, 0.0))
    assert len({text for text, _ in texts}) == len(texts) > 60
    assert math.isclose(sum(math.exp(logp) for _, logp in texts), 1, abs_tol=1e-12)
    for text, logp in texts:
        (made,) = parse(grammar, text)
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


def ways_to_read(seeds, start="Tale"):
    "How many of these texts are read in exactly one way, and their words."
    grammar, texts = the_grammar(), [{"Tale": tale, "Chat": chat}[start](seed) for seed in seeds]
    lengths = [len(text.split()) for text in texts]
    return sum(len(list(parse(grammar, text, start=start))) == 1 for text in texts), min(lengths), max(lengths)


def test_twenty_five_thousand_tales_are_read_in_exactly_one_way():
    parts = [range(start, start + 2500) for start in range(0, 25_000, 2500)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        once, shortest, longest = zip(*pool.map(ways_to_read, parts), strict=True)
    assert sum(once) == 25_000
    assert min(shortest) >= 40 and max(longest) <= 120


def test_conversations_are_read_in_exactly_one_way():
    assert ways_to_read(range(5000), "Chat")[0] == 5000


def test_a_whole_tale_or_conversation_fits_a_window():
    tok = the_tokenizer()
    longest = [max(len(tok.encode(make(seed), allowed_special="all")) for seed in range(4000)) for make in (tale, chat)]
    assert max(longest) + 2 <= 256


def test_tales_are_the_same_everywhere():
    texts = [*map(tale, range(1000)), *(tale(seed, heldout=True) for seed in range(100)), *map(chat, range(500))]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    assert digest == "fe74de710f5c2bdf83e35b4cd00efbc42c4745433d975de0755d9cf6f6c79e22"


def test_the_grammar_is_whole():
    "Every rule and list is used, no word stands twice in a list, and none is the beginning of another."
    grammar = the_grammar()
    steps = [step for ways in grammar.rules.values() for _, line in ways for step in line]
    assert {step.name for step in steps if step.kind == "rule"} | {"Tale", "Chat"} == set(grammar.rules)
    assert {step.words for step in steps if step.kind == "pick"} - {"~"} == set(grammar.words)
    for name, words in grammar.words.items():
        assert len(set(words)) == len(words), name
        assert not [(a, b) for a, b in itertools.permutations(words, 2) if b.startswith(a)], name


def test_a_thousand_words():
    text = " ".join(tale(seed) for seed in range(5000))
    known = {word.lower() for word in re.findall(r"[\w'-]+", text)}
    made_up = {word for word in known if MADE_UP.fullmatch(word)}
    assert 1000 <= len(known - made_up) <= 2000


def test_what_the_source_cannot_write_has_no_probability():
    assert logprob("") == logprob("Once upon a time.") == logprob(tale(1) + " ") == logprob(tale(1)[:-1]) == -math.inf
    assert -120 < logprob(tale(1)) < -20
    assert "Yonzi" in tale(0) and logprob(tale(0).replace("Yonzi", "YONZI")) == -math.inf


OTHERS = {
    "pronoun": ["he", "she", "him", "her", "his", "himself", "herself", "He", "She", "His", "Her"],
    "count": ["two", "three", "four", "eleven"],
    "name": ["Ada", "Otto", "Zeno"],
    "copy": ["Kelkel", "Zadbofi"],
    "quote": [" ", ""],
    "color": ["red", "black", "a red", "an orange", "blue"],
}


@pytest.mark.parametrize("heldout", [False, True])
def test_where_a_skill_is_needed_nothing_else_fits(heldout):
    found = dict.fromkeys(OTHERS, 0)
    for seed in range(150):
        text = tale(seed, heldout)
        for start, end, skill in spans(text):
            found[skill] += 1
            for other in OTHERS[skill]:
                if other.lower() != text[start:end].lower():
                    assert logprob(text[:start] + other + text[end:], heldout) == -math.inf
    assert min(found.values()) > 100


def test_held_out_pairs_occur_nowhere_else():
    seen = [set(), set()]
    for heldout, seed in itertools.product([False, True], range(3000)):
        (made,) = parse(the_grammar(), text := tale(seed, heldout), heldout)
        for a, b in itertools.pairwise(made):
            if (a.kind, b.kind) == ("color", "thing") and b.start - a.end == 1:
                seen[heldout].add((text[a.start : a.end], text[b.start : b.end]))
    assert not seen[0] & seen[1] and len(seen[0]) > 600 and len(seen[1]) > 90
    heldout_only = [tale(seed, heldout=True) for seed in range(300)]
    apart = [text for text in heldout_only if any(c.kind == "color" for c in next(parse(the_grammar(), text, True)))]
    assert sum(logprob(text) == -math.inf for text in apart) > len(apart) / 2


def test_the_answers_of_a_conversation():
    text = chat(3)
    assert "Lotte has eight black aprons" in text and "Martha, who is bored because the goat ate the curtains" in text
    assert [(kind, text[start:end]) for start, end, kind in answers(text)] == [
        ("correct", "So Lotte has ten black aprons."),
        ("who", "Lotte."),
        ("many", "Seven."),
        ("why", "Because the goat ate the curtains."),
        ("follow", "Behind a misty school."),
    ]


def test_every_answer_is_the_only_one():
    known, turns = {}, []
    for seed in range(1200):
        text = chat(seed)
        found = answers(text)
        told = 1 if "<|end|>" in text and len(text.split("<|end|>")[0]) > 300 and len(found) == 1 else 0
        assert len(found) == text.count("<|assistant|>") - told
        turns.append(text.count("<|user|>"))
        for start, end, kind in found:
            assert text[:start].endswith("<|assistant|> ") and text[end:].startswith(("<|end|>", "")[end == len(text)])
            known.setdefault(kind, set()).add(text[start:end])
            for other in random.Random(seed).sample(sorted(known[kind]), min(3, len(known[kind]))):
                if other != text[start:end]:
                    assert logprob(text[:start] + other + text[end:]) == -math.inf
        assert math.isfinite(logprob(text))
    assert set(known) == {"who", "where", "color", "many", "why", "retell", "correct", "follow", "what"}
    assert min(map(len, known.values())) >= 8 and sum(turns) / len(turns) > 3


def test_the_shared_tokenizer():
    from transformers import AutoTokenizer

    tok = the_tokenizer()
    assert to_json(tok) == to_json(tales.train_tokenizer())
    assert tok.vocab_size == 2048 and tok.special_tokens == {"<|end|>": 2045, "<|user|>": 2046, "<|assistant|>": 2047}
    other = AutoTokenizer.from_pretrained(ROOT / "tinygpt" / "assets" / "vocabulary")
    for text in [tale(5), chat(5), "Größe: 12 €"]:
        ids = tok.encode(text, allowed_special="all")
        assert ids == other(text)["input_ids"] and tok.decode(ids) == text
    assert not {1021, 1022, 1023} & set(tok.encode(chat(5)))


def knowing(tok, texts, wrong=()):
    "A model that knows these texts by heart, but errs at the tokens of these (text, start, end)."
    rows = {}
    for text in texts:
        ids = tok.encode(text)
        rows[len(ids), tuple(ids[:60])] = list(ids)
        edges = [0, *itertools.accumulate(len(tok.decode([i])) for i in ids)]
        for other, start, end in wrong:
            if other == text:
                last = tokens_in(edges, start, end)[-1]
                rows[len(ids), tuple(ids[:60])][last] = (ids[last] + 1) % tok.vocab_size

    def model(ids):
        (row,) = ids.tolist()
        next_ids = rows[len(row), tuple(row[1:61])]
        return torch.nn.functional.one_hot(torch.tensor([next_ids]), tok.vocab_size).float()

    return model


def test_the_probe_looks_just_where_a_skill_is_needed():
    texts = [tale(seed, heldout=True) for seed in range(40)]
    tok = CharTokenizer.train(texts)
    assert set(skill_accuracy(knowing(the_tokenizer(), texts), the_tokenizer(), texts).values()) == {1.0}
    assert set(skill_accuracy(knowing(tok, texts), tok, texts).values()) == {1.0}
    for skill in CHANCE:
        places = [(text, start, end) for text in texts for start, end, kind in spans(text) if kind == skill]
        found = skill_accuracy(knowing(tok, texts, places), tok, texts)
        assert found == {**dict.fromkeys(CHANCE, 1.0), skill: 0.0}
        half = skill_accuracy(knowing(tok, texts, places[::2]), tok, texts)
        assert half[skill] == len(places) // 2 / len(places)


def test_chance_is_that_of_a_guess_from_the_list():
    words = the_grammar().words
    assert len(words["girl"]) == len(words["boy"]) == 1 / CHANCE["name"]
    assert 1 / CHANCE["color"] == len(words["color"]) and 1 / CHANCE["count"] == len(words["number"])


def test_one_who_counts_pairs_has_no_skills():
    tok = the_tokenizer()
    counts = torch.zeros(2048, 2048)
    for seed in range(1000):
        ids = torch.tensor(tok.encode(tale(seed)))
        counts.index_put_((ids[:-1], ids[1:]), torch.tensor(1.0), accumulate=True)
    found = skill_accuracy(counts.__getitem__, tok, (tale(seed, heldout=True) for seed in range(100)))
    assert all(share <= CHANCE[skill] + 0.05 for skill, share in found.items())


FILES = re.findall(r'python -c "(.*?)" > data/([\w-]+\.txt)', (ROOT / "data" / "README.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("code, name", FILES, ids=lambda value: value if value.endswith(".txt") else "")
def test_each_text_in_the_data_folder_is_made_again_by_the_command_beside_it(code, name):
    made = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "data" / name).read_text(encoding="utf-8")


def test_no_text_in_the_data_folder_lacks_its_command():
    assert {name for _, name in FILES} == {path.name for path in (ROOT / "data").glob("*.txt")}
