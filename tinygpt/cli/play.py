"""tinygpt play: a model in a page of your browser."""

import tempfile
import warnings
import webbrowser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import tinygpt as tg
from tinygpt import guard
from tinygpt.cli.sample import load_model
from tinygpt.cli.settings import UsageError
from tinygpt.show.progress import printable

PAGE = Path(__file__).parents[1] / "show" / "playground"
RUN_FILES = ("config.json", "model.safetensors", "tokenizer.json")
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css",
         ".json": "application/json", ".safetensors": "application/octet-stream"}
HEADERS = {"Content-Security-Policy": "default-src 'self'; img-src data:",
           "Cross-Origin-Resource-Policy": "same-origin", "X-Content-Type-Options": "nosniff",
           "Cache-Control": "no-store"}

def files_to_serve(run: str | None) -> dict[str, bytes]:
    "By their paths: the files of the page, and those of the run, whatever form it has on disk."
    files = {f"/{path.name}": path.read_bytes() for path in PAGE.iterdir() if path.suffix in KINDS}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the page opens shapes that no other library does
        tg.save(folder, *load_model(run, "cpu", "float32"))
        return files | {f"/run/{name}": Path(folder, name).read_bytes() for name in RUN_FILES}

class Handler(BaseHTTPRequestHandler):
    "Answers requests for the server's files."

    def do_GET(self):
        path = "/index.html" if self.path == "/" else self.path
        host = self.headers.get("Host", "").partition(":")[0]
        if host not in ("127.0.0.1", "localhost"):  # another site's name can be made to point to this machine
            return self.send_error(403, "this server answers only to 127.0.0.1")
        if path not in self.server.files:
            return self.send_error(404)
        body = self.server.files[path]
        self.send_response(200)
        sizes = {"Content-Type": KINDS[Path(path).suffix], "Content-Length": str(len(body))}
        for name, value in (sizes | HEADERS).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

class Server(ThreadingHTTPServer):
    "A web server on the loopback address that holds a few files in memory, and never looks at the disk."

    def __init__(self, files: dict[str, bytes], port: int):
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            wrong = f"port {port} cannot be used ({error.strerror})"
            raise ValueError(f"{wrong}: name another one, or leave out --port") from None
        self.files = files

    def handle_error(self, *_):
        pass  # a browser that closed its connection

def play(
    run: str | None = None,  # a run, a folder, or a model on the hub (default: the small model that tinygpt includes)
    *,
    port: int = 0,  # of the page's address; 0: one that is free
    no_browser: bool = False,  # only print the address, and open no browser
):
    "Open a model in your browser: write, look at the alternatives, and see its attention."
    try:
        guard.whole_number("port", port, 0, 65_535)
    except ValueError as error:
        raise UsageError(str(error)) from None
    with Server(files_to_serve(run), port) as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"{printable(run or 'the model of tinygpt')} is at {address} until you press Control-C", flush=True)
        if not no_browser:
            webbrowser.open(address)
        server.serve_forever()
