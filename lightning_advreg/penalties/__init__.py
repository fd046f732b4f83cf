"""Soft regularisation: terms added to the loss."""

from lightning_advreg.penalties.weights import L1, L2, ElasticNet, WeightPenalty

__all__ = ["L1", "L2", "ElasticNet", "WeightPenalty"]
