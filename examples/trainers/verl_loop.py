"""One seat in verl, as an agent loop: the policy plays all seats, and one of them is trained.

Not run against verl itself; written for `verl/experimental/agent_loop` of November 2026. Rows have
the columns `agent_name` ("cory"), `task`, `seed` and `seat`; a row for each seat trains both.
"""

from uuid import uuid4

from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput, register

from cory_env import vector_env


@register("cory")
class CoryLoop(AgentLoopBase):
    """A game, of which verl is given the turn of the row's seat and what it was paid."""

    async def run(self, sampling_params, **row):
        """Play the game of a row."""
        limit = self.config.actor_rollout_ref.rollout.response_length
        games = vector_env(1, row["task"], tokenizer=self.tokenizer, max_new_tokens=limit)
        asked = games.reset(seed=int(row["seed"]))
        turns = {}
        while asked:
            message = {"role": "user", "content": asked[0]}
            prompt_ids = await self.apply_chat_template([message])
            said = await self.server_manager.generate(
                request_id=uuid4().hex, prompt_ids=prompt_ids, sampling_params=sampling_params
            )
            turns[games.agent_selection] = prompt_ids, said
            asked = games.step([self.tokenizer.decode(said.token_ids, skip_special_tokens=True)])
        prompt_ids, said = turns[row["seat"]]
        ids = said.token_ids[:limit]
        return AgentLoopOutput(
            prompt_ids=prompt_ids,
            response_ids=ids,
            response_mask=[1] * len(ids),
            response_logprobs=said.log_probs[:limit] if said.log_probs else None,
            reward_score=float(games.rewards[row["seat"]][0]),
            num_turns=2,
            metrics={},
        )
