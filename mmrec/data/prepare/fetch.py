"""Downloads: mirrors in order, partial files resumed, checksums known or recorded at first use."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from filelock import FileLock

from mmrec.config.bars import in_terminal, working
from mmrec.config.errors import DataError
from mmrec.config.paths import replace_file
from mmrec.config.text import first_line, printable
from mmrec.data.files import digests
from mmrec.data.prepare.base import RawFile, json_object
from mmrec.data.prepare.cache import enough_room

if TYPE_CHECKING:
    from requests import Response

log = logging.getLogger(__name__)

CHUNK = 2**20
ELSEWHERE = "make room, or set downloads to another folder; the download goes on there"
ATTEMPTS = 5  # to get further with one mirror
WAIT = 1.0  # seconds before the second attempt; doubled each time
TIMEOUT = (10.0, 60.0)  # seconds to connect, and without a byte
RETRIED = {408, 425, 429, 500, 502, 503, 504}  # a server may answer otherwise later
BEGINNINGS = {  # of a file by its suffix, and what it then is
    ".gz": (b"\x1f\x8b", "compressed with gzip"),
    ".zip": (b"PK\x03\x04", "a zip archive"),
    ".npy": (b"\x93NUMPY", "an array of NumPy"),
}
PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head")


class _MirrorFailed(Exception):
    """What is wrong with a mirror, in one line."""


@dataclass(frozen=True)
class Fetcher:
    """Downloads files into a folder, or takes those that are there.

    Attributes:
        folder: where files are kept.
        offline: download nothing.
        attempts: to get further with a mirror, after a failure.
        wait: seconds before the second attempt; doubled each time.
        timeout: seconds to connect, and to wait for the next bytes.
    """

    folder: Path
    offline: bool = False
    attempts: int = ATTEMPTS
    wait: float = WAIT
    timeout: tuple[float, float] = TIMEOUT

    def fetch(self, name: str, urls: Sequence[str], sha256: str | None, page: str) -> RawFile:
        """Return a file, downloaded if it is not there.

        Args:
            name: of the file.
            urls: mirrors in the order in which they are tried.
            sha256: of its content; None: recorded at first use, and compared from then on.
            page: where a person finds the file.

        Raises:
            DataError: no mirror has the file, or its content is not what is expected.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / name
        with FileLock(self.folder / f".{name}.lock"):
            record = _record(path)
            if not path.is_file():
                if self.offline:
                    raise DataError(
                        file=path,
                        problem="it is not there, and offline=true downloads nothing",
                        hint=f"download it from {page} into this folder, or leave offline=true out",
                    )
                record = {"url": self._download(path, urls, sha256, page)}
            check_beginning(path, page)
            digest = digests([path])[path]
            expected = sha256 or record.get("sha256")
            if expected and digest != expected:
                raise DataError(
                    file=path,
                    found=f"sha256 {digest}",
                    expected=f"{expected}, {'as configured' if sha256 else 'as at its first use'}",
                    hint="delete it to download it again",
                )
            if record.get("sha256") != digest:
                with replace_file(_record_path(path)) as part:
                    part.write_text(json.dumps({**record, "sha256": digest}) + "\n")
        return RawFile(path, digest, record.get("url"))

    def _download(self, path: Path, urls: Sequence[str], sha256: str | None, page: str) -> str:
        """Download a file from the first mirror that has it; return its address."""
        import pooch

        pooch.get_logger().setLevel(logging.ERROR)  # it prints digests, which we record
        reasons = []
        for url in urls:
            try:
                pooch.retrieve(
                    url,
                    known_hash=sha256,
                    fname=path.name,
                    path=path.parent,
                    downloader=_Resuming(self, path.with_name(f"{path.name}.partial")),
                )
                return url
            except (_MirrorFailed, ValueError) as error:  # pooch raises ValueError for a wrong hash
                if isinstance(error, DataError):
                    raise
                reasons.append(f"{url}: {error}")
                log.warning("%s: %s", url, error)
        listed = "; ".join(reasons) or "no mirror is configured"
        raise DataError(
            file=path.name,
            problem=f"cannot be downloaded ({printable(listed, 600)})",
            hint=f"download it from {page} into {path.parent}, or set data.mirrors",
        )


@dataclass(frozen=True)
class _Resuming:
    """A downloader for pooch that goes on with a partial file.

    Attributes:
        fetcher: its settings.
        partial: the unfinished file; what it is a part of stands in a file beside it.
    """

    fetcher: Fetcher
    partial: Path

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download to `output_file`, the temporary file that pooch then checks and moves."""
        import requests
        from urllib3.exceptions import HTTPError

        wait, failures = self.fetcher.wait, 0
        with requests.Session() as session:
            while True:
                before = self._size()
                try:
                    self._attempt(session, url)
                    break
                except (requests.RequestException, HTTPError) as error:
                    # An attempt that brought new bytes does not count.
                    failures = 1 if self._size() > before else failures + 1
                    if failures >= self.fetcher.attempts:
                        raise _MirrorFailed(printable(first_line(error), 200)) from error
                    log.info("%s; trying again in %g s", printable(first_line(error), 200), wait)
                    time.sleep(wait)
                    wait *= 2
        try:
            check_beginning(self.partial, url)
        except DataError as error:
            self._forget()
            raise _MirrorFailed(error.problem) from error
        self.partial.replace(output_file)
        self._forget()

    def _attempt(self, session: Any, url: str) -> None:
        """Get what is missing of the file, in one request."""
        headers = {"Accept-Encoding": "identity"}
        start, tag = self._size(), _record(self.partial)
        if start and tag.get("url") == url and tag.get("tag"):
            headers |= {"Range": f"bytes={start}-", "If-Range": tag["tag"]}
        with session.get(url, headers=headers, stream=True, timeout=self.fetcher.timeout) as answer:
            if answer.status_code == 416:  # the partial file is as long as the file, or longer
                self._forget()
                answer.reason = "Range Not Satisfiable, starting again"
                answer.raise_for_status()
            if answer.status_code >= 400 and answer.status_code not in RETRIED:
                raise _MirrorFailed(f"the server answers {answer.status_code} {answer.reason}")
            answer.raise_for_status()
            if answer.headers.get("Content-Type", "").startswith("text/html"):
                raise _MirrorFailed("the server sends a web page instead of the file")
            if answer.status_code != 206:
                start = 0
                name = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
                text = json.dumps({"url": url, "tag": name})
                _record_path(self.partial).write_text(text)
            self._receive(answer, start)

    def _receive(self, answer: Response, start: int) -> None:
        """Append the body of an answer to the partial file, from a place on."""
        length = answer.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        blocks = None if total is None else -(-total // CHUNK)
        what = f"download {self.partial.name.removesuffix('.partial')}"
        if total is not None and not in_terminal():
            what += f" ({total / 1e6:,.0f} MB)"
        with (
            enough_room(self.partial, ELSEWHERE),
            self.partial.open("r+b" if start else "wb") as file,
        ):
            file.seek(start)
            file.truncate()
            with working(what, blocks, "MiB") as advance:
                for block in _blocks(answer, file):
                    file.write(block)
                    advance()

    def _size(self) -> int:
        return self.partial.stat().st_size if self.partial.is_file() else 0

    def _forget(self) -> None:
        self.partial.unlink(missing_ok=True)
        _record_path(self.partial).unlink(missing_ok=True)


def _blocks(answer: Response, file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a body as they were sent; a shorter body than announced is an error."""
    try:
        yield from answer.raw.stream(CHUNK, decode_content=False)
    finally:
        file.flush()


def is_page(start: bytes) -> bool:
    """Whether the beginning of a file is that of a web page."""
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGE)


def check_beginning(path: Path, source: str) -> None:
    """Refuse a web page that was saved as data, and a file of another kind than its name says.

    Args:
        path: of the file.
        source: its address, or the page where it is found.

    Raises:
        DataError: it is such a file.
    """
    with path.open("rb") as file:
        start = file.read(512)
    kind, what = next(
        (kind for end, kind in BEGINNINGS.items() if f"{path.name}.".find(f"{end}.") >= 0),
        (b"", ""),
    )
    page = is_page(start)
    if page or not start or not start.startswith(kind):
        problem = "it is a web page, not data" if page else f"it is not {what}"
        raise DataError(
            file=path,
            problem=problem if start else "the file is empty",
            hint=f"delete it, and download it again from {source}",
        )


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _record(path: Path) -> Mapping[str, Any]:
    """What is known of a file: its address, and its digest or tag."""
    return json_object(_record_path(path))
