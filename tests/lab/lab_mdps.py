"""The MDPs on which the theorems are checked, and random policies on them."""

import numpy as np

from actrix.envs import tables
from actrix.envs.finite import FiniteMDP
from actrix.lab import exact as oracle

EXACT = {"rtol": 0, "atol": 1e-8}


def layered(seed, gamma=0.9):
    """Every episode ends within three steps: state 0, then 1 or 2, then 3 or 4, then the terminal state 5.

    From the middle it may end at once. Random P and r(s,a,s'), two actions; at most 125 trajectories.
    """
    rng = np.random.default_rng(seed)
    P, r = np.zeros((6, 2, 6)), np.zeros((6, 2, 6))
    for s, following in {0: [1, 2], 1: [3, 4, 5], 2: [3, 4, 5], 3: [5], 4: [5]}.items():
        for a in range(2):
            P[s, a, following] = rng.dirichlet(np.ones(len(following)))
            r[s, a, following] = rng.normal(size=len(following)) * 2
    P[5, :, 5] = 1
    return FiniteMDP(P, r, gamma, 0, [5])


def endless(seed, gamma=0.9, n_states=3, n_actions=2):
    """No episode ends: a Garnet MDP in which every state may follow every other."""
    return tables.random_mdp(n_states, n_actions, seed=seed, gamma=gamma)


def mixed(seed, gamma=0.9):
    """A Garnet MDP of five states, the last one terminal."""
    return tables.random_mdp(5, 3, 3, seed=seed, gamma=gamma, n_terminal=1)


def logits(mdp, seed, scale=1.0):
    return np.random.default_rng(seed).normal(size=(mdp.n_states, mdp.n_actions)) * scale


def random_policy(mdp, seed, scale=1.0):
    return oracle.softmax_policy(logits(mdp, seed, scale))


def from_everywhere(mdp):
    """The same MDP, started in every state that is not terminal: one enumeration then serves all of them."""
    return mdp.replace(rho0=~mdp.terminal / (~mdp.terminal).sum())
