"""Whether a CPU computes in bfloat16 at a useful speed."""

from __future__ import annotations

import torch

SLOW = "this CPU has no instructions for bfloat16, and torch takes many times as long for it as for float32"


def cpu_has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16. oneDNN is asked, which computes torch's products there.

    True where torch was built without oneDNN, or cannot tell.
    """
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return not torch.backends.mkldnn.is_available() or known is None or bool(known())


def computes_slowly(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a model of that dtype would be many times as slow as one in float32.

    Args:
        device: of the model.
        dtype: of it.
    """
    return device.type == "cpu" and dtype == torch.bfloat16 and not cpu_has_bfloat16()
