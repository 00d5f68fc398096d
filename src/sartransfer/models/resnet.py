"""ResNet-18 as torchvision has it, cut after a residual stage, for any number of bands."""

from torch import Tensor, nn
from torch.nn import functional

from sartransfer.errors import RecipeError
from sartransfer.models.network import Classifier

CHANNELS = (64, 128, 256, 512)  # after layer1 .. layer4


class ResNetTrunk(nn.Module):
    """ResNet-18 from conv1 to layer `stages`, with torchvision's parameter names and random weights.

    He et al. (2016); no dilation: (B, C, H, W) -> (B, 64 * 2**(stages - 1), H / 2**(stages + 1), ...).
    """

    def __init__(self, in_channels: int, stages: int = 4, enlarge: float = 1.0) -> None:
        from torchvision.models import resnet18

        super().__init__()
        whole = resnet18(weights=None)
        if in_channels != 3:
            conv = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
            whole.conv1 = conv
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.stages = stages
        self.enlarge = enlarge
        for i in range(1, stages + 1):
            setattr(self, f"layer{i}", getattr(whole, f"layer{i}"))
        self.out_channels = CHANNELS[stages - 1]

    def forward(self, x: Tensor) -> Tensor:
        """Return the last stage's features."""
        if self.enlarge > 1:
            size = [round(self.enlarge * side) for side in x.shape[-2:]]
            x = functional.interpolate(x, size=size, mode="bilinear", align_corners=False)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(1, self.stages + 1):
            x = getattr(self, f"layer{i}")(x)
        return x


def build_resnet18(
    in_channels: int, num_classes: int, *, dropout: float = 0.0, enlarge: float = 1.0
) -> Classifier:
    """Build the ResNet-18 classifier, with dropout before its last layer.

    The trunk is under ``encoder.``, the last layer under ``head``. Chips are enlarged `enlarge` times (bilinear) before
    the trunk, which halves an image five times: 64 px end as 2 x 2, and enlarged twice as 4 x 4. Raises `RecipeError`
    for a factor under 1.
    """
    if not 1 <= enlarge <= 8:
        raise RecipeError(f"{enlarge=} is not allowed: from 1 (as it is) to 8 times as wide.")
    trunk = ResNetTrunk(in_channels, stages=4, enlarge=enlarge)
    return Classifier(
        trunk, trunk.out_channels, in_channels=in_channels, num_classes=num_classes, dropout=dropout
    )
