"""Real items only, from a vLLM engine: top lists as itemic's own search ranks them, and plain sampling.

Usage: python examples/vllm_recommend.py runs/quickstart (see docs/vllm.md for what to install).
"""

import sys

from vllm import LLM, SamplingParams

from itemic import load_trained
from itemic.decode.adapters.vllm import VllmRecommender

if __name__ == "__main__":  # the engine's processes import this file again
    llm = LLM(
        f"{(folder := sys.argv[1])}/model",
        dtype="float32",
        enforce_eager=True,  # starts faster; a server leaves it out
        logits_processors=["itemic.decode.adapters.vllm:SidLogitsProcessorV1"],  # V2 on a GPU
        additional_config={"itemic_catalog": f"{folder}/catalog"},
        logprobs_mode="processed_logits",
        max_logprobs=50,
    )
    run = load_trained(folder)
    history = run.dataset.split("test")["history"][0].to_list()
    lists = VllmRecommender(llm, run.prompt).recommend([history], k=10, exclude=[history])
    print([run.catalog.item_ids[row] for row in lists.item_index[0] if row >= 0])
    params = SamplingParams(n=5, max_tokens=8, extra_args={"itemic": "sid"})
    for output in llm.generate([{"prompt_token_ids": run.prompt(history)}], params)[0].outputs:
        print(output.text)
