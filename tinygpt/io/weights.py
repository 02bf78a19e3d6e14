"""Weights on disk: safetensors files, written whole or not at all, and read without trust; no pickle is ever opened."""

import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from tinygpt.io.atomic import parse_json, read_json, readable_errors, atomic_write
from tinygpt.io.downloads import hub_folder
from tinygpt.io.text import near_names

WEIGHTS = "model.safetensors"
FROM_HUB = ["config.json", "*.safetensors", "*.safetensors.index.json"]
FROM_HUB += ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"]
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NO_PICKLE = (
    "a pickle, which can run any code when it is opened, and so is never opened here: "
    "look for the same model as safetensors, or have its maker save it so"
)
ONE_MODEL = "take a config.json and weights of the same model"
SIGNS = {  # how other files begin that stand in the place of weights
    b"PK\x03\x04": f"what torch.save writes, {NO_PICKLE}",
    b"\x80": NO_PICKLE,
    b"version https://git-lfs": "what git keeps in the place of a large file: get the file itself with git lfs pull",
    b"<": "a web page, perhaps one to log in on: get the file itself",
}


class Stored(NamedTuple):
    "A tensor in an open file, as the file's header tells of it."

    path: Path
    file: BinaryIO
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    checksum: str | None


def find_folder(name: str | Path, accept: Callable[[dict], object] | None = None) -> Path:
    """A model's folder: one on this machine or, for a name such as Qwen/Qwen3-0.6B, the hub's model, downloaded once.

    A name may end in @ and a revision; a Path is never a name. `accept` is given the hub's config.json, and may raise
    before the rest is downloaded.
    """
    path = Path(name).expanduser()
    if path.is_file():
        wrong = NO_PICKLE if path.suffix in PICKLES else f"a file: pass the folder that it is in, {path.parent}"
        raise ValueError(f"{path} is {wrong}")
    if path.is_dir() and name != "":
        names = sorted(os.listdir(path))
        pickles = [name for name in names if name.endswith(PICKLES)]
        if pickles and not any(name.endswith(".safetensors") for name in names):
            raise ValueError(f"{path} has no weights but {_listed(pickles)}, {NO_PICKLE}")
        return path

    near = [other for other in near_names(path) if Path(other).is_dir()]
    nowhere = f"there is no folder {str(name)!r}" + (f" (did you mean {' or '.join(near)}?)" if near else "")
    match = re.fullmatch(r"(\w[\w.-]{,95}(?:/\w[\w.-]{,95})?)(?:@(\w[\w./-]*))?", str(name), re.ASCII)
    if isinstance(name, Path) or not match or re.search(r"--|\.\.|[.-](/|$)|\.git$", str(name).split("@")[0]):
        raise FileNotFoundError(f"{nowhere}: pass one with config.json and {WEIGHTS}, or a model's name on the hub")
    if accept:
        accept(read_config(hub_folder(*match.groups(), ["config.json"], nowhere)))
    path = hub_folder(*match.groups(), FROM_HUB, nowhere)
    if not any(path.glob("*.safetensors")):
        raise ValueError(f"the hub has {name} without safetensors, perhaps only as {NO_PICKLE}")
    return path


def read_config(folder: str | Path) -> dict:
    "What a model's config.json says."
    if not (path := Path(folder, "config.json")).is_file():
        raise _absent(path)

    def understand(config: dict) -> dict:
        if not isinstance(config, dict):
            raise ValueError(f"it holds {config!r:.40}, not settings by name")
        return config

    return read_json(path, understand)


def write_weights(folder: str | Path, tensors: dict[str, Tensor], file: str = WEIGHTS):
    "Write tensors as safetensors, with a checksum of each; at most one of them is copied at a time."
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # so that each lies where it may
    kinds, header, end = {dtype: kind for kind, dtype in DTYPES.items()}, {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        if (dtype := tensors[name].dtype) not in kinds:
            raise ValueError(f"the tensor {name!r} is {dtype}; weights are one of {_listed(map(str, kinds))}")
        _check_finite(tensors[name], f"the tensor {name!r}")
        begin, end = end, end + tensors[name].nbytes
        header[name] = {"dtype": kinds[dtype], "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
        header["__metadata__"][f"crc32 {name}"] = "0" * 8

    def start() -> bytes:
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
        return len(raw).to_bytes(8, "little") + raw

    try:
        with atomic_write(Path(folder, file)) as draft, open(draft, "wb") as out:
            out.write(start())
            for name in names:
                out.write(raw := _bytes(tensors[name].detach().cpu().contiguous()))
                header["__metadata__"][f"crc32 {name}"] = _checksum(header[name]["dtype"], name, raw)
            out.seek(0)
            out.write(start())
            out.flush()
            os.fsync(out.fileno())
    except OSError as error:
        why = f"{file} cannot be written in {folder} ({error.strerror or error})"
        raise OSError(f"{why}, and what was there is as it was: make room, or name another folder") from None


def list_weights(folder: str | Path, file: str = WEIGHTS) -> dict[str, tuple[int, ...]]:
    "The names and shapes of a folder's tensors, with none of them read."
    with _opened(Path(folder), file) as (_, stored):
        return {name: held.shape for name, held in stored.items()}


def read_weights(
    folder: str | Path,
    shapes: dict[str, tuple[int, ...]],
    ignore: re.Pattern | None = None,  # what else the file may hold: names in which this is found
    dtype: torch.dtype = torch.float32,
    file: str = WEIGHTS,
) -> dict[str, Tensor]:
    "Read exactly the tensors of these names and shapes, or say what is wrong with the file; one is converted at a time."
    with _opened(Path(folder), file) as (path, stored):
        missing = [repr(name) for name in shapes if name not in stored]
        extra = [repr(name) for name in stored if name not in shapes and not (ignore and ignore.search(name))]
        if missing or extra:
            wrong = [f"lacks {_listed(missing)}"] * bool(missing)
            wrong += [f"holds {_listed(extra)}, which this model does not have"] * bool(extra)
            raise ValueError(f"{path} {' and '.join(wrong)}; {ONE_MODEL}")
        for name, shape in shapes.items():
            held = stored[name]
            if held.shape != tuple(shape):
                wrong = f"has the shape {str(held.shape):.80}, but this model's has {tuple(shape)}"
            elif held.dtype not in DTYPES:
                wrong = f"is {held.dtype!r:.40}, and only {_listed(DTYPES)} are read"
            elif held.end - held.begin != (size := math.prod(shape) * DTYPES[held.dtype].itemsize):
                wrong = f"takes {held.end - held.begin} bytes, but {held.shape} as {held.dtype} takes {size}"
            else:
                continue
            raise ValueError(f"{held.path}: its tensor {name!r} {wrong}; {ONE_MODEL}")
        return {name: _read(name, stored[name], dtype) for name in shapes}


@contextmanager
def _opened(folder: Path, file: str) -> Iterator[tuple[Path, dict[str, Stored]]]:
    "The file that lists a folder's tensors, and the tensors by name."
    path, index = folder / file, folder / f"{file}.index.json"
    parts = {path: None}
    if not path.is_file():
        if not index.is_file():
            raise _absent(path)
        path, parts = index, read_json(index, lambda spec: _shards(folder, spec))
    with ExitStack() as stack:
        stored = {}
        for part, names in parts.items():
            if not part.is_file():
                raise ValueError(f"{index} needs {part.name}, which is not there: get that file, too")
            held = _read_header(part, stack.enter_context(open(part, "rb")))
            if names is not None and (other := names ^ held.keys()):
                wrong = f"{part} and {index.name} do not agree on {_listed(map(repr, sorted(other)))}"
                raise ValueError(f"{wrong}: get all files of the model again, from one place")
            stored |= held
        yield path, stored


def _shards(folder: Path, spec: dict) -> dict[Path, set[str]]:
    "The files that an index names, and the tensors it says are in each."
    parts = {}
    for name, shard in spec["weight_map"].items():
        if not isinstance(shard, str) or not re.fullmatch(r"[^/\\:\0]+\.safetensors", shard):
            raise ValueError(f"it has {name!r:.80} in {shard!r:.80}, which is no safetensors file beside it")
        parts.setdefault(folder / shard, set()).add(name)
    return parts


def _read_header(path: Path, file: BinaryIO) -> dict[str, Stored]:
    "The tensors of a file, if its header is true to the format and to the file's size."
    with readable_errors(path):
        size, start = os.fstat(file.fileno()).st_size, file.read(64)
        length = int.from_bytes(start[:8], "little")
        if start[8:9] != b"{":
            known = [what for sign, what in SIGNS.items() if start.lstrip().startswith(sign)]
            raise ValueError(f"it is {known[0] if known else 'no safetensors file' if start else 'empty'}")
        if length > min(size - 8, 20_000_000):
            raise ValueError(f"its header should take {length} bytes, of {size} in the whole file; get it again")
        file.seek(8)
        header = parse_json(file.read(length))
        metadata = header.pop("__metadata__", {})
        sums = {key.removeprefix("crc32 "): metadata[key] for key in metadata if key.startswith("crc32 ")}
        if sums and sums.keys() != header.keys():
            other = sorted(sums.keys() ^ header.keys())
            raise ValueError(f"it has checksums, but not those of {_listed(map(repr, other))}: get it again")
        stored, end, at = {}, 0, 8 + length
        for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            (begin, stop), shape, dtype = info["data_offsets"], info["shape"], info["dtype"]
            if not isinstance(dtype, str) or any(
                type(n) is not int or not 0 <= n < 2**63 for n in (begin, stop, *shape)
            ):
                raise ValueError(f"what it says of its tensor {name!r:.80} makes no sense: {info!r:.80}")
            if begin != end or stop < begin:
                raise ValueError(f"its tensor {name!r:.80} goes from byte {begin} to {stop}, not from {end}")
            stored[name] = Stored(path, file, dtype, tuple(shape), at + begin, at + stop, sums.get(name))
            end = stop
        if at + end != size:
            raise ValueError(f"its tensors take {end} bytes, but {size - at} follow its header; get it again")
        return stored


def _read(name: str, held: Stored, dtype: torch.dtype) -> Tensor:
    "A tensor in memory of its own, if it is what was written."
    tensor = torch.empty(held.shape, dtype=DTYPES[held.dtype], device="cpu")
    raw = _bytes(tensor)
    held.file.seek(held.begin)
    if held.file.readinto(raw) < len(raw):
        raise ValueError(f"{held.path} was cut off in its tensor {name!r} while it was read: get it again")
    if held.checksum not in (None, _checksum(held.dtype, name, raw)):
        raise ValueError(f"{held.path} is damaged: its tensor {name!r} is not what its checksum says; get another copy")
    _check_finite(tensor := tensor.to(dtype), f"{held.path}: its tensor {name!r}")
    return tensor


def _bytes(tensor: Tensor) -> memoryview:
    "The memory of a contiguous tensor."
    line = tensor.as_strided((tensor.numel(),), (1,))  # reshape(-1) may keep a stride of 2 where there is one number
    return memoryview(line.view(torch.uint8).numpy())


def _checksum(dtype: str, name: str, raw: memoryview) -> str:
    return f"{zlib.crc32(raw, zlib.crc32(f'{dtype} {name}'.encode())):08x}"


def _check_finite(tensor: Tensor, what: str):
    "Refuse NaN and infinity, with which a model can say nothing."
    if tensor.numel() and not all(bound.isfinite() for bound in tensor.aminmax()):
        wrong = f"has numbers that are not finite as {tensor.dtype}"
        raise ValueError(f"{what} {wrong}: take the model from before its training went astray, or another dtype")


def _absent(path: Path) -> FileNotFoundError:
    "What to say of a file that a folder lacks."
    if path.is_symlink():
        return FileNotFoundError(f"{path} is a link to {os.readlink(path)}, which is not there: get the file again")
    holds = _listed(sorted(os.listdir(path.parent)) or ["nothing"])
    return FileNotFoundError(f"there is no file {path.name} in {path.parent}, which holds {holds}")


def _listed(names: Iterable[str]) -> str:
    "The first of the names, and how many more there are."
    names = [f"{name:.80}" for name in names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
