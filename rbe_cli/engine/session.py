"""A model in use: rows of text that grow token by token."""

from rbe_cli.choices import ActivationBits, KvType
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.paged_cache import PagedCache
from rbe_cli.engine.row_session import RowSession
from rbe_cli.engine.runner import Runner
from rbe_cli.progress import Progress, no_progress
from rbe_cli.runtime.arrays import Float32, Int64
from rbe_cli.runtime.thread_team import Team, get_team

DEFAULT_KV_TYPE: KvType = "fp16"
DEFAULT_ACTIVATION_BITS: ActivationBits = "auto"


class Session(RowSession):
    """Runs a model by compiled programs, with a KV cache of `batch` independent rows.

    A row's logits depend neither on the other rows, nor on the number of threads; nor, where
    activations are rounded to 16 bits, on how its tokens were divided into calls.

    Attributes:
        team: the threads that compute.
    """

    def __init__(
        self,
        model: LoadedModel,
        batch: int = 1,
        kv_type: KvType = DEFAULT_KV_TYPE,
        activation_bits: ActivationBits = DEFAULT_ACTIVATION_BITS,
        team: Team | None = None,
        progress: Progress = no_progress,
    ) -> None:
        """Start with empty rows.

        Args:
            model: the weights.
            batch: rows.
            kv_type: how keys and values are kept.
            activation_bits: bits that a prompt's activations are rounded to; those of other
                tokens are rounded to 16.
            team: the threads that compute; None for as many as there are physical cores.
            progress: is called while programs are compiled, if any are.

        Raises:
            UsageError: `batch` is below 1.
        """
        super().__init__(model.config, batch)
        layout = model.address_layout(activation_bits)
        self.team = team or get_team(None)
        self._runner = Runner(layout, self.team, progress)
        self.cache: PagedCache = PagedCache(model.config, batch, kv_type)
        self.weight_bytes = layout.weight_bytes
        self.coded_layers = len(layout.coded)

    def _run(
        self, ids: Int64, rows: Int64, positions: Int64, wanted: range, is_prompt: bool
    ) -> Float32:
        return self._runner.run(self.cache, ids, rows, positions, wanted, is_prompt)
