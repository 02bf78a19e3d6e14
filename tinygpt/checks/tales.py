"""Checks for the chapter Tales: each typical mistake has its own diagnosis."""

import math
import random

import regex

from tinygpt.checks import Finding, attempt, checks
from tinygpt.world.grammar import Grammar, Step, write
from tinygpt.world.parser import parse
from tinygpt.world.skills import tokens_in


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * max(1, abs(b))


def _diagnose(got: float, right: float, mistakes: list[tuple[float, str]], what: str):
    "Compare a number with what typical mistakes would give."
    if _near(got, right):
        return
    for wrong, diagnosis in mistakes:
        if _near(got, wrong):
            raise Finding(f"{diagnosis} ({what} came out as {got:.4g}.)")
    raise Finding(f"{what} came out as {got:.4g}, which is not right.")


def _chances(grammar: Grammar) -> dict[str, float]:
    "The probability of each text that a small grammar can write."
    texts = {write(grammar, random.Random(seed)) for seed in range(3000)}
    if len(texts) > 200:
        raise Finding("It writes too many different texts to check. Shorten your lists: fewer than 100 are enough.")
    parses = {text: list(parse(grammar, text)) for text in texts}
    for text, made in parses.items():
        if len(made) > 1:
            raise Finding(
                f"There are {len(made)} ways to write {text!r}, so the choices are more uncertain than the text. "
                "Change a line, so that each text has one parse."
            )
    chances = {text: math.exp(sum(choice.logp for choice in made[0])) for text, made in parses.items()}
    if sum(chances.values()) < 0.999:
        raise Finding("Some of its texts are too rare to be found. Shorten your lists, or make the weights smaller.")
    return chances


def _read(text: str) -> Grammar:
    "A learner's grammar, if it can be used."
    known = r"\s*|#.*|\w+: .*|\w+ =|  (?:\d+\* )?\S.*"
    for line in text.splitlines():
        if not regex.fullmatch(known, line):
            raise Finding(
                f"The line {line!r} is neither a rule (Name =), nor a line of one (which begins with two spaces), "
                "nor a list of words (name: word word)."
            )
    try:
        grammar = Grammar(text)
    except Exception as error:
        raise Finding(f"The grammar cannot be read ({type(error).__name__}). Check the curly brackets.") from None
    if "Tale" not in grammar.rules:
        raise Finding("There is no rule called Tale. The writer begins with it.")
    for name, lines in grammar.rules.items():
        if not lines:
            raise Finding(f"The rule {name} has no lines.")
        used = [step for _, steps in lines for step in steps]
        for step in used:
            if step.kind == "word" and not any(
                other == step.name for _, steps in sum(grammar.rules.values(), []) for other in _picked(steps)
            ):
                raise Finding(f"{{{step.name}}} is neither a rule nor a word that was picked before.")
            if step.kind == "pick" and step.words not in grammar.patterns:
                raise Finding(f"There is no list of words called {step.words}.")
    return grammar


def _picked(steps: list[Step]) -> list[str]:
    return [step.name for step in steps if step.kind == "pick"]


def _reached(grammar: Grammar, name: str = "Tale", depth: int = 0) -> set[str]:
    "The rules that can be reached from this one; a Finding if a rule leads back to itself."
    if depth > 20:
        raise Finding(f"The rule {name} leads back to itself, so its texts have no longest one. Remove the circle.")
    inner = {step.name for _, steps in grammar.rules[name] for step in steps if step.kind == "rule"}
    return {name}.union(*(_reached(grammar, rule, depth + 1) for rule in inner))


def _entropy(chances) -> float:
    return -sum(p * math.log(p) for p in chances if p > 0)


@checks
def own_rule(grammar, floor):
    "Exercise 1: the entropy of a grammar of one's own."
    if not isinstance(grammar, str):
        raise Finding("The grammar should be a text (str), in the form of `small`.")
    if not grammar.strip() or floor is None or floor is ...:
        raise Finding("Write the grammar and its floor, then run this cell again.", state="blank")
    if isinstance(floor, bool) or not isinstance(floor, (int, float)):
        raise Finding(f"The floor should be a number, not {type(floor).__name__}.")
    read = _read(grammar)
    reached = _reached(read)
    if len(reached) < 2:
        raise Finding("Only the rule Tale is used. Let one of its lines go on with another rule, as in {Where}.")
    equal = [math.isclose(lines[0][0], logp) for lines in read.rules.values() for logp, _ in lines]
    if all(equal):
        raise Finding("All lines of a rule are equally likely. Give one of them a weight, such as 2*.")
    try:
        chances = _chances(read)
    except (KeyError, ValueError, IndexError) as error:
        what = f"{type(error).__name__}: {error}"
        raise Finding(f"It stops while it writes ({what}). Is a word used before it is picked?") from None
    right = _entropy(chances.values())
    rules = {name: _entropy(math.exp(logp) for logp, _ in read.rules[name]) for name in reached}
    even = regex.sub(r"(?m)^  \d+\* ", "  ", grammar)
    mistakes = [
        (right / math.log(2), "This is the floor in bits. Use the natural logarithm."),
        (-right, "The floor is not negative: surprisal is *minus* the logarithm."),
        (
            _entropy(_chances(Grammar(even)).values()),
            "The weights are missing: this is the floor with all lines equally likely.",
        ),
        (math.log(len(chances)), "This would be right if all texts were equally likely."),
        (sum(rules.values()), "A rule that is not always reached counts in full here. How often is it reached?"),
        (rules["Tale"], "These are only the choices of the rule Tale. The rules inside it choose, too."),
        (
            sum(-math.log(p) for p in chances.values()) / len(chances),
            "All texts count the same here. How often does each occur?",
        ),
        (-math.log(max(chances.values())), "This is the surprisal of the likeliest text, not the average."),
        (math.exp(right), "This is the exponential of the floor."),
    ]
    _diagnose(floor, right, mistakes, "Your floor")
    return f"The floor of your {len(chances)} texts is {right:.4f} nats per text, as you predicted."


@checks
def rates(answer):
    "Exercise 2: nats per text, nats per token, bits per byte."
    nats, texts = [60.0, 90.0, 10.0], ["Ada is in the café.", "Otto lost a kite and two keys.", "日本"]
    ids = [[5, 9, 2, 7, 7, 1], [8, 3, 3, 6, 4, 9, 1, 2, 1], [4, 6]]
    got = attempt(answer, nats, texts, ids, expect=(tuple, list))
    if len(got) != 3 or not all(isinstance(number, (int, float)) for number in got):
        raise Finding(f"It should return three numbers: nats per text, nats per token, bits per byte. Yours: {got}.")
    total, n_bytes = sum(nats), sum(len(text.encode()) for text in texts)
    counts, n_chars = [len(found) + 1 for found in ids], sum(map(len, texts))
    _diagnose(
        got[0],
        total / 3,
        [
            (total, "This is the sum over all texts. Divide by the number of texts."),
            (total / sum(counts), "This number is nats per token. It belongs in second place."),
        ],
        "The first number, nats per text,",
    )
    _diagnose(
        got[1],
        total / sum(counts),
        [
            (total / (sum(counts) - 3), "Each text has one more token, for its end."),
            (total / (sum(counts) - 2), "Each text has one more token, for its end, and not only one of them."),
            (
                sum(n / t for n, t in zip(nats, counts)) / 3,
                "This is the average of a rate for each text, so tokens of short texts count for more.",
            ),
            (sum(counts) / total, "It is upside down: these are tokens per nat."),
            (total / n_bytes, "These are nats per byte."),
        ],
        "The second number, nats per token,",
    )
    _diagnose(
        got[2],
        total / math.log(2) / n_bytes,
        [
            (total / n_bytes, "These are nats per byte. How many bits is a nat?"),
            (total * math.log(2) / n_bytes, "One nat is more than one bit, so the number of bits is larger."),
            (total / math.log(2) / n_chars, "It counts characters. An é is one character and two bytes."),
            (total / math.log(2), "These are the bits of all texts together."),
            (n_bytes / total * math.log(2), "It is upside down: these are bytes per bit."),
            (total / math.log(2) / sum(counts), "These are bits per token."),
        ],
        "The third number, bits per byte,",
    )
    return "All texts are added up before dividing, so every token and every byte counts the same."


@checks
def share_right(answer):
    "Exercise 3: a place is right if all of its tokens are."
    hits = [False, True, True, True, False, False, True, False, False]
    edges = [0, 3, 7, 12, 15, 20, 25, 31, 34, 37]
    places = [(2, 6), (4, 9), (15, 21), (22, 27), (28, 33), (32, 34)]
    held = [tokens_in(edges, *place) for place in places]
    inside = [
        [i for i in tokens if edges[i] >= start and edges[i + 1] <= end] for tokens, (start, end) in zip(held, places)
    ]

    def share(right) -> float:
        return sum(right) / len(places)

    def by(judge, tokens=held) -> float:
        return share([judge([hits[i] for i in found]) for found in tokens])

    flat = [hits[i] for tokens in held for i in tokens]
    mistakes = [
        (by(any), "A place counts although only some of its tokens are right: half a name is not a name."),
        (sum(flat) / len(flat), "It counts tokens. A place of three tokens counts once, like a place of one."),
        (by(lambda found: found[0]), "It checks only the first token of each place."),
        (by(lambda found: found[-1]), "It checks only the last token of each place."),
        (by(all, inside), "It leaves out tokens that reach beyond a place, so a place may have no token at all."),
        (sum(hits) / len(hits), "This is the fraction of all tokens, inside and outside the places."),
        (by(all) * len(places), "This is the number of places that are right. Which fraction is it?"),
        (by(all) * len(places) / len(hits), "It divides by the number of tokens."),
    ]
    got = attempt(answer, hits, edges, places, expect=(int, float))
    _diagnose(got, by(all), mistakes, "The fraction of places that are right")
    return "A place counts once, and only if all of its tokens are right."
