"""Settings name models, and a wrong one is refused before anything is downloaded."""

from __future__ import annotations

import hashlib

import pytest

from mmrec.config.errors import SettingError
from mmrec.data.prepare import encoders
from mmrec.data.prepare.encode import Encoder
from mmrec.data.prepare.encoders import Library, check_model, parse_model


def made(_model) -> Encoder:
    raise AssertionError


@pytest.fixture(autouse=True)
def _libraries(monkeypatch):
    found = {
        "text": {"": Library(["numpy"], "text", made)},
        "image": {"net": Library(["no_such_package"], "image", made)},
    }
    monkeypatch.setattr(encoders, "LIBRARIES", found)


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(SettingError) as error:
        check_model(parse_model("image", "net:small", "float32"))
    assert error.value.problem == "it needs the package no_such_package"
    assert "mmrec[image]" in error.value.hint


@pytest.mark.parametrize("name", ["./nowhere", "~/nowhere", "some/where/else"])
def test_a_missing_folder_is_named(name):
    with pytest.raises(SettingError) as error:
        check_model(parse_model("text", name, "float32"))
    assert error.value.problem == "there is no such folder"


@pytest.mark.parametrize("value", ["small", "net:", "other:small"])
def test_a_model_needs_the_name_of_its_library(value):
    with pytest.raises(SettingError) as error:
        parse_model("image", value, "float32")
    assert error.value.setting == "data.image_model"
    assert error.value.expected.startswith("net:NAME")


def test_the_files_of_a_folder_are_digested(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights").write_bytes(b"w")
    model = parse_model("text", str(tmp_path), "float16")
    [(role, file)] = check_model(model).items()
    assert role == "text_model/sub/weights"
    assert file.sha256 == hashlib.sha256(b"w").hexdigest()
    assert check_model(parse_model("text", "all-MiniLM-L6-v2", "float32")) == {}
