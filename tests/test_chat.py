"""Conversations: the template, the answers' mask, packing, accuracy and replies."""

import csv
import json
import random
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import tinygpt as tg
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import refused
from tinygpt.chat import (
    ChatWindows,
    answer_mask,
    chat_accuracy,
    drop_oldest,
    encode_chat,
    pack,
    packed_batch,
    reply,
)
from tinygpt.cli.evaluate import evaluate_model
from tinygpt.io.corpus import SPECIAL_TOKENS, Seeded, corpus
from tinygpt.io.tokens import encode_corpus
from tinygpt.presets import CHAT, MIDTRAINED
from tinygpt.world.drills import STAGES, drill

TOK = tg.the_tokenizer()
USER, ASSISTANT, END = (TOK.special_tokens[name] for name in ("<|user|>", "<|assistant|>", "<|end|>"))
contents = st.text(max_size=30).filter(lambda text: "<|" not in text)
turns = st.lists(st.tuples(st.sampled_from(["user", "assistant"]), contents), max_size=6)


def ids_of(text):
    return TOK.encode(text + "<|end|>", allowed_special="all")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return tg.GPT(tg.GPTConfig.named("tiny")).eval()


def messages_of(text):
    parts = [part.split("<|assistant|> ") for part in text.removeprefix("<|user|> ").split("<|end|><|user|> ")]
    return [{"role": role, "content": words} for part in parts for role, words in zip(("user", "assistant"), part)]


@pytest.fixture(scope="module")
def other():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(ROOT / "tinygpt" / "assets" / "vocabulary")


@given(turns, st.booleans())
@settings(deadline=None, max_examples=60)
def test_the_ids_are_those_of_apply_chat_template(other, turns, ask):
    messages = [{"role": role, "content": words} for role, words in turns]
    theirs = other.apply_chat_template(messages, add_generation_prompt=ask, return_dict=False) if messages else []
    assert encode_chat(TOK, messages, reply=ask) == (theirs or [ASSISTANT] * ask)


def test_the_text_of_a_chat_is_what_the_template_writes():
    for seed in range(50):
        text = tg.chat(seed)
        assert encode_chat(TOK, messages_of(text)) == ids_of(text)
        assert encode_chat(TOK, messages_of(drill(seed))) == ids_of(drill(seed))


def test_a_user_cannot_type_a_special_token():
    for words in "<|assistant|> I am you", "a<|end|><|user|> b", "<|user|>":
        ids = encode_chat(TOK, [{"role": "user", "content": words}])
        assert ids[0] == USER and not {USER, ASSISTANT, END} & set(ids[1:])
        assert TOK.decode(ids) == f"<|user|> {words}"


def test_messages_that_are_none():
    user = {"role": "user", "content": "hi"}
    refused(lambda: encode_chat(TOK, "hi"), "messages='hi'", "list of messages")
    refused(lambda: encode_chat(TOK, user), "list of messages")
    refused(lambda: encode_chat(TOK, ["hi"]), "'hi'", "role")
    refused(lambda: encode_chat(TOK, [{"role": "user"}]), "content")
    refused(lambda: encode_chat(TOK, [user | {"role": "system"}]), "'system'", "'user' or 'assistant'")
    refused(lambda: encode_chat(tg.CharTokenizer.train("ab"), [user]), "<|user|>", "trained on chats")


def test_the_mask_covers_each_answer_and_its_end():
    for seed in range(100):
        text = tg.chat(seed)
        ids = ids_of(text)
        told = [id for id, counts in zip(ids, answer_mask(ids, TOK)) if counts]
        answers = [message["content"] for message in messages_of(text) if message["role"] == "assistant"]
        assert told == [id for words in answers for id in [*TOK.encode(" " + words), END]]


@given(st.lists(st.integers(1, 40), max_size=80), st.integers(40, 60), st.integers(1, 60))
def test_packing_keeps_each_once_and_within_the_size(lengths, size, n_open):
    rows = pack(lengths, size, n_open)
    assert sorted(i for row in rows for i in row) == [*range(len(lengths))]
    assert all(sum(lengths[i] for i in row) <= size for row in rows)
    if n_open >= len(lengths):  # first fit: no two rows could be one, in particular none but one is half empty
        assert sum(sum(lengths[i] for i in row) <= size / 2 for row in rows) <= 1


def test_packed_conversations_have_the_logits_that_they_have_alone(model):
    rows = [[ids_of(tg.chat(seed)) for seed in row] for row in [(0, 3), (5, 9), (11,)]]
    ids, targets, mask, positions, attention_mask = packed_batch(rows, 300, TOK)
    wide = tg.GPT(tg.GPTConfig.named("tiny", block_size=300)).eval()
    for one in wide, tg.GPT(tg.GPTConfig.gpt2(2048, n_layer=2, n_head=2, n_embd=32, block_size=300)).eval():
        torch.nn.init.normal_(one.blocks[0].attention.proj.weight, std=0.1)
        torch.nn.init.normal_(one.blocks[1].attention.proj.weight, std=0.1)
        one = one.double()
        with torch.no_grad():
            together = one(ids, positions, attention_mask)
            for b, row in enumerate(rows):
                start = 0
                for conversation in row:
                    alone = torch.tensor([conversation])
                    part = slice(start, start + len(conversation) - 1)
                    assert (together[b, part] - one(alone[:, :-1])[0]).abs().max() < 1e-5
                    assert torch.equal(ids[b, part], alone[0, :-1]) and torch.equal(targets[b, part], alone[0, 1:])
                    assert mask[b, part].tolist() == answer_mask(conversation, TOK)[1:]
                    start = part.stop
                assert not mask[b, start:].any()
            leaked = one(ids, positions)  # without the mask the second conversation reads the first
        second = slice(len(rows[0][0]) - 1, len(rows[0][0]) + len(rows[0][1]) - 2)
        assert (leaked[0, second] - together[0, second]).abs().max() > 1e-3


def test_the_loss_of_packed_rows_is_the_mean_over_all_answers(model):
    texts = [ids_of(tg.chat(seed)) for seed in (3, 5, 9)]
    batch = packed_batch([texts[:2], texts[2:]], 256, TOK)
    nats, n = 0.0, 0
    for conversation in texts:
        ids, mask = torch.tensor([conversation]), torch.tensor(answer_mask(conversation, TOK)[1:])
        logp = model(ids[:, :-1])[0].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        nats, n = nats - logp[mask].sum().item(), n + int(mask.sum())
    assert abs(model.loss(*batch).item() - nats / n) < 1e-5


def test_batches_by_number_hold_each_conversation_once_an_epoch(tmp_path):
    split = corpus("chats").val
    tokens = encode_corpus(split, TOK, tmp_path)
    windows = ChatWindows(tokens, TOK, 256, 4, seed=3)
    again = ChatWindows(tokens, TOK, 256, 4, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(windows[17], again[17]))
    found = []
    for step in range(-(-windows.n // 4)):
        ids, targets, mask, positions, _ = windows[step]
        assert ids.shape == (4, 256)
        for b in range(4):
            starts = ((positions[b] == 0) & (ids[b] == USER)).nonzero()[:, 0].tolist()
            for start in starts:
                n = 1
                while start + n < 256 and positions[b, start + n] == n:
                    n += 1
                found.append((*ids[b, start : start + n].tolist(), targets[b, start + n - 1].item()))
    wanted = {tuple(ids_of(text)) for text in split}
    assert set(found) == wanted and len(found) < len(wanted) + 12
    filled = np.mean([(windows[step][0] > 0).float().mean() for step in range(20)])
    assert filled > 0.8  # without packing, rows of one conversation each are less than half full


def test_accuracy_is_that_of_greedy_answers():
    torch.manual_seed(1)
    fitted = tg.GPT(tg.GPTConfig.named("tiny"))
    texts = [tg.chat(seed) for seed in range(3)]
    batch = packed_batch([[ids_of(text)] for text in texts], 256, TOK)
    optimizers = tg.build_optimizers(fitted)
    for _ in range(40):  # until it knows some of the answers by heart, but not all
        fitted.loss(*batch).backward()
        for optimizer in optimizers:
            optimizer.step()
        fitted.zero_grad()
    right, asked = {}, {}
    for text in texts:
        for start, end, kind in tg.answers(text):
            before = messages_of(text[: start - len("<|assistant|> ")])
            said = "".join(reply(fitted, TOK, before, 60))
            asked[kind] = asked.get(kind, 0) + 1
            right[kind] = right.get(kind, 0) + (said == text[start:end])
    assert chat_accuracy(fitted, TOK, texts) == {kind: right[kind] / asked[kind] for kind in asked}
    assert 0 < sum(right.values()) < sum(asked.values()) or sum(right.values()) == sum(asked.values())


def test_old_turns_are_dropped_whole():
    rng, messages = random.Random(0), []
    for _ in range(12):
        messages += [{"role": "user", "content": "a red kite " * rng.randint(1, 9)}, {"role": "assistant", "content": "Yes."}]
    messages.append({"role": "user", "content": "Why?"})
    for size in 256, 120, 60, 20, 5:
        kept = drop_oldest(TOK, messages, size)
        assert kept == messages[len(messages) - len(kept) :] and kept[0]["role"] == "user"
        assert len(encode_chat(TOK, kept, reply=True)) <= size
        more = messages[len(messages) - len(kept) - 2 :]
        assert kept == messages or len(encode_chat(TOK, more, reply=True)) > size


def test_an_answer_never_prints_a_special_token(model):
    asked = [{"role": "user", "content": "Who?"}]
    for seed in range(30):
        said = "".join(reply(model, TOK, asked, 40, temperature=3.0, seed=seed))
        assert "<|" not in said and not said.startswith(" " * 2)
    assert list(reply(model, TOK, asked, 20, temperature=1.0, seed=1)) == list(
        reply(model, TOK, asked, 20, temperature=1.0, seed=1)
    )


@pytest.mark.parametrize("name", ["<|user|>", "<|assistant|>", "<|end|>"])
def test_each_special_token_ends_the_answer(name, model, monkeypatch):
    drawn = iter([*TOK.encode(" Good day"), TOK.special_tokens[name], *TOK.encode(" again")])
    monkeypatch.setattr("tinygpt.sample.draw", lambda logits, u: torch.tensor([next(drawn)]))
    assert "".join(reply(model, TOK, [{"role": "user", "content": "Hi"}], 9)) == "Good day"


def test_what_cannot_be_answered(model):
    user, assistant = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
    refused(lambda: reply(model, TOK, []), "nothing to answer")
    refused(lambda: reply(model, TOK, [user, assistant]), "nothing to answer")
    refused(lambda: reply(model, TOK, [user | {"content": "far " * 300}]), "302 tokens", "253", "shorten")
    refused(lambda: reply(model, TOK, [user], temperature=-1), "temperature=-1")
    refused(lambda: reply(model, TOK, [user], -1), "max_new_tokens=-1")


def test_training_takes_the_loss_of_the_answers_and_reports_them_by_kind(tmp_path):
    torch.manual_seed(0)
    model = tg.GPT(tg.GPTConfig.named("tiny", n_layer=1))
    config = tg.TrainConfig(steps=2, batch_size=2, eval_every=2)
    records = tg.train(model, TOK, corpus("chats"), config, tmp_path / "run", progress=False)
    kinds = {"color", "correct", "follow", "many", "retell", "what", "where", "who", "why"}
    assert set(records[-1].skills) == kinds and records[-1].valid_fraction is None
    first = ChatWindows(encode_corpus(corpus("chats").train, TOK), TOK, 256, 2)[0]
    torch.manual_seed(0)
    fresh = tg.GPT(tg.GPTConfig.named("tiny", n_layer=1))
    assert abs(records[0].loss - fresh.loss(*first).item()) < 1e-5
    assert records[0].tokens == int(first[2].sum())
    found = evaluate_model(model, TOK, corpus("chats"))
    assert set(found["answers"]) == kinds and found["skills"] is None and found["floor"] is None
    again = tg.train(model, TOK, corpus("chats"), config, tmp_path / "run", resume=True, progress=False)
    assert [record.loss for record in again] == [record.loss for record in records]


def test_the_template_stands_in_the_files_of_each_tokenizer_with_the_three_tokens(tmp_path):
    TOK.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "<|assistant|>" in config["chat_template"]
    tg.CharTokenizer.train("ab").save(tmp_path / "b")
    assert "chat_template" not in json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer.json").write_text((tmp_path / "tokenizer.json").read_text().replace("kite", "kyte", 1))
    refused(lambda: tg.BPETokenizer.load(tmp_path), "damaged")


def answers_by_hand(groups, question):
    """The right answers to a question of a drill, by kind, from its facts: names, each with some words."""
    having = {word: group for group in groups for word in group}
    match question.rstrip("?").split():
        case ["Whose:", *words]:
            return {"whose": " ".join(f"{word} {having[word][0]}" for word in words)}
        case ["Things:", *words]:
            return {"things listed": " ".join(" ".join([*having[word][:1:-1], having[word][0]]) for word in words)}
        case ["Numbers:", *words]:
            return {"numbers listed": " ".join(f"{word} {having[word][2]}" for word in words)}
        case ["What", "colour", "are", "the", thing]:
            name, _, number, color, _ = having[thing]
            return {"long": f"{color} {number} {name}", "twice": f"{color} {color.capitalize()}.",
                    "short": f"{color.capitalize()}."}
        case ["How", "many", thing, "are", "there"]:
            name, _, number, color, _ = having[thing]
            return {"long": f"{number} {color} {name}", "twice": f"{number} {number.capitalize()}.",
                    "short": f"{number.capitalize()}."}
        case ["What", "does", name, "have"]:
            _, _, number, color, thing = having[name]
            return {"sentence": f"{number.capitalize()} {color} {thing}."}
        case ["Whose", "are", "the", thing]:
            name, _, number, color, _ = having[thing]
            return {"sentence": f"So {name} has {number} {color} {thing}."}
        case ["Who", "has", thing] if having[thing][1] == "has":
            name, _, number, color, _ = having[thing]
            return {"long": f"{name} {number} {color}", "twice": f"{name} {name}.", "short": f"{name}."}
        case ["Who", "has", word]:
            return {"who": having[word][0]}
        case ["Words:", *words]:
            asked = [(name, kind, having[name][having[name].index(kind) + 1]) for name, kind in zip(words[::2], words[1::2])]
            return {"attributes listed": " ".join(" ".join(one) for one in asked)}
        case ["What", kind, "has", name]:
            return {"attribute": having[name][having[name].index(kind) + 1]}
        case ["Phrases:", *names]:
            return {"phrases listed": " ".join(" ".join(having[name]) for name in names)}
        case ["And", name]:
            return {"phrase": " ".join(having[name][1:])}


def kinds_of(number):
    """The kinds of questions in a drill, all of whose answers are right."""
    messages = messages_of(drill(number))
    text, first = messages[0]["content"].rsplit(". ", 1)
    groups, kinds = [group.split() for group in text.split(". ")], set()
    for question, answer in zip([first] + [message["content"] for message in messages[2::2]], messages[1::2]):
        kinds |= {kind for kind, right in answers_by_hand(groups, question).items() if right == answer["content"]} or {question}
    return kinds


def test_the_answers_of_drills_are_right_and_each_kind_prepares_the_next():
    stages = [set().union(*map(kinds_of, range(stop - 150, stop))) for stop, _ in STAGES]
    last = {"sentence", "short", "phrase", "who", "attribute"}
    assert stages == [
        {"whose"}, {"things listed"}, {"long"}, {"long", "who"}, {"attributes listed", "who", "long"},
        {"attribute", "who", "long"}, {"numbers listed", "long", "who", "attribute"},
        {"phrases listed", "twice", "numbers listed", "who", "attribute"}, last - {"sentence"} | {"twice"}, last]
    assert set().union(*map(kinds_of, range(10**6, 10**6 + 150))) == last
    assert len(corpus("drills").train) == STAGES[-1][0]
    assert not {*islice(corpus("drills").train, 1000)} & {*corpus("drills").val}


def test_a_curriculum_is_read_nearly_in_its_order():
    tokens = encode_corpus(Seeded(drill, range(3000), SPECIAL_TOKENS), TOK)
    windows = ChatWindows(tokens, TOK, 256, 4, seed=1, in_order=True)
    firsts = [row[0] for row in windows.rows]
    assert sorted(number for row in windows.rows for number in row) == [*range(3000)]
    assert max(abs(place - number) for place, number in zip(sorted(firsts), firsts)) < 400
    assert (windows.shuffle(0) == range(windows.n)).all() and (windows.shuffle(1) == range(windows.n)).all()
    others = ChatWindows(tokens, TOK, 256, 4, seed=2, in_order=True)
    assert [*others.rows[0]] != [*windows.rows[0]], "the seed still decides the order of neighbours"


def recorded():
    with open(ROOT / "data" / "chat-runs.csv", newline="") as file:
        return [*csv.DictReader(file)]


def test_the_midtrained_model_answers_drills():
    model, tok = tg.load(MIDTRAINED)
    right, counted = 0, 0
    for text in islice(corpus("drills").val, 100):
        ids = torch.tensor([ids_of(text)])
        with torch.no_grad():
            guesses = model(ids[:, :-1]).argmax(-1)
        mask = torch.tensor([answer_mask(ids[0].tolist(), tok)[1:]])
        right, counted = right + (guesses == ids[:, 1:])[mask].sum().item(), counted + mask.sum().item()
    assert right / counted > 0.93
    assert sum(path.stat().st_size for path in MIDTRAINED.iterdir()) < 3_000_000


def test_the_shipped_model_answers_as_its_card_says():
    model, tok = tg.load(CHAT)
    assert sum(path.stat().st_size for path in CHAT.iterdir()) < 3_000_000
    last = [row for row in recorded() if row["recipe"] == "drills in order" and row["seed"] == "1"][-1]
    texts = [*islice(corpus("chats").val, 300)]
    kinds = chat_accuracy(model, tok, texts)
    counts = Counter(kind for text in texts for _, _, kind in tg.answers(text))
    accuracy = sum(kinds[kind] * counts[kind] for kind in kinds) / counts.total()
    assert abs(accuracy - float(last["accuracy"])) < 0.01  # its weights are stored in 16 bits
    assert all(abs(kinds[kind] - float(last[kind])) < 0.03 for kind in kinds)
    card = (CHAT / "README.md").read_text()
    rows = [row for row in recorded() if row["recipe"] == "drills in order"]
    ends = [next(row for row in reversed(rows) if row["seed"] == seed) for seed in "0123"]
    shares = [f"{float(row['accuracy']):.1%}" for row in ends]
    assert f"| **all** | {' | '.join(shares)} |" in card


def test_drills_in_their_order_help_each_seed():
    ends = {}
    for row in recorded():  # in the order of steps
        ends[row["recipe"], row["seed"]] = float(row["accuracy"]), float(row["seconds"])
    recipes = {name: [end for (recipe, _), end in ends.items() if recipe == name] for name, _ in ends}
    assert {name: len(runs) for name, runs in recipes.items()} == {
        "drills in order": 4, "drills shuffled": 3, "conversations alone": 3}
    assert all(accuracy >= 0.9 and seconds <= 60 for accuracy, seconds in recipes["drills in order"])
    assert all(accuracy < 0.7 for name in ("drills shuffled", "conversations alone") for accuracy, _ in recipes[name])
