"""Models searched with the same number of trials, on three seeds: `make table`."""

from __future__ import annotations

from pathlib import Path

from experiments.contest import SEQUENTIAL, Contest, models
from experiments.pages import page
from experiments.study import setup_logging

HERE = Path(__file__).parent
ELSEWHERE = (  # cold items: experiments/mamex; sequences: experiments/cammsr
    *("clcrec", "content_bpr", "dropoutnet", "mamex"),
    *SEQUENTIAL,
)
EIGHT = ("bm3", "grcn", "lattice", "lgmrec", "mmgcn", "pgl", "slmrec")  # trials, not 16
SOFTMAX = {f"{name}_softmax": name for name in ("lightgcn", "gated_lightgcn", "magnet")}
CONTEST = Contest(
    chosen=HERE / "conf",
    outputs=Path("outputs/leaderboard"),
    data={
        "tiktok": ("data=tiktok", "callbacks.early_stopping.patience=10"),
        "scientific": ("data=scientific", "data.split=random_per_user"),
        "beauty": (
            "data=beauty",
            "data.split=random_per_user",
            "data.batch_size=8192",
            "trainer.max_epochs=100",
            "trainer.check_val_every_n_epoch=5",
            "callbacks.early_stopping.patience=3",
        ),
        "planted_tail": ("data=planted_tail",),
    },
    trials={"tiktok": 16, "scientific": 16, "beauty": 3, "planted_tail": 8},
    over="seed",
    values="0,1,2",
    models=[*(name for name in models() if name not in ELSEWHERE), *SOFTMAX],
    own=dict.fromkeys(SOFTMAX, ("model.loss=softmax", "data.batch_size=2048")),
    variants=SOFTMAX,
    most=dict.fromkeys(EIGHT, 8),
)


def main() -> None:
    """Search, repeat with seeds, report."""
    setup_logging()
    for data in CONTEST.main(__doc__):
        command = "python -m experiments.leaderboard"
        text = page(CONTEST, data, title="Leaderboard", command=command)
        (HERE / f"{data}.md").write_text(text)


if __name__ == "__main__":
    main()
