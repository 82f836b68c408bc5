import numpy as np
import polars as pl
import pytest

from itemic.core.errors import CatalogError, ConfigError
from itemic.language.prompts import (
    PROMPT_VERSION,
    PROMPTS,
    SYSTEM,
    Message,
    Renderer,
    is_current_version,
    prompt_version,
)
from itemic.language.spelling import Spelling
from itemic.language.tasks import TASKS, ItemTexts, check_tasks
from itemic.model.backbone import make_sid_tokenizer

TEXTS = ItemTexts(["Alien", "Heat", "", "Up", "Big"], ["In space", "", "Boats", "", "Toys"])


def test_chat_ids_equal_the_tokenizer_on_the_whole_rendered_text(chat: Renderer) -> None:
    user = PROMPTS["next_item"].format(history=chat.history_text([0, 2, 1]))
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": user}]
    whole = chat.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    expected = chat.tokenizer.encode(whole, add_special_tokens=False)
    assert chat.prompt_ids(user) == expected
    assert chat.next_item_prompt([0, 2, 1]) == [*expected, *chat.sid_tokens.opening_ids]


def test_training_and_serving_prompts_are_equal_id_for_id(chat: Renderer, sid_only: Renderer) -> None:
    for renderer in (chat, sid_only):
        codes = [renderer.sid_tokens.level_ids[level][3] for level in range(3)]
        for history in ([], [3], [0, 1, 2, 3, 4, 4]):
            example = renderer.next_item_example(history, 2)
            assert example.tokens[~example.is_label].tolist() == renderer.next_item_prompt(history)
            assert example.tokens[example.is_label].tolist() == codes


def test_the_next_item_task_says_what_the_renderer_says(chat: Renderer) -> None:
    builder = TASKS["next_item"].from_history
    assert builder is not None
    message = builder([1, 4], 3, TEXTS, chat)
    assert message is not None
    example, direct = chat.example(message), chat.next_item_example([1, 4], 3)
    np.testing.assert_array_equal(example.tokens, direct.tokens)
    np.testing.assert_array_equal(example.is_label, direct.is_label)


def test_a_continuation_is_the_prompt_of_every_position(sid_only: Renderer) -> None:
    items = [4, 0, 3]
    sequence = sid_only.continuation(items, 0)
    for position, item in enumerate(items):
        example = sid_only.next_item_example(items[:position], item)
        length = len(example.tokens)
        np.testing.assert_array_equal(sequence.tokens[:length], example.tokens)
        assert sequence.is_label[:length][example.is_label].all()
    assert sequence.is_label.sum() == 9
    assert sid_only.continuation(items, 2).is_label.sum() == 3


def test_text_answers_end_with_the_end_of_turn_and_sid_answers_do_not(chat: Renderer) -> None:
    title = chat.example(Message(prompt="p", answer="Heat", answer_is_sid=False))
    assert title.tokens[title.is_label][-1] == chat.tokenizer.eos_token_id
    assert chat.tokenizer.decode(title.tokens[title.is_label][:-1]) == "Heat"
    sid = chat.example(Message(prompt="p", answer=chat.sid_text(2), answer_is_sid=True))
    assert sid.is_label.sum() == 3


def test_tasks_put_the_right_facts_on_each_side(chat: Renderer) -> None:
    def from_item(name: str, item: int) -> Message | None:
        builder = TASKS[name].from_item
        assert builder is not None
        return builder(item, TEXTS, chat)

    def from_history(name: str) -> Message | None:
        builder = TASKS[name].from_history
        assert builder is not None
        return builder([0, 2, 1], 3, TEXTS, chat)

    sid = chat.sid_text
    assert from_item("title_to_sid", 1) == Message(
        prompt="Which item has this title?\nHeat", answer=sid(1), answer_is_sid=True
    )
    assert from_item("sid_to_title", 1) == Message(
        prompt=f"What is the title of this item?\n{sid(1)}", answer="Heat", answer_is_sid=False
    )
    description = from_item("description_to_sid", 0)
    assert description is not None
    assert description.prompt.endswith("In space")
    assert description.answer == sid(0)
    backwards = from_item("sid_to_description", 0)
    assert backwards is not None
    assert backwards.answer == "In space"
    titles = from_history("titles_to_sid")
    assert titles is not None
    assert titles.prompt.endswith("- Alien\n- Heat")
    assert titles.answer == sid(3)
    title = from_history("sids_to_title")
    assert title is not None
    assert title.prompt.endswith(sid(0) + sid(2) + sid(1))
    assert title.answer == "Up"
    for name, item in (("title_to_sid", 2), ("sid_to_title", 2), ("description_to_sid", 1), ("sid_to_description", 1)):
        assert from_item(name, item) is None, "an item without the text has no example"


def test_a_backbone_without_a_chat_template_gets_a_plain_one(chat: Renderer) -> None:
    chat.tokenizer.chat_template = None
    plain = Renderer(chat.tokenizer, chat.spelling, chat.codes, "chat")
    assert plain.tokenizer.decode(plain.prompt_ids("Hi")).endswith("User: Hi\n\nAssistant: ")


def test_a_template_that_refuses_a_system_role_is_used_without_one(chat: Renderer) -> None:
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    chat.tokenizer.chat_template = refusal + chat.tokenizer.chat_template
    text = chat.tokenizer.decode(Renderer(chat.tokenizer, chat.spelling, chat.codes, "chat").prompt_ids("Hi"))
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_thinking_prompt_lets_the_template_think_and_opens_the_thought(chat: Renderer) -> None:
    """As with Qwen3, whose template closes an empty thought where thinking is off."""
    closed = "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    template = chat.tokenizer.chat_template
    for opened in ("", "<think>\n"):
        chat.tokenizer.chat_template = template.replace(
            "<|im_start|>assistant\n", f"<|im_start|>assistant\n{opened or closed}"
        )
        renderer = Renderer(chat.tokenizer, chat.spelling, chat.codes, "chat")
        text = chat.tokenizer.decode(renderer.thinking_prompt([0, 2]))
        user = PROMPTS["next_item"].format(history=chat.history_text([0, 2]))
        assert text.endswith(f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n<think>\n")
    frame = chat.thought_tokens()
    assert chat.tokenizer.decode(frame.stop_ids) == "</think>"
    assert chat.tokenizer.decode(frame.then_ids) == "\n\n" + "".join(chat.spelling.opening)
    assert {chat.tokenizer.bos_token_id, chat.tokenizer.eos_token_id} <= set(frame.never_ids)


def test_a_model_without_words_cannot_think(sid_only: Renderer) -> None:
    for ask in (lambda: sid_only.thinking_prompt([0]), sid_only.thought_tokens):
        with pytest.raises(ConfigError, match="a thought needs words: this model's prompts are sid-only"):
            ask()


def test_unusable_tokenizers_and_tasks_are_refused(spelling: Spelling) -> None:
    codes = np.zeros((1, 3), dtype=np.int64)
    other = Spelling.of(spelling.style, (9, 4, 4))
    with pytest.raises(CatalogError, match="has no token"):
        Renderer(make_sid_tokenizer(spelling), other, codes, "sid-only")
    with pytest.raises(ConfigError, match="unknown task 'nex_item'"):
        check_tasks({"nex_item": 1.0}, "chat")
    with pytest.raises(ConfigError, match="weight must be above 0"):
        check_tasks({"next_item": 0.0}, "chat")
    with pytest.raises(ConfigError, match="needs words"):
        check_tasks({"title_to_sid": 1.0}, "sid-only")
    with pytest.raises(ConfigError, match="at least one task"):
        check_tasks({}, "chat")


def test_titles_alone_a_description_of_the_next_item_and_a_search(chat: Renderer) -> None:
    items = pl.DataFrame(
        {
            "title": [
                "Big red steel bolt set",
                "Big red nut",
                "Small steel bolt set",
                None,
                "Big Acme steel drill bit",
            ],
            "description": ["Bolts", "", None, "Boats", "Drills"],
            "brand": ["Acme", None, "", "Acme", "Acme"],
        }
    )
    texts = ItemTexts.from_items(items)
    assert texts.queries == ["acme red bolt set", "", "small bolt set", "", "acme big drill bit"]
    builders = {name: TASKS[name].from_history for name in ("titles_to_title", "sids_to_description")}
    title = builders["titles_to_title"]([0, 3, 1], 2, texts, chat)
    assert title == Message(
        prompt="Name the next item for a user with this history of titles, oldest first:\n"
        "- Big red steel bolt set\n- Big red nut",
        answer="Small steel bolt set",
        answer_is_sid=False,
    )
    assert builders["titles_to_title"]([3], 2, texts, chat) is None
    assert builders["titles_to_title"]([0], 3, texts, chat) is None
    description = builders["sids_to_description"]([0, 1], 4, texts, chat)
    assert (description.prompt[-len(chat.history_text([0, 1])) :], description.answer) == (
        chat.history_text([0, 1]),
        "Drills",
    )
    assert builders["sids_to_description"]([0], 1, texts, chat) is None
    search = TASKS["query_to_sid"].from_item
    assert search(2, texts, chat) == Message(
        prompt="Which item does a user want who searches for this?\nsmall bolt set",
        answer=chat.sid_text(2),
        answer_is_sid=True,
    )
    assert search(1, texts, chat) is None


def test_models_that_were_not_taught_the_later_tasks_keep_their_version() -> None:
    assert prompt_version(["next_item", "sid_to_title"]) == PROMPT_VERSION
    later = prompt_version(["next_item", "titles_to_title"])
    assert later != PROMPT_VERSION
    assert prompt_version(["next_item"], start=later) == later
    assert is_current_version(later)
    assert is_current_version(PROMPT_VERSION)
    assert not is_current_version("older")
