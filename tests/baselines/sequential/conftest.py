"""A ring of items that every sequential baseline is fitted to, and small settings for each."""

import pytest

from itemic.baselines.sequential import HSTU, Caser, GRU4Rec, SASRec, SASRecBCE

NUM_ITEMS = 12
SHAPE = {"hidden_size": 16, "max_length": 6}
ON_WINDOWS = {**SHAPE, "num_heads": 2, "batch_tokens": 64, "warmup_steps": 5}
ON_EXAMPLES = {**SHAPE, "batch_size": 32}
SMALL = {
    SASRec: ON_WINDOWS,
    HSTU: ON_WINDOWS,
    GRU4Rec: ON_EXAMPLES,
    Caser: {**ON_EXAMPLES, "num_filters": 4},
    SASRecBCE: ON_EXAMPLES,
}


@pytest.fixture
def dataset(make_dataset):
    """Each item is followed by the next one, the last by the first."""
    return make_dataset([[(user + step) % NUM_ITEMS for step in range(4 + user % 9)] for user in range(40)], NUM_ITEMS)


@pytest.fixture(params=SMALL, ids=lambda model: model.__name__)
def model_type(request):
    """Every sequential baseline."""
    return request.param


@pytest.fixture
def settings(model_type):
    """Makes the small settings of the baseline, changed where a test asks for it."""
    return lambda **changes: model_type.settings(**{**SMALL[model_type], "device": "cpu", **changes})
