"""What every model shares: how it is trained, ranked, logged and recognised in a checkpoint.

A model says three things: what its embeddings are (`encode`), what a batch costs (`losses`) and how
users like items (`score`). It knows nothing of devices, files, metrics or configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mmrec.config.literals import TestHistory
from mmrec.config.old_runs import rename_parameters
from mmrec.data.batches import Queries, Triplets
from mmrec.data.corpus import Corpus, DataError, TrainingView
from mmrec.data.datamodule import InteractionData
from mmrec.data.loaders import Samples
from mmrec.data.sampling import seeded_generator
from mmrec.evaluation import NonFiniteScores, Rankings
from mmrec.evaluation.protocol import Evaluation
from mmrec.nn.content import Rows

log = logging.getLogger(__name__)
OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]


class Embeddings(NamedTuple):
    """Users and items in one space, whose dot products are scores.

    Attributes:
        users: [U, D].
        items: [I, D].
    """

    users: Tensor
    items: Tensor


class ItemEmbeddings(NamedTuple):
    """Items of a model that makes users' vectors of their histories.

    Attributes:
        items: [I, D].
    """

    items: Tensor


class NonFiniteLoss(ArithmeticError):
    """A loss term is NaN or infinite; the message names the term and the step."""


class NoNewItems(TypeError):
    """The model cannot score an item that was not there in training."""


class NoSimilarity(TypeError):
    """The model has nothing by which items can be compared."""


class Recommender(LightningModule):
    """A model that ranks a catalogue for users.

    Attributes:
        corpus: what it learns from; validation and test interactions are not part of it.
        closed_form: the model is solved, and has nothing to train.
        batch_type: type of the training batches: `Triplets`, `Pairs` or `Sequences`.
        needs_history: queries carry the users' sequences of items, see `Queries.history`.
        reads_time: of these, scores depend on the times, and not only on the order.
        max_length: longest sequence in batches and queries; longer ones lose their oldest items.
        samples: training samples of a sequence, `causal` or `prefix`; see `SequenceDataset`.
        reads_negatives: its losses look at a batch's negatives; otherwise none are drawn.
        reads_content: scores depend on what items show; otherwise cold items are all alike.
        evaluation: how it is ranked; assign another one before a trainer runs.
        seed: of `start_epoch`; assign another one before a trainer runs.
        optimizer: called with the parameters; assign another one before a trainer runs.
        lr_schedule: called with the optimizer, and stepped after each epoch; None: the learning
            rate is constant.

    Args:
        corpus: what it learns from; of a `Corpus`, only its training view is kept.
    """

    batch_type: type[Any] = Triplets
    needs_history = False
    reads_time = False
    max_length = 50
    samples: Samples = "causal"
    closed_form = False
    reads_negatives = True
    reads_content = True

    def __init__(self, corpus: TrainingView) -> None:
        super().__init__()
        self.corpus = corpus.train_view
        self.evaluation = Evaluation()
        self.seed = 0
        self.optimizer: OptimizerFactory = partial(Adam, lr=1e-3, fused=True)
        self.lr_schedule: ScheduleFactory | None = None
        self._encoded: Any = None
        self._term_sums: dict[str, Tensor] = {}

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation settings; those left open follow from `needs_history`."""
        return self._evaluation

    @evaluation.setter
    def evaluation(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation.resolved(self.needs_history)

    @property
    def test_history(self) -> TestHistory:
        """Parts that the sequences of test queries are made of."""
        return self._evaluation.history or "train"

    # What a model defines

    def encode(self) -> Any:
        """Return what `score` reads: `Embeddings`, unless a model overrides `score`.

        Called once per evaluation.
        """
        return None

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return the named, already weighted terms whose sum is minimised; each a scalar.

        Args:
            batch: of `batch_type`.
        """
        raise TypeError(f"{type(self).__name__} has nothing to train")

    def score(self, encoded: Any, queries: Queries) -> Tensor:
        """Score the catalogue for some users: [B, I], finite, higher is better.

        By default the dot products of the `Embeddings` that `encode` returns.
        """
        if not isinstance(encoded, Embeddings):
            raise TypeError(
                f"{type(self).__name__}: encode() returns {type(encoded).__name__}; return "
                "Embeddings(users, items), or define score()"
            )
        return encoded.users[queries.user] @ encoded.items.T  # [B, I]

    def dot_product(self, encoded: Any) -> Embeddings | None:
        """Return vectors whose dot products are the scores; None: users have no vector.

        Args:
            encoded: as returned by `encode`.
        """
        own = type(self).score is not Recommender.score
        return None if own or not isinstance(encoded, Embeddings) else encoded

    def encode_items(
        self, features: Mapping[str, Rows], present: Mapping[str, Rows] | None = None
    ) -> Tensor:
        """Items that were not there in training, as `encode` has its items: [N, D].

        Args:
            features: [N, F] of each modality.
            present: [N] bool of each; None: where a row is not NaN.
        """
        raise NoNewItems(
            f"{type(self).__name__} knows the items of its training only; choose a model of "
            "content, as mamex, content_bpr, dropoutnet or clcrec"
        )

    def item_similarity(self, encoded: Any, items: Tensor) -> Tensor:
        """Compare some items with all; by default, the cosine of the vectors that are ranked.

        Vectors of several experts are compared side by side.

        Args:
            encoded: as returned by `encode`; its `items` are [I, D] or [E, I, D].
            items: [B] int64.

        Returns:
            [B, I], larger is more similar; -inf for items that cannot be compared.

        Raises:
            NoSimilarity: the model has no item vectors.
        """
        vectors = getattr(encoded, "items", None)
        if not isinstance(vectors, Tensor):
            raise NoSimilarity(f"{type(self).__name__} has no item vectors")
        flat = nn.functional.normalize(vectors.movedim(-2, 0).flatten(1), dim=1)
        return flat[items] @ flat.T

    def item_weights(self) -> dict[str, Tensor]:
        """What the model found to matter for each item, per channel: [I] each; empty if nothing."""
        return {}

    def item_measures(self) -> dict[str, Tensor]:
        """Return what else the model found about each item, such as a degree: [I] each.

        Unlike the weights of channels, they are not shares of anything. NaN: not known of an item.
        """
        return {}

    def pair_weights(self, queries: Queries, items: Tensor) -> dict[str, Tensor]:
        """What matters in the scores of pairs, per channel: [P] each; here, what does for the item.

        Args:
            queries: P users, with their sequences if the model needs histories.
            items: [P].
        """
        return {name: weight[items] for name, weight in self.item_weights().items()}

    @classmethod
    def teacher_in(cls, state: Mapping[str, Tensor]) -> Embeddings | None:  # noqa: ARG003
        """Return the teacher's embeddings that the weights of a checkpoint hold.

        A model whose constructor has the argument `teacher: Embeddings | None` keeps what it needs
        of them in persistent buffers, and defines this. A run folder then opens without the folder
        of the teacher.

        Args:
            state: as returned by `state_dict`.
        """
        raise TypeError(f"{cls.__name__} must define teacher_in()")

    @classmethod
    def without_teacher(cls, settings: Mapping[str, Any]) -> str | None:  # noqa: ARG003
        """Return the name of a setting with which a teacher has no effect; None: there is none.

        Args:
            settings: of the model.
        """
        return None

    # Training

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizer of all parameters and, if there is one, its schedule."""
        optimizer = self.optimizer(self.parameters())
        if self.lr_schedule is None:
            return optimizer
        scheduler = self.lr_schedule(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}

    def start_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Prepare a training epoch, for example resample a graph; does nothing by default.

        Args:
            epoch: number of the epoch, from 0.
            generator: a CPU generator whose state depends on `seed` and the epoch alone: it is the
                same on every process, and after a resume.
        """

    def on_train_epoch_start(self) -> None:
        """Reset the loss averages, log a scheduled learning rate, and call `start_epoch`."""
        self._term_sums = {}
        if self.lr_schedule is not None:
            self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        epoch = self.current_epoch
        # Batches have keys of three numbers, which zeros extend.
        self.start_epoch(epoch, seeded_generator(self.seed, epoch, 0, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
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
            self.val_ranking = Rankings(self.whole_corpus(), "val", self.evaluation)
        if stage == "test":
            self.test_ranking = Rankings(self.whole_corpus(), "test", self.evaluation)
        # Buffers are constants that every process has, and sparse ones cannot be sent.
        # A tensor that has two names may be two once they are on a device.
        buffers = self.named_buffers(remove_duplicate=False)
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in buffers]

    def whole_corpus(self) -> Corpus:
        """Return the data with validation and test interactions, from the trainer's data module.

        Raises:
            TypeError: there is no such data module.
        """
        data: LightningDataModule | None = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, InteractionData):
            raise TypeError(
                f"{type(self).__name__} is ranked on the data of an InteractionData, found "
                f"{type(data).__name__}; pass one to the trainer, as trainer.fit(model, datamodule)"
            )
        return data.corpus

    def on_validation_epoch_start(self) -> None:
        """Encode once per evaluation."""
        self.val_ranking.reset()
        self._encoded = self.encode()

    def validation_step(self, batch: Queries, batch_idx: int) -> None:
        """Rank the catalogue for a block of users."""
        self._rank(self.val_ranking, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_ranking(self.val_ranking)

    def on_test_epoch_start(self) -> None:
        """Encode once per evaluation."""
        self.test_ranking.reset()
        self._encoded = self.encode()

    def test_step(self, batch: Queries, batch_idx: int) -> None:
        """Rank the catalogue for a block of users."""
        self._rank(self.test_ranking, batch)

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_ranking(self.test_ranking)

    def _rank(self, ranking: Rankings, queries: Queries) -> None:
        try:
            ranking.update(queries.user, self.score(self._encoded, queries))
        except NonFiniteScores as error:
            raise NonFiniteScores(
                f"{type(self).__name__}, epoch {self.current_epoch}: {error}"
            ) from error

    def _log_ranking(self, ranking: Rankings) -> None:
        self._encoded = None
        self.log_dict(ranking.compute())

    # Checkpoints: plain types only, so that opening one executes nothing

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down what the parameters belong to."""
        checkpoint["mmrec"] = self._identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse parameters of another model or other data; rename those of earlier versions.

        Raises:
            DataError: says what differs.
        """
        found = checkpoint.get("mmrec", {})
        expected_of = self._identity()
        if found and "modalities" not in found:  # written before these were told
            del expected_of["modalities"]
        for key, expected in expected_of.items():
            if found.get(key) != expected:
                raise DataError(
                    file="checkpoint",
                    column=key,
                    found=str(found.get(key)),
                    expected=f"{expected} as in this run",
                    hint="a checkpoint only continues on the model, data and split that made it",
                )
        if "state_dict" in checkpoint:
            state = rename_parameters(checkpoint["state_dict"], type(self).__mro__)
            checkpoint["state_dict"] = state

    def _identity(self) -> dict[str, str]:
        corpus = self.corpus
        return {
            "model": type(self).__name__,
            "data": corpus.name,
            "fingerprint": corpus.fingerprint,
            "split": corpus.split,
            "modalities": ", ".join(corpus.modalities),  # tables of weights are in this order
        }
