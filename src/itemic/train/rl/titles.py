"""The titles of a catalogue as an answer tree, so that a title is decoded and rewarded as a semantic ID is.

A title is cut where it is told apart from all others. What would follow is forced: under the constrained policy its
log-probability is 0 and it has no gradient. Knows token ids only, no words and no prompts.
"""

from collections.abc import Sequence

from itemic.decode.title_tree import make_title_tree
from itemic.language.prompts import Renderer
from itemic.language.tasks import ItemTexts
from itemic.train.rl.answers import AnswerTree

__all__ = ["title_token_ids", "title_tree"]


def title_token_ids(texts: ItemTexts, renderer: Renderer) -> list[list[int]]:
    """Returns the token ids of each item's canonical title, as training encodes an answer; none without a title.

    Args:
        texts: The clipped texts.
        renderer: Holds the tokenizer; in chat mode.
    """
    return [renderer.encode(title) if title else [] for title in texts.titles]


def title_tree(token_ids: Sequence[Sequence[int]], end_id: int) -> AnswerTree:
    """Returns the answer tree of titles; see ``decode.title_tree.make_title_tree``.

    Args:
        token_ids: Token ids of each item's title, without ``end_id``; items with none are not in the tree.
        end_id: Token that ends an answer.

    Raises:
        DataError: if no item has a title, or a title holds ``end_id``.
    """
    tree = make_title_tree(token_ids, end_id)
    return AnswerTree(trie=tree.trie, level_ids=tree.level_ids, is_padded=True)
