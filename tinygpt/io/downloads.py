"""Texts and models from the network, downloaded once."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import responses
from pathlib import Path
from urllib.parse import urlsplit
from platformdirs import user_cache_dir
from tqdm import tqdm

SHAKESPEARE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TINYSTORIES = {"repo_type": "dataset", "repo_id": "roneneldan/TinyStories",
               "revision": "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"}

def cache_folder() -> Path:
    "The folder for downloads: the one named in TINYGPT_CACHE, or else the user's cache."
    return Path(os.environ.get("TINYGPT_CACHE") or user_cache_dir("tinygpt")).expanduser()

@contextmanager
def writable_cache() -> Iterator[None]:
    "Raise an OSError with one sentence, and a way out, if the cache cannot be written."
    try:
        yield
    except OSError as error:
        if not str(error.filename).startswith(str(cache_folder())):
            raise
        raise OSError(f"{cache_folder()} cannot be written ({error.strerror}): name another folder in TINYGPT_CACHE, "
                      "or free some space there") from None

def shakespeare() -> Path:
    "The 1.1 MB of tinyshakespeare, downloaded once."
    return download(SHAKESPEARE, SHAKESPEARE_SHA256, "tinyshakespeare.txt")

def tinystories() -> dict[str, Path]:
    "The 2.3 GB of TinyStories, version 2, downloaded once; <|endoftext|> separates the stories."
    return {"train": hub_file("TinyStoriesV2-GPT4-train.txt"), "val": hub_file("TinyStoriesV2-GPT4-valid.txt")}

def download(url: str, sha256: str, name: str, timeout: float = 30, retries: int = 2) -> Path:
    "The path of a file in the cache, downloaded if it is missing or its checksum is wrong."
    import pooch
    def fetch(url: str, draft: str, _):
        with tqdm(total=1, desc=name, unit="B", unit_scale=True) as bar:  # 1: pooch tests the bar, then sets its total
            pooch.HTTPDownloader(progressbar=bar, timeout=timeout)(url, draft, None)
        os.chmod(draft, 0o644)  # readable for all, since a class may share a cache; pooch makes its drafts for one user
    with _readable_errors(url, name):
        cache = pooch.create(cache_folder(), "", registry={name: sha256}, urls={name: url}, retry_if_failed=retries)
        return Path(cache.fetch(name, downloader=fetch))

def hub_file(name: str) -> Path:
    "The path of a file of TinyStories: put into the cache by hand, or else downloaded once from the hub."
    import huggingface_hub as hub
    folder, file = cache_folder(), TINYSTORIES | {"filename": name}
    if (folder / name).is_file():
        return folder / name
    url = hub.hf_hub_url(**file)
    with _readable_errors(url, name):
        if not hub.try_to_load_from_cache(**file, cache_dir=folder):
            hub.get_hf_file_metadata(url)  # without a network this fails soon; the next line would try for minutes
        return Path(hub.hf_hub_download(**file, cache_dir=folder))

def hub_folder(repo: str, revision: str | None, files: list[str], otherwise: str) -> Path:
    "A folder with these files of a model on the hub, downloaded once; `otherwise` begins the message of a failure."
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, snapshot_download
    wanted = {"revision": revision, "cache_dir": cache_folder(), "allow_patterns": files, "ignore_patterns": "*/*"}
    with _readable_errors(f"{constants.ENDPOINT}/{repo}", f"{otherwise}, and {repo}",
                          "download it where there is a network, or pass the path of a folder that holds it",
                          ", so it has no such model, or your account may not read it (log in with: hf auth login)"):
        try:
            return Path(snapshot_download(repo, **wanted, local_files_only=True))
        except FileNotFoundError:
            # without a network these two lines fail soon, while the next one would wait for ever
            config = hf_hub_url(repo, "config.json", revision=revision)
            get_hf_file_metadata(config, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            return Path(snapshot_download(repo, **wanted))

@contextmanager
def _readable_errors(url: str, what: str, instead: str = "", denied: str = "") -> Iterator[None]:
    "Raise an error that says why a download failed and what to do instead; `denied` explains the statuses 401 to 404."
    instead = instead or f'put that file at {cache_folder() / what}, or use corpus("tales"), which needs no network'
    try:
        yield
    except Exception as error:  # the errors of pooch, requests and the hub have no class in common
        causes = [error]
        while below := [e for e in (causes[-1].__cause__, *causes[-1].args) if isinstance(e, Exception)]:
            causes.append(below[0])
        root, status = causes[-1], [e.response.status_code for e in causes if getattr(e, "response", None) is not None]
        if isinstance(error, PermissionError) or getattr(error, "errno", None):
            raise OSError(f"{what} cannot be saved in {cache_folder()} ({root.strerror or root}); name a folder that "
                          f"you may write to in TINYGPT_CACHE, or {instead}") from None
        kind, detail = OSError, re.split(r"\.\s", str(root))[0]
        if status:
            reason = f"the server answers {status[0]} {responses.get(status[0], '')}".rstrip()
            reason += denied if 401 <= status[0] <= 404 else ""
        elif isinstance(root, ConnectionError | TimeoutError) or getattr(root, "errno", None):
            reason = f"the network or {urlsplit(url).hostname} cannot be reached ({detail})"
        elif isinstance(error, ValueError):
            sent = "another file (its SHA-256 is wrong)" if "SHA256" in detail else "something else"
            kind, reason = ValueError, f"it sent {sent}, perhaps a log-in page"
        else:
            reason = f"the transfer failed ({detail})"
        raise kind(f"{what} could not be downloaded from {url}: {reason}; {instead}") from None
