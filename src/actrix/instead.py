"""Names of Stable-Baselines3 and sb3-contrib that are something else here: what importing one from `actrix` says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from actrix.core.words import nearest


def _each(sentences: dict[str, str]) -> dict[str, str]:
    """Name → sentence, of names (separated by spaces) → sentence."""
    return {name: sentence for names, sentence in sentences.items() for name in names.split()}


_NETWORKS = "networks are JAX's, made by policy_kwargs or a function of your own (documentation, page Your own network)"
_DISTRIBUTIONS = (
    "model.policy.get_distribution(obs) gives π(·|s) with mode, sample, get_actions, log_prob and entropy; the classes "
    "are in actrix.core.distributions"
)
_POLICY = "write the policy as a string, e.g. PPO('{}', env); model.policy is what was made of it"
_BUFFERS = (
    "the memory is the learner's: replay_buffer_class may name HerReplayBuffer and the plain ones, prioritized=True "
    "and n_steps=… change it"
)
_CHUNKS = (
    "a chunk is the loop's, learned from at once; a callback's locals have each step, critic=… the estimator"
)
_OWN_ALGORITHM = (
    "subclass actrix.Model or a named class like actrix.PPO to change a script's, compose critic × actor × data for "
    "an algorithm of your own (documentation, page Composition)"
)
_PLOTS = "use actrix.show.plot.plot_run, or `actrix plot RUN`"
_ATARI = "it is a setting of actrix.envs.atari.AtariWrapper, which make_atari_env(wrapper_kwargs=…) takes"
_TYPES = "it is a type annotation of theirs: write typing.Any, or leave it out"
_ROWS = "a callback's locals have each step: infos, actions, rewards, dones, new_obs, values, log_probs"
_SPACES = "spaces are checked and batched by predict and set_env themselves; the functions are in actrix.core.spaces"
_FILES = "model files are safetensors without pickles: model.save, actrix.Model.load; the format is in actrix.files"
_FORMATS = (
    "a log has the formats stdout, csv and tensorboard (actrix.configure); write others as an actrix.KVWriter"
)
_PROBES = "environments to test an algorithm in are in actrix.envs.probes"
_SCHEDULES = "give a number, 'lin_3e-4', actrix.Linear(start, end) or a function of the remaining progress"
_TRAINS = "learn(total_timesteps, reset_num_timesteps=False) collects and learns"
_LOG_LEVELS = "import it from actrix.show.log"

INSTEAD = {
    "MaskablePPO": "PPO finds action masks by itself",
    "RecurrentPPO": "write PPO('MlpLstmPolicy', …)",
    "ARS": "there is no random search here: actrix.PPO and actrix.SAC learn the same tasks",
    "HER": "hindsight is a memory here, too: replay_buffer_class=HerReplayBuffer; see the documentation, page HER",
    "EventCallback": "subclass actrix.BaseCallback, and call what it holds yourself, as actrix.EveryNTimesteps does",
    "MaskableEvalCallback": "actrix.EvalCallback obeys action masks wherever an environment has them",
    "AsyncEval": "it is ARS's: make_vec_env(workers=True) and actors=… collect in processes",
    "VecEnvWrapper": (
        "subclass actrix.VecEnv with reset, step_async, step_wait and close of your own, or wrap one environment in a "
        "gymnasium.Wrapper (make_vec_env(wrapper_class=…))"
    ),
    "VecVideoRecorder": "record a trained model with actrix.show.record.record_video, or `actrix video RUN`",
    "StackedObservations": "use actrix.VecFrameStack",
    "CloudpickleWrapper": "leave it out: actrix.SubprocVecEnv sends functions, lambdas too, as they are",
    "tile_images": "it is actrix.envs.vec.vecenv.tile",
    "unwrap_wrapper is_wrapped": (
        "ask a vector environment (env_is_wrapped, get_attr), or walk the .env of a gymnasium.Wrapper; "
        "actrix.envs.guard.is_wrapped is of one environment"
    ),
    "maybe_make_env": "give the model the id: PPO('MlpPolicy', 'CartPole-v1')",
    "get_monitor_files": "take sorted(Path(folder).glob('*monitor.csv')); actrix.load_results reads them",
    "ResultsWriter": "actrix.Monitor and actrix.VecMonitor write the same files",
    "ts2xy": "take the columns of load_results(folder): 'l'.cumsum() and 'r'",
    "ActionNoise VectorizedActionNoise": (
        "action_noise takes a number, actrix.NormalActionNoise or actrix.OrnsteinUhlenbeckActionNoise, for any "
        "number of environments"
    ),
    "RunningMeanStd": "the model's own statistics: normalize=True, or actrix.VecNormalize (obs_rms, ret_rms)",
    "BaseFeaturesExtractor": "a features_extractor_class is an equinox module: the page Your own network",
    "QNetwork QuantileNetwork ContinuousCritic Critic CrossQCritic": (
        f"model.policy.q_values and predict_values ask it; {_NETWORKS}"
    ),
    "obs_as_tensor": "leave it out: predict and model.policy take NumPy's arrays",
    "polyak_update": "targets follow by the settings tau and target_update_interval",
    "safe_mean": "take numpy.mean of model.ep_info_buffer's values; the log has rollout/ep_rew_mean",
    "explained_variance": "the log has it; see actrix.critics.value.explained_variance",
    "get_latest_run_id": "learn(tb_log_name=…) numbers its folders itself",
    "configure_logger": "use actrix.configure(folder, formats), or tensorboard_log and verbose of the model",
    "update_learning_rate": "write model.learning_rate = 1e-4 between updates or in a callback",
    "get_parameters_by_name": "model.get_parameters() is a dict of names",
    "get_system_info": "actrix.files.modelfile.versions() and load(print_system_info=True) say the versions",
    "get_schedule_fn FloatSchedule constant_fn": _SCHEDULES,
    "TrainFreq TrainFrequencyUnit": "train_freq takes a number of steps, (4, 'step') or (1, 'episode')",
    "should_collect_more_steps RolloutReturn": _TRAINS,
    "zip_strict": "write zip(…, strict=True)",
    "KEY_TO_GOAL_STRATEGY": "use actrix.GoalSelectionStrategy",
    "quantile_huber_loss": "quantiles are learned by critics q:qr and q:iqn, actrix.QRDQN and actrix.TQC",
    "conjugate_gradient_solver flat_grad": "actrix.TRPO steps so: actrix.actors.natural.conjugate_gradient",
    "EXPECTED_METHOD_NAME": "the method is called action_masks; actrix.get_action_masks calls it",
    "TimeFeatureWrapper": "use gymnasium.wrappers.TimeAwareObservation",
    "BatchRenorm BatchRenorm1d": "actrix.CrossQ has it; settings renorm_warmup_steps and batch_norm_momentum",
    "LinearPolicy": "write policy_kwargs={'net_arch': []}",
    "FormatUnsupportedError": "the error is a ValueError here",
    "version_file": "the version is actrix.__version__",
}
"""Name → what there is instead."""

INSTEAD |= {name: _POLICY.format(name) for name in (
    "MlpPolicy", "CnnPolicy", "MultiInputPolicy", "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy",
)}  # fmt: skip
INSTEAD |= {
    "BaseModel BasePolicy ActorCriticPolicy ActorCriticCnnPolicy MultiInputActorCriticPolicy DQNPolicy SACPolicy "
    "TD3Policy Actor ARSPolicy ARSLinearPolicy CrossQPolicy QRDQNPolicy TQCPolicy MaskableActorCriticPolicy "
    "MaskableActorCriticCnnPolicy MaskableMultiInputActorCriticPolicy RecurrentActorCriticPolicy "
    "RecurrentActorCriticCnnPolicy RecurrentMultiInputActorCriticPolicy FlattenExtractor NatureCNN create_mlp "
    "MlpExtractor CombinedExtractor get_actor_critic_arch": _NETWORKS,
    "Distribution DiagGaussianDistribution SquashedDiagGaussianDistribution CategoricalDistribution "
    "MultiCategoricalDistribution BernoulliDistribution StateDependentNoiseDistribution TanhBijector "
    "sum_independent_dims make_proba_distribution kl_divergence MaskableCategorical MaskableDistribution "
    "MaskableCategoricalDistribution MaskableMultiCategoricalDistribution MaskableBernoulliDistribution "
    "make_masked_proba_distribution LOG_STD_MAX LOG_STD_MIN": _DISTRIBUTIONS,
    "BaseAlgorithm OnPolicyAlgorithm OffPolicyAlgorithm": _OWN_ALGORITHM,
    "BaseBuffer": _BUFFERS,
    "RecurrentRolloutBuffer RecurrentDictRolloutBuffer MaskableRolloutBuffer MaskableDictRolloutBuffer pad "
    "pad_and_flatten create_sequencers": _CHUNKS,
    "RolloutBufferSamples DictRolloutBufferSamples ReplayBufferSamples DictReplayBufferSamples "
    "MaskableRolloutBufferSamples MaskableDictRolloutBufferSamples RecurrentRolloutBufferSamples "
    "RecurrentDictRolloutBufferSamples RNNStates": _ROWS,
    "results_plotter plot_results plot_curves rolling_window window_func X_TIMESTEPS X_EPISODES X_WALLTIME "
    "POSSIBLE_X_AXES EPISODES_WINDOW": _PLOTS,
    "StickyActionEnv NoopResetEnv FireResetEnv EpisodicLifeEnv ClipRewardEnv WarpFrame": _ATARI,
    "AtariWrapper": "import it from actrix.envs.atari; make_atari_env(wrapper_kwargs=…) takes its settings",
    "DEBUG INFO WARN ERROR DISABLED": _LOG_LEVELS,
    "JSONOutputFormat CSVOutputFormat TensorBoardOutputFormat SeqWriter make_output_format "
    "filter_excluded_keys": _FORMATS,
    "BitFlippingEnv IdentityEnv IdentityEnvBox IdentityEnvMultiDiscrete IdentityEnvMultiBinary FakeImageEnv "
    "SimpleMultiObsEnv InvalidActionEnvDiscrete InvalidActionEnvMultiDiscrete InvalidActionEnvMultiBinary": _PROBES,
    "is_image_space is_image_space_channels_first maybe_transpose preprocess_obs get_obs_shape get_flattened_obs_dim "
    "get_action_dim check_for_nested_spaces check_for_correct_spaces check_shape_equal is_vectorized_observation "
    "is_vectorized_box_observation is_vectorized_discrete_observation is_vectorized_multidiscrete_observation "
    "is_vectorized_multibinary_observation is_vectorized_dict_observation dict_to_obs obs_space_info": _SPACES,
    "recursive_getattr recursive_setattr is_json_serializable data_to_json json_to_data open_path open_path_str "
    "open_path_pathlib save_to_zip_file save_to_pkl load_from_pkl load_from_zip_file": _FILES,
    "GymEnv GymObs GymResetReturn AtariResetReturn GymStepReturn AtariStepReturn TensorDict OptimizerStateDict "
    "MaybeCallback PyTorchObs Schedule PolicyPredictor VecEnvIndices VecEnvObs VecEnvStepReturn VecEnvWrapperT "
    "MaybeMasks TimeFeatureObs TObs": _TYPES,
}  # fmt: skip
INSTEAD = _each(INSTEAD)

_NET = "networks are behind model.policy (predict_values, q_values, state_dict)"
_LOOP = "the loop keeps it: a callback's locals have each step, model.get_env().reset() begins anew"
_MAKES = "a model is built when it is made, with env=…, or by set_env"
OF_A_MODEL = _each({
    "rollout_buffer": "a chunk is the loop's and learned from at once; a callback's locals have each step of it",
    "collect_rollouts train _setup_learn _store_transition _sample_action": _TRAINS,
    "policy_class": "the network is chosen by policy and policy_kwargs",
    "actor critic q_net q_net_target actor_target critic_target quantile_net quantile_net_target batch_norm_stats "
    "batch_norm_stats_target actor_batch_norm_stats actor_batch_norm_stats_target critic_batch_norm_stats "
    "critic_batch_norm_stats_target": _NET,
    "_last_obs _last_original_obs _last_episode_starts _last_lstm_states": _LOOP,
    "_total_timesteps": "it is what learn was given; _current_progress_remaining says how much of it is left",
    "_n_calls": "model.num_timesteps counts steps, a callback's n_calls those of the vector environment",
    "_vec_normalize_env": "ask get_vec_normalize_env()",
    "_logger _custom_logger": "it is model.logger, and set_logger sets it",
    "dump_logs _dump_logs": "write model.logger.dump(model.num_timesteps)",
    "exploration_schedule": "ε is model.exploration_rate, and its schedule three settings",
    "ent_coef_tensor ent_coef_optimizer log_ent_coef": "the log has train/ent_coef, and ent_coef is a setting",
    "_setup_model _wrap_env _get_policy_from_name maybe_make_env": _MAKES,
    "_setup_lr_schedule _update_learning_rate": "write model.learning_rate = 1e-4 between updates or in a callback",
    "_update_current_progress_remaining _update_info_buffer _init_callback _on_step": _TRAINS,
    "_excluded_save_params _get_torch_save_params": "save(path, exclude, include) chooses what a file tells",
    "_convert_train_freq": "model.train_freq is as it was given",
    "replay_buffer_class replay_buffer_kwargs optimize_memory_usage": _BUFFERS,
    "rollout_buffer_class rollout_buffer_kwargs": _CHUNKS,
})  # fmt: skip
"""What scripts look for on a model that stands elsewhere: name → where."""

READ_ONLY = {
    "policy_kwargs": "the network is built: give it to the constructor, or to load",
    "policy": "set_parameters gives it others",
    "lr_schedule": "set learning_rate",
    "_n_updates": "load and resume_from go on counting",
    "_current_progress_remaining": "set num_timesteps",
}
"""What of a model can be read and not be set: name → what is meant."""

_EVALUATES = (
    "write learn(…, callback=actrix.EvalCallback(eval_env, eval_freq=…, n_eval_episodes=…, log_path=…)), which "
    "evaluates while it learns"
)
_OF_LEARN = _each({
    "eval_env eval_freq n_eval_episodes eval_log_path": _EVALUATES,
    "use_masking": "masks are obeyed wherever an environment has them; leave it out",
    "async_eval": "make_vec_env(workers=True) and actors=… collect in processes",
})  # fmt: skip


def refuse_of_learn(given: dict[str, Any], known: Iterable[str]) -> None:
    """Raise TypeError for arguments that `learn`, which takes the `known` ones, has not."""
    for name in given:
        said = f"{_OF_LEARN[name]}." if name in _OF_LEARN else nearest(name, known)
        raise TypeError(f"learn has no argument {name!r}: {said}")
