"""The families of models, one line each: what a spec file describes, and how its masks are ranked."""

from __future__ import annotations

import json

from harvib.classifier import Classifier, Spec
from harvib.models import ModelSpec, SequenceClassifier
from harvib.pooling.model import PoolingClassifier, PoolingSpec
from harvib.pooling.ranking import PoolingRanking
from harvib.ranking import Ranking
from harvib.stack_ranking import StackRanking

SPECS: dict[str, type[Spec]] = {ModelSpec.FAMILY: ModelSpec, PoolingSpec.FAMILY: PoolingSpec}


def spec_from_json(text: str) -> Spec:
    """From `harvib.classifier.to_json`; ValueError or TypeError where the text is something else."""
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("a spec is an object")
    family = fields.pop("family", ModelSpec.FAMILY)
    if family not in SPECS:
        raise ValueError(f"no family of models is called {family!r}")
    return SPECS[family].of(fields)


def ranking_of(model: Classifier) -> Ranking:
    """The order in which a masked model's inputs and units would be dropped."""
    if isinstance(model, PoolingClassifier):
        return PoolingRanking(model)
    assert isinstance(model, SequenceClassifier)
    return StackRanking(model)
