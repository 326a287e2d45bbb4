"""Folders that look as a run leaves them."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
import yaml

from mmrec.training.provenance import config_hash
from mmrec.training.results import write_result

USERS = 40


@pytest.fixture
def write_run(tmp_path):
    """`write_run(name, model=..., seed=..., gain=...)` writes a run folder, and gives it.

    `gain` is added to the recall of every second user.
    """

    def write(
        name,
        *,
        model="bpr",
        seed=0,
        gain=0.0,
        ablation=None,
        status="completed",
        split="official",
        seen="train",
        candidates=None,
        history=None,
        fingerprint="a" * 64,
        epochs=3,
        seconds=10.0,
        config_dir=None,
        patience=None,
        max_epochs=50,
        upstream=None,
        data=None,
        **settings,
    ):
        folder = tmp_path / "outputs" / name
        folder.mkdir(parents=True)
        config = {
            "model": {
                "_target_": f"mmrec.models.{model}",
                "l2": 0.1,
                "fusion": ablation,
                **settings,
            },
            "data": {"name": "tiny", "seed": seed, **(data or {})},
            "seed": seed,
            "run_dir": str(folder),
            "logger": {},
        }
        if patience is not None:
            config["callbacks"] = {"early_stopping": {"patience": patience}}
            config["trainer"] = {"max_epochs": max_epochs}
        overrides = [f"model={model}", f"seed={seed}"]
        overrides += [f"ablation={model}/{ablation}"] if ablation else []
        rng = np.random.default_rng(seed)
        recall = rng.integers(0, 2, USERS) * 0.5 + gain * (np.arange(USERS) % 2)
        validation = 0.3 + gain + seed / 1000
        groups = ("head", "mid", "tail", "active", "regular", "occasional")
        metrics = {
            "val/recall@20": validation,
            "test/recall@20": float(recall.mean()),
            "test/ndcg@20": float(recall.mean()) / 2,
            **{f"test/{group}/recall@20": float(recall.mean()) for group in groups},
        }
        if candidates == "cold":
            metrics |= {"test_warm/recall@20": 0.25, "test_all/recall@20": 0.125}
        tested = status == "completed"
        result = {
            "status": status,
            "model": model,
            "data": "tiny",
            "seed": seed,
            "overrides": overrides,
            "config_hash": config_hash(config),
            "git_commit": "c" * 40,
            "versions": {"python": "3"},
            "data_card": {
                "name": "tiny",
                "fingerprint": fingerprint,
                "users": USERS,
                "items": 9,
                "train": 80,
                "val": USERS,
                "test": USERS,
                "modalities": {},
                "split": split,
                "seen": seen,
                **({"candidates": candidates} if candidates else {}),
                **({"history": history} if history else {}),
            },
            "metrics": metrics if tested else {},
            "monitor": "val/recall@20",
            "best_epoch": epochs - 1 if epochs else None,
            "epochs": epochs,
            "best_value": validation if tested else None,
            "seconds": {
                "setup": 1.0,
                "fit": seconds if epochs else None,
                "train_epoch": 1.0 if epochs else None,
                "val": 0.5,
                "test": 0.5,
            },
            "peak_rss_mib": 100.0,
            "peak_gpu_mib": None,
            "parameters": 10,
        }
        if upstream is not None:
            named = {"folder": "there", "model": "mgcn", "config_hash": "c" * 16, "code": "d" * 16}
            result["upstream"] = {**named, "seconds": upstream}
        if status == "failed":
            result["error"] = "the loss is not finite"
        write_result(folder, result)
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        given = ["--config-dir", str(config_dir)] if config_dir else []
        (folder / "overrides.yaml").write_text(json.dumps([*given, *overrides]))
        pl.DataFrame(
            {"user": np.arange(USERS), "recall@20": recall, "ndcg@20": recall / 2}
        ).write_parquet(folder / "per_user.parquet")
        rows = [f"{e},{validation * (e + 1) / epochs}" for e in range(epochs)]
        (folder / "metrics.csv").write_text("\n".join(["epoch,val/recall@20", *rows, ""]))
        return folder

    return write
