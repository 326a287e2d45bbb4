"""What a run shows to people."""

from mmrec.report.figures import COLOURS, learning_curve, write_item_weights

__all__ = ["COLOURS", "learning_curve", "write_item_weights"]
