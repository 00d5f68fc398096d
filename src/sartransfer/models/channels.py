"""How a first layer made for other channels meets the bands at hand: functions on the weight tensor alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sartransfer.errors import WeightsError, one_of

METHODS = {
    "repeat": "kernels repeated in turn over the bands and rescaled",
    "mean": "the mean kernel for every band, rescaled",
    "select": "kernels chosen by index",
    "conv1x1": "a new 1x1 convolution before the network",
}


def adapt_first_layer(
    weight: Tensor, in_channels: int, method: str = "repeat", *, select: Sequence[int] | None = None
) -> Tensor:
    """Fit a first convolution's weight to another number of input channels.

    ``repeat`` and ``mean`` answer I equal channels before and `in_channels` equal channels after with the
    same numbers, so that the layers behind see activations of the size they were trained on. ``repeat``
    deals the bands to the given kernels in turn: with fewer bands than kernels a band feeds several (two
    bands meet R, G, B as first, second, first), with more the bands of one kernel share it, each rescaled
    by how many they are. For one band and for multiples of I this is timm's ``adapt_input_conv``. ``mean``
    gives every band the mean kernel times I / in_channels. ``select`` takes the kernels at `select`,
    unscaled. ``conv1x1`` leaves the weight as it is: the projection before the network does the fitting
    (`Network.add_input_projection`), and starts as the very function that ``repeat`` is.

    Args:
        weight: (O, I, k, k).
        in_channels: number of bands.
        method: one of `METHODS`.
        select: for ``select``: one index from 0 to I - 1 a band.

    Returns:
        (O, in_channels, k, k); for ``conv1x1`` and where I = in_channels (and no selection) the weight as
        it is.

    Raises:
        WeightsError: an unknown method, a weight that is no 2-D convolution's, or indices that do not fit.
    """
    if method not in METHODS:
        raise WeightsError(one_of("first_layer", method, METHODS))
    if weight.ndim != 4 or in_channels < 1:
        raise WeightsError(
            f"a first layer of shape {tuple(weight.shape)} cannot be fitted to {in_channels} bands: "
            "expected (O, I, k, k) and at least one band."
        )
    if method == "select":
        return _select(weight, in_channels, select)
    given = weight.shape[1]
    if given == in_channels or method == "conv1x1":
        return weight
    if method == "mean":
        mean = weight.mean(dim=1, keepdim=True) * (given / in_channels)
        return mean.repeat(1, in_channels, 1, 1)
    deal = cyclic_projection(in_channels, given)[:, :, 0, 0].to(weight)
    return torch.einsum("oikl,ic->ockl", weight, deal)


def _select(weight: Tensor, in_channels: int, select: Sequence[int] | None) -> Tensor:
    given = weight.shape[1]
    if select is None or len(select) != in_channels or any(not 0 <= i < given for i in select):
        raise WeightsError(
            f"first_layer='select' needs one index from 0 to {given - 1} for each of the "
            f"{in_channels} bands, not {None if select is None else list(select)}."
        )
    return weight[:, list(select)]


def cyclic_projection(in_channels: int, channels: int) -> Tensor:
    """Return the start of a 1x1 convolution from `in_channels` bands to `channels`.

    Shape (channels, in_channels, 1, 1), float64. Output i takes band ``i mod in_channels``; with more bands
    than outputs, the mean of the bands c with ``c mod channels = i``. It is the identity where the numbers
    agree, and every row sums to 1.
    """
    rows = torch.arange(channels).view(-1, 1)
    bands = torch.arange(in_channels).view(1, -1)
    takes = rows % in_channels == bands if in_channels <= channels else bands % channels == rows
    weight = takes.double()
    return (weight / weight.sum(dim=1, keepdim=True)).view(channels, in_channels, 1, 1)
