"""What Ray actors may reserve, as Ray counts it."""

from __future__ import annotations

from typing import Any

import pytest

from dlgforge_core.config import RayConfig, validate
from dlgforge_core.errors import ConfigError
from dlgforge_core.runtime.cluster.calls import reported_again_after


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"num_cpus": 0.00001}, "num_cpus = 1e-05: Ray counts in steps of 0.0001"),
        ({"num_cpus": 1.00005}, "num_cpus = 1.00005: Ray counts in steps of 0.0001"),
        ({"num_cpus": float("inf")}, "num_cpus = inf: Ray counts in steps"),
        ({"num_gpus": 1.5}, "num_gpus = 1.5: above 1, Ray gives whole GPUs only; set it to 1 or 2"),
    ],
)
@pytest.mark.parametrize("actor", ["workers", "coordinator"])
def test_what_ray_cannot_reserve_is_refused_before_it_starts(
    actor: str, size: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        validate(RayConfig, {actor: size}, "resources.ray.config")
    assert f"{actor}" in str(error.value)
    assert message in str(error.value)


def test_what_ray_can_reserve_is_taken() -> None:
    for cpus, gpus in [(0.0, 0.0), (0.0001, 0.25), (1.5, 1.0), (2.3, 4.0)]:
        config = validate(RayConfig, {"workers": {"num_cpus": cpus, "num_gpus": gpus}}, "c")
        assert (config.workers.num_cpus, config.workers.num_gpus) == (cpus, gpus)


def test_a_wait_of_days_is_reported_a_few_dozen_times() -> None:
    waited, reported = 0.0, 0
    while waited < 3 * 86_400:
        waited += reported_again_after(10.0, waited)
        reported += 1
        if reported == 4:
            assert waited == 40.0
    assert reported < 60
