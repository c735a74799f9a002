"""`store` and `ray`: where the run state is, and the cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, model_validator

from dlgforge_core.config.base import ConfigModel, PositiveInt, Seconds


class PostgresConfig(ConfigModel):
    """Section `store.postgres`: the database of the run state."""

    dsn: SecretStr = Field(
        SecretStr(""), description="Connection string. Empty: DLGFORGE_POSTGRES_DSN, then Dagster's."
    )
    connect_timeout_s: Seconds = Field(5.0, description="Time-out of a connection attempt.")
    statement_timeout_s: Seconds = Field(60.0, description="Time-out of one statement.")


class StoreConfig(ConfigModel):
    """The run state."""

    backend: Literal["postgres"] = Field("postgres", description="What holds the run state.")
    postgres: PostgresConfig = Field(default_factory=PostgresConfig, description="The Postgres database.")


class ActorSize(ConfigModel):
    """What one Ray actor reserves."""

    num_cpus: Annotated[float, Field(ge=0.0)] = Field(1.0, description="CPUs an actor reserves.")
    num_gpus: Annotated[float, Field(ge=0.0)] = Field(0.0, description="GPUs an actor reserves.")

    @model_validator(mode="after")
    def _as_ray_counts(self) -> Self:
        for name, size in (("num_cpus", self.num_cpus), ("num_gpus", self.num_gpus)):
            if not math.isfinite(size) or round(size, 4) != size:
                raise ValueError(f"{name} = {size:g}: Ray counts in steps of 0.0001; use 0, 0.0001 or more")
        if self.num_gpus > 1 and self.num_gpus != int(self.num_gpus):
            raise ValueError(
                f"num_gpus = {self.num_gpus:g}: above 1, Ray gives whole GPUs only; set it to "
                f"{int(self.num_gpus)} or {int(self.num_gpus) + 1}"
            )
        return self


class ActorConfig(ActorSize):
    """Size and number of one kind of Ray actor."""

    replicas: PositiveInt = Field(1, description="Actors to start.")


class CoordinatorConfig(ActorSize):
    """The coordinator: one, and it only watches."""

    num_cpus: Annotated[float, Field(ge=0.0)] = Field(0.1, description="CPUs the coordinator reserves.")

    @model_validator(mode="before")
    @classmethod
    def _one(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "replicas" in data:
            raise ValueError(
                "a run has one coordinator, so `replicas` is no key of it; leave it out, and set "
                "ray.workers.replicas to have more workers"
            )
        return data


class RayConfig(ConfigModel):
    """The Ray cluster."""

    address: str = Field("auto", description="Cluster address; `auto`: a running one, else one of our own.")
    auto_start_local: bool = Field(True, description="With `auto` and no cluster, start a local one.")
    namespace: str = Field("dlgforge", description="Ray namespace of our actors.")
    coordinator: CoordinatorConfig = Field(
        default_factory=CoordinatorConfig, description="The coordinator actor."
    )
    workers: ActorConfig = Field(default_factory=ActorConfig, description="The worker actors.")
