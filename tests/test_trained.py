"""The model that comes with the package, its card, and the records of the recipe that made it."""

import csv
import re

import numpy as np
import pytest
import safetensors
import torch
import transformers
import yaml
from conftest import ROOT
from recipe import RUNS

from tinygpt import corpus, encode_corpus, evaluate, load, skill_accuracy, the_tokenizer, validation_batches
from tinygpt.gpt import GPTConfig
from tinygpt.io.log import read_records
from tinygpt.io.runs import read_settings
from tinygpt.io.tokenizer_files import to_json
from tinygpt.io.weights import list_weights
from tinygpt.presets import ASSETS, TRAINED
from tinygpt.show.training import smooth
from tinygpt.training import RECIPE, TrainConfig
from tinygpt.world.judging import floor_of, sample_tales, valid_fraction
from tinygpt.world.skills import CHANCE


@pytest.fixture(scope="module")
def logs():
    "The losses and tests of each recorded run, by its name."
    found = {}
    with open(ROOT / "data" / "tales-runs.csv", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["run"], []).append(row)
    return found


def test_it_is_small_and_good_at_tales():
    assert sum(path.stat().st_size for path in TRAINED.iterdir()) < 3e6
    with safetensors.safe_open(TRAINED / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}
    (model, tok), tales = load(TRAINED), corpus("tales")
    assert model.config == GPTConfig.named("tiny") and to_json(tok) == to_json(the_tokenizer())
    loss = evaluate(model, validation_batches(encode_corpus(tales.val, tok), 256, 50))
    assert 0 < loss - floor_of(tales, tok) < 0.0625
    skills = skill_accuracy(model, tok, tales)
    assert set(skills) == set(CHANCE) and min(skills.values()) >= 0.95
    told = sample_tales(model, tok, n=100, seed=1)
    assert 0.1 < valid_fraction(told) < 0.9 and len(set(told) - set(tales.train)) > 90


def test_transformers_reads_it():
    theirs = transformers.AutoModelForCausalLM.from_pretrained(TRAINED, dtype="float32")
    (ours, tok), text = load(TRAINED), next(iter(corpus("tales").val))
    ids = tok.encode(text)
    with torch.no_grad():
        a, b = ours(torch.tensor([ids])), theirs(torch.tensor([ids])).logits
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert transformers.AutoTokenizer.from_pretrained(TRAINED)(text)["input_ids"] == ids


def test_the_records_are_of_the_recipe_and_the_band_is_theirs(logs):
    assert list(logs) == list(RUNS)
    assert TrainConfig(**read_settings(TRAINED / "train.yaml")) == RECIPE
    evaluated = list(range(RECIPE.eval_every, RECIPE.steps + 1, RECIPE.eval_every))
    for name, rows in logs.items():
        steps = list(range(1, RECIPE.steps + 1)) if name.startswith("seed") else evaluated
        assert [int(row["step"]) for row in rows] == steps
        assert [int(row["step"]) for row in rows if row["val_loss"]] == evaluated
    curves = np.array([smooth([float(row["loss"]) for row in logs[f"seed {i}"]]) for i in range(8)])
    table = np.loadtxt(TRAINED / "band.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(table[:, 1], curves.min(0), atol=1e-3)
    np.testing.assert_allclose(table[:, 2], curves.max(0), atol=1e-3)
    log = read_records(TRAINED)
    np.testing.assert_allclose([r.loss for r in log], [float(row["loss"]) for row in logs["seed 0"]], atol=1e-4)
    valid = [float(row["valid_fraction"]) for row in logs["seed 0"] if row["valid_fraction"]]
    np.testing.assert_allclose([r.valid_fraction for r in log if r.val_loss is not None], valid, atol=1e-4)


def test_the_worst_of_eight_seeds_meets_the_bar_and_no_control_run_does(logs):
    tales, tok = corpus("tales"), the_tokenizer()
    floor, per_tale = floor_of(tales, tok), (len(encode_corpus(tales.val, tok)) - 1) / len(tales.val)
    for name, rows in logs.items():
        above = per_tale * (float(rows[-1]["val_loss"]) - floor)
        worst = min(float(rows[-1][skill]) for skill in CHANCE)
        assert (above <= 10 and worst >= 0.95) == name.startswith("seed"), (name, above, worst)


def test_the_card_says_what_was_recorded(logs):
    card = (TRAINED / "README.md").read_text()
    parameters = sum(np.prod(shape) for shape in list_weights(TRAINED).values())
    assert f"{parameters:,} parameters" in card and f"{RECIPE.steps:,} steps of {RECIPE.batch_size} tales" in card
    assert re.search(r"torch 2\.\d+.*, 20\d\d-\d\d-\d\d\.", card) and "python -m tests.recipe" in card
    rows = {
        what: [float(number) for number in numbers]
        for what, *numbers in re.findall(r"^\| ([\w ,]+?) \| ([\d.]+)%? \| ([\d.]+)%? \|$", card, re.M)
    }
    last = [rows_of_seed[-1] for name, rows_of_seed in logs.items() if name.startswith("seed")]
    floor = floor_of(corpus("tales"), the_tokenizer())
    gaps = [float(row["val_loss"]) - floor for row in last]
    assert rows.pop("gap to the floor, nats per token") == pytest.approx([gaps[0], max(gaps)], abs=0.006)
    assert max(rows.pop("gap to the floor, nats per tale")) <= 10
    columns = {skill: skill for skill in CHANCE} | {"valid tales": "valid_fraction"}
    assert set(rows) == set(columns)
    for what, column in columns.items():
        values = [100 * float(row[column]) for row in last]
        assert rows[what] == pytest.approx([values[0], min(values)], abs=0.1)


def test_tiny_is_the_recipe():
    settings = yaml.safe_load((ASSETS / "configs" / "tiny.yaml").read_text())
    assert TrainConfig(**settings["train"]) == RECIPE and settings["text"] == "tales"
    assert GPTConfig.named(settings["model"].pop("preset"), **settings["model"]) == GPTConfig.named("tiny")
