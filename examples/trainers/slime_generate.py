"""Both seats in slime: `--custom-generate-function-path slime_generate.generate`.

Not run against slime itself; written for its customization guide of November 2026. A sample's
metadata has `task` and `seed`. The turns of a game are siblings with one `rollout_id`; each has the
reward of its agent, so with `reward_sharing="mean"` a game counts once.
"""

import copy

from slime.rollout.sglang_rollout import GenerateState
from slime.utils.http_utils import post
from slime.utils.types import Sample

from cory_env import vector_env


async def generate(args, sample, sampling_params):
    """Play the game of a sample, and return a sample for each turn."""
    tokenizer = GenerateState(args).tokenizer
    url = f"http://{args.sglang_router_ip}:{args.sglang_router_port}/generate"
    limit = sampling_params["max_new_tokens"]
    games = vector_env(1, sample.metadata["task"], reward_sharing="mean", max_new_tokens=limit)
    asked = games.reset(seed=sample.metadata["seed"])
    turns = []
    while asked:
        message = {"role": "user", "content": asked[0]}
        prompt_ids = tokenizer.apply_chat_template(
            [message], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        request = {"input_ids": prompt_ids, "sampling_params": sampling_params}
        output = await post(url, {**request, "return_logprob": True})
        scored = output["meta_info"]["output_token_logprobs"]
        turn = copy.copy(sample)
        turn.rollout_id = sample.index if sample.rollout_id is None else sample.rollout_id
        turn.tokens = [*prompt_ids, *(token for _, token, *_ in scored)]
        turn.rollout_log_probs = [log_prob for log_prob, *_ in scored]
        turn.response, turn.response_length = output["text"], len(scored)
        turn.loss_mask = [1] * len(scored)
        cut = output["meta_info"]["finish_reason"]["type"] == "length"
        turn.status = Sample.Status.TRUNCATED if cut else Sample.Status.COMPLETED
        turns.append((games.agent_selection, turn))
        asked = games.step([output["text"]])
    for agent, turn in turns:
        turn.reward = float(games.rewards[agent][0])
    return [turn for _, turn in turns]
