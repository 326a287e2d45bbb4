"""A local server with faults on request, and small files in the formats of Amazon 2014."""

from __future__ import annotations

import gzip
import json
import random
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from mmrec.data.prepare.base import RawFile

USERS, ITEMS, SEED = 24, 14, 7


class Server:
    """Serves bytes by path; `faults[path]` holds what goes wrong with the next requests of it."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list] = defaultdict(list)
        self.requests: list[tuple[str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.hanging = threading.Event()
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, request):
        path, asked = request.path, request.headers.get("Range")
        self.requests.append((path, asked))
        fault = self.faults[path].pop(0) if self.faults[path] else None
        body = self.files.get(path)
        if body is None or isinstance(fault, int):
            request.send_error(fault if isinstance(fault, int) else 404)
            return
        if fault == "page":
            page = b"<!DOCTYPE html><html>sorry</html>"
            request.send_response(200)
            request.send_header("Content-Type", "text/html")
            request.send_header("Content-Length", str(len(page)))
            request.end_headers()
            request.wfile.write(page)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        request.send_response(206 if asked else 200)
        request.send_header("ETag", '"one"')
        part = body[start:]
        request.send_header("Content-Length", str(len(part) + 100 * (fault == "lie")))
        request.end_headers()
        if fault == "cut":
            part = part[: len(part) // 2]
        request.wfile.write(part[: len(part) // 2] if fault == "hang" else part)
        request.wfile.flush()
        if fault == "hang":
            self.hanging.wait(5)

    def close(self):
        self.hanging.set()
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.close()


def reviews(users=USERS, items=ITEMS, seed=SEED):
    """Records of reviews: a 5-core, and a user and an item that are in none."""
    draw = random.Random(seed)
    rows = [
        record(f"A{user:04d}", f"B{item:09d}", draw)
        for user in range(users)
        for item in draw.sample(range(items), 8)
    ]
    rows.append(record("A9999", "B000000001", draw))
    rows += [record(f"A{user:04d}", "B000000099", draw) for user in range(2)]
    draw.shuffle(rows)
    return rows


def record(user, item, draw):
    return {
        "reviewerID": user,
        "asin": item,
        "reviewerName": 'Ann "A." O\'Neil',
        "helpful": [0, 1],
        "reviewText": "fine, really",
        "overall": float(draw.randint(1, 5)),
        "summary": "ok",
        "unixReviewTime": 1_300_000_000 + 86_400 * draw.randrange(1000),
        "reviewTime": "03 13, 2011",
    }


def details(item):
    """A line of metadata as the files have it: a Python literal."""
    return {
        "asin": f"B{item:09d}",
        "categories": [["Baby", f"Room | {item % 3}"], ["Toys"]],
        "description": f"It's\nnumber {item}.",
        "title": f'The "big" thing {item}',
        "imUrl": f"http://example.org/{item}.jpg",
        "related": {"also_bought": ["B1", "B2"]},
    } | ({"brand": "O'Brand"} if item % 2 else {})


def packed(lines):
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def image_record(item):
    features = np.full(4096, item, dtype="<f4")
    return f"B{item:09d}".encode() + features.tobytes()


@pytest.fixture
def amazon(server):
    """The server with the files of Baby; item 3 has no metadata, item 5 no image."""
    server.files["/categoryFiles/reviews_Baby_5.json.gz"] = packed(map(json.dumps, reviews()))
    listed = [item for item in range(40) if item != 3]
    server.files["/categoryFiles/meta_Baby.json.gz"] = packed(map(repr, map(details, listed)))
    random.Random(1).shuffle(listed)
    images = b"".join(image_record(item) for item in [*listed, 3] if item != 5)
    server.files["/image_features/categoryFiles/image_features_Baby.b"] = images
    return server


@pytest.fixture
def core():
    """The 5-core of the reviews, by a naive loop."""
    pairs = [(row["reviewerID"], row["asin"]) for row in reviews()]
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        kept = [(user, item) for user, item in pairs if users[user] >= 5 and items[item] >= 5]
        if kept == pairs:
            return {*pairs}
        pairs = kept


@pytest.fixture
def lines():
    """Helpers that make files: records of reviews, gzipped lines, a file as a source."""
    return SimpleNamespace(reviews=reviews, packed=packed, raw=lambda path: RawFile(path, ""))
