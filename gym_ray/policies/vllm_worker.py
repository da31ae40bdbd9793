"""What our engine asks of vLLM's workers beyond what they offer; vLLM mixes it into their class.

Imports nothing: vLLM names the class by its path and loads it in every worker process.
"""

from __future__ import annotations

from typing import Any


class WorkerExtension:
    """Calls by `collective_rpc`."""

    model_runner: Any

    def repack_weights(self) -> None:
        """Renew the copies that CPU layers compute with.

        vLLM's reload does so for layers it loads something into. A head that shares the weights of
        the embedding is none of them, and would go on computing with its packed copy of the old.
        """
        for layer in self.model_runner.get_model().modules():
            if hasattr(layer, "cpu_linear") and layer.weight.numel():
                layer.quant_method.process_weights_after_loading(layer)
