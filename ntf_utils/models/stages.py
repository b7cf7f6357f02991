"""Calling a network, or one stage of it, with weights from outside.

A staged network (`ntf_utils/models/receptive.py`) says in three methods what its forward pass does:

    see(images) -> seen             no weights: done once for a data set that never changes
    respond(seen) -> responses      linear in the first layer's weights, so that the responses of any mixture of
                                    networks are the mixture of their responses
    conclude(responses) -> logits   all other layers
"""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call


def is_staged(net: nn.Module) -> bool:
    """Whether the network has the three stages."""
    return all(hasattr(net, stage) for stage in ("see", "respond", "conclude"))


def call(net: nn.Module, state: Mapping[str, Tensor], inputs: Tensor, *stages: str) -> Tensor:
    """The network's methods of these names, one after the other, with the parameters and buffers of `state`.

    Buffers that the call changes (running statistics) are changed in `state`.
    """
    return functional_call(_Stages(net, stages), {f"net.{name}": value for name, value in state.items()}, (inputs,))


class _Stages(nn.Module):
    def __init__(self, net: nn.Module, stages: tuple[str, ...]):
        super().__init__()
        self.net, self.stages = net, stages

    def forward(self, inputs: Tensor) -> Tensor:
        for stage in self.stages:
            inputs = getattr(self.net, stage)(inputs)
        return inputs
