"""Read files safely: regular files only, up to a maximal size; JSON and YAML with limits and unique keys."""

import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
import yaml

LARGEST_JSON = 50_000_000  # bytes; a tokenizer of a quarter of a million tokens takes some thirty million
MOST_VALUES = 2_500_000  # in a JSON text: each takes up to 150 bytes of memory
LARGEST_YAML = 100_000  # bytes; PyYAML reads some fifty thousand a second
DEEPEST_YAML = 20  # levels of nesting

def open_regular(path: str | Path) -> BinaryIO:
    "Open a file for reading bytes; raise ValueError for a folder, or for a pipe or a device, which may never end."
    mode = os.stat(path).st_mode  # before opening: opening a pipe would wait for its writer
    if not stat.S_ISREG(mode):
        found = "folder" if stat.S_ISDIR(mode) else "pipe or a device"
        raise ValueError(f"{path} is not a regular file, but a {found}")
    return open(path, "rb")

def read_bytes(path: str | Path, most: int = LARGEST_JSON) -> bytes:
    "The content of a regular file; raise ValueError if it has more than `most` bytes."
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} has more than {most:,} bytes")
    return content

def parse_json(raw: bytes):
    "The value of a JSON text; raise ValueError if it is too large or too deep, or an object has a key twice."
    def unique(pairs: list[tuple]) -> dict:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError(_twice(key for key, _ in pairs))
        return found
    if len(raw) > LARGEST_JSON or sum(map(raw.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"it has more than {LARGEST_JSON:,} bytes or {MOST_VALUES:,} values")
    try:
        return json.loads(raw, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None

class PlainLoader(yaml.SafeLoader):
    "Loads YAML without anchors and tags, with unique keys, and not nested too deeply."
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        "The next node; raises YAMLError for features that settings do not need."
        event = self.peek_event()
        if event.anchor or getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(problem="anchors (&), aliases (*) and tags (!) are not read",
                                       problem_mark=event.start_mark)
        if self.depth == DEEPEST_YAML:
            raise yaml.MarkedYAMLError(problem="it is nested too deeply", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        "The value of a node; raise YAMLError if it looks like a number or a date, but is not."
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.MarkedYAMLError(problem=f"{node.value!r:.40}: {error}", problem_mark=node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        "The dict of a node; raise YAMLError if a key comes twice."
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            keys = [self.construct_object(key) for key, _ in node.value]
            raise yaml.MarkedYAMLError(problem=_twice(keys), problem_mark=node.start_mark)
        return found

def parse_yaml(raw: bytes) -> Any:
    "The value of a YAML text; raises ValueError, with the line, if it is damaged or not plain settings."
    if len(raw) > LARGEST_YAML:
        raise ValueError(f"it has more than {LARGEST_YAML:,} bytes")
    try:
        return yaml.load(text := raw.decode(), PlainLoader)
    except UnicodeDecodeError as error:
        line, problem = raw.count(b"\n", 0, error.start), f"it is not UTF-8: {error.reason}"
    except yaml.reader.ReaderError as error:
        line, problem = text.count("\n", 0, error.position), f"it has the control character {chr(error.character)!r}"
    except yaml.MarkedYAMLError as error:
        line, problem = error.problem_mark.line, ", ".join(filter(None, [error.context, error.problem]))
    raise ValueError(f"line {line + 1}: {problem}")

def _twice(keys: Iterable[Hashable]) -> str:
    "The message about a key that occurs more than once."
    return f"it has the key {Counter(keys).most_common(1)[0][0]!r:.60} more than once"

@contextmanager
def readable_errors(path: str | Path) -> Iterator[None]:
    "Turn the errors of reading a file's content into one ValueError that names the file and the reason."
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__} {error}"
        raise ValueError(f"{path} is damaged, or of another kind than expected: {reason}") from error

def read_json(path: str | Path, convert: Callable[[dict], Any] = dict) -> Any:
    "`convert` applied to the settings in a JSON file; raises ValueError if the file cannot be read."
    with readable_errors(path):
        if not isinstance(content := parse_json(read_bytes(path)), dict):
            raise ValueError(f"it holds {content!r:.40}, not settings by name")
        return convert(content)
