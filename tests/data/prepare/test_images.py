"""Pictures of all kinds are decoded alike, and damaged ones have no features."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from mmrec.config.errors import SettingError
from mmrec.data.prepare.encoders import make_encoder, parse_model
from mmrec.data.prepare.images import open_picture, picture_problem

RED, WHITE = (255, 0, 0), (255, 255, 255)


def pixels(path):
    picture = open_picture(path)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def saved(folder, name, picture, **options):
    path = folder / name
    picture.save(path, **options)
    return str(path)


def halves(mode, left, right):
    """A picture of 4 x 2 pixels with two colours."""
    if mode == "I;16":  # which Pillow does not paste into
        return Image.fromarray(np.array([[left, left, right, right]] * 2, dtype=np.uint16))
    picture = Image.new(mode, (4, 2), right)
    picture.paste(left, (0, 0, 2, 2))
    return picture


@pytest.mark.parametrize(
    ("mode", "left", "right"),
    [
        ("RGBA", (255, 0, 0, 255), (0, 0, 255, 0)),
        ("LA", (128, 255), (0, 0)),
        ("CMYK", (0, 255, 255, 0), (0, 0, 0, 0)),
        ("1", 0, 1),
        ("I;16", 100 * 256, 65535),
    ],
)
def test_every_mode_becomes_rgb_on_white(tmp_path, mode, left, right):
    found = pixels(saved(tmp_path, "p.tif", halves(mode, left, right)))
    assert found[:, 2:].tolist() == [[[255] * 3] * 2] * 2
    expected = {"RGBA": RED, "CMYK": RED, "LA": [128] * 3, "1": [0] * 3, "I;16": [100] * 3}[mode]
    assert found[:, :2].tolist() == [[[*expected]] * 2] * 2


def test_a_palette_may_be_transparent(tmp_path):
    picture = halves("RGB", RED, (0, 0, 255)).convert("P", palette=Image.Palette.ADAPTIVE)
    blue = picture.getpixel((3, 0))
    found = pixels(saved(tmp_path, "p.png", picture, transparency=blue))
    assert found[0].tolist() == [[*RED]] * 2 + [[*WHITE]] * 2


def test_a_picture_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the first row is at the right
    found = pixels(saved(tmp_path, "p.png", halves("RGB", RED, WHITE), exif=exif))
    assert found.shape == (4, 2, 3)
    assert found[0, 0].tolist() == [*RED]
    assert found[3, 0].tolist() == [*WHITE]


def test_the_first_picture_of_several_counts(tmp_path):
    first, second = (Image.new("RGB", (2, 2), colour) for colour in (RED, WHITE))
    path = saved(tmp_path, "p.gif", first, save_all=True, append_images=[second])
    assert pixels(path)[0, 0].tolist() == [*RED]


@pytest.fixture
def damaged(tmp_path, monkeypatch):
    """Pictures that cannot be decoded, and the limit of pixels that one exceeds."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3_000)
    noise = Image.effect_noise((40, 40), 50)
    whole = saved(tmp_path, "whole.jpg", noise)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-300])
    (tmp_path / "page.jpg").write_text("<html>sorry</html>")
    (tmp_path / "empty.jpg").write_bytes(b"")
    saved(tmp_path, "large.png", Image.new("1", (60, 60)))  # a warning of Pillow
    saved(tmp_path, "bomb.png", Image.new("1", (100, 100)))  # its error
    names = ("cut.jpg", "page.jpg", "empty.jpg", "large.png", "bomb.png")
    return [whole, *(str(tmp_path / name) for name in names)]


def test_damaged_and_huge_pictures_are_refused(damaged):
    whole, cut, page, empty, large, bomb = damaged
    assert picture_problem(whole) is None
    assert "truncated" in picture_problem(cut)
    assert "cannot identify" in picture_problem(page)
    assert "cannot identify" in picture_problem(empty)
    assert "decompression bomb" in picture_problem(large)
    assert "decompression bomb" in picture_problem(bomb)


@pytest.mark.parametrize(("kind", "width"), [("clip", 6), ("siglip", 16)])
def test_paired_models_encode_the_pictures_that_can_be_decoded(
    tmp_path, paired, damaged, kind, width, monkeypatch
):
    monkeypatch.setattr("mmrec.data.prepare.images.BATCH", 2)
    network = paired(kind, tmp_path / "model")
    encoder = make_encoder(parse_model("image", f"{kind}:{tmp_path / 'model'}", "float32"))
    assert encoder.width == width
    assert encoder.name == f"{kind}:{tmp_path / 'model'}"
    assert "transformers" in encoder.versions
    other = saved(tmp_path, "other.png", Image.new("RGB", (32, 32), RED))
    found = encoder.encode([*damaged, other])
    assert found.shape == (7, width)
    assert np.isnan(found).all(1).tolist() == [False, *[True] * 5, False]
    red = (np.float32(RED).reshape(3, 1, 1) / 255).repeat(32, 1).repeat(32, 2)
    mean, std = (
        np.reshape(getattr(encoder.processor, name), (3, 1, 1)).astype(np.float32)
        for name in ("image_mean", "image_std")
    )
    batch = torch.from_numpy((red - mean) / std)[None]
    expected = network.get_image_features(batch).pooler_output.detach()[0]
    np.testing.assert_allclose(found[6], expected, atol=1e-5)
    assert not np.allclose(found[0], found[6], atol=1e-3)

    with pytest.raises(SettingError) as error:
        make_encoder(parse_model("image", f"other:{tmp_path / 'model'}", "float32"))
    assert error.value.setting == "data.image_model"
    wrong = {"clip": "siglip", "siglip": "clip"}[kind]
    with pytest.raises(SettingError) as error:
        make_encoder(parse_model("image", f"{wrong}:{tmp_path / 'model'}", "float32"))
    assert error.value.problem == f"it is a model of the kind {kind}"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_trained_network_of_timm_recognises_an_officer(
    timm, efficientnet, tmp_path, precision, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    matplotlib = importlib.util.find_spec("matplotlib")
    [package] = matplotlib.submodule_search_locations
    officer = f"{package}/mpl-data/sample_data/grace_hopper.jpg"
    encoder = make_encoder(parse_model("image", f"timm:{efficientnet}", precision))
    plain = saved(tmp_path, "plain.png", Image.new("RGB", (300, 200), RED))
    found = encoder.encode([officer, plain, officer])
    assert found.shape == (3, encoder.width) == (3, 1280)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], found[2], rtol=1e-2, atol=1e-2)
    whole = timm.create_model(f"local-dir:{efficientnet}", pretrained=True).eval()
    likely = whole.get_classifier()(torch.from_numpy(found)).topk(5).indices
    assert 652 in likely[0]  # military uniform
    assert 652 not in likely[1]

    with pytest.raises(SettingError) as error:
        make_encoder(parse_model("image", "timm:no_such_network", precision))
    assert "Unknown model" in error.value.problem
