"""Command-line arguments, from signatures; settings of a run, from defaults, a YAML file and the command line."""

import difflib
import inspect
import os
import re
import zlib
from argparse import Action, HelpFormatter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from tinygpt import GPTConfig, TrainConfig, gpu, presets
from tinygpt.gpt import SHAPES
from tinygpt.io.atomic import atomic_write
from tinygpt.io.corpus import CORPORA
from tinygpt.io.reading import parse_yaml, read_bytes

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word"}
Device = Literal["auto", "cpu", "cuda", "mps"]
COMMAND_FILE = "command.yaml"  # in the folder of a run: the settings that it was started with
LENGTHS = ("steps", "epochs", "minutes")  # a run has one of them

class UsageError(ValueError):
    "A mistake in a command line or in a settings file; the exit code is 2."

def new_parser(path: str, about: str) -> ArgumentParser:
    "A parser without arguments, which raises ArgumentError instead of exiting."
    return ArgumentParser(path, description=about, exit_on_error=False, allow_abbrev=False, print_config=None,
                          formatter_class=partial(HelpFormatter, max_help_position=30))

def comments_of(source: Callable) -> dict[str, str]:
    "The comment behind each parameter of a function, or each field of a dataclass."
    return dict(re.findall(r"^ {4}(\w+):.*?  # (.*)$", inspect.getsource(source), re.MULTILINE))

def add_arguments(parser: ArgumentParser, source: Callable, prefix: str = "", shown: Mapping | None = None):
    """Add an argument for each parameter of a command, or an option for each field of a dataclass, if it has a comment.

    A comment that begins with -t: gives the option a short name. None is a default, and no value for a parameter.
    The help shows the defaults of the signature, or those in `shown`.
    """
    hints, parameters, is_config = get_type_hints(source), inspect.signature(source).parameters, inspect.isclass(source)
    for name, comment in comments_of(source).items():
        p, hint = parameters[name], hints[name]
        kind = (*get_args(hint), hint)[0]  # str, also for str | None and list[str]
        option, required = is_config or p.kind == p.KEYWORD_ONLY, p.default is p.empty
        short, comment = re.fullmatch("(?:(-[a-zA-Z]): )?(.*)", comment).groups()
        if get_origin(hint) is Literal:
            how = {"choices": get_args(hint)}
        elif hint is bool and not is_config:
            how = {"action": "store_true"}
        else:
            how = {"type": hint if is_config else kind, "metavar": (kind.__name__ if option else name).upper()}
        if option:
            how["required"] = required
            how |= {"action": "append"} if get_origin(hint) is list else {}
        elif get_origin(hint) is list:
            how["nargs"] = "+" if required else "*"
        elif not required:
            how |= {"nargs": "?", "default": p.default}
        default = (shown or {}).get(name, p.default)
        if default not in (p.empty, None, ()) and "action" not in how:
            comment = f"{p.default} {comment}" if comment.startswith("or ") else comment
            comment += f" (default: {default})"
        long = f"--{prefix}{name.rstrip('_')}" if is_config else f"--{name.replace('_', '-')}"  # a field as in YAML
        names = [short, long] if short else [long]
        parser.add_argument(*(names if option else [name]), help=comment, **how)

def spell(words: list[str], options: Iterable[str]) -> list[str]:
    "The words, with the names of options as the parser spells them: - and _ are the same there."
    known = {option.replace("_", "-"): option for option in options}
    n = words.index("--") if "--" in words else len(words)
    parts = [word.partition("=") for word in words[:n]]
    return [known.get(name.replace("_", "-"), name) + sign + value for name, sign, value in parts] + words[n:]

def options_first(words: list[str], options: Mapping[str, Action]) -> list[str]:
    "The words with options, and their values, before the rest: argparse wants arguments without a name side by side."
    words, first, rest = list(words), [], []
    while words and words[0] != "--":
        word = words.pop(0)
        option = options.get(word.partition("=")[0])
        if not option:
            rest.append(word)
        elif "=" in word or option.nargs == 0:
            first.append(word)
        elif words:
            first += [word, words.pop(0)]
        else:  # its value is missing, which argparse says
            rest.append(word)
    return first + rest + words

def parse(parser: ArgumentParser, words: list[str]) -> dict:
    "The given arguments, by name; raises UsageError."
    options = parser._option_string_actions
    try:
        return parser.parse_args(options_first(spell(words, options), options), defaults=False).as_dict()
    except ArgumentError as error:
        raise UsageError(explain(str(error), options)) from None

def suggest(word: str, names: Iterable[str]) -> str:
    "A question with the most similar name; empty if none is similar."
    ends = {name: name.split(".")[-1].lstrip("-") for name in names}  # steps for --train.steps
    near = difflib.get_close_matches(word.split(".")[-1].lstrip("-"), ends.values(), 1)
    best = difflib.get_close_matches(word, [name for name in ends if ends[name] in near], 1, cutoff=0)
    best = best or difflib.get_close_matches(word, ends, 1)
    return f"; did you mean {best[0]}?" if best else ""

def explain(message: str, names: Iterable[str]) -> str:
    "A message of jsonargparse as one plain sentence."
    if wrong := re.search(r'Parser key "(.+?)".*(?:Given value|Got value): (.*)', message, re.DOTALL):
        kind = re.search(r"<class '(\w+)'>", message)
        return f"{wrong[1]}={wrong[2]!r:.60} should be {KINDS[kind[1]] if kind else 'something else'}"
    if wrong := re.search(r"arguments are required: (.*)", message):
        missing = [f"--{name}" if f"--{name}" in names else name.upper() for name in wrong[1].split(", ")]
        return f"{' and '.join(missing)} must be given"
    if wrong := re.search(r"unrecognized arguments: ([^-].*)", message):
        return f"{wrong[1]} is one word too many: put quotes around a name with spaces"
    if wrong := re.search(r"(?:unrecognized arguments: |ption ')([^\s=']+)", message):
        meant = "" if os.path.exists(wrong[1]) else suggest(wrong[1], names)
        return f"unknown option {wrong[1]}{meant or f'; a name that begins with - is written ./{wrong[1]}'}"
    if wrong := re.search(r"argument (?:-\w/)?(-\S+): expected (?:one|at least one) argument", message):
        return f"{wrong[1]} needs a value after it; one that begins with - is written {wrong[1]}=-..."
    if wrong := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
        return message + suggest(wrong[1], re.findall(r"'(.*?)'", wrong[2]))
    return message

def pick_device(name: str) -> tuple[torch.device, str]:
    "The device of this name, and why it was chosen; auto is a GPU if there is one."
    try:
        return gpu.pick_device(name)
    except ValueError:
        raise ValueError(f"PyTorch finds no GPU here: leave out --device {name}") from None

@dataclass
class TextConfig:
    "What the model reads; TEXT itself is named without an option."
    text: str = "tales"
    tokenizer: str = "auto"  # course, char, bpe (trained on the text), a folder; auto: course or, for own texts, bpe
    vocab_size: int = 1024  # tokens in the vocabulary of bpe
    from_: str | None = None  # the model to continue from, with its tokenizer: a run, a folder, or a name on the hub

def add_settings(parser: ArgumentParser, shown: Mapping | None = None):
    "Add an option for each setting of a run; the help shows the defaults of the classes, or those in `shown`."
    shown = shown or {"model": {}, "train": {}}
    add_arguments(parser.add_argument_group("text", TextConfig.__doc__), TextConfig)
    model = parser.add_argument_group("model", GPTConfig.__doc__)
    add_arguments(model, GPTConfig, "model.", shown["model"])  # without vocab_size, which the tokenizer decides
    known = ", ".join([*SHAPES, *presets.SIZES])
    model.add_argument("--model.preset", type=str, metavar="STR",
                       help=f"where settings that are not given come from: {known} "
                            f"(default: {shown['model'].get('preset', 'modern')})")
    add_arguments(parser.add_argument_group("train", TrainConfig.__doc__), TrainConfig, "train.", shown["train"])

def config_file(name: str) -> Path:
    "The settings file that comes with the package under this name, or your own file."
    known = {path.stem: path for path in sorted((presets.ASSETS / "configs").glob("*.yaml"))}
    path = known.get(name) or Path(name).expanduser()
    if not path.exists():
        names = ", ".join(known) + suggest(name, known)
        raise UsageError(f"there is no file {name}; the package has the settings {names}")
    return path

def read_settings(path: Path) -> dict:
    "The settings in a YAML file, with a table for model and for train; raises UsageError."
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--text", type=str)
    add_settings(parser)
    raw = read_bytes(path)
    try:
        settings = parser.parse_object(parse_yaml(raw), defaults=False).as_dict()
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

def text_setting(text: str) -> str:
    "The name of a corpus as it is; the whole path of a file."
    return text if text in CORPORA or not text else os.path.abspath(os.path.expanduser(text))

def resolve(*layers: dict) -> dict:
    "All settings: the defaults, changed by each layer in turn; raises UsageError where they are impossible."
    run = {name.rstrip("_"): value for name, value in asdict(TextConfig()).items()}
    model, train = {"preset": "modern"}, {}
    for layer in layers:
        run |= layer
        model |= layer.get("model", {})
        changes = layer.get("train", {})
        if any(changes.get(length) is not None for length in LENGTHS):  # it replaces the length in the layer before
            train |= dict.fromkeys(LENGTHS)
        train |= changes
    run["text"] = text_setting(run["text"])
    if run["from"] and os.path.exists(start := os.path.expanduser(run["from"])):
        run["from"] = os.path.abspath(start)
    try:
        shape, plan = asdict(model_config(**model, vocab_size=run["vocab_size"])), asdict(TrainConfig(**train))
    except ValueError as error:
        raise UsageError(str(error)) from None
    del shape["vocab_size"]
    return run | {"model": {"preset": model["preset"]} | shape, "train": plan}

def write_command(folder: Path, settings: dict):
    "Write the settings of a run, with their checksum."
    text = yaml.safe_dump(settings, sort_keys=False)
    with atomic_write(folder / COMMAND_FILE) as draft:
        draft.write_text(f"{text}# crc32 {zlib.crc32(text.encode()):08x}\n", encoding="utf-8")

def settings_of_run(folder: Path) -> dict:
    "All settings that the run in a folder was started with."
    if not (folder / COMMAND_FILE).is_file():
        raise ValueError(f"{folder} has no {COMMAND_FILE}: it is not the folder of a run of tinygpt train")
    raw = read_bytes(folder / COMMAND_FILE)
    kept = re.search(rb"# crc32 ([0-9a-f]{8})\n\Z", raw)
    if kept and int(kept[1], 16) != zlib.crc32(raw[: kept.start()]):
        raise ValueError(f"{folder / COMMAND_FILE} is damaged: it does not match its checksum")
    return resolve(read_settings(folder / COMMAND_FILE))
