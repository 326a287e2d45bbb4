"""Lists in parts hold what a single file holds."""

import json
import os
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from mmrec.commands import recommend as module
from mmrec.commands.recommend import recommend
from mmrec.commands.run import run
from mmrec.commands.shards import MANIFEST, parse_shard
from mmrec.config.errors import SettingError


@pytest.fixture(scope="module")
def trained(composed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "run"
    words = ("model=bpr", "data=planted", "data.world.users=60", "data.world.items=60")
    run(composed(*words, "trainer=debug", f"run_dir={folder}"), [])
    return folder


@pytest.fixture(scope="module")
def whole(trained):
    path = trained.parent / "whole.parquet"
    recommend(run=trained, output=str(path), k=5)
    return pl.read_parquet(path)


def read(folder):
    return pl.read_parquet(sorted(folder.glob("part-*.parquet")))


def test_all_parts_together_are_the_whole(trained, whole, tmp_path):
    folder = tmp_path / "lists"
    assert recommend(run=trained, output=str(folder), k=5, shard=7) == folder
    assert_frame_equal(read(folder), whole)
    manifest = json.loads((folder / MANIFEST).read_text())
    assert [part["file"] for part in manifest["parts"]] == sorted(
        path.name for path in folder.glob("part-*.parquet")
    )
    assert (manifest["users"], manifest["rows"]) == (60, len(whole))


def test_parts_written_one_by_one_in_any_order(trained, whole, tmp_path, monkeypatch):
    folder = tmp_path / "lists"
    for number in (3, 1):
        recommend(run=trained, output=str(folder), k=5, shard=f"{number}/3")
        assert not (folder / MANIFEST).exists()
    before = [path.stat().st_mtime_ns for path in sorted(folder.glob("part-*"))]
    ranked = []
    lists = module.ranked_lists
    monkeypatch.setattr(module, "ranked_lists", lambda *a: ranked.append(len(a[1])) or lists(*a))
    recommend(run=trained, output=str(folder), k=5, shard=3)
    assert ranked == [20]  # the users of the missing part only
    assert_frame_equal(read(folder), whole)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert before == [after["part-00001-of-00003.parquet"], after["part-00003-of-00003.parquet"]]
    assert (folder / MANIFEST).exists()


def test_parts_of_another_request_are_not_mixed(trained, tmp_path):
    folder, wanted = tmp_path / "lists", tmp_path / "wanted.csv"
    wanted.write_text("user\n1\n2\n3\n4\n")
    words = {"run": trained, "output": str(folder), "users": str(wanted)}
    recommend(**words, shard="1/2")
    with pytest.raises(SettingError) as refused:
        recommend(**words, k=3, shard="1/2")
    assert refused.value.setting == "output"
    wanted.write_text("user\n5\n6\n7\n8\n")
    with pytest.raises(SettingError) as refused:
        recommend(**words, shard=2)
    assert refused.value.setting == "output"
    assert not (folder / MANIFEST).exists()


def test_another_number_of_parts_is_refused_before_anything_is_written(trained, tmp_path):
    folder = tmp_path / "lists.v1"  # a name with a dot
    recommend(run=trained, output=str(folder), k=5, shard="1/2")
    for changed in ({"k": 5, "shard": "1/3"}, {"k": 4, "shard": "2/2"}, {"k": 5, "shard": 3}):
        with pytest.raises(SettingError) as refused:
            recommend(run=trained, output=str(folder), **changed)
        assert refused.value.setting == "output"
    assert [path.name for path in folder.iterdir()] == ["part-00001-of-00002.parquet"]


def test_a_file_named_like_a_part_of_the_data_changes_nothing(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recommend(run=trained, output="lists", k=5, seen="train", shard="1/2")
    Path("train").mkdir()
    recommend(run=trained, output="lists", k=5, seen="train", shard=2)
    assert (tmp_path / "lists" / MANIFEST).exists()


@pytest.mark.parametrize("shard", ["0/3", "4/3", "3/", "a/b", "-1", "1/2/3", 0, "1/100000"])
def test_a_shard_is_a_part_of_a_number(shard, tmp_path):
    with pytest.raises(SettingError) as refused:
        parse_shard(shard, str(tmp_path / "lists"))
    assert (refused.value.setting, refused.value.value) == ("shard", shard)


@pytest.mark.parametrize("output", [None, "lists.parquet"])
def test_the_output_of_parts_is_a_folder(output):
    with pytest.raises(SettingError) as refused:
        parse_shard("1/2", output)
    assert refused.value.setting == "output"


def test_no_more_parts_than_users(trained, tmp_path):
    with pytest.raises(SettingError) as refused:
        recommend(run=trained, output=str(tmp_path / "lists"), users=[1, 2], shard="1/3")
    assert refused.value.setting == "shard"


def test_an_engine_writes_parts(trained):
    with pytest.raises(SettingError) as refused:
        recommend(run=trained, engine="ray")
    assert refused.value.setting == "engine"


def test_ray_writes_the_same_parts(trained, whole, tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.chdir(tmp_path)
    recommend(run=trained, output="lists", k=5, shard=2, engine="ray")
    assert_frame_equal(read(tmp_path / "lists"), whole)
    assert (tmp_path / "lists" / MANIFEST).exists()
