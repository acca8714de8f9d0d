"""The layers of HGQ2 that are read, and those that are not, with the reason. Neither HGQ2 nor Keras is needed."""

from __future__ import annotations

from collections.abc import Callable

from .hgq_attention import HGQ_ATTENTION
from .hgq_layers import HGQ_BASIC
from .hgq_quantizers import HgqLayer
from .hgq_recurrent import HGQ_RECURRENT
from .keras_context import Layer

__all__ = ["HGQ_LAYERS", "HGQ_REFUSED", "read_hgq"]

HGQ_LAYERS: dict[str, Callable[[HgqLayer], int | list[int]]] = {**HGQ_BASIC, **HGQ_ATTENTION, **HGQ_RECURRENT}
"""Every supported layer class of HGQ2 and the function that reads it."""

_SUBNETWORK = "its tables are small float networks, whose float32 results decide the last bit"
_SPIKING = "a spiking cell compares float states with float thresholds"

HGQ_REFUSED: dict[str, str] = {
    **dict.fromkeys(("QDenseT", "QEinsumDenseT", "QConvT1D", "QConvT2D"), _SUBNETWORK),
    **dict.fromkeys(("QMultiHeadAttentionT", "QLinformerAttentionT"), _SUBNETWORK),
    **dict.fromkeys(("QSimpleSNN", "QLIF", "QSimpleSNNCell", "QLIFCell", "SpikingNeuralCell", "LIFCell"), _SPIKING),
    **dict.fromkeys(("QSimpleRNNCell", "QGRUCell"), "a cell alone has no sequence"),
    "QSALTAttention": "its convolution of scores is no exported layer",
}
"""Layer classes of HGQ2 that are refused, and why."""


def read_hgq(c: Layer) -> int | list[int]:
    """A layer of HGQ2. Raises `CompileError` for classes and files that are not supported."""
    if c.kind not in HGQ_LAYERS:
        reason = HGQ_REFUSED.get(c.kind, "its class is not known")
        raise c.error(f"this layer of HGQ2 is not supported: {reason}", f"supported: {', '.join(sorted(HGQ_LAYERS))}")
    if c.weights.tree is None:
        raise c.error("a model with layers of HGQ2 must be a .keras file", "save it with model.save('model.keras')")
    return HGQ_LAYERS[c.kind](HgqLayer(c))
