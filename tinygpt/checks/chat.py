"""Checks of the chapter Chat: each typical mistake has its own diagnosis."""

import copy
import functools
from collections.abc import Callable, Sequence
from itertools import islice, product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tinygpt.chat import answer_mask, encode_chat, packed_batch
from tinygpt.checks import Finding, attempt, call, checks
from tinygpt.checks.tensors import diagnose, grid, number, of_tensors, same
from tinygpt.engine.modes import eval_mode
from tinygpt.gpt import GPT
from tinygpt.guard import CHAT_TOKENS
from tinygpt.io.checkpoints import load
from tinygpt.io.corpus import corpus
from tinygpt.presets import CHAT, TRAINED
from tinygpt.show.pictures import Picture, color_tokens, table

SEQUENCE = list, tuple, np.ndarray, Tensor


def _asked(answer, args: tuple) -> str:
    return f" The call was {call(answer, *args)}."


def _plain(values) -> list:
    "The same as a list of Python's own numbers, where it or what it holds are arrays or tensors."
    values = values.tolist() if isinstance(values, np.ndarray | Tensor) else values
    return [value.item() if getattr(value, "shape", None) == () else value for value in values]


# ids and the numbers of <|user|>, <|assistant|> and <|end|>; the answers repeat words of the questions
CHATS = [
    ([1, 11, 12, 13, 2, 13, 3, 1, 15, 12, 13, 2, 16, 11, 3], 1, 2, 3),
    ([1, 15, 12, 16, 2, 3, 1, 14, 2, 12, 13, 3, 1, 11, 2, 11, 3], 1, 2, 3),  # one answer is only its end
    ([9, 14, 12, 11, 7, 13, 12, 8], 9, 7, 8),
]
WORDS = {11: "Mia", 12: "is", 13: "home", 14: "where", 15: "who", 16: "only"}


def _tokens(ids: list[int], roles: tuple[int, ...]) -> list[str]:
    return [CHAT_TOKENS[roles.index(id)] if id in roles else WORDS[id] for id in ids]


def _answer_tokens(ids: list[int], user: int, assistant: int, end: int) -> list[bool]:
    "True at the tokens of the answers, with their ends."
    mask, is_answer = [], False
    for id in ids:
        mask.append(is_answer)
        is_answer = id == assistant or is_answer and id != end
    return mask


def _bools(answer, args: tuple) -> list[bool]:
    "What the answer returns, as a list of bools, one for each target."
    ids, *_ = args
    values = _plain(attempt(answer, *args, expect=SEQUENCE))
    odd = [value for value in values if not isinstance(value, int) or value not in (0, 1)]
    if odd:
        raise Finding(f"It returned {odd[0]!r:.60} among its values. Each is True or False.{_asked(answer, args)}")
    if len(values) == len(ids) - 1:
        return [bool(value) for value in values]
    why = f"There are {len(ids) - 1} targets for {len(ids)} ids, but it returned {len(values)} values."
    if values == _answer_tokens(*args):
        why += " This mask has a value for each token. Which token is never a target?"
    raise Finding(f"{why}{_asked(answer, args)}")


def _places(rule: Callable) -> Callable:
    "The mistake that takes of the answer tokens those whose place a rule accepts."
    return lambda ids, roles, written: [is_answer and rule(t, ids, *roles) for t, is_answer in enumerate(written)][1:]


def _each(rule: Callable) -> Callable:
    "The mistake that decides by each token alone, and by whether it belongs to an answer."
    return lambda ids, roles, written: [rule(id, is_answer, *roles) for id, is_answer in zip(ids, written)][1:]


MASKS = [  # from ids, roles and the mask of the tokens
    (
        lambda ids, roles, written: written[:-1],
        "The mask is one place late: it fits the inputs. The first word of an answer does not count, and the <|user|> "
        "after <|end|> does. Target t is ids[t + 1].",
    ),
    (
        lambda ids, roles, written: [*written[2:], False],
        "The mask is one place early: it counts <|assistant|>, and <|end|> not. Which target does value t belong to?",
    ),
    (
        _each(lambda id, is_answer, user, assistant, end: is_answer and id != end),
        "<|end|> does not count, so the model never learns to stop.",
    ),
    (
        _each(lambda id, is_answer, user, assistant, end: is_answer or id == assistant),
        "<|assistant|> counts, too. But the template sets it: the model never has to write it.",
    ),
    (
        _each(lambda id, is_answer, user, assistant, end: is_answer or id == user),
        "The mask ends one token too late: the <|user|> after <|end|> counts, and the model would go on and ask itself "
        "a question.",
    ),
    (
        _each(lambda id, is_answer, user, assistant, end: is_answer or id in (user, assistant)),
        "<|user|> and <|assistant|> count, too. But the template sets them: the model never has to write them.",
    ),
    (_each(lambda *_: True), "Every target counts, so the model also learns to write the user's questions."),
    (_each(lambda *_: False), "No target counts, so there is nothing to learn from."),
    (_each(lambda id, is_answer, *_: not is_answer), "The mask is inverted: the user's words count, the answers not."),
    (
        _each(lambda id, is_answer, *roles: id not in roles),
        "All words count, the user's too. Only the tokens between <|assistant|> and <|end|> are answers.",
    ),
    (
        _each(lambda id, is_answer, user, assistant, end: id not in (user, assistant)),
        "All words count, the user's too, and <|end|>. Only what follows <|assistant|> is written by the model.",
    ),
    (
        _each(lambda id, is_answer, user, assistant, end: id == end),
        "Only <|end|> counts. The words of an answer should, too.",
    ),
    (
        _places(lambda t, ids, user, assistant, end: t <= ids.index(end)),
        "Only the first answer counts. A conversation may have several.",
    ),
    (
        _places(lambda t, ids, user, assistant, end: assistant not in ids[t:]),
        "Only the last answer counts. A conversation may have several.",
    ),
    (
        _places(lambda t, ids, user, assistant, end: ids[t - 1] == assistant),
        "Only the first token of each answer counts.",
    ),
    (
        lambda ids, roles, written: [t > ids.index(roles[1]) for t in range(1, len(ids))],
        "All that follows the first <|assistant|> counts, the user's later questions too.",
    ),
    (
        lambda ids, roles, written: [t >= ids.index(roles[1]) for t in range(1, len(ids))],
        "All counts from the first <|assistant|> on, the user's later questions too.",
    ),
    (
        lambda ids, roles, written: [id in {i for i, is_answer in zip(ids, written) if is_answer} for id in ids[1:]],
        "Words of the user count where they also occur in an answer. Whether a target counts depends on its place.",
    ),
    (
        lambda ids, roles, written: _answer_tokens(ids, 1, 2, 3)[1:],
        "It uses fixed numbers for the special tokens. Use user, assistant and end.",
    ),
]


def _who(t: int, ids: list[int], roles: tuple[int, ...], written: list[bool]) -> str:
    "Whose token this is, in words."
    if ids[t] in roles[:2]:
        return "which the template sets"
    return "which the assistant writes" if written[t] else "which the user writes"


@checks
def answer_targets(answer):
    "Exercise 1: the targets that the assistant writes, with the end of each answer."
    got = [_bools(answer, args) for args in CHATS]
    written = [_answer_tokens(*args) for args in CHATS]
    if got == [mask[1:] for mask in written]:
        return "The answers with their <|end|> count, each at its target. The rest is read, and not learned."
    found = [
        why for rule, why in MASKS if got == [rule(ids, roles, mask) for (ids, *roles), mask in zip(CHATS, written)]
    ]
    i = next(i for i, mask in enumerate(written) if got[i] != mask[1:])
    (ids, *roles), mask = CHATS[i], written[i]
    place = next(t for t, value in enumerate(got[i]) if value != mask[t + 1])
    names = _tokens(ids, roles)[1:]
    widths = [max(len(name), len("False")) for name in names]
    rows = [
        (label, color_tokens([f" {word!s:^{n}} " for word, n in zip(words, widths)], marked=place))
        for label, words in (("targets", names), ("yours", got[i]))
    ]
    verdict = f"Target {place} is {names[place]}, {_who(place + 1, ids, roles, mask)}, but you return {got[i][place]}."
    raise Finding(f"{(found or [verdict])[0]}{_asked(answer, CHATS[i])}", table(rows))


class _Named:
    "A value that the answer gets as it is, without a copy, and that a message calls by its name."

    def __init__(self, name: str, value):
        self.name, self.value = name, value

    def __repr__(self):
        return self.name

    def __deepcopy__(self, memo):
        return self


def _of_values(answer):
    "The same function, called with named values, of which it gets the values."
    if not callable(answer):
        return answer

    @functools.wraps(answer)
    def with_values(*args):
        return answer(*(arg.value if isinstance(arg, _Named) else arg for arg in args))

    return with_values


def _encode(text: str) -> list[int]:
    "An id for each character: a tokenizer without special tokens."
    if not isinstance(text, str):
        raise Finding(f"`encode` was given {text!r:.60}. It takes the text of a message.")
    return [100 + ord(char) for char in text]


ENCODE = _Named("encode", _encode)
TALKS = [  # messages, encode, and the ids of <|user|>, <|assistant|> and <|end|>
    ([("user", "Is Mia home?"), ("assistant", "Yes."), ("user", "And who is with her?")], ENCODE, 1, 2, 3),
    ([("user", "Is Mia home?"), ("assistant", "Yes."), ("user", "Alone?"), ("assistant", "No.")], ENCODE, 1, 2, 3),
    ([("user", "Mia is home."), ("user", "Where is Mia?"), ("assistant", "Home.")], ENCODE, 1, 2, 3),
    ([("user", "Good night!")], ENCODE, 9, 7, 8),
]
# each choice of the template: how the right one and the wrong ones decide, and what is wrong with them
ROLES = {  # by role, place in the conversation, and the numbers of user and assistant
    "": lambda role, i, user, assistant: [user if role == "user" else assistant],
    "The roles are swapped.": lambda role, i, user, assistant: [assistant if role == "user" else user],
    "The roles take turns by place, but a user may send two messages in a row. Look at the role of each.": (
        lambda role, i, user, assistant: [(user, assistant)[i % 2]]
    ),
    "No message begins with the token of its role.": lambda *_: [],
    "An answer does not begin with <|assistant|>.": lambda role, i, user, _: [user] if role == "user" else [],
    "A message of the user does not begin with <|user|>.": (
        lambda role, i, user, assistant: [] if role == "user" else [assistant]
    ),
    "All messages begin with <|user|>, the answers too.": lambda role, i, user, assistant: [user],
}
ENDS = {  # whether <|end|> follows: by role and by whether it is the last message
    "": lambda role, last: role == "assistant",
    "<|end|> is missing after the answers, so a model would never learn to stop.": lambda role, last: False,
    "<|end|> follows the user's messages, too. It ends only answers.": lambda role, last: True,
    "<|end|> follows the user's messages, and not the answers.": lambda role, last: role == "user",
    "<|end|> comes once, after all messages. Each answer has its own.": lambda role, last: last,
    "<|end|> is missing after an answer that a question follows.": lambda role, last: last and role == "assistant",
    "<|end|> is missing after the last answer.": lambda role, last: role == "assistant" and not last,
}
TURNS = {  # what comes at the end: by the last role, and the numbers of user, assistant and end
    "": lambda role, user, assistant, end: [assistant] if role == "user" else [],
    "The last <|assistant|> is missing: it tells the model that its answer comes next.": lambda *_: [],
    "<|assistant|> comes at the end even if the assistant has just answered.": (
        lambda role, user, assistant, end: [assistant]
    ),
    "<|assistant|> comes at the end after an answer, and not after a question.": (
        lambda role, user, assistant, end: [] if role == "user" else [assistant]
    ),
    "<|user|> comes at the end after an answer. The user's next message would bring its own.": (
        lambda role, user, assistant, end: [assistant if role == "user" else user]
    ),
    "An <|end|> follows the last <|assistant|>, as if the answer were empty.": (
        lambda role, user, assistant, end: [assistant, end] if role == "user" else []
    ),
}
TEXTS = {
    "": lambda role, text: " " + text,
    "The space in front of the words is missing. Words in a text have one, and without it they are other tokens.": (
        lambda role, text: text
    ),
    "The space in front of the user's words is missing.": lambda role, text: text if role == "user" else " " + text,
    "The space in front of the answers is missing.": lambda role, text: " " + text if role == "user" else text,
    "The space comes after the words, not in front of them.": lambda role, text: text + " ",
    "There are two spaces in front of the words.": lambda role, text: "  " + text,
}


def _template(messages: Sequence, roles: Sequence[int], choices: Sequence[Callable]) -> list[int]:
    "The ids of a conversation, with a choice for each part of the template."
    user, assistant, end = roles
    begin, has_end, turn, words = choices
    ids = []
    for i, (role, text) in enumerate(messages):
        ids += [*begin(role, i, user, assistant), *_encode(words(role, text))]
        ids += [end] if has_end(role, i == len(messages) - 1) else []
    return ids + turn(messages[-1][0], user, assistant, end)


def _right_ids(messages: Sequence, roles: Sequence[int]) -> list[int]:
    return _template(messages, roles, [choices[""] for choices in (ROLES, ENDS, TURNS, TEXTS)])


def _spelled(messages: Sequence, roles: Sequence[int]) -> list[int]:
    "The special tokens encoded as if they were text."
    ids = _right_ids(messages, roles)
    return [part for id in ids for part in (_encode(CHAT_TOKENS[roles.index(id)]) if id in roles else [id])]


def _roles_last(messages: Sequence, roles: Sequence[int]) -> list[int]:
    user, assistant, end = roles
    ids = []
    for role, text in messages:
        ids += _encode(" " + text) + ([user] if role == "user" else [assistant, end])
    return ids + ([assistant] if messages[-1][0] == "user" else [])


TEMPLATES = [  # from messages and the ids of the special tokens
    (
        lambda messages, roles: _right_ids(messages[-1:], roles),
        "Only the last message is there. The model should read the whole conversation.",
    ),
    (
        lambda messages, roles: _right_ids(messages[:1], roles),
        "Only the first message is there. The model should read the whole conversation.",
    ),
    (
        lambda messages, roles: _right_ids(messages[::-1], roles),
        "The messages stand in reverse order. The oldest comes first.",
    ),
    (lambda messages, roles: _right_ids(messages, [roles[1], roles[0], roles[2]]), "The roles are swapped."),
    (
        lambda messages, roles: _right_ids(messages, (1, 2, 3)),
        "It uses fixed numbers for the special tokens. Use user, assistant and end.",
    ),
    (
        _spelled,
        "The special tokens were encoded as text, character by character. Each is a single token: put its id into the "
        "list.",
    ),
    (_roles_last, "The role comes after the words. It should come first, so that the model reads who speaks."),
]


def _why_no_template(got: list[list[int]]) -> str:
    "The diagnosis of the mistakes that make these ids: of two mistakes, the one that comes first in the template."
    for rule, why in TEMPLATES:
        if got == [rule(messages, roles) for messages, _, *roles in TALKS]:
            return why
    options = product(ROLES.items(), ENDS.items(), TURNS.items(), TEXTS.items())
    for choices in sorted(options, key=lambda choices: sum(bool(why) for why, _ in choices)):
        rules = [rule for _, rule in choices]
        if all(ids == _template(messages, roles, rules) for ids, (messages, _, *roles) in zip(got, TALKS)):
            found = [why for why, _ in choices if why]
            return found[0] + (" (It is not the only mistake.)" if len(found) > 1 else "")
    return ""


def _pieces(ids: list[int], roles: tuple[int, ...]) -> tuple[list[str], list[int]]:
    "Ids as the words and the special tokens that they stand for, and where each begins."
    pieces, starts = [], []
    for t, id in enumerate(ids):
        is_char = 100 <= id < 100 + 0x110000
        text = CHAT_TOKENS[roles.index(id)] if id in roles else chr(id - 100) if is_char else f" {id} "
        if is_char and text != " " and t and pieces and ids[t - 1] >= 100:
            pieces[-1] += text
        else:
            pieces.append(text)
            starts.append(t)
    return pieces, starts


def _ids_of(answer, args: tuple) -> list[int]:
    "What the answer returns, as a list of ids."
    values = _plain(attempt(_of_values(answer), *args, expect=SEQUENCE))
    nested = [value for value in values if isinstance(value, SEQUENCE)]
    if nested:
        raise Finding(
            f"It contains a list, {nested[0]!r:.40}. The ids of a text are added one by one, not as a list in the "
            f"list: `+=` adds them, `append` does not.{_asked(answer, args)}"
        )
    odd = [value for value in values if not isinstance(value, int) or isinstance(value, bool)]
    if odd:
        raise Finding(f"It contains {odd[0]!r:.40}. Each id is a whole number.{_asked(answer, args)}")
    return values


@checks
def chat_ids(answer):
    "Exercise 2: the template, written by hand."
    got, right = [_ids_of(answer, args) for args in TALKS], [_right_ids(args[0], args[2:]) for args in TALKS]
    if got == right:
        return "A conversation as the model reads it. The <|assistant|> after a question makes it the model's turn."
    i = next(i for i, ids in enumerate(right) if got[i] != ids)
    place = next((t for t, (a, b) in enumerate(zip(got[i], right[i])) if a != b), min(len(got[i]), len(right[i])))
    pieces, starts = _pieces(got[i], TALKS[i][2:])
    marked = sum(start <= place for start in starts) - 1
    if place == len(got[i]):
        pieces, marked = [*pieces, " ? "], len(pieces)
    why = _why_no_template(got)
    if not why:
        said = "".join(_pieces(got[i][:place], TALKS[i][2:])[0])[-30:]
        then = "ends" if place == len(got[i]) else "should end" if place == len(right[i]) else "goes on wrongly"
        why = f"It is right up to {said!r}. There it {then}." if place else "It does not begin as it should."
    raise Finding(f"{why}{_asked(answer, TALKS[i])}", color_tokens(pieces, marked=marked))


PACKED = [[4, 4, 4, 2, 2, 7, 7, -1, -1], [0, 1, 1, 1, 1, 2, -1], [5, 5, 5], [0, 0, 1, 2, 2, 2]]


def _positions(numbers: list[int], first: int = 0, delay: int = 0) -> list[int]:
    "Positions that begin anew, at `first`, so many tokens after the number changes."
    positions = []
    for t in range(len(numbers)):
        changes = t > delay and numbers[t - delay] != numbers[t - delay - 1]
        positions.append(first if changes else positions[-1] + 1 if t else 0)
    return positions


def _once(numbers: list[int]) -> list[int]:
    n = numbers.count(numbers[0])
    return [t if t < n else t - n for t in range(len(numbers))]


def _conversation(numbers: list[int]) -> list[int]:
    return np.cumsum(np.diff(numbers, prepend=numbers[0]) != 0).tolist()


POSITIONS = [
    (
        lambda n: list(range(len(n))),
        "The positions run on through the row: conversation {b} begins at {start}, not at 0.",
    ),
    (lambda n: [p + 1 for p in _positions(n)], "The positions begin at 1. The first token is at position 0."),
    (lambda n: [t + 1 for t in range(len(n))], "The positions begin at 1, and they run on through the row."),
    (lambda n: _positions(n, first=1), "The first conversation begins at position 0, but the later ones at 1."),
    (
        lambda n: _positions(n, delay=1),
        "They begin anew one token too late: conversation {b} begins at {start}, and its second token is at 0.",
    ),
    (_once, "They begin anew at the second conversation, and not after it."),
    (_conversation, "Those count the conversations. Count the tokens in each."),
    (lambda n: n, "Those are the numbers of the conversations. Count the tokens in each."),
    (
        lambda n: [t - p for t, p in enumerate(_positions(n))],
        "Those are the places where the conversations begin in the row. How far from there is each token?",
    ),
    (lambda n: [n[t:].count(n[t]) - 1 for t in range(len(n))], "They count down. The first token is at position 0."),
    (lambda n: [n.count(m) for m in n], "Those are the lengths of the conversations. Count the tokens in each."),
    (lambda n: [0] * len(n), "Every position is 0, so the model cannot tell the order of the words."),
]


def _past(d: Tensor) -> Tensor:
    return torch.ones(len(d), len(d)).tril() > 0


def _attention(d: Tensor) -> Tensor:
    "True where a token may attend: in its own conversation, and not later."
    return (d[:, None] == d) & _past(d)


def _attention_mistakes(d: Tensor) -> list[tuple[Tensor, str]]:
    past, equal, right, is_padding = _past(d), d[:, None] == d, _attention(d), d[:, None] < 0
    return [
        (
            past,
            "The conversations leak into each other: only the future is hidden, so {row} may attend to {column}, of "
            "another conversation.",
        ),
        (
            equal,
            "Only the conversations were compared, so a token may attend to later tokens of its own. (`packed_batch` "
            "leaves the future to the attention layer. Here both are asked for.)",
        ),
        (equal & past.T, "The future is allowed and the past is hidden. A row is the query, the token that attends."),
        (~equal & past, "A token may attend to the other conversations, but not to its own."),
        (~right, "True and false are exchanged: True means that attention is allowed."),
        (equal & past.tril(-1), "No token may attend to itself, but it should."),
        (past | equal, "One condition was enough: the same conversation, or not later. Both must hold."),
        (past & (d[:, None] >= d), "The numbers were compared by size. Which conversation is it, not which is larger?"),
        (past & (d[:, None] <= d), "The numbers were compared by size. Which conversation is it, not which is larger?"),
        (past & (equal | is_padding), "Padding may attend to the conversations before it."),
        (right | is_padding, "Padding may attend to everything."),
        (right | is_padding | is_padding.T, "Padding may attend to everything, and everything to padding."),
        (right | is_padding.T, "Every token may attend to padding."),
        (
            right & ~is_padding,
            "Padding may attend to nothing, not even to itself: a softmax over nothing is 0 / 0. Treat it as one more "
            "conversation.",
        ),
        (
            torch.ones_like(past),
            "Everything is allowed: the conversations leak into each other, and the future into the past.",
        ),
        (torch.eye(len(d)) > 0, "Each token may attend only to itself."),
    ]


def _whose(t: int, numbers: list[int]) -> str:
    return f"token {t} ({'padding' if numbers[t] < 0 else f'conversation {numbers[t]}'})"


def _why_not_allowed(got: list[Tensor], i: int) -> str:
    "The diagnosis of a mask: of the mistake that gives all of them, or of the first wrong place of one."
    numbers = PACKED[i]
    row, column = (got[i] != _attention(torch.tensor(numbers))).nonzero()[0].tolist()
    query, key = _whose(row, numbers), _whose(column, numbers)
    tables = [_attention_mistakes(torch.tensor(numbers)) for numbers in PACKED]
    for same_mistake in zip(*tables):
        if all(mask.equal(wrong) for mask, (wrong, _) in zip(got, same_mistake)):
            return same_mistake[0][1].format(row=query, column=key)
    if not got[i][row, column]:
        which = "itself" if row == column else f"{key}, which is earlier in the same conversation"
        return f"{query.capitalize()} may not attend to {which}."
    which = "comes later" if column > row else "belongs to another conversation"
    return f"{query.capitalize()} may attend to {key}, which {which}."


def _separated(answer, numbers: list[int]) -> tuple[list, Tensor]:
    "What the answer returns: the positions and a mask, each of the right shape."
    T, asked = len(numbers), _asked(answer, (numbers,))
    got = attempt(of_tensors(answer), numbers, expect=(tuple, list, Tensor))
    if isinstance(got, Tensor) or len(got) != 2:
        n = "one tensor" if isinstance(got, Tensor) else f"{len(got)} values"
        raise Finding(f"It returned {n}. Return two: the positions and the mask.{asked}")
    positions, allowed = map(torch.as_tensor, got)
    if positions.shape == (T, T) and allowed.shape == (T,):
        raise Finding(f"The two results are swapped. Return the positions first, then the mask.{asked}")
    for name, part, shape in ("positions", positions, (T,)), ("mask", allowed, (T, T)):
        if part.shape != shape:
            raise Finding(f"The {name} came in shape {tuple(part.shape)}, not {shape}.{asked}")
    if allowed.dtype != torch.bool:
        raise Finding(f"The mask holds numbers of {allowed.dtype}. Booleans are wanted.{asked}")
    if positions.is_floating_point() or positions.dtype == torch.bool:
        raise Finding(f"The positions are of {positions.dtype}. They are whole numbers.{asked}")
    return positions.tolist(), allowed


@checks
def separate(answer):
    "Exercise 3: in a packed row, positions begin anew and attention stays within each conversation."
    got = [_separated(answer, numbers) for numbers in PACKED]
    inside = lambda positions, numbers: [p for p, n in zip(positions, numbers) if n >= 0]  # those of padding are free
    right = [inside(_positions(numbers), numbers) for numbers in PACKED]
    found = [inside(positions, numbers) for (positions, _), numbers in zip(got, PACKED)]
    wrong = next((i for i in range(len(PACKED)) if found[i] != right[i]), None)
    if wrong is not None:
        numbers, positions = PACKED[wrong], got[wrong][0]
        place = next(t for t, (a, b) in enumerate(zip(found[wrong], right[wrong])) if a != b)
        edge = next((t for t in range(1, len(numbers)) if numbers[t] != numbers[t - 1]), 0)
        reasons = [why for rule, why in POSITIONS if found == [inside(rule(n), n) for n in PACKED]]
        why = (reasons or [f"{_whose(place, numbers).capitalize()} got position {positions[place]}."])[0]
        widths = [max(len(str(a)), len(str(b))) for a, b in zip(numbers, positions)]
        rows = [
            (label, color_tokens([f" {value:>{n}} " for value, n in zip(values, widths)], marked=place))
            for label, values in (("numbers", numbers), ("your positions", positions))
        ]
        why = why.format(b=numbers[edge], start=positions[edge])
        raise Finding(f"{why}{_asked(answer, (numbers,))}", table(rows))
    masks = [allowed for _, allowed in got]
    for i, numbers in enumerate(PACKED):
        wanted = _attention(torch.tensor(numbers))
        if not masks[i].equal(wanted):
            names = [f"{t}: {'padding' if n < 0 else n}" for t, n in enumerate(numbers)]
            picture = grid(masks[i].float(), names, names, masks[i] != wanted)
            raise Finding(f"{_why_not_allowed(masks, i)}{_asked(answer, (numbers,))}", picture)
    return "Nothing leaks: a model computes for each conversation in the row what it computes for it alone."


TALES = [  # the messages of conversations, by turns
    ["Hugo has six pink buttons and lives by an ancient dairy. What colour are the buttons?", "Pink."],
    ["Greta has nine brown gloves. Who has nine gloves?", "Greta.", "How many gloves are there?", "Nine."],
    ["Where does Abel live?", "Abel lives behind a noisy stable, has five violet lanterns, and is sorry."],
]
N_CHATS = 16


@functools.cache
def trained(folder: Path) -> tuple:
    "A model that comes with the package, and its tokenizer."
    return load(folder)


def _losses(model: GPT, *inputs) -> Tensor:
    "The loss at each target, (B, T), from ids, targets and what else the model takes."
    ids, targets, *rest = inputs
    with eval_mode(model):
        return F.cross_entropy(model(ids, *rest).mT, targets, reduction="none")


def _measure(model: GPT, tok, conversations: Sequence[Sequence[int]]) -> list[tuple[Tensor, Tensor]]:
    "Of each conversation, the loss at each target, and whether the assistant writes it."
    masks = [torch.tensor(answer_mask(ids, tok)[1:]) for ids in conversations]
    rows = [torch.tensor([ids]) for ids in conversations]
    return [(_losses(model, ids[:, :-1], ids[:, 1:])[0], mask) for ids, mask in zip(rows, masks)]


def _share(losses: Tensor, mask: Tensor) -> Tensor:
    "The fraction of the loss that is on targets which the mask does not count."
    return losses[~mask].sum() / losses.sum()


@functools.cache
def shares_in_chats(folder: Path) -> tuple[float, float]:
    "The user's fraction of the targets, and of this model's loss, in validation conversations."
    model, tok = trained(folder)
    texts = [f"{text}<|end|>" for text in islice(corpus("chats").val, N_CHATS)]
    measured = _measure(model, tok, [tok.encode(text, allowed_special=CHAT_TOKENS) for text in texts])
    losses, mask = map(torch.cat, zip(*measured))
    return (~mask).double().mean().item(), _share(losses, mask).item()


def _wrong_shares(model: GPT, tok, conversations: list[list[int]]) -> list[tuple]:
    measured = _measure(model, tok, conversations)
    losses, mask = map(torch.cat, zip(*measured))
    right, user, answers = _share(losses, mask), losses[~mask], losses[mask]
    targets = torch.tensor([id for ids in conversations for id in ids[1:]])
    is_role = (targets == tok.special_tokens["<|user|>"]) | (targets == tok.special_tokens["<|assistant|>"])
    is_special = is_role | (targets == tok.special_tokens["<|end|>"])
    unshifted = torch.tensor([is_answer for ids in conversations for is_answer in answer_mask(ids, tok)[:-1]])
    rows = [torch.tensor([ids]) for ids in conversations]
    repeated = torch.cat([_losses(model, ids, ids)[0] for ids in rows])
    all_tokens = torch.tensor([is_answer for ids in conversations for is_answer in answer_mask(ids, tok)])
    means = user.mean(), answers.mean()
    wrongs = [
        (1 - right, "That is the assistant's part of the loss."),
        (user.sum() / answers.sum(), "The user's loss was divided by the assistant's, not by the whole loss."),
        (100 * right, "Those are percent. Return a number between 0 and 1."),
        (user.sum(), "That is the user's loss in nats. Which fraction of the whole loss is it?"),
        (
            (~mask).double().mean(),
            "That is the user's fraction of the targets. Some targets have a larger loss than others: which fraction "
            "of the loss is it?",
        ),
        (
            means[0] / sum(means),
            "Two means were compared. A loss is a mean over the targets that count: multiply it by their number.",
        ),
        (means[0] / losses.mean(), "Two means were divided. Multiply each by the number of its targets."),
        (
            torch.stack([_share(*one) for one in measured]).mean(),
            "Each conversation's fraction was averaged. Sum the losses of all conversations first, then divide.",
        ),
        (
            _share(losses, unshifted),
            "The mask is one place late: it fits the inputs. The loss at t is the loss of the token ids[t + 1].",
        ),
        (
            _share(repeated, all_tokens),
            "The targets are the inputs themselves. The target of a token is the one after it.",
        ),
        (losses[~mask & ~is_role].sum() / losses.sum(), "The user's part is without the role tokens, but they count."),
        (
            losses[~mask & ~is_role].sum() / losses[~is_role].sum(),
            "The role tokens were left out. Without a mask they count, too.",
        ),
        (
            losses[~mask & ~is_special].sum() / losses[~is_special].sum(),
            "The special tokens were left out. Without a mask they count, too.",
        ),
        (_share(*measured[0]), "That is the first conversation alone."),
        (_share(*measured[-1]), "That is the last conversation alone."),
    ]
    longest, total = max(map(len, conversations)) - 1, sum(map(len, conversations)) - len(conversations)
    ids, targets, mask, positions, _ = packed_batch([conversations], total, tok)
    leak = "The conversations were packed into one row, and they leak into each other: give the model {}."
    wrongs += [
        (_share(_losses(model, ids, targets), mask), leak.format("the positions and the attention mask")),
        (_share(_losses(model, ids, targets, positions), mask), leak.format("the attention mask, too")),
    ]
    block_size = model.config.block_size
    for rows, T in ([conversations], block_size), ([[ids] for ids in conversations], longest), (
        [[ids] for ids in conversations],
        block_size,
    ):
        ids, targets, mask, positions, attention_mask = packed_batch(rows, T, tok)
        padded = _share(_losses(model, ids, targets, positions, attention_mask), mask)
        wrongs.append((padded, "Padding counts as the user's. It is nobody's: leave it out."))
    return wrongs


@checks
def user_share(answer):
    "Exercise 4: the summed loss at the targets that the assistant does not write, divided by the whole."
    model, tok = trained(TRAINED)
    talks = [[{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(tale)] for tale in TALES]
    conversations = [encode_chat(tok, messages) for messages in talks]
    args = _Named("model", copy.deepcopy(model).requires_grad_(False)), _Named("tok", tok), conversations
    got = torch.tensor(number(_of_values(answer), *args))
    right = _share(*map(torch.cat, zip(*_measure(model, tok, conversations))))
    if not same(got, right):
        diagnose(answer, args, got, right, _wrong_shares(model, tok, conversations), "the user's fraction of the loss")
    (of_targets, before), (_, after) = shares_in_chats(TRAINED), shares_in_chats(CHAT)
    return (
        f"In {N_CHATS} validation conversations the user writes {of_targets:.0%} of the targets. Of the loss, "
        f"{before:.0%} is on them before the model learns to answer, and {after:.0%} after it. Did you predict more?"
    )
