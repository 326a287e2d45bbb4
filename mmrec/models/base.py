"""Base class of all models: training, ranking, logging and checkpoints.

A model defines its embeddings (`encode`), the loss terms of a batch (`losses`) and, unless scores
are dot products, `score`. It does not handle devices, files, metrics or configuration.

Shapes: U users, I items, N new items, F features, D embedding size, E experts, B batch, P pairs.
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
    """User and item embeddings, scored by dot product.

    Attributes:
        users: [U, D].
        items: [I, D].
    """

    users: Tensor
    items: Tensor


class ItemEmbeddings(NamedTuple):
    """Item embeddings of a model that computes user vectors from histories.

    Attributes:
        items: [I, D].
    """

    items: Tensor


class NonFiniteLoss(ArithmeticError):
    """Raised if a loss term is NaN or infinite; the message names the epoch, step and terms."""


class NoNewItems(TypeError):
    """Raised if the model cannot score items that were not in the training data."""


class NoSimilarity(TypeError):
    """Raised if the model has no item vectors to compare."""


class Recommender(LightningModule):
    """Base class of models that rank the items of a catalogue for users.

    Subclasses define `encode` and `losses`, and may override `score`. Assign `evaluation`, `seed`,
    `optimizer` and `lr_schedule` before training to change their defaults.

    Attributes:
        corpus: training interactions and content, without validation and test interactions.
        closed_form: whether the model has a closed-form solution instead of training.
        batch_type: type of the training batches: `Triplets`, `Pairs` or `Sequences`.
        needs_history: whether queries must contain the item sequences of users (`Queries.history`).
        reads_time: whether scores depend on the timestamps of sequences, not only on the order.
        max_length: maximum length of sequences in batches and queries; older items are dropped.
        samples: training samples per sequence, `causal` or `prefix`; see `SequenceDataset`.
        reads_negatives: whether losses use negatives; otherwise none are sampled.
        reads_content: whether scores depend on content; otherwise cold-start items all score alike.
        evaluation: evaluation settings.
        seed: random seed of `start_epoch`.
        optimizer: factory called with the parameters.
        lr_schedule: factory called with the optimizer, stepped per epoch; None: constant rate.

    Args:
        corpus: training interactions and content; of a `Corpus`, only its training view is kept.
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
        """Evaluation settings, with unset values resolved from `needs_history`."""
        return self._evaluation

    @evaluation.setter
    def evaluation(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation.resolved(self.needs_history)

    @property
    def test_history(self) -> TestHistory:
        """Parts of the split that form the sequences of test queries."""
        return self._evaluation.history or "train"

    # Defined by subclasses

    def encode(self) -> Any:
        """Return the input of `score`, by default `Embeddings`; called once per evaluation."""
        return None

    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Return the loss terms of a batch by name, as weighted scalars whose sum is minimised."""
        raise TypeError(f"{type(self).__name__} defines no losses() and cannot be trained")

    def score(self, encoded: Any, queries: Queries) -> Tensor:
        """Score all items for a batch of queries: [B, I], finite, higher is better.

        By default, the dot products of the `Embeddings` returned by `encode`.
        """
        if not isinstance(encoded, Embeddings):
            raise TypeError(
                f"{type(self).__name__}.encode() returned {type(encoded).__name__}, expected "
                "Embeddings; return Embeddings(users, items), or define score()"
            )
        return encoded.users[queries.user] @ encoded.items.T  # [B, I]

    def dot_product(self, encoded: Any) -> Embeddings | None:
        """Return vectors whose dot products are the scores; None if users have no vectors.

        Args:
            encoded: result of `encode`.
        """
        own = type(self).score is not Recommender.score
        return None if own or not isinstance(encoded, Embeddings) else encoded

    def encode_items(
        self, features: Mapping[str, Rows], present: Mapping[str, Rows] | None = None
    ) -> Tensor:
        """Encode items that were not in the training data: [N, D], comparable with `encode`.

        Args:
            features: features [N, F] by modality.
            present: masks [N] bool by modality; None marks rows without NaN as present.

        Raises:
            NoNewItems: the model only scores items of the training data.
        """
        raise NoNewItems(
            f"{type(self).__name__} cannot score items that were not in the training data; use a "
            "content-based model, for example mamex, content_bpr, dropoutnet or clcrec"
        )

    def item_similarity(self, encoded: Any, items: Tensor) -> Tensor:
        """Return the similarity of selected items to all items.

        By default, the cosine of item vectors, where vectors of several experts are concatenated.

        Args:
            encoded: result of `encode`; its `items` are [I, D] or [E, I, D].
            items: selected items, [B] int64.

        Returns:
            Similarities, [B, I]; -inf for items that cannot be compared.

        Raises:
            NoSimilarity: the model has no item vectors.
        """
        vectors = getattr(encoded, "items", None)
        if not isinstance(vectors, Tensor):
            raise NoSimilarity(f"{type(self).__name__} has no item vectors")
        flat = nn.functional.normalize(vectors.movedim(-2, 0).flatten(1), dim=1)
        return flat[items] @ flat.T

    def item_weights(self) -> dict[str, Tensor]:
        """Return the weight of each channel per item: [I] each; empty without channel weights."""
        return {}

    def item_measures(self) -> dict[str, Tensor]:
        """Return other statistics of items, for example a degree: [I] each, NaN where undefined.

        Unlike channel weights, they do not sum to 1.
        """
        return {}

    def pair_weights(self, queries: Queries, items: Tensor) -> dict[str, Tensor]:
        """Return the weight of each channel in the scores of pairs: [P] each.

        By default, the weights of `item_weights`.

        Args:
            queries: P queries, with sequences if the model needs histories.
            items: item of each query, [P] int64.
        """
        return {name: weight[items] for name, weight in self.item_weights().items()}

    @classmethod
    def teacher_in(cls, state: Mapping[str, Tensor]) -> Embeddings | None:  # noqa: ARG003
        """Return the teacher's embeddings stored in a checkpoint.

        Models with a constructor argument `teacher: Embeddings | None` store the required
        embeddings in persistent buffers and define this method. A run folder can then be opened
        without the run folder of the teacher.

        Args:
            state: result of `state_dict`.
        """
        raise TypeError(f"{cls.__name__} must define teacher_in()")

    @classmethod
    def without_teacher(cls, settings: Mapping[str, Any]) -> str | None:  # noqa: ARG003
        """Return the name of the model setting that makes a teacher unnecessary; None without."""
        return None

    # Training

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Create the optimizer and, if `lr_schedule` is set, the learning rate scheduler."""
        optimizer = self.optimizer(self.parameters())
        if self.lr_schedule is None:
            return optimizer
        scheduler = self.lr_schedule(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}

    def start_epoch(self, epoch: int, generator: torch.Generator) -> None:
        """Prepare a training epoch, for example resample a graph; does nothing by default.

        Args:
            epoch: number of the epoch, from 0.
            generator: CPU generator that depends only on `seed` and the epoch, so that it is the
                same on all processes and after a resume.
        """

    def on_train_epoch_start(self) -> None:
        """Reset the loss averages, log the scheduled learning rate, and call `start_epoch`."""
        self._term_sums = {}
        if self.lr_schedule is not None:
            self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        epoch = self.current_epoch
        # Four numbers, because the generators of batches have keys of three, padded with zeros.
        self.start_epoch(epoch, seeded_generator(self.seed, epoch, 0, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the sum of the loss terms.

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
        """Log the mean of each loss term over the epoch; logging each step would be slow."""
        steps = self.trainer.num_training_batches
        self.log_dict(
            {f"train/{name}": total / steps for name, total in self._term_sums.items()},
            sync_dist=self.trainer.world_size > 1,
        )

    # Ranking

    def setup(self, stage: str) -> None:
        """Create the metrics of a stage."""
        if stage in ("fit", "validate"):
            self.val_ranking = Rankings(self.whole_corpus(), "val", self.evaluation)
        if stage == "test":
            self.test_ranking = Rankings(self.whole_corpus(), "test", self.evaluation)
        # All processes have equal buffers, and sparse ones cannot be broadcast. Duplicates are
        # kept, because a shared tensor can become two tensors when it is moved to a device.
        buffers = self.named_buffers(remove_duplicate=False)
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in buffers]

    def whole_corpus(self) -> Corpus:
        """Return the data with validation and test interactions, from the trainer's data module.

        Raises:
            TypeError: the trainer has no `InteractionData` module.
        """
        data: LightningDataModule | None = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, InteractionData):
            raise TypeError(
                f"{type(self).__name__} needs an InteractionData module, found "
                f"{type(data).__name__}; pass one with trainer.fit(model, datamodule)"
            )
        return data.corpus

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics and encode users and items."""
        self.val_ranking.reset()
        self._encoded = self.encode()

    def validation_step(self, batch: Queries, batch_idx: int) -> None:
        """Rank all items for a batch of users."""
        self._rank(self.val_ranking, batch)

    def on_validation_epoch_end(self) -> None:
        """Log the metrics."""
        self._log_ranking(self.val_ranking)

    def on_test_epoch_start(self) -> None:
        """Reset the metrics and encode users and items."""
        self.test_ranking.reset()
        self._encoded = self.encode()

    def test_step(self, batch: Queries, batch_idx: int) -> None:
        """Rank all items for a batch of users."""
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

    # Checkpoints contain only plain types, so that loading one executes no code

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the names of the model, data, split and modalities."""
        checkpoint["mmrec"] = self._identity()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint fits the model and data; rename parameters of old versions.

        Raises:
            DataError: the model, data, split or modalities differ.
        """
        found = checkpoint.get("mmrec", {})
        expected_of = self._identity()
        if found and "modalities" not in found:  # written by an earlier version
            del expected_of["modalities"]
        for key, expected in expected_of.items():
            if found.get(key) != expected:
                raise DataError(
                    file="checkpoint",
                    column=key,
                    found=str(found.get(key)),
                    expected=f"{expected} as in this run",
                    hint="load the checkpoint with the model, data and split it was trained with",
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
            "modalities": ", ".join(corpus.modalities),  # parameters depend on the order
        }
