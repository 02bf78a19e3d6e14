"""Reading files: pipes and devices, JSON and YAML that would grow without bound, and damaged text."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import need
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt.io import reading
from tinygpt.io.reading import open_regular, parse_json, parse_yaml, read_bytes

A_GIGABYTE = 1_000_000  # kB
GROW = """
import sys
from tinygpt.io import reading
try: reading.{parse}({raw})
except ValueError as error: print("ValueError", error)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def peak_of(parse, raw):
    "The output of a process that parses this, and its peak memory in kB."
    need(Path("/proc/self/status").exists(), "/proc")
    ask = [sys.executable, "-c", GROW.format(parse=parse, raw=raw)]
    *said, peak = subprocess.run(ask, capture_output=True, text=True, timeout=120, check=True).stdout.splitlines()
    return said, int(peak)


def not_files(folder):
    "Paths that are not regular files."
    os.mkfifo(folder / "pipe")
    return folder, folder / "pipe", Path("/dev/zero"), Path("/dev/null")


def test_only_regular_files_are_opened(tmp_path):
    need(hasattr(os, "mkfifo"), "pipes")
    for path in not_files(tmp_path):
        for read in open_regular, read_bytes, reading.read_json:
            with pytest.raises(ValueError, match=f"{path} is not a regular file, but a (folder|pipe or a device)"):
                read(path)
    (tmp_path / "a.txt").write_bytes(b"text")
    (tmp_path / "link").symlink_to("a.txt")
    assert read_bytes(tmp_path / "link", 4) == b"text"
    with pytest.raises(ValueError, match="link has more than 3 bytes"):
        read_bytes(tmp_path / "link", 3)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_regular(tmp_path / "nowhere")


# JSON


@pytest.mark.parametrize(
    "raw",
    [
        'b"[" + b"[]," * 32_000_000 + b"[]]"',  # 96 MB
        'b"[" + b"[]," * (reading.MOST_VALUES // 2 - 2) + b"[]]"',
        'b"[" + b",".join(b\'{"%x":"%x"}\' % (i, i) for i in range(reading.MOST_VALUES // 2 - 2)) + b"]"',
        '(\'"😀\' + "\\\\n" * (reading.LARGEST_JSON // 2 - 3) + \'"\').encode()',
    ],
    ids=["96 MB of lists", "lists", "objects", "a wide string"],
)
def test_json_does_not_grow_beyond_a_gigabyte(raw):
    said, peak = peak_of("parse_json", raw)
    assert peak < A_GIGABYTE and len(said) == ("32_000_000" in raw)
    assert not said or "it has more than 50,000,000 bytes or 2,500,000 values" in said[0]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(deadline=None)
@given(json_values)
def test_json_is_what_the_library_says(value):
    assert parse_json(json.dumps(value).encode()) == value


def test_json_is_unique_and_shallow():
    with pytest.raises(ValueError, match="the key 'b' more than once"):
        parse_json(b'{"a": {"b": 1, "c": 2, "b": 1}}')
    for raw in b"[" * 100_000, b'{"a":' * 100_000:
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(raw)


# YAML


def bomb(levels):
    "Lists of ten references to the list before: a gigabyte of values in a few hundred bytes."
    names = [f"&a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else 'x'}]" for i in range(levels)]
    return "\n".join(f"k{i}: {name}" for i, name in enumerate(names)).encode()


@pytest.mark.parametrize(
    "raw, line, said",
    [
        (bomb(10), 1, "anchors"),
        (b"a: 1\nb: *a", 2, "aliases"),
        (b"a: 1\nb: !!python/object/apply:os.system [id]", 2, "tags"),
        (b"[" * 50_000, 1, "nested too deeply"),
        (b"{a: " * 20_000, 1, "nested too deeply"),
        (b"- " * 49_000, 1, "nested too deeply"),
        (b"\n".join(b" " * i + b"a:" for i in range(400)), 20, "nested too deeply"),
        (b"a: 1\nb: {c: 1, d: 2, c: 3}", 2, "the key 'c' more than once"),
        (b"a: 1\nb: [1\n", 3, "expected ',' or ']'"),
        (b"a: 1\n---\nb: 2", 2, "single document"),
        (b"a: 1\nb: \x1b[2J", 2, r"control character '\\x1b'"),
        (b"a: 1\nb: \xff", 2, "not UTF-8"),
        (b"a: 1\nb: 2020-99-99", 2, "'2020-99-99': month must be in 1..12"),
        (b"a: " + b"1" * 5000, 1, "4300 digits"),
        (b"a: 1\n? [b]\n: 2", 2, "unhashable key"),
    ],
)
def test_yaml_is_plain_or_refused_with_the_line(raw, line, said):
    with pytest.raises(ValueError, match=rf"^line {line}: .*{said}") as caught:
        parse_yaml(raw)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_yaml_takes_little_memory():
    assert peak_of("parse_yaml", 'b"[" + b"[]," * 33_000 + b"]"')[1] < A_GIGABYTE / 2
    with pytest.raises(ValueError, match="more than 100,000 bytes"):
        parse_yaml(b"#" * 100_001)


a_bit = st.sampled_from([*"abc:-?[]{}&*!|>'\"%@`#,\n \t01.=<~_\\\0\x1b\x85\ufeffé", ": ", "\n- ", "---\n", "<<: ", "0x"])


@settings(deadline=None, max_examples=1000)
@given(st.lists(a_bit | st.characters(exclude_categories=["Cs"]), max_size=25).map("".join))
def test_yaml_is_what_the_library_says_or_a_sentence(text):
    try:
        value = parse_yaml(text.encode())
    except ValueError as error:
        assert str(error).startswith("line ") and "\n" not in str(error)
    else:
        assert repr(value) == repr(yaml.safe_load(text))


@settings(deadline=None)
@given(json_values)
def test_yaml_reads_what_the_library_writes(value):
    text = yaml.safe_dump({"value": value})
    assert parse_yaml(text.encode()) == yaml.safe_load(text)


def test_the_settings_of_the_package_are_read():
    for path in sorted((Path(reading.__file__).parents[1] / "assets" / "configs").glob("*.yaml")):
        assert parse_yaml(read_bytes(path)) == yaml.safe_load(path.read_text()) != {}
