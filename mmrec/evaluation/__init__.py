"""Ranking metrics and the evaluation protocol."""

from mmrec.evaluation.finite import NonFiniteScores, check_finite
from mmrec.evaluation.protocol import Evaluation
from mmrec.evaluation.ranking import ACCURACY, RankingMetric, Rankings

__all__ = [
    "ACCURACY",
    "Evaluation",
    "NonFiniteScores",
    "RankingMetric",
    "Rankings",
    "check_finite",
]
