"""The published weights of Prithvi: from a file or the hub, in either layout, into a network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from sartransfer.errors import WeightsError, nearest
from sartransfer.models.initialize import COUNTER, InitializationReport, load_initialization
from sartransfer.models.lora import is_lora
from sartransfer.models.prithvi import PrithviSegmenter
from sartransfer.models.weights import Weights, read_weights

OWNER = "ibm-nasa-geospatial"
HUB = {
    "prithvi-v1-100m": (f"{OWNER}/Prithvi-EO-1.0-100M", "Prithvi_EO_V1_100M.pt"),
    "prithvi-v2-300m": (f"{OWNER}/Prithvi-EO-2.0-300M", "Prithvi_EO_V2_300M.pt"),
    "prithvi-v2-300m-tl": (f"{OWNER}/Prithvi-EO-2.0-300M-TL", "Prithvi_EO_V2_300M_TL.pt"),
    "prithvi-v2-600m": (f"{OWNER}/Prithvi-EO-2.0-600M", "Prithvi_EO_V2_600M.pt"),
    "prithvi-v2-600m-tl": (f"{OWNER}/Prithvi-EO-2.0-600M-TL", "Prithvi_EO_V2_600M_TL.pt"),
}
"""Name -> (repository, file) on the hub. The TL ones were trained with place and time, which they may lack; here they
are used without."""
FIRST = "patch_embed.proj.weight"
BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


def hub_weights(name: str, revision: str | None = None) -> Weights:
    """Get weights from the Hugging Face hub, or from its cache on this machine.

    Args:
        name: a key of `HUB`; one of its repositories; or ``huggingface:OWNER/NAME/FILE``.
        revision: a commit, branch or tag of the repository; None: the newest.

    Raises:
        WeightsError: no such name, or a hub that cannot be reached. There is never a random start instead.
    """
    by_repository = {repository: (repository, file) for repository, file in HUB.values()}
    entry = HUB.get(name) or by_repository.get(name)
    if name.startswith("huggingface:"):
        owner, _, rest = name.removeprefix("huggingface:").partition("/")
        repository, _, file = rest.partition("/")
        if not (owner and repository and file):
            raise WeightsError(f"{name!r} must be huggingface:OWNER/NAME/FILE.")
        entry = (f"{owner}/{repository}", file)
    if entry is None:
        raise WeightsError(
            f"{name!r} is neither a file nor the name of Prithvi weights on the hub. Names are: "
            f"{', '.join(HUB)}, huggingface:OWNER/NAME/FILE.{nearest(name, HUB)}"
        )
    label = f"huggingface:{'/'.join(entry)}" + (f"@{revision}" if revision else "")
    try:
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(repo_id=entry[0], filename=entry[1], revision=revision)
    except Exception as error:  # the hub raises the errors of several libraries
        raise WeightsError(
            f"{label}: the weights could not be fetched ({type(error).__name__}: {str(error)[:200]}). "
            "Is the hub within reach? Otherwise fetch the file elsewhere and give its path instead."
        ) from error
    return replace(read_weights(path), source=label)


def flat_patches(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Return the tensors with the patch embedding (O, I, 1, p, p) as the 2-D convolution (O, I, p, p) that it is.

    Raises:
        WeightsError: no patch embedding, or one that joins several frames.
    """
    found = [name for name in tensors if name == FIRST or name.endswith(f".{FIRST}")]
    if not found:
        some = ", ".join(list(tensors)[:3])
        raise WeightsError(f"{source} holds no Prithvi encoder: no {FIRST} among its names ({some} ...).")
    flat = dict(tensors)
    for name in found:
        tensor = flat[name]
        if tensor.ndim == 5:
            if tensor.shape[2] != 1:
                raise WeightsError(
                    f"{source}: {name} {tuple(tensor.shape)} joins {tensor.shape[2]} frames in a patch; only patches "
                    "one frame deep are known here."
                )
            flat[name] = tensor[:, :, 0]
    return flat


def load_prithvi(
    model: PrithviSegmenter,
    tensors: Mapping[str, Tensor] | Weights | None,
    *,
    source: str,
    first_layer: str = "mean",
    select: Sequence[int] | None = None,
    allow_missing: Sequence[str] = (),
    freeze: Sequence[str] = (),
    replace_head: bool = True,
) -> InitializationReport:
    """Fill a Prithvi network with weights: `load_initialization`, one frame's bands at a time.

    It takes the published layouts, our own runs, and None for a random start that was asked for. The position embedding
    is not loaded, for it is computed for the image at hand. Low-rank additions start at nothing, and what they
    froze is reported as frozen.

    Args:
        model: as `build_model` returns it; changed in place.
        tensors: from `hub_weights`, `read_weights` or a run; None: random.
        source: what to call the weights in the report.
        first_layer: one of `channels.METHODS`; select, allow_missing, freeze, replace_head: as there.

    Raises:
        WeightsError: as `load_initialization`; the patch embedding joins several frames.
    """
    given = tensors.tensors if isinstance(tensors, Weights) else tensors
    if given is not None:
        given = flat_patches(given, source)
        tensors = replace(tensors, tensors=given) if isinstance(tensors, Weights) else given
    added = [n for n, _ in model.named_parameters() if is_lora(n) and n not in (given or {})]
    with model.one_frame():
        report = load_initialization(
            model,
            tensors,
            source=source,
            first_layer=first_layer,
            select=select,
            allow_missing=[*allow_missing, *added],
            freeze=freeze,
            replace_head=replace_head,
        )
    notes = list(report.notes)
    if model.frames > 1:
        notes.append(
            f"{model.frames} frames of {model.in_channels // model.frames} bands go through it in turn"
        )
    if model.slots is not None:
        notes.append(f"the bands are put at {list(model.slots)} of six, zeros elsewhere")
    unused = {int(m[1]) for n in report.ignored if (m := BLOCK.search(n))}
    surplus = sorted(b for b in unused if b >= model.encoder.depth)
    if surplus:
        notes.append(
            f"blocks {surplus[0]} to {surplus[-1]} of the weights are not used: the network has fewer"
        )
    frozen = tuple(n for n, p in model.named_parameters() if not p.requires_grad)
    sizes = {n: p.numel() for n, p in model.named_parameters()}
    partial = report.partial and any(
        n.startswith("encoder.") and not n.endswith(COUNTER) and not is_lora(n) for n in report.random
    )
    return replace(
        report,
        frozen=frozen,
        partial=partial,
        notes=tuple(notes),
        parameters={**report.parameters, "frozen": sum(sizes[n] for n in frozen)},
    )
