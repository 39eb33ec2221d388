"""dense_block_train: forward and backward of the four blocks of DenseNet-121, also against `memory_efficient=True`."""

from blocks import part
from training import CONTESTANTS, run

PARTS = tuple(part("densenet121", f"features.denseblock{i}") for i in (1, 2, 3, 4))

if __name__ == "__main__":
    run("dense_block_train", PARTS, CONTESTANTS)
