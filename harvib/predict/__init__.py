"""Predictions of videos, cameras and streams by a finished model; see `Predictor`."""

from harvib.predict.predictor import PredictionStream, Predictor
from harvib.predict.results import Clip, Failed, Prediction, Step, top

__all__ = ["Clip", "Failed", "Prediction", "PredictionStream", "Predictor", "Step", "top"]
