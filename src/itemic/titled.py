"""A trained run that answers with titles, not semantic IDs: BIGRec's grounding and D3's tree, made of its parts."""

from collections.abc import Sequence

from itemic.baselines.dense import DenseRecommender
from itemic.baselines.stage import load_rows
from itemic.core.errors import ConfigError
from itemic.core.ranking import Recommender
from itemic.core.run import Run
from itemic.decode.debiased import Assistant, TitleTreeRecommender
from itemic.decode.grounding import GroundedTitleRecommender
from itemic.decode.title_config import Answer, TitleConfig
from itemic.decode.title_tree import make_title_tree
from itemic.decode.walk import Normalization
from itemic.inference import TrainedRun
from itemic.language.tasks import NEXT_TITLE_TASK, ItemTexts, next_title_prompt
from itemic.model.sid_model import SidModel

__all__ = ["title_recommender"]


def title_recommender(
    trained: TrainedRun,
    run: Run,
    answer: Answer,
    config: TitleConfig | None = None,
    *,
    num_beams: int = 50,
    normalize: Normalization = "legal",
    batch_size: int = 16,
    device: str = "auto",
) -> Recommender:
    """Returns a recommender that asks a run's model for titles.

    Only active items of the catalog that have a title are ever listed. Histories are told in titles, so the model
    must have been taught ``titles_to_title``.

    Args:
        trained: The run, as ``load_trained`` gives it; the recommender takes over its name.
        run: Its folder, which holds the assistant among the fitted baselines.
        answer: ``title-grounded`` or ``title-tree``.
        config: Settings of these.
        num_beams: ``title-tree``: beam width.
        normalize: ``title-tree``: what the model's scores are normalised over.
        batch_size: Prompts decoded at once.
        device: Where the assistant computes.

    Raises:
        ConfigError: if the answer is none in titles, the model was not taught to name the next item, or the assistant
            is no row of the baselines or scores no items.
        DataError: if no item has a title.
    """
    config = config or TitleConfig()
    if answer == "sid":
        raise ConfigError("answer: sid is what a trained run answers with; expected title-grounded or title-tree")
    _check_taught(run)
    assert isinstance(trained.model, SidModel), "a run's model is one"
    model, renderer, num_read = trained.model, trained.renderer, trained.max_history
    texts = ItemTexts.from_items(trained.dataset.items)
    is_listed = trained.catalog.active.tolist()
    titles = [
        renderer.encode(title) if title and listed else []
        for title, listed in zip(texts.titles, is_listed, strict=True)
    ]

    def prompt(history: Sequence[int]) -> list[int]:
        return next_title_prompt(history if num_read is None else history[-num_read:], texts, renderer)

    end_id, name = renderer.answer_end, trained.recommender.name
    if answer == "title-grounded":
        start_id = renderer.tokenizer.bos_token_id
        return GroundedTitleRecommender(
            model,
            titles,
            prompt,
            start_id=end_id if start_id is None else start_id,
            end_id=end_id,
            popularity=trained.dataset.train_counts(),
            popularity_power=config.popularity_power,
            max_new_tokens=config.max_new_tokens,
            batch_size=batch_size,
            name=name,
        )
    assistant = _assistant(run, config.assistant, device) if config.assistant else None
    return TitleTreeRecommender(
        model,
        make_title_tree(titles, end_id),
        prompt,
        num_items=len(titles),
        assistant=assistant,
        model_weight=config.model_weight if assistant else 1.0,
        num_beams=num_beams,
        normalize=normalize,
        batch_size=batch_size,
        name=name,
    )


def _check_taught(run: Run) -> None:
    stages = run.manifest()["stages"]
    if not any(NEXT_TITLE_TASK in stages[name]["config"]["tasks"] for name in ("align", "sft", "rl") if name in stages):
        raise ConfigError(
            f"the run's model was not taught to name the next item; put {NEXT_TITLE_TASK} among sft.tasks"
        )


def _assistant(run: Run, row: str, device: str) -> Assistant:
    rows = load_rows(run, device=device)
    if row not in rows:
        raise ConfigError(f"assistant {row!r}: no such row of baselines; there are {', '.join(rows)}")
    baseline = rows[row].baseline
    if not isinstance(baseline, DenseRecommender):
        raise ConfigError(f"assistant {row!r}: {baseline.name} does not score every item; take SASRec, say")
    return baseline.score
