"""Semantic IDs from vLLM: its logits processors, and exact beam search through an engine that has no such thing.

The one importer of vLLM, which is optional. Tested with vllm 0.32.0: docs/vllm.md says how to start an engine and
what a request may ask for. Knows no prompts' text.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itemic.core.errors import ConfigError, DataError, MissingDependencyError
from itemic.core.files import read_json
from itemic.core.ranking import Histories, Recommendations, check_histories
from itemic.decode.adapters.prefix import PrefixReader
from itemic.decode.adapters.rows import ConstrainedRows, RowRequest
from itemic.decode.beam import BeamResult, close_beams
from itemic.decode.candidates import Candidates
from itemic.decode.filters import ItemFilter
from itemic.decode.prefill import check_numbers, check_prompts
from itemic.decode.recommender import list_items
from itemic.decode.trie import Trie
from itemic.decode.walk import Normalization
from itemic.language.spelling import SidTokens, Spelling
from itemic.sid.catalog import Catalog
from itemic.sid.lineage import check_trained_on

try:
    from vllm import SamplingParams
    from vllm.tokenizers import cached_tokenizer_from_config
    from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SlotLogitsProcessor
except ImportError as error:
    raise MissingDependencyError("itemic.decode.adapters.vllm needs the package 'vllm', see docs/vllm.md") from error

__all__ = ["SidLogitsProcessorV1", "SidLogitsProcessorV2", "VllmRecommender", "beam_search_with_vllm"]

_PROCESSORS = ("itemic.decode.adapters.vllm:SidLogitsProcessorV1", "itemic.decode.adapters.vllm:SidLogitsProcessorV2")
_SETTINGS = ("itemic_catalog", "itemic_trie", "itemic_allow_catalog_change")


class SidLogitsProcessorV1(LogitsProcessor):  # type: ignore[misc]  # vllm is not followed by mypy
    """Constrains the requests that ask for it, by ``extra_args``, to the semantic IDs of a catalog.

    For vLLM's model runner V1: on CPUs, and with ``VLLM_USE_V2_MODEL_RUNNER=0`` elsewhere. The engine is given this
    class by name and the catalog in its own configuration, which reaches every worker:
    ``LLM(model, logits_processors=["itemic.decode.adapters.vllm:SidLogitsProcessorV1"],
    additional_config={"itemic_catalog": "runs/mine/catalog"})``. What a request may ask for is in
    :class:`itemic.decode.adapters.rows.RowRequest`; requests without a key ``itemic`` are left as they are.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Loads the catalog in the engine's worker.

        Args:
            vllm_config: The engine's configuration.
            device: Where the logits will lie.
            is_pin_memory: Not used: what goes to the device is a few token ids a row.

        Raises:
            ConfigError: if the configuration names no catalog.
            CatalogError: if the model was trained on another catalog and that is not allowed, or cannot write its
                SIDs.
        """
        self._rows = _make_rows(vllm_config, device)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuses a request whose arguments are wrong before it reaches the engine.

        Raises:
            ConfigError: which vLLM's server answers with status 400.
        """
        RowRequest.from_extra_args(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        """Returns False: the most likely token changes."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follows the requests that left the batch, came to it and moved in it."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._rows.remove(index)
        for index, params, prompt, output in batch_update.added:
            self._rows.add(index, RowRequest.from_extra_args(params.extra_args), prompt or [], output)
        for source, target, direction in batch_update.moved:
            self._rows.move(source, target, swap=direction == MoveDirectionality.SWAP)

    def apply(self, logits: Float[Tensor, "R V"]) -> Float[Tensor, "R V"]:
        """Returns the logits, overwritten where a row is constrained."""
        if len(self._rows):
            self._rows.constrain(logits)
        return logits


class SidLogitsProcessorV2(SlotLogitsProcessor):  # type: ignore[misc]  # vllm is not followed by mypy
    """:class:`SidLogitsProcessorV1` for vLLM's model runner V2, the default on GPUs.

    That runner keeps requests in slots that do not move and their tokens on the device, so every step copies one
    token for each constrained row to the host.
    """

    def __init__(self, vllm_config: Any, req_states: LogitsProcRequestState) -> None:
        """Loads the catalog in the engine's worker.

        Args:
            vllm_config: The engine's configuration.
            req_states: The engine's own buffers of tokens and lengths.

        Raises:
            ConfigError: if the configuration names no catalog, or asks for speculative decoding.
            CatalogError: if the model was trained on another catalog and that is not allowed, or cannot write its
                SIDs.
        """
        if vllm_config.speculative_config is not None:
            raise ConfigError("speculative decoding gives a request several rows, which cannot be constrained")
        self._rows = _make_rows(vllm_config, req_states.device)
        self._states = req_states
        self._new: dict[int, RowRequest] = {}
        self._outputs: dict[int, list[int]] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuses a request whose arguments are wrong before it reaches the engine.

        Raises:
            ConfigError: which vLLM's server answers with status 400.
        """
        RowRequest.from_extra_args(sampling_params.extra_args)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Puts a request in a slot; returns whether it will be constrained."""
        self._rows.remove(req_idx)
        self._outputs.pop(req_idx, None)
        self._new.pop(req_idx, None)
        request = RowRequest.from_extra_args(sampling_params.extra_args)
        if request is not None:
            self._new[req_idx] = request
        return request is not None

    def apply(self, logits: Float[Tensor, "R V"], ctx: LogitsContext) -> Float[Tensor, "R V"]:
        """Returns the logits, overwritten where a row is constrained."""
        row_of: dict[int, int] = {}
        spans: list[tuple[int, int, int]] = []
        lengths = ctx.seq_lens_upper_bound_np.tolist()
        for row, slot in enumerate(ctx.idx_mapping_np.tolist()):
            is_new = slot in self._new
            prompt_length = int(self._states.prompt_len.np[slot])
            # A row whose prompt is still being read in chunks writes nothing yet.
            if lengths[row] >= prompt_length and (is_new or slot in self._outputs):
                row_of[slot] = row
                first = self._first_needed(slot, prompt_length) if is_new else prompt_length + len(self._outputs[slot])
                spans.append((slot, first, lengths[row]))
        if spans:
            self._read_tokens(spans)
            self._rows.constrain(logits, row_of)
        return logits

    def _first_needed(self, slot: int, prompt_length: int) -> int:
        return max(0, prompt_length - self._rows.num_prompt_tokens(self._new[slot]))

    def _read_tokens(self, spans: list[tuple[int, int, int]]) -> None:
        """Copies the tokens of slots from a first to a last place (exclusive) from the device, all at once."""
        slot, first, last = torch.tensor(spans, device=self._states.device).T[..., None]
        width = max(stop - start for _, start, stop in spans)
        place = (first + torch.arange(width, device=slot.device)).minimum(last - 1)
        table = self._states.all_token_ids.gpu[slot, place].tolist()
        for (index, start, stop), tokens in zip(spans, table, strict=True):
            fresh = tokens[: stop - start]
            if index in self._outputs:
                self._outputs[index].extend(fresh)
                continue
            num_prompt = int(self._states.prompt_len.np[index]) - start
            self._outputs[index] = fresh[num_prompt:]
            self._rows.add(index, self._new.pop(index), fresh[:num_prompt], self._outputs[index])


def _make_rows(vllm_config: Any, device: torch.device) -> ConstrainedRows:
    """Returns the rows of an engine that has none yet, with the catalog that its configuration names."""
    settings = _settings(vllm_config.additional_config)
    catalog = Catalog.load(Path(settings["itemic_catalog"]))
    _check_model(vllm_config.model_config.model, catalog, settings)
    tokenizer = cached_tokenizer_from_config(vllm_config.model_config)
    sid_tokens = _sid_tokens(catalog, tokenizer)
    reader = PrefixReader(_tree(settings, catalog), sid_tokens, device)
    return ConstrainedRows(reader, sid_tokens.opening_ids, tokenizer.eos_token_id, catalog.item_ids)


def _sid_tokens(catalog: Catalog, tokenizer: Any) -> SidTokens:
    return SidTokens.from_tokenizer(tokenizer, Spelling.of(catalog.spelling, catalog.codebook_sizes))


def _tree(settings: dict[str, Any], catalog: Catalog) -> Trie:
    """Returns the catalog's tree, mapped from a file where the configuration names one."""
    path = settings.get("itemic_trie")
    return Trie.from_catalog(catalog) if path is None else Trie.cached(Path(path), catalog)


def _settings(additional_config: Any) -> dict[str, Any]:
    ours = {key: value for key, value in dict(additional_config).items() if key.startswith("itemic")}
    unknown = sorted(set(ours) - set(_SETTINGS))
    if unknown:
        raise ConfigError(f"additional_config[{unknown[0]!r}]: no such setting; there are {', '.join(_SETTINGS)}")
    if "itemic_catalog" not in ours:
        raise ConfigError("additional_config has no 'itemic_catalog', the folder of the catalog to decode")
    return ours


def _check_model(model: str, catalog: Catalog, settings: dict[str, Any]) -> None:
    """Compares the catalog with the one that the model folder's ``itemic.json`` names; other models have none."""
    card = Path(model) / "itemic.json"
    if card.is_file():
        allow_change = bool(settings.get("itemic_allow_catalog_change", False))
        facts = read_json(card)
        check_trained_on(
            catalog,
            facts["catalog_version"],
            tuple(facts["spelling"]["codebook_sizes"]),
            facts["spelling"]["style"],
            allow_change=allow_change,
        )


class VllmRecommender:
    """Ranks a catalog through a vLLM engine, by :func:`beam_search_with_vllm`; a ``core.ranking.Recommender``."""

    def __init__(
        self,
        llm: Any,
        prompt: Callable[[Sequence[int]], Sequence[int]],
        *,
        num_beams: int = 50,
        normalize: Normalization = "legal",
        name: str = "itemic on vLLM",
    ) -> None:
        """Loads the catalog that the engine was started with.

        Args:
            llm: A ``vllm.LLM``, started as :func:`beam_search_with_vllm` wants it.
            prompt: The renderer: from a history of item indices, oldest first, to the token ids of the prompt.
            num_beams: Beam width. A list longer than that raises it to its own length.
            normalize: ``legal`` or ``full``.
            name: Name in tables.

        Raises:
            ConfigError: if the engine's configuration names no catalog.
        """
        settings = _settings(llm.llm_engine.vllm_config.additional_config)
        catalog = Catalog.load(Path(settings["itemic_catalog"]))
        self.name = name
        self._llm = llm
        self._prompt = prompt
        self._num_items = catalog.num_items
        self._reader = PrefixReader(_tree(settings, catalog), _sid_tokens(catalog, llm.get_tokenizer()))
        self._num_beams = num_beams
        self._normalize: Normalization = normalize

    def recommend(
        self, histories: Histories, k: int, exclude: Histories | None = None, allow: Histories | None = None
    ) -> Recommendations:
        """Returns the ``k`` best items for each history; see ``core.ranking.Recommender``.

        Raises:
            DataError: if an item index is not in the catalog or ``k`` is less than 1.
        """
        if k < 1:
            raise DataError(f"k must be at least 1, found {k}")
        check_histories(histories, self._num_items)
        trie = self._reader.trie
        allowed = _filter(trie, len(histories), exclude, allow)
        prompts = [self._prompt(history) for history in histories]
        num_beams = max(k, self._num_beams)
        beams = beam_search_with_vllm(self._llm, prompts, self._reader, num_beams, self._normalize, exclude, allow)
        return list_items(trie, beams, k, allowed)


def beam_search_with_vllm(
    llm: Any,
    prompts: Sequence[Sequence[int]],
    reader: PrefixReader,
    num_beams: int,
    normalize: Normalization = "legal",
    exclude: Histories | None = None,
    allow: Histories | None = None,
) -> BeamResult:
    """Returns what :func:`itemic.decode.constrained_beam_search` does, from a vLLM engine.

    An engine keeps a cache a request, so a beam cannot fork: every level is a batch of requests of one token, one for
    each live beam, whose prompts share their blocks through vLLM's prefix cache. Each returns the scores of its best
    ``num_beams`` children, and no child beyond those could be among the best. The engine must run one of the logits
    processors of this module with ``logprobs_mode="processed_logits"`` (its scores, as they are), ``max_logprobs`` of
    at least ``num_beams`` and prefix caching.

    Deviation: ties beyond the listed leaves are counted among the children that the engine returned.

    Args:
        llm: A ``vllm.LLM``.
        prompts: Token ids, each ending where a SID's first code follows.
        reader: The same tree as the engine's, with its token ids.
        num_beams: Width W.
        normalize: ``legal`` or ``full``.
        exclude: For each prompt item indices that must not appear.
        allow: For each prompt the only item indices that may appear.

    Raises:
        ConfigError: if the engine was not started for this, or the width does not exist.
        DataError: if a prompt is empty, or an item index is not in the catalogue.
    """
    check_numbers(num_beams=num_beams)
    check_prompts(prompts)
    trie, num_prompts = reader.trie, len(prompts)
    _check_engine(llm, min(num_beams, max(trie.max_children)))
    allowed = _filter(trie, num_prompts, exclude, allow)
    wishes = [_wish(normalize, row, exclude, allow) for row in range(num_prompts)]
    logprob, written = torch.zeros(num_prompts, 1), torch.zeros(num_prompts, 1, 0, dtype=torch.long)
    for depth in range(trie.num_levels):
        num_children = min(num_beams, trie.max_children[depth])
        token, score = _ask(llm, prompts, wishes, written, logprob > -torch.inf, num_children)
        candidates = _candidates(reader, written, logprob, token, score, allowed)
        place = candidates.logprob.flatten(1).topk(min(num_beams, candidates.logprob[0].numel()), dim=1).indices
        best = candidates.at(place)
        parent = best.parent[..., None].expand(-1, -1, depth)
        written = torch.cat([written.gather(1, parent), token.flatten(1).gather(1, place)[..., None]], dim=-1)
        logprob = best.logprob
    leaf, logprob, num_tied_beyond = close_beams(candidates, best, num_beams)
    return BeamResult(leaf=leaf, logprob=logprob, num_tied_beyond=num_tied_beyond)


def _filter(trie: Trie, num_requests: int, exclude: Histories | None, allow: Histories | None) -> ItemFilter | None:
    if exclude is None and allow is None:
        return None
    return ItemFilter.from_lists(trie, num_requests, exclude, allow)


def _ask(
    llm: Any,
    prompts: Sequence[Sequence[int]],
    wishes: list[dict[str, Any]],
    written: Int[Tensor, "B W d"],
    is_live: Bool[Tensor, "B W"],
    num_children: int,
) -> tuple[Int[Tensor, "B W C"], Float[Tensor, "B W C"]]:
    """Returns the best children of every live beam, as token ids with their scores, -inf where there is none.

    One request a beam is how an engine is asked; a level's requests go in one call.
    """
    depth = written.shape[-1]
    row, column = is_live.nonzero(as_tuple=True)
    params = [
        SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprobs=num_children,
            flat_logprobs=True,
            detokenize=False,
            extra_args={**wish, "itemic_num_given": depth},
            skip_clone=True,
        )
        for wish in wishes
    ]
    requests = [
        {"prompt_token_ids": [*prompts[prompt], *codes]}
        for prompt, codes in zip(row.tolist(), written[row, column].tolist(), strict=True)
    ]
    answers = llm.generate(requests, [params[prompt] for prompt in row.tolist()], use_tqdm=False)
    # The first entry is the token that was drawn, which comes again among the best.
    found = [answer.outputs[0].logprobs for answer in answers]
    token = torch.zeros(*is_live.shape, num_children, dtype=torch.long)
    score = torch.full(token.shape, -torch.inf)
    if found:
        token[row, column] = torch.tensor([each.token_ids[1:] for each in found])
        score[row, column] = torch.tensor([each.logprobs[1:] for each in found])
    return token, score


def _candidates(
    reader: PrefixReader,
    written: Int[Tensor, "B W d"],
    logprob: Float[Tensor, "B W"],
    token: Int[Tensor, "B W C"],
    score: Float[Tensor, "B W C"],
    allowed: ItemFilter | None,
) -> Candidates:
    depth = written.shape[-1] + 1
    path = torch.cat([written[:, :, None].expand(*token.shape, -1), token[..., None]], dim=-1).flatten(0, 2)
    prefixes = reader.read(path, torch.zeros(len(path), dtype=torch.long))
    node, is_legal = prefixes.node.view(token.shape), prefixes.is_legal.view(token.shape)
    counts = reader.trie.num_items_below(depth, node) if allowed is None else allowed.num_allowed(depth, node)
    num_items = counts * is_legal
    total = (logprob[..., None] + score).masked_fill(num_items == 0, -torch.inf)
    return Candidates(node, total, num_items)


def _wish(normalize: Normalization, row: int, exclude: Histories | None, allow: Histories | None) -> dict[str, Any]:
    wish: dict[str, Any] = {"itemic": "sid", "itemic_normalize": normalize}
    for name, lists in (("itemic_exclude", exclude), ("itemic_allow", allow)):
        if lists is not None:
            wish[name] = [int(item) for item in lists[row]]
    return wish


def _check_engine(llm: Any, num_logprobs: int) -> None:
    config = llm.llm_engine.vllm_config.model_config
    if not set(_PROCESSORS).intersection(config.logits_processors or ()):
        raise ConfigError(
            f"the engine runs without a logits processor of itemic's: name one of {_PROCESSORS} at its start"
        )
    if config.logprobs_mode != "processed_logits":
        raise ConfigError(
            f"the engine returns {config.logprobs_mode}; start it with logprobs_mode='processed_logits', so that it "
            "returns the processor's own scores"
        )
    if config.max_logprobs != -1 and config.max_logprobs < num_logprobs:
        raise ConfigError(
            f"the engine returns at most {config.max_logprobs} scores, {num_logprobs} are needed; raise max_logprobs"
        )
