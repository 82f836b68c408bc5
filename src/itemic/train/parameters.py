"""Which parameters of a model train, for every stage that trains one; knows no losses and no data."""

from typing import Literal

from itemic.core.seeds import derive_rng
from itemic.model.adapters import LoraConfig, add_lora, freeze_backbone
from itemic.model.sid_model import SidModel

__all__ = ["TrainedPart", "choose_parameters"]

TrainedPart = Literal["all", "sid-rows", "lora"]


def choose_parameters(model: SidModel, parameters: TrainedPart, lora: LoraConfig, seed: int) -> None:
    """Freezes what should not train, and puts in what trains instead; the model's outputs stay what they are.

    Args:
        model: Changed in place.
        parameters: ``all``; ``sid-rows``, the rows of the SID tokens alone; or ``lora``, those and adapters.
        lora: Shape of the adapters.
        seed: The run's seed, for the adapters' first values.

    Raises:
        MissingDependencyError: if adapters are asked for and peft is not installed.
        ConfigError: if the rows train already, or no layer has a name in ``lora.target_modules``.
    """
    if parameters == "sid-rows":
        freeze_backbone(model.network, model.sid_tokens.all_ids)
    elif parameters == "lora":
        add_lora(model.network, lora, model.sid_tokens.all_ids, derive_rng(seed, "lora"))
