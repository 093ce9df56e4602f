import json

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from models.metrics import (
    balanced_weights,
    class_metrics,
    confusion_matrix,
    mean_iou,
    overall_metrics,
)
from models.training.train_fold import EpochMetrics


@pytest.fixture(params=range(4))
def classes(request):
    """Reference and prediction of 9 classes; 2 and 7 never occur."""
    rng = np.random.default_rng(request.param)
    occurring = np.array([0, 1, 3, 4, 5, 6, 8])
    reference = rng.choice(occurring, 60)
    predicted = np.where(rng.random(60) < 0.6, reference, rng.choice(occurring, 60))
    return reference, predicted


def test_equals_scikit_learn(classes):
    reference, predicted = classes
    matrix = confusion_matrix(reference, predicted, 9)
    np.testing.assert_array_equal(
        matrix, sklearn_metrics.confusion_matrix(reference, predicted, labels=range(9))
    )
    present = np.union1d(reference, predicted)
    overall, by_class = overall_metrics(matrix), class_metrics(matrix)
    for name, score in (
        ("IoU", sklearn_metrics.jaccard_score),
        ("Precision", sklearn_metrics.precision_score),
        ("Recall", sklearn_metrics.recall_score),
        ("F1-score", sklearn_metrics.f1_score),
    ):
        options = {"labels": present, "zero_division": 0}
        expected = score(reference, predicted, average=None, **options)
        np.testing.assert_allclose([by_class[str(c)][name] for c in present], expected)
        for average, prefix in (("micro", "micro_"), ("macro", "MACRO_")):
            expected = score(reference, predicted, average=average, **options)
            assert overall[prefix + name] == pytest.approx(expected)
    assert overall["Accuracy"] == pytest.approx(
        sklearn_metrics.accuracy_score(reference, predicted)
    )
    assert mean_iou(matrix) == pytest.approx(overall["MACRO_IoU"])


def test_macro_metrics_average_over_the_classes_that_occur():
    # Class 1 is never a reference, class 2 never predicted, class 3 neither.
    overall = overall_metrics(confusion_matrix(np.array([0, 0, 2]), np.array([0, 1, 0]), 4))
    assert overall["MACRO_Precision"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert overall["MACRO_Recall"] == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert overall["MACRO_IoU"] == pytest.approx((1 / 3 + 0 + 0) / 3)


def test_metrics_of_no_parcel_are_zero():
    matrix = confusion_matrix(np.array([], dtype=int), np.array([], dtype=int), 3)
    assert set(overall_metrics(matrix).values()) == {0.0}
    json.dumps([overall_metrics(matrix), class_metrics(matrix)], allow_nan=False)
    assert mean_iou(matrix) == 0.0


def test_refuses_classes_out_of_range():
    with pytest.raises(ValueError, match=r"predicted classes must be in 0 .. 2, found 0 .. 3"):
        confusion_matrix(np.array([0, 1]), np.array([0, 3]), 3)
    with pytest.raises(ValueError, match=r"reference classes must be in 0 .. 2, found -1"):
        confusion_matrix(np.array([-1, 1]), np.array([0, 0]), 3)


def test_metrics_of_batches_equal_those_of_all(classes):
    reference, predicted = classes
    logits = torch.nn.functional.one_hot(torch.from_numpy(predicted), 9).float()
    tally = EpochMetrics("val", 9, torch.device("cpu"))
    for part in (slice(0, 45), slice(45, 60)):
        loss = torch.tensor(2.0 if part.start else 1.0)
        tally.add(loss, logits[part], torch.from_numpy(reference[part]))
    found = tally.metrics()
    assert found["val_loss"] == pytest.approx(1.25)
    assert found["val_accuracy"] == pytest.approx(100 * np.mean(reference == predicted))
    assert found["val_IoU"] == pytest.approx(mean_iou(confusion_matrix(reference, predicted, 9)))


def test_balanced_weights_equal_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0, 0, 0, 1, 3, 3])
    found = balanced_weights(labels, 4)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    np.testing.assert_allclose(found[[0, 1, 3]], expected)
    assert np.mean(found[labels]) == pytest.approx(1)
    assert np.isfinite(found).all()
