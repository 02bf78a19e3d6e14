"""The exact probabilities of the next token, against enumeration, `logprob` and the frequencies of many tales."""

import math
import random
import re
from collections import Counter
from functools import cache

import pytest
import tinygpt as tg
import torch
from test_tales import every_text

from tinygpt import GPT2_SPLIT, BPETokenizer, CharTokenizer, chat, logprob, next_token, tale, the_tokenizer
from tinygpt.engine.splitting import O200K_SPLIT
from tinygpt.world.grammar import Grammar, Step, the_grammar
from tinygpt.world.next_token import END, MADE_UP_WORDS, continuations, next_token_of
from tinygpt.world.parser import choices

SMALL = """
girl: Ada Zoë
boy: Otto
color: red green orange
thing: hat hut key owl
number: two three
place: by_the_sea mid-air 1,000_l
thin: a an

Tale =
  {h:girl} and {o:girl} had {a q:color} {x:thing/q}. {End}
  {h:boy} had {a x:thing}{y:thing}. {End}
  2* "It's {h:girl}'s {m:~}. Come, {m}!"
  Ada saw {e:number}.
  {h:girl} saw {x:thing}s.
  {h:boy}
  {h:boy} {t:thin} {e:number}...
End =
  {h.He} lost it, {Where}.
  She lost it,  {Where}
  3* "Where is my {x}?" asked {h}.
Where =
  in the sea
  in {a p:place}
  in the {y:thing}

Chat =
  <|user|>{h:girl}?{Answer}
  <|user|>{h:boy} {e:number}{Answer}<|end|><|user|>{Who}
  2* <|user|>{h:boy} {e:number}{Answer}
Answer =
  <|assistant|>{h}.
  <|assistant|>{h}, the user.
Who =
  {Answer}
  Who had {e}?{Answer}
"""


NAMES = ["bytes", "few merges", "many merges", "GPT-2's split", "GPT-4o's split", "no special tokens", "characters"]


@cache
def small(start):
    "The small grammar, and all that it writes from a rule: pairs of a text and its log-probability."
    listed = Grammar(SMALL)
    listed.words["~"] = MADE_UP_WORDS
    return Grammar(SMALL), [*every_text(listed, [Step("rule", start)], {}, 0.0)]


@cache
def tokenizers():
    "Tokenizers of the small grammar, with merges inside words, over articles and over punctuation."
    texts = [text for start in ("Tale", "Chat") for text, _ in small(start)[1]]
    plain = [part for text in texts for part in re.split(r"<\|\w+\|>", text)]
    special = [END, "<|user|>", "<|assistant|>"]
    return {
        "bytes": BPETokenizer.train(plain, 259, special),
        "few merges": BPETokenizer.train(plain, 290, special),
        "many merges": BPETokenizer.train(plain, 500, special),
        "GPT-2's split": BPETokenizer.train(plain, 400, special, pattern=GPT2_SPLIT),
        "GPT-4o's split": BPETokenizer.train(plain, 400, special, pattern=O200K_SPLIT),
        "no special tokens": BPETokenizer.train(texts, 400),
        "characters": CharTokenizer.train(texts),
    }


def ids_of(tok, text):
    return tok.encode(text, **({"allowed_special": "all"} if isinstance(tok, BPETokenizer) else {}))


@pytest.mark.parametrize("start", ["Tale", "Chat"])
@pytest.mark.parametrize("name", NAMES)
def test_every_beginning_in_a_small_grammar_by_enumeration(name, start):
    tok, (grammar, texts) = tokenizers()[name], small(start)
    assert math.isclose(sum(math.exp(logp) for _, logp in texts), 1)
    end = getattr(tok, "special_tokens", {}).get(END)
    rows = [(text, ids_of(tok, text) + [end], math.exp(logp)) for text, logp in texts]
    beginnings = {text[:n] for text, _ in texts[:: 1 + len(texts) // 20] for n in range(len(text) + 1)}
    found = Counter()
    for beginning in sorted(beginnings):
        ids = ids_of(tok, beginning)
        n, expected = len(ids), Counter()
        for text, row, p in rows:
            if text.startswith(beginning) and row[:n] == ids:
                expected[row[n]] += p
        if not expected or None in expected:
            wrong = "no token for the end" if expected else "ends inside a token"
            with pytest.raises(ValueError, match=wrong):
                next_token_of(grammar, beginning, tok, start)
            found[wrong] += 1
            continue
        probs = next_token_of(grammar, beginning, tok, start)
        assert probs.shape == (tok.vocab_size,) and probs.dtype == torch.float64
        assert set(probs.nonzero().flatten().tolist()) == set(expected)
        for id, p in expected.items():
            assert math.isclose(probs[id].item(), p / expected.total(), rel_tol=1e-9)
        found["open" if len(expected) > 1 else "certain"] += 1
    assert found["open"] >= 10 and found["certain"] >= 50
    assert (found["no token for the end"] > 0) == (end is None)
    single = name == "characters" or (name, start) == ("bytes", "Tale")  # every token is one character
    assert (found["ends inside a token"] > 0) != single


def surprisal(tok, text):
    "Minus the sum of the log-probabilities of a tale's tokens and of the end after it."
    ids = tok.encode(text) + [tok.special_tokens[END]]
    total = 0.0
    for i, id in enumerate(ids):
        probs = next_token(tok.decode(ids[:i]), tok)
        assert abs(probs.sum().item() - 1) < 1e-12 and probs.min() >= 0
        total -= probs[id].log().item()
    return total


def test_the_product_along_a_tale_is_its_probability():
    for seed in range(1000, 1030):
        assert abs(surprisal(the_tokenizer(), tale(seed)) + logprob(tale(seed))) < 1e-9


def test_other_tokens_make_the_same_product():
    texts = [tale(seed) for seed in range(200)]
    for tok in BPETokenizer.train(texts, 260, [END]), BPETokenizer.train(texts, 4096, [END], pattern=GPT2_SPLIT):
        assert abs(surprisal(tok, texts[7]) + logprob(texts[7])) < 1e-9


def test_the_product_along_a_chat_is_its_probability():
    "With the share of each <|end|> that ends the whole chat told apart, since next_token takes it for granted."
    tok = the_tokenizer()
    for seed in range(4):
        ids, total = tok.encode(chat(seed), allowed_special="all"), 0.0
        for i, id in [*enumerate([*ids, tok.special_tokens[END]])][1:]:  # after <|user|>, which begins every chat
            before = tok.decode(ids[:i])
            p = next_token(before)[id].item()
            if id == tok.special_tokens[END]:
                ways = continuations(the_grammar(), before, "Chat")
                ended = ways["", True] / ways.total()
                p = ended if i == len(ids) else p - ended
            total += math.log(p)
        assert abs(total - logprob(chat(seed))) < 1e-9


BEGINNINGS = ["", "Once upon a time", "Long ago", "Long ago a", "When", "Once upon a time a", "Once upon a time Ada"]


def test_tales_go_on_as_often_as_they_should():
    tok, seen = the_tokenizer(), {text: Counter() for text in BEGINNINGS}
    begins = {text: tok.encode(text) for text in seen}
    for seed in range(20_000):
        ids = tok.encode(tale(seed)[:50])  # of which the last tokens may be cut short
        for text, begin in begins.items():
            if ids[: len(begin)] == begin:
                seen[text][ids[len(begin)]] += 1
    for text, counts in seen.items():
        n, probs = counts.total(), next_token(text)
        assert n > 50 and all(probs[id] > 0 for id in counts)
        expected = {id: n * p for id, p in enumerate(probs.tolist()) if p > 0}
        common = {id: e for id, e in expected.items() if e >= 5}  # the rest is one class
        pairs = [(counts[id], e) for id, e in common.items()]
        rest = n - sum(e for _, e in pairs)
        pairs += [(n - sum(c for c, _ in pairs), rest)] if rest > 1e-6 else []
        chi_square, freedom = sum((c - e) ** 2 / e for c, e in pairs), len(pairs) - 1
        assert chi_square < freedom + 5 * math.sqrt(2 * freedom) + 5, text


def test_the_first_tokens_by_hand():
    tok, probs = the_tokenizer(), next_token("")
    first = {tok.decode([id]): round(probs[id].item(), 12) for id in probs.nonzero().flatten().tolist()}
    assert first == {"Once": 0.5, "Long": 0.25, "When": 0.25}
    after = next_token("Once upon a time")
    (ada,) = tok.encode(" Ada")
    assert math.isclose(after[ada].item(), 1 / 3 / 2 / 16)  # the third line, a girl, one of 16
    assert next_token(tale(3))[tok.special_tokens[END]] == 1


IMPOSSIBLE = {
    "Once upon a time thee lived": "no tale begins like this: at character 17, after 'Once upon a time ', comes 'thee",
    "once": "at character 0, after '', comes 'once', where a tale could go on with 'Once'",
    "Long ago Ada, a honest": "at character 17, after 'Long ago Ada, a h', comes 'onest'",
    "Long ago Ada, a bold poet, lived near Ada": "at character 38, after ' Ada, a bold poet, lived near ', comes 'Ada'",
    "When tea was dearer than tea": "at character 26, after 'When tea was dearer than t', comes 'ea'",
    tale(3) + " The end.": f"at character {len(tale(3))}, after '.*', comes ' The end.', where a tale ends there",
    "<|user|> Adam lives": r"no chat begins like this: at character 12, after '<\|user\|> Ada', comes 'm lives'",
    "<|user|> Tell me a tale.<|end|>": r"at character 26, .* comes 'end\|>', where a chat could go on with 'assistant",
    tale(3) + END: "where a tale ends there",
    "\ud800": "at character 0",
}


@pytest.mark.parametrize("text, place", IMPOSSIBLE.items())
def test_an_impossible_beginning_is_told_where_it_goes_wrong(text, place):
    with pytest.raises(ValueError, match=place):
        next_token(text)


def test_a_wrong_letter_is_found_where_it_stands():
    rng = random.Random(5)
    for seed in range(30):
        text = tale(seed)
        at = rng.randrange(len(text))
        with pytest.raises(ValueError, match=f"at character {at}, "):
            next_token(text[:at] + "§" + text[at + 1 :])


def test_a_text_that_ends_inside_a_token_is_told_where_to_end():
    with pytest.raises(ValueError, match="no tale has ' ti' as a token .* end it after 'Once upon a', or write"):
        next_token("Once upon a ti")
    with pytest.raises(ValueError, match="no tale has ' ' as a token at the end of 'Once upon a time '; end it after"):
        next_token("Once upon a time ")
    with pytest.raises(ValueError, match="no tale has 'O' as a token at the end of 'O'; end it after ''"):
        next_token("O")
    with pytest.raises(ValueError, match=r"end it after '<\\|user\\|> Tell me a tale.', or"):
        next_token("<|user|> Tell me a tale.<|assis")
    tok = CharTokenizer.train(map(tale, range(2000)))
    assert next_token("Once upon a ti", tok)[tok.ids["m"]] == 1


def test_a_tokenizer_without_an_end_token_works_up_to_the_end():
    tok = CharTokenizer.train(map(tale, range(2000)))
    text = tale(3)
    assert next_token(text[:-1], tok)[tok.ids[text[-1]]] == 1
    with pytest.raises(ValueError, match=r"a tale may end after .* special_tokens=\['<\|end\|>'\]"):
        next_token(text, tok)


class FourNames:
    "A tokenizer with no more than what every tokenizer has."

    def __init__(self, tok):
        self.encode, self.decode, self.vocab_size, self.save = tok.encode, tok.decode, tok.vocab_size, tok.save


def test_four_names_are_enough():
    for text in "", "Once upon a time", tale(5)[:100].rsplit(" ", 1)[0]:
        assert next_token(text, FourNames(the_tokenizer())).equal(next_token(text))


def test_tokens_that_cross_the_ends_of_words_are_refused():
    for pattern in None, r"\S+\s*|\s+":
        tok = BPETokenizer.train(tale(1), 300, pattern=pattern)
        with pytest.raises(ValueError, match="a token may go on after the end of a word"):
            next_token("Once", tok)


@pytest.mark.parametrize("args, wrong", [
    ((5,), "expected text (str), the beginning of a tale, got int: 5"),
    ((b"Once",), "got bytes"),
    ((["Once"],), "got list"),
    (("Once", "gpt2"), "expected a tokenizer, not a str"),
    (("Once", 5), "expected a tokenizer, not a int"),
    (("Once", tg.GPT(tg.GPTConfig.modern(9, n_layer=1, n_head=1, n_embd=8))), "expected a tokenizer, not a GPT"),
])
def test_misuse(args, wrong):
    with pytest.raises(ValueError, match=re.escape(wrong)):
        next_token(*args)


def test_held_out_pairs_are_impossible():
    apart = 0
    for seed in range(40):
        text = tale(seed, heldout=True)
        if logprob(text) > -math.inf:
            continue
        made = choices(text, heldout=True)
        things = [b for a, b in zip(made, made[1:]) if (a.kind, b.kind) == ("color", "thing") and b.start == a.end + 1]
        with pytest.raises(ValueError, match="no tale begins like this: at character") as error:
            next_token(text)
        at = int(re.search(r"character (\d+)", str(error.value))[1])
        assert any(thing.start <= at <= thing.end for thing in things)
        apart += 1
    assert apart > 20
