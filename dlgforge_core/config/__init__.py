"""The configuration tree, a module for each section.

Every default, bound and check is written here, once; the Dagster resources and assets take their fields
from these models (see `dlgforge_dagster.config`). Lists are written as plain defaults, not factories, so
that Dagster's launchpad can show them.
"""

from dlgforge_core.config.acceptance import AcceptConfig
from dlgforge_core.config.agents import (
    AgentConfig,
    AgentsConfig,
    AssistantConfig,
    JudgeAgentConfig,
    UserSimulatorConfig,
)
from dlgforge_core.config.answers import MAX_CANDIDATES, AnswersConfig
from dlgforge_core.config.attributes import AttributeCaseConfig, AttributeConfig
from dlgforge_core.config.backends import BACKENDS, Backend, BackendName, backend_of
from dlgforge_core.config.base import ConfigModel, NonNegativeInt, PositiveInt, Probability, Seconds, validate
from dlgforge_core.config.checks import ACCEPT_CHECKS, ChecksConfig
from dlgforge_core.config.conversation import ConversationConfig, GoalConfig, SystemPromptConfig
from dlgforge_core.config.coverage import CoverageConfig
from dlgforge_core.config.endpoints import (
    CALL_TIMEOUT_S,
    PROVIDER_KEYS,
    EndpointConfig,
    ProviderConfig,
    RoutingEndpointConfig,
    check_base_url,
)
from dlgforge_core.config.environment import addresses_replaced, llm_from_environment
from dlgforge_core.config.generation import GenerationConfig
from dlgforge_core.config.inputs import PersonasConfig, SeedColumnsConfig, SeedsConfig, TopicsConfig
from dlgforge_core.config.judging import OFFLINE_KEYS, JudgeConfig, JudgeModelConfig
from dlgforge_core.config.knowledge import (
    SHIPPED_KNOWLEDGE,
    DocumentLimitsConfig,
    DocumentLinks,
    EmbeddingBackend,
    EmbeddingConfig,
    KnowledgeConfig,
    RerankConfig,
    RetrievalConfig,
    RetrievalMode,
)
from dlgforge_core.config.llm import (
    EMBEDDED_MODEL_NAME,
    EmbeddedConfig,
    LlmConfig,
    RoutingConfig,
    RoutingStrategy,
    VllmConfig,
)
from dlgforge_core.config.markup import MarkupConfig
from dlgforge_core.config.prices import ANY_MODEL, PriceConfig
from dlgforge_core.config.prompts import ExampleConfig, ExamplesConfig, PromptsConfig
from dlgforge_core.config.reasoning import ReasoningConfig, TracePartConfig
from dlgforge_core.config.recipe import Recipe, check_apart, read_recipe, read_recipes
from dlgforge_core.config.run import (
    COUNT_KEYS,
    EFFORT_KEYS,
    QUESTION_KINDS,
    DistributedConfig,
    RunConfig,
    SpawnConfig,
)
from dlgforge_core.config.runtime import (
    ActorConfig,
    ActorSize,
    CoordinatorConfig,
    PostgresConfig,
    RayConfig,
    StoreConfig,
)
from dlgforge_core.config.saving import (
    DatasetFilesConfig,
    FiltersConfig,
    HfPushConfig,
    SavingConfig,
    SemanticDedupConfig,
)
from dlgforge_core.config.tools import ToolsConfig, tool_secrets, web_search_key

__all__ = [
    "ACCEPT_CHECKS",
    "ANY_MODEL",
    "BACKENDS",
    "CALL_TIMEOUT_S",
    "COUNT_KEYS",
    "EFFORT_KEYS",
    "EMBEDDED_MODEL_NAME",
    "MAX_CANDIDATES",
    "OFFLINE_KEYS",
    "PROVIDER_KEYS",
    "QUESTION_KINDS",
    "SHIPPED_KNOWLEDGE",
    "AcceptConfig",
    "ActorConfig",
    "ActorSize",
    "AgentConfig",
    "AgentsConfig",
    "AnswersConfig",
    "AssistantConfig",
    "AttributeCaseConfig",
    "AttributeConfig",
    "Backend",
    "BackendName",
    "ChecksConfig",
    "ConfigModel",
    "ConversationConfig",
    "CoordinatorConfig",
    "CoverageConfig",
    "DatasetFilesConfig",
    "DistributedConfig",
    "DocumentLimitsConfig",
    "DocumentLinks",
    "EmbeddedConfig",
    "EmbeddingBackend",
    "EmbeddingConfig",
    "EndpointConfig",
    "ExampleConfig",
    "ExamplesConfig",
    "FiltersConfig",
    "GenerationConfig",
    "GoalConfig",
    "HfPushConfig",
    "JudgeAgentConfig",
    "JudgeConfig",
    "JudgeModelConfig",
    "KnowledgeConfig",
    "LlmConfig",
    "MarkupConfig",
    "NonNegativeInt",
    "PersonasConfig",
    "PositiveInt",
    "PostgresConfig",
    "PriceConfig",
    "Probability",
    "PromptsConfig",
    "ProviderConfig",
    "RayConfig",
    "ReasoningConfig",
    "Recipe",
    "RerankConfig",
    "RetrievalConfig",
    "RetrievalMode",
    "RoutingConfig",
    "RoutingEndpointConfig",
    "RoutingStrategy",
    "RunConfig",
    "SavingConfig",
    "Seconds",
    "SeedColumnsConfig",
    "SeedsConfig",
    "SemanticDedupConfig",
    "SpawnConfig",
    "StoreConfig",
    "SystemPromptConfig",
    "ToolsConfig",
    "TopicsConfig",
    "TracePartConfig",
    "UserSimulatorConfig",
    "VllmConfig",
    "addresses_replaced",
    "backend_of",
    "check_apart",
    "check_base_url",
    "llm_from_environment",
    "read_recipe",
    "read_recipes",
    "tool_secrets",
    "validate",
    "web_search_key",
]
