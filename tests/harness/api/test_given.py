"""Versions of objects given in Python: equal objects share one, and whatever changes the scores changes it."""

import dataclasses

import numpy as np

from harness.api import given
from harness.features.controls import Control


def weighted(weight=1.0, *, power=1):
    def metric(predicted, observed, weight=weight, *, power=power):
        return weight * (predicted * observed).mean(0) ** power

    return metric


def version_of(metric):
    return given.metric(metric)[1]["metric"].version


def test_a_function_is_the_same_until_its_code_or_a_default_changes():
    assert version_of(weighted()) == version_of(weighted())
    assert len({version_of(weighted()), version_of(weighted(2.0)), version_of(weighted(power=2))}) == 3


def test_a_function_with_an_array_as_default_is_new_each_time():
    """Long arrays that differ in the middle alone have one repr."""
    long = np.zeros(5000)
    assert version_of(weighted(long)) != version_of(weighted(long))


def test_the_settings_of_a_control_are_part_of_its_version():
    def one_number(dataset):
        return np.ones(len(dataset.stimuli))

    control = Control("mine", "ones", ("sentences", "scans"), compute=one_number)
    others = [{}, {"pool": "sum"}, {"row_level": True}, {"one_unit": True}, {"kinds": ("scans",)}, {"title": "1"}]
    versions = [given.own_controls({"mine": dataclasses.replace(control, **other)})["mine"].version for other in others]
    assert len(set(versions)) == 5
    assert versions[0] == versions[-1]  # a title changes no score
