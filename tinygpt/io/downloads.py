"""Texts and models from the network, downloaded once."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import responses
from pathlib import Path
from urllib.parse import urlsplit


TALES = 'use corpus("tales"), which needs no network'
SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TINYSTORIES = {
    "repo_type": "dataset",
    "repo_id": "roneneldan/TinyStories",
    "revision": "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64",
}

def cache_folder() -> Path:
    "Where downloads are kept: the folder that TINYGPT_CACHE names, or else the user's own cache."
    from platformdirs import user_cache_dir

    return Path(os.environ.get("TINYGPT_CACHE") or user_cache_dir("tinygpt")).expanduser()


def shakespeare() -> Path:
    "The 1.1 MB of tinyshakespeare, downloaded once."
    return download(SHAKESPEARE, SHAKESPEARE_SHA256, "tinyshakespeare.txt")


def tinystories() -> dict[str, Path]:
    "The 2.3 GB of TinyStories in their second version, downloaded once; <|endoftext|> stands between two stories."
    return {"train": hub_file("TinyStoriesV2-GPT4-train.txt"), "val": hub_file("TinyStoriesV2-GPT4-valid.txt")}


def download(url: str, sha256: str, name: str, timeout: float = 30, retries: int = 2) -> Path:
    "A file of the cache, downloaded if it is not there or is not what it should be."
    import pooch
    from tqdm import tqdm

    def fetch(url: str, draft: str, _):
        with tqdm(total=1, desc=name, unit="B", unit_scale=True) as bar:  # 1: pooch tests the bar, then sets its total
            pooch.HTTPDownloader(progressbar=bar, timeout=timeout)(url, draft, None)
        os.chmod(draft, 0o644)  # pooch makes its drafts for one user alone, but a whole class may share a cache

    folder = cache_folder()
    with _explained(url, name, folder, f"put that file at {folder / name}", TALES):
        cache = pooch.create(folder, "", registry={name: sha256}, urls={name: url}, retry_if_failed=retries)
        return Path(cache.fetch(name, downloader=fetch))


def hub_file(name: str) -> Path:
    "A file of TinyStories: one that was put into the cache by hand, or else the hub's, downloaded once."
    import huggingface_hub as hub

    folder = cache_folder()
    if (by_hand := folder / name).is_file():
        return by_hand
    file = TINYSTORIES | {"filename": name}
    url = hub.hf_hub_url(**file)
    with _explained(url, name, folder, f"put that file at {by_hand}", TALES):
        if not hub.try_to_load_from_cache(**file, cache_dir=folder):
            hub.get_hf_file_metadata(url)  # without a network this fails soon; the next line would try for minutes
        return Path(hub.hf_hub_download(**file, cache_dir=folder))


def hub_folder(repo: str, revision: str | None, files: list[str], otherwise: str) -> Path:
    "A folder with these files of one of the hub's models, downloaded once; `otherwise`: what is said before a failure."
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, snapshot_download

    url, keep = f"{constants.ENDPOINT}/{repo}", cache_folder()
    by_hand, instead = "download it where there is a network", "pass the path of a folder that holds it"
    refused = ", so it has no such model, or not for you (hf auth login tells it who you are)"
    wanted = {"revision": revision, "cache_dir": keep, "allow_patterns": files, "ignore_patterns": "*/*"}
    with _explained(url, f"{otherwise}, and {repo}", keep, by_hand, instead, refused):
        try:
            return Path(snapshot_download(repo, **wanted, local_files_only=True))
        except FileNotFoundError:
            # without a network this fails soon; the line after it would wait for ever
            config = hf_hub_url(repo, "config.json", revision=revision)
            get_hf_file_metadata(config, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            return Path(snapshot_download(repo, **wanted))


@contextmanager
def _explained(url: str, what: str, folder: Path, by_hand: str, instead: str, refused: str = "") -> Iterator[None]:
    "Say in one sentence why a download failed, and what to do instead; `refused`: what a server means by 401 to 404."
    try:
        yield
    except Exception as error:  # what pooch, requests, the hub and its transports raise has no class in common
        causes = [error]
        while below := [e for e in (causes[-1].__cause__, *causes[-1].args) if isinstance(e, Exception)]:
            causes.append(below[0])
        root = causes[-1]
        if isinstance(error, PermissionError) or getattr(error, "errno", None):
            why = f"{what} cannot be kept in {folder} ({root.strerror or root})"
            raise OSError(f"{why}; name a folder that you may write to in TINYGPT_CACHE, or {instead}") from None
        kind, status = OSError, [e.response.status_code for e in causes if getattr(e, "response", None) is not None]
        detail = re.split(r"\.\s", str(root))[0]
        if status:
            reason = f"the server answers {status[0]} {responses.get(status[0], '')}".rstrip()
            reason += refused if 401 <= status[0] <= 404 else ""
        elif isinstance(root, ConnectionError | TimeoutError) or getattr(root, "errno", None):
            reason = f"the network or {urlsplit(url).hostname} cannot be reached ({detail})"
        elif isinstance(error, ValueError):
            sent = "another file (its SHA-256 is wrong)" if "SHA256" in detail else "no answer to this"
            kind, reason = ValueError, f"what it sends is {sent}, perhaps a log-in page"
        else:
            reason = f"the transfer failed ({detail})"
        why = f"{what} could not be downloaded from {url}: {reason}"
        raise kind(f"{why}; {by_hand}, or {instead}") from None
