"""The network in OpenVINO, on the CPU, in float32 or bf16."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartransfer.errors import InputError
from sartransfer.models.lora import without_lora

SHAPES = 2  # compiled models of one part that are kept where each size of input has its own


def load_openvino(
    part: nn.Module, examples: Sequence[tuple[Tensor, ...]], device: str
) -> Callable[..., Tensor]:
    """Return a part in OpenVINO, float32; see `kinds.Load`."""
    return run_openvino(_converted(part, examples[0]), "f32", part)


def load_openvino_bf16(
    part: nn.Module, examples: Sequence[tuple[Tensor, ...]], device: str
) -> Callable[..., Tensor]:
    """Return a part in OpenVINO, bf16; raises `InputError` where the processor does not compute in it."""
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in able:
        raise InputError("engine='openvino-bf16': this processor does not compute in bf16. Use 'openvino'.")
    return run_openvino(_converted(part, examples[0]), "bf16", part)


def _dilated(part: nn.Module) -> bool:
    """Say whether a part has dilated convolutions.

    For an input of any size OpenVINO runs those by its reference kernel, 80 times slower (2026.4, rates 12 to 36).
    """
    return any(isinstance(m, nn.Conv2d) and max(m.dilation) > 1 for m in part.modules())


def _converted(part: nn.Module, example: tuple[Tensor, ...]) -> Any:
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that shapes are traced
        model = openvino.convert_model(without_lora(part), example_input=example)
    for given, x in zip(model.inputs, example, strict=True):
        given.get_node().set_partial_shape(openvino.PartialShape([1, x.shape[1], -1, -1]))
    model.validate_nodes_and_infer_types()
    return model


def _channels_last(model: Any, takes: bool, gives: bool) -> Any:
    """Return a model whose first input, and whose output, have their channels last."""
    import openvino

    steps = openvino.preprocess.PrePostProcessor(model)
    for asked, end in ((takes, steps.input(0)), (gives, steps.output(0))):
        if asked:
            end.model().set_layout(openvino.Layout("NCHW"))
            end.tensor().set_layout(openvino.Layout("NHWC"))
    return steps.build()


def run_openvino(model: Any, precision: str, part: nn.Module) -> Callable[..., Tensor]:
    """Return an OpenVINO model as a function of tensors, on as many threads as torch uses.

    Args:
        model: an ``openvino.Model``, or an ONNX model as bytes.
        precision: ``f32`` or ``bf16``.
        part: what it was made of. One with dilated convolutions is compiled anew for each size of input. One that
            ``takes_channels_last`` or ``gives_channels_last`` (features, which are kept so) has them transposed by
            OpenVINO, where that falls away or is shared out to threads.
    """
    import openvino

    core = openvino.Core()
    if isinstance(model, bytes):
        model = core.read_model(model)
    takes, gives = (bool(getattr(part, f"{verb}_channels_last", False)) for verb in ("takes", "gives"))
    if takes or gives:
        model = _channels_last(model, takes, gives)
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # several processes of a machine would be pinned to the same cores
    }
    return OpenVinoPart(core, model, settings, each_size=_dilated(part), takes=takes, gives=gives)


class OpenVinoPart:
    """A compiled part, to be called with tensors."""

    def __init__(
        self, core: Any, model: Any, settings: dict[str, Any], *, each_size: bool, takes: bool, gives: bool
    ) -> None:
        self._core, self._model, self._settings = core, model, settings
        self._each_size, self._takes, self._gives = each_size, takes, gives
        self._compiled: OrderedDict[tuple[torch.Size, ...], tuple[Any, Any]] = OrderedDict()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the answer to inputs on the CPU."""
        if self._takes:
            inputs = (inputs[0].permute(0, 2, 3, 1), *inputs[1:])
        request = self._request(inputs)
        request.infer([x.contiguous().numpy() for x in inputs], share_inputs=True)
        answer = torch.from_numpy(request.get_output_tensor(0).data.copy())
        return answer.permute(0, 3, 1, 2) if self._gives else answer

    def release(self) -> None:
        """Give back the maps between layers, which are kept from call to call; the next call makes room anew."""
        for compiled, _ in self._compiled.values():
            compiled.release_memory()

    def _request(self, inputs: Sequence[Tensor]) -> Any:
        shapes = tuple(x.shape for x in inputs) if self._each_size else ()
        if shapes not in self._compiled:
            if shapes:
                sizes = zip(self._model.inputs, shapes, strict=True)
                self._model.reshape({given: list(shape) for given, shape in sizes})
            compiled = self._core.compile_model(self._model, "CPU", self._settings)
            self._compiled[shapes] = compiled, compiled.create_infer_request()
            if len(self._compiled) > SHAPES:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(shapes)
        return self._compiled[shapes][1]
