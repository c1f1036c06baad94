"""The client is a package of its own: its table of metrics is the service's."""

from __future__ import annotations

from loopline import measures

from services.training.measures import MEASURES


def test_the_clients_table_of_metrics_is_that_of_the_service() -> None:
    assert {name: measure.higher_is_better for name, measure in MEASURES.items()} == measures.HIGHER_IS_BETTER


def test_a_number_of_a_result_points_as_its_metric_does() -> None:
    assert measures.points_up("test_label_accuracy")
    assert not measures.points_up("validation_rmse")
