from actrix import PPO, evaluate_policy, make_vec_env

env = make_vec_env("LunarLander-v3", n_envs=16)

model = PPO(
    "MlpPolicy",
    env,
    n_steps=1024,
    batch_size=64,
    n_epochs=4,
    gamma=0.999,
    gae_lambda=0.98,
    ent_coef=0.01,
    verbose=1,
    tensorboard_log="logs",
)
model.learn(1_000_000)

model.save("ppo-lunar")  # ppo-lunar.safetensors: numbers and text, no code
model = PPO.load("ppo-lunar")

mean, std = evaluate_policy(model, env, n_eval_episodes=10, deterministic=True)
print(f"return {mean:.1f} ± {std:.1f}")
