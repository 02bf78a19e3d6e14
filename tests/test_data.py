"""The chapter Data: every batch against a plain account of what it should hold, and token files against every mishap."""

import contextlib
import gzip
import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
import torch
from conftest import need
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinygpt import tales
from tinygpt.data import Windows, make_batch, validation_batches
from tinygpt.engine import cores
from tinygpt.engine.splitting import GPT2_SPLIT, GPT4_SPLIT
from tinygpt.io import corpus as corpora
from tinygpt.io import downloads, tokenizer_files
from tinygpt.io import tokens as token_files
from tinygpt.io.corpus import Documents, Seeded, corpus, split_stories
from tinygpt.io.text import read_text
from tinygpt.io.tokens import Tokens, encode_corpus, fingerprint, is_whole, write_tokens
from tinygpt.tokenizer import BPETokenizer, CharTokenizer
from tinygpt.world.skills import spans

STORY = (
    'Once there was a well, and in the well there was a fish. The fish said: "I\'ve 12345 scales!"\n\n'
    "  Nobody believed it... they'd counted 7.\r\n\tSo they counted again, and again. نص हिन्दी 日本語 e\u0301 <|end|>\n"
)
SPECIAL = ["<|end|>", "<|user|>", "<|assistant|>"]
TEXT = st.lists(
    st.sampled_from(["<|end|>", "<|user|>", " well", "\n\n", "  ", "12345", "they'd", "e\u0301", "日本", "\r\n", "Å"])
    | st.text(st.characters(exclude_categories=["Cn", "Cs"]), max_size=5),
    max_size=8,
).map("".join)
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def tok():
    return BPETokenizer.train(STORY * 3, 330, SPECIAL)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    "No test looks into the cache of whoever runs it."
    monkeypatch.setenv("TINYGPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def split_of(documents, whole_documents=True, special_tokens=()):
    "Documents from lists of texts; each list is a document in pieces."
    pieces = [[document] if isinstance(document, str) else document for document in documents]
    return Documents(lambda: iter(pieces), f"{len(pieces)} documents", whole_documents, special_tokens)


def stored(folder, documents, end=(), whole_documents=False, dtype=np.uint16):
    "Tokens from lists of ids."
    encoded = [(np.array([*ids, *end], dtype), [len(ids) + len(end)]) for ids in documents]
    write_tokens(folder / "made.tokens", encoded, list(end), dtype)
    return Tokens(folder / "made.tokens", vocab_size=np.iinfo(dtype).max + 1, whole_documents=whole_documents)


def rows_of(batch):
    "Each row of a batch as the ids that it was made from, after looking at what must hold for every batch."
    ids, targets, mask = batch
    assert ids.dtype == targets.dtype == torch.int64 and mask.dtype == torch.bool
    assert ids.shape == targets.shape == mask.shape and ids.is_contiguous() and targets.is_contiguous()
    for row_ids, row_targets, row_mask in zip(ids.tolist(), targets.tolist(), mask.tolist()):
        n = sum(row_mask)
        assert row_mask == [True] * n + [False] * (len(row_mask) - n)
        assert row_ids[1:n] == row_targets[: max(0, n - 1)]
        yield row_ids[:1] + row_targets[:n]


def same(one, two):
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def joined(batches):
    return [torch.cat(parts) for parts in zip(*batches)]


# ---- batches


def test_a_batch_by_hand():
    ids, targets, mask = make_batch(np.array([9, 1, 2, 3, 9, 4, 9]), np.array([[0, 5], [4, 7]]), T=5)
    assert ids.tolist() == [[9, 1, 2, 3, 9], [9, 4, 9, 0, 0]]
    assert targets.tolist() == [[1, 2, 3, 9, 0], [4, 9, 0, 0, 0]]
    assert mask.int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]


running = st.tuples(st.integers(2, 150), st.integers(1, 20), st.integers(1, 4), st.integers(0, 2**32 - 1)).filter(
    lambda case: case[0] > case[1]
)


@few
@given(running)
def test_an_epoch_of_running_text_leaves_out_less_than_one_window(tmp_path, case):
    n, T, B, seed = case
    windows = Windows(stored(tmp_path, [range(n)]), T, B, seed)  # each id is its own place
    steps = -(-2 * windows.n // B)
    rows = [row for step in range(steps) for row in rows_of(windows[step])]
    for epoch in range(2):
        read = rows[epoch * windows.n : (epoch + 1) * windows.n]
        assert all(row == list(range(row[0], row[0] + T + 1)) for row in read), "a window crosses the end of the text"
        targets = Counter(place for row in read for place in row[1:])
        first, last = min(targets), max(targets)
        assert len(targets) == last - first + 1, "the targets have a gap"
        assert n - 1 - len(targets) < T, "a window's worth of targets is left out"
        assert max(targets.values()) <= 2 and windows.n * T - len(targets) < T, "too many targets come twice"


def test_every_target_of_a_short_text_is_reached(tmp_path):
    tokens, reached = stored(tmp_path, [range(767)]), set()
    windows = Windows(tokens, 256, 1, seed=0)
    for step in range(2000 * windows.n):
        reached |= {*windows[step][1].flatten().tolist()}
    assert reached == {*range(1, 767)}


def test_every_start_is_equally_likely(tmp_path):
    windows, epochs = Windows(stored(tmp_path, [range(41)]), 8, 4, seed=0), 4000
    starts = np.array([windows.shuffle(epoch) for epoch in range(epochs)])
    assert starts.shape == (epochs, 5) and {*starts.flatten().tolist()} == {*range(33)}
    for place in starts.T:  # the windows of one epoch are not independent; those of different epochs are
        chi_square = ((np.bincount(place) - epochs / 33) ** 2 / (epochs / 33)).sum()
        assert chi_square < 62.5, "of 1,000 fair samples with 32 degrees of freedom one has more"


def test_a_text_of_exactly_one_window(tmp_path):
    windows = Windows(stored(tmp_path, [range(257)]), 256, 2, seed=3)
    assert windows.n == 1 and [list(windows.order(epoch)) for epoch in range(3)] == [[0]] * 3
    for step in range(3):
        assert list(rows_of(windows[step])) == [list(range(257))] * 2


@few
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=30), st.booleans(), st.integers(1, 5), st.integers(0, 2**32 - 1)
)
def test_every_story_is_read_once_an_epoch(tmp_path, lengths, ends, B, seed):
    documents = [[100 * (i + 1) + t for t in range(length)] for i, length in enumerate(lengths)]
    end = [7] if ends else []
    windows = Windows(stored(tmp_path, documents, end, whole_documents=True), 10, B, seed)
    assert windows.n == len(documents)
    steps = -(-3 * windows.n // B)
    rows = [row for step in range(steps) for row in rows_of(windows[step])]
    for epoch in range(3):
        read = sorted(rows[epoch * windows.n : (epoch + 1) * windows.n])
        if ends:
            assert read == sorted([7, *ids, 7] for ids in documents)
        else:  # where a story has fewer than two ids there is nothing to predict
            assert [row for row in read if len(row) > 1] == sorted(ids for ids in documents if len(ids) > 1)
    for step in range(steps):
        assert windows[step][0].shape == (B, max([1] + [len(row) - 1 for row in rows[step * B : (step + 1) * B]]))


def some_tokens(folder, whole, n=40):
    rng = np.random.RandomState(5)
    documents = [rng.randint(8, 1000, size=rng.randint(2, 30)).tolist() for _ in range(n)]
    return stored(folder, documents, [7], whole_documents=whole)


@pytest.mark.parametrize("whole", [True, False])
@settings(parent=few, max_examples=25)
@given(world=st.integers(1, 5), B=st.integers(1, 6), step=st.integers(0, 300), seed=st.integers(0, 2**32 - 1))
def test_ranks_share_the_rows_of_one_big_batch(tmp_path, whole, world, B, step, seed):
    tokens = some_tokens(tmp_path, whole)
    ranks = [Windows(tokens, 30, B, seed, rank, world_size=world) for rank in range(world)]
    assert same(joined(windows[step] for windows in ranks), Windows(tokens, 30, B * world, seed)[step])


@pytest.mark.parametrize("whole", [True, False])
def test_a_batch_depends_on_its_number_alone(tmp_path, whole):
    tokens, steps = some_tokens(tmp_path, whole), [*range(60)]
    windows = Windows(tokens, 30, 3, seed=1)
    first = [windows[step] for step in steps]
    np.random.seed(0), torch.manual_seed(0)
    before = np.random.get_state()[2], torch.get_rng_state()
    for step in np.random.RandomState(0).permutation(steps):
        assert same(windows[int(step)], first[step]), "another order of calls"
        assert same(Windows(tokens, 30, 3, seed=1)[int(step)], first[step]), "resumed there"
    assert before[0] == np.random.get_state()[2] and torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize("whole", [True, False])
def test_seeds_and_epochs_differ(tmp_path, whole):
    tokens = some_tokens(tmp_path, whole, n=60)
    one, two = Windows(tokens, 30, 4, seed=0), Windows(tokens, 30, 4, seed=1)
    per_epoch = one.n // 4
    assert not all(same(one[step], two[step]) for step in range(per_epoch))
    if whole:  # the same stories do not meet again
        met = [[frozenset(map(tuple, rows_of(one[e * 15 + step]))) for step in range(15)] for e in range(2)]
        assert len(set(met[0]) & set(met[1])) < 5
    else:
        assert len({int(one.order(e).min()) for e in range(20)}) > 5, "the cuts do not move"


def test_the_order_is_the_same_for_ever(tmp_path):
    "A run is resumed with a later version, too."
    running, whole = some_tokens(tmp_path, False), some_tokens(tmp_path, True, n=12)
    assert Windows(running, 60, 2, seed=42).order(3).tolist() == GOLDEN[0]
    assert Windows(whole, 60, 2, seed=42).order(3).tolist() == GOLDEN[1]


GOLDEN = [[561, 51, 501, 441, 111, 621, 321, 381, 171, 291, 231], [9, 7, 10, 6, 5, 8, 3, 11, 4, 2, 0, 1]]


def test_batches_of_stories_hold_little_padding_and_mix_lengths():
    split = tales_of(3000)
    tokens = encode_corpus(split, tales.the_tokenizer())
    windows = Windows(tokens, 512, 16, seed=3)
    masks = [windows[step][2] for step in range(3 * 3000 // 16)]
    assert torch.cat([mask.flatten() for mask in masks]).float().mean() > 0.97
    widths = [mask.shape[1] for mask in masks]
    neighbours = np.abs(np.diff(widths)).mean()
    assert neighbours > 10 and len(set(widths)) > 30, "short and long batches should take turns"
    plain = [validation_batches(tokens, 512, 16)[i][2] for i in range(len(tokens.starts) // 16)]
    assert torch.cat([mask.flatten() for mask in plain]).float().mean() < 0.9


def test_later_epochs_are_packed_as_well(tmp_path):
    "Their batches do not begin where the epoch does: 1,001 stories make no whole number of batches."
    tokens = stored(tmp_path, [[9] * length for length in range(1001)], [7], whole_documents=True)
    windows = Windows(tokens, 1001, 16, seed=0)
    for epoch in range(4):
        first = epoch * 1001 // 16
        masks = [windows[step][2].flatten() for step in range(first, first + 63)]
        assert torch.cat(masks).float().mean() > 0.92


def tales_of(n):
    return Seeded(tales.tale, range(n))


@few
@given(st.integers(2, 200), st.integers(1, 30), st.integers(1, 5))
def test_in_order_reads_running_text_once(tmp_path, n, T, B):
    batches = validation_batches(stored(tmp_path, [range(n)]), T, B)
    rows = [row for batch in batches for row in rows_of(batch)]
    assert [id for row in rows for id in row[1:]] == list(range(1, n))
    assert all(len(row) == T + 1 for row in rows[:-1]) and all(len(batch[0]) == B for batch in list(batches)[:-1])
    assert same(batches[-1], list(batches)[-1]) and len(list(batches)) == len(batches), "it can be read again"


@few
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 5))
def test_in_order_reads_each_story_once(tmp_path, lengths, B):
    documents = [[100 * (i + 1) + t for t in range(length)] for i, length in enumerate(lengths)]
    batches = validation_batches(stored(tmp_path, documents, [7], whole_documents=True), 10, B)
    assert [row for batch in batches for row in rows_of(batch)] == [[7, *ids, 7] for ids in documents]


def refused(call, *words):
    with pytest.raises(ValueError) as error:
        call()
    assert all(word in str(error.value) for word in words), error.value


def test_what_cannot_be_is_refused_in_words(tmp_path):
    tokens = stored(tmp_path, [range(10)])
    refused(lambda: Windows(tokens, 10, 1), "10 tokens", "needs 11 (block_size + 1)", "block_size=9")
    assert Windows(tokens, 9, 1)[0][1].tolist() == [list(range(1, 10))]
    refused(lambda: Windows(tokens, 0, 1), "block_size=0", "from 1")
    refused(lambda: Windows(tokens, 4, -2), "batch_size=-2", "from 1")
    refused(lambda: Windows(tokens, 4, 1, seed=1.5), "seed=1.5", "whole number")
    refused(lambda: Windows(tokens, 4, 1, seed="42"), "seed='42'")
    refused(lambda: Windows(tokens, 4, 1, seed=-1), "seed=-1")
    refused(lambda: Windows(tokens, 4, 1, rank=2, world_size=2), "rank=2", "from 0 to 1")
    refused(lambda: Windows(tokens, 4, 1, world_size=0), "world_size=0")
    refused(lambda: Windows(tokens, 4, 1)[-1], "step=-1")
    refused(lambda: validation_batches(tokens, 4, 0), "batch_size=0")
    refused(lambda: validation_batches(stored(tmp_path, [[1]]), 4, 1), "1 tokens", "needs 2")
    stories = stored(tmp_path, [range(5), range(20), range(7)], [7], whole_documents=True)
    for call in Windows, validation_batches:
        words = "document 1 has 21", "block_size=20", "block_size=21", "whole_documents = False"
        refused(lambda: call(stories, 20, 1), *words)
        call(stories, 21, 1)
    stories.whole_documents = False
    assert Windows(stories, 20, 1)[0][2].all()


# ---- token files


class Elsewhere:
    "A tokenizer of which nothing is known; what it says of a text depends on all of it."

    vocab_size = 70_000

    def __init__(self, plus=0):
        self.plus = plus

    def encode(self, text):
        return [self.plus, len(text), *(60_000 + ord(char) % 9_000 for char in text)]

    def save(self, folder):
        (folder if hasattr(folder, "joinpath") else __import__("pathlib").Path(folder)).joinpath("it.json").write_text(
            json.dumps(self.plus)
        )


def tokenizers(tok):
    parts = tok.tokens, tok.merges, tok.special_tokens
    known = [BPETokenizer(*parts, pattern) for pattern in (GPT4_SPLIT, GPT2_SPLIT, None, "[a-z]+|é")]
    return [*known, BPETokenizer(*parts, GPT4_SPLIT, "NFC"), Elsewhere()]


@pytest.mark.parametrize("which", range(6))
@settings(parent=few, max_examples=40)
@given(documents=st.lists(st.lists(TEXT, min_size=1, max_size=4), min_size=1, max_size=5), size=st.integers(1, 40))
def test_files_hold_what_the_tokenizer_says(tmp_path, tok, which, documents, size):
    if not any(map("".join, documents)):
        return
    encoder = tokenizers(tok)[which]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_files, "MEGABYTE", size)  # so that all is cut wherever it can be
        tokens = encode_corpus(split_of(documents), encoder, tmp_path)
    end = [encoder.special_tokens["<|end|>"]] if which < 5 else []
    right = [encoder.encode("".join(document)) for document in documents]
    assert tokens.ids.tolist() == end + [id for ids in right for id in ids + end]
    for start, ids in zip(tokens.starts, right, strict=True):
        assert tokens.ids[start : start + len(ids)].tolist() == ids
    assert tokens.dtype == (np.uint16 if which < 5 else np.uint32) and tokens.vocab_size == encoder.vocab_size


def test_characters_and_texts_in_pieces(tmp_path):
    tok = CharTokenizer.train(STORY)
    tokens = encode_corpus(split_of([[STORY[:50], STORY[50:]], "well"], whole_documents=False), tok)
    assert tok.decode(tokens.ids) == STORY + "well"
    assert tokens.starts.tolist() == [0, len(STORY)] and not tokens.whole_documents
    refused(lambda: encode_corpus(split_of(["ж"]), tok), "'ж'")


def test_only_markers_become_special(tok):
    end, user = (tok.special_tokens[name] for name in ("<|end|>", "<|user|>"))
    text = "<|user|>Is it <|end|> there?<|assistant|>No."
    plain = encode_corpus(split_of([text]), tok).ids.tolist()
    assert plain.count(end) == 2 and user not in plain and tok.decode(plain) == f"<|end|>{text}<|end|>"
    marked = encode_corpus(split_of([text], special_tokens=("<|user|>",)), tok).ids.tolist()
    assert marked.count(end) == 2 and marked.count(user) == 1
    assert marked[1:-1] == tok.encode(text, allowed_special=["<|user|>"])
    bare = BPETokenizer.train(STORY, 300)
    refused(lambda: encode_corpus(split_of([text], special_tokens=("<|user|>",)), bare), "<|user|>", "special tokens")


def test_large_texts_are_encoded_on_all_cores_alike(tok, tmp_path, monkeypatch):
    need("fork" in multiprocessing.get_all_start_methods(), "fork")
    used = []

    class Pool(cores.ProcessPoolExecutor):
        def submit(self, *args):
            used.append(args)
            return super().submit(*args)

    split = split_of([[STORY] * 30, "short", [STORY] * 9])
    alone = encode_corpus(split, tok, tmp_path / "one")
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(cores, "ProcessPoolExecutor", Pool)
    encode_corpus(split, tok, tmp_path / "few")
    assert not used, "a short text is not worth a pool"
    monkeypatch.setattr(token_files, "MEGABYTE", 500)
    shared = encode_corpus(split, tok, tmp_path / "two")
    assert len(used) > 5 and alone.path.read_bytes() == shared.path.read_bytes()
    refused(
        lambda: encode_corpus(split_of([[STORY] * 30, "ж"]), CharTokenizer.train(STORY), tmp_path), "'ж'"
    )  # from a worker


def test_jobs_are_taken_as_they_are_needed(monkeypatch):
    need("fork" in multiprocessing.get_all_start_methods(), "fork")
    monkeypatch.setattr(cores.os, "cpu_count", lambda: 2)
    taken = []
    done = cores.on_all_cores(lambda job: -job, (taken.append(i) or i for i in range(1000)))
    assert [next(done) for _ in range(10)] == [-i for i in range(10)] and len(taken) < 30
    done.close()


BUSY = """
import os, sys, time
from tinygpt.engine import cores
os.cpu_count = lambda: 2
there, here = os.pipe()
def work(job):
    if job == 2: os.write(here, b"!")
    if job >= 2: time.sleep(600)
try:
    done = cores.on_all_cores(work, range(1000))
    next(done), next(done), os.read(there, 1)
    print("busy", flush=True)
    {then}
except (KeyboardInterrupt, ZeroDivisionError):
    print("stopped")
    del done
print("over", flush=True)
"""


@pytest.mark.parametrize(
    "then, number, says",
    [
        ("next(done)", "SIGINT", ["stopped", "over"]),
        ("1 / 0", None, ["busy", "stopped", "over"]),
        ("done.close()", None, ["busy", "over"]),
        ("os._exit(0)", None, ["busy"]),
        ("next(done)", "SIGKILL", []),
    ],
    ids=["Ctrl-C", "error", "closed", "left", "killed"],
)
def test_busy_workers_end_with_the_work_or_with_their_parent(then, number, says):
    need("fork" in multiprocessing.get_all_start_methods(), "fork")
    command = [sys.executable, "-c", BUSY.format(then=then)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        if number:
            assert process.stdout.readline() == "busy\n"
            os.killpg(process.pid, signal.SIGINT) if number == "SIGINT" else process.kill()
        said, errors = process.communicate(timeout=60)  # until no process holds them open
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert said.split() == says and not errors


INTERRUPTED = """
import os, random, signal, sys, threading, time
from tinygpt.engine import cores, interrupts
os.cpu_count = lambda: 3
def interrupt():
    time.sleep(random.random() / 20)
    os.killpg(0, signal.SIGINT)
random.seed(0)
for turn in range(40):
    with interrupts.raise_interrupt():
        try:
            threading.Thread(target=interrupt).start()
            while True: list(cores.on_all_cores(abs, range(5)))
        except KeyboardInterrupt:
            print(turn, flush=True)
"""


def test_ctrl_c_prints_nothing_in_workers_that_are_just_starting():
    need("fork" in multiprocessing.get_all_start_methods(), "fork")
    command = [sys.executable, "-c", INTERRUPTED]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    said, errors = process.communicate(timeout=120)
    # where Python ignores an interrupt, as while it forks, the commands end at once
    ended_well = errors == "tinygpt: stopped\n" if process.returncode == 130 else said.split()[-1] == "39" and not errors
    assert ended_well, (process.returncode, said, errors)


def encode_in_daemon(folder, queue):
    cores.os.cpu_count, token_files.MEGABYTE = lambda: 2, 100
    queue.put(len(encode_corpus(split_of([STORY * 20]), BPETokenizer.train(STORY, 300), folder)))


def test_a_daemon_encodes_alone(tmp_path):
    need("fork" in multiprocessing.get_all_start_methods(), "fork")
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    process = fork.Process(target=encode_in_daemon, args=(tmp_path, queue), daemon=True)
    process.start()
    assert queue.get(timeout=60) > 100
    process.join()


def test_the_name_says_what_is_in_it(tok):
    other = BPETokenizer.train(STORY * 3, 320, SPECIAL)
    different = [
        (split_of(["ab", "c"]), tok),
        (split_of(["a", "bc"]), tok),
        (split_of(["abc"]), tok),
        (split_of(["ab", "c", ""]), tok),
        (split_of(["ab", "c"], special_tokens=("<|end|>",)), tok),
        (split_of(["ab", "c"]), other),
        (split_of(["ab", "c"]), BPETokenizer(tok.tokens, tok.merges, tok.special_tokens, GPT2_SPLIT)),
        (split_of(["ab", "c"]), Elsewhere()),
        (split_of(["ab", "c"]), Elsewhere(plus=1)),
    ]
    assert len({fingerprint(*case) for case in different}) == len(different)
    assert fingerprint(split_of([["a", "", "b"], "c"]), tok) == fingerprint(*different[0])
    copy = tokenizer_files.from_json(BPETokenizer, json.loads(json.dumps(tokenizer_files.to_json(tok))))
    assert fingerprint(split_of(["ab", "c"]), copy) == fingerprint(*different[0])
    assert fingerprint(split_of(["ab", "c"]), Elsewhere()) == fingerprint(*different[-2])


def test_a_text_is_encoded_once(tok, cache, monkeypatch):
    split = split_of([STORY])
    first = encode_corpus(split, tok)
    assert [path.name for path in cache.iterdir()] == [first.path.name]
    monkeypatch.setattr(token_files, "write_tokens", None)
    assert encode_corpus(split, tok).ids.tolist() == first.ids.tolist()


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:20], lambda b: b[:32], lambda b: b"", lambda b: b + b"x", lambda b: b[8:]]
)
def test_a_damaged_file_is_noticed(tok, damage):
    split = split_of([STORY, "well"])
    path = encode_corpus(split, tok).path
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    encode_corpus(split, tok)
    assert path.read_bytes() == whole


def test_a_flipped_bit_is_noticed_wherever_it_is(tok):
    split = split_of(["a well", "a fish"])
    path = encode_corpus(split, tok).path
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert not is_whole(path), place
    assert encode_corpus(split, tok).path.read_bytes() == whole


def test_an_error_leaves_nothing(tok, cache):
    def begin():
        yield [STORY]
        if len(started) > 1:  # the first time through is for the name
            raise RuntimeError("the disk was pulled out")

    started = []
    split = Documents(lambda: started.append(0) or begin(), "some", whole_documents=True)
    with pytest.raises(RuntimeError):
        encode_corpus(split, tok)
    assert not list(cache.iterdir())


KILLED = """
import os, signal, sys
from tinygpt.io import tokens
from tinygpt.io.corpus import Documents
from tinygpt.tokenizer import BPETokenizer
tok, seen = BPETokenizer.train("a well, a fish", 300), []
def begin():
    yield ["a well"] * 10
    if seen: os.fsync(os.open(sys.argv[1], os.O_RDONLY)); os.kill(os.getpid(), signal.SIGKILL)
    seen.append(1)
tokens.MEGABYTE = 5
tokens.encode_corpus(Documents(begin, "some", whole_documents=True), tok, sys.argv[1])
"""


def test_a_process_killed_midway_leaves_nothing_that_looks_whole(tmp_path):
    need(hasattr(signal, "SIGKILL"), "SIGKILL")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
    assert done.returncode == -signal.SIGKILL
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and left[0].name.startswith(".") and not is_whole(left[0])


def encode_at_once(folder, barrier, queue):
    tok = BPETokenizer.train(STORY, 300, ["<|end|>"])
    barrier.wait()
    queue.put(encode_corpus(split_of([STORY * 200]), tok, folder).ids[:].tolist())


def test_two_processes_at_once_end_with_the_same_file(tmp_path):
    need("fork" in multiprocessing.get_all_start_methods(), "fork")
    fork = multiprocessing.get_context("fork")
    barrier, queue = fork.Barrier(3), fork.Queue()
    all_three = [fork.Process(target=encode_at_once, args=(tmp_path, barrier, queue)) for _ in range(3)]
    for process in all_three:
        process.start()
    one, two, three = (queue.get(timeout=60) for _ in range(3))
    for process in all_three:
        process.join()
    assert one == two == three and len(list(tmp_path.iterdir())) == 1
    tok = BPETokenizer.train(STORY, 300, ["<|end|>"])
    assert one[1:-1] == tok.encode(STORY * 200)


def test_transformers_tokenizers_are_taken(tok, tmp_path):
    from transformers import PreTrainedTokenizerFast

    tok.save(tmp_path / "tok")
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path / "tok")
    split = split_of(["a well, a fish", ["they'd ", "counted"]])
    tokens = encode_corpus(split, theirs)
    assert tokens.ids.tolist() == tok.encode("a well, a fish") + tok.encode("they'd counted")
    assert encode_corpus(split, theirs).path == tokens.path


def test_what_is_no_split_is_refused(tok):
    refused(lambda: encode_corpus(corpus("tales"), tok), "Corpus(tales", "train, val or heldout")
    refused(lambda: encode_corpus(["a text"], tok), "not a split")
    refused(lambda: encode_corpus(split_of([]), tok), "no text in Documents(0 documents)")
    refused(lambda: encode_corpus(split_of(["", ""]), tok), "no text")
    refused(lambda: encode_corpus(split_of([b"bytes"]), tok), "expected text")


MEMORY = """
import resource, sys
from tinygpt.data import Windows
from tinygpt.io.corpus import corpus
from tinygpt.io.tokens import encode_corpus
from tinygpt.tokenizer import BPETokenizer

class Quick(BPETokenizer):
    def encode(self, text, **options): return text.encode()

tok = Quick.train("a well, a fish", 300)
def peak(): return max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
before = peak()
tokens = encode_corpus(corpus(sys.argv[1]).train, tok, sys.argv[2])
windows = Windows(tokens, 4096, 64)
for step in range(windows.n // 64): windows[step]
print(len(tokens), peak() - before)
"""


def test_memory_does_not_grow_with_the_text(tmp_path):
    need(importlib.util.find_spec("resource"), "the module resource")
    with (tmp_path / "large.txt").open("w") as file:
        for _ in range(30):
            file.write("a well and a fish. " * 60_000)
    command = [sys.executable, "-c", MEMORY, tmp_path / "large.txt", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    n, grown = map(int, done.stdout.split())
    assert n == 30_780_000 and grown < 50_000_000 / (
        1 if sys.platform == "darwin" else 1024
    )  # the ids alone have 62 MB


# ---- corpora


def test_tales_never_meet_between_splits():
    text = corpus("tales")
    sizes = {name: len(getattr(text, name)) for name in ("train", "val", "heldout")}
    assert sizes == {name: len(seeds) for name, seeds in corpora.TALES.items()}
    assert str(sizes["train"]) in repr(text).replace(",", "")
    train, val, heldout = set(text.train), set(text.val), set(text.heldout)
    assert not (train & val or val & heldout or train & heldout) and len(train) == sizes["train"]
    assert text.train.special_tokens == () and text.train.whole_documents
    assert list(text.val) == list(text.val) and next(iter(text)) == tales.tale(0)
    unseen = next(iter(text.val))
    assert text.logprob(unseen) == tales.logprob(unseen) > -np.inf and text.spans(unseen) == spans(unseen)
    assert len(heldout) == sizes["heldout"]
    for strange in list(text.heldout)[:60]:
        assert text.logprob(strange) == -np.inf < text.logprob(strange, heldout=True), "it could have been in train"


def test_tales_cost_nothing_until_they_are_read(monkeypatch):
    told = []
    monkeypatch.setattr(tales, "tale", lambda seed, heldout=False: told.append(seed) or f"a tale {heldout}")
    text = corpus("tales")
    assert not told
    next(iter(text)), next(iter(text.val)), next(iter(text.heldout))
    assert told == [0, 10**9, 0, 0]


def test_chats_carry_their_markers():
    text, tok = corpus("chats"), tales.the_tokenizer()
    assert [len(text.train), len(text.val)] == [*map(len, corpora.CHATS.values())]
    assert text.heldout is None and text.train.whole_documents
    assert not set(text.train) & set(text.val)
    first = next(iter(text))
    assert text.logprob(first) == tales.logprob(first)
    tokens = encode_corpus(text.val, tok)
    begin, stop = tokens.spans(np.array([0]))[0]
    assert tokens.ids[begin:stop].tolist()[1:-1] == tok.encode(next(iter(text.val)), allowed_special="all")
    assert (tokens.ids[:] == tok.special_tokens["<|assistant|>"]).sum() >= len(text.val)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "my.txt"
    path.write_bytes(("ab" * 44 + "é" + "c" * 10).encode())  # 100 bytes; the 90th is in the middle of the é
    path.write_bytes(("ab" * 44 + "x" + "é" + "c" * 9).encode())
    text = corpus(str(path))
    assert "".join(text.train) == "ab" * 44 + "xé" and "".join(text.val) == "c" * 9
    assert "90 bytes" in repr(text) and "10 bytes" in repr(text) and text.name == "my.txt"
    assert not text.train.whole_documents and text.heldout is None and text.train.special_tokens == ()
    assert text.logprob("ab") is None and text.spans("ab") == []


def test_a_folder_and_a_gz(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.txt").write_text("A" * 50)
    (tmp_path / "inner" / "b.txt").write_text("B" * 50)
    with gzip.open(tmp_path / "z.txt.gz", "wt") as file:
        file.write("C" * 100)
    text = corpus(tmp_path)
    assert [list(map("".join, split.begin())) for split in (text.train, text.val)] == [
        ["A" * 50, "B" * 50, "C" * 80],
        ["C" * 20],
    ]
    tokens = encode_corpus(text.train, CharTokenizer("ABC"))
    assert tokens.starts.tolist() == [0, 50, 100] and len(tokens) == 180
    assert "".join(corpus(tmp_path / "z.txt.gz").train) == "C" * 90


def test_a_long_file_comes_in_pieces(tmp_path):
    (tmp_path / "long.txt").write_text("A long text. " * 400_000)
    pieces = list(corpus(tmp_path / "long.txt").train)
    assert len(pieces) > 3 and max(map(len, pieces)) < 2_000_000
    assert "".join(pieces) == ("A long text. " * 400_000)[:4_680_000]


def test_shakespeare_is_split_as_nanogpt_does(reference, monkeypatch):
    monkeypatch.setattr(downloads, "shakespeare", lambda: reference / "tinyshakespeare.txt")
    text, whole = corpus("shakespeare"), (reference / "tinyshakespeare.txt").read_text(encoding="utf-8")
    tok = CharTokenizer.train(whole)
    assert len(encode_corpus(text.train, tok)) == 1_003_854 and len(encode_corpus(text.val, tok)) == 111_540
    assert tok.decode(encode_corpus(text.val, tok).ids) == whole[int(len(whole) * 0.9) :]


def test_tinystories_are_told_apart(tmp_path, monkeypatch):
    mark, stories = "<|endoftext|>", [f"Story {i} was short." for i in range(300)]
    (tmp_path / "train").write_text(f"\n{mark}\n".join(stories) + f"\n{mark}\n")
    (tmp_path / "val").write_text("One.\n" + mark + "\nTwo.")
    monkeypatch.setattr(downloads, "tinystories", lambda: {name: tmp_path / name for name in ("train", "val")})
    monkeypatch.setattr(read_text, "__defaults__", (0, None, 17))
    text = corpus("tinystories")
    assert list(text) == stories == list(text) and list(text.val) == ["One.", "Two."] and text.train.whole_documents
    assert len(encode_corpus(text.train, CharTokenizer.train("".join(stories))).starts) == 300


@given(st.lists(st.text("ab\n", max_size=5)), st.integers(1, 20))
def test_stories_are_told_apart_wherever_the_pieces_end(stories, size):
    text = "<|endoftext|>".join(stories)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert list(split_stories(pieces)) == [story.strip() for story in stories if story.strip()]


def test_unusable_texts_say_what_is_needed(tmp_path, tok):
    refused(lambda: corpus("Once upon a time.\n" * 400), "there is no corpus, file or folder 'Once upon a time.")
    refused(lambda: corpus("tails"), "'tails'", "tales, chats, drills, shakespeare, tinystories", "file or folder")
    (tmp_path / "empty.txt").write_text("")
    for short in "", "a", "é", "aaé", "\ufeff", "\ufeffa", "\ufeffé", "😀":
        (tmp_path / "short.txt").write_text(short, encoding="utf-8")
        n = len(short.encode())
        refused(lambda: corpus(tmp_path / "short.txt"), "short.txt", f"{n} bytes", "too few", "some pages")
    for enough in "ab", "\ufeffab\n\n\n\n", "  ", "é😀é😀é😀ab":
        (tmp_path / "short.txt").write_text(enough, encoding="utf-8")
        text = corpus(tmp_path / "short.txt")
        assert "".join([*text.train, *text.val]) == enough.strip("\ufeff") and any(text.train) and any(text.val)
    (tmp_path / "few.txt").write_text("a few words only, and no more")
    few_tokens = encode_corpus(corpus(tmp_path / "few.txt").train, tok)
    refused(lambda: Windows(few_tokens, 64, 8), f"{len(few_tokens)} tokens", "needs 65")


def test_decomposed_letters_keep_together(tmp_path):
    "A cut through a letter and its accent would change the ids under a normalizer."
    tok = BPETokenizer.train(STORY, 320, ["<|end|>"])
    composed = BPETokenizer(tok.tokens, tok.merges, tok.special_tokens, GPT4_SPLIT, "NFC")
    text = unicodedata.normalize("NFD", "é à ô ") * 50
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_files, "MEGABYTE", 3)
        assert encode_corpus(split_of([list(text)]), composed).ids.tolist()[1:-1] == composed.encode(text)


def test_no_draft_is_left(tok, cache):
    encode_corpus(split_of([STORY]), tok)
    assert not [path for path in cache.iterdir() if path.name.startswith(".")] and os.listdir(cache)
