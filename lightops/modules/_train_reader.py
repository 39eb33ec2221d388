"""Reading a stock block's children for a training forward."""

from torch import nn

from lightops.modules._flow import TrainNorm
from lightops.modules._reader import DROPOUTS, Decline, Reader


class TrainReader(Reader):
    """Norms come as `TrainNorm`, whatever their mode; nothing is guarded, since every forward reads again.

    Active dropouts among the neutral children are collected instead of declined.
    """

    trains = True

    def __init__(self, block: nn.Module):
        super().__init__(block)
        self._guarded = False
        self.batch = False

    def norm(self, path: str) -> tuple[TrainNorm, str]:
        module, act = self.norm_module(path)
        weight, bias = self.tensor(path, module, "weight"), self.tensor(path, module, "bias")
        mean = self.tensor(path, module, "running_mean", buffer=True)
        var = self.tensor(path, module, "running_var", buffer=True)
        if (mean is None) != (var is None):
            raise Decline(f"{path} has only one of the two running statistics")
        batch = module.training or mean is None
        if batch and module.eps == 0:
            raise Decline(f"{path} has eps={module.eps}")
        tracks = module.training and module.track_running_stats
        if tracks and module.momentum is None and not self._eager:
            raise Decline(f"{path} averages over all batches (momentum None), which needs the counter's value")
        self._take_norm(path, module.eps, weight, bias, mean, var)
        self.batch = self.batch or batch
        return TrainNorm(weight, bias, mean, var, module.eps, module, batch, tracks), act

    def inactive(self, path: str) -> None:
        module = self.module(path)
        if type(module) in DROPOUTS and module.training and module.p:
            self.dropouts.append(module)
        else:
            super().inactive(path)
