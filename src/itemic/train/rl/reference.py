"""Reference policies: what the KL term and DPO compare the policy with.

A reference is a second model that shares with the policy every parameter that does not train: under LoRA or trained
rows it costs a copy of these alone, and its backbone is the policy's own. Knows no loss, roll-out or loop.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from itemic.core.errors import ArtifactError, ConfigError
from itemic.model.sid_model import SidModel

__all__ = ["Reference", "ReferenceConfig", "SyncedReference", "make_reference"]

_NUM_STEPS = "reference.num_steps"
_PARAMETER = "reference.parameter."


@dataclass(frozen=True, kw_only=True)
class ReferenceConfig:
    """Which policy the trained one is held to."""

    kind: Literal["frozen", "synced"] = "frozen"
    """``frozen`` is the policy that the training began with; ``synced`` follows the trained one at a distance."""
    sync_every_steps: int = 512
    """Optimiser steps between syncs; 512 is TRL's default, and so MiniOneRec's."""
    mixup: float = 0.6
    """Share of the policy in the new reference, 0.6 as in TR-DPO and TRL; 1 replaces it."""

    def __post_init__(self) -> None:
        if self.sync_every_steps < 1:
            raise ConfigError(f"sync_every_steps: expected at least 1, found {self.sync_every_steps}")
        if not 0 < self.mixup <= 1:
            raise ConfigError(f"mixup: expected above 0 and at most 1, found {self.mixup}")


class Reference:
    """The policy as it was when this was made, whatever became of it since.

    ``model`` is a model in evaluation mode of which nothing trains, so what it computes has no gradient; compute on it
    as on the policy, under the same autocast, or the two differ before the first step. It belongs in no ``nn.Module``
    of the learner's: one that held it would switch it to training mode.
    """

    def __init__(self, policy: SidModel) -> None:
        """Copies what trains.

        Args:
            policy: What will train, on the device where it will, with adapters and trained rows already in: adapters
                that add nothing yet make the reference the backbone with the rows as they are now.
        """
        self.model = _copy_of_what_trains(policy)

    def before_step(self) -> None:
        """Follows the policy where this reference does; to be called before every optimiser step."""
        return

    def state(self) -> dict[str, Tensor]:
        """Returns what a checkpoint must hold; all names begin with ``reference.``.

        Nothing for a frozen reference: whoever resumes makes it again of the model that the training began with.
        """
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what ``state`` returned, of a mapping that may hold more.

        Raises:
            ArtifactError: if it is of another model.
        """
        return


class SyncedReference(Reference):
    """A reference that takes a step towards the policy every so often: ref <- a * policy + (1 - a) * ref.

    TR-DPO's soft update, with a = 1 its hard one (Gorbatovski et al. 2024, Learn Your Reference Model for Real Good
    Alignment). Adapters are mixed as they are, factor by factor, which is not the mixture of their products.
    """

    def __init__(self, policy: SidModel, every: int, mixup: float) -> None:
        """Copies what trains.

        Args:
            policy: As for a reference that stays.
            every: Optimiser steps between syncs.
            mixup: Share a of the policy.
        """
        super().__init__(policy)
        self._every, self._mixup, self._num_steps = every, mixup, 0
        theirs = dict(self.model.network.named_parameters())
        self._pairs = {
            name: (theirs[name], parameter)
            for name, parameter in policy.network.named_parameters()
            if parameter.requires_grad
        }

    def before_step(self) -> None:
        """Mixes the policy in where ``every`` steps have been taken since the last time.

        It counts its own calls. Called before the step and not after it, the reference in a checkpoint is always the
        one that its last step was taken with.
        """
        if self._num_steps and self._num_steps % self._every == 0:
            with torch.no_grad():
                for reference, policy in self._pairs.values():
                    reference.lerp_(policy, self._mixup)
        self._num_steps += 1

    def state(self) -> dict[str, Tensor]:
        """Returns the reference's parameters and the number of steps it has seen."""
        parameters = {f"{_PARAMETER}{name}": reference.detach() for name, (reference, _) in self._pairs.items()}
        return {_NUM_STEPS: torch.tensor(self._num_steps), **parameters}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what ``state`` returned, of a mapping that may hold more.

        Raises:
            ArtifactError: if it is of another model.
        """
        expected = self.state()
        found = {name: value for name, value in state.items() if name == _NUM_STEPS or name.startswith(_PARAMETER)}
        for name in sorted(expected.keys() | found.keys()):
            if name not in found or name not in expected or found[name].shape != expected[name].shape:
                raise ArtifactError(f"checkpoint: {name} is not of this reference policy; remove it to start over")
        self._num_steps = int(found[_NUM_STEPS])
        with torch.no_grad():
            for name, (reference, _) in self._pairs.items():
                reference.copy_(found[f"{_PARAMETER}{name}"])


def make_reference(policy: SidModel, config: ReferenceConfig) -> Reference:
    """Returns the reference that the config asks for; make it before a checkpoint is loaded into the policy."""
    if config.kind == "synced":
        return SyncedReference(policy, config.sync_every_steps, config.mixup)
    return Reference(policy)


def _copy_of_what_trains(policy: SidModel) -> SidModel:
    """Returns a model in evaluation mode that shares tokenizer and frozen parameters with the policy."""
    shared = {id(parameter): parameter for parameter in policy.network.parameters() if not parameter.requires_grad}
    network = copy.deepcopy(policy.network, shared).requires_grad_(False).eval()
    return SidModel(
        network,
        policy.tokenizer,
        policy.spelling,
        prompt_mode=policy.prompt_mode,
        prompt_version=policy.prompt_version,
        catalog_version=policy.catalog_version,
    )
