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

from tinygpt import corpus, encode_corpus, evaluate, load, skill_accuracy, the_tokenizer, validation_batches
from tinygpt.gpt import GPTConfig
from tinygpt.io.log import read_records
from tinygpt.io.runs import read_settings
from tinygpt.io.tokenizer_files import to_json
from tinygpt.io.weights import list_weights
from tinygpt.presets import ASSETS, TRAINED
from tinygpt.sample import sample_tales
from tinygpt.show.training import smooth
from tinygpt.training import RECIPE, TrainConfig
from tinygpt.world.judging import floor_of, valid_fraction
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
    assert 0 < loss - floor_of(tales, tok) < 0.15
    skills = skill_accuracy(model, tok, tales)
    assert set(skills) == set(CHANCE) and min(skills.values()) > 0.9
    told = sample_tales(model, tok, n=100, seed=1)
    assert 0.1 < valid_fraction(told) < 0.8 and len(set(told) - set(tales.train)) > 90


def test_transformers_reads_it():
    theirs = transformers.AutoModelForCausalLM.from_pretrained(TRAINED, dtype="float32")
    (ours, tok), text = load(TRAINED), next(iter(corpus("tales").val))
    ids = tok.encode(text)
    with torch.no_grad():
        a, b = ours(torch.tensor([ids])), theirs(torch.tensor([ids])).logits
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert transformers.AutoTokenizer.from_pretrained(TRAINED)(text)["input_ids"] == ids


def test_the_records_are_of_the_recipe_and_the_band_is_theirs(logs):
    assert list(logs) == [*(f"seed {seed}" for seed in range(8)), "unprimed"]
    assert read_settings(TRAINED / "train.yaml") == vars(RECIPE)
    for rows in logs.values():
        assert [int(row["step"]) for row in rows] == list(range(1, RECIPE.steps + 1))
        tested = [int(row["step"]) for row in rows if row["val_loss"]]
        assert tested == list(range(RECIPE.eval_every, RECIPE.steps + 1, RECIPE.eval_every))
    curves = np.array([smooth([float(row["loss"]) for row in logs[f"seed {i}"]]) for i in range(8)])
    table = np.loadtxt(TRAINED / "band.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(table[:, 1], curves.min(0), atol=1e-3)
    np.testing.assert_allclose(table[:, 2], curves.max(0), atol=1e-3)
    log = read_records(TRAINED)
    np.testing.assert_allclose([r.loss for r in log], [float(row["loss"]) for row in logs["seed 0"]], atol=1e-4)
    valid = [float(row["valid_fraction"]) for row in logs["seed 0"] if row["valid_fraction"]]
    np.testing.assert_allclose([r.valid_fraction for r in log if r.val_loss is not None], valid, atol=1e-4)


def test_every_seed_comes_close_to_the_floor_and_the_head_start_is_worth_it(logs):
    floor = floor_of(corpus("tales"), the_tokenizer())
    last = {name: rows[-1] for name, rows in logs.items()}
    gaps = {name: float(row["val_loss"]) - floor for name, row in last.items()}
    unprimed = gaps.pop("unprimed")
    assert max(gaps.values()) < 0.15 and unprimed > max(gaps.values()) + 0.1


def test_the_card_says_what_is_there():
    card = (TRAINED / "README.md").read_text()
    parameters = sum(np.prod(shape) for shape in list_weights(TRAINED).values())
    assert f"{parameters:,} parameters" in card and f"{RECIPE.steps:,} steps of {RECIPE.batch_size} tales" in card
    assert re.search(r"torch 2\.\d+.*, 20\d\d-\d\d-\d\d\.", card) and "python -m tests.recipe" in card
    rows = {
        what: [float(number) for number in numbers]
        for what, *numbers in re.findall(r"^\| ([\w ]+?) \| ([\d.]+)%? \| ([\d.]+)%? \|$", card, re.M)
    }
    gaps, tales = rows.pop("gap to the floor"), rows.pop("valid tales")
    assert max(gaps) < 0.15 and min(tales) > 0
    assert set(rows) == set(CHANCE) and min(map(min, rows.values())) >= 90  # seed 0, the worst of eight


def test_tiny_is_the_recipe():
    settings = yaml.safe_load((ASSETS / "configs" / "tiny.yaml").read_text())
    assert TrainConfig(**settings["train"]) == RECIPE and settings["prime"] and settings["text"] == "tales"
    assert GPTConfig.named(settings["model"].pop("preset"), **settings["model"]) == GPTConfig.named("tiny")
