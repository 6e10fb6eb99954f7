"""Reading and replacing parameters: a small evolution strategy that starts from A2C's policy."""

import os

import numpy as np

from actrix import A2C, evaluate_policy, make_vec_env

STEPS = int(os.environ.get("EXAMPLE_STEPS", 10_000))
GENERATIONS = 10 if STEPS >= 10_000 else 1

model = A2C("MlpPolicy", "CartPole-v1", n_envs=8, ent_coef=0.0, seed=0)
model.learn(total_timesteps=STEPS)

# Only the policy's parameters; SB3 selects them by "policy", "shared_net" or "action" in the name.
mean_parameters = {name: x for name, x in model.get_parameters().items() if ".pi" in name}
rng = np.random.default_rng(0)
env = make_vec_env("CartPole-v1", n_envs=5, seed=0)

for generation in range(GENERATIONS):
    population = []
    for _ in range(20):
        candidate = {n: x + 0.05 * rng.standard_normal(x.shape) for n, x in mean_parameters.items()}
        # exact_match=False: the parameters that are not named stay as they are.
        model.set_parameters(candidate, exact_match=False)
        fitness, _ = evaluate_policy(model, env, n_eval_episodes=5)
        population.append((candidate, fitness))
    elite = sorted(population, key=lambda pair: pair[1], reverse=True)[:5]
    mean_parameters = {n: np.mean([c[n] for c, _ in elite], axis=0) for n in mean_parameters}
    print(f"generation {generation + 1}: best {elite[0][1]:.1f}, last of the elite {elite[-1][1]:.1f}")
