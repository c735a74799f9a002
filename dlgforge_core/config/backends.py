"""Backends: what each kind of endpoint is, in one object. What provisions one is `runtime.serving`'s.

`backend_of` and `provisioner_for` name every backend: one that is forgotten is a type error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal, assert_never, get_args

from dlgforge_core.dialogue import OPTIONAL_ROLES, Role

if TYPE_CHECKING:
    from dlgforge_core.config.llm import LlmConfig

BackendName = Literal["embedded", "openai", "vllm_attach", "vllm_managed"]
DEFAULT_BACKEND: BackendName = "embedded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A kind of endpoint.

    `check` raises ValueError for settings of `llm` that cannot work with it. `own_model` is the model of
    roles that name none, "" where one must be named; `weights` are those behind the model's name, "" where
    the name tells them.
    """

    check: Callable[[LlmConfig], None]
    own_model: Callable[[LlmConfig], str] = lambda llm: ""
    weights: Callable[[LlmConfig], str] = lambda llm: ""
    starts_servers: bool
    """Else its endpoints can be checked before Ray starts."""
    own_servers: bool = False
    """Whether what it asks are servers of one's own, whose calls nobody sends a bill for."""
    local_only: bool = False
    """Whether only this machine reaches what it serves."""
    serves_one_model: bool = False
    """Whether roles and judges can ask for no model but its own."""
    follows_question_kinds: Callable[[LlmConfig], bool] = lambda llm: True
    """Whether its model can be asked for a sort of question; those that cannot are asked for any."""
    reads_openai_base_url: bool = False
    """Whether OPENAI_BASE_URL in the environment takes the place of its addresses."""
    program_keys: tuple[str, ...] = ()
    """Keys of `llm` that decide which program runs: who launches a run may not choose them freely."""

    @property
    def serves_on_ray(self) -> bool:
        """Whether its servers run on the Ray cluster."""
        return self.starts_servers and not self.local_only

    @property
    def configured_endpoints(self) -> bool:
        """Whether its endpoints are those of the configuration."""
        return not self.starts_servers


BACKENDS: tuple[BackendName, ...] = get_args(BackendName)


def backend_of(name: BackendName) -> Backend:
    """Return the backend of this name."""
    match name:
        case "embedded":
            return _EMBEDDED
        case "openai":
            return _OPENAI
        case "vllm_attach":
            return _VLLM_ATTACH
        case "vllm_managed":
            return _VLLM_MANAGED
        case unknown:
            assert_never(unknown)


def _check_openai(llm: LlmConfig) -> None:
    if llm.routing.endpoints and llm.base_url:
        raise ValueError("base_url and routing.endpoints are both set; keep one of them")
    missing = [role.value for role in Role if role not in OPTIONAL_ROLES and not llm.model_of(role)]
    if missing:
        raise ValueError(
            f"no model is named for {', '.join(missing)}; set llm.model, LLM_MODEL or llm.agents.<role>.model"
        )


def _check_vllm_attach(llm: LlmConfig) -> None:
    if not llm.routing.endpoints and not llm.base_url and set(llm.roles_of_backend) - OPTIONAL_ROLES:
        raise ValueError(
            "backend vllm_attach needs servers to attach to; set routing.endpoints, for example "
            "[{base_url: 'http://gpu-1:8000/v1'}], or LLM_ROUTING_ENDPOINTS_JSON"
        )
    _check_openai(llm)


def _check_vllm_managed(llm: LlmConfig) -> None:
    if not llm.vllm.model:
        raise ValueError("backend vllm_managed needs a model to serve; set vllm.model")
    served = llm.vllm.served_name
    models = {role.value: llm.model_of(role) for role in llm.roles_of_backend}
    unlike = {role: model for role, model in models.items() if model != served}
    if unlike:
        named = ", ".join(f"{role} = {model!r}" for role, model in unlike.items())
        raise ValueError(
            f"vllm.served_model_name = {served!r} is not what the agents ask for ({named}); "
            f"name {served!r} there, or leave model empty"
        )


def _vllm_weights(llm: LlmConfig) -> str:
    return llm.vllm.model if llm.vllm.served_name != llm.vllm.model else ""


_EMBEDDED = Backend(
    check=lambda llm: None,
    own_model=lambda llm: llm.embedded.served_name,
    weights=lambda llm: PurePath(llm.embedded.model_path).name,
    starts_servers=True,
    own_servers=True,
    local_only=True,
    serves_one_model=False,  # it answers to any name
    follows_question_kinds=lambda llm: llm.embedded.asked_for_kinds,
)
_OPENAI = Backend(
    check=_check_openai,
    starts_servers=False,
    reads_openai_base_url=True,
)
_VLLM_ATTACH = Backend(
    check=_check_vllm_attach,
    starts_servers=False,
    own_servers=True,
)
_VLLM_MANAGED = Backend(
    check=_check_vllm_managed,
    own_model=lambda llm: llm.vllm.served_name,
    weights=_vllm_weights,
    starts_servers=True,
    own_servers=True,
    serves_one_model=True,
    program_keys=("vllm.env", "vllm.extra_args"),
)
