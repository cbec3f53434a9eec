"""ResNet-56 for CIFAR-10 (He et al., 2016) as a multi-label ONNX model of 2x2 tiles of its images.

    python examples/cifar_tiles/make_model.py WEIGHTS OUT.onnx

The trained network gives a class to one 32x32 image. Here its convolutions run over a 64x64 tile of
four images, each quadrant of the last feature map is pooled and classified by the trained layer,
and a label's logit is the largest over the quadrants, less the quadrant's log-sum-exp of the other
classes: the log-odds of the class in the quadrant that shows it most.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 10
CHANNELS = (16, 32, 64)
BLOCKS = 9  # per group: 3 groups of 9 blocks of 2 convolutions, and 2 more layers, make 56


class Block(nn.Module):
    """Two convolutions around a skip that pads missing channels with zeros ("option A")."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.missing = channels - before

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.missing:
            half = self.missing // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return torch.relu(residual + x)


class TiledResNet(nn.Module):
    """(batch, 3, 64, 64), normalised -> logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        before = CHANNELS[0]
        for number, channels in enumerate(CHANNELS, start=1):
            blocks = [Block(before, channels, 1 if number == 1 else 2)]
            blocks += [Block(channels, channels, 1) for _ in range(BLOCKS - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
            before = channels
        self.linear = nn.Linear(CHANNELS[-1], CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))  # (batch, 64, 16, 16)
        quadrants = F.avg_pool2d(x, 8).flatten(2).transpose(1, 2)  # (batch, 4, 64)
        probabilities = self.linear(quadrants).softmax(-1)  # (batch, 4, 10)
        largest = probabilities.amax(1).clamp(1e-6, 1 - 1e-6)
        return torch.log(largest) - torch.log1p(-largest)


def tiled_resnet() -> TiledResNet:
    """A fresh network, for `offramp calibrate --model ...:tiled_resnet`."""
    return TiledResNet()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    state = torch.load(arguments.weights, map_location="cpu", weights_only=True)["state_dict"]
    network = tiled_resnet()
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, 64, 64),),
        arguments.out,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        external_data=False,
        verbose=False,
    )


if __name__ == "__main__":
    main()
