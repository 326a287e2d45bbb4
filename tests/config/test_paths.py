"""Files that are replaced in one step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmrec.config.errors import DataError, SettingError
from mmrec.config.paths import cache_dir, data_root, expand, replace_file
from mmrec.tables.headers import check_data
from mmrec.training.names import check_files

WRITE_AND_WAIT = """
import sys
from pathlib import Path
from mmrec.config.schema import SettingError
from mmrec.config.errors import DataError
from mmrec.tables.headers import check_data
from mmrec.training.names import check_files
from mmrec.config.paths import cache_dir, data_root, expand, replace_file
with replace_file(Path(sys.argv[1])) as part:
    part.write_text("half")
    print(part.name, flush=True)
    sys.stdin.readline()
    part.write_text("whole")
"""


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture
def writer(tmp_path):
    """Start a process that is in the middle of a write of `last.ckpt`."""
    started = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_AND_WAIT, str(tmp_path / "last.ckpt")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip() == f".last.ckpt.{process.pid}.part"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "a[1].txt"
    path.write_text("old")
    with replace_file(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.parent == tmp_path
    assert path.read_text() == "new"
    assert hidden(tmp_path) == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with replace_file(path) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert hidden(tmp_path) == []


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path):
    with replace_file(tmp_path / "a") as part:
        part.write_text("x")
    (tmp_path / "b").write_text("x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of POSIX")
def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path, writer):
    process = writer()
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = f".last.ckpt.{process.pid}.part"
    with replace_file(tmp_path / "another") as part:
        part.write_text("x")
    assert hidden(tmp_path) == [left]  # only the same file's next write decides
    with replace_file(tmp_path / "last.ckpt") as part:
        part.write_text("x")
        assert hidden(tmp_path) == [part.name]
    assert hidden(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of POSIX")
def test_the_unfinished_file_of_a_living_process_stays(tmp_path, writer):
    process = writer()
    with replace_file(tmp_path / "last.ckpt") as part:
        part.write_text("mine")
    assert (tmp_path / "last.ckpt").read_text() == "mine"
    assert hidden(tmp_path) == [f".last.ckpt.{process.pid}.part"]
    process.communicate("\n")
    assert process.returncode == 0
    assert (tmp_path / "last.ckpt").read_text() == "whole"
    assert hidden(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of POSIX")
def test_leftovers_of_earlier_versions_and_of_a_reused_process_id_go(tmp_path):
    for name in (".a.1.part", f".a.{os.getpid()}.part"):
        (tmp_path / name).write_text("half")
    kept = [".a.txt.1.part", ".a.notes.part", ".b.1.part"]
    for name in kept:
        (tmp_path / name).write_text("someone else's")
    with replace_file(tmp_path / "a") as part:
        part.write_text("x")
    assert hidden(tmp_path) == sorted(kept)


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
def test_a_link_in_the_place_of_an_unfinished_file_is_not_followed(tmp_path):
    target = tmp_path / "precious"
    target.write_text("keep")
    (tmp_path / f".a.{os.getpid()}.part").symlink_to(target)
    os.mkfifo(tmp_path / ".a.7.part")  # opening it would block
    with replace_file(tmp_path / "a") as part:
        part.write_text("x")
    assert target.read_text() == "keep"
    assert (tmp_path / "a").read_text() == "x"
    assert not (tmp_path / "a").is_symlink()


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def unknown(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    (tmp_path / ".a.1.part").write_text("half")
    with replace_file(tmp_path / "a") as part:
        part.write_text("x")
    assert (tmp_path / "a").read_text() == "x"
    assert hidden(tmp_path) == [".a.1.part"]  # nobody knows whether its writer lives


@pytest.mark.parametrize("path", ["~no_such_user_here", "~no_such_user_here/x.csv"])
def test_a_home_folder_of_nobody_is_an_ordinary_name(path, monkeypatch):
    monkeypatch.setenv("MMREC_CACHE", path)
    monkeypatch.setenv("MMREC_DATA", path)
    assert expand(path) == cache_dir() == data_root() == Path(path)
    with pytest.raises(SettingError) as missing:
        check_files(users=Path(path))
    assert (missing.value.setting, missing.value.value) == ("users", Path(path))
    columns = {"user": "userID", "item": "itemID"}
    node = {"_target_": "mmrec.data.FolderData", "root": path, "name": "mine", "columns": columns}
    with pytest.raises(DataError) as error:
        check_data(node, [])
    assert error.value.file == path
