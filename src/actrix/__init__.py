"""actrix: deep reinforcement learning where an algorithm is three answers — critic, actor, data.

Importing it sets up JAX for the CPU (see `actrix.core.platform`), so import it before other JAX code runs.
"""

import gc as _gc
from collections.abc import Sequence
from typing import Any

# What is imported stays: to look through it for garbage, again and again, is a fifth of the time.
_collects = _gc.isenabled()
_gc.disable()
try:
    from actrix.core import platform as _platform

    _platform.set_up()
    from actrix import named
finally:
    if _collects:
        _gc.enable()

from gymnasium.wrappers import MaxAndSkipObservation as MaxAndSkipEnv  # noqa: E402

from actrix.actors.pathwise import NormalActionNoise, OrnsteinUhlenbeckActionNoise  # noqa: E402
from actrix.algorithms.names import (  # noqa: E402
    ConstantSchedule,
    DictReplayBuffer,
    DictRolloutBuffer,
    GoalSelectionStrategy,
    HerReplayBuffer,
    LinearSchedule,
    NStepReplayBuffer,
    ReplayBuffer,
    RMSpropTFLike,
    RolloutBuffer,
    get_linear_fn,
)
from actrix.algorithms.presets import SettingError  # noqa: E402
from actrix.callbacks import (  # noqa: E402
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
)
from actrix.core.schedules import Linear  # noqa: E402
from actrix.data.datasets.dataset import DatasetError  # noqa: E402
from actrix.data.datasets.read import load_dataset  # noqa: E402
from actrix.envs.agents.envs import AgentEnvs  # noqa: E402
from actrix.envs.agents.roles import RoleGame  # noqa: E402
from actrix.envs.build import UnknownEnvError  # noqa: E402
from actrix.envs.finite import FiniteMDP, MDPError  # noqa: E402
from actrix.envs.guard import EnvError  # noqa: E402
from actrix.envs.vec.around import VecExtractDictObs, VecMonitor  # noqa: E402
from actrix.envs.vec.make import made as make_vec_env  # noqa: E402
from actrix.envs.vec.make import made_atari as make_atari_env  # noqa: E402
from actrix.envs.vec.monitor import LoadMonitorResultsError, Monitor, load_results  # noqa: E402
from actrix.envs.vec.names import (  # noqa: E402
    ActionMasker,
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    get_action_masks,
    is_masking_supported,
    is_vecenv_wrapped,
    set_random_seed,
    unwrap_vec_wrapper,
)
from actrix.envs.vec.normalize import (  # noqa: E402
    VecNormalize,
    sync_envs_normalization,
    unwrap_vec_normalize,
)
from actrix.envs.vec.stack import VecFrameStack  # noqa: E402
from actrix.envs.vec.transpose import VecTransposeImage  # noqa: E402
from actrix.envs.vec.vecenv import VecEnv  # noqa: E402
from actrix.files.container import ModelFileError  # noqa: E402
from actrix.instead import INSTEAD  # noqa: E402
from actrix.loops.evaluate import evaluate_policy  # noqa: E402
from actrix.model import Model  # noqa: E402
from actrix.named import *  # noqa: E402, F403
from actrix.show.log import configure  # noqa: E402
from actrix.show.summaries import Figure, HParam, Image, Video  # noqa: E402
from actrix.show.writers import HumanOutputFormat, KVWriter, Logger  # noqa: E402
from actrix.stopping import (  # noqa: E402
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from actrix.surface import get_device  # noqa: E402

__version__ = "0.1.0"


def train_seeds(
    algorithm: str, env_id: str, seeds: Sequence[int], total_timesteps: int, folder: str, **settings: Any
) -> Any:
    """Several seeds at once with statistics and one plot, as `actrix train ALGORITHM ENV --seeds N` does.

    See `actrix.runs.start.train_seeds`, which this loads when called (it needs the plotting libraries).
    """
    from actrix.runs.start import train_seeds as run

    return run(algorithm, env_id, seeds, total_timesteps, folder, **settings)


def train_roles(
    algorithm: str, env_id: str, roles: Any, total_timesteps: int, folder: str, turn: int | None = None,
    **settings: Any,
) -> Any:  # fmt: skip
    """A policy for each role of a game, as `actrix train … --roles` does: `actrix.runs.roles.train_roles`."""
    from actrix.runs.roles import train_roles as run

    return run(algorithm, env_id, roles, total_timesteps, folder, turn, **settings)


def check_env(env: Any, warn: bool = True, skip_render_check: bool = True) -> None:
    """Raise AssertionError that names what must be mended in an environment: `actrix.doctor.check.check_env`."""
    from actrix.doctor.check import check_env as check

    check(env, warn, skip_render_check)


def push_to_hub(run: Any, repo_id: str, private: bool = False, message: str = "Trained with actrix") -> str:
    """Publish a run folder or a model on the Hugging Face hub: `actrix.runs.hub.push_to_hub`."""
    from actrix.runs.hub import push_to_hub as push

    return push(run, repo_id, private, message)


def load_from_hub(repo_id: str, filename: str = "model.safetensors") -> Any:
    """The path of a repository's file, for `Model.load`: `actrix.runs.hub.load_from_hub`."""
    from actrix.runs.hub import load_from_hub as load

    return load(repo_id, filename)


__all__ = [
    "ActionMasker",
    "AgentEnvs",
    "BaseCallback",
    "CallbackList",
    "CheckpointCallback",
    "ConstantSchedule",
    "ConvertCallback",
    "DatasetError",
    "DictReplayBuffer",
    "DictRolloutBuffer",
    "DummyVecEnv",
    "EnvError",
    "EvalCallback",
    "EveryNTimesteps",
    "Figure",
    "FiniteMDP",
    "GoalSelectionStrategy",
    "HParam",
    "HerReplayBuffer",
    "HumanOutputFormat",
    "Image",
    "KVWriter",
    "Linear",
    "LinearSchedule",
    "LoadMonitorResultsError",
    "LogEveryNTimesteps",
    "Logger",
    "MDPError",
    "MaxAndSkipEnv",
    "Model",
    "ModelFileError",
    "Monitor",
    "NStepReplayBuffer",
    "NormalActionNoise",
    "OrnsteinUhlenbeckActionNoise",
    "ProgressBarCallback",
    "RMSpropTFLike",
    "ReplayBuffer",
    "RoleGame",
    "RolloutBuffer",
    "SettingError",
    "StopTrainingOnMaxEpisodes",
    "StopTrainingOnNoModelImprovement",
    "StopTrainingOnRewardThreshold",
    "SubprocVecEnv",
    "UnknownEnvError",
    "VecCheckNan",
    "VecEnv",
    "VecExtractDictObs",
    "VecFrameStack",
    "VecMonitor",
    "VecNormalize",
    "VecTransposeImage",
    "Video",
    "check_env",
    "configure",
    "evaluate_policy",
    "get_action_masks",
    "get_device",
    "get_linear_fn",
    "is_masking_supported",
    "is_vecenv_wrapped",
    "load_dataset",
    "load_from_hub",
    "load_results",
    "make_atari_env",
    "make_vec_env",
    "push_to_hub",
    "set_random_seed",
    "sync_envs_normalization",
    "train_roles",
    "train_seeds",
    "unwrap_vec_normalize",
    "unwrap_vec_wrapper",
]
__all__ += named.__all__


def __getattr__(name: str) -> Any:
    if name in INSTEAD:
        raise ImportError(f"actrix has no {name}: {INSTEAD[name]}.", name="actrix")
    raise AttributeError(f"module 'actrix' has no attribute {name!r}")
