"""A model in use on the GPU: rows of text that grow token by token."""

from rbe_cli.choices import KvType
from rbe_cli.cuda.device_cache import DeviceCache
from rbe_cli.cuda.device_model import DeviceModel
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.row_session import RowSession
from rbe_cli.engine.session import DEFAULT_KV_TYPE
from rbe_cli.runtime.arrays import Float32, Int64


class CudaSession(RowSession):
    """Runs a model on the GPU, where its weights, keys and values lie; logits come back."""

    def __init__(
        self, model: LoadedModel, batch: int = 1, kv_type: KvType = DEFAULT_KV_TYPE
    ) -> None:
        """Start with empty rows.

        Args:
            model: the weights, which are copied.
            batch: rows.
            kv_type: how keys and values are kept: fp16 or fp32.

        Raises:
            UsageError: `batch` is below 1, or `kv_type` does not exist here.
        """
        super().__init__(model.config, batch)
        self.cache: DeviceCache = DeviceCache(model.config, batch, kv_type)
        self.model = DeviceModel(model.config, model.weights)
        self.weight_bytes = self.model.weight_bytes
        self.coded_layers = 0

    def _run(
        self, ids: Int64, rows: Int64, positions: Int64, wanted: range, is_prompt: bool
    ) -> Float32:
        return self.model.run(self.cache, ids, rows, positions, wanted)
