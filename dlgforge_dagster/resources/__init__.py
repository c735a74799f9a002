"""Dagster resources: the Ray cluster, the run state and the endpoints."""

from dlgforge_dagster.resources.llm import LlmResource
from dlgforge_dagster.resources.ray import RayResource
from dlgforge_dagster.resources.store import StoreResource

__all__ = ["LlmResource", "RayResource", "StoreResource"]
