"""Weights against safetensors and transformers; every damaged, false or missing part is found."""

import hashlib
import io
import json
import os
import random
import re
import resource
import struct
import subprocess
import sys
import tempfile
import zlib
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from huggingface_hub import close_session, constants
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save, save_file
from test_texts import cache, dead_port, files_in, hung_up, nobody, page, serve, silent, status
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, Qwen3Config, Qwen3ForCausalLM

from tinygpt.io import weights
from tinygpt.io.weights import find_folder, list_weights, read_config, read_weights, write_weights

assert cache and nobody and serve  # fixtures
KINDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
quick = settings(deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder that all examples share."""
    return tmp_path_factory.mktemp("weights")


def same(got, expected):
    """Equal to the bit: 0.0 is not -0.0."""
    assert got.keys() == expected.keys()
    for name in got:
        left, right = got[name].detach(), expected[name].detach()
        assert left.shape == right.shape and left.dtype == right.dtype, name
        assert left.reshape(-1).double().numpy().tobytes() == right.reshape(-1).double().numpy().tobytes(), name


def shapes_of(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def one_sentence(error):
    message = str(error)
    assert "\n" not in message and ". " not in message and len(message) < 900
    return message


def refusal(*asked, kind=ValueError, **more):
    with pytest.raises(kind) as caught:
        read_weights(*asked, **more)
    assert type(caught.value) is kind
    return one_sentence(caught.value)


def three():
    """Small tensors, two of them of one shape."""
    numbers = torch.Generator().manual_seed(0)
    first, second, third = (torch.randn(shape, generator=numbers) for shape in ((3, 4), (3, 4), (5,)))
    return {"wte.weight": first, "wpe.weight": second.bfloat16(), "ln_f.bias": third}


# Writing and reading

a_name = st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda name: name != "__metadata__")
a_shape = st.lists(st.integers(0, 4), max_size=3).map(tuple)
a_kind = st.sampled_from(list(KINDS))


def laid_out(shape, kind, layout, seed):
    """Random numbers with different memory layouts."""
    numbers = torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed)).to(kind)
    if layout == "strided":
        return numbers[..., 0]
    if layout == "turned":
        order = tuple(reversed(range(len(shape))))
        return numbers[..., 1].permute(order).contiguous().permute(order)
    if layout == "expanded" and shape:
        return numbers[:1, ..., 0].expand(shape) if shape[0] else numbers[..., 0]
    return numbers[..., 1].contiguous().requires_grad_()


a_tensor = st.builds(
    laid_out, a_shape, a_kind, st.sampled_from(["plain", "strided", "turned", "expanded"]), st.integers(0, 9)
)


@quick
@given(st.dictionaries(a_name, a_tensor, max_size=5), a_kind, st.randoms())
def test_what_we_write_the_library_and_we_read(place, tensors, kind, order):
    write_weights(place, tensors)
    raw = (place / "model.safetensors").read_bytes()
    same(load_file(place / "model.safetensors"), tensors)
    with safe_open(place / "model.safetensors", "pt") as file:
        assert file.metadata()["format"] == "pt" and len(file.metadata()) == 1 + len(tensors)
    assert list_weights(place) == shapes_of(tensors)
    got = read_weights(place, shapes_of(tensors), dtype=kind)
    same(got, {name: tensor.to(kind) for name, tensor in tensors.items()})
    assert list(got) == list(tensors)
    assert len({tensor.untyped_storage().data_ptr() for tensor in got.values() if tensor.numel()}) == sum(
        tensor.numel() > 0 for tensor in got.values()
    )
    for tensor in got.values():
        tensor.fill_(1.0)
    write_weights(place, dict(order.sample(list(tensors.items()), len(tensors))))
    assert (place / "model.safetensors").read_bytes() == raw and not [
        name for name in files_in(place) if name[0] == "."
    ]


@quick
@given(st.dictionaries(a_name, a_tensor, max_size=5), st.none() | st.just({"format": "pt", "by": "hand"}))
def test_what_the_library_writes_we_read(place, tensors, metadata):
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, place / "model.safetensors", metadata)
    got = read_weights(str(place), shapes_of(tensors), None, torch.float64)
    same(got, {name: tensor.double() for name, tensor in tensors.items()})


def test_shared_memory_is_written_twice_and_files_have_names(tmp_path):
    table = torch.randn(4, 4)
    write_weights(tmp_path / "deep" / "er", {"a": table, "b": table.T, "c": table[1]}, "best.safetensors")
    assert files_in(tmp_path) == ["best.safetensors"]
    got = read_weights(tmp_path / "deep" / "er", {"a": (4, 4), "b": (4, 4), "c": (4,)}, file="best.safetensors")
    same(got, {"a": table, "b": table.T, "c": table[1]})
    mode = (tmp_path / "deep" / "er" / "best.safetensors").stat().st_mode & 0o777
    (tmp_path / "plain").touch()
    assert mode == (tmp_path / "plain").stat().st_mode & 0o777


GPT2 = partial(GPT2Config, vocab_size=40, n_positions=8, n_embd=16, n_layer=2, n_head=2)
QWEN3 = partial(Qwen3Config, vocab_size=40, max_position_embeddings=8, hidden_size=16, intermediate_size=24)
QWEN3 = partial(QWEN3, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8)


@pytest.mark.parametrize("make, config", [(GPT2LMHeadModel, GPT2), (Qwen3ForCausalLM, QWEN3)], ids=["gpt2", "qwen3"])
@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_models_of_transformers(tmp_path, make, config, sharded, tied):
    torch.manual_seed(0)
    theirs = make(config(tie_word_embeddings=tied)).bfloat16()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="4KB" if sharded else "1GB")
    held = dict(theirs.state_dict())
    if tied:
        del held["lm_head.weight"]
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2 * sharded
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists() == sharded
    assert list_weights(tmp_path / "theirs") == shapes_of(held)
    got = read_weights(tmp_path / "theirs", shapes_of(held), None, torch.float32)
    same(got, {name: tensor.float() for name, tensor in held.items()})
    assert read_config(tmp_path / "theirs")["model_type"] in ("gpt2", "qwen3")

    write_weights(tmp_path / "ours", held)
    theirs.config.save_pretrained(tmp_path / "ours")
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    same(again.state_dict(), theirs.state_dict())


def test_a_file_replaced_while_it_is_read(tmp_path, monkeypatch):
    tensors, read = three(), weights._read_tensor
    write_weights(tmp_path, tensors)

    def replaced(*asked):
        write_weights(tmp_path, {name: tensor + 1 for name, tensor in tensors.items()})
        return read(*asked)

    monkeypatch.setattr(weights, "_read_tensor", replaced)
    got = read_weights(tmp_path, shapes_of(tensors))
    same(got, {name: tensor.float() for name, tensor in tensors.items()})


def test_a_file_cut_while_it_is_read(tmp_path, monkeypatch):
    read = weights._read_tensor

    def cut(*asked):
        os.truncate(tmp_path / "model.safetensors", 900_000)
        return read(*asked)

    tensors = {"a": torch.ones(200_000), "b": torch.ones(200_000)}
    write_weights(tmp_path, tensors)
    monkeypatch.setattr(weights, "_read_tensor", cut)
    message = refusal(tmp_path, shapes_of(tensors))
    assert "its tensor 'b' cannot be read (Could not read tensor b from file: failed to fill whole buffer)" in message


def test_a_file_cut_after_it_was_read(tmp_path):
    write_weights(tmp_path, {"a": torch.ones(200_000)})
    tensor = read_weights(tmp_path, {"a": (200_000,)})["a"]
    os.truncate(tmp_path / "model.safetensors", 0)
    assert tensor.sum() == 200_000


def test_files_of_earlier_versions(tmp_path):
    """Their headers are not sorted; checksums are of the dtype, the name and the bytes."""
    header = {
        "__metadata__": {"format": "pt", "crc32 b": "", "crc32 a": ""},
        "b": entry(0, 8),
        "a": entry(8, 12, (2, 1), "BF16"),
    }
    numbers = struct.pack("<2f", 1.5, -2.0) + struct.pack("<2H", 0x3FC0, 0xC000)
    for name, code, raw in ("b", "F32", numbers[:8]), ("a", "BF16", numbers[8:]):
        header["__metadata__"][f"crc32 {name}"] = f"{zlib.crc32(f'{code} {name}'.encode() + raw):08x}"
    (tmp_path / "model.safetensors").write_bytes(file_of(header, numbers))
    got = read_weights(tmp_path, {"a": (2, 1), "b": (2,)})
    same(got, {"a": torch.tensor([[1.5], [-2.0]]), "b": torch.tensor([1.5, -2.0])})
    (tmp_path / "model.safetensors").write_bytes(file_of(header, numbers[:-1] + b"\x40"))
    assert "'a' is damaged, for it does not match its checksum" in refusal(tmp_path, {"a": (2, 1), "b": (2,)})


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_are_those_of_any_new_file_and_all_is_on_disk_before_it_counts(tmp_path, monkeypatch, umask):
    done, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.fstat(file).st_size))
    monkeypatch.setattr(os, "replace", lambda draft, path: (done.append("replaced"), replace(draft, path)))
    before = os.umask(umask)
    try:
        write_weights(tmp_path, three())
    finally:
        os.umask(before)
    status = (tmp_path / "model.safetensors").stat()
    assert status.st_mode & 0o777 == 0o666 & ~umask and done == [status.st_size, "replaced"]


def test_links_are_followed_and_not_written_through(tmp_path):
    write_weights(tmp_path / "blobs", three(), "abc")
    before = (tmp_path / "blobs" / "abc").read_bytes()
    (tmp_path / "snapshot").mkdir()
    link = tmp_path / "snapshot" / "model.safetensors"
    link.symlink_to("../blobs/abc")
    assert list_weights(tmp_path / "snapshot") == shapes_of(three())
    write_weights(tmp_path / "snapshot", {"a": torch.ones(1)})
    assert not link.is_symlink() and (tmp_path / "blobs" / "abc").read_bytes() == before
    link.unlink()
    link.symlink_to("../blobs/gone")
    with pytest.raises(FileNotFoundError, match=f"{link} is a link to ../blobs/gone, which is not there"):
        list_weights(tmp_path / "snapshot")


LEAN = """
import resource, sys, torch
from tinygpt.io.weights import read_weights, write_weights
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**20
torch.set_num_threads(1)
write_weights(sys.argv[1], {"warm": torch.randn(9, 9).T})
read_weights(sys.argv[1], {"warm": (9, 9)}, None, torch.float32)
tensors = {f"{i}": torch.zeros(2048, 2048, dtype=torch.bfloat16) for i in range(12)}
for tensor in tensors.values(): tensor.fill_(1.0)
for turn in False, True:
    tensors = {name: tensor.T if turn else tensor for name, tensor in tensors.items()}
    start = peak(); write_weights(sys.argv[1], tensors); print(peak() - start)
shapes = {name: tensor.shape for name, tensor in tensors.items()}
del tensors, tensor
start = peak(); again = read_weights(sys.argv[1], shapes, None, torch.float32); print(peak() - start)
assert not {"huggingface_hub", "transformers"} & set(sys.modules)
"""


def test_memory(tmp_path):
    """Of 12 tensors of 8 MiB: writing copies only what is turned, once; reading as float32 needs those and one more.

    For neither is a library loaded that only downloads need.
    """
    done = subprocess.run([sys.executable, "-c", LEAN, tmp_path], capture_output=True, text=True, check=True)
    wrote, wrote_turned, read = map(float, done.stdout.split())
    assert wrote < 8 and wrote_turned < 13 * 8
    assert read < 12 * 16 - 12 * 8 + 4 * 8  # what the tensors just let go of may be used again


# What is not written


def test_what_is_not_written(tmp_path):
    write_weights(tmp_path / "a", three())
    before = (tmp_path / "a" / "model.safetensors").read_bytes()
    for wrong, said in {
        torch.arange(3): "the tensor 'x' is torch.int64; weights are one of torch.float64, torch.float32, torch.b",
        torch.tensor([1.0, float("nan")]): "the tensor 'x' has numbers that are not finite as torch.float32",
        torch.tensor(float("-inf")).half(): "the tensor 'x' has numbers that are not finite as torch.float16",
    }.items():
        for folder in "a", "b":
            with pytest.raises(ValueError) as caught:
                write_weights(tmp_path / folder, {"before": torch.ones(2), "x": wrong})
            assert one_sentence(caught.value).startswith(said)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == before and files_in(tmp_path) == ["model.safetensors"]
    assert not (tmp_path / "b").exists()


@pytest.fixture
def small_files():
    """Limit the size of files, as if the disk were full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("room", [0, 100, 3000, 1_000_000])
def test_a_full_disk(tmp_path, small_files, room):
    write_weights(tmp_path, three())
    before = (tmp_path / "model.safetensors").read_bytes()
    small_files(room)
    with pytest.raises(OSError) as caught:
        write_weights(tmp_path, {"a": torch.ones(1000), "b": torch.ones(1_000_000)})
    message = one_sentence(caught.value)
    assert message.startswith(f"model.safetensors cannot be written in {tmp_path} (") and "File too large" in message
    assert files_in(tmp_path) == ["model.safetensors"] and (tmp_path / "model.safetensors").read_bytes() == before
    small_files(1_000_000_000)
    same(read_weights(tmp_path, shapes_of(three())), {name: tensor.float() for name, tensor in three().items()})


def test_places_that_cannot_be_written(tmp_path, nobody):
    (tmp_path / "a").write_text("in the way")
    for folder in tmp_path / "a", tmp_path / "a" / "b":
        with pytest.raises(OSError) as caught:
            write_weights(folder, three())
        assert one_sentence(caught.value).startswith(f"model.safetensors cannot be written in {folder} (")
    with tempfile.TemporaryDirectory() as folder:
        write_weights(folder, three())
        os.chmod(folder, 0o555)
        with nobody(), pytest.raises(OSError, match=re.escape(f"written in {folder} (Permission denied)")):
            write_weights(folder, {"a": torch.ones(1)})
        os.chmod(folder, 0o755)
        assert files_in(folder) == ["model.safetensors"] and list_weights(folder) == shapes_of(three())


@pytest.mark.parametrize("at", ["checksum", "fsync", "replace"])
def test_stopped_while_writing(tmp_path, monkeypatch, at):
    def stop(*asked):
        raise KeyboardInterrupt

    write_weights(tmp_path, three())
    monkeypatch.setattr(*{"checksum": (weights, "_checksum")}.get(at, (os, at)), stop)
    with pytest.raises(KeyboardInterrupt):
        write_weights(tmp_path, {"a": torch.ones(1)})
    monkeypatch.undo()
    assert files_in(tmp_path) == ["model.safetensors"] and list_weights(tmp_path) == shapes_of(three())


# Damage

edit = st.tuples(
    st.sampled_from(["flip", "set", "cut", "delete", "insert", "copy", "swap"]),
    st.floats(0, 1, exclude_max=True),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 255),
)


def edited(raw, edits):
    """Bits flipped, bytes set, ends cut off, parts left out, put in, copied over others or exchanged with others."""
    raw = bytearray(raw)
    for what, where, other, value in edits:
        i, j, n = int(where * len(raw)), int(other * len(raw)), 1 + value % 48
        if not raw:
            break
        if what == "flip":
            raw[i] ^= 1 << value % 8
        elif what == "set":
            raw[i] = value
        elif what == "cut":
            del raw[i:]
        elif what == "delete":
            del raw[i : i + n]
        elif what == "insert":
            raw[i:i] = bytes([value]) * n
        elif what == "copy":
            raw[i : i + n] = raw[j : j + n]
        else:
            n = min(n, abs(i - j), len(raw) - max(i, j))
            raw[i : i + n], raw[j : j + n] = raw[j : j + n], raw[i : i + n]
    return bytes(raw)


def check_damaged(folder, raw, tensors):
    path = folder / "model.safetensors"
    path.write_bytes(raw)
    try:
        got = read_weights(folder, shapes_of(tensors))
    except ValueError as error:
        assert type(error) is ValueError and str(path) in one_sentence(error)
        return False
    same(got, {name: tensor.float() for name, tensor in tensors.items()})
    return True


@pytest.fixture(scope="module")
def undamaged(place):
    """The bytes of three tensors."""
    write_weights(place, three(), "undamaged")
    return (place / "undamaged").read_bytes()


@settings(deadline=None, max_examples=300)
@given(st.lists(edit, min_size=1, max_size=4))
def test_damage_is_found_or_does_not_matter(place, undamaged, edits):
    check_damaged(place, edited(undamaged, edits), three())


def test_every_bit(place):
    """Flip one bit after the other: every change of a number is found."""
    tensors = {"a": torch.tensor([[1.5, -2.0]]), "b": torch.tensor([3.0, 0.1]).bfloat16()}
    write_weights(place, tensors)
    raw = (place / "model.safetensors").read_bytes()
    numbers = 8 + struct.unpack("<Q", raw[:8])[0]
    missed = set()
    for i in range(len(raw)):
        for bit in range(8):
            if check_damaged(place, raw[:i] + bytes([raw[i] ^ 1 << bit]) + raw[i + 1 :], tensors):
                missed.add(i)
    assert all(i < numbers for i in missed)
    assert {raw[i : i + 1] for i in missed} <= {bytes([byte]) for byte in b'formatp ,:"{}'}, missed
    for i in range(len(raw)):
        assert not check_damaged(place, raw[:i], tensors)


def file_of(header, numbers=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + numbers


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


class Bomb:
    def __reduce__(self):
        return os.mkdir, (f"{tempfile.gettempdir()}/the-bomb-went-off",)


def pickled(**form):
    torch.save({"a": Bomb()}, file := io.BytesIO(), **form)
    return file.getvalue()


HTML = b"<!DOCTYPE html><html><head><title>Please log in</title></head><body></body></html>"
TWO = struct.pack("<2f", 1, 2)
PICKLE = ("a pickle, which can run any code", "safetensors")
DAMAGE = {
    "empty": (b"", "it is empty"),
    "short": (b"\1\2", "it is not a safetensors file"),
    "zeros": (bytes(100), "it is not a safetensors file"),
    "random": (random.Random(0).randbytes(5000), "it is not a safetensors file"),
    "zip pickle": (pickled(), "it is what torch.save writes", *PICKLE),
    "old pickle": (pickled(_use_new_zipfile_serialization=False), "it is a pickle", *PICKLE),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
    "page": (HTML, "it is a web page", "log in"),
    "indented page": (b"\n\n  " + HTML, "it is a web page"),
    "terabytes of header": (file_of(b"{}", length=2**42), "header too large; get it again"),
    "all the header": (file_of(b"{}", length=2**64 - 1), "header too large; get it again"),
    "terabytes of numbers": (file_of({"a": entry(0, 2**42, [2**40])}, TWO), "file not fully covered; get it again"),
    "no JSON": (file_of(b"{abcdef}", TWO), "Expecting property name"),
    "not UTF-8": (file_of(b'{"\xff\xff":1}', TWO), "codec can't decode"),
    "a list": (file_of(b"[1, 2]", TWO), "it is not a safetensors file"),
    "nested": (file_of(b'{"a":' + b"[" * 200_000, TWO), "it is nested too deeply"),
    "a huge number": (file_of(b'{"a":' + b"9" * 5000 + b"}", TWO), "Exceeds the limit"),
    "no offsets": (file_of({"a": {"dtype": "F32", "shape": [2]}}, TWO), "missing field `data_offsets`"),
    "one offset": (file_of({"a": entry() | {"data_offsets": [8]}}, TWO), "invalid length 1"),
    "offsets by name": (file_of({"a": entry() | {"data_offsets": {"b": 0, "e": 8}}}, TWO), "invalid type: map"),
    "no entry": (file_of({"a": 7}, TWO), "invalid type: integer `7`"),
    "backwards": (file_of({"a": entry(8, 0)}, TWO), "invalid offset for tensor `a`"),
    "negative": (file_of({"a": entry(-8, 0)}, TWO), "invalid value: integer `-8`"),
    "fraction": (file_of({"a": entry(0, 8.0)}, TWO), "invalid type: floating point `8.0`"),
    "truth": (file_of({"a": entry(False, 8)}, TWO), "invalid type: boolean `false`"),
    "text": (file_of({"a": entry(0, 8, "2")}, TWO), 'invalid type: string "2"'),
    "dtype list": (file_of({"a": entry(dtype=["F32"])}, TWO), "invalid JSON in header"),
    "overlap": (file_of({"a": entry(), "b": entry(4, 12)}, TWO + TWO), "invalid offset for tensor `b`"),
    "gap": (file_of({"a": entry(), "b": entry(12, 20)}, bytes(20)), "invalid offset for tensor `b`"),
    "not from the start": (file_of({"a": entry(4, 12)}, bytes(12)), "invalid offset for tensor `a`"),
    "cut": (file_of({"a": entry()}, TWO[:-1]), "incomplete metadata, file not fully covered; get it again"),
    "longer": (file_of({"a": entry()}, TWO + b"\0"), "incomplete metadata, file not fully covered; get it again"),
    "twice": (file_of(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), TWO), "it has the key 'a' more"),
    "shape twice": (file_of(b'{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', TWO), "'shape'"),
    "size": (file_of({"a": entry(0, 4)}, TWO[:4]), "invalid shape, data type, or offset for tensor"),
    "another dtype": (file_of({"a": entry(dtype="I32")}, TWO), "tensor 'a' is 'I32', and only F64, F32, BF16, F16 are"),
    "unknown dtype": (file_of({"a": entry(dtype="F7")}, TWO), "unknown variant `F7`, expected one of"),
    "shape": (file_of({"a": entry(shape=[1, 2])}, TWO), "tensor 'a' has the shape (1, 2), but this model's has (2,)"),
    "huge shape": (file_of({"a": entry(shape=[2] * 99999)}, TWO), "overflow computing buffer size"),
    "missing": (file_of({}), "model.safetensors lacks 'a';"),
    "extra": (file_of({"a": entry(), "b": entry(8, 16)}, TWO + TWO), "holds 'b', which this model does not have;"),
    "both": (file_of({"b": entry()}, TWO), "model.safetensors lacks 'a' and holds 'b', which this model does not have"),
    "a line": (file_of({"a": entry(), "b\n": entry(8, 16)}, TWO + TWO), "holds 'b\\n"),
    "metadata": (file_of({"__metadata__": [1], "a": entry()}, TWO), "invalid type: sequence, expected a map"),
    "NaN": (file_of({"a": entry()}, struct.pack("<2f", 1, float("nan"))), "'a' has numbers that are not finite as"),
    "inf": (file_of({"a": entry()}, struct.pack("<2f", float("-inf"), 1)), "'a' has numbers that are not finite as"),
    "too large": (file_of({"a": entry(0, 16, dtype="F64")}, struct.pack("<2d", 1, 1e300)), "finite as torch.float32"),
    "checksum": (file_of({"__metadata__": {"crc32 a": "00000000"}, "a": entry()}, TWO), "does not match its checksum"),
    "no checksum": (file_of({"__metadata__": {"crc32 b": "1" * 8}, "a": entry()}, TWO), "but not of 'a', 'b'"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damage_has_its_sentence(tmp_path, name):
    raw, *said = DAMAGE[name]
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(ValueError) as caught:
        read_weights(tmp_path, {"a": (2,)})
    message = one_sentence(caught.value)
    assert type(caught.value) is ValueError
    assert message.startswith(str(tmp_path / "model.safetensors"))
    assert all(part in message for part in said), message
    assert not Path(f"{tempfile.gettempdir()}/the-bomb-went-off").exists()
    assert files_in(tmp_path) == ["model.safetensors"]


def test_what_a_header_claims_is_not_allocated(tmp_path):
    """With little memory, false claims of terabytes are still found."""
    claims = {name: DAMAGE[name][0] for name in ("terabytes of header", "all the header", "terabytes of numbers")}
    limits = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), limits[1]))
    try:
        for raw in claims.values():
            (tmp_path / "model.safetensors").write_bytes(raw)
            refusal(tmp_path, {"a": (2**40,)})
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


a_claim = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F32", "BF16", "F16", "I8", "BOOL", "F9"]),
        "shape": st.lists(st.integers(0, 4) | st.sampled_from([-1, 2**62, 2**63, 2**64, 1.0, True, None]), max_size=2),
        "data_offsets": st.tuples(*[st.sampled_from([0, 4, 8, 12, 16, -4, 2**64, 4.0])] * 2),
    }
)


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), a_claim, max_size=3), st.sampled_from([0, 4, 8, 16]))
@example({"a": entry(), "b": entry(8, 16)}, 16)
@example({"a": entry(), "b": entry(8, 8, [0])}, 8)
@example({"a": entry(0, 0, [0, 2**63])}, 0)
def test_what_the_library_refuses_we_refuse(place, header, numbers):
    path = place / "model.safetensors"
    path.write_bytes(file_of(header, struct.pack("<4f", 1, 2, 3, 4)[:numbers]))
    shapes = {name: tuple(claim["shape"]) for name, claim in header.items()}
    try:
        theirs = load_file(path)
    except (SafetensorError, RuntimeError, OverflowError, TypeError):
        theirs = None
    try:
        ours = read_weights(place, shapes)
    except ValueError as error:
        one_sentence(error)
        known = {"F32", "BF16", "F16"}
        assert theirs is None or not all(claim["dtype"] in known for claim in header.values())
    else:
        same(ours, {name: tensor.float() for name, tensor in theirs.items()})


def test_missing_and_extra_tensors_are_named_up_to_a_handful(tmp_path):
    write_weights(tmp_path, {f"h.{i}": torch.ones(1) for i in range(9)})
    message = refusal(tmp_path, {f"g.{i}": (1,) for i in range(20)})
    assert "lacks 'g.0', 'g.1', 'g.2', 'g.3', 'g.4' and 15 more and holds 'h.0', " in message
    assert "'h.4' and 4 more, which this model does not have; use a config.json" in message


def test_what_may_be_ignored(tmp_path):
    tensors = three() | {"h.0.attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool), "h.0.attn.c": torch.ones(1)}
    (tmp_path / "model.safetensors").write_bytes(save(tensors))
    masks = re.compile(r"\.attn\.(masked_)?bias$")
    message = refusal(tmp_path, shapes_of(three()), masks)
    assert "'h.0.attn.c'" in message and "bias" not in message
    wanted = shapes_of(three()) | {"h.0.attn.c": (1,)}
    assert read_weights(tmp_path, wanted, masks).keys() == wanted.keys()
    assert list_weights(tmp_path) == shapes_of(tensors)


# Files in parts


def index(**where):
    return {
        "metadata": {"total_size": 1},
        "weight_map": {name.replace("_", "."): shard for name, shard in where.items()},
    }


@pytest.fixture
def parts(tmp_path):
    """A folder with two files and their index."""
    folder = tmp_path / "parts"
    write_weights(folder, {"a": torch.ones(2), "b": torch.zeros(3)}, "one.safetensors")
    write_weights(folder, {"c": torch.ones(4)}, "two.safetensors")

    def write(spec):
        text = spec if isinstance(spec, str) else json.dumps(spec)
        (folder / "model.safetensors.index.json").write_text(text)
        return folder

    write(index(a="one.safetensors", b="one.safetensors", c="two.safetensors"))
    write_weights(tmp_path, {"c": torch.ones(4)}, "outside.safetensors")
    return write


SHAPES = {"c": (4,), "a": (2,), "b": (3,)}
ONE, OUTSIDE = {"a": "one.safetensors", "b": "one.safetensors"}, "which is not a safetensors file beside it"


def test_parts(parts):
    folder = parts(index(**ONE, c="two.safetensors"))
    assert list_weights(folder) == {"a": (2,), "b": (3,), "c": (4,)}
    got = read_weights(folder, SHAPES)
    same(got, {"c": torch.ones(4), "a": torch.ones(2), "b": torch.zeros(3)})
    assert "index.json lacks 'd';" in refusal(folder, SHAPES | {"d": (1,)})
    assert f"{folder / 'two.safetensors'}: its tensor 'c' has the shape (4,)" in refusal(folder, SHAPES | {"c": (2, 2)})
    write_weights(folder, {"x": torch.ones(1)})
    assert list_weights(folder) == {"x": (1,)}


@pytest.mark.parametrize(
    "spec, said",
    [
        *[
            (index(**ONE, c=shard), OUTSIDE)
            for shard in (
                "../outside.safetensors",
                "/outside.safetensors",
                "../parts/two.safetensors",
                "two.bin",
                "two.safetensors/",
                "..\\two.safetensors",
                "C:two.safetensors",
                "",
                "..",
                ".safetensors",
                "two.safetensors\0",
                "\0.safetensors",
                None,
                7,
                ["two.safetensors"],
            )
        ],
        (index(**ONE, c="three.safetensors"), "needs three.safetensors, which is not there"),
        (index(**ONE), None),
        (index(**ONE, c="one.safetensors"), "one.safetensors and model.safetensors.index.json do not agree on 'c'"),
        (index(a="one.safetensors", c="two.safetensors"), "do not agree on 'b'"),
        (index(a="one.safetensors", b="two.safetensors", c="two.safetensors"), "do not agree on 'b'"),
        ('{"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}}', "it has the key 'a' more than once"),
        ({"weight_map": ["one.safetensors"]}, "AttributeError"),
        ({}, "KeyError"),
        ([], "it holds [], not settings by name"),
        ("", "Expecting value"),
        ('{"weight_map": {"a": ', "Expecting value"),
    ],
)
def test_an_index_that_lies(parts, tmp_path, spec, said):
    folder = parts(spec)
    message = refusal(folder, SHAPES)
    assert str(folder) in message and "model.safetensors.index.json" in message
    assert (said or "lacks 'c';") in message


def test_a_tensor_in_two_parts(parts):
    folder = parts(index(**ONE, c="two.safetensors"))
    write_weights(folder, {"a": torch.ones(2), "c": torch.ones(4)}, "two.safetensors")
    assert "two.safetensors and model.safetensors.index.json do not agree on 'a'" in refusal(folder, SHAPES)
    (folder / "two.safetensors").write_bytes(b"")
    assert f"{folder / 'two.safetensors'} is damaged, or of another kind than expected: it is empty" in refusal(
        folder, SHAPES
    )
    (folder / "two.safetensors").unlink()
    (folder / "two.safetensors").mkdir()
    assert "needs two.safetensors, which is not there" in refusal(folder, SHAPES)


# Folders


def test_a_config(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read_config(tmp_path)
    assert str(caught.value) == f"there is no file config.json in {tmp_path}, which holds nothing"
    for name in "abcdefg":
        (tmp_path / name).touch()
    for read, name in ((read_config, "config.json"), (list_weights, "model.safetensors")):
        with pytest.raises(FileNotFoundError) as caught:
            read(tmp_path)
        assert str(caught.value) == f"there is no file {name} in {tmp_path}, which holds a, b, c, d, e and 2 more"
    for text, said in {
        "": "Expecting value",
        "[1]": "it holds [1], not settings by name",
        "{": "Expecting",
        '{"a": 1, "a": 2}': "'a'",
    }.items():
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError) as caught:
            read_config(tmp_path)
        message = one_sentence(caught.value)
        assert message.startswith(f"{tmp_path / 'config.json'} is damaged") and said in message
    (tmp_path / "config.json").write_text('{"n_layer": 2}')
    assert read_config(str(tmp_path)) == {"n_layer": 2}


def test_a_folder_here(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_weights("gpt2", three())
    (tmp_path / "gpt2" / "training_args.bin").touch()
    assert find_folder("gpt2") == find_folder(Path("gpt2")) == Path("gpt2")
    assert find_folder("~/gpt2") == tmp_path / "gpt2"
    assert find_folder(".") == Path(".")
    with pytest.raises(ValueError) as caught:
        find_folder("gpt2/model.safetensors")
    assert str(caught.value) == "gpt2/model.safetensors is a file: pass the folder that it is in, gpt2"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "ckpt.pth", "last.ckpt", "weights.pkl"])
def test_pickles_are_refused(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    torch.save({"a": Bomb()}, tmp_path / name)
    with pytest.raises(ValueError) as caught:
        find_folder(tmp_path)
    message = one_sentence(caught.value)
    assert message.startswith(f"{tmp_path} has no weights but {name}, a pickle, which can run any code")
    assert "as safetensors" in message
    with pytest.raises(ValueError, match=f"{name} is a pickle, which can run any code"):
        find_folder(tmp_path / name)
    assert not Path(f"{tempfile.gettempdir()}/the-bomb-went-off").exists()


NO_NAMES = (
    "/no/such",
    "a/b/c",
    "./x",
    "../x",
    "~/x",
    "x\0y",
    "a--b",
    "b.git",
    "",
    "a@",
    "a@../x",
    "a b",
    "-a",
    "a-/b",
    "a.",
)
NO_NAMES += ("https://huggingface.co/gpt2", "é", "x" * 97, "a\\b", "a/", "@main", Path("gpt3"), Path("a/b"))


@pytest.mark.parametrize("name", NO_NAMES, ids=repr)
def test_what_cannot_be_a_name_never_asks_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        find_folder(name)
    assert one_sentence(caught.value).startswith(
        f"there is no folder {str(name)!r}" if name else "there is no folder ''"
    )


def test_did_you_mean(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    (tmp_path / "runs" / "tales").mkdir(parents=True)
    (tmp_path / "runs" / "tale.txt").touch()
    with pytest.raises(FileNotFoundError) as caught:
        find_folder(tmp_path / "runs" / "tale")
    assert f"(did you mean {tmp_path / 'runs' / 'tales'}?): pass one with config.json" in one_sentence(caught.value)


# The hub

COMMIT = "0" * 39 + "1"
ON_HUB = {
    "config.json": b'{"model_type": "gpt2"}',
    "model.safetensors": save(three()),
    "tokenizer.json": b"{}",
    "merges.txt": b"#version: 0.2\n",
}
UNWANTED = {
    "pytorch_model.bin": b"p",
    "modeling.py": b"import os",
    "README.md": b"r",
    "onnx/config.json": b"{}",
    "onnx/model.safetensors": b"o",
    "generation_config.json": b"{}",
}


def hub(answer, held=ON_HUB | UNWANTED):
    """As the hub does: what a model has at a revision, and its files."""
    path = answer.path.split("?")[0]
    if "/tree/" in path:
        files = [
            {"type": "file", "path": name, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
            for name, body in held.items()
        ]
        answer.send(json.dumps(files).encode(), Content_Type="application/json")
    elif path.startswith("/api/models/"):
        answer.send(json.dumps({"id": "a/b", "sha": COMMIT}).encode(), Content_Type="application/json")
    elif (name := path.partition("/resolve/")[2].partition("/")[2]) in held:
        answer.send(held[name], ETag=f'"{hashlib.sha1(held[name]).hexdigest()}"', X_Repo_Commit=COMMIT)
    else:
        answer.send(b"no", 404, X_Error_Code="EntryNotFound")


def drops(answer):
    """The hub, with a connection that breaks in the middle of the weights."""
    if answer.path.endswith("/model.safetensors") and answer.command == "GET":
        body = ON_HUB["model.safetensors"]
        answer.send(body[:50], length=len(body), ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=COMMIT)
    else:
        hub(answer)


@pytest.fixture
def at(monkeypatch, tmp_path):
    """Let the hub's address be a local server, in a folder of its own."""

    def move(url):
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        return url

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    close_session()  # the next one sees what the environment says of proxies now
    yield move
    close_session()


def dead():
    return f"http://127.0.0.1:{dead_port()}"


@pytest.mark.parametrize("name, revision", [("gpt2", "main"), ("Qwen/Qwen3-0.6B", "main"), ("a/b@v1.0", "v1.0")])
def test_a_model_is_downloaded_once_and_nothing_else_of_it(serve, at, cache, name, revision):
    server = serve(hub)
    at(server.url)
    folder = find_folder(name)
    assert folder.is_relative_to(cache) and files_in(folder) == sorted(ON_HUB)
    assert {file: (folder / file).read_bytes() for file in ON_HUB} == ON_HUB
    assert not [path for _, path, _ in server.asked for unwanted in UNWANTED if path.endswith(f"/{unwanted}")]
    assert [path for _, path, _ in server.asked if path.endswith(f"/revision/{revision}")]
    same(read_weights(folder, shapes_of(three())), {key: tensor.float() for key, tensor in three().items()})
    at(dead())
    asked = len(server.asked)
    assert find_folder(name) == folder and len(server.asked) == asked


def test_a_model_may_be_refused_for_its_config(serve, at, cache):
    server = serve(hub)
    at(server.url)

    def accept(config):
        raise ValueError(f"no {config['model_type']} here")

    for _ in range(2):
        with pytest.raises(ValueError, match="^no gpt2 here$"):
            find_folder("a/b", accept)
    assert not [path for _, path, _ in server.asked if path.endswith("/model.safetensors")]
    seen = []
    folder = find_folder("a/b", seen.append)
    assert seen == [{"model_type": "gpt2"}] and files_in(folder) == sorted(ON_HUB)


def test_a_download_that_broke_off_goes_on(serve, at, cache):
    at(serve(drops).url)
    with pytest.raises(OSError) as caught:
        find_folder("a/b")
    assert "there is no folder 'a/b', and a/b could not be downloaded from " in str(caught.value)
    at(dead())
    with pytest.raises(OSError, match="cannot be reached"):
        find_folder("a/b")
    at(serve(hub).url)
    assert files_in(find_folder("a/b")) == sorted(ON_HUB)


def test_a_model_without_safetensors(serve, at, cache):
    at(serve(lambda answer: hub(answer, {"config.json": b"{}", "pytorch_model.bin": b"p"})).url)
    with pytest.raises(ValueError) as caught:
        find_folder("a/b")
    assert one_sentence(caught.value).startswith("the hub has a/b without safetensors, perhaps only as a pickle, which")


REFUSED = ", so it has no such model, or your account may not read it (log in with: hf auth login); download it"


@pytest.mark.parametrize(
    "plan, said",
    [
        (status(401, X_Error_Code="RepoNotFound"), f"the server answers 401 Unauthorized{REFUSED}"),
        (status(401), f"the server answers 401 Unauthorized{REFUSED}"),
        (status(403, X_Error_Code="GatedRepo"), f"the server answers 403 Forbidden{REFUSED}"),
        (status(404, X_Error_Code="RepoNotFound"), f"the server answers 404 Not Found{REFUSED}"),
        (status(404, X_Error_Code="RevisionNotFound"), f"the server answers 404 Not Found{REFUSED}"),
        (status(500), "the server answers 500 Internal Server Error; download it"),
        (page, "it sent something else, perhaps a log-in page; download it"),
        (hung_up, "the transfer failed (Server disconnected"),
        (silent, "the network or 127.0.0.1 cannot be reached (timed out); download it"),
        (None, "the network or 127.0.0.1 cannot be reached ([Errno 111] Connection refused); download it"),
        ("offline", "the network or 127.0.0.1 cannot be reached (Cannot reach "),
    ],
)
def test_each_fault_of_the_hub_is_one_sentence(serve, at, cache, monkeypatch, plan, said):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", plan == "offline")
    url = at(serve(plan).url if callable(plan) else dead())
    Path("gpt").mkdir()
    with pytest.raises((OSError, ValueError)) as caught:
        find_folder("gpt3")
    message = str(caught.value)
    start = f"there is no folder 'gpt3' (did you mean gpt?), and gpt3 could not be downloaded from {url}/gpt3: "
    assert message.startswith(start + said), message
    assert message.endswith("it where there is a network, or pass the path of a folder that holds it")
    assert "\n" not in message and caught.value.__cause__ is None and caught.value.__suppress_context__
    assert not [left for left in files_in(cache) if "safetensors" in left]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    at(serve(hub).url)
    assert files_in(find_folder("gpt3")) == sorted(ON_HUB)


def test_a_cache_that_is_a_file(serve, at, cache):
    cache.write_text("in the way")
    at(serve(hub).url)
    with pytest.raises(OSError) as caught:
        find_folder("a/b")
    start = f"there is no folder 'a/b', and a/b cannot be saved in {cache} (Not a directory); name a folder that you may"
    assert one_sentence(caught.value).startswith(start)
