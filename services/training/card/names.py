"""The names of the files of a model card."""

from __future__ import annotations

README = "README.md"
LOSS, GRADIENTS = "loss.svg", "gradients.svg"
CONFUSION, CALIBRATION = "confusion.svg", "calibration.svg"
LENGTHS, HORIZON = "lengths.svg", "horizon.svg"
FORECAST, PREDICTIONS = "forecast.svg", "predictions.svg"
NAMES = (README, LOSS, GRADIENTS, CONFUSION, CALIBRATION, LENGTHS, HORIZON, FORECAST, PREDICTIONS)
