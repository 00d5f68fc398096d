"""ResNet-18 as torchvision has it, cut after a residual stage, for any number of bands."""

from torch import Tensor, nn

from sartransfer.models.network import Classifier

CHANNELS = (64, 128, 256, 512)  # after layer1 .. layer4


class ResNetTrunk(nn.Module):
    """ResNet-18 from conv1 to layer `stages`, with torchvision's parameter names and random weights.

    He et al. (2016); no dilation: (B, C, H, W) -> (B, 64 * 2**(stages - 1), H / 2**(stages + 1), ...).
    """

    def __init__(self, in_channels: int, stages: int = 4) -> None:
        from torchvision.models import resnet18

        super().__init__()
        whole = resnet18(weights=None)
        if in_channels != 3:
            conv = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
            whole.conv1 = conv
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.stages = stages
        for i in range(1, stages + 1):
            setattr(self, f"layer{i}", getattr(whole, f"layer{i}"))
        self.out_channels = CHANNELS[stages - 1]

    def forward(self, x: Tensor) -> Tensor:
        """Return the last stage's features."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(1, self.stages + 1):
            x = getattr(self, f"layer{i}")(x)
        return x


def build_resnet18(in_channels: int, num_classes: int, *, dropout: float = 0.0) -> Classifier:
    """Build the ResNet-18 classifier, with dropout before its last layer.

    The trunk is under ``encoder.``, the last layer under ``head``.
    """
    trunk = ResNetTrunk(in_channels, stages=4)
    return Classifier(
        trunk, trunk.out_channels, in_channels=in_channels, num_classes=num_classes, dropout=dropout
    )
