"""From a function to a command: its parameters are the arguments, and the comments behind them the help."""

import difflib
import inspect
import re
from argparse import HelpFormatter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, get_args, get_origin, get_type_hints

import torch
from jsonargparse import SUPPRESS, ArgumentError, ArgumentParser

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word"}
Device = Literal["auto", "cpu", "cuda"]

class UsageError(ValueError):
    "A mistake in a command line or in a settings file; the exit code is 2."

def new_parser(path: str = "", about: str = "") -> ArgumentParser:
    "A parser without arguments, which raises ArgumentError instead of exiting."
    return ArgumentParser(path, description=about, exit_on_error=False, allow_abbrev=False, print_config=None,
                          formatter_class=partial(HelpFormatter, max_help_position=30))

def comments_of(source: Callable) -> dict[str, str]:
    "The comment behind each parameter of a function, or each field of a dataclass."
    return dict(re.findall(r"^ {4}(\w+):.*?  # (.*)$", inspect.getsource(source), re.MULTILINE))

def add_arguments(parser: ArgumentParser, command: Callable):
    "Add an argument for each parameter of a command: keyword-only ones are options, and flags if they are bool."
    hints, comments = get_type_hints(command), comments_of(command)
    for name, comment in comments.items():
        p, hint = inspect.signature(command).parameters[name], hints[name]
        required, many, option = p.default is p.empty, get_origin(hint) is list, p.kind == p.KEYWORD_ONLY
        if hint is bool:
            how = {"action": "store_true"}
        elif get_origin(hint) is Literal:
            how = {"choices": get_args(hint)}
            comment = comment if option else f"{comment}: {', '.join(get_args(hint))}"
        else:
            how = {"type": str if many else hint}
        if option:
            how["required"] = required
        else:
            how |= {"metavar": name.upper(), "nargs": ("+" if many else None) if required else "*" if many else "?"}
        if p.default and not required:
            comment += f" (default: {p.default})"
        parser.add_argument(f"--{name}" if option else name, help=comment, **how)

def add_fields(parser: ArgumentParser, prefix: str, config_class: type):
    "Add a group of options, one for each field of a dataclass that has a comment: --train.lr for lr; returns the group."
    hints, comments = get_type_hints(config_class), comments_of(config_class)
    group = parser.add_argument_group(prefix.rstrip(".") or "text", config_class.__doc__)
    for name, comment in comments.items():
        kind, default = (*get_args(hints[name]), hints[name])[0], getattr(config_class, name)  # int, also for int | None
        group.add_argument(f"--{prefix}{name}", type=hints[name], default=SUPPRESS, metavar=kind.__name__.upper(),
                           help=comment if default is None else f"{comment} (default: {default})")
    return group

def parse(parser: ArgumentParser, words: list[str]) -> dict:
    "The given arguments, by name; raises UsageError."
    try:
        return vars(parser.parse_args(words).as_flat())
    except ArgumentError as error:
        raise UsageError(explain(str(error), names_of(parser))) from None

def names_of(parser: ArgumentParser) -> list[str]:
    "The names of all arguments of a parser."
    return [name for action in parser._actions for name in action.option_strings or [action.dest]]

def suggest(word: str, names: Iterable[str]) -> str:
    "The name that may have been meant, as a question; empty if none is similar."
    ends = {name: name.split(".")[-1].lstrip("-") for name in names}  # steps for --train.steps
    near = difflib.get_close_matches(word.split(".")[-1].lstrip("-"), ends.values(), 1)
    best = difflib.get_close_matches(word, [name for name in ends if ends[name] in near], 1, cutoff=0)
    best = best or difflib.get_close_matches(word, ends, 1)
    return f"; did you mean {best[0]}?" if best else ""

def explain(message: str, names: list[str]) -> str:
    "A message of jsonargparse as one plain sentence."
    if wrong := re.search(r'Parser key "(.+?)".*(?:Given value|Got value): (.*)', message, re.DOTALL):
        kind = re.search(r"<class '(\w+)'>", message)
        return f"{wrong[1]}={wrong[2]!r:.60} should be {KINDS[kind[1]] if kind else 'something else'}"
    if wrong := re.search(r"(?:unrecognized arguments: |ption ')([^\s=']+)", message):
        return f"unknown option {wrong[1]}{suggest(wrong[1], names)}"
    if wrong := re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message):
        return message + suggest(wrong[1], re.findall(r"'(.*?)'", wrong[2]))
    return message

def pick_device(name: str) -> str:
    "The device of this name; auto is a GPU if there is one."
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("PyTorch finds no GPU here: leave out --device cuda")
    return ("cuda" if available else "cpu") if name == "auto" else name
