"""The network in ONNX Runtime, on the CPU, and its export."""

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from sartransfer.models.lora import without_lora

OPSET = 17


def export_onnx(part: nn.Module, example: tuple[Tensor, ...]) -> bytes:
    """Return a part as an ONNX model whose inputs ``x0``, ``x1`` ... may have any height and width.

    By torch's exporter from traces: the newer one needs onnxscript and 15 s for a ResNet-18, this one .6 s.
    """
    names = [f"x{i}" for i in range(len(example))]
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the exporter is the older one, and that shapes are traced
        torch.onnx.export(
            without_lora(part),
            example,
            cast(Any, file),  # this exporter writes to open files too
            dynamo=False,
            input_names=names,
            output_names=["y"],
            dynamic_axes={name: {2: f"h{name}", 3: f"w{name}"} for name in (*names, "y")},
            opset_version=OPSET,
        )
    return file.getvalue()


def load_onnxruntime(
    part: nn.Module, examples: Sequence[tuple[Tensor, ...]], device: str
) -> Callable[..., Tensor]:
    """Return a part in ONNX Runtime, float32; see `kinds.Load`."""
    return run_onnx(export_onnx(part, examples[0]))


def run_onnx(model: bytes) -> Callable[..., Tensor]:
    """Return an ONNX model as a function of tensors, on as many threads as torch uses."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    # Freed memory goes back: windows at a scene's edges have other shapes, and an arena would keep room for each.
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> Tensor:
        (answer,) = session.run(None, {f"x{i}": x.contiguous().numpy() for i, x in enumerate(inputs)})
        return torch.from_numpy(answer)

    return run
