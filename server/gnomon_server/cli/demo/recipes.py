"""Recipes: how each version of the demo's model is trained.

Version 2 learns from three more months than version 1, with more and deeper trees. Version 3 is version 2 trained from
a table that holds the departure delay in hours, while every request brings minutes; its own test, read from the same
table, shows nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from gnomon_server.cli.demo.flights import DELAY, NUMBERS, TEXT, Flights

MINUTES = 1.0
HOURS = 60.0


@dataclass(frozen=True)
class Recipe:
    """What a version is trained on, and how large it becomes."""

    # 1 to 12; the first month is January for all.
    last_month: int
    trees: int
    depth: int
    # The unit in which the training table holds the departure delay, in minutes; requests always bring minutes.
    delay_unit: float = MINUTES

    def reads(self, flights: Flights) -> pd.DataFrame:
        """Returns the features of the flights as the table of this recipe holds them."""
        delay = flights.features[DELAY] / np.float32(self.delay_unit)
        return flights.features.assign(**{DELAY: delay})

    def spoiled(self) -> Recipe:
        """Returns the recipe with the mistake of version 3."""
        return replace(self, delay_unit=HOURS)


_FIRST = Recipe(last_month=6, trees=40, depth=3)
_SECOND = Recipe(last_month=9, trees=60, depth=4)
RECIPES = {1: _FIRST, 2: _SECOND, 3: _SECOND.spoiled()}


def recipe(version: int, broken: bool = False) -> Recipe:
    """Returns the recipe of a version, or what is left of it when it is broken on purpose."""
    return RECIPES[version].spoiled() if broken else RECIPES[version]


def train(version: int, flights: Flights, broken: bool = False) -> Pipeline:
    """Returns the version's model, trained on its months of the flights; the same flights give the same model."""
    chosen = recipe(version, broken)
    past = flights.months(1, chosen.last_month)
    return _pipeline(chosen).fit(chosen.reads(past), past.late)


def own_accuracy(version: int, model: Pipeline, flights: Flights, broken: bool = False) -> float:
    """Returns the share of the flights that the model calls right when it reads them from its recipe's own table.

    That is the test before deployment, in which a wrong unit cannot show: training and test share it.
    """
    return float(model.score(recipe(version, broken).reads(flights), flights.late))


def _pipeline(chosen: Recipe) -> Pipeline:
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, dtype=np.float32)
    columns = ColumnTransformer([("text", codes, list(TEXT)), ("numbers", "passthrough", list(NUMBERS))])
    trees = HistGradientBoostingClassifier(
        learning_rate=0.15,
        max_iter=chosen.trees,
        max_depth=chosen.depth,
        min_samples_leaf=200,
        # All else equal, who leaves later does not arrive earlier.
        monotonic_cst=[int(name == DELAY) for name in (*TEXT, *NUMBERS)],
        # Off, so that no random share of the flights is set aside.
        early_stopping=False,
        random_state=0,
    )
    return make_pipeline(columns, trees)
