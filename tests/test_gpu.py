"""What a GPU alone can show: `make test-gpu`. Without one, these are left out, and told of."""

from __future__ import annotations

import json
from functools import partial

import polars as pl
import pytest
import torch
from hydra.utils import get_object, instantiate
from lightning import seed_everything
from omegaconf import OmegaConf

from mmrec.commands.evaluate import evaluate
from mmrec.commands.explain import explain
from mmrec.commands.recommend import recommend
from mmrec.config.schema import conf_dir
from mmrec.data import InteractionData, Queries, Triplets
from mmrec.models import MAGNET

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
CUDA = torch.device("cuda")
NAMES = sorted(path.stem for path in (conf_dir() / "model").glob("[!_]*.yaml"))
TRAINED = [
    name
    for name in NAMES
    if not get_object(OmegaConf.load(conf_dir() / "model" / f"{name}.yaml")["_target_"]).closed_form
]
WITH_LOSSES = ("lightgcn", "gated_lightgcn", "magnet", "mamex")
DRAWN = ("clcrec", "dropoutnet")  # which items training hides, each device draws for itself
TINY = (
    *("trainer=gpu", "trainer.max_epochs=3", "trainer.enable_progress_bar=false", "model.dim=8"),
    *("data.world.users=90", "data.world.items=70", "data.world.widths=6"),
)


@pytest.fixture(scope="module")
def make(composed, checkerboard):
    """`make(name)`: a model as it is configured, always from the same start."""

    def build(name, **changes):
        config = OmegaConf.to_container(composed(f"model={name}"), resolve=True)["model"]
        seed_everything(0, verbose=False)
        return instantiate({**config, **changes}, _convert_="all")(checkerboard(missing=8))

    return build


def moved(parts, device):
    return type(parts)(*(part.to(device) for part in parts))


def batch_of(corpus):
    user, item = corpus.train.user, corpus.train.item
    return Triplets(user, item, (torch.arange(len(user)) % corpus.n_items).unsqueeze(1))


def scores(model):
    users = Queries(torch.arange(model.corpus.n_users, device=model.device))
    with torch.no_grad():
        return model.eval().score(model.encode(), users).cpu()


@pytest.fixture
def fit(quiet_trainer, checkerboard):
    """`fit(model, precision="bf16-mixed")`: its trainer, after three epochs."""

    def train(model, **options):
        data = InteractionData(batch_size=128)
        data.corpus = checkerboard(missing=8)
        model.optimizer = partial(torch.optim.Adam, lr=2e-2, fused=True)
        trainer = quiet_trainer(accelerator="gpu", deterministic="warn", max_epochs=3, **options)
        trainer.fit(model, data)
        return trainer

    return train


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_the_cpu(name, make):
    model = make(name)
    expected = scores(model)
    torch.testing.assert_close(scores(model.to(CUDA)), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "changes"),
    [*((name, {}) for name in TRAINED), *((name, {"loss": "softmax"}) for name in WITH_LOSSES)],
)
def test_losses_and_gradients_are_those_of_the_cpu(name, changes, make):
    model = make(name, **changes).eval()  # without dropout
    batch = batch_of(model.corpus)

    def terms_and_gradients(model, batch):
        model.zero_grad()
        torch.manual_seed(0)
        terms = model.losses(batch)
        sum(terms.values()).backward()
        return (
            {key: term.detach().cpu() for key, term in terms.items()},
            {key: p.grad.to_dense().clone().cpu() for key, p in model.named_parameters()},
        )

    first, again = (terms_and_gradients(model, batch)[0] for _ in range(2))
    expected = terms_and_gradients(model, batch)
    assert first == again
    found = terms_and_gradients(model.to(CUDA), moved(batch, CUDA))
    if name in DRAWN:
        assert all(term.isfinite() for term in found[0].values())
    else:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", TRAINED)
def test_what_was_trained_there_ranks_alike_on_a_cpu(name, make, fit):
    model = make(name)
    fit(model)
    there = scores(model.to(CUDA))
    torch.testing.assert_close(scores(model.cpu()), there, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", TRAINED)
def test_half_precision_trains(name, make, fit):
    model = make(name)
    trainer = fit(model, precision="bf16-mixed")
    assert trainer.callback_metrics["train/loss"].isfinite()


@pytest.mark.slow
def test_one_pass_ranks_as_many_do(make):
    plain, fused = (make("magnet", fused=fused).to(CUDA) for fused in (False, True))
    assert isinstance(fused, MAGNET)
    torch.testing.assert_close(scores(fused), scores(plain), atol=1e-4, rtol=1e-3)


def test_projections_in_bfloat16_are_nearly_exact(make):
    exact, short = (make("magnet", precision=p).to(CUDA) for p in ("float32", "bfloat16"))
    one, two = (model.projected().detach() for model in (exact, short))
    assert 0 < float((one - two).norm() / one.norm()) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["magnet", "gated_lightgcn", "mamex"])
def test_a_run_and_what_reads_it(name, run_words, tmp_path):
    folder = tmp_path / "run"
    words = (f"model={name}", *TINY)
    result = run_words(folder, *words)
    assert result["status"] == "completed"
    assert result["peak_gpu_mib"] > 0
    assert all(value == value for value in result["metrics"].values())
    longer = run_words(folder, *words, "trainer.max_epochs=5", "ckpt=last")
    assert longer["epochs"] == 5
    numbers = evaluate(run=str(folder), accelerator="gpu")["metrics"]
    noted = json.loads((folder / "result.json").read_text())["metrics"]
    recalls = {key: value for key, value in noted.items() if key.startswith("test/recall")}
    assert recalls
    assert {key: numbers[key] for key in recalls} == pytest.approx(recalls, abs=0.02)
    page = explain(run=str(folder), output=str(tmp_path / "page"), accelerator="gpu")
    assert page.stat().st_size > 10_000
    output = tmp_path / "best.parquet"
    recommend(run=str(folder), output=str(output), k=5, accelerator="gpu")
    assert pl.read_parquet(output).height >= 5 * 80
