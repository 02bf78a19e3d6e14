"""Texts from the network and from disk, with every fault that a local server or a file can have."""

import gzip
import hashlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest
import regex
import requests
import tokenizers
from conftest import need
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt.engine.splitting import GPT2_SPLIT, GPT4_SPLIT, LONG_CHUNK, count_chunks, pieces
from tinygpt.io import downloads
from tinygpt.io.corpus import corpus
from tinygpt.io.downloads import download
from tinygpt.io.text import read_text, text_files, text_size
from tinygpt.tokenizer import BPETokenizer

BODY = os.urandom(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
assert pooch and requests  # loaded before a test gives up its rights


class Answer(BaseHTTPRequestHandler):
    """Answers by the first of the server's plans, and keeps the last one."""

    def do_GET(self):
        plans = self.server.plans
        with self.server.lock:
            plan = plans.pop(0) if len(plans) > 1 else plans[0]
            self.server.asked.append((self.command, self.path, self.headers.get("Range")))
        self.close_connection = True
        plan(self)

    do_HEAD = do_GET

    def log_message(self, *words):
        pass

    def send(self, body=BODY, status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
            self.wfile.flush()


def whole(answer):
    answer.send()


def truncated(answer):
    answer.send(BODY[:1000], length=len(BODY))


def reset(answer):
    truncated(answer)
    answer.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(answer.connection.detach())


def stalled(answer):
    truncated(answer)
    answer.server.over.wait(10)


def silent(answer):
    answer.server.over.wait(10)


def hung_up(answer):
    pass


def lie(answer):
    answer.send(BODY[:-1] + bytes([BODY[-1] ^ 1]))


def page(answer):
    answer.send(b"<html>Please log in</html>", Content_Type="text/html")


def status(number, **headers):
    def plan(answer):
        answer.send(b"no", number, **headers)

    plan.__name__ = str(number)
    return plan


@pytest.fixture
def serve():
    """A local server that answers by plans, one after the other; yields its address."""
    servers = []

    def start(*plans):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        server.plans, server.asked, server.lock, server.over = list(plans), [], threading.Lock(), threading.Event()
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        servers.append(server)
        server.url = f"http://127.0.0.1:{server.server_port}"
        return server

    yield start
    for server in servers:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache for the test, and no proxy around the local server."""
    monkeypatch.setenv("TINYGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,nowhere.invalid")
    return tmp_path / "cache"


@pytest.fixture
def nobody():
    """Drop root's rights inside the block."""
    need(hasattr(os, "seteuid"), "a system with users")

    @contextmanager
    def rights():
        user = os.geteuid()
        os.seteuid(user or 65534)
        try:
            yield
        finally:
            os.seteuid(user)

    return rights


def dead_port():
    """A local port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def files_in(folder):
    return sorted(path.name for path in Path(folder).rglob("*") if path.is_file())


def is_one_sentence(error):
    message = str(error)
    assert "\n" not in message and ". " not in message and len(message) < 500
    assert error.__cause__ is None and error.__suppress_context__
    return message


# Downloads by address


def test_a_download_is_whole_shown_and_kept(serve, cache, capfd):
    server = serve(whole)
    for _ in range(2):
        path = download(f"{server.url}/a", SHA256, "a.bin")
        assert path == cache / "a.bin" and path.read_bytes() == BODY
    assert len(server.asked) == 1 and files_in(cache) == ["a.bin"]
    assert re.search(r"a\.bin: 100%.*300k/300k", capfd.readouterr().err)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "plan, kind, said",
    [
        (truncated, OSError, "the transfer failed (IncompleteRead(1000 bytes read"),
        (reset, OSError, "Connection reset by peer"),
        (stalled, OSError, "127.0.0.1 cannot be reached (timed out)"),
        (silent, OSError, "127.0.0.1 cannot be reached (timed out)"),
        (hung_up, OSError, "127.0.0.1 cannot be reached (Remote end closed"),
        (lie, ValueError, "its SHA-256 is wrong"),
        (page, ValueError, "perhaps a log-in page"),
        (status(404), OSError, "the server answers 404 Not Found"),
        (status(500), OSError, "the server answers 500 Internal Server Error"),
        (status(520), OSError, "the server answers 520;"),
    ],
)
@pytest.mark.parametrize("damaged", [False, True], ids=["nothing cached", "damaged in cache"])
def test_each_fault_is_one_sentence_and_leaves_nothing(serve, cache, plan, kind, said, damaged):
    if damaged:
        cache.mkdir()
        (cache / "a.bin").write_bytes(BODY[:-1])
    url = f"{serve(plan).url}/a"
    with pytest.raises(kind) as caught:
        download(url, SHA256, "a.bin", timeout=0.2 if plan in (stalled, silent) else 30, retries=0)
    message = is_one_sentence(caught.value)
    assert message.startswith(f"a.bin could not be downloaded from {url}: ") and said in message
    assert message.endswith(f'; put that file at {cache / "a.bin"}, or use corpus("tales"), which needs no network')
    assert isinstance(caught.value, OSError) == (kind is OSError)
    assert files_in(cache) == ["a.bin"] * damaged


@pytest.mark.parametrize("plan", [truncated, reset, stalled, lie, page, status(503)])
def test_a_fault_that_passes_is_recovered_from(serve, cache, plan, monkeypatch):
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    server = serve(plan, whole)
    timeout, retries = (0.5, 5) if plan is stalled else (30, 1)
    assert download(f"{server.url}/a", SHA256, "a.bin", timeout, retries).read_bytes() == BODY
    assert len(server.asked) > 1 and files_in(cache) == ["a.bin"]


def test_a_damaged_file_in_the_cache_is_fetched_anew(serve, cache):
    cache.mkdir()
    (cache / "a.bin").write_bytes(BODY[:-1] + b"?")
    assert download(f"{serve(whole).url}/a", SHA256, "a.bin").read_bytes() == BODY
    assert files_in(cache) == ["a.bin"]


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_without_a_network(cache, host):
    url = f"http://{host}:{dead_port()}/a"
    with pytest.raises(OSError, match=re.escape(f"{url}: the network or {host} cannot be reached (")) as caught:
        download(url, SHA256, "a.bin", retries=0)
    assert 'a.bin, or use corpus("tales")' in is_one_sentence(caught.value)
    assert files_in(cache) == []


def test_an_error_already_in_hand_is_not_taken_for_the_cause(cache):
    with pytest.raises(OSError, match="refused"):
        try:
            raise KeyError("another matter")
        except KeyError:
            download(f"http://127.0.0.1:{dead_port()}/a", SHA256, "a.bin", retries=0)


def test_with_a_cached_file_no_network_is_needed(cache):
    cache.mkdir()
    (cache / "a.bin").write_bytes(BODY)
    assert download("http://nowhere.invalid/a", SHA256, "a.bin") == cache / "a.bin"


def test_a_cache_that_cannot_be_written(serve, cache, nobody, monkeypatch):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        server = serve(whole)
        for place in folder, f"{folder}/deeper":
            monkeypatch.setenv("TINYGPT_CACHE", place)
            with nobody(), pytest.raises(OSError, match="TINYGPT_CACHE") as caught:
                download(f"{server.url}/a", SHA256, "a.bin")
            message = is_one_sentence(caught.value)
            assert message.startswith(f"a.bin cannot be saved in {place} (Permission denied);")
        os.chmod(folder, 0o755)
        monkeypatch.setenv("TINYGPT_CACHE", folder)
        download(f"{server.url}/a", SHA256, "a.bin")
        os.chmod(folder, 0o555)
        with nobody():
            assert download("http://nowhere.invalid/a", SHA256, "a.bin").read_bytes() == BODY


def test_a_cache_that_is_a_file(serve, cache):
    cache.write_text("in the way")
    with pytest.raises(OSError, match=re.escape(f"a.bin cannot be saved in {cache} (Not a directory);")) as caught:
        download(f"{serve(whole).url}/a", SHA256, "a.bin")
    is_one_sentence(caught.value)


def test_two_processes_at_once(serve, cache):
    both = threading.Barrier(2, timeout=60)

    def together(answer):
        both.wait()
        answer.send()

    server = serve(together)
    arguments = f"{server.url + '/a'!r}, {SHA256!r}, 'a.bin', retries=0"
    ask = f"from tinygpt.io.downloads import download; print(download({arguments}))"
    runs = [subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [run.communicate(timeout=60)[0].strip() for run in runs] == [str(cache / "a.bin")] * 2
    assert (cache / "a.bin").read_bytes() == BODY and files_in(cache) == ["a.bin"]
    assert len(server.asked) == 2


def test_shakespeare(serve, cache, reference, monkeypatch):
    text = (reference / "tinyshakespeare.txt").read_bytes()
    monkeypatch.setattr(downloads, "SHAKESPEARE", serve(lambda answer: answer.send(text)).url)
    path = downloads.shakespeare()
    assert path == cache / "tinyshakespeare.txt" and path.read_bytes() == text
    assert text_size(path) == 1_115_394
    parts = ["".join(read_text(path, *part)) for part in ((0, 1_003_854), (1_003_854,))]
    assert [len(part) for part in parts] == [1_003_854, 111_540] and "".join(parts) == text.decode()


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYGPT_CACHE", "~/elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert downloads.cache_folder() == tmp_path / "elsewhere"
    monkeypatch.setenv("TINYGPT_CACHE", "")
    assert downloads.cache_folder() == pooch.os_cache("tinygpt")


# Downloads from the hub

HUB = "/datasets/roneneldan/TinyStories/resolve/f54c09fd23315a6f9c86f9dc80f725de7d8f9c64/TinyStoriesV2-GPT4-"
HEADERS = {"X_Repo_Commit": "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64", "Accept_Ranges": "bytes"}


def story(path, times=1000):
    """What the hub has under this address: so many bytes that it is sent in two parts, or not many."""
    return path.encode() * times


def hub(answer, times=1000, sent=None):
    """As the hub does: what a file is in headers, and the rest of it to who asks for that."""
    body = story(answer.path, times)
    begin = int(re.search(r"\d+", answer.headers.get("Range") or "0")[0])
    more = {"Content_Range": f"bytes {begin}-{len(body) - 1}/{len(body)}"} if begin else {}
    etag = f'"{hashlib.sha256(body).hexdigest()}"'
    answer.send(body[begin:sent], 206 if begin else 200, len(body) - begin, ETag=etag, **HEADERS, **more)


def hub_drops(answer):
    hub(answer, sent=3000)


def hub_page(answer):
    hub(answer) if answer.command == "HEAD" else page(answer)


def tell_stories(endpoint, cache, **env):
    """What tinystories() returns or raises in a process of its own: the hub's address is read when it is imported."""
    tell = (
        "import json, time\n"
        "time.sleep = lambda seconds: None\n"
        "from tinygpt.io.downloads import tinystories\n"
        "try: print(json.dumps({split: str(path) for split, path in tinystories().items()}))\n"
        "except Exception as e: print(json.dumps([type(e).__name__, str(e), bool(e.__cause__), e.__suppress_context__]))"
    )
    env = {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": f"{cache}-hf",
        "HF_TOKEN": "",
        **env,
    }
    return subprocess.Popen(
        [sys.executable, "-c", tell], env=os.environ | env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def told(run):
    output, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    return json.loads(output), errors


def check_stories(paths, times=1000):
    for split, part in ("train", "train"), ("val", "valid"):
        assert Path(paths[split]).read_bytes() == story(f"{HUB}{part}.txt", times)
    assert set(paths) == {"train", "val"}


def test_tinystories_are_downloaded_once_and_then_need_no_network(serve, cache):
    server = serve(hub)
    paths, errors = told(tell_stories(server.url, cache, TQDM_POSITION="-1"))
    check_stories(paths)
    assert all(Path(path).is_relative_to(cache) for path in paths.values())
    assert {path for _, path, _ in server.asked} == {f"{HUB}train.txt", f"{HUB}valid.txt"}
    assert all(f"TinyStoriesV2-GPT4-{part}.txt: 100%" in errors for part in ("train", "valid"))
    assert not [name for name in files_in(cache) if "incomplete" in name]
    assert told(tell_stories(f"http://127.0.0.1:{dead_port()}", cache))[0] == paths


def test_tinystories_when_the_connection_drops(serve, cache):
    times, chunk = 110_000, 10 << 20  # what came goes to disk by chunks
    assert chunk < len(story(HUB, times)) < 2 * chunk

    def drops(answer):
        hub(answer, times, chunk + 1000)

    def goes_on(answer):
        hub(answer, times)

    server = serve(goes_on, goes_on, drops, goes_on)  # the first two are asked what the file is, the third for it
    check_stories(told(tell_stories(server.url, cache))[0], times)
    assert [asked for asked in server.asked if asked[2]] == [("GET", f"{HUB}train.txt", f"bytes={chunk}-")]


def test_tinystories_for_two_processes_at_once(serve, cache):
    server = serve(hub)
    for run in [tell_stories(server.url, cache) for _ in range(2)]:
        check_stories(told(run)[0])
    assert not [name for name in files_in(cache) if "incomplete" in name]


def test_tinystories_put_into_the_cache_by_hand(cache):
    cache.mkdir()
    for part in "train", "valid":
        (cache / f"TinyStoriesV2-GPT4-{part}.txt").write_text("by hand")
    paths, _ = told(tell_stories(f"http://127.0.0.1:{dead_port()}", cache))
    assert {Path(path).read_text() for path in paths.values()} == {"by hand"} and set(paths) == {"train", "val"}


FAULTS = {
    "401": (status(401, X_Error_Code="RepoNotFound"), {}, "the server answers 401 Unauthorized;"),
    "404": (status(404, X_Error_Code="EntryNotFound"), {}, "the server answers 404 Not Found;"),
    "500": (status(500), {}, "the server answers 500 Internal Server Error;"),
    "page": (page, {}, "the transfer failed (Response from "),
    "drops": (hub_drops, {}, "the transfer failed (peer closed connection without sending complete message body"),
    "page for file": (hub_page, {}, "the transfer failed (Consistency check failed: file should be of size "),
    "hung up": (hung_up, {}, "the transfer failed (Server disconnected"),
    "silent": (silent, {"HF_HUB_ETAG_TIMEOUT": "1"}, "the network or 127.0.0.1 cannot be reached (timed out);"),
    "dead": (None, {}, "the network or 127.0.0.1 cannot be reached ([Errno 111] Connection refused);"),
    "offline": (hub, {"HF_HUB_OFFLINE": "1"}, "the network or 127.0.0.1 cannot be reached (Cannot reach "),
}


def test_each_fault_of_the_hub_is_one_sentence(serve, cache):
    urls = {name: serve(plan).url if plan else f"http://127.0.0.1:{dead_port()}" for name, (plan, *_) in FAULTS.items()}
    runs = {
        name: tell_stories(urls[name], f"{cache}-{name}", TINYGPT_CACHE=f"{cache}-{name}", **FAULTS[name][1])
        for name in FAULTS
    }
    for name, run in runs.items():
        (kind, message, *chained), errors = told(run)
        assert kind == "OSError" and "\n" not in message and ". " not in message and chained == [False, True]
        file = "TinyStoriesV2-GPT4-train.txt"
        assert message.startswith(f"{file} could not be downloaded from {urls[name]}{HUB}train.txt: ")
        assert FAULTS[name][2] in message and "Retrying" not in errors
        assert message.endswith(
            f'; put that file at {cache}-{name}/{file}, or use corpus("tales"), which needs no network'
        )
        assert not [left for left in files_in(f"{cache}-{name}") if "Stories" in left or "incomplete" in left]


# Files and folders


def test_what_a_folder_holds(tmp_path):
    names = "b.txt", "a/z.MD", "a/notes.text", "a/b/c.txt.gz", "c.md.GZ"
    others = "x.py", "y.gz", "txt", ".hidden.txt", ".git/d.txt", "a/.b/e.txt"
    for name in names + others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "folder.txt").mkdir()
    assert text_files(tmp_path) == text_files(str(tmp_path)) == sorted(tmp_path / name for name in names)
    for name in ("x.py", "y.gz", "txt", ".hidden.txt", *names):
        assert text_files(tmp_path / name) == [tmp_path / name]


def test_links(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "real.txt").write_text("text")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "linked.txt").symlink_to(tmp_path / "a" / "real.txt")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    (tmp_path / "to-nowhere.md").symlink_to(tmp_path / "nowhere.txt")
    found = [tmp_path / "a" / "real.txt", tmp_path / "linked.txt"]
    assert text_files(tmp_path) == found
    assert text_files(tmp_path / "a" / "again") == [
        tmp_path / "a" / "again" / name.relative_to(tmp_path) for name in found
    ]
    with pytest.raises(OSError, match="symbolic links.*loop.txt"):
        text_files(tmp_path / "loop.txt")
    with pytest.raises(FileNotFoundError) as caught:
        text_files(tmp_path / "to-nowhere.md")
    assert str(caught.value) == f"there is no file or folder {tmp_path / 'to-nowhere.md'}"
    monkeypatch.setenv("HOME", str(tmp_path / "a"))
    assert text_files("~/real.txt") == found[:1]


def test_a_path_that_is_not_there(tmp_path, monkeypatch):
    for name in "notes.txt", "notes.md", "other.csv":
        (tmp_path / name).write_text("text")
    with pytest.raises(FileNotFoundError) as caught:
        text_files(tmp_path / "note.txt")
    assert is_one_sentence(caught.value).startswith(
        f"there is no file or folder {tmp_path / 'note.txt'}; did you mean {tmp_path / 'notes.txt'}"
    )
    assert "csv" not in str(caught.value)
    with pytest.raises(FileNotFoundError) as caught:
        text_files(tmp_path / "nowhere" / "notes.txt")
    assert str(caught.value) == f"there is no file or folder {tmp_path / 'nowhere' / 'notes.txt'}"
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="folder foldr/deep/a.txt; did you mean folder?"):
        text_files("foldr/deep/a.txt")


def test_a_folder_without_text(tmp_path):
    for _ in range(2):
        with pytest.raises(FileNotFoundError) as caught:
            text_files(tmp_path)
        message = str(caught.value)
        assert message == f"{tmp_path} holds no text: no file in it ends in .txt, .md, .text, .txt.gz, .md.gz, .text.gz"
        (tmp_path / "picture.png").write_bytes(b"\x89PNG")


def test_what_may_not_be_read(nobody):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        inner, file = Path(folder, "inner"), Path(folder, "a.txt")
        inner.mkdir(mode=0)
        file.write_text("text")
        file.chmod(0)
        for read in text_files, lambda path: text_files(path / "a.txt"):
            with nobody(), pytest.raises(PermissionError, match="Permission denied: .*inner") as caught:
                read(inner if read is not text_files else Path(folder))
            assert caught.value.__cause__ is None and caught.value.__context__ is None
        for read in text_size, lambda path: list(read_text(path)):
            with nobody(), pytest.raises(PermissionError, match="Permission denied: .*a.txt"):
                read(file)


def test_pipes_and_devices_are_no_texts(tmp_path):
    need(hasattr(os, "mkfifo"), "pipes")
    for name in "pipe.txt", "pipe.txt.gz":
        os.mkfifo(tmp_path / name)
        (tmp_path / f"zero-{name}").symlink_to("/dev/zero")
        for path in tmp_path / name, tmp_path / f"zero-{name}":
            for read in text_size, lambda path: list(read_text(path)), corpus:
                with pytest.raises(ValueError, match=f"{path} is not a regular file, but a pipe or a device"):
                    read(path)
    (tmp_path / "a.txt").write_text("text")
    assert text_files(tmp_path) == [tmp_path / "a.txt"]


# Reading


def write(path, content):
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)
    return path


@pytest.fixture(scope="module", params=["a.txt", "a.txt.gz"])
def place(request, tmp_path_factory):
    """Where to write, plain and packed."""
    return tmp_path_factory.mktemp("texts") / request.param


a_letter = st.sampled_from("\ufeffa\n\ré€😀\0") | st.characters(exclude_categories=["Cs"])
a_text = st.lists(a_letter, max_size=20).map("".join)
a_piece = st.integers(1, 9)


@settings(deadline=None)
@given(a_text, a_piece, st.integers(0, 50), st.none() | st.integers(0, 50))
def test_the_characters_that_begin_in_a_range(place, text, piece, start, stop):
    write(place, text.encode())
    assert text_size(place) == len(text.encode())
    begins = [len(text[:i].encode()) for i in range(len(text))]
    stop_at = 1000 if stop is None else stop
    expected = [letter for letter, begin in zip(text, begins) if start <= begin < stop_at]
    if expected and start == 0 and text[0] == "\ufeff":
        expected = expected[1:]
    pieces = list(read_text(place, start, stop, piece))
    assert "".join(pieces) == "".join(expected)
    assert all(pieces) and all(len(part.encode()) <= piece + 3 for part in pieces)


@settings(deadline=None)
@given(a_text, a_piece)
def test_ranges_join_without_a_gap(place, text, piece):
    write(place, text.encode())
    for cut in range(len(text.encode()) + 2):
        joined = "".join(read_text(place, 0, cut, piece)) + "".join(read_text(place, cut, None, piece))
        assert joined == text.removeprefix("\ufeff")


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=3) | st.sampled_from([b"abc", "é".encode(), "€".encode(), "😀".encode()])),
    a_piece,
    st.integers(0, 20),
)
def test_what_is_not_utf8_is_found_where_it_is(place, parts, piece, cut):
    raw = b"\n" + b"".join(parts)
    write(place, raw)
    try:
        expected = raw.decode()
    except UnicodeDecodeError as error:
        with pytest.raises(ValueError) as caught:
            list(read_text(place, 0, None, piece))
        assert f"{place} is not UTF-8: {error.reason} at byte {error.start}" in is_one_sentence(caught.value)
        assert ("packed in it" in str(caught.value)) == (place.suffix == ".gz")
        with pytest.raises(ValueError, match=rf" at byte {error.start}\b"):
            list(read_text(place, 0, cut, piece)) + list(read_text(place, cut, None, piece))
    else:
        assert "".join(read_text(place, 0, None, piece)) == expected


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_is_recognized(place, encoding):
    write(place, "\ufeffOnce".encode(encoding))
    with pytest.raises(ValueError, match=f"{place} is UTF-16, not UTF-8: save it as UTF-8 .* iconv -f UTF-16 -t UTF-8"):
        list(read_text(place))


def test_line_ends_stay_and_empty_files_are_empty(place):
    write(place, b"a\r\nb\rc\n")
    assert list(read_text(place)) == ["a\r\nb\rc\n"]
    write(place, b"")
    assert list(read_text(place)) == [] and text_size(place) == 0
    write(place, b"\xef\xbb\xbf")
    assert list(read_text(place)) == [] and text_size(place) == 3


def test_a_damaged_gz_is_named(tmp_path):
    path, packed = tmp_path / "a.gz", gzip.compress(BODY[:2000].hex().encode())
    damaged = [packed[:n] for n in (*range(40), 1000, len(packed) - 9, len(packed) - 1)]
    damaged += [packed[:n] + bytes([packed[n] ^ 255]) + packed[n + 1 :] for n in (0, 1, 2, 700, len(packed) - 6)]
    for content in (*damaged, b"not packed at all", packed + b"more"):
        path.write_bytes(content)
        for read in text_size, lambda path: list(read_text(path)):
            with pytest.raises(ValueError, match=f"{path} is damaged, or not a gzip file: ") as caught:
                read(path)
            is_one_sentence(caught.value)
    path.write_bytes(packed + gzip.compress(b"more"))
    assert "".join(read_text(path)) == BODY[:2000].hex() + "more" and text_size(path) == 4004


def test_memory_stays_flat(tmp_path):
    line, times = "Once upon a time, une fée 😀 said: " * 1000, 2800
    for path in tmp_path / "big.txt", tmp_path / "big.txt.gz":
        with gzip.open(path, "wb", 1) if path.suffix == ".gz" else open(path, "wb") as file:
            for _ in range(times):
                file.write(line.encode())
        size = len(line.encode()) * times
        assert size > 100_000_000
        tracemalloc.start()
        try:
            assert text_size(path) == size
            assert (
                sum(map(len, read_text(path, 0, size // 2))) + sum(map(len, read_text(path, size // 2)))
                == len(line) * times
            )
            assert tracemalloc.get_traced_memory()[1] < 15_000_000
        finally:
            tracemalloc.stop()


# Text without a place to cut


def test_a_chunk_without_end_is_learned_from_in_parts(tmp_path):
    dna = "".join(random.Random(0).choices("ACGT", k=20_500))
    text = f"A well, {dna} and {dna}! {'-' * 3000}\n"
    for pattern in GPT2_SPLIT, GPT4_SPLIT, None, "[a-z]+":
        counts = count_chunks(["Once.", text], pattern)
        assert sum(len(chunk) * times for chunk, times in counts.items()) == len(text) + 5
        assert max(map(len, counts)) == LONG_CHUNK
    whole = Counter(regex.findall(GPT4_SPLIT, text))
    short = Counter({chunk: times for chunk, times in whole.items() if len(chunk) <= LONG_CHUNK})
    assert count_chunks(text, GPT4_SPLIT) & short == short and len(short) == len(whole) - 2
    tok = BPETokenizer.train(text, 400)
    tok.save(tmp_path)
    ids = tok.encode(text)  # encoding cuts no chunk
    assert ids == tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids
    assert tok.decode(ids) == text and len(ids) < len(text) / 2


def test_a_text_that_cannot_be_cut_is_not_gathered_without_end():
    taken = []
    texts = (taken.append(i) or "a" * (1 << 20) for i in range(1000))
    with pytest.raises(ValueError, match="4,194,304 characters without the end of a word, from 'aaaaa") as caught:
        list(pieces(texts, GPT4_SPLIT))
    assert len(taken) < 20 and caught.value.__context__ is None


BOMB = """
import sys
import tinygpt as tg
try: tg.encode_corpus(tg.corpus(sys.argv[1]).train, tg.the_tokenizer(), sys.argv[1] + "-tokens")
except ValueError as error: print(error)
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def test_a_packed_bomb_takes_little_memory(tmp_path):
    need(Path("/proc/self/status").exists(), "/proc")
    with gzip.open(tmp_path / "bomb.txt.gz", "wb", 1) as file:
        for _ in range(400):
            file.write(bytes(1_000_000))
    assert (tmp_path / "bomb.txt.gz").stat().st_size < 2_000_000
    command = [sys.executable, "-c", BOMB, tmp_path / "bomb.txt.gz"]
    said, peak = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.splitlines()
    assert "characters without the end of a word" in said and int(peak) < 500_000  # kB


def test_what_only_downloads_need_is_not_imported():
    ask = "import sys, tinygpt.io.downloads; assert not {'pooch', 'requests', 'huggingface_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", ask], check=True)
