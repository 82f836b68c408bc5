"""Rewards of reinforced preference optimisation: one small function each, summed with the recipe's weights.

| name | a candidate gets |
|---|---|
| ``rule`` | 1 on a hit, else 0 |
| ``rank`` | 0 on a hit; a miss its share of -1, the larger the likelier it was held; with ``rule``, the hybrid |
| ``rank-if-hit`` | the same in groups with a hit; 0 in the others |
| ``prefix`` | the share of leading codes that are the target's |
| ``semantic`` | the cosine of its vector and the target's |
| ``collaborative`` | the logit of a frozen SASRec after the history |
| ``format`` | 1 where it could stand in a list: no repetition, and nothing from the history where data has no repeats |
| ``package.module:function`` | what a function of the user's says (``rewards.custom`` has an example) |
"""

from itemic.train.rl.rewards.registry import REWARDS, check_rewards, make_rewards, sum_rewards
from itemic.train.rl.rewards.sources import Reward, RewardSources

__all__ = ["REWARDS", "Reward", "RewardSources", "check_rewards", "make_rewards", "sum_rewards"]
