"""Pictures and recordings at URLs: many small files, in parallel, continued where it stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from mmrec.config.bars import working
from mmrec.config.paths import replace_file
from mmrec.config.text import first_line, printable
from mmrec.data.prepare.base import URL, Places
from mmrec.data.prepare.cache import enough_room
from mmrec.data.prepare.fetch import ELSEWHERE, RETRIED, Fetcher, is_page

if TYPE_CHECKING:
    from requests import Response, Session
    from urllib3 import BaseHTTPResponse

log = logging.getLogger(__name__)
CHUNK = 2**16
LARGEST = 2**26  # bytes of a file
LONGEST_WAIT = 60  # seconds between two attempts, whatever a server asks for
AT_A_TIME = 4096  # URLs that are handed to the connections
DEAD = 20  # attempts in a row without an answer, after which a host is left alone
SHOWN = 3  # failures that are logged
Failure = Mapping[str, Any]  # `url`, `reason`, and whether it is `final`
HEADERS = {"User-Agent": "mmrec"}


class _Failed(Exception):
    """Why a file cannot be downloaded; `final` if another attempt would fail alike."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.final = final


class _Later(Exception):
    """Why another attempt may succeed."""


@dataclass
class Pace:
    """Lets threads begin requests one by one, at a rate.

    Attributes:
        rate: largest number of requests in a second; None: no limit.
    """

    rate: float | None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next: float = 0.0

    def wait(self) -> None:
        """Wait until the next request may begin."""
        if self.rate is None:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + 1 / self.rate
        time.sleep(start - now)


@dataclass
class Downloads:
    """A folder of files by their URLs.

    Attributes:
        fetcher: its folder, timeouts and attempts.
        connections: largest number at the same time.
        rate: largest number of requests in a second; None: no limit.
    """

    fetcher: Fetcher
    connections: int
    rate: float | None
    _failures: Counter[str] = field(default_factory=Counter)  # in a row, by host

    def path(self, url: str) -> Path:
        """Return where the file of a URL is kept."""
        name = hashlib.sha256(url.encode()).hexdigest()
        return self.fetcher.folder / "media" / name[:3] / name

    def localize(self, places: Places, ids: pl.Series, name: str) -> Places:
        """Download what is missing, and replace URLs by paths.

        What fails is recorded in `media/<name>.failed.jsonl`, a line for each item. A file that is
        there is not downloaded again, nor one that failed in a way that will not change, until the
        record is deleted.

        Args:
            places: of the files.
            ids: [I] of the items, for the record.
            name: of the record.

        Returns:
            Places without URLs; `failed` items have no file.
        """
        frame = pl.DataFrame({"item": ids, "url": places.found})
        frame = frame.filter(pl.col("url").str.contains(URL))
        if frame.is_empty():
            return places
        grouped = frame.group_by("url", maintain_order=True).agg("item")
        items: dict[str, list[str]] = dict(grouped.iter_rows())
        record = self.fetcher.folder / "media" / f"{name}.failed.jsonl"
        failed: dict[str, Failure] = {
            line["url"]: line for line in _lines(record) if line["url"] in items
        }
        if not self.fetcher.offline:
            known = {url: line for url, line in failed.items() if line["final"]}
            failed = self._download(items, known, record)
        found = {url: str(path) for url in items if (path := self.path(url)).is_file()}
        lost = [url for url in items if url not in found]
        if lost:
            unknown = {"reason": "offline=true downloads nothing"}
            shown = ", ".join(
                f"{printable(url, 200)} ({failed.get(url, unknown)['reason']})"
                for url in lost[:SHOWN]
            )
            more = ", ..." if len(lost) > SHOWN else ""
            log.warning(
                "%s of %s files could not be downloaded, so their items lack this modality: %s%s; "
                "all are in %s, which can be deleted to try them all again",
                f"{len(lost):,}",
                f"{len(items):,}",
                shown,
                more,
                record,
            )
        return Places(
            places.found.replace_strict(
                [*items],
                [found.get(url, "") for url in items],
                default=places.found,
            ),
            {**places.without, "failed": sum(len(items[url]) for url in lost)},
            places.unused,
        )

    def _download(
        self,
        items: Mapping[str, Sequence[str]],
        known: Mapping[str, Mapping[str, Any]],
        record: Path,
    ) -> dict[str, Failure]:
        """Download the files of URLs that are not there, and record what fails."""
        record.parent.mkdir(parents=True, exist_ok=True)
        missing = [url for url in items if url not in known and not self.path(url).is_file()]
        failed = dict(known)
        what = f"download {len(missing):,} files"
        with (
            enough_room(record, ELSEWHERE),
            record.open("w", encoding="utf-8") as file,
            working(what, len(missing), "files") as advance,
        ):
            for url, line in known.items():
                _write(file, items[url], line)
            for url, problem in self._attempts(missing):
                if problem is not None:
                    failed[url] = {"url": url, "reason": str(problem), "final": problem.final}
                    _write(file, items[url], failed[url])
                advance()
        return failed

    def _attempts(self, urls: Sequence[str]) -> Iterator[tuple[str, _Failed | None]]:
        """Download in parallel; yield URLs in their order with what went wrong."""
        import requests
        from requests.adapters import HTTPAdapter

        pace = Pace(self.rate)
        waiting = iter(urls)
        with requests.Session() as session, ThreadPoolExecutor(self.connections) as pool:
            session.headers.update(HEADERS)
            adapter = HTTPAdapter(pool_connections=self.connections, pool_maxsize=self.connections)
            for scheme in ("http://", "https://"):
                session.mount(scheme, adapter)
            try:
                while some := [*islice(waiting, AT_A_TIME)]:
                    found = pool.map(lambda url: self._attempt(session, pace, url), some)
                    yield from zip(some, found, strict=True)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _attempt(self, session: Session, pace: Pace, url: str) -> _Failed | None:
        try:
            body = self._body(session, pace, url)
        except _Failed as problem:
            return problem
        path = self.path(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as part:
            part.write_bytes(body)
        return None

    def _body(self, session: Session, pace: Pace, url: str) -> bytes:
        """Download a file, with several attempts that wait longer and longer."""
        import requests
        from urllib3 import Retry
        from urllib3.exceptions import HTTPError, MaxRetryError

        host = url.split("/")[2]
        retry = Retry(
            total=self.fetcher.attempts - 1,
            backoff_factor=self.fetcher.wait,
            backoff_max=LONGEST_WAIT,
            retry_after_max=LONGEST_WAIT,
        )
        while True:
            if self._failures[host] >= DEAD:
                raise _Failed(
                    f"{printable(host)} did not answer {DEAD} times in a row", final=False
                )
            pace.wait()
            raw: BaseHTTPResponse | None = None
            try:
                with session.get(url, stream=True, timeout=self.fetcher.timeout) as answer:
                    raw = answer.raw
                    self._failures[host] = 0  # it answers
                    return _checked_body(answer)
            except (_Later, requests.ConnectionError, requests.Timeout, HTTPError) as error:
                self._failures[host] += raw is None
                reason = printable(first_line(error), 200)
                try:
                    retry = retry.increment("GET", url, response=raw)
                except MaxRetryError:
                    raise _Failed(reason, final=False) from error
                retry.sleep(raw)
            except (requests.RequestException, ValueError) as error:
                raise _Failed(printable(first_line(error), 200), final=True) from error


def _checked_body(answer: Response) -> bytes:
    """Read the body of an answer, and refuse what is no picture or recording."""
    if answer.status_code in RETRIED:
        raise _Later(f"the server answers {answer.status_code} {answer.reason}")
    if answer.status_code != 200:
        raise _Failed(f"the server answers {answer.status_code} {answer.reason}", final=True)
    body = bytearray()
    for block in answer.raw.stream(CHUNK, decode_content=True):
        body += block
        if len(body) > LARGEST:
            raise _Failed(f"larger than {LARGEST // 2**20} MiB", final=True)
    if not body:
        raise _Failed("the file is empty", final=True)
    if answer.headers.get("Content-Type", "").startswith("text/html") or is_page(bytes(body[:512])):
        raise _Failed("the server sends a web page instead of the file", final=True)
    return bytes(body)


def _write(file: Any, items: Sequence[str], line: Failure) -> None:
    for item in items:
        file.write(json.dumps({"item": item, **line}) + "\n")
    file.flush()


def _lines(record: Path) -> Iterator[dict[str, Any]]:
    """The lines of a record; none if there is none, and no damaged line."""
    if not record.is_file():
        return
    for text in record.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and {"url", "reason", "final"} <= line.keys():
            line.pop("item", None)
            yield line
