"""SIDs and words become token sequences: spelling, prompts, tasks, packing."""

from itemic.language.corpus import Corpus
from itemic.language.packing import Group, PackedRows, pack_rows, rows_to_batch, visible
from itemic.language.prompts import PROMPT_VERSION, Message, Renderer, TokenExample
from itemic.language.spelling import SidTokens, Spelling
from itemic.language.tasks import TASKS, ItemTexts, Task
from itemic.language.thoughts import ThoughtTokens

__all__ = [
    "PROMPT_VERSION",
    "TASKS",
    "Corpus",
    "Group",
    "ItemTexts",
    "Message",
    "PackedRows",
    "Renderer",
    "SidTokens",
    "Spelling",
    "Task",
    "ThoughtTokens",
    "TokenExample",
    "pack_rows",
    "rows_to_batch",
    "visible",
]
