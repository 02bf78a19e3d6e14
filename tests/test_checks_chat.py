"""The checks of the chapter Chat."""

import itertools
import re

import numpy as np
import pytest
import torch
from conftest import pair_of_tests
from torch.nn import functional as F

from tinygpt.chat import answer_mask, encode_chat, pack, packed_batch
from tinygpt.checks import chat as check
from tinygpt.gpt import GPT, GPTConfig
from tinygpt.io.corpus import corpus
from tinygpt.presets import CHAT, TRAINED


def answer_targets(ids, user, assistant, end):
    mask, is_answer = [], False
    for id, target in zip(ids, ids[1:]):
        is_answer = id == assistant or (is_answer and id != end)
        mask.append(is_answer)
    return mask


def by_slices(ids, user, assistant, end):
    "From each <|assistant|> to the next <|end|>."
    mask, place = [False] * len(ids), 0
    while assistant in ids[place:]:
        place = ids.index(assistant, place)
        stop = ids.index(end, place)
        mask[place + 1 : stop + 1] = [True] * (stop - place)
        place = stop
    return mask[1:]


def by_last_special_token(ids, user, assistant, end):
    special = (user, assistant, end)
    return [next((id for id in ids[: t + 1][::-1] if id in special), None) == assistant for t in range(len(ids) - 1)]


def by_counting(ids, user, assistant, end):
    ids = torch.tensor(ids)
    started, ended = (ids == assistant).cumsum(0), (ids == end).cumsum(0)
    return (started > ended)[:-1]


def of_tokens(ids, user, assistant, end):
    return [False, *answer_targets(ids, user, assistant, end)]


def tokens_where(rule):
    "Decide by each token and whether it belongs to an answer."
    return lambda ids, *roles: [rule(id, part, *roles) for id, part in zip(ids, of_tokens(ids, *roles))][1:]


def up_to_first_end(ids, user, assistant, end):
    return [part and t < ids.index(end) for t, part in enumerate(answer_targets(ids, user, assistant, end))]


def last_answer(ids, user, assistant, end):
    last = len(ids) - 1 - ids[::-1].index(assistant)
    return [t >= last for t in range(len(ids) - 1)]


def after_first(ids, user, assistant, end):
    return [t >= ids.index(assistant) for t in range(len(ids) - 1)]


def from_first(ids, user, assistant, end):
    return [t + 1 >= ids.index(assistant) for t in range(len(ids) - 1)]


def by_value(ids, *roles):
    answers = {id for id, part in zip(ids, of_tokens(ids, *roles)) if part}
    return [id in answers for id in ids[1:]]


def to_next_user(ids, user, assistant, end):
    "Switched off by <|user|>, after it was counted."
    mask, is_answer = [], False
    for id in ids:
        mask.append(is_answer)
        if id in (user, assistant):
            is_answer = id == assistant
    return mask[1:]


def changed(ids, user, assistant, end):
    ids.append(end)
    return answer_targets(ids[:-1], user, assistant, end)


def chat_ids(messages, encode, user, assistant, end):
    ids = []
    for role, text in messages:
        words = encode(" " + text)
        ids += [user, *words] if role == "user" else [assistant, *words, end]
    return ids + [assistant] if messages[-1][0] == "user" else ids


def by_tables(messages, encode, user, assistant, end):
    begin, stop = {"user": [user], "assistant": [assistant]}, {"user": [], "assistant": [end]}
    parts = [begin[role] + encode(f" {text}") + stop[role] for role, text in messages]
    due = [] if messages[-1][0] == "assistant" else [assistant]
    return list(itertools.chain(*parts, due))


def template(
    messages,
    encode,
    user,
    assistant,
    end,
    first=lambda role, i, user, assistant: [user if role == "user" else assistant],
    ended=lambda role, last: role == "assistant",
    turn=lambda role, user, assistant, end: [assistant] if role == "user" else [],
    words=lambda role, text: " " + text,
):
    "The template with a switch for each thing that can be forgotten."
    ids = []
    for i, (role, text) in enumerate(messages):
        ids.extend(first(role, i, user, assistant))
        ids.extend(encode(words(role, text)))
        if ended(role, i + 1 == len(messages)):
            ids.append(end)
    return ids + turn(messages[-1][0], user, assistant, end)


def wrong_template(**choices):
    return lambda *args: template(*args, **choices)


def words_first(messages, encode, user, assistant, end):
    ids = []
    for role, text in messages:
        ids += encode(" " + text) + ([user] if role == "user" else [assistant, end])
    return ids + ([assistant] if messages[-1][0] == "user" else [])


def as_text(messages, encode, user, assistant, end):
    text = "".join(f"<|{role}|> {text}" + "<|end|>" * (role == "assistant") for role, text in messages)
    return encode(text + "<|assistant|>" * (messages[-1][0] == "user"))


def nested(messages, encode, user, assistant, end):
    ids = []
    for role, text in messages:
        ids.append(user if role == "user" else assistant)
        ids.append(encode(" " + text))
    return ids


def mask_of(numbers):
    return (numbers[:, None] == numbers) & past(numbers)


def past(numbers):
    return torch.ones(len(numbers), len(numbers)).tril() > 0


def future(numbers):
    return torch.ones(len(numbers), len(numbers)).triu() > 0


def same(numbers):
    return numbers[:, None] == numbers


def is_padding(numbers):
    return (numbers == -1)[:, None]


def positions_of(numbers):
    positions = []
    for t in range(len(numbers)):
        goes_on = t > 0 and numbers[t] == numbers[t - 1]
        positions.append(positions[-1] + 1 if goes_on else 0)
    return torch.tensor(positions)


def separate(numbers):
    return positions_of(numbers), mask_of(numbers)


def by_counting_earlier(numbers):
    "A position is the number of earlier tokens to which attention is allowed."
    allowed = torch.tril(numbers.unsqueeze(1) == numbers.unsqueeze(0))
    return allowed.sum(1) - 1, allowed


def by_loops(numbers):
    T = len(numbers)
    allowed = torch.zeros(T, T, dtype=torch.bool)
    for i in range(T):
        for j in range(i + 1):
            allowed[i, j] = numbers[i] == numbers[j]
    return positions_of(numbers).tolist(), allowed.tolist()


def free_padding(numbers):
    return positions_of(numbers).masked_fill(numbers < 0, 0), mask_of(numbers)


def late(numbers):
    positions, p = [], 0
    for t in range(len(numbers)):
        positions.append(p)
        p += 1
        if t and numbers[t] != numbers[t - 1]:
            p = 0
    return torch.tensor(positions)


def from_one_later(numbers):
    p = positions_of(numbers)
    return p + (numbers != numbers[0])


def once(numbers):
    t, n = torch.arange(len(numbers)), (numbers == numbers[0]).sum()
    return torch.where(t < n, t, t - n)


def counted(numbers):
    return torch.cat([torch.zeros(1), (numbers[1:] != numbers[:-1]).cumsum(0)]).long()


def wrong_positions(rule):
    return lambda numbers: (rule(numbers), mask_of(numbers))


def wrong_mask(rule):
    return lambda numbers: (positions_of(numbers), rule(numbers))


def losses_of(model, ids):
    with torch.no_grad():
        return F.cross_entropy(model(torch.tensor([ids[:-1]]))[0], torch.tensor(ids[1:]), reduction="none")


def user_share(model, tok, conversations):
    user = total = 0.0
    for ids in conversations:
        losses = losses_of(model, ids)
        total += losses.sum()
        user += losses[~torch.tensor(answer_mask(ids, tok)[1:])].sum()
    return user / total


def by_means(model, tok, conversations):
    "The loss of the model is a mean; times the number of targets it is a sum."
    nats = [0.0, 0.0]
    for conversation in conversations:
        ids, mask = torch.tensor([conversation]), torch.tensor([answer_mask(conversation, tok)[1:]])
        for i, counted in enumerate((~mask, mask)):
            nats[i] += model.loss(ids[:, :-1], ids[:, 1:], counted).item() * counted.sum().item()
    return nats[0] / sum(nats)


def packed_rows(conversations, T):
    rows = pack([len(ids) - 1 for ids in conversations], T)
    return [[conversations[i] for i in row] for row in rows]


def by_packing(model, tok, conversations, attention=True, place=True, padding=False):
    T = model.config.block_size
    ids, targets, mask, positions, attention_mask = packed_batch(packed_rows(conversations, T), T, tok)
    logits = model(ids, positions if place else None, attention_mask if attention else None)
    losses = F.cross_entropy(logits.mT, targets, reduction="none")
    length = sum(map(len, conversations)) - len(conversations)
    if not padding:
        losses, mask = losses[:, :length], mask[:, :length]
    return (losses[~mask].sum() / losses.sum()).item()


def padded_to(size):
    "Each conversation in a row of its own, with the loss on the padding too."

    def answer(model, tok, conversations):
        T = size(model, conversations)
        *batch, attention_mask = packed_batch([[ids] for ids in conversations], T, tok)
        ids, targets, mask, positions = batch
        losses = F.cross_entropy(model(ids, positions, attention_mask).mT, targets, reduction="none")
        return (losses * ~mask).sum() / losses.sum()

    return answer


def parts(rule):
    "A wrong fraction, from the losses, the mask and the targets of all conversations."

    def answer(model, tok, conversations):
        losses = torch.cat([losses_of(model, ids) for ids in conversations])
        mask = torch.cat([torch.tensor(answer_mask(ids, tok)[1:]) for ids in conversations])
        targets = torch.cat([torch.tensor(ids[1:]) for ids in conversations])
        names = [tok.special_tokens[name] for name in ("<|user|>", "<|assistant|>", "<|end|>")]
        return rule(losses, ~mask, targets, names)

    return answer


def mask_of_inputs(model, tok, conversations):
    losses = torch.cat([losses_of(model, ids) for ids in conversations])
    mask = torch.cat([torch.tensor(answer_mask(ids, tok)[:-1]) for ids in conversations])
    return losses[~mask].sum() / losses.sum()


def same_targets(model, tok, conversations):
    user = total = 0.0
    for ids in conversations:
        losses = F.cross_entropy(model(torch.tensor([ids]))[0], torch.tensor(ids), reduction="none")
        user += losses[~torch.tensor(answer_mask(ids, tok))].sum().item()
        total += losses.sum().item()
    return user / total


def averaged(model, tok, conversations):
    return sum(user_share(model, tok, [ids]) for ids in conversations) / len(conversations)


def without_roles(losses, user, targets, names, divided=True, n=2):
    kept = ~torch.isin(targets, torch.tensor(names[:n]))
    return losses[user & kept].sum() / (losses[kept] if divided else losses).sum()


RIGHT = {"answer_targets": answer_targets, "chat_ids": chat_ids, "separate": separate, "user_share": user_share}
ALSO_RIGHT = [
    ("answer_targets", by_slices),
    ("answer_targets", by_last_special_token),
    ("answer_targets", by_counting),
    ("answer_targets", lambda *args: [int(value) for value in answer_targets(*args)]),
    ("answer_targets", lambda *args: tuple(answer_targets(*args))),
    ("answer_targets", lambda *args: np.array(answer_targets(*args))),
    ("answer_targets", lambda *args: list(torch.tensor(answer_targets(*args)))),
    ("answer_targets", lambda *args: (value for value in answer_targets(*args))),
    ("chat_ids", by_tables),
    ("chat_ids", template),
    ("chat_ids", lambda *args: torch.tensor(chat_ids(*args))),
    ("chat_ids", lambda *args: list(np.array(chat_ids(*args)))),
    ("separate", by_counting_earlier),
    ("separate", by_loops),
    ("separate", free_padding),
    ("separate", lambda numbers: list(separate(numbers))),
    ("user_share", by_means),
    ("user_share", by_packing),
    ("user_share", lambda *args: user_share(*args).item()),
    ("user_share", parts(lambda losses, user, *_: (losses * user).sum() / losses.sum())),
]
MISTAKES = [
    ("answer_targets", lambda *args: of_tokens(*args)[:-1], "one place late"),
    ("answer_targets", lambda *args: [*of_tokens(*args)[2:], False], "one place early"),
    ("answer_targets", tokens_where(lambda id, part, user, assistant, end: part and id != end), "never learns to stop"),
    ("answer_targets", tokens_where(lambda id, part, *roles: part or id == roles[1]), "<|assistant|> counts, too"),
    ("answer_targets", to_next_user, "go on and ask itself"),
    (
        "answer_targets",
        tokens_where(lambda id, part, user, assistant, end: part or id in (user, assistant)),
        "<|user|> and <|assistant|> count",
    ),
    ("answer_targets", tokens_where(lambda *_: True), "to write the user's questions"),
    ("answer_targets", tokens_where(lambda *_: False), "No target counts"),
    ("answer_targets", tokens_where(lambda id, part, *_: not part), "inverted"),
    ("answer_targets", tokens_where(lambda id, part, *roles: id not in roles), "All words count, the user's too. Only"),
    ("answer_targets", tokens_where(lambda id, part, *roles: id not in roles[:2]), "the user's too, and <|end|>"),
    ("answer_targets", tokens_where(lambda id, part, *roles: id == roles[2]), "Only <|end|> counts"),
    ("answer_targets", up_to_first_end, "Only the first answer counts"),
    ("answer_targets", last_answer, "Only the last answer counts"),
    ("answer_targets", lambda ids, user, assistant, end: [id == assistant for id in ids[:-1]], "Only the first token"),
    ("answer_targets", after_first, "All that follows the first"),
    ("answer_targets", from_first, "All counts from the first"),
    ("answer_targets", by_value, "where they also occur in an answer"),
    ("answer_targets", lambda ids, *_: answer_targets(ids, 1, 2, 3), "fixed numbers"),
    ("answer_targets", of_tokens, "Which token is never a target?"),
    ("answer_targets", lambda *args: answer_targets(*args)[:-1], "but it returned 13 values"),
    ("answer_targets", lambda ids, *_: ids[1:], "It returned 11 among its values"),
    ("answer_targets", lambda *args: [None] * (len(args[0]) - 1), "None among its values"),
    ("answer_targets", lambda *args: [*answer_targets(*args)[:-1], False], "Target 13 is <|end|>, which the assistant"),
    ("answer_targets", lambda *args: [True, *answer_targets(*args)[1:]], "Target 0 is Mia, which the user writes, but"),
    (
        "answer_targets",
        lambda *args: [part or t == 3 for t, part in enumerate(answer_targets(*args))],
        "Target 3 is <|assistant|>, which the template sets, but you return True",
    ),
    ("answer_targets", changed, "in place: ids"),
    ("chat_ids", wrong_template(ended=lambda *_: False), "is missing after the answers"),
    ("chat_ids", wrong_template(ended=lambda *_: True), "follows the user's messages, too"),
    ("chat_ids", wrong_template(ended=lambda role, last: role == "user"), "follows the user's messages, and not"),
    ("chat_ids", wrong_template(ended=lambda role, last: last), "comes once, after all messages"),
    ("chat_ids", wrong_template(ended=lambda role, last: role == "assistant" and last), "that a question follows"),
    ("chat_ids", wrong_template(ended=lambda role, last: role == "assistant" and not last), "after the last answer"),
    ("chat_ids", wrong_template(turn=lambda *_: []), "that its answer comes next. The call"),
    ("chat_ids", wrong_template(turn=lambda role, user, assistant, end: [assistant]), "has just answered"),
    (
        "chat_ids",
        wrong_template(turn=lambda role, user, assistant, end: [assistant] if role != "user" else []),
        "after an answer, and not after a question",
    ),
    (
        "chat_ids",
        wrong_template(turn=lambda role, user, assistant, end: [assistant] if role == "user" else [user]),
        "<|user|> comes at the end",
    ),
    (
        "chat_ids",
        wrong_template(turn=lambda role, user, assistant, end: [assistant, end] if role == "user" else []),
        "as if the answer were empty",
    ),
    ("chat_ids", wrong_template(words=lambda role, text: text), "in front of the words is missing"),
    (
        "chat_ids",
        wrong_template(words=lambda role, text: text if role == "user" else " " + text),
        "of the user's words is",
    ),
    ("chat_ids", wrong_template(words=lambda role, text: " " + text if role == "user" else text), "of the answers is"),
    ("chat_ids", wrong_template(words=lambda role, text: text + " "), "The space comes after"),
    ("chat_ids", wrong_template(words=lambda role, text: "  " + text), "two spaces"),
    ("chat_ids", lambda m, encode, u, a, end: chat_ids(m, encode, a, u, end), "The roles are swapped"),
    ("chat_ids", wrong_template(first=lambda role, i, u, a: [a if role == "user" else u]), "The roles are swapped"),
    ("chat_ids", wrong_template(first=lambda role, i, u, a: [a if i % 2 else u]), "take turns by place"),
    ("chat_ids", wrong_template(first=lambda *_: []), "No message begins"),
    ("chat_ids", wrong_template(first=lambda role, i, u, a: [u] if role == "user" else []), "An answer does not begin"),
    ("chat_ids", wrong_template(first=lambda role, i, u, a: [] if role == "user" else [a]), "user does not begin"),
    ("chat_ids", wrong_template(first=lambda role, i, u, a: [u]), "All messages begin with <|user|>"),
    ("chat_ids", wrong_template(words=lambda role, text: text, turn=lambda *_: []), "(It is not the only mistake.)"),
    ("chat_ids", lambda messages, *rest: chat_ids(messages[-1:], *rest), "Only the last message"),
    ("chat_ids", lambda messages, *rest: chat_ids(messages[:1], *rest), "Only the first message"),
    ("chat_ids", lambda messages, *rest: chat_ids(messages[::-1], *rest), "in reverse order"),
    ("chat_ids", as_text, "encoded as text"),
    ("chat_ids", words_first, "The role comes after the words"),
    ("chat_ids", lambda messages, encode, *_: chat_ids(messages, encode, 1, 2, 3), "fixed numbers"),
    ("chat_ids", nested, "`append` does not"),
    ("chat_ids", lambda messages, encode, *_: encode(messages), "takes the text of a message"),
    ("chat_ids", lambda messages, *_: [role for role, text in messages], "It contains 'user'. Each id"),
    ("chat_ids", lambda *args: chat_ids(*args)[:-3], "There it ends. The call"),
    ("chat_ids", lambda *args: [*chat_ids(*args), 5], "There it should end"),
    ("chat_ids", lambda *args: [5 if t == 12 else id for t, id in enumerate(chat_ids(*args))], "There it goes on wr"),
    ("chat_ids", lambda *args: [5, *chat_ids(*args)], "It does not begin as it should"),
    ("separate", wrong_positions(lambda n: torch.arange(len(n))), "run on through the row: conversation 2 begins at 3"),
    ("separate", wrong_positions(lambda n: positions_of(n) + 1), "begin at 1. The"),
    ("separate", wrong_positions(lambda n: torch.arange(len(n)) + 1), "begin at 1, and they run on"),
    ("separate", wrong_positions(from_one_later), "but the later ones at 1"),
    ("separate", wrong_positions(late), "one token too late: conversation 2 begins at 3"),
    ("separate", wrong_positions(once), "and not after it"),
    ("separate", wrong_positions(counted), "Those count the conversations"),
    ("separate", wrong_positions(lambda n: n), "Those are the numbers of the conversations"),
    ("separate", wrong_positions(lambda n: torch.arange(len(n)) - positions_of(n)), "Those are the places where"),
    ("separate", wrong_positions(lambda n: same(n).triu().sum(1) - 1), "They count down"),
    ("separate", wrong_positions(lambda n: same(n).sum(1)), "Those are the lengths"),
    ("separate", wrong_positions(torch.zeros_like), "Every position is 0"),
    ("separate", wrong_positions(lambda n: positions_of(n) * 2), "Token 1 (conversation 4) got position 2"),
    ("separate", wrong_positions(lambda n: positions_of(n).float()), "They are whole numbers"),
    ("separate", wrong_positions(lambda n: positions_of(n)[None]), "The positions came in shape (1, 9), not (9,)"),
    ("separate", wrong_mask(past), "leak into each other: only the future is hidden, so token 3 (conversation 2)"),
    ("separate", wrong_mask(same), "Only the conversations were compared"),
    ("separate", wrong_mask(lambda n: same(n) & future(n)), "The future is allowed and the past is hidden"),
    ("separate", wrong_mask(lambda n: ~same(n) & past(n)), "but not to its own"),
    ("separate", wrong_mask(lambda n: ~mask_of(n)), "exchanged"),
    ("separate", wrong_mask(lambda n: mask_of(n).tril(-1)), "No token may attend to itself"),
    ("separate", wrong_mask(lambda n: same(n) | past(n)), "One condition was enough"),
    ("separate", wrong_mask(lambda n: (n[:, None] >= n) & past(n)), "compared by size"),
    ("separate", wrong_mask(lambda n: (n[:, None] <= n) & past(n)), "compared by size"),
    ("separate", wrong_mask(lambda n: mask_of(n) | past(n) & is_padding(n)), "to the conversations before it"),
    ("separate", wrong_mask(lambda n: mask_of(n) | is_padding(n)), "Padding may attend to everything."),
    ("separate", wrong_mask(lambda n: mask_of(n) | is_padding(n) | is_padding(n).T), "and everything to padding"),
    ("separate", wrong_mask(lambda n: mask_of(n) | is_padding(n).T), "Every token may attend to padding"),
    ("separate", wrong_mask(lambda n: mask_of(n) & ~is_padding(n)), "a softmax over nothing"),
    ("separate", wrong_mask(lambda n: torch.ones(len(n), len(n)) > 0), "and the future into the past"),
    ("separate", wrong_mask(lambda n: torch.eye(len(n)) > 0), "only to itself"),
    ("separate", wrong_mask(lambda n: mask_of(n).float()), "Booleans are wanted"),
    ("separate", wrong_mask(lambda n: mask_of(n)[None, None]), "The mask came in shape (1, 1, 9, 9)"),
    ("separate", wrong_mask(lambda n: mask_of(n).tril(-2)), "Token 0 (conversation 4) may not attend to itself"),
    ("separate", wrong_mask(lambda n: mask_of(n).triu(-1)), "which is earlier in the same conversation"),
    ("separate", wrong_mask(lambda n: same(n).tril(1)), "token 1 (conversation 4), which comes later"),
    ("separate", wrong_mask(lambda n: mask_of(n // 3)), "which belongs to another conversation"),
    ("separate", lambda numbers: separate(numbers)[::-1], "The two results are swapped"),
    ("separate", mask_of, "It returned one tensor"),
    ("separate", lambda numbers: (*separate(numbers), 3), "It returned 3 values"),
    ("user_share", lambda *args: 1 - user_share(*args), "the assistant's part"),
    ("user_share", parts(lambda losses, user, *_: losses[user].sum() / losses[~user].sum()), "not by the whole loss"),
    ("user_share", lambda *args: 100 * user_share(*args), "Those are percent"),
    ("user_share", parts(lambda losses, user, *_: losses[user].sum()), "loss in nats"),
    ("user_share", parts(lambda losses, user, *_: user.float().mean()), "fraction of the targets"),
    (
        "user_share",
        parts(lambda losses, user, *_: losses[user].mean() / (losses[user].mean() + losses[~user].mean())),
        "Two means were compared",
    ),
    ("user_share", parts(lambda losses, user, *_: losses[user].mean() / losses.mean()), "Two means were divided"),
    ("user_share", averaged, "Each conversation's fraction was averaged"),
    ("user_share", mask_of_inputs, "one place late"),
    ("user_share", same_targets, "The targets are the inputs themselves"),
    ("user_share", parts(lambda *args: without_roles(*args, divided=False)), "without the role tokens"),
    ("user_share", parts(without_roles), "The role tokens were left out"),
    ("user_share", parts(lambda *args: without_roles(*args, n=3)), "The special tokens were left out"),
    ("user_share", lambda model, tok, talks: user_share(model, tok, talks[:1]), "the first conversation alone"),
    ("user_share", lambda model, tok, talks: user_share(model, tok, talks[-1:]), "the last conversation alone"),
    ("user_share", lambda *args: by_packing(*args, attention=False, place=False), "the positions and the attention"),
    ("user_share", lambda *args: by_packing(*args, attention=False), "the attention mask, too"),
    ("user_share", lambda *args: by_packing(*args, padding=True), "Padding counts as the user's"),
    ("user_share", padded_to(lambda model, _: model.config.block_size), "Padding counts as the user's"),
    ("user_share", padded_to(lambda _, talks: max(map(len, talks)) - 1), "Padding counts as the user's"),
    ("user_share", lambda *args: user_share(*args) + 0.01, "is not the user's fraction of the loss"),
    ("user_share", parts(lambda losses, *_: losses), "One number is wanted"),
]

test_right_answers_pass_and_blank_ones_are_no_mistake, test_each_mistake_has_its_own_diagnosis = pair_of_tests(
    check, RIGHT, MISTAKES
)


@pytest.mark.parametrize("name, answer", ALSO_RIGHT)
def test_other_right_answers_pass(name, answer):
    verdict = getattr(check, name)(answer)
    assert verdict, verdict


def endless(*_):
    while True:
        pass


@pytest.mark.parametrize("name", RIGHT)
def test_nonsense_gets_a_verdict(name):
    judge = getattr(check, name)
    for nonsense in [["a"]], [None, None], [], {}, "no", object(), 1e999, -1, torch.zeros(3, 3), [torch.nan] * 2:
        assert judge(lambda *_: nonsense).state == "wrong"
    for nonsense in (lambda *_: 1 / 0, lambda: 3, 7, "no", int):
        assert judge(nonsense).state == "wrong"
    assert "does not come to an end" in judge(endless).message


def test_the_package_answers_right():
    "The functions that the chapter exports solve its exercises."

    class Tok:
        def __init__(self, encode, user, assistant, end):
            self.encode = encode
            self.special_tokens = {"<|user|>": user, "<|assistant|>": assistant, "<|end|>": end}

    def by_encode_chat(messages, *parts):
        dicts = [{"role": role, "content": text} for role, text in messages]
        return encode_chat(Tok(*parts), dicts, reply=messages[-1][0] == "user")

    def by_packed_batch(numbers):
        lengths = numbers[numbers >= 0].unique_consecutive(return_counts=True)[1].tolist()
        row = [[5] * (length + 1) for length in lengths]
        *_, positions, same_conversation = packed_batch([row], len(numbers), Tok(None, 1, 2, 3))
        return positions[0], same_conversation[0, 0] & past(numbers)

    assert check.answer_targets(lambda ids, *roles: answer_mask(ids, Tok(None, *roles))[1:])
    assert check.chat_ids(by_encode_chat) and check.separate(by_packed_batch)


@pytest.mark.parametrize("numbers", check.PACKED, ids=str)
def test_nothing_leaks_in_a_packed_row(numbers):
    "What the check of exercise 3 says: a model computes the same for each conversation as for it alone."
    torch.manual_seed(0)
    model = GPT(GPTConfig.modern(20, n_layer=2, n_head=2, n_embd=16, block_size=16, embedding_std=1.0)).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    ids, positions = torch.randint(20, (1, len(numbers))), torch.tensor(check._positions(numbers))
    packed = model(ids, positions, check._attention(torch.tensor(numbers))[None, None])
    for n in set(numbers) - {-1}:
        place = torch.tensor(numbers) == n
        assert torch.allclose(packed[:, place], model(ids[:, place]), atol=1e-4)


def test_what_the_check_of_exercise_4_measures():
    "The numbers that it gives for the validation conversations."
    texts = [f"{text}<|end|>" for text in itertools.islice(corpus("chats").val, check.N_CHATS)]
    measured = []
    for folder in TRAINED, CHAT:
        model, tok = check.trained(folder)
        conversations = [tok.encode(text, allowed_special=check.CHAT_TOKENS) for text in texts]
        measured.append(user_share(model, tok, conversations).item())
    of_targets = parts(lambda losses, user, *_: user.double().mean().item())(model, tok, conversations)
    verdict = check.user_share(user_share)
    found = [int(n) for n in re.findall(r"(\d+)%", verdict.message)]
    assert verdict and found == [round(100 * part) for part in (of_targets, *measured)]
    assert of_targets < measured[0] < measured[1]


def test_the_offending_token_is_outlined():
    def outlined(verdict):
        return re.findall(r'<span style="[^"]*outline[^"]*">([^<]*)</span>', verdict.picture.html)

    words = [word.strip() for word in outlined(check.answer_targets(lambda *args: [True, *answer_targets(*args)[1:]]))]
    assert words == ["Mia", "True"]
    assert outlined(check.chat_ids(wrong_template(ended=lambda *_: True))) == ["&lt;|end|&gt;"]
    assert outlined(check.chat_ids(wrong_template(turn=lambda *_: []))) == [" ? "]
    assert outlined(check.chat_ids(wrong_template(words=lambda role, text: text))) == ["Is"]
    words = outlined(check.separate(wrong_positions(lambda n: torch.arange(len(n)))))
    assert [word.strip() for word in words] == ["2", "3"]


def test_the_wrong_cells_of_the_mask_are_outlined():
    drawn = str(check.separate(wrong_mask(past)).picture).splitlines()
    marked = [[cell.endswith("!") for cell in re.findall(r"\d\.\d\d!?", line)] for line in drawn]
    numbers = torch.tensor(check.PACKED[0])
    assert marked == (past(numbers) & ~same(numbers)).tolist()
