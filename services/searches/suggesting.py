"""Suggests the choices of the next trial. Only the scheduler imports this module: importing Optuna takes half a second.

There is no study between two calls. Each call builds one in memory from the trials so far, which takes milliseconds.
The random numbers depend on the seed of the search and on the number of the trial. So the same trials with the same
results give the same choices, bit for bit, in every process.

A trial that goes on is in the study as running: TPE then keeps away from it (`constant_liar`). One whose choices cannot
be trained is in it as a trial that breaks a constraint, so TPE avoids its neighbourhood. Optuna would ignore a trial
that failed, and might suggest the same region again and again. A trial that was stopped early is in it as pruned, with
the value that it was stopped for: TPE takes it for worse than every complete trial, and better the further it got.

J. Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011; S. Watanabe, arXiv:2304.11127.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from services.searches.reading import MOST_TRIALS, Algorithm
from services.searches.space import Choices, Field, Range, Space, key_of
from services.searches.trials import State, Trial

FIRST_RANDOM = 10
"""So many trials are random before TPE learns from them."""
TRIES = 8
"""Draws for a trial that differs from those before; only the first half of them are TPE's."""

optuna.logging.set_verbosity(optuna.logging.WARNING)
optuna.logging.disable_default_handler()
optuna.logging.enable_propagation()


def suggest(
    space: Space, trials: Sequence[Trial], number: int, *, algorithm: Algorithm, seed: int, higher_is_better: bool
) -> Choices:
    """The choices of the trial `number`, given all trials so far. Of a grid the trial has the combination `number`."""
    if algorithm == "grid":
        return next(islice(space.cells(), number - 1, None))
    tried = {key_of(trial.choices) for trial in trials}
    choices: Choices = {}
    for attempt in range(TRIES):
        learns = algorithm == "tpe" and attempt < TRIES // 2
        choices = _draw(space, trials if learns else (), _sampler([seed, number, attempt], learns), higher_is_better)
        if key_of(choices) not in tried:
            return choices
    # A small space, of which most was tried: the first combination that was not. If there is none, one is repeated.
    cells = islice(space.cells(), MOST_TRIALS) if space.is_finite else ()
    return next((cell for cell in cells if key_of(cell) not in tried), choices)


def _sampler(numbers: Sequence[int], learns: bool) -> BaseSampler:
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    if not learns:
        return RandomSampler(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # `group` is what conditions between fields need
        return TPESampler(n_startup_trials=FIRST_RANDOM, multivariate=True, group=True, constant_liar=True, seed=seed)


def _draw(space: Space, trials: Sequence[Trial], sampler: BaseSampler, higher_is_better: bool) -> Choices:
    study = optuna.create_study(sampler=sampler, direction="maximize" if higher_is_better else "minimize")
    study.add_trials([_frozen(space, trial) for trial in trials])
    asked = study.ask()
    choices: dict[str, Any] = {}
    for each in space.fields:
        if each.is_varied(choices):
            choices[each.path] = _chosen(asked, each)
    return choices


def _chosen(asked: optuna.Trial, field: Field) -> Any:
    domain, path = field.domain, field.path
    if not isinstance(domain, Range):
        return domain.corners[asked.suggest_categorical(path, range(len(domain.corners)))]
    if domain.is_whole:
        return asked.suggest_int(path, int(domain.low), int(domain.top), log=domain.log, step=int(domain.step or 1))
    return asked.suggest_float(path, domain.low, domain.top, log=domain.log, step=domain.step)


def _frozen(space: Space, trial: Trial) -> FrozenTrial:
    """The trial as Optuna knows trials. A trial that breaks a constraint must have a value, which is not compared."""
    varied = [each for each in space.fields if each.path in trial.choices]
    states = {
        State.GOING_ON: TrialState.RUNNING,
        State.COMPLETE: TrialState.COMPLETE,
        State.IMPOSSIBLE: TrialState.COMPLETE,
        State.PRUNED: TrialState.PRUNED,
        State.LOST: TrialState.FAIL,
    }
    values: Mapping[State, float | None] = {State.COMPLETE: trial.value, State.IMPOSSIBLE: 0.0}
    return optuna.trial.create_trial(
        state=states[trial.state],
        value=values.get(trial.state),
        params={each.path: _internal(each, trial.choices[each.path]) for each in varied},
        distributions={each.path: _distribution(each) for each in varied},
        intermediate_values=dict(trial.reports),
        constraints={"trainable": 1.0} if trial.state == State.IMPOSSIBLE else None,
    )


def _internal(field: Field, chosen: Any) -> Any:
    """A value of a list by its place there: Optuna's own values are numbers and texts alone."""
    if isinstance(field.domain, Range):
        return chosen
    return [key_of(each) for each in field.domain.corners].index(key_of(chosen))


def _distribution(field: Field) -> BaseDistribution:
    domain = field.domain
    if not isinstance(domain, Range):
        return CategoricalDistribution(range(len(domain.corners)))
    if domain.is_whole:
        return IntDistribution(int(domain.low), int(domain.top), log=domain.log, step=int(domain.step or 1))
    return FloatDistribution(domain.low, domain.top, log=domain.log, step=domain.step)
