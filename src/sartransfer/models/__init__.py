"""Networks, their initialization and their checkpoints."""

from sartransfer.models.build import MODELS, build_model
from sartransfer.models.channels import METHODS, adapt_first_layer
from sartransfer.models.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from sartransfer.models.initialize import InitializationReport, load_initialization
from sartransfer.models.network import Classifier, Network, freeze
from sartransfer.models.segmenter import Segmenter
from sartransfer.models.weights import Weights, library_weights, read_weights

__all__ = [
    "METHODS",
    "MODELS",
    "Checkpoint",
    "Classifier",
    "InitializationReport",
    "Network",
    "Segmenter",
    "Weights",
    "adapt_first_layer",
    "build_model",
    "freeze",
    "library_weights",
    "load_initialization",
    "read_checkpoint",
    "read_weights",
    "write_checkpoint",
]
