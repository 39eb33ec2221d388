"""The specification of every training op: the differentiable forward in pure torch."""

from lightops.reference.training.dense_block import dense_block_train
from lightops.reference.training.fire import fire_train

__all__ = ["dense_block_train", "fire_train"]
