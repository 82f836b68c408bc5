"""How a thought before a recommendation is written: the only home of its words and tokens; knows no prompt."""

from dataclasses import dataclass

from itemic.core.errors import ConfigError

__all__ = ["THOUGHT_OPENING", "THOUGHT_STOP", "THOUGHT_THEN", "ThoughtTokens"]

THOUGHT_OPENING = "<think>\n"
"""What a thought begins with; given, not written by the model."""
THOUGHT_STOP = "</think>"
"""What ends a thought."""
THOUGHT_THEN = "\n\n"
"""What stands between a thought and the answer; as after the empty thought of Qwen3's own template."""


@dataclass(frozen=True, kw_only=True)
class ThoughtTokens:
    """Token ids that frame a thought."""

    stop_ids: tuple[int, ...]
    """The tokens, one after the other, that end a thought, ``</think>`` say; appended where the budget runs out."""
    then_ids: tuple[int, ...]
    """What is read between the stop and a semantic ID's first code: a line break and the opening tokens, say."""
    never_ids: tuple[int, ...] = ()
    """Tokens that no thought may hold: the end of the turn, say."""

    def __post_init__(self) -> None:
        if not self.stop_ids:
            raise ConfigError("stop_ids is empty; expected the tokens that end a thought")
        if clash := set(self.stop_ids).intersection(self.never_ids):
            raise ConfigError(f"stop_ids {list(self.stop_ids)} and never_ids share {sorted(clash)}")
