"""The folder of a run: overwriting it, resuming with another text and damaged files give errors or warnings."""

import json
import os
import shutil
import subprocess
import sys
import warnings
import zlib
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
import torch

from tinygpt.gpt import GPT, GPTConfig
from tinygpt.io import runs, tokenizer_files
from tinygpt.io.atomic import atomic_write, remove_drafts
from tinygpt.io.checkpoints import load, load_tokenizer, save
from tinygpt.io.corpus import corpus
from tinygpt.io.log import read_records
from tinygpt.io.runs import RunLock, newest_note, read_log, read_note
from tinygpt.tokenizer import BPETokenizer, CharTokenizer
from tinygpt.training import TrainConfig, train

TEXT = "".join(f"{a} and {b} made {a + b}. " for a in range(30) for b in range(12))
CONFIG = TrainConfig(steps=6, batch_size=2, eval_every=3, save_every=2)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "sums.txt").write_text(TEXT)
    return tmp_path


def new(tok, **changes):
    torch.manual_seed(0)
    return GPT(GPTConfig.modern(tok.vocab_size, **{"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 32} | changes))


def run(place, config=CONFIG, folder="run", **how):
    tok = how.pop("tok", CharTokenizer.train(TEXT))
    model, text = how.pop("model", None) or new(tok), how.pop("text", None) or corpus(place / "sums.txt")
    return model, train(model, tok, text, config, out=place / folder, **{"progress": False} | how)


@contextmanager
def refused(*words):
    with warnings.catch_warnings(), pytest.raises(ValueError) as error:
        warnings.simplefilter("error")
        yield
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value), error.value


@contextmanager
def noticed(word):
    """A ValueError or a warning."""
    with warnings.catch_warnings(), pytest.raises((ValueError, UserWarning), match=word):
        warnings.simplefilter("error")
        yield


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stopped(place, step=5, **how):
    def consume(record):
        if record.step == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(place, consumers=[consume], **how)
    return place / "run"


# Nothing is replaced


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_does_not_replace_what_is_no_run(place, resume):
    tok = CharTokenizer.train(TEXT)
    save(place / "run", new(tok, n_layer=2), tok)
    before = content(place / "run")
    with refused("run", "config.json", "another folder"):
        run(place, resume=resume)
    assert content(place / "run").items() >= before.items()


def test_a_file_is_no_folder_for_a_run_and_the_folder_comes_first(place):
    with refused("sums.txt is a file", "name a folder"):
        run(place, folder="sums.txt")
    assert (place / "sums.txt").read_text() == TEXT
    tok = CharTokenizer.train(TEXT)
    with pytest.raises(TypeError, match="the folder comes first"):
        save(new(tok), tok, "saved")


def test_a_run_whose_checkpoints_are_gone_does_not_begin_again(place):
    run(place)
    shutil.rmtree(place / "run" / "state")
    before = content(place / "run")
    for resume in False, True:
        with refused("log", "state", "gone"):
            run(place, resume=resume)
    assert content(place / "run") == before


def test_a_run_can_be_resumed_from_its_first_instant(place):
    whole, records = run(place, folder="whole")
    stopped(place, step=1)
    tok = CharTokenizer.train(TEXT)
    other = new(tok)
    torch.nn.init.zeros_(other.embed.weight)  # what it was does not matter
    again, history = run(place, model=other, resume=True)
    assert [r.loss for r in history] == [r.loss for r in records]
    assert all(p.equal(q) for p, q in zip(whole.parameters(), again.parameters(), strict=True))


def test_a_finished_run_without_its_model_gets_it_back(place):
    run(place)
    there = (place / "run" / "model.safetensors").read_bytes()
    for damage in (place / "run" / "model.safetensors").unlink, lambda: None:
        damage()
        run(place, resume=True)
        assert (place / "run" / "model.safetensors").read_bytes() == there


# The same model, tokenizer and text


def test_another_text_is_noticed_and_both_are_named(place):
    folder = stopped(place)
    kept = newest_note(folder)
    before = content(folder)
    tok = CharTokenizer.train(TEXT.upper() + TEXT)
    with refused("another tokenizer", kept["tokenizer"][:12]):
        run(place, resume=True, tok=tok, model=new(tok))
    for changed, name in (TEXT[:-3] + "9. ", "validation text"), ("7" + TEXT[1:], "text"):
        (place / "sums.txt").write_text(changed)
        with refused(f"another {name}", "SHA-256", kept[name][:12]):
            run(place, resume=True)
        assert content(folder) == before
    (place / "sums.txt").write_text(TEXT)
    assert len(run(place, resume=True)[1]) == 6


@pytest.mark.parametrize("changes", [{"n_head": 4}, {"rope_base": 5000.0}, {"norm_eps": 1e-5}, {"dropout": 0.1}])
def test_another_model_is_noticed_and_both_are_named(place, changes):
    folder = stopped(place)
    before, (name, value) = content(folder), *changes.items()
    with refused(f"{name}={getattr(GPTConfig.modern(50), name)}" if name != "n_head" else "n_head=2", f"not {value}"):
        run(place, resume=True, model=new(CharTokenizer.train(TEXT), **changes))
    assert content(folder) == before


def test_the_lock_is_held_from_outside(place):
    with RunLock(place / "run") as lock:
        assert os.fspath(lock) == str(lock) == str(place / "run")
        with refused("another run is writing"):
            run(place)
        tok = CharTokenizer.train(TEXT)
        train(new(tok), tok, corpus(place / "sums.txt"), CONFIG, out=lock, progress=False)
        with refused("another run is writing"), RunLock(place / "run"):
            pass
    assert len(run(place, resume=True)[1]) == 6


# Notes and logs


def test_a_note_is_read_only_as_it_was_written(place):
    run(place)
    path = place / "run" / "state" / "00000006.json"
    note = read_note(path)
    assert note["step"] == 6 and note["model"]["n_embd"] == 16
    for name, value in note.items():
        for changed in None, 2, "x", [], {}:
            if changed != value:
                path.write_text(json.dumps(json.loads(path.read_text()) | {name: changed}))
                with refused("00000006.json", "checksum"):
                    read_note(path)
                path.write_text(json.dumps(note | {"crc32": runs.checksum(note)}))
    for text in "null", "{}", "[]", "", "7", '{"crc32": "00000000"}':
        path.write_text(text)
        with refused("00000006.json"):
            read_note(path)


def test_a_note_under_the_name_of_another_step_is_passed_over(place):
    folder = stopped(place)
    shutil.copy(folder / "state" / "00000002.json", folder / "state" / "00000004.json")
    with pytest.warns(UserWarning, match="it is of step 2"):
        assert len(run(place, resume=True)[1]) == 6


def test_tensors_of_another_step_are_passed_over(place):
    whole, _ = run(place, folder="whole")
    folder = stopped(place)
    shutil.copy(folder / "state" / "00000002.safetensors", folder / "state" / "00000004.safetensors")
    with pytest.warns(UserWarning, match="not the file that was written at step 4"):
        again, _ = run(place, resume=True)
    assert all(p.equal(q) for p, q in zip(whole.parameters(), again.parameters(), strict=True))


def test_rows_that_the_log_lacks_are_named(place):
    _, records = run(place, folder="whole")
    folder = stopped(place)
    lines = (folder / "log.csv").read_bytes().splitlines(keepends=True)
    (folder / "log.csv").write_bytes(b"".join(lines[:2] + lines[4:]))
    with pytest.warns(UserWarning, match="log.csv lacks 2 of its first 4 steps, from step 2 on"):
        history = run(place, resume=True)[1]
    assert [(r.step, r.loss) for r in history] == [(r.step, r.loss) for r in records if r.step not in (2, 3)]
    (folder / "log.csv").unlink()
    with pytest.warns(UserWarning, match="log.csv lacks 6 of its first 6 steps, from step 1 on"):
        assert run(place, resume=True)[1] == []


def test_any_changed_row_of_the_log_is_noticed(place):
    def read_records_or_none(folder):
        with suppress(ValueError):
            return read_records(folder)

    _, records = run(place)
    path = place / "run" / "log.csv"
    good = path.read_bytes()
    places = [i for i, byte in enumerate(good) if chr(byte).isdigit()]
    for i in places[::7]:
        path.write_bytes(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :])
        if read_records_or_none(place / "run") != records:  # the last digit of a float may not matter
            for read in (lambda: read_log(place / "run")), (lambda: run(place, resume=True)):
                with noticed("log.csv"):
                    read()
    path.write_bytes(good)
    assert read_log(place / "run") == read_records(place / "run") == run(place, resume=True)[1]


@pytest.mark.parametrize(
    "old, new, words",
    [
        (b"step,", b"stop,", "its first line should be step,steps"),
        (b"\r\n2,", b"\r\n2,3,", "line 3 has more than 11 cells"),
        (b"\r\n2,", b"\r\nx,", "step is 'x' in line 3"),
        (b"\r\n2,", b"\r\ntrue,", "step is 'true' in line 3"),
        (b"\r\n2,", b"\r\n" + b"9" * 200_000 + b",", "field larger than field limit"),
        (b"\r\n2,", b"\r\n" + b"[" * 100_000 + b",", "step is '[[["),
        (b",,,\r\n", b',,"{""name"": ""x""}",\r\n', "skills is"),
        (b",,,\r\n", b",,[1],\r\n", "skills is '[1]' in line 2"),
        (b",,,\r\n", b"\xff,,,\r\n", "utf-8"),
    ],
)
def test_a_damaged_log_is_one_sentence(place, old, new, words):
    run(place)
    path = place / "run" / "log.csv"
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with refused("log.csv is damaged", words):
        read_records(place / "run")


def test_the_log_is_on_disk_before_the_note(place, monkeypatch):
    done, real = [], os.fsync

    def fsync(number):
        done.append(os.path.basename(os.readlink(f"/proc/self/fd/{number}")))
        real(number)

    monkeypatch.setattr(os, "fsync", fsync)
    run(place)
    last = [name for name in done if "log.csv" in name or "00000006" in name or "model.safe" in name]
    assert [name.split(".")[1] for name in last[-4:]] == ["csv", "00000006", "model", "00000006"], last


# Leftovers


def test_what_killed_writers_left_is_removed(place):
    folder = stopped(place)
    script = (
        "import os, sys; from pathlib import Path; from tinygpt.io.atomic import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as draft: draft.write_bytes(bytes(1000)); os._exit(1)"
    )
    for name in "log.csv", "model.safetensors", "state/00000006.json":
        subprocess.run([sys.executable, "-c", script, folder / name])
    (folder / "state" / "00000005.safetensors").write_bytes(b"of no note")
    mine = folder / ".notes.draft"
    mine.write_text("of the user")
    assert len([*folder.rglob(".*.draft")]) == 3  # the second of two in one folder has removed the first
    run(place, resume=True)
    assert [*folder.rglob(".*.draft")] == [mine]
    assert sorted(path.name for path in (folder / "state").iterdir()) == [
        f"{step:08d}.{kind}" for step in (4, 6) for kind in ("json", "safetensors")
    ]


def test_the_draft_of_a_living_writer_stays(tmp_path):
    with atomic_write(tmp_path / "file") as draft:
        draft.write_text("whole")
        remove_drafts(tmp_path)
        assert draft.exists()
    assert (tmp_path / "file").read_text() == "whole" and not [*tmp_path.glob(".*")]


def test_the_model_is_written_before_the_note(place, monkeypatch):
    class Stop(Exception):
        pass

    def stop(path, note):
        if note["step"] == 6:
            raise Stop
        path.write_text(json.dumps(note))

    monkeypatch.setattr(runs, "write_json", stop)
    with pytest.raises(Stop):
        run(place)
    monkeypatch.undo()
    there = (place / "run" / "model.safetensors").read_bytes()
    run(place, resume=True)
    assert (place / "run" / "model.safetensors").read_bytes() == there
    assert zlib.crc32(there) and load(place / "run")


def test_an_unfinished_start_can_be_started_again(place, monkeypatch):
    def fail(*_):
        raise RuntimeError

    for broken in "Log", "save_checkpoint":
        with monkeypatch.context() as context, pytest.raises(RuntimeError):
            context.setattr(runs, broken, fail)
            run(place)
    assert len(run(place, replace(CONFIG, steps=4))[1]) == 4


@pytest.mark.parametrize("variant", [None, "best"])
@pytest.mark.parametrize("name", ["rope_theta", "rms_norm_eps", "num_attention_heads", "attention_dropout"])
def test_a_changed_config_is_noticed(place, variant, name):
    run(place)
    path = place / "run" / "config.json"
    spec = json.loads(path.read_text())
    wrong = {"rope_theta": 10001.0, "rms_norm_eps": 1e-7, "num_attention_heads": 1, "attention_dropout": 0.5}[name]
    extra = {"rope_parameters": spec["rope_parameters"] | {"rope_theta": wrong}} if name == "rope_theta" else {}
    extra |= {"num_key_value_heads": 1, "head_dim": 16} if name == "num_attention_heads" else {}
    path.write_text(json.dumps(spec | {name: wrong} | extra))
    with refused("config.json", "damaged, or was changed"):
        load(place / "run", variant=variant)
    path.write_text(json.dumps(spec | {"transformers_version": "5.0"}))
    assert load(place / "run", variant=variant)[0].config == new(CharTokenizer.train(TEXT)).config


@pytest.mark.parametrize("tok", [CharTokenizer.train(TEXT), BPETokenizer.train(TEXT, 300, ["<|end|>"])], ids=type)
def test_a_changed_tokenizer_is_noticed(tmp_path, tok):
    tok.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    good = path.read_text()
    spec = json.loads(good)
    vocab = list(spec["model"]["vocab"])
    spec["model"]["vocab"] |= {vocab[10]: 11, vocab[11]: 10}
    path.write_text(json.dumps(spec))
    for read in type(tok).load, load_tokenizer:
        with refused("tokenizer.json is damaged, or was changed", "tokenizer_config.json"):
            read(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"backend": "tokenizers"}))  # saved by another program
    assert load_tokenizer(tmp_path).encode("1 2") != tok.encode("1 2") or vocab[10] not in "1 2"
    tok.save(tmp_path)
    assert path.read_text() == good and load_tokenizer(tmp_path).tokens == tok.tokens


def test_a_tokenizer_that_replaces_another_is_whole_at_any_instant(tmp_path, monkeypatch):
    first, second = CharTokenizer.train("abc"), CharTokenizer.train("xyz")
    first.save(tmp_path)
    written, real = [], tokenizer_files.write_json

    def stop(path, content):
        if written:
            raise RuntimeError
        written.append(real(path, content))

    monkeypatch.setattr(tokenizer_files, "write_json", stop)
    with pytest.raises(RuntimeError):
        second.save(tmp_path)
    assert load_tokenizer(tmp_path).tokens == second.tokens


def test_old_checkpoints_that_a_killed_run_did_not_remove_are_removed(place, monkeypatch):
    with monkeypatch.context() as context, pytest.raises(RuntimeError):
        context.setattr(runs, "remove_old_checkpoints", fail_at_six)
        run(place)
    assert len([*(place / "run" / "state").glob("*.json")]) == 4
    run(place, resume=True)
    assert sorted(path.name for path in (place / "run" / "state").glob("*.json")) == ["00000004.json", "00000006.json"]


def fail_at_six(state):
    if (state / "00000006.json").exists():
        raise RuntimeError


def test_a_tokenizer_that_is_gone_is_noticed(place):
    run(place)
    (place / "run" / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match="tokenizer.json is gone.*tokenizer=False"):
        load(place / "run")
    assert load(place / "run", tokenizer=False)[1] is None


def test_writing_again_removes_the_draft_of_a_killed_writer(tmp_path):
    script = (
        "import os, sys; from tinygpt.io import atomic; from tinygpt.tokenizer import CharTokenizer\n"
        "atomic.os.replace = lambda *_: os._exit(1); CharTokenizer('abc').save(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path])
    assert len([*tmp_path.glob(".*.draft")]) == 1
    CharTokenizer("abc").save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
