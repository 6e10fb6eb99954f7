"""Whatever Stable-Baselines3 and sb3-contrib have by a public name is here, or importing it says what there is."""

import importlib
import re

import pytest

import actrix
from actrix.instead import INSTEAD

PUBLIC = """
A2C DDPG DQN PPO SAC TD3 HER HerReplayBuffer GoalSelectionStrategy KEY_TO_GOAL_STRATEGY get_system_info
BaseAlgorithm maybe_make_env OnPolicyAlgorithm OffPolicyAlgorithm
StickyActionEnv NoopResetEnv FireResetEnv EpisodicLifeEnv MaxAndSkipEnv ClipRewardEnv WarpFrame AtariWrapper
BaseBuffer ReplayBuffer RolloutBuffer DictReplayBuffer DictRolloutBuffer NStepReplayBuffer
BaseCallback EventCallback CallbackList CheckpointCallback ConvertCallback EvalCallback StopTrainingOnRewardThreshold
EveryNTimesteps LogEveryNTimesteps StopTrainingOnMaxEpisodes StopTrainingOnNoModelImprovement ProgressBarCallback
Distribution DiagGaussianDistribution SquashedDiagGaussianDistribution CategoricalDistribution
MultiCategoricalDistribution BernoulliDistribution StateDependentNoiseDistribution TanhBijector sum_independent_dims
make_proba_distribution kl_divergence
check_env unwrap_wrapper is_wrapped make_vec_env make_atari_env evaluate_policy
BitFlippingEnv IdentityEnv IdentityEnvBox IdentityEnvMultiDiscrete IdentityEnvMultiBinary FakeImageEnv SimpleMultiObsEnv
DEBUG INFO WARN ERROR DISABLED Video Figure Image HParam FormatUnsupportedError KVWriter SeqWriter HumanOutputFormat
filter_excluded_keys JSONOutputFormat CSVOutputFormat TensorBoardOutputFormat make_output_format Logger configure
Monitor LoadMonitorResultsError ResultsWriter get_monitor_files load_results
ActionNoise NormalActionNoise OrnsteinUhlenbeckActionNoise VectorizedActionNoise
BaseModel BasePolicy ActorCriticPolicy ActorCriticCnnPolicy MultiInputActorCriticPolicy ContinuousCritic
MlpPolicy CnnPolicy MultiInputPolicy QNetwork DQNPolicy Actor SACPolicy TD3Policy LOG_STD_MAX LOG_STD_MIN
is_image_space_channels_first is_image_space maybe_transpose preprocess_obs get_obs_shape get_flattened_obs_dim
get_action_dim check_for_nested_spaces
results_plotter X_TIMESTEPS X_EPISODES X_WALLTIME POSSIBLE_X_AXES EPISODES_WINDOW rolling_window window_func ts2xy
plot_curves plot_results RunningMeanStd
recursive_getattr recursive_setattr is_json_serializable data_to_json json_to_data open_path open_path_str
open_path_pathlib save_to_zip_file save_to_pkl load_from_pkl load_from_zip_file RMSpropTFLike
BaseFeaturesExtractor FlattenExtractor NatureCNN create_mlp MlpExtractor CombinedExtractor get_actor_critic_arch
GymEnv GymObs GymResetReturn AtariResetReturn GymStepReturn AtariStepReturn TensorDict OptimizerStateDict MaybeCallback
PyTorchObs Schedule RolloutBufferSamples DictRolloutBufferSamples ReplayBufferSamples DictReplayBufferSamples
RolloutReturn TrainFrequencyUnit TrainFreq PolicyPredictor
set_random_seed explained_variance update_learning_rate FloatSchedule LinearSchedule ConstantSchedule get_schedule_fn
get_linear_fn constant_fn get_device get_latest_run_id configure_logger check_for_correct_spaces check_shape_equal
is_vectorized_box_observation is_vectorized_discrete_observation is_vectorized_multidiscrete_observation
is_vectorized_multibinary_observation is_vectorized_dict_observation is_vectorized_observation safe_mean
get_parameters_by_name zip_strict polyak_update obs_as_tensor should_collect_more_steps
unwrap_vec_wrapper unwrap_vec_normalize is_vecenv_wrapped sync_envs_normalization VecEnvIndices VecEnvObs
VecEnvStepReturn tile_images VecEnv VecEnvWrapper VecEnvWrapperT CloudpickleWrapper DummyVecEnv StackedObservations
SubprocVecEnv dict_to_obs obs_space_info VecCheckNan VecExtractDictObs VecFrameStack VecMonitor VecNormalize
VecTransposeImage VecVideoRecorder
ARS CrossQ MaskablePPO QRDQN RecurrentPPO TQC TRPO ARSPolicy ARSLinearPolicy LinearPolicy
InvalidActionEnvDiscrete InvalidActionEnvMultiDiscrete InvalidActionEnvMultiBinary ActionMasker get_action_masks
is_masking_supported EXPECTED_METHOD_NAME MaskableRolloutBufferSamples MaskableDictRolloutBufferSamples
MaskableRolloutBuffer MaskableDictRolloutBuffer MaskableEvalCallback MaybeMasks MaskableCategorical
MaskableDistribution MaskableCategoricalDistribution MaskableMultiCategoricalDistribution MaskableBernoulliDistribution
make_masked_proba_distribution MaskableActorCriticPolicy MaskableActorCriticCnnPolicy
MaskableMultiInputActorCriticPolicy pad pad_and_flatten create_sequencers RecurrentRolloutBuffer
RecurrentDictRolloutBuffer RecurrentActorCriticPolicy RecurrentActorCriticCnnPolicy
RecurrentMultiInputActorCriticPolicy RNNStates RecurrentRolloutBufferSamples RecurrentDictRolloutBufferSamples
BatchRenorm BatchRenorm1d quantile_huber_loss conjugate_gradient_solver flat_grad AsyncEval TimeFeatureObs
TimeFeatureWrapper CrossQCritic CrossQPolicy QuantileNetwork QRDQNPolicy Critic TQCPolicy MlpLstmPolicy CnnLstmPolicy
MultiInputLstmPolicy version_file
"""
"""Of versions 2.7 to 2.9."""


def test_every_public_name_is_here_or_says_what_is_instead():
    for name in PUBLIC.split():
        if name in vars(actrix):
            assert name not in INSTEAD, name
            continue
        with pytest.raises(ImportError, match=f"actrix has no {name}: .{{15}}"):
            getattr(actrix, name)


def test_what_is_named_instead_is_there():
    found = {
        word for text in INSTEAD.values() for word in re.findall(r"\b(?:actrix|gymnasium)(?:\.\w+)+", text)
    }
    assert len(found) > 30
    for word in sorted(found):
        parts = word.split(".")
        for n in range(len(parts), 0, -1):  # the longest part of it that is a module
            try:
                there = importlib.import_module(".".join(parts[:n]))
            except ImportError:
                continue
            break
        for part in parts[n:]:
            there = getattr(there, part)


def test_another_name_is_unknown():
    with pytest.raises(AttributeError, match="no attribute 'Sacc'"):
        actrix.Sacc  # noqa: B018
    with pytest.raises(ImportError, match=r"subclass actrix\.VecEnv"):
        from actrix import VecEnvWrapper  # noqa: F401
