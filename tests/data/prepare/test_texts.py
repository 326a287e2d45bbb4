"""Texts are encoded once, in blocks that survive an interruption."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from mmrec.config.errors import DataError, SettingError
from mmrec.data import read_folder
from mmrec.data.prepare import Amazon2014, Fetcher, check_folder, prepare_folder, texts
from mmrec.data.prepare.encode import Model
from mmrec.data.prepare.encoders import make_encoder, parse_model
from mmrec.data.prepare.texts import encode_texts

MODEL = Model("data.text_model", "lengths", "", "lengths")
TEXTS = ["a pram", "", "a very long text about a pram", "a pram", "hose"]


class Lengths:
    """An encoder whose features are the length of a text and its first letter."""

    def __init__(self, fail_after=None):
        self.seen: list[str] = []
        self.fail_after = fail_after

    name, width = "lengths", 2
    versions = {"lengths": "1"}  # noqa: RUF012

    def encode(self, texts):
        if self.fail_after is not None and len(self.seen) >= self.fail_after:
            raise KeyboardInterrupt
        self.seen += texts
        return np.array([(len(text), ord(text[0])) for text in texts], dtype=np.float32)


@pytest.fixture(autouse=True)
def _small(tmp_path, monkeypatch):
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(texts, "BLOCK", 2)


def encoded(encoder, said=TEXTS):
    return encode_texts(lambda _: encoder, MODEL, pl.Series(said), ["part"])


def test_each_text_has_its_features_and_an_empty_one_has_none():
    encoder = Lengths()
    vectors, about = encoded(encoder)
    assert encoder.seen == ["hose", "a pram", "a very long text about a pram"]  # by length, once
    assert (vectors.rows >= 0).tolist() == [True, False, True, True, True]
    for text, row in zip(TEXTS, vectors.rows, strict=True):
        if text:
            assert vectors.matrix[row].tolist() == [len(text), ord(text[0])]
    assert about == {"model": "lengths", "lengths": "1"}
    again = Lengths()
    assert np.array_equal(encoded(again)[0].matrix, vectors.matrix)
    assert again.seen == []


def test_interrupted_work_goes_on_without_encoding_twice():
    said = [letter * (place + 1) for place, letter in enumerate("abcdefg")]
    first = Lengths(fail_after=4)
    with pytest.raises(KeyboardInterrupt):
        encoded(first, said)
    second = Lengths()
    vectors, _ = encoded(second, said)
    assert first.seen + second.seen == said
    assert vectors.matrix[vectors.rows, 0].tolist() == [1, 2, 3, 4, 5, 6, 7]
    third = Lengths()
    vectors, _ = encoded(third, [*said, "h"])  # another set of texts
    assert third.seen == ["h"]
    assert vectors.matrix[vectors.rows, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 1]


def test_features_of_other_versions_are_not_mixed(caplog):
    encoded(Lengths(), ["a", "bb"])
    newer = Lengths()
    newer.versions = {"lengths": "2"}
    _, about = encoded(newer, ["bb", "ccc"])
    assert newer.seen == ["bb", "ccc"]
    assert "another version" in caplog.text
    assert about["lengths"] == "2"
    again = Lengths()
    encoded(again, ["bb", "ccc"])
    assert again.seen == []
    encoded(newer, ["a"])
    assert newer.seen == ["bb", "ccc", "a"]


def test_without_any_text_it_is_an_error():
    with pytest.raises(DataError) as error:
        encoded(Lengths(), ["", ""])
    assert error.value.problem == "no item has a text"


@pytest.mark.slow
def test_minilm_puts_like_texts_near_each_other(amazon, minilm, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = Amazon2014(
        name="baby",
        root=str(tmp_path / "sets"),
        category="Baby",
        mirrors=[amazon.url],
        image_features=False,
        k_core=5,
        text_model=str(minilm),
    )
    folder = prepare_folder(data, Fetcher(tmp_path / "raw"), {})
    manifest = check_folder(folder)
    assert manifest["modalities"]["text"] == {
        "width": 384,
        "missing": 1,
        "fill": None,
        "rows_unused": 0,
    }
    assert "text_model/model.safetensors" in manifest["sources"]
    assert manifest["text_encoder"]["model"] == str(minilm)
    source = read_folder(folder.parent, "baby")
    found = {str(name): row for row, name in enumerate(source.item_ids)}
    encoder = make_encoder(parse_model("text", str(minilm), "float32"))
    said = 'The "big" thing 4 Baby Room / 1 It\'s number 4.'  # no brand
    expected = encoder.encode([said])[0]
    row = source.modalities["text"].features[found["B000000004"]]
    np.testing.assert_allclose(row, expected, atol=1e-5)
    pram, hose = encoder.encode(["baby pram", "garden hose"])
    near = encoder.encode(["stroller for babies"])[0]
    assert pram @ near > hose @ near

    half = make_encoder(parse_model("text", str(minilm), "bfloat16"))
    assert half.model.dtype == torch.bfloat16
    assert half.encode(["baby pram"])[0] @ pram > 0.99
    with pytest.raises(SettingError) as error:
        make_encoder(parse_model("text", str(tmp_path / "sets"), "float32"))
    assert error.value.setting == "data.text_model"


@pytest.mark.parametrize(("kind", "width"), [("clip", 6), ("siglip", 16)])
def test_paired_models_encode_texts_too(tmp_path, paired, kind, width, monkeypatch):
    monkeypatch.setattr(texts, "BATCH", 2)
    network = paired(kind, tmp_path)
    encoder = make_encoder(parse_model("text", f"{kind}:{tmp_path}", "float32"))
    said = ["he", "hep", "zzzzzzzzzzzzz"]  # the last is longer than the model reads
    found = encoder.encode(said)
    assert found.shape == (3, encoder.width) == (3, width)
    rows = {"clip": [10, 1, 5, 11], "siglip": [10, 1, 5, 11, 11, 11]}[kind]  # h, e at the end
    expected = network.get_text_features(torch.tensor([rows])).pooler_output[0].detach()
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(said[2:])[0], found[2], atol=1e-5)
    with pytest.raises(SettingError) as error:
        make_encoder(parse_model("text", f"clip:{tmp_path / 'nowhere'}", "float32"))
    assert error.value.setting == "data.text_model"
