"""Training: equal to a loop by hand, resumed to the bit, and nothing lost whatever goes wrong."""

import csv
import json
import math
import os
import random
import signal
import time
from dataclasses import replace
from itertools import count

import pytest
import torch

from tinygpt import training
from tinygpt.data import Windows, validation_batches
from tinygpt.engine import clock
from tinygpt.gpt import GPT, GPTConfig
from tinygpt.gpu import forward_backward
from tinygpt.io import weights
from tinygpt.io.checkpoints import load
from tinygpt.io.corpus import corpus
from tinygpt.io.log import Record, read_records
from tinygpt.io.tokens import encode_corpus
from tinygpt.sample import generate
from tinygpt.show import progress, steps
from tinygpt.show.training import training_plot
from tinygpt.tokenizer import CharTokenizer
from tinygpt.training import RECIPE, Diverged, Run, TrainConfig, train, training_steps, validate
from tinygpt.world.judging import sample_tales, valid_fraction
from tinygpt.world.skills import CHANCE

TEXT = "".join(f"{a} and {b} made {a + b}. " for a in range(30) for b in range(12))


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "sums.txt"
    path.write_text(TEXT)
    return corpus(path), CharTokenizer.train(TEXT)


def new(tok, **changes):
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "dropout": 0.1}
    return GPT(GPTConfig.modern(tok.vocab_size, **sizes | changes))


CONFIG = TrainConfig(steps=12, batch_size=2, eval_every=5, save_every=3)


def run(lesson, config=CONFIG, model=None, **how):
    text, tok = lesson
    model = new(tok) if model is None else model
    return model, train(model, tok, text, config, **{"progress": False} | how)


def same(a, b):
    return all(p.equal(q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def losses(records):
    return [(record.step, record.loss, record.val_loss) for record in records]


def stop_at(step, how=RuntimeError):
    def consume(record):
        if record.step == step:
            raise how("stopped")

    return consume


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_it_is_the_loop_one_would_write_by_hand(lesson, schedule):
    text, tok = lesson
    settings = {"optimizer": "adamw", "lr": 0.003, "weight_decay": 0.1, "clip": 0.5, "warmup": 4}
    got, records = run(lesson, replace(CONFIG, schedule=schedule, **settings), new(tok, dropout=0.0))
    model = new(tok, dropout=0.0)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, 0.003, betas=(0.9, 0.98))
    windows = Windows(encode_corpus(text.train, tok), 32, 2)
    val = validation_batches(encode_corpus(text.val, tok), 32, 2)
    for step, record in enumerate(records):
        loss = model.loss(*windows[step])
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        for p in model.parameters():
            p.grad *= min(1, 0.5 / norm)
        later = {"linear": (12 - step) / 6, "cosine": (1 + math.cos(math.pi * max(0, step - 3) / 9)) / 2, "constant": 1}
        lr_scale = min((step + 1) / 4, 1, later[schedule])
        for group in adamw.param_groups:
            group["lr"] = 0.003 * lr_scale
        adamw.step()
        adamw.zero_grad()
        assert record.step == step + 1 and record.steps == 12
        assert record.loss == pytest.approx(loss.item(), rel=1e-4)
        assert record.grad_norm == pytest.approx(norm.item(), rel=1e-3)
        assert record.lr_scale == pytest.approx(lr_scale)
    for p, q in zip(got.parameters(), model.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)
    assert [record.step for record in records if record.val_loss is not None] == [5, 10, 12]
    model.eval()
    nats = [(model.loss(*batch).item() * batch[2].sum().item(), batch[2].sum().item()) for batch in list(val)]
    assert validate(got, val, most=len(val)) == pytest.approx(
        sum(n for n, _ in nats) / sum(t for _, t in nats), rel=1e-3
    )


def test_the_model_learns_and_is_left_ready_to_write(lesson):
    model, records = run(lesson, replace(CONFIG, steps=60, eval_every=60))
    assert records[0].loss == pytest.approx(math.log(lesson[1].vocab_size), abs=0.1)
    assert records[-1].val_loss < records[0].loss - 1 and not model.training
    assert records[-1].tokens == 60 * 2 * 32


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("last", [1, 3, 7, 11])
def test_a_run_that_was_stopped_goes_on_to_the_bit(lesson, tmp_path, optimizer, last):
    config = replace(CONFIG, optimizer=optimizer)
    whole, records = run(lesson, config)
    with pytest.raises(RuntimeError, match="stopped"):
        run(lesson, config, out=tmp_path, consumers=[stop_at(last)])
    model = new(lesson[1])
    torch.nn.init.zeros_(model.embed.weight)  # what it was does not matter
    if last < 3:  # before the first checkpoint: nothing to resume from, so the run starts again
        model = new(lesson[1])
    made = []
    again, history = run(lesson, config, model, out=tmp_path, resume=True, consumers=[made.append])
    assert losses(history) == losses(records) and same(whole, again)
    assert losses(made) == losses(records[last // 3 * 3 :])  # the steps after the newest checkpoint
    assert read_records(tmp_path) == history
    assert same(load(tmp_path)[0], whole)


def test_a_finished_run_that_is_resumed_returns_its_history(lesson, tmp_path):
    model, records = run(lesson, out=tmp_path)
    made = []
    again, history = run(lesson, out=tmp_path, resume=True, consumers=[made.append])
    assert history == records and not made and same(model, again)


def test_the_best_is_kept_beside_the_last(lesson, tmp_path, monkeypatch):
    measured = iter([2.0, 1.0, 3.0])
    monkeypatch.setattr(training, "validate", lambda *_: next(measured))
    kept = []
    model, _ = run(
        lesson, out=tmp_path, consumers=[lambda r: kept.append(r.step == 10 and load(tmp_path, variant="best")[0])]
    )
    best = next(filter(None, kept))
    assert same(load(tmp_path, variant="best")[0], best) and not same(best, model)
    assert same(load(tmp_path)[0], model)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(lesson, tmp_path):
    whole, records = run(lesson)
    with pytest.raises(RuntimeError):
        run(lesson, out=tmp_path, consumers=[stop_at(11)])
    newest = max((tmp_path / "state").glob("*.safetensors"))
    raw = bytearray(newest.read_bytes())
    raw[-5] ^= 4
    newest.write_bytes(raw)
    made = []
    with pytest.warns(UserWarning, match="00000009.*checksum.*resumes from the checkpoint before it"):
        again, history = run(lesson, out=tmp_path, resume=True, consumers=[made.append])
    assert losses(made) == losses(records[6:]) and losses(history) == losses(records) and same(whole, again)
    for path in (tmp_path / "state").glob("*.json"):
        path.write_text("{")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no checkpoint.*can be read"):
        run(lesson, out=tmp_path, resume=True)


def test_ctrl_c_saves_and_says_how_to_go_on(lesson, tmp_path, capsys):
    whole, records = run(lesson)

    def press(record):
        if record.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    _, first = run(lesson, out=tmp_path, consumers=[press])
    assert first[-1].step == 5
    said = capsys.readouterr().out
    assert "stopped after step 5 of 12" in said and str(tmp_path) in said and "resume=True" in said
    made = []
    again, history = run(lesson, out=tmp_path, resume=True, consumers=[made.append])
    assert losses(first + made) == losses(history) == losses(records) and same(whole, again)


def test_a_loss_that_is_no_number_ends_it_and_the_last_good_state_is_kept(lesson, tmp_path):
    text, tok = lesson
    model = new(tok)

    def poison(record):
        if record.step == 7:
            poison.good = {name: p.clone() for name, p in model.state_dict().items()}
            model.hidden = lambda *_, **__: GPT.hidden(model, *_, **__) * math.nan

    with pytest.raises(Diverged, match="in step 8 the loss is nan"):
        run(lesson, model=model, out=tmp_path, consumers=[poison])
    kept, _ = load(tmp_path)
    assert all(kept.state_dict()[name].equal(p) for name, p in poison.good.items())
    assert read_records(tmp_path)[-1].step == 7


def test_two_runs_cannot_write_into_one_folder(lesson, tmp_path):
    said = []

    def second(record):
        if record.step == 4:
            with pytest.raises(ValueError) as error:
                run(lesson, out=tmp_path, resume=True)
            said.append(str(error.value))

    run(lesson, out=tmp_path, consumers=[second])
    assert "another run is writing" in said[0] and str(tmp_path) in said[0]
    with pytest.raises(ValueError, match="already has a run.*resume=True"):
        run(lesson, out=tmp_path)
    with pytest.raises(ValueError, match="started with batch_size=2"):
        run(lesson, replace(CONFIG, batch_size=3), out=tmp_path, resume=True)


def test_a_full_disk_is_said_and_nothing_is_lost(lesson, tmp_path, monkeypatch):
    whole, records = run(lesson)
    real = os.fsync

    def full(number):
        large = os.fstat(number).st_size > 10_000  # weights, or a checkpoint
        if large and sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors")) > 200_000:
            raise OSError(28, "No space left on device")
        real(number)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="cannot be written in .*No space left on device.*free some space"):
        run(lesson, out=tmp_path)
    monkeypatch.setattr(os, "fsync", real)
    made = []
    again, history = run(lesson, out=tmp_path, resume=True, consumers=[made.append])
    assert made[0].step > 1 and losses(made) == losses(records[made[0].step - 1 :])
    assert losses(history) == losses(records) and same(whole, again)


def test_a_folder_that_cannot_be_made_is_named(lesson, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run(lesson, out=tmp_path / "file" / "run")


def slow_steps(monkeypatch, seconds):
    "A clock on which step number `step`, counted from 0, takes seconds(step); returns the time, in a list."
    time = [0.0]
    monkeypatch.setattr(clock, "perf_counter", lambda: time[0])
    numbers = count()

    def slow(*args):
        time[0] += seconds(next(numbers))
        return forward_backward(*args)

    monkeypatch.setattr("tinygpt.training.forward_backward", slow)
    return time


def test_minutes_end_on_time_at_any_speed(lesson, monkeypatch):
    time = slow_steps(monkeypatch, lambda step: 0.5 if step < 30 else 1.0)  # then the machine has other things to do
    _, records = run(lesson, replace(CONFIG, steps=None, minutes=1, warmup=3))
    assert time[0] == pytest.approx(60, abs=1.5) and len(records) == pytest.approx(75, abs=2)
    assert records[-1].lr_scale < 0.1 and max(record.lr_scale for record in records) == 1
    assert abs(records[0].steps - 120) <= 2


def test_a_slow_first_step_does_not_count_in_the_plan_once_there_are_others(lesson, monkeypatch):
    time = slow_steps(monkeypatch, lambda step: 0.5 if step else 10.0)
    _, records = run(lesson, replace(CONFIG, steps=None, minutes=0.5, warmup=3))
    assert [record.steps for record in records[:3]] == [3, 41, 41]  # 10 s, and then 20 s of half a second each
    assert time[0] == pytest.approx(30, abs=0.5) and len(records) == 41


def test_a_resumed_run_by_minutes_ends_on_time_as_well(lesson, tmp_path, monkeypatch):
    time = slow_steps(monkeypatch, lambda step: 0.5)
    config = replace(CONFIG, steps=None, minutes=0.25, warmup=3)
    with pytest.raises(RuntimeError):
        run(lesson, config, out=tmp_path, consumers=[stop_at(12)])
    time[0] = 1000.0
    _, records = run(lesson, config, out=tmp_path, resume=True)
    assert [record.step for record in records] == list(range(1, 31)) and records[-1].seconds == 15
    assert time[0] == 1000 + 18 * 0.5


def test_a_run_by_minutes_ends_with_an_evaluation_however_long_its_steps_take(lesson, monkeypatch):
    chance = random.Random(0)
    time = slow_steps(monkeypatch, lambda step: chance.uniform(0.5, 1.5))
    monkeypatch.setattr(training, "validate", lambda *_: 1.0)
    for minutes in [0.1 + 0.005 * i for i in range(6)]:
        _, records = run(lesson, replace(CONFIG, steps=None, minutes=minutes, eval_every=1000))
        assert records[-1].val_loss == 1.0 and records[-1].step == records[-1].steps
        assert time[0] > 0 and [record.step for record in records] == list(range(1, len(records) + 1))


def test_tokens_per_second_count_the_step_alone(lesson, monkeypatch):
    text, tok = lesson
    time = slow_steps(monkeypatch, lambda step: 0.5)

    def evaluate(is_last):
        time[0] += 100.0
        return {"val_loss": 1.0}

    windows = Windows(encode_corpus(text.train, tok), 32, 2)
    records = list(training_steps(Run(new(tok), windows, replace(CONFIG, steps=3, eval_every=2)), evaluate))
    assert [record.tokens_per_second for record in records] == [2 * 32 / 0.5] * 3
    assert [record.seconds for record in records] == [0.5, 101.0, 201.5]


def masked_out(batch):
    "The same batch, in which nothing counts."
    ids, targets, mask = batch
    return ids, targets, torch.zeros_like(mask)


def test_a_batch_in_which_nothing_counts_leaves_the_validation_loss_as_it_is(lesson):
    text, tok = lesson
    model, val = new(tok).eval(), list(validation_batches(encode_corpus(text.val, tok), 32, 2))
    assert model.loss(*masked_out(val[0])).item() == 0
    assert validate(model, [*val, masked_out(val[0])], most=100) == pytest.approx(validate(model, val, most=100))
    assert math.isfinite(validate(model, [masked_out(val[0])]))
    model.loss(*masked_out(val[0])).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_epochs_are_as_many_steps_as_the_text_has(lesson):
    text, tok = lesson
    n = Windows(encode_corpus(text.train, tok), 32, 2).n
    _, records = run(lesson, replace(CONFIG, steps=None, epochs=0.5, eval_every=1000))
    assert len(records) == round(n * 0.5 / 2) == records[-1].steps


REFUSED = [
    ({"steps": None}, "exactly one of steps, epochs and minutes must be given, not none"),
    ({"minutes": 2}, "steps=12 and minutes=2"),
    ({"steps": 0}, "steps=0"),
    ({"batch_size": 1.5}, "batch_size=1.5"),
    ({"clip": 0}, "clip=0"),
    ({"steps": None, "minutes": "2"}, "minutes=.2. should be a number, above 0"),
    ({"embedding_lr": -1}, "embedding_lr=-1 should be a number, 0 or more"),
    ({"warmup": -1}, "warmup=-1"),
    ({"schedule": "step"}, "schedule='step' should be 'linear', 'cosine' or 'constant'"),
    ({"dtype": "fp16"}, "dtype='fp16' should be 'float32', 'tf32', 'bfloat16' or 'float16'"),
    ({"optimizer": "sgd"}, "'sgd'.*'muon'.*'adamw'"),
    ({"lr": -1.0}, "lr=-1.0"),
]


@pytest.mark.parametrize("changes, words", REFUSED, ids=str)
def test_impossible_settings_are_refused_in_a_sentence(lesson, changes, words):
    with pytest.raises(ValueError, match=words):
        run(lesson, replace(CONFIG, **changes))


def test_sixteen_bits_learn_nearly_the_same(lesson):
    _, full = run(lesson)
    _, half = run(lesson, replace(CONFIG, dtype="bfloat16"))
    assert half[-1].loss == pytest.approx(full[-1].loss, abs=0.1) and half[-1].loss != full[-1].loss


def test_elsewhere_than_in_a_terminal_progress_is_lines(lesson, capsys):
    run(lesson, progress=True)
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["step 5 of 12", "step 10 of 12", "step 12 of 12"]
    assert all(", loss " in line and ", val loss " in line for line in lines)
    assert "\r" not in said.out + said.err and "\x1b" not in said.out + said.err


def test_a_notebook_shows_how_far_a_run_by_minutes_is(monkeypatch):
    import IPython.display

    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append(data["text/plain"])

    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: Handle())
    counter = steps.StepCounter(4, 30)  # resumed after step 4
    for step, planned, now in (5, 40, 0.6), (6, 50, 0.8), (7, 44, 1.3), (43, 43, 1.4):
        monkeypatch.setattr(steps, "perf_counter", lambda: counter.start + now)
        counter.update(step, planned, ", loss 1.00")
    assert shown == ["step 5 of 40, loss 1.00", "step 7 of 44, loss 1.00", "43 steps in 1 s"]
    runs = steps.StepCounter(0, 2, "run")
    monkeypatch.setattr(steps, "perf_counter", lambda: runs.start + 3)
    runs.update(2, 2)
    assert shown[-1] == "2 runs in 3 s"
    assert list(steps.progress(3)) == [0, 1, 2]


def test_skills_are_measured_where_the_corpus_has_them(tmp_path):
    from tinygpt.tales import the_tokenizer

    tok = the_tokenizer()
    model = new(tok, block_size=256)
    records = train(model, tok, corpus("tales"), replace(CONFIG, steps=2, eval_every=2), tmp_path, progress=False)
    assert set(records[-1].skills) == {"name", "pronoun", "color", "count", "copy", "quote"}
    with open(tmp_path / "log.csv", newline="") as file:
        assert json.loads(list(csv.DictReader(file))[-1]["skills"]) == records[-1].skills


def test_tales_are_learned_with_a_tokenizer_that_has_no_end_as_well():
    tales = corpus("tales")
    tok = CharTokenizer.train([*tales.train, *tales.val, *tales.heldout])
    model = new(tok, n_layer=1, block_size=900)
    records = train(model, tok, tales, replace(CONFIG, steps=1), progress=False)
    assert len(records[-1].skills) == 6 and records[-1].valid_fraction is None


def test_a_checkpoint_is_what_resuming_needs_and_two_stay(lesson, tmp_path):
    model, _ = run(lesson, out=tmp_path)
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert names == [f"{step:08d}.{end}" for step in (9, 12) for end in ("json", "safetensors")]
    shapes = weights.list_weights(tmp_path / "state", "00000012.safetensors")
    assert {name for name in shapes if name.startswith("model.")} == {f"model.{n}" for n in model.state_dict()}
    assert isinstance(Record(1, 1, 1.0, 1.0, 1.0, 1, 1.0, 1.0).val_loss, type(None))


def tiny_teller():
    from tinygpt.tales import the_tokenizer

    torch.manual_seed(0)
    model = GPT(GPTConfig.modern(2048, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, block_size=40, tied=False))
    torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    return model, the_tokenizer()


def test_sampled_tales_are_drawn_by_the_probabilities_that_the_model_gives():
    model, tok = tiny_teller()
    end, rng = tok.special_tokens["<|end|>"], torch.Generator().manual_seed(5)
    model.lm_head.weight.data[end] *= 2  # so that some end early
    ids = torch.full((6, 1), end)
    for _ in range(40):  # all of it read anew for each token
        with torch.no_grad():
            sums = model.eval()(ids)[:, -1].double().softmax(-1).cumsum(-1)
        u = torch.rand(6, 1, generator=rng, dtype=torch.double) * sums[:, -1:]
        ids = torch.cat([ids, torch.searchsorted(sums, u, right=True)], 1)
    rows = [row[1:] + [end] for row in ids.tolist()]
    wanted = [tok.decode(row[: row.index(end)]) for row in rows]
    model.train()
    assert sample_tales(model, tok, n=6, seed=5) == wanted and model.training
    assert len({len(tok.encode(tale)) for tale in wanted}) > 1
    assert sample_tales(model, tok, n=6, seed=6) != wanted


def test_valid_fraction_is_that_of_tales_which_the_grammar_can_write():
    from tinygpt.tales import tale

    right = [tale(seed) for seed in range(6)]
    assert valid_fraction(right) == 1 and valid_fraction([*right, "No.", right[0] + " No."]) == 6 / 8


def records_of(n, skills=True):
    tested = {"val_loss": 1.5, "skills": dict.fromkeys(CHANCE, 0.75), "valid_fraction": 0.25}
    return [
        Record(i, n, 4 / i, 1.0, 1.0, i, i, 1.0, **(tested if skills and i % 10 == 0 else {})) for i in range(1, n + 1)
    ]


def test_the_plot_shows_the_run_the_floor_the_band_and_the_skills():
    band = {"step": [1, 40], "low": [1.0, 0.5], "high": [3.0, 0.7]}
    fig = training_plot({"one": records_of(40)}, 0.4, {"counting": 2.5}, band)
    loss, skills = fig.axes
    smoothed = [sum(4 / j for j in range(max(1, i - 19), i + 1)) / min(i, 20) for i in range(1, 41)]
    assert loss.lines[0].get_ydata() == pytest.approx(smoothed)
    assert list(loss.lines[1].get_xdata()) == [10, 20, 30, 40] and set(loss.lines[1].get_ydata()) == {1.5}
    said = {text.get_text() for ax in fig.axes for text in ax.texts}
    assert {"counting", "the floor: 0.400", "75%", "25%"} <= said
    assert any(set(line.get_ydata()) == {0.4} for line in loss.lines) and len(loss.collections) == 1
    assert [label.get_text() for label in skills.get_yticklabels()] == [*CHANCE, "valid tales"]
    alphas = [bar.get_facecolor()[3] for bar in skills.patches[::4]]
    known = [(0.75 - chance) / (1 - chance) for chance in CHANCE.values()] + [0.25]
    assert alphas == pytest.approx([0.06 + 0.94 * fraction for fraction in known])
    assert [(bar.get_x(), bar.get_width()) for bar in skills.patches[:4]] == [(0, 10), (10, 10), (20, 10), (30, 10)]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["eight recorded runs", "one", "validation"]
    assert loss.get_ylabel() == "loss (nats per token)"
    assert len(training_plot({"a": records_of(20), "b": records_of(30)}).axes) == 1
    assert len(training_plot({"a": records_of(20, skills=False)}, 0.4).axes) == 1


def test_the_live_plot_draws_anew_and_once_more_at_the_end(monkeypatch):
    import IPython.display

    drawn = []

    class Handle:
        def update(self, data, **how):
            drawn.append(data["text/plain"])

    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: Handle())
    live = progress.LivePlot(records_of(40)[:10], every=0.0, floor=0.4)
    for record in records_of(40)[10:13]:
        live(record)
    live.every = math.inf
    for record in records_of(40)[13:]:
        live(record)
    assert drawn == [f"Loss and skills after {step} of 40 steps." for step in (11, 12, 13, 40)]
    assert len(live.records) == 40


def test_the_band_is_for_the_recipe_alone():
    tales, small = corpus("tales"), GPTConfig.named("tiny")

    def band(text=tales, shape=small, **changes):
        return progress.recorded_band(GPT(shape), replace(RECIPE, **changes), text)

    assert band(seed=3, save_every=7, eval_every=9) is not None and len(band()["low"]) == RECIPE.steps
    assert (band()["low"] < band()["high"]).all()
    for other in {"lr": 0.01}, {"steps": 400}, {"shape": replace(small, n_layer=2)}, {"text": corpus("chats")}:
        assert band(**other) is None


def test_samples_are_shown_where_it_was_examined_and_change_nothing(lesson, capsys):
    text, tok = lesson
    model = new(tok)
    shown = []
    tell = progress.show_samples(model, tok, "1 and ", n=15)
    keep = lambda record: shown.append(generate(model, tok, "1 and ", 15, seed=record.step))
    _, records = run(lesson, model=model, consumers=[tell, keep])
    said = capsys.readouterr().out.splitlines()
    assert said == [f"step {step}: {shown[step - 1]}" for step in (5, 10, 12)]
    assert all(line.startswith("1 and ") and len(line) == 21 for line in shown) and len(set(shown)) > 6
    assert losses(records) == losses(run(lesson)[1])


def test_control_characters_are_not_printed():
    assert progress.printable("a\x1b[2J\tb\nc\x9b\x00") == "a\ufffd[2J\tb\nc\ufffd\ufffd"


def test_a_log_is_read_as_it_was_written(lesson, tmp_path):
    _, records = run(lesson, out=tmp_path)
    assert read_records(tmp_path) == records


def test_tensorboard_gets_every_number(lesson, tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, records = run(lesson, consumers=[progress.to_tensorboard(tmp_path)])
    read = event_accumulator.EventAccumulator(str(tmp_path))
    read.Reload()
    assert [e.step for e in read.Scalars("loss")] == [r.step for r in records]
    assert [e.value for e in read.Scalars("loss")] == pytest.approx([r.loss for r in records])
    assert [e.step for e in read.Scalars("val_loss")] == [5, 10, 12]


def test_weights_and_biases_keeps_it_on_this_machine_when_offline(lesson, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    _, records = run(lesson, consumers=[progress.to_wandb(project="test", mode="offline", dir=str(tmp_path))])
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    end = time.monotonic() + 60  # its process writes when it comes to it
    wanted = [b"tokens_per_second", b"val_loss", *(repr(record.loss).encode() for record in records)]
    while not all(part in file.read_bytes() for part in wanted) and time.monotonic() < end:
        time.sleep(0.1)
    assert all(part in file.read_bytes() for part in wanted)
