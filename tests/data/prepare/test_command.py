"""From public files on a server to a run, by the settings that a user types."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from mmrec.commands import prepare as command
from mmrec.commands.prepare import prepare, run_command
from mmrec.commands.run import run
from mmrec.config.errors import DataError, SettingError
from mmrec.config.schema import conf_dir
from mmrec.data.prepare import encoders

TINY = ("trainer=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false")


def settings(*words):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return OmegaConf.to_container(compose("prepare", [*words]), resolve=True)


@pytest.fixture
def words(amazon, tmp_path, monkeypatch):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MMREC_DATA", str(tmp_path / "sets"))
    chosen = ["prepare@data=baby", f"data.mirrors=[{amazon.url}]", "data.text_model=null"]
    return [*chosen, f"downloads={tmp_path / 'raw'}"]


def test_a_public_set_is_prepared_and_trained_on(words, composed, core, tmp_path, caplog):
    chosen = ("data=baby", "model=vbpr", f"data.root={tmp_path / 'sets'}", *TINY)
    few = ("evaluation.cutoffs=[5]", "monitor=val/recall@5")
    config = composed(*chosen, *few, f"run_dir={tmp_path / 'run'}")
    with pytest.raises(DataError) as error:
        run(config, [])
    assert "`mmrec prepare data=baby`" in error.value.hint

    folder = run_command(settings(*words))
    assert folder == tmp_path / "sets" / "baby"
    assert "baby is not the published set" in caplog.text
    assert "instead of 19,445" in caplog.text
    result = run(config, [])
    assert result["status"] == "completed"
    card = result["data_card"]
    assert card["split"] == "official"
    assert card["train"] + card["val"] + card["test"] == len(core)
    assert [*card["modalities"]] == ["image"]
    assert run_command(settings(f"check={folder}")) == folder
    assert run_command(settings("check=baby")) == folder
    assert "After each stage" in (folder / "card.html").read_text()

    with (folder / "image_feat.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    with pytest.raises(DataError) as error:
        run_command(settings(f"check={folder}"))
    assert error.value.file == "baby/image_feat.npy"


@pytest.mark.usefixtures("words")
def test_a_run_makes_a_missing_public_set(amazon, composed, core, tmp_path, monkeypatch):
    known = command.public_settings

    def local(name, root):
        plain = known(name, root)
        assert plain["data"]["text_model"] == "sentence-transformers/all-MiniLM-L6-v2"
        plain["data"] |= {"mirrors": [amazon.url], "text_model": None}
        return plain

    monkeypatch.setattr(command, "public_settings", local)
    few = ("evaluation.cutoffs=[5]", "monitor=val/recall@5", "data.prepare=true", *TINY)
    result = run(composed("data=baby", "model=lightgcn", *few, f"run_dir={tmp_path / 'run'}"), [])
    card = result["data_card"]
    assert card["train"] + card["val"] + card["test"] == len(core)
    assert "prepare" not in (tmp_path / "run" / "config.yaml").read_text()
    asked = len(amazon.requests)
    again = composed("data=baby", "model=lightgcn", *few, f"run_dir={tmp_path / 'again'}")
    assert run(again, [])["config_hash"] == result["config_hash"]
    assert len(amazon.requests) == asked


def test_only_public_sets_are_made(tmp_path):
    data = {"name": "nobody", "root": str(tmp_path), "prepare": True}
    with pytest.raises(SettingError) as error:
        command.prepare_missing(data)
    assert "baby, beauty" in error.value.problem
    command.prepare_missing(data | {"prepare": False})
    with pytest.raises(SettingError) as error:
        command.prepare_missing(data | {"prepare": "perhaps"})
    assert error.value.setting == "data.prepare"
    (tmp_path / "nobody").mkdir()
    command.prepare_missing(data)


def test_a_set_that_cannot_be_made_names_the_command(tmp_path, monkeypatch):
    library = replace(encoders.LIBRARIES["text"][""], packages=["no_such_package"])
    monkeypatch.setitem(encoders.LIBRARIES["text"], "", library)
    with pytest.raises(SettingError) as error:
        command.prepare_missing({"name": "baby", "root": str(tmp_path), "prepare": True})
    assert "mmrec[text]" in error.value.problem
    assert "`mmrec prepare data=baby" in error.value.hint
    assert not (tmp_path / "baby").exists()


def test_offline_without_files_says_where_they_go(words, tmp_path):
    with pytest.raises(DataError) as error:
        run_command(settings(*words, "offline=true"))
    assert error.value.file == str(tmp_path / "raw" / "reviews_Baby_5.json.gz")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["prepare@data=amazon2018", "data.category=Books"], "Books_2018"),
        (["prepare@data=amazon2023", "data.category=Books"], "Books_2023"),
        (["prepare@data=movielens", "data.size=32m"], "ml-32m"),
        (["prepare@data=microlens"], "microlens-100k"),
    ],
)
def test_public_sets_are_named_by_what_was_chosen(words, name, tmp_path):
    where = [f"downloads={tmp_path}", f"data.root={tmp_path}", "offline=true"]
    with pytest.raises(DataError) as error:
        run_command(settings(*words, *where, "data.text_model=null"))
    assert "offline=true" in error.value.problem
    assert (tmp_path / f".preparing-{name}.lock").exists()


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("data.k_core=-1", "data.k_core"),
        ("data.duplicates=some", "data.duplicates"),
        ("data.split=official", "data.split"),
        ("data.malformed_lines=x", "data.malformed_lines"),
        ("offline=maybe", "offline"),
        ("check=nowhere", "data"),
    ],
)
def test_a_wrong_setting_is_named(words, word, setting):
    with pytest.raises(SettingError) as error:
        run_command(settings(*words, word))
    assert error.value.setting == setting


def test_a_set_or_a_folder_to_check_is_needed(tmp_path):
    with pytest.raises(SettingError) as error:
        prepare()
    assert error.value.setting == "data"
    with pytest.raises(SettingError) as error:
        prepare(check=str(tmp_path / "nowhere"))
    assert error.value.setting == "check"
    with pytest.raises(DataError) as error:
        prepare(check=str(tmp_path))
    assert error.value.problem == "no interactions"
