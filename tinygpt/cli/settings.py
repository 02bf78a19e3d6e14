"""The settings of a run: defaults, then a YAML file, then what is typed; they are kept in the run's folder."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from tinygpt import GPTConfig, TrainConfig, presets
from tinygpt.cli.options import UsageError, add_arguments, explain, suggest
from tinygpt.gpt import SHAPES
from tinygpt.io.corpus import CORPORA

COMMAND_FILE = "command.yaml"  # in the folder of a run: the settings that it was started with
LENGTHS = ("steps", "epochs", "minutes")  # a run has one of them

@dataclass
class TextConfig:
    "What the model reads; TEXT itself is named without an option."

    text: str = "tales"
    tokenizer: str = "auto"  # course, char, bpe (trained on the text), a folder; auto: course or, for own texts, bpe
    vocab_size: int = 1024  # tokens in the vocabulary of bpe
    prime: bool = False  # whether attention starts with weights set by hand

def add_settings(parser: ArgumentParser):
    "Add an option for each setting of a run."
    add_arguments(parser.add_argument_group("text", TextConfig.__doc__), TextConfig)
    model = parser.add_argument_group("model", GPTConfig.__doc__)
    add_arguments(model, GPTConfig, "model.")  # without vocab_size, which the tokenizer decides
    known = ", ".join([*SHAPES, *presets.SIZES])
    model.add_argument("--model.preset", type=str, metavar="STR",
                       help=f"where settings that are not given come from: {known} (default: modern)")
    add_arguments(parser.add_argument_group("train", TrainConfig.__doc__), TrainConfig, "train.")

def config_file(name: str) -> Path:
    "The settings file that comes with the package under this name, or your own file."
    known = {path.stem: path for path in sorted((presets.ASSETS / "configs").glob("*.yaml"))}
    path = known.get(name) or Path(name).expanduser()
    if not path.exists():
        names = ", ".join(known) + suggest(name, known)
        raise UsageError(f"there is no file {name}; the settings of the package are {names}")
    return path

def read_settings(path: Path) -> dict:
    "The settings in a YAML file, with a table for model and for train; raises UsageError."
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--text", type=str)
    add_settings(parser)
    try:
        settings = parser.parse_string(path.read_text(encoding="utf-8"), defaults=False).as_dict()
    except (ArgumentError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = explain(str(error), [action.dest for action in parser._actions])
        if "Unexpected config" in reason or not isinstance(error, ArgumentError | ValueError):
            reason = "there are no settings in it, such as text: tales"
        raise UsageError(f"{path}: {reason}") from None
    for section in "model", "train":
        if not isinstance(settings.get(section, {}), dict):
            raise UsageError(f"{path}: {section} is {settings[section]!r:.60}, not a table of settings")
    return settings

def model_config(preset: str = "modern", **changes) -> GPTConfig:
    "The shape of a preset, with changes."
    return GPTConfig(**presets.preset(preset, SHAPES) | changes)

def resolve(*layers: dict) -> dict:
    "All settings: the defaults, changed by each layer in turn; raises UsageError where they are impossible."
    run, model, train = asdict(TextConfig()), {"preset": "modern"}, {}
    for layer in layers:
        run |= layer
        model |= layer.get("model", {})
        changes = layer.get("train", {})
        if any(changes.get(length) is not None for length in LENGTHS):  # it replaces the length of the layer before
            train |= dict.fromkeys(LENGTHS)
        train |= changes
    if run["text"] not in CORPORA:
        run["text"] = os.path.abspath(os.path.expanduser(run["text"]))
    try:
        shape, plan = asdict(model_config(**model, vocab_size=run["vocab_size"])), asdict(TrainConfig(**train))
    except ValueError as error:
        raise UsageError(str(error)) from None
    del shape["vocab_size"]
    return run | {"model": {"preset": model["preset"]} | shape, "train": plan}

def settings_of_run(folder: Path) -> dict:
    "All settings that the run in a folder was started with."
    if not (folder / COMMAND_FILE).is_file():
        raise ValueError(f"{folder} has no {COMMAND_FILE}: it is not the folder of a run of tinygpt train")
    return resolve(read_settings(folder / COMMAND_FILE))
