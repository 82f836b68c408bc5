"""SIDs and words become token sequences: spelling, prompts, tasks, packing."""

from itemic.language.corpus import Corpus
from itemic.language.packing import Group, PackedRows, pack_rows, rows_to_batch, visible
from itemic.language.prompts import PROMPT_VERSION, Message, Renderer, TokenExample
from itemic.language.spelling import SidTokens, Spelling
from itemic.language.tasks import TASKS, ItemTexts, Task

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
    "TokenExample",
    "pack_rows",
    "rows_to_batch",
    "visible",
]
