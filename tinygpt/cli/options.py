"""From a function to a command: its parameters are the arguments, and the comments behind them the help."""

import difflib
import inspect
import re
from argparse import HelpFormatter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, get_args, get_origin, get_type_hints

import torch
from jsonargparse import ArgumentError, ArgumentParser

KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a word"}
Device = Literal["auto", "cpu", "cuda"]

class UsageError(ValueError):
    "A mistake in a command line or in a settings file; the exit code is 2."

def new_parser(path: str, about: str) -> ArgumentParser:
    "A parser without arguments, which raises ArgumentError instead of exiting."
    return ArgumentParser(path, description=about, exit_on_error=False, allow_abbrev=False, print_config=None,
                          formatter_class=partial(HelpFormatter, max_help_position=30))

def comments_of(source: Callable) -> dict[str, str]:
    "The comment behind each parameter of a function, or each field of a dataclass."
    return dict(re.findall(r"^ {4}(\w+):.*?  # (.*)$", inspect.getsource(source), re.MULTILINE))

def add_arguments(parser: ArgumentParser, source: Callable, prefix: str = ""):
    "Add an argument for each parameter of a command, or an option for each field of a dataclass, if it has a comment."
    hints, parameters, is_config = get_type_hints(source), inspect.signature(source).parameters, inspect.isclass(source)
    for name, comment in comments_of(source).items():
        p, hint = parameters[name], hints[name]
        kind = (*get_args(hint), hint)[0]  # str, also for str | None and list[str]
        option, required = is_config or p.kind == p.KEYWORD_ONLY, p.default is p.empty
        if get_origin(hint) is Literal:
            how = {"choices": get_args(hint)}
        elif hint is bool and not is_config:
            how = {"action": "store_true"}
        else:
            how = {"type": hint, "metavar": (kind.__name__ if option else name).upper()}
        if option:
            how["required"] = required
        elif get_origin(hint) is list:
            how |= {"type": kind, "nargs": "+" if required else "*"}
        elif not required:
            how |= {"nargs": "?", "default": p.default}
        if p.default not in (p.empty, None, ()) and "action" not in how:
            comment += f" (default: {p.default})"
        parser.add_argument(f"--{prefix}{name}" if option else name, help=comment, **how)

def parse(parser: ArgumentParser, words: list[str]) -> dict:
    "The given arguments, by name; raises UsageError."
    try:
        return parser.parse_args(words, defaults=False).as_dict()
    except ArgumentError as error:
        names = [(action.option_strings or [action.dest])[-1] for action in parser._actions]
        raise UsageError(explain(str(error), names)) from None

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
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch finds no GPU here: leave out --device cuda")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"
