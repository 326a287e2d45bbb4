"""What every model shares: how it is trained, ranked, logged and recognised in a checkpoint.

A model says three things: what its embeddings are (`encode`), what a batch costs (`losses`) and how
users like items (`score`). It knows nothing of devices, files, metrics or configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim import Adam, Optimizer

from mmrec.data.corpus import Corpus, DataError, Queries, Triplets
from mmrec.evaluation import Evaluation, NonFiniteScores, RankingMetric

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]


class NonFiniteLoss(ArithmeticError):
    """A loss term is NaN or infinite; the message names the term and the step."""


class Recommender(LightningModule):
    """A model that ranks a catalogue for users.

    Attributes:
        corpus: what it learns from.
        closed_form: the model is solved when it is built and has nothing to train.
        evaluation: how it is ranked; assign another one before a trainer runs.
        optimizer: called with the parameters; assign another one before a trainer runs.

    Args:
        corpus: what it learns from.
    """

    closed_form = False

    def __init__(self, corpus: Corpus) -> None:
        super().__init__()
        self.corpus = corpus
        self.evaluation = Evaluation()
        self.optimizer: OptimizerFactory = partial(Adam, lr=1e-3, fused=True)
        self._encoded: Any = None
        self._term_sums: dict[str, Tensor] = {}

    # What a model defines

    def encode(self) -> Any:
        """Whatever `score` needs of the whole catalogue; computed once per evaluation."""
        return None

    def losses(self, batch: Triplets) -> dict[str, Tensor]:
        """The named, already weighted terms whose sum is minimised; each a scalar."""
        raise TypeError(f"{type(self).__name__} has nothing to train")

    def score(self, encoded: Any, queries: Queries) -> Tensor:
        """How much each user likes each item: [B, I], finite, larger is better."""
        raise TypeError(f"{type(self).__name__} must define score()")

    def item_weights(self) -> dict[str, Tensor]:
        """What the model found to matter for each item, per channel: [I] each; empty if nothing."""
        return {}

    # Training

    def configure_optimizers(self) -> Optimizer:
        """The optimiser that was assigned, over all parameters."""
        return self.optimizer(self.parameters())

    def on_train_epoch_start(self) -> None:
        """Start the epoch's loss averages."""
        self._term_sums = {}

    def training_step(self, batch: Triplets, batch_idx: int) -> Tensor:
        """Sum of the loss terms.

        Raises:
            NonFiniteLoss: a term is NaN or infinite.
        """
        terms = self.losses(batch)
        total = torch.stack(list(terms.values())).sum()
        if not total.isfinite():
            bad = ", ".join(f"{name}={value.item()}" for name, value in terms.items())
            raise NonFiniteLoss(
                f"the loss is not finite at epoch {self.current_epoch}, step {batch_idx}: {bad}; "
                "lower optimizer.lr, or set trainer.gradient_clip_val"
            )
        for name, value in {**terms, "loss": total}.items():
            self._term_sums[name] = self._term_sums.get(name, 0.0) + value.detach()
        return total

    def on_train_epoch_end(self) -> None:
        """Log each term's mean over the epoch: once, as a step has no time for it."""
        steps = self.trainer.num_training_batches
        self.log_dict(
            {f"train/{name}": total / steps for name, total in self._term_sums.items()},
            sync_dist=self.trainer.world_size > 1,
        )

    # Ranking

    def setup(self, stage: str) -> None:
        """Build the metrics of the coming stage."""
        if stage in ("fit", "validate"):
            self.val_ranking = RankingMetric(self.corpus, "val", self.evaluation, detailed=False)
        if stage == "test":
            self.test_ranking = RankingMetric(self.corpus, "test", self.evaluation, detailed=True)
        # Buffers are constants that every process has, and sparse ones cannot be sent.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]

    def on_validation_epoch_start(self) -> None:
        """Encode once per evaluation."""
        self.val_ranking.reset()
        self._encoded = self.encode()

    def validation_step(self, batch: Queries, batch_idx: int) -> None:
        """Rank the catalogue for a block of users."""
        self._rank(self.val_ranking, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_ranking("val", self.val_ranking)

    def on_test_epoch_start(self) -> None:
        """Encode once per evaluation."""
        self.test_ranking.reset()
        self._encoded = self.encode()

    def test_step(self, batch: Queries, batch_idx: int) -> None:
        """Rank the catalogue for a block of users."""
        self._rank(self.test_ranking, batch)

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_ranking("test", self.test_ranking)

    def _rank(self, ranking: RankingMetric, queries: Queries) -> None:
        try:
            ranking.update(queries.user, self.score(self._encoded, queries))
        except NonFiniteScores as error:
            raise NonFiniteScores(
                f"{type(self).__name__}, epoch {self.current_epoch}: {error}"
            ) from error

    def _log_ranking(self, split: str, ranking: RankingMetric) -> None:
        self._encoded = None
        self.log_dict({f"{split}/{name}": value for name, value in ranking.compute().items()})

    # Checkpoints: plain types only, so that opening one executes nothing

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down what the parameters belong to."""
        checkpoint["mmrec"] = self._identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse parameters that belong to another model or other data.

        Raises:
            DataError: says what differs.
        """
        found = checkpoint.get("mmrec", {})
        for key, expected in self._identity().items():
            if found.get(key) != expected:
                raise DataError(
                    f"the checkpoint belongs to {key}={found.get(key)}, this run has "
                    f"{key}={expected}; a checkpoint only continues on the model, data and "
                    "split that made it"
                )

    def _identity(self) -> dict[str, str]:
        corpus = self.corpus
        return {
            "model": type(self).__name__,
            "data": corpus.name,
            "fingerprint": corpus.fingerprint,
            "split": corpus.split,
        }
