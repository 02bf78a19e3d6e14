"""Weights on disk: safetensors files, written atomically and checked when read. Pickles are never opened."""

import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tinygpt.io.atomic import atomic_write, checksum
from tinygpt.io.reading import LARGEST_JSON, open_regular, parse_json, read_json, readable_errors
from tinygpt.io.downloads import hub_folder
from tinygpt.io.text import near_names

WEIGHTS = "model.safetensors"
HUB_FILES = ["config.json", "*.safetensors", "*.safetensors.index*.json", "tokenizer*.json", "vocab.json", "merges.txt"]
CODES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
NO_PICKLE = "a pickle, which can run any code, and so is never opened here: look for the same model as safetensors"
SAME_MODEL = "use a config.json and weights of the same model"
FILE_STARTS = {  # of files that are often found in the place of weights
    b"PK\x03\x04": f"what torch.save writes, {NO_PICKLE}",
    b"\x80": NO_PICKLE,
    b"version https://git-lfs": "a git-lfs pointer, not the file itself: get that with git lfs pull",
    b"<": "a web page, perhaps one to log in on: download the file itself",
}
Shards = dict[str, tuple[Path, safe_open]]  # for each tensor's name, the file that holds it

def find_folder(name: str | Path, check_config: Callable[[dict], object] | None = None) -> Path:
    "A model's folder: a local one or, for a name such as Qwen/Qwen3-0.6B or a/b@revision, one downloaded from the hub."
    path = Path(name).expanduser()
    if path.is_file():
        what = NO_PICKLE if path.suffix in PICKLES else f"a file: pass the folder that it is in, {path.parent}"
        raise ValueError(f"{path} is {what}")
    if path.is_dir() and name != "":
        files = sorted(os.listdir(path))
        pickles = [file for file in files if file.endswith(PICKLES)]
        if pickles and not any(file.endswith(".safetensors") for file in files):
            raise ValueError(f"{path} has no weights but {_listed(pickles)}, {NO_PICKLE}")
        return path

    similar = [folder for folder in near_names(path) if Path(folder).is_dir()]
    missing = f"there is no folder {str(name)!r}" + (f" (did you mean {' or '.join(similar)}?)" if similar else "")
    match = re.fullmatch(r"(\w[\w.-]{,95}(?:/\w[\w.-]{,95})?)(?:@(\w[\w./-]*))?", str(name), re.ASCII)
    if isinstance(name, Path) or not match or re.search(r"--|\.\.|[.-](/|$)|\.git$", str(name).split("@")[0]):
        raise FileNotFoundError(f"{missing}: pass one with config.json and {WEIGHTS}, or a model's name on the hub")
    if check_config:  # before the weights are downloaded
        check_config(read_config(hub_folder(*match.groups(), ["config.json"], missing)))
    path = hub_folder(*match.groups(), HUB_FILES, missing)
    if not any(path.glob("*.safetensors")):
        raise ValueError(f"the hub has {name} without safetensors, perhaps only as {NO_PICKLE}")
    return path

def weights_file(variant: str | None) -> str:
    "The name of the file with the weights, or with a variant of them; raise ValueError unless that is a plain name."
    if variant is None:
        return WEIGHTS
    if not isinstance(variant, str) or not re.fullmatch(r"[\w-]+", variant, re.ASCII):
        raise ValueError(f"variant={variant!r:.80} should be a plain name, of letters, digits, - and _, such as 'best'")
    return f"model.{variant}.safetensors"

def read_config(folder: str | Path) -> dict:
    "The settings in a model's config.json."
    _check_exists(path := Path(folder, "config.json"))
    return read_json(path)

def write_weights(folder: str | Path, tensors: dict[str, Tensor], file: str = WEIGHTS,
                  config: dict | None = None):
    "Write tensors as safetensors, with checksums of each tensor and of the config; copies only strided tensors."
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt"} | ({"config crc32": checksum(config)} if config else {})
    header, size = {"__metadata__": metadata}, 0
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # aligned
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in CODES:
            raise ValueError(f"the tensor {name!r} is {tensor.dtype}; weights are one of {_listed(map(str, CODES))}")
        _check_finite(tensor, f"the tensor {name!r}")
        metadata[f"crc32 {name}"] = _checksum(name, tensor)
        offsets = [size, size := size + tensor.nbytes]
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
    start = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    start += b" " * (-len(start) % 8)
    try:
        with atomic_write(Path(folder, file)) as draft, open(draft, "r+b") as out:
            out.write(len(start).to_bytes(8, "little") + start)
            for name in order:
                out.write(_bytes(tensors[name]))
    except OSError as error:
        why = f"{file} cannot be written in {folder} ({error.strerror or error})"
        raise OSError(f"{why}, and what was there is unchanged: free some space, or name another folder") from None

def header_crc32(path: Path) -> str:
    "The CRC-32 of a file's header, which contains the checksum of each tensor."
    with readable_errors(path), open_regular(path) as file:
        return checksum(_read_header(file))

def config_crc32(folder: Path, file: str) -> str | None:
    "The checksum of the config that these weights were written with; None if the file has none."
    with _open_weights(folder, file) as (_, stored):
        return next(((shard.metadata() or {}).get("config crc32") for _, shard in stored.values()), None)

def check_replaceable(folder: Path):
    "Raise ValueError if a folder has a model that tinygpt did not write (one without checksums)."
    files = sorted(os.listdir(folder)) if folder.is_dir() else []
    ours = [file for file in files if file.endswith(".safetensors") and _has_checksums(folder / file)]
    others = [file for file in files if file.endswith((".safetensors", *PICKLES)) and file not in ours]
    if others or ("config.json" in files and not ours):
        what = _listed(others or ["config.json"])
        raise ValueError(f"{folder} has a model that tinygpt did not write ({what}): name another folder")

def _has_checksums(path: Path) -> bool:
    "Whether a safetensors file has checksums of its tensors."
    try:
        with open_regular(path) as file:
            return any(key.startswith("crc32 ") for key in _read_header(file).get("__metadata__") or ())
    except (ValueError, AttributeError, OSError):
        return False

def list_weights(folder: str | Path, file: str = WEIGHTS) -> dict[str, tuple[int, ...]]:
    "The names and shapes of a folder's tensors, without reading them."
    with _open_weights(Path(folder), file) as (_, stored):
        return {name: tuple(shard.get_slice(name).get_shape()) for name, (_, shard) in stored.items()}

def read_weights(folder: str | Path, shapes: dict[str, tuple[int, ...]], ignore: re.Pattern | None = None,
                 dtype: torch.dtype = torch.float32, file: str = WEIGHTS) -> dict[str, Tensor]:
    "The tensors with these names and shapes; raises ValueError for missing ones, and for others not in `ignore`."
    with _open_weights(Path(folder), file) as (path, stored):
        missing = [repr(name) for name in shapes if name not in stored]
        extra = [repr(name) for name in stored if name not in shapes and not (ignore and ignore.search(name))]
        if missing or extra:
            wrong = [f"lacks {_listed(missing)}"] if missing else []
            wrong += [f"holds {_listed(extra)}, which this model does not have"] if extra else []
            raise ValueError(f"{path} {' and '.join(wrong)}; {SAME_MODEL}")
        return {name: _read_tensor(name, *stored[name], tuple(shape), dtype) for name, shape in shapes.items()}

@contextmanager
def _open_weights(folder: Path, file: str) -> Iterator[tuple[Path, Shards]]:
    "Yield the file that lists a folder's tensors (the weights, or the index of shards), and the tensors by name."
    path, (model, *variant, suffix) = folder / file, file.split(".")
    index = folder / ".".join([model, suffix, "index", *variant, "json"])
    if not is_there(path) and is_there(index):
        path, shards = index, read_json(index, lambda spec: _shards(folder, spec))
    else:
        _check_exists(path)
        shards = {path: None}
    with ExitStack() as stack:
        stored = {}
        for shard, names in shards.items():
            if not shard.is_file():
                raise ValueError(f"{index} needs {shard.name}, which is not there: get that file, too")
            found = _open_shard(shard, stack)
            if names is not None and (differing := names ^ found.keys()):
                wrong = f"{shard} and {index.name} do not agree on {_listed(map(repr, sorted(differing)))}"
                raise ValueError(f"{wrong}: get all files of the model again, from one place")
            stored |= found
        yield path, stored

def _shards(folder: Path, spec: dict) -> dict[Path, set[str]]:
    "The files that an index names, each with the names of its tensors."
    shards = {}
    for name, shard in spec["weight_map"].items():
        if not isinstance(shard, str) or not re.fullmatch(r"[^/\\:\0]+\.safetensors", shard):
            raise ValueError(f"it has {name!r:.80} in {shard!r:.80}, which is not a safetensors file beside it")
        shards.setdefault(folder / shard, set()).add(name)
    return shards

def _open_shard(path: Path, stack: ExitStack) -> Shards:
    "The tensors of a safetensors file, which stays open until the stack is closed."
    with readable_errors(path):
        with open_regular(path) as raw:
            _read_header(raw)
        try:  # pread: reading a mapped file that was truncated would kill the process
            file = stack.enter_context(safe_open(path, "pt", backend="pread"))
        except SafetensorError as error:
            raise ValueError(f"{' '.join(str(error).split())}; get it again") from None
        names, checksums = sorted(file.keys()), {key[6:] for key in file.metadata() or () if key.startswith("crc32 ")}
        if checksums and (differing := checksums.symmetric_difference(names)):
            raise ValueError(f"it has checksums, but not of {_listed(map(repr, sorted(differing)))}; get it again")
        return dict.fromkeys(names, (path, file))

def _read_header(file: BinaryIO) -> dict:
    "The JSON header of a safetensors file; raise ValueError if there is none, or it has the same key twice."
    start = file.read(64)
    if start[8:9] != b"{":
        known = [what for sign, what in FILE_STARTS.items() if start.lstrip().startswith(sign)]
        raise ValueError(f"it is {known[0] if known else 'not a safetensors file' if start else 'empty'}")
    file.seek(8)
    return parse_json(file.read(min(int.from_bytes(start[:8], "little"), LARGEST_JSON)))

def _read_tensor(name: str, path: Path, file: safe_open, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    "A copy of a tensor, converted to `dtype`; raise ValueError if it is damaged, or not of this shape."
    what, stored = f"{path}: its tensor {name!r}", file.get_slice(name)
    if (found := tuple(stored.get_shape())) != shape:
        raise ValueError(f"{what} has the shape {str(found):.80}, but this model's has {shape}; {SAME_MODEL}")
    if (code := stored.get_dtype()) not in CODES.values():
        raise ValueError(f"{what} is {code!r}, and only {_listed(CODES.values())} are read")
    try:
        tensor = file.get_tensor(name)
    except (SafetensorError, RuntimeError, TypeError) as error:
        raise ValueError(f"{what} cannot be read ({' '.join(str(error).split()):.200}); get it again") from None
    if (file.metadata() or {}).get(f"crc32 {name}") not in (None, _checksum(name, tensor)):
        raise ValueError(f"{what} is damaged, for it does not match its checksum; get another copy")
    tensor = tensor.to(dtype, copy=True)  # the copy is aligned for torch
    _check_finite(tensor, what)
    return tensor

def _checksum(name: str, tensor: Tensor) -> str:
    "The CRC-32 of a contiguous tensor's dtype, name and bytes."
    return f"{zlib.crc32(_bytes(tensor), zlib.crc32(f'{CODES[tensor.dtype]} {name}'.encode())):08x}"

def _bytes(tensor: Tensor) -> memoryview:
    "The bytes of a contiguous tensor, not copied."
    flat = tensor.as_strided((tensor.numel(),), (1,))  # reshape(-1) may keep a stride of 2 for one number
    return memoryview(flat.view(torch.uint8).numpy())

def _check_finite(tensor: Tensor, what: str):
    "Raise ValueError if a tensor holds NaN or infinity."
    if tensor.numel() and not all(bound.isfinite() for bound in tensor.aminmax()):
        wrong = f"has numbers that are not finite as {tensor.dtype}"
        raise ValueError(f"{what} {wrong}: use an earlier checkpoint, or another dtype")

def is_there(path: Path) -> bool:
    "Whether this path exists; raises FileNotFoundError for a broken link."
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path} is a link to {os.readlink(path)}, which is not there: get the file again")
    return path.exists()

def _check_exists(path: Path):
    "Raise FileNotFoundError if a folder has no such file."
    if not is_there(path):
        found = _listed(sorted(os.listdir(path.parent)) or ["nothing"])
        raise FileNotFoundError(f"there is no file {path.name} in {path.parent}, which holds {found}")

def _listed(names: Iterable[str]) -> str:
    "The first five names, and how many more there are."
    names = [f"{name:.80}" for name in names]
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
