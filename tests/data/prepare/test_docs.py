"""The commands of docs/prepare.md do what the page says."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from mmrec.commands.prepare import run_command
from mmrec.commands.recommend import recommend
from mmrec.commands.run import run
from mmrec.config.schema import conf_dir
from mmrec.config.words import prepared
from mmrec.data.prepare import check_folder

PAGE = (Path(__file__).parents[3] / "docs" / "prepare.md").read_text()
FENCED = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TINY = ("trainer=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false")


def blocks(language):
    return [code for name, code in FENCED.findall(PAGE) if name == language]


def words(command):
    shell = "".join(blocks("bash")).replace("\\\n", " ")
    found = re.findall(rf"^python -m mmrec\.{command} (.*)$", shell, re.MULTILINE)
    return [line.split() for line in found]


def settings(typed):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("prepare", prepared([re.sub("^data=", "prepare@data=", w) for w in typed]))
    return OmegaConf.to_container(config, resolve=True)


@pytest.mark.slow
def test_your_own_data_in_five_minutes(tmp_path, monkeypatch, composed):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MMREC_DATA", raising=False)
    orders, products = (code.splitlines() for code in blocks("csv"))
    draw = random.Random(0)
    for user in ("ann", *(f"u{number}" for number in range(30))):
        for item in draw.sample(range(17, 37), 10):
            day, stars = draw.randint(1, 28), draw.choice([1, 4, 5, 5])
            orders.append(f"{user},B00{item},{stars},2024-03-{day:02d}T18:02:11Z")
    products += [f"B00{item},Thing {item},Garden|Corner {item % 3}" for item in range(18, 37)]
    Path("orders.csv").write_text("\n".join(orders))
    Path("products.csv").write_text("\n".join(products))

    own, *_, check = words("prepare")
    folder = run_command(settings(own))
    assert folder == Path("data/shop")
    items = pl.read_csv(folder / "items.csv")
    assert {"Garden hose 20 m", "Thing 36"} <= {*items["title"]}
    few = ("evaluation.cutoffs=[5]", "monitor=val/recall@5")
    line, _ = words("run")
    assert run(composed(*line, *few, *TINY), [])["status"] == "completed"
    [line] = words("recommend")
    assert line == ["run=outputs/shop", "users=[ann]", "k=5"]
    lists = recommend(run="outputs/shop", users=["ann"], k=5, output="lists.csv")
    assert {*pl.read_csv(lists)["user_id"]} == {"ann"}
    assert run_command(settings(check)) == folder
    assert check_folder(folder.absolute())["settings"]["min_rating"] == 4


@pytest.mark.slow
@pytest.mark.usefixtures("timm")
def test_ratings_texts_and_posters(tmp_path, monkeypatch, composed, minilm, efficientnet):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MMREC_DATA", raising=False)
    draw, noise = random.Random(0), np.random.default_rng(0)
    ratings, movies = ["userId,movieId,rating,timestamp"], ["movieId,title,genres"]
    Path("posters").mkdir()
    colours = {"War": (120, 20, 10), "Romance": (240, 170, 190), "Space": (5, 5, 40)}
    for movie in range(1, 51):
        genre = [*colours][movie % 3]
        movies.append(f'{movie},"{genre} film, no. {movie} (1999)",{genre}|Drama')
        poster = noise.integers(0, 60, (120, 90, 3)) + np.array(colours[genre]) * 0.7
        Image.fromarray(poster.astype(np.uint8)).save(f"posters/{movie}.jpg")
    for user in range(1, 61):
        for movie in draw.sample(range(1, 51), 20):
            liked = draw.random() < (0.9 if movie % 3 == user % 3 else 0.4)
            stars = draw.choice([4.0, 4.5, 5.0] if liked else [0.5, 2.0, 3.5])
            ratings.append(f"{user},{movie},{stars},{964_982_703 + draw.randrange(10**6)}")
    Path("posters/7.jpg").write_bytes(Path("posters/7.jpg").read_bytes()[:200])
    Path("posters/8.jpg").unlink()
    Path("ratings.csv").write_text("\n".join(ratings))
    Path("movies.csv").write_text("\n".join(movies))

    [own] = [line for line in words("prepare") if "data.name=movies" in line]
    local = {"data.text_model": str(minilm), "data.image_model": f"timm:{efficientnet}"}
    pairs = (word.partition("=") for word in own)
    typed = [f"{name}={local.get(name, value)}" for name, _, value in pairs]
    folder = run_command(settings(typed))
    manifest = check_folder(folder.absolute())
    assert manifest["counts"]["items"] == 50
    assert manifest["modalities"]["text"]["missing"] == 0
    image = manifest["modalities"]["image"]
    assert (image["width"], image["missing"]) == (1280, 2)
    assert image["without"] == {"not_found": 1, "corrupt": 1}
    found = np.load(folder / "image_feat.npy")
    ids = pl.read_csv(folder / "i_id_mapping.csv", separator="\t")["original_id"].to_numpy()
    there = ~np.isnan(found).any(1)
    assert sorted(ids[~there]) == [7, 8]
    genre, unit = ids[there] % 3, found[there] / np.linalg.norm(found[there], axis=1, keepdims=True)
    alike = unit @ unit.T
    same = genre[:, None] == genre[None]
    assert alike[same].mean() > alike[~same].mean() + 0.1

    _, line = words("run")
    few = ("evaluation.cutoffs=[5]", "monitor=val/recall@5")
    result = run(composed(*line, *few, *TINY), [])
    assert result["status"] == "completed"
    assert {*result["data_card"]["modalities"]} == {"image", "text"}


@pytest.mark.parametrize("typed", words("prepare"), ids=" ".join)
def test_every_setting_shown_is_one(typed):
    assert settings(typed)


def test_every_public_set_is_listed():
    for path in (conf_dir() / "prepare").glob("[!_]*.yaml"):
        assert f"`{path.stem}`" in PAGE or f"data={path.stem}" in PAGE
