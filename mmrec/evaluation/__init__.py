"""Metrics, and how a ranking is judged."""

from mmrec.evaluation.protocol import Evaluation
from mmrec.evaluation.ranking import (
    ACCURACY,
    NonFiniteScores,
    RankingMetric,
    Rankings,
    check_finite,
)

__all__ = [
    "ACCURACY",
    "Evaluation",
    "NonFiniteScores",
    "RankingMetric",
    "Rankings",
    "check_finite",
]
