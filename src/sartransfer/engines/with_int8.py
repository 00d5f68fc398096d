"""The network in int8: ranges taken from windows of the user's own scene, run by OpenVINO or else ONNX Runtime."""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sartransfer.engines.with_onnxruntime import export_onnx, run_onnx
from sartransfer.engines.with_openvino import run_openvino
from sartransfer.errors import InputError


def load_int8(part: nn.Module, examples: Sequence[tuple[Tensor, ...]], device: str) -> Callable[..., Tensor]:
    """Return a part whose convolutions are int8 (weights by channel); see `kinds.Load`.

    The range of every map is the smallest and largest value that it takes for `examples`.
    """
    if not examples:
        raise InputError("engine='int8' needs windows of the scene to take its ranges from.")
    model = quantized_onnx(export_onnx(part, examples[0]), examples)
    if find_spec("openvino") is not None:
        return run_openvino(model, "f32", part)
    return run_onnx(model)


def quantized_onnx(model: bytes, examples: Sequence[tuple[Tensor, ...]]) -> bytes:
    """Return an ONNX model with its convolutions between steps of quantization (QDQ form)."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.given = self._each()

        def _each(self) -> Iterator[dict[str, Any]]:
            for example in examples:
                yield {f"x{i}": x.contiguous().numpy() for i, x in enumerate(example)}

        def get_next(self) -> dict[str, Any] | None:
            return next(self.given, None)

    with tempfile.TemporaryDirectory(prefix="sartransfer-") as folder, _quiet():
        given, made = Path(folder) / "given.onnx", Path(folder) / "made.onnx"
        given.write_bytes(model)
        quantize_static(
            given,
            made,
            Reader(),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=["Conv"],
            # Only what goes into a convolution: sums and their activations stay as they are.
            extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]},
        )
        return made.read_bytes()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log of the quantization: that a model could be simplified first, and that biases stay floats."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
