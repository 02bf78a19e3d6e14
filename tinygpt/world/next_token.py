"""The exact probabilities of the next token of a tale: what a model should predict."""

import math
from bisect import bisect_left
from collections import Counter
from itertools import chain, product
import regex
import torch
from torch import Tensor
from tinygpt import guard
from tinygpt.engine.splitting import GPT4_SPLIT, KNOWN_SPLITS
from tinygpt.tales import the_tokenizer
from tinygpt.tokenizer import BPETokenizer
from tinygpt.world.grammar import SYLLABLES, Grammar, Step, inflect, the_grammar, with_article
from tinygpt.world.parser import match_pick

__all__ = ["next_token"]

END = "<|end|>"
MADE_UP_WORDS = ["".join(syllables).capitalize() for syllables in product(*SYLLABLES)]
WORD_END = regex.compile(r"(?<=[\p{L}\p{N}])(?=[^\p{L}\p{N}\p{M}'|])")  # no token crosses it; "|" as in <|user|>
SHOWN = 30  # characters of a text in an error

def written(grammar: Grammar, step: Step, remembered: dict, rest: str, longest: int) -> list[tuple[str, dict, float]]:
    "What a step may write where `rest` of the text is to come: texts, the words then remembered, the probabilities."
    if step.kind != "pick":
        return [(step.name if step.kind == "text" else inflect(step, remembered), remembered, 1.0)]
    if len(rest) > longest:  # the text holds the whole word
        made = match_pick(grammar, step, remembered, rest, 0, heldout=False)
        words, share = ([rest[made.start : made.end]], math.exp(made.logp)) if made else ([], 0)
    else:
        words = MADE_UP_WORDS if step.words == "~" else grammar.allowed(step, remembered, heldout=False)
        share = 1 / len(words)
    return [(with_article(word, step.article), remembered | {step.name: (step.words, word)}, share) for word in words]

def continuations(grammar: Grammar, text: str, start: str) -> Counter:
    "How the texts that begin with `text` go on: {(up to the end of a word, whether they end there): probability}."
    longest = len("an ") + max(map(len, chain([""], *grammar.words.values())))
    # Each state is a parse under way: the steps still to do (a linked list), the rest of the text, what is written
    # beyond it, the words remembered, and the probability of all choices so far.
    states, total = [((Step("rule", start), None), text, "", {}, 1.0)], Counter()
    while states:
        todo, rest, beyond, remembered, p = states.pop()
        if found := WORD_END.search(beyond):
            total[beyond[: found.start()], False] += p
        elif not todo:
            total[beyond, True] += 0 if rest else p
        elif todo[0].kind == "rule":
            for logp, steps in grammar.rules[todo[0].name]:
                after = todo[1]
                for step in reversed(steps):
                    after = step, after
                states.append((after, rest, beyond, remembered, p * math.exp(logp)))
        else:
            for word, known, share in written(grammar, todo[0], remembered, rest, longest):
                if rest.startswith(word):
                    states.append((todo[1], rest[len(word) :], beyond, known, p * share))
                elif word.startswith(rest):
                    states.append((todo[1], "", beyond + word[len(rest) :], known, p * share))
    return +total  # without those of probability 0

def encode(tok, text: str) -> list[int]:
    "The ids of a tale or chat, as `encode_corpus` makes them."
    return tok.encode(text, allowed_special="all") if isinstance(tok, BPETokenizer) else tok.encode(text)

def weigh_ids(tok, text: str, ways: Counter) -> Counter:
    "The probability of each next id, together with the ids of `text` before it; empty if `text` ends inside a token."
    cuts = [found.start() for found in WORD_END.finditer(text)]
    tail = text[cuts[-1] :] if cuts else text  # what comes before is encoded alike, whatever follows
    ids, end = encode(tok, tail), getattr(tok, "special_tokens", {}).get(END)
    total = Counter()
    for (beyond, ended), p in ways.items():
        longer = encode(tok, tail + beyond) + [end] * ended
        if longer[: len(ids)] == ids:
            total[longer[len(ids)]] += p
    return total

def impossible(grammar: Grammar, text: str, start: str) -> str:
    "Say where a text stops being the beginning of a tale, and how a tale could go on there."
    n = bisect_left(range(1, len(text) + 1), True, key=lambda n: not continuations(grammar, text[:n], start))
    ways = continuations(grammar, text[:n], start)
    beyond, ended = max(ways, key=ways.get)
    instead = f"could go on with {beyond!r}" if beyond else "ends there"
    return (f"no {start.lower()} begins like this: at character {n}, after {text[max(0, n - SHOWN) : n]!r}, comes "
            f"{text[n : n + SHOWN]!r}, where a {start.lower()} {instead}")

def inside_token(grammar: Grammar, text: str, tok, start: str) -> str:
    "Say which token a text ends in, and up to where its tokens are those of a tale."
    ids, shorter = encode(tok, text), text
    last = tok.decode(ids[-1:])
    while not weigh_ids(tok, shorter, continuations(grammar, shorter, start)):
        shorter = tok.decode(ids := ids[:-1])
    return (f"the text ends inside a token: no {start.lower()} has {last!r} as a token at the end of "
            f"{text[-SHOWN:]!r}; end it after {shorter[-SHOWN:]!r}, or write the word to its end")

def next_token_of(grammar: Grammar, text: str, tok, start: str) -> Tensor:
    "The probabilities (V,) of the next token after `text`, if the grammar writes it from the rule `start`."
    ways = continuations(grammar, text, start)
    if not ways:
        raise ValueError(impossible(grammar, text, start))
    total = weigh_ids(tok, text, ways)
    if not total:
        raise ValueError(inside_token(grammar, text, tok, start))
    if None in total:
        raise ValueError(f"a {start.lower()} may end after {text[-SHOWN:]!r}, but this tokenizer has no token for the "
                         f"end: train a BPETokenizer with special_tokens=[{END!r}]")
    probs = torch.zeros(tok.vocab_size, dtype=torch.float64)
    probs[list(total)] = torch.tensor(list(total.values()), dtype=torch.float64)
    return probs / probs.sum()

def next_token(
    text: str,  # a tale's beginning, or with <|user|> a chat's; after <|end|>, given that the chat goes on
    tok=None,  # the tokenizer; the course's own if None
) -> Tensor:
    "The exact probabilities (V,) of the token after the beginning of a tale: the best that any model can predict."
    tok = the_tokenizer() if tok is None else tok
    guard.beginning(text, tok, KNOWN_SPLITS)
    return next_token_of(the_grammar(), text, tok, "Chat" if text.startswith("<|user|>") else "Tale")
